"""Models of this package for other runtimes: CTranslate2, ONNX, torch.export, and plain transformers (MarianMT).

    from vaswani_tx.export import export

    report = export("runs/first/averaged", "fast", "ctranslate2", quantization="int8", verify=True)
    print(report)

Each export is a folder that is whole or absent, with the tokenizer and a README.md that shows how to run it.
"""

from vaswani_tx.errors import ExportError
from vaswani_tx.export.exporting import FORMATS, Format, export
from vaswani_tx.export.folders import Comparison, Report

__all__ = ["FORMATS", "Comparison", "ExportError", "Format", "Report", "export"]
