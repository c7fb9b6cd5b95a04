"""What the readers of older toolkits share: their vocabularies as tokenizers, their layouts as ours."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.convert.channels import interleaving, permute_channels
from vaswani_tx.convert.core import ConversionError
from vaswani_tx.convert.sentencepiece import read_sentencepiece, sentencepiece_tokenizer
from vaswani_tx.convert.subword_bpe import SpecialSymbols, dictionary_tokenizer, read_codes
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

_CODES = ("bpecodes", "bpe.codes", "codes", "code", "bpe_codes", "codes.bpe", "codes.txt", "bpe.codes.txt",
          "sentencepiece.bpe.model", "sentencepiece.model", "spm.model")  # fmt: skip
_SENTENCEPIECE = (".model", ".spm")
NO_CODES = (
    "No codes of byte pairs were given, so texts must be in units already (`lo@@ w`), with spaces between them: give "
    "--codes FILE, of merges or of SentencePiece, for texts in words."
)


def find_codes(folder: Path) -> Path | None:
    """Return the file of codes in a folder, by the names that it usually has; None where there is none."""
    return next((folder / name for name in _CODES if (folder / name).is_file()), None)


def same_embeddings(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    """Return whether two matrices are one weight: of the same shape and values."""
    return first is not None and second is not None and first.shape == second.shape and torch.equal(first, second)


def one_value(settings: Mapping[str, Any], names: Sequence[str], what: str) -> Any:
    """Return what settings say under several names, which must agree where they are given.

    Raises:
        ConversionError: they differ; `what` says of what.
    """
    found = {name: settings[name] for name in names if settings.get(name) is not None}
    values = list(found.values())
    if any(value != values[0] for value in values):
        shown = ", ".join(f"{name} {value!r}" for name, value in found.items())
        raise ConversionError(f"{what} differs between the stacks ({shown}); a model of this package has one for both.")
    return values[0] if values else None


def number_of_layers(weights: Mapping[str, torch.Tensor], stack: str) -> int:
    """Return the number of layers of a stack, whose names are `stack.N...`, counted from 0 without a gap."""
    numbers = {int(found[1]) for name in weights if (found := re.match(rf"{re.escape(stack)}\.(\d+)\.", name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise ConversionError(f"the layers {stack!r} are not counted from 0 on without a gap: {sorted(numbers)}.")
    return len(numbers)


def number_of(settings: Mapping[str, Any], name: str, usual: float | None = None) -> float:
    """Return a number of the settings; None there, or no such setting, is the usual one.

    Raises:
        ConversionError: it is no number, or it is missing and there is no usual one.
    """
    value = settings.get(name)
    value = value[0] if isinstance(value, list) and value else value  # OpenNMT-py: a value for each part of a run
    value = usual if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConversionError(f"the setting {name} of the source is {value!r}, which is no number.")
    return value


def make_config(kind: Any, **fields: Any) -> Any:
    """Return a configuration, or raise ConversionError where fields make none."""
    try:
        return kind(**fields)
    except (ValueError, TypeError) as error:
        raise ConversionError(f"the source's sizes make no model: {error}") from None


def interleave_sinusoids(state: Mapping[str, torch.Tensor], d_model: int) -> dict[str, torch.Tensor]:
    """Return weights of ours for sinusoids in turns, of weights for all sines before all cosines."""
    order = interleaving(d_model)
    permuted: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        try:
            permuted |= permute_channels({name: tensor}, order)
        except IndexError:
            raise ConversionError(
                f"{name!r} has shape {list(tensor.shape)} in the source, which has no {d_model} channels where the "
                "embeddings have them: they belong to different models."
            ) from None
    return permuted


def embeddings_of_ours(
    source: torch.Tensor, target: torch.Tensor, output: torch.Tensor | None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the weights and fields of embeddings, shared and tied where the matrices are the same.

    Args:
        source: [V_s, D], of the encoder.
        target: [V, D], of the decoder.
        output: [V, D], of the output projection; None: the target's.
    """
    state: dict[str, torch.Tensor] = {}
    fields: dict[str, Any] = {"vocab_size": target.shape[0]}
    if same_embeddings(source, target):
        state["model.shared.weight"] = target
    else:
        state |= {"model.encoder.embed_tokens.weight": source, "model.decoder.embed_tokens.weight": target}
        fields["source_vocab_size"] = source.shape[0]
    fields["tie_word_embeddings"] = True
    if output is not None and not same_embeddings(target, output):
        fields["tie_word_embeddings"] = False
        state["lm_head.weight"] = output
    return state, fields


def side_tokenizer(
    symbols: Sequence[str], path: str | Path | None, special: SpecialSymbols, begins: bool = False
) -> VaswaniTokenizer:
    """Build the tokenizer of one vocabulary.

    Args:
        symbols: the vocabulary, in order of the ids.
        path: codes of byte pairs, or a model of SentencePiece (`.model`, `.spm`); None: texts are in units already.
        special: the special symbols.
        begins: put the symbol `bos` before texts and none after, for language models.
    """
    if path is None or Path(path).suffix not in _SENTENCEPIECE:
        return dictionary_tokenizer(symbols, None if path is None else read_codes(path), special, begins=begins)
    if begins:
        raise ConversionError(f"{path}: language models with SentencePiece are not converted with their tokenizer.")
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    return sentencepiece_tokenizer(read_sentencepiece(path), ids, special.named())


def tokenizer_of(
    sides: Sequence[tuple[Sequence[str], str | Path | None]], special: SpecialSymbols, begins: bool = False
) -> VaswaniTokenizer:
    """Build the tokenizer of one vocabulary, or of two.

    Args:
        sides: symbols and codes, as of `side_tokenizer`, of the source and of the target; or one for both.
        special: the special symbols, of both.
        begins: as of `side_tokenizer`.
    """
    if len(sides) == 1 or (list(sides[0][0]) == list(sides[1][0]) and sides[0][1] == sides[1][1]):
        return side_tokenizer(*sides[0], special, begins)
    return VaswaniTokenizer.pair(*(side_tokenizer(*side, special, begins) for side in sides))


def check_rows(symbols: Sequence[str], size: int, file: str | Path) -> None:
    """Raise ConversionError where a vocabulary and an embedding matrix differ in number."""
    if len(symbols) != size:
        raise ConversionError(
            f"{file}: has {len(symbols):,} symbols, but the model embeds {size:,}: it belongs to "
            "another model, or the task added symbols of its own (languages), which this format does not know."
        )


__all__ = [
    "NO_CODES",
    "check_rows",
    "embeddings_of_ours",
    "find_codes",
    "interleave_sinusoids",
    "make_config",
    "number_of",
    "number_of_layers",
    "one_value",
    "same_embeddings",
    "side_tokenizer",
    "tokenizer_of",
]
