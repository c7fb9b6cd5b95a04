"""Tokenizers of older toolkits: text split at spaces, byte pairs of subword-nmt or fastBPE, look-up in a dictionary.

    codes (merges) + dictionary (symbols in order of their ids) -> one `tokenizer.json`

Those programs merge the characters of a word, write `@@` after every unit but the last (`lo@@ w`), and look the units up
in a dictionary. The `BPE` model of tokenizers does the same with `</w>` after the last unit, so that the symbol `lo@@`
is its entry `lo`, and `w` is `w</w>`. It needs an entry for each unit that a merge makes on its way. Those that the
dictionary lacks get ids beyond it, which `VaswaniTokenizer` reads as unknown (`dictionary_size`), as the look-up did.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vaswani_tx.errors import CheckpointError
from vaswani_tx.text_files import TextFileError, open_bytes, text_of_line
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

END = "</w>"
# Version 0.1 of the codes has the end of a word as a symbol of its own. It is written as two characters that no text
# holds: the first takes part in the merges of the file; the second, in later ones, marks the unit that comes last.
_END_SYMBOL, _LAST = "\ufdd1", "\ufdd2"
# A space, or a word of white space alone: dictionaries never hold one, and look-ups drop it.
_BETWEEN_WORDS = Regex(r"(?:^|(?<= ))[^\S ]+(?=$| )| ")


@dataclass(frozen=True)
class Codes:
    """The merges of a file of codes, best first, without repetitions; `version` says how words end."""

    merges: tuple[tuple[str, str], ...]
    version: tuple[int, int] = (0, 2)


@dataclass(frozen=True)
class SpecialSymbols:
    """The symbols of a dictionary with a purpose of their own; None where it has no such symbol."""

    pad: str | None = "<pad>"
    bos: str | None = "<s>"
    eos: str | None = "</s>"
    unk: str | None = "<unk>"

    def named(self) -> dict[str, str]:
        """Return them by the names of transformers, without those that are None."""
        named = {"pad_token": self.pad, "bos_token": self.bos, "eos_token": self.eos, "unk_token": self.unk}
        return {name: symbol for name, symbol in named.items() if symbol is not None}


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file.

    Raises:
        CheckpointError: a file that is missing or no UTF-8.
    """
    try:
        with open_bytes(str(path)) as stream:
            return [text_of_line(raw, number, str(path)) for number, raw in enumerate(stream, start=1)]
    except TextFileError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None


def read_codes(path: str | Path) -> Codes:
    """Read codes of subword-nmt (versions 0.1 and 0.2) or of fastBPE (a count at the end of each line).

    Raises:
        CheckpointError: a line that is no pair of units, or a version that nobody knows.
    """
    lines = read_lines(path)
    version, first = (0, 1), 1
    if lines and lines[0].startswith("#version:"):
        numbers = re.fullmatch(r"#version:\s*(\d+)\.(\d+)(?:\.0+)*\s*", lines[0])
        version = (int(numbers[1]), int(numbers[2])) if numbers else (-1, -1)
        if version not in ((0, 1), (0, 2)):
            raise CheckpointError(f"{path}, line 1: {lines[0]!r} is not 0.1 or 0.2, the versions that can be read.")
        lines, first = lines[1:], 2
    while lines and not lines[-1]:
        lines.pop()
    merges: dict[tuple[str, str], None] = {}
    counted = first == 1 and bool(lines) and len(lines[0].split(" ")) == 3
    for number, line in enumerate(lines, start=first):
        units = line.strip("\r\n ").split(" ")
        if counted and len(units) == 3 and units[2].isdecimal():
            units = units[:2]
        if len(units) != 2 or not all(units):
            raise CheckpointError(
                f"{path}, line {number}: {line[:80]!r} is no pair of units with one space between them: give the file "
                "of codes (merges) that subword-nmt or fastBPE learned, not a vocabulary."
            )
        merges.setdefault((units[0], units[1]))
    if not merges:
        raise CheckpointError(f"{path}: there are no merges in it.")
    return Codes(tuple(merges), (0, 2) if counted else version)


def dictionary_tokenizer(
    symbols: Sequence[str],
    codes: Codes | None = None,
    special: SpecialSymbols | None = None,
    separator: str = "@@",
    begins: bool = False,
    **settings: Any,
) -> VaswaniTokenizer:
    """Build a tokenizer whose ids are places in a dictionary.

    Args:
        symbols: the dictionary, in order of the ids; units inside of words end with `separator`.
        codes: the merges; None: texts are in units already (`lo@@ w`), and only looked up.
        special: the special symbols, `<pad> <s> </s> <unk>` where not given; `</s>`, where there is one, is put after
            texts. Without an unknown symbol, what is not in the dictionary is left out.
        separator: what marks a unit inside of a word.
        begins: put the symbol `bos` before texts and none after, for language models.
        **settings: passed to `VaswaniTokenizer`.

    Raises:
        CheckpointError: a symbol occurs twice, or a special one is missing.
    """
    special = special or SpecialSymbols()
    _check_symbols(symbols, special)
    if codes is None:
        backend = _look_up(symbols, special, separator)
    else:
        backend = _merged(symbols, codes, special, separator)
    named = special.named()
    places = {symbol: index for index, symbol in enumerate(symbols)}
    if begins and special.bos is not None:
        bos = special.bos
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 {bos}:1 $B:1", special_tokens=[(bos, places[bos])]
        )
        settings.setdefault("padding_side", "left")
    elif special.eos is not None:
        eos = special.eos
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A:0 {eos}:0", pair=f"$A:0 {eos}:0 $B:1 {eos}:1", special_tokens=[(eos, places[eos])]
        )
    tokens = dict.fromkeys(named.values())
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    if backend.get_vocab_size() > len(symbols):
        settings["dictionary_size"] = len(symbols)
    return VaswaniTokenizer(tokenizer_object=backend, split_special_tokens=True, **named, **settings)


def _check_symbols(symbols: Sequence[str], special: SpecialSymbols) -> None:
    seen: dict[str, int] = {}
    for index, symbol in enumerate(symbols):
        if symbol in seen:
            raise CheckpointError(
                f"The dictionary has {symbol!r} twice, as ids {seen[symbol]} and {index}: it is damaged, or from "
                "another model."
            )
        seen[symbol] = index
    for name, symbol in special.named().items():
        if symbol not in seen:
            raise CheckpointError(f"The dictionary lacks {symbol!r}, which the model has as its {name}.")


def _look_up(symbols: Sequence[str], special: SpecialSymbols, separator: str) -> Tokenizer:
    """Return a pipeline that looks up what is between spaces, and joins units when it decodes."""
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special.unk or symbols[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    between = decoders.WordPiece(prefix=_LAST, cleanup=False)  # one space between any two symbols
    backend.decoder = decoders.Sequence(
        [between, decoders.Fuse(), decoders.Replace(Regex(f"{re.escape(separator)}(?: |$)"), "")]
    )
    return backend


def _merged(symbols: Sequence[str], codes: Codes, special: SpecialSymbols, separator: str) -> Tokenizer:
    """Return a pipeline that merges the characters of words, with the dictionary's symbols as entries."""
    end = END if codes.version == (0, 2) else _END_SYMBOL + _LAST
    entries: dict[str, int] = {}
    reserved = set(special.named().values())
    for index, symbol in enumerate(symbols):
        inside = symbol.endswith(separator) and symbol != separator
        entry = symbol.removesuffix(separator) if inside else symbol + end
        # A symbol that no merge can make keeps its id under a name that no text can have.
        taken = entry in entries or entry in reserved
        entries[symbol if symbol in reserved else symbol + _LAST * 3 if taken else entry] = index
    merges = list(codes.merges)
    if codes.version == (0, 1):
        merges = _with_ends_apart(merges, entries, special)
    _add_entries(entries, merges)
    options = {"end_of_word_suffix": END} if codes.version == (0, 2) else {}
    backend = Tokenizer(models.BPE(entries, merges, unk_token=special.unk, fuse_unk=False, **options))
    if codes.version == (0, 1):
        backend.normalizer = normalizers.Replace(Regex(r"(?<=[^ ])(?= |$)"), end)
    backend.pre_tokenizer = pre_tokenizers.Split(_BETWEEN_WORDS, behavior="removed")
    steps: list[decoders.Decoder] = [decoders.BPEDecoder(suffix=end)]
    if special.unk is not None:
        steps.insert(0, decoders.Replace(special.unk, special.unk + end))  # it is a word, and has a space behind it
    backend.decoder = decoders.Sequence(steps)
    return backend


def _add_entries(entries: dict[str, int], merges: Iterable[tuple[str, str]]) -> None:
    """Give the units of merges that the dictionary lacks ids beyond it."""
    for left, right in merges:
        for unit in (left, right, left + right):
            entries.setdefault(unit, len(entries))


def _with_ends_apart(merges: list[tuple[str, str]], entries: dict[str, int], special: SpecialSymbols):
    """Return merges of version 0.1, where the end of a word is a symbol, and those that then mark the last unit."""
    merges = [(left.replace(END, _END_SYMBOL), right.replace(END, _END_SYMBOL)) for left, right in merges]
    units = {unit: None for left, right in merges for unit in (left, right, left + right)}
    # Characters that no merge has, and the unknown one, can be the last unit too.
    final = (entry.removesuffix(_END_SYMBOL + _LAST) for entry in entries)
    units.update((unit, None) for unit in (*final, *entries, special.unk) if unit and len(unit) == 1 or unit == special.unk)
    units.pop(_END_SYMBOL, None)
    later = [(unit, _LAST) for unit in (*units, _END_SYMBOL) if unit.endswith(_END_SYMBOL)]
    later += [(unit, _END_SYMBOL + _LAST) for unit in units if not unit.endswith(_END_SYMBOL)]
    return merges + later


__all__ = ["Codes", "SpecialSymbols", "dictionary_tokenizer", "read_codes", "read_lines"]
