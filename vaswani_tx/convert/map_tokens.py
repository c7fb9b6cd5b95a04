"""Tokenizers of tutorials: words, characters or the matches of a pattern, looked up in a list of tokens.

vocabulary file + `tokenizer` section of a map -> one VaswaniTokenizer (a pair, where the sides differ)
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.normalizers import Normalizer

from vaswani_tx.convert.map_file import TOKENS, ModelMap
from vaswani_tx.convert.map_yaml import Value, shown
from vaswani_tx.text_files import TextFileError, open_bytes, text_of_line
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

KINDS = ("words", "characters", "pattern")
_NORMALISERS: dict[str, Any] = {
    "lowercase": normalizers.Lowercase,
    "strip": normalizers.Strip,
    "nfc": normalizers.NFC,
    "nfd": normalizers.NFD,
    "nfkc": normalizers.NFKC,
    "nfkd": normalizers.NFKD,
    "strip_accents": normalizers.StripAccents,
}
_PICKLE = (
    "is a pickle, which is never read, because it may run any code when it is. Where you trust it, write its tokens as "
    "JSON where the package that made it is installed: `json.dump(list_of_tokens_in_order, open('vocabulary.json', "
    "'w'))`, which is `vocab.get_itos()` or `vocab.itos` of a vocabulary of torchtext."
)


@dataclass(frozen=True)
class Side:
    """The tokenizer of source or target, and the ids of its special tokens by `pad`, `bos`, `eos`, `unk`."""

    tokenizer: VaswaniTokenizer | None
    ids: dict[str, int | None]


def make_tokenizer(model_map: ModelMap, folder: Path, longest: int | None) -> tuple[VaswaniTokenizer | None, Side]:
    """Make the tokenizer that a map describes.

    Args:
        model_map: the map.
        folder: where vocabulary files are looked for after the folder of the map itself.
        longest: most positions of the model, None where there is no limit.

    Returns:
        the tokenizer, None without a vocabulary, and the target's side with the ids that the model needs.

    Raises:
        ConversionError: a vocabulary that cannot be read, or lacks a token that the map names.
    """
    section = model_map.section("tokenizer")
    tokens = model_map.section("tokens")
    if not section:
        return None, Side(None, {name: _id_without_vocabulary(value) for name, value in tokens.items()})
    sides = {}
    for name in ("source", "target"):
        own = section[name].mapping(_SIDE_KEYS) if name in section else {}
        merged = {**section, **own}
        named = {**tokens, **(own["tokens"].mapping(TOKENS) if "tokens" in own else {})}
        sides[name] = (merged, named)
    if model_map.family == "encoder-decoder" and ("source" in section or "target" in section):
        source, target = (_side(model_map, *sides[name], folder) for name in ("source", "target"))
        tokenizer = VaswaniTokenizer.pair(source.tokenizer, target.tokenizer)
    else:
        if model_map.family != "encoder-decoder":
            for name in ("source", "target"):
                if name in section:
                    raise section[name].error("only an encoder-decoder has two tokenizers.")
        target = _side(model_map, section, tokens, folder)
        tokenizer = target.tokenizer
    length = section["max_length"].integer(1) if "max_length" in section else longest
    if length is not None:
        tokenizer.model_max_length = length
    return tokenizer, target


_SIDE_KEYS = ("kind", "pattern", "lowercase", "normalise", "vocabulary", "begin", "end", "separator", "tokens")


def _id_without_vocabulary(value: Value) -> int | None:
    if type(value.content) is not int or value.content < 0:
        raise value.error(
            f"must be an id (a whole number), not {shown(value.content)}: texts of tokens need a `tokenizer` with its "
            "`vocabulary`."
        )
    return value.content


def _side(model_map: ModelMap, section: dict[str, Value], tokens: dict[str, Value], folder: Path) -> Side:
    place = model_map.place("tokenizer")
    section = {name: value for name, value in section.items() if value.content is not None}
    for name in ("kind", "vocabulary"):
        if name not in section:
            raise place.error(f"needs `{name}:`.")
    vocabulary = read_vocabulary(section["vocabulary"], folder)
    texts = {name: _token(value, vocabulary) for name, value in tokens.items() if value.content is not None}
    if "unk" not in texts:
        raise model_map.place("tokens").error(
            "a tokenizer needs `unk:`, the token for what is not in the vocabulary; where the original had none, name "
            "the token that such text is to become."
        )
    kind = section["kind"].one_of(KINDS)
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=texts["unk"]))
    steps = _normalisers(section)
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = _splitter(kind, section)
    separator = section["separator"].content if "separator" in section else " " if kind == "words" else ""
    if separator not in ("", " "):
        raise section["separator"].error(f'must be "" or " ", not {shown(separator)}.')
    if separator == "":
        backend.decoder = decoders.Fuse()
    ends = {name: _end(section[name], vocabulary, texts) for name in ("begin", "end") if name in section}
    backend.post_processor = processors.TemplateProcessing(
        single=[each for each in (ends.get("begin"), "$A", ends.get("end")) if each],
        special_tokens=[(token, vocabulary[token]) for token in dict.fromkeys(ends.values())],
    )
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in texts.values()])
    names = {f"{name}_token": token for name, token in texts.items()}
    tokenizer = VaswaniTokenizer(
        tokenizer_object=backend, split_special_tokens=True, clean_up_tokenization_spaces=False, **names
    )
    if "padding" in section and section["padding"].one_of(("hidden", "attended")) == "attended":
        # Without a mask among its outputs, the model sees padding as any other token, as the original does.
        tokenizer.model_input_names = ["input_ids"]
        tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    return Side(tokenizer, {name: vocabulary[token] for name, token in texts.items()})


def _normalisers(section: dict[str, Value]) -> list[Normalizer]:
    names = []
    if "normalise" in section:
        value = section["normalise"]
        given = value.content if isinstance(value.content, list) else [value]
        names = [each.one_of(_NORMALISERS) for each in given]
    if "lowercase" in section and section["lowercase"].flag() and "lowercase" not in names:
        names.append("lowercase")
    return [_NORMALISERS[name]() for name in names]


def _splitter(kind: str, section: dict[str, Value]) -> pre_tokenizers.PreTokenizer:
    if kind == "pattern":
        if "pattern" not in section:
            raise section["kind"].error("needs `pattern:`, a regular expression that matches one token.")
        value = section["pattern"]
        try:
            pattern = Regex(value.text())
        except Exception as error:  # the binding has no class of its own for it
            raise value.error(f"is no regular expression of Oniguruma ({error}).") from None
        # What is between the matches is left out, as by `re.findall`.
        return pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    if "pattern" in section:
        raise section["pattern"].error("is read with `kind: pattern` only.")
    if kind == "characters":
        return pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    return pre_tokenizers.WhitespaceSplit()


def _token(value: Value, vocabulary: dict[str, int]) -> str:
    """Return the text of a special token that is given as text or as id."""
    if type(value.content) is int:
        found = next((token for token, index in vocabulary.items() if index == value.content), None)
        if found is None:
            raise value.error(f"there is no token of id {value.content} in the vocabulary of {len(vocabulary)}.")
        return found
    token = value.text()
    if token not in vocabulary:
        raise value.error(f"{token!r} is not in the vocabulary; it begins with {', '.join(list(vocabulary)[:5])}.")
    return token


def _end(value: Value, vocabulary: dict[str, int], texts: dict[str, str]) -> str:
    """Return the token put before or after a text: one of `tokens` by name, or a token."""
    if isinstance(value.content, str) and value.content in TOKENS and value.content not in vocabulary:
        if value.content not in texts:
            raise value.error(f"`tokens` has no {value.content!r}.")
        return texts[value.content]
    return _token(value, vocabulary)


def read_vocabulary(value: Value, folder: Path) -> dict[str, int]:
    """Return token -> id of a vocabulary file, in the order of the ids.

    JSON: a list of tokens, `{token: id}`, or an object with such a list as `itos` or such a mapping as `stoi`. Any
    other file: one token a line, its id the line's number from 0.

    Raises:
        ConversionError: a file that is missing, a pickle or none of these, or ids that are not 0, 1, 2, ...
    """
    path = find_beside(value, folder)
    with path.open("rb") as stream:
        start = stream.read(2)
    if start[:1] == b"\x80" or start == b"PK" or path.suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise value.error(f"{path} {_PICKLE}")
    try:
        with open_bytes(str(path)) as stream:
            lines = [text_of_line(raw, number, str(path)) for number, raw in enumerate(stream, start=1)]
    except (TextFileError, OSError) as error:
        raise value.error(f"{path}: {error}") from None
    if path.suffix == ".json":
        tokens = _of_json(value, path, "\n".join(lines))
    else:
        tokens = list(lines)
        while tokens and not tokens[-1]:
            tokens.pop()
    return _numbered(value, path, tokens)


def _of_json(value: Value, path: Path, text: str) -> list[Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise value.error(f"{path} is no JSON ({error}).") from None
    if isinstance(content, dict):
        inner = next((content[key] for key in ("itos", "stoi") if isinstance(content.get(key), (list, dict))), None)
        content = content if inner is None else inner
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise value.error(f"{path} is neither a list of tokens nor a mapping of tokens to ids.")
    ids = list(content.values())
    if any(type(index) is not int for index in ids):
        # id -> token, as some write it
        if all(isinstance(token, str) for token in ids) and all(re.fullmatch(r"\d+", key) for key in content):
            content = {token: int(index) for index, token in content.items()}
            ids = list(content.values())
        else:
            raise value.error(f"{path}: the ids must be whole numbers.")
    if sorted(ids) != list(range(len(content))):
        missing = next((index for index in range(len(ids)) if index not in set(ids)), None)
        raise value.error(f"{path}: the ids must be 0 to {len(content) - 1}, each once; {missing} is missing.")
    return sorted(content, key=content.__getitem__)


def _numbered(value: Value, path: Path, tokens: list[Any]) -> dict[str, int]:
    numbered: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or not token:
            raise value.error(f"{path}: the token of id {index} is {shown(token)}: each must be a text.")
        if token in numbered:
            raise value.error(f"{path}: {token!r} has the ids {numbered[token]} and {index}; each token needs one.")
        numbered[token] = index
    if not numbered:
        raise value.error(f"{path}: holds no tokens.")
    return numbered


def find_beside(value: Value, folder: Path) -> Path:
    """Return a file named in a map: beside the map, or in the source's folder."""
    name = value.text()
    for place in (value.place.file.parent, folder):
        if (place / name).is_file():
            return place / name
    raise value.error(f"there is no file {name!r} in {value.place.file.parent} or {folder}.")


__all__ = ["KINDS", "Side", "find_beside", "make_tokenizer", "read_vocabulary"]
