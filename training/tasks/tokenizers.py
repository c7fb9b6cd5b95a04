"""The tokenizer of a run of any task: its own, the given one, or one trained on the run's text."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.loading import load_tokenizer
from vaswani_tx.training.engine.processes import on_main_process
from vaswani_tx.training.engine.run import RunContext
from vaswani_tx.training.errors import SettingsError


def run_tokenizer(
    context: RunContext,
    folders: Iterable[str | Path | None],
    train_one: Callable[[int], VaswaniTokenizer],
) -> VaswaniTokenizer:
    """Return the tokenizer of the run: its own when it resumes, else the first one of `folders`, else a new one.

    Args:
        folders: those that may hold one, in order.
        train_one: trains one with that many entries, where none of the folders holds one and the recipe sets
            `tokenizer_vocab_size`. A folder that the recipe's `tokenizer` names must hold one or be absent so far.

    Raises:
        SettingsError: none of them holds one, and the run resumes or the recipe has none trained.
    """
    return on_main_process(context.accelerator, lambda: _find_or_train(context, list(folders), train_one))


def _find_or_train(context: RunContext, folders: list[Any], train_one: Callable[[int], Any]) -> VaswaniTokenizer:
    if context.resume_from:
        folders = [context.resume_from, context.folder.tokenizer]
    for folder in filter(None, folders):
        if (Path(folder) / "tokenizer.json").is_file():
            return load_tokenizer(folder, tokenizer_class=VaswaniTokenizer)
    vocab_size = context.settings.tokenizer_vocab_size
    if context.resume_from or not vocab_size:
        raise SettingsError(
            f"There is no tokenizer.json in '{next(filter(None, folders))}': name the folder of a tokenizer, train one "
            "with `vaswani-tx train tokenizer`, or set tokenizer_vocab_size to have one trained here."
        )
    return train_one(vocab_size)


def model_fields(settings: Any, vocabulary: int) -> dict[str, Any]:
    """Return the recipe's fields of a new model with its vocabulary; raise SettingsError where that is too small."""
    fields = {"vocab_size": vocabulary} | settings.model
    if fields["vocab_size"] < vocabulary:
        raise SettingsError(
            f"model.vocab_size is {fields['vocab_size']} but the tokenizer has {vocabulary} tokens: leave it out, or "
            "take the tokenizer that belongs to it."
        )
    return fields
