"""Sharing models: folders that carry their own code, pushing to the Hugging Face Hub, and model cards.

Names are imported when they are first used, so that importing this package alone takes no time.
"""

from typing import TYPE_CHECKING

from vaswani_tx.lazy_names import lazy_names

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


__getattr__, __dir__ = lazy_names(__name__, _MODULES)

__all__ = ["About", "CardError", "HubError", "Push", "make_card", "push_to_hub", "save_with_code"]
