"""The tokenizer of a run of any task: its own, the given one, or one trained on the run's text."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.loading import load_tokenizer
from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.training.engine.processes import on_main_process
from vaswani_tx.training.engine.run import RunContext
from vaswani_tx.training.errors import SettingsError

logger = logging.getLogger(__name__)


def run_tokenizer(
    context: RunContext,
    folders: Iterable[str | Path | None],
    train_one: Callable[[int], VaswaniTokenizer],
    side: Callable[[Any], Any] = source_of,
) -> VaswaniTokenizer:
    """Return the tokenizer of a task of one vocabulary: the run's own when it resumes, else a given or a new one.

    Args:
        folders: those that may hold one, in order.
        train_one: trains one with that many entries, where none of the folders holds one and the recipe sets
            `tokenizer_vocab_size`. A folder that the recipe's `tokenizer` names must hold one or be absent so far.
        side: returns which one is meant where a folder holds those of a source and of a target.

    Raises:
        SettingsError: none of them holds one, and the run resumes or the recipe has none trained.
    """

    def find() -> VaswaniTokenizer:
        found = find_tokenizer(context, folders)
        if found is None:
            return train_one(wanted_size(context.settings, folders))
        chosen = side(found)
        if chosen is not found:
            which = "source" if chosen is source_of(found) else "target"
            logger.info("Of the two vocabularies of '%s', the %s's is used here.", found.name_or_path, which)
        return chosen

    folders = list(filter(None, folders))
    return on_main_process(context.accelerator, find)


def find_tokenizer(context: RunContext, folders: Iterable[str | Path | None]) -> VaswaniTokenizer | None:
    """Return the tokenizer of a resumed run, or the first one that the folders hold; None where a new run has none.

    Raises:
        SettingsError: the run resumes and its own is gone.
    """
    if context.resume_from:
        folders = [context.resume_from, context.folder.tokenizer]
    folders = list(filter(None, folders))
    for folder in folders:
        if has_tokenizer(folder):
            return load_tokenizer(folder, tokenizer_class=VaswaniTokenizer)
    if context.resume_from:
        raise _no_tokenizer(folders)
    return None


def has_tokenizer(folder: str | Path) -> bool:
    """Return whether a folder holds a tokenizer."""
    return (Path(folder) / "tokenizer.json").is_file()


def wanted_size(settings: Any, folders: Iterable[str | Path | None], name: str = "tokenizer_vocab_size") -> int:
    """Return the number of entries that a recipe wants of a new vocabulary; raise SettingsError where it wants none."""
    size = getattr(settings, name)
    if not size:
        raise _no_tokenizer(list(filter(None, folders)), name)
    return size


def _no_tokenizer(folders: list[str | Path], name: str = "tokenizer_vocab_size") -> SettingsError:
    where = f"There is no tokenizer.json in '{folders[0]}'" if folders else f"{name} is empty"
    return SettingsError(
        f"{where}: name the folder of a tokenizer, train one with `vaswani-tx train tokenizer`, or set {name} to have "
        "one trained here."
    )


def model_fields(settings: Any, tokenizer: VaswaniTokenizer) -> dict[str, Any]:
    """Return the recipe's fields of a new model with its vocabulary; raise SettingsError where that is too small."""
    sizes = {"vocab_size": len(target_of(tokenizer))}
    if getattr(tokenizer, "has_target", False):
        sizes["source_vocab_size"] = len(source_of(tokenizer))
    fields = sizes | settings.model_fields
    for name, size in sizes.items():
        if fields[name] is None or fields[name] < size:
            raise SettingsError(
                f"model.{name} is {fields[name]} but the tokenizer has {size} tokens: leave it out, or take the "
                "tokenizer that belongs to it."
            )
    return fields


def describe_vocabulary(tokenizer: VaswaniTokenizer) -> str:
    """Return the size of a tokenizer's vocabulary, or of its two, in a few words."""
    source, target = source_of(tokenizer), target_of(tokenizer)
    if source is target:
        return f"vocabulary {len(tokenizer):,}"
    return f"vocabularies {len(source):,} (source) and {len(target):,} (target)"
