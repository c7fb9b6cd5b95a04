"""Checkpoints of other toolkits as models of this package: read exactly, checked against the original, or refused.

    from vaswani_tx.convert import convert

    print(convert("opus-mt-en-de", "my-model"))

Names are imported when they are first used, so that importing this package alone takes no time.
"""

from typing import TYPE_CHECKING

from vaswani_tx.lazy_names import lazy_names

if TYPE_CHECKING:
    from vaswani_tx.convert.checking import Check, Report
    from vaswani_tx.convert.core import ConversionError, Converted, KeyMap, Row
    from vaswani_tx.convert.formats import FORMATS, Format
    from vaswani_tx.convert.writing import convert

_MODULES = {
    "Check": "checking",
    "ConversionError": "core",
    "Converted": "core",
    "FORMATS": "formats",
    "Format": "formats",
    "KeyMap": "core",
    "Report": "checking",
    "Row": "core",
    "convert": "writing",
}


__getattr__, __dir__ = lazy_names(__name__, _MODULES)

__all__ = ["FORMATS", "Check", "ConversionError", "Converted", "Format", "KeyMap", "Report", "Row", "convert"]
