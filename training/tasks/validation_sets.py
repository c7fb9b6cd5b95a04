"""The validation sets of a translation run: one, or several whose pairs follow each other, each with its tag.

recipe -> load_validation -> ValidationPairs
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from vaswani_tx.training.config.translation import TranslationSettings, tags_in
from vaswani_tx.training.data.parallel import load_parallel
from vaswani_tx.training.data.sources import corpus_entries
from vaswani_tx.training.files import resolve_path


class ValidationPairs(tuple):
    """Sources and targets, two lists of equal length; `parts` names the sets and says where each begins and ends."""

    parts: list[tuple[str, int, int]]

    def __new__(cls, sources: list[str], targets: list[str], parts: list[tuple[str, int, int]]) -> "ValidationPairs":
        """Return the two lists as a tuple."""
        made = super().__new__(cls, (sources, targets))
        made.parts = parts
        return made


def load_validation(settings: TranslationSettings) -> tuple[list[str], list[str]] | None:
    """Return sources, their tags in front of them, and targets of all validation sets; None where there is none.

    A pair with an empty side is scored as it is, unless the recipe drops such pairs everywhere.
    """
    single = {
        "source": settings.validation_source, "target": settings.validation_target, "tag": settings.validation_tag,
    }  # fmt: skip
    entries = settings.validation_sets or ([single] if settings.validation_source else [])
    if not entries:
        return None
    defaults = {
        "split": settings.validation_split, "config": settings.dataset_config, "target": None, "reverse": False,
        "source_field": settings.source_field, "target_field": settings.target_field, "tag": None, "name": None,
    }  # fmt: skip
    at = partial(resolve_path, settings.data_dir)
    sides: tuple[list[str], list[str]] = ([], [])
    parts: list[tuple[str, int, int]] = []
    for number, entry in enumerate(corpus_entries(entries, defaults), start=1):
        pairs = load_parallel(
            at(entry["source"]), at(entry["target"]), split=entry["split"],
            empty="drop" if settings.empty_lines == "drop" else "keep", source_field=entry["source_field"],
            target_field=entry["target_field"], name=entry["config"],
        )  # fmt: skip
        texts = [list(pairs["source"]), list(pairs["target"])][:: -1 if entry["reverse"] else 1]
        tag = " ".join(tags_in(entry["tag"]))
        begin = len(sides[0])
        sides[0].extend(f"{tag} {text}" if tag and text.strip() else text for text in texts[0])
        sides[1].extend(texts[1])
        name = entry["name"] or tag or f"set {number}"
        taken = [part[0] for part in parts]
        parts.append((f"{name} ({number})" if name in taken else name, begin, len(sides[0])))
    return ValidationPairs(*sides, parts)


def losses(measured: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the loss, nats a token, and the perplexity of all sets together from those of each."""
    nll = measured[0]["nll"]
    if len(measured) > 1:
        tokens = sum(found["reference_tokens"] for found in measured)
        nll = sum(found["nll"] * found["reference_tokens"] for found in measured) / max(tokens, 1)
    # JSON knows no infinity; a perplexity that large says nothing that the loss does not.
    return {"loss": nll, "perplexity": math.exp(nll) if nll < 690 else 1e300}
