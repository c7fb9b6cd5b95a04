"""Sharing models: folders that carry their own code, pushing to the Hugging Face Hub, and model cards.

Names are imported when they are first used, so that importing this package alone takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaswani_tx.hub.card_sources import About, CardError
    from vaswani_tx.hub.model_card import make_card
    from vaswani_tx.hub.saving import HubError, Push, push_to_hub, save_with_code

_MODULES = {
    "About": "card_sources",
    "CardError": "card_sources",
    "HubError": "saving",
    "Push": "saving",
    "make_card": "model_card",
    "push_to_hub": "saving",
    "save_with_code": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


__all__ = ["About", "CardError", "HubError", "Push", "make_card", "push_to_hub", "save_with_code"]
