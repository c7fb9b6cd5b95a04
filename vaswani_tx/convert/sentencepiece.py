"""SentencePiece models (`.model`, `.spm`) as pipelines of tokenizers, without the package that made them.

A file is a protocol buffer: pieces with scores, settings of the trainer, and a table of character replacements. It is
read here and becomes one `tokenizer.json` with the same token ids, which may be those of another vocabulary: Marian,
fairseq and others number the pieces in a file of their own.

    text -> replacements of characters -> spaces at the ends away, runs of them one -> `▁` in front and for each space
         -> Unigram or BPE
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vaswani_tx.convert.core import ConversionError
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
SPACE = "▁"
# In front of entries that this side's model cannot produce, such as those of the target alone: no text holds it.
NEVER = "\ufdd0"
# At both ends of a run of unknown characters, where the vocabulary has such runs.
OPEN, CLOSE = "\ufdd2", "\ufdd3"
# A tag at the front that no entry is: unknown, like every character that no text should hold.
_TAG = "\ufdd1"


@dataclass
class SentencePieceModel:
    """What a file of SentencePiece says.

    Args:
        pieces: (text, score, kind) in order of their ids.
        model_type: UNIGRAM or BPE; others are not converted.
        charsmap: the table of replacements, empty where there is none.
        add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces: how spaces are normalised.
        byte_fallback: whether unknown characters become bytes.
        whitespace_as_suffix: whether `▁` follows words rather than leading them.
        normalizer: the name of the replacements.
    """

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    model_type: int = UNIGRAM
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    normalizer: str = ""

    def of_kind(self, *kinds: int) -> list[str]:
        """Return the texts of the pieces of these kinds."""
        return [text for text, _, kind in self.pieces if kind in kinds]


def read_sentencepiece(path: str | Path) -> SentencePieceModel:
    """Read a file of SentencePiece.

    Raises:
        ConversionError: it is missing, no such file, or of a kind that has no equal among tokenizers.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConversionError(f"'{path}' cannot be read: {error.strerror}.") from None
    try:
        model = _model(content)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError, TypeError, AttributeError):
        raise ConversionError(f"'{path}' is damaged, or no model of SentencePiece: copy it again.") from None
    if not model.pieces:
        raise ConversionError(f"'{path}' is damaged, or no model of SentencePiece: it has no pieces.")
    _check(model, path)
    return model


def _check(model: SentencePieceModel, path: str | Path) -> None:
    kinds = {1: "unigram", 2: "BPE", 3: "words", 4: "characters"}
    reason = None
    if model.model_type not in (UNIGRAM, BPE):
        reason = f"its pieces are {kinds.get(model.model_type, 'of an unknown kind')}, not unigram or BPE"
    elif model.whitespace_as_suffix:
        reason = "spaces are part of the word before them (treat_whitespace_as_suffix)"
    elif not model.escape_whitespaces:
        reason = "spaces are not written as ▁ (escape_whitespaces is off)"
    elif model.model_type == BPE and model.of_kind(USER_DEFINED, UNUSED):
        reason = "it has user-defined or unused pieces, which BPE of tokenizers cannot keep apart"
    elif len(model.of_kind(UNKNOWN)) != 1:
        reason = "it has no piece, or several, for what is unknown"
    if reason:
        raise ConversionError(f"'{path}' cannot be converted exactly: {reason}.")


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message: an int, a float, or bytes."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(content, at)
        elif kind == 2:
            size, at = _varint(content, at)
            if at + size > len(content):
                raise ValueError("cut off")
            value, at = content[at : at + size], at + size
        elif kind == 5:
            (value,), at = struct.unpack_from("<f", content, at), at + 4
        elif kind == 1:
            (value,), at = struct.unpack_from("<d", content, at), at + 8
        else:
            raise ValueError("no protocol buffer")
        yield number, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("no number")


def _model(content: bytes) -> SentencePieceModel:
    model = SentencePieceModel()
    for number, value in _fields(content):
        if number == 1:
            piece = dict(_fields(value))
            model.pieces.append((piece[1].decode("utf-8"), piece.get(2, 0.0), piece.get(3, NORMAL)))
        elif number == 2:
            trainer = dict(_fields(value))
            model.model_type = trainer.get(3, UNIGRAM)
            model.byte_fallback = bool(trainer.get(35, 0))
            model.whitespace_as_suffix = bool(trainer.get(24, 0))
        elif number == 3:
            normalizer = dict(_fields(value))
            model.normalizer = normalizer.get(1, b"").decode("utf-8")
            model.charsmap = normalizer.get(2, b"")
            model.add_dummy_prefix = bool(normalizer.get(3, 1))
            model.remove_extra_whitespaces = bool(normalizer.get(4, 1))
            model.escape_whitespaces = bool(normalizer.get(5, 1))
        elif number == 5 and dict(_fields(value)).get(2):
            raise ValueError("a table of replacements after decoding")
    return model


def sentencepiece_backend(
    model: SentencePieceModel,
    ids: Mapping[str, int] | None = None,
    unk_token: str = "<unk>",
    front_tags: bool = False,
    strip: bool = False,
) -> tuple[Tokenizer, int | None]:
    """Build the pipeline of a model, without tokens at the ends of texts.

    Args:
        model: what a file says.
        ids: the vocabulary, entry -> id; it may hold entries that the model lacks, which text never gives. None: the
            model's own numbers.
        unk_token: the entry of `ids` for what is unknown.
        front_tags: read `>>...<<` at the front of a text as one unknown token, where it is no added one.
        strip: decoding takes spaces away from both ends of a text, not from its front alone.

    Returns:
        The pipeline and, where pieces of the model are not in `ids`, the number of ids that are: those beyond are read
        as unknown (`dictionary_size` of `VaswaniTokenizer`).

    Raises:
        ConversionError: `ids` are no ids, or there is none for what is unknown.
    """
    if ids is None:
        ids = {text: index for index, (text, _, _) in enumerate(model.pieces)}
        unk_token = model.of_kind(UNKNOWN)[0]
    _check_ids(ids, unk_token)
    size = max(ids.values()) + 1
    entries = _Entries(model, unk_token)
    texts: list[str | None] = [None] * size
    for text, index in ids.items():
        texts[index] = text
    beyond = [text for text, _, kind in model.pieces if kind in (NORMAL, USER_DEFINED, BYTE) and text not in ids]
    numbered = [f"{NEVER}{index}" if text is None else entries.name(text) for index, text in enumerate(texts)] + beyond
    build = _unigram if model.model_type == UNIGRAM else _bpe
    backend = Tokenizer(build(model, entries, numbered, ids[unk_token]))
    marked = any(text.startswith(OPEN) for text in numbered)
    backend.normalizer = _normalizer(model, front_tags, entries.characters if marked else None)
    backend.pre_tokenizer = _pre_tokenizer(entries, numbered, marked)
    backend.decoder = _decoder(model, strip)
    return backend, size if beyond else None


def sentencepiece_tokenizer(
    model: SentencePieceModel,
    ids: Mapping[str, int] | None = None,
    special: Mapping[str, str] | None = None,
    tags: tuple[str, ...] = (),
    front_tags: bool = False,
    strip: bool = False,
    **settings: Any,
) -> VaswaniTokenizer:
    """Build a tokenizer of a model that puts the end-of-sentence token, if it has one, after texts.

    Args:
        model, ids, front_tags, strip: as of `sentencepiece_backend`.
        special: `pad_token`, `eos_token`, `unk_token`, ...: entries of the vocabulary; None: the model's own control
            pieces.
        tags: entries that are read as one token wherever a text has them, such as `>>de<<`.
        **settings: passed to `VaswaniTokenizer`.
    """
    if special is None:
        known = model.of_kind(CONTROL)
        named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
        special = {name: text for name, text in named.items() if text in known}
        special["unk_token"] = model.of_kind(UNKNOWN)[0]
    backend, size = sentencepiece_backend(model, ids, special["unk_token"], front_tags, strip)
    for text in special.values():
        if backend.token_to_id(text) is None:
            raise ConversionError(f"the vocabulary has no {text!r}, which the tokenizer names as a special token.")
    if tags:
        backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    eos = special.get("eos_token")
    if eos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", pair=f"$A $B {eos}", special_tokens=[(eos, backend.token_to_id(eos))]
        )
    settings.setdefault("split_special_tokens", True)
    if size is not None:
        settings["dictionary_size"] = size
    return VaswaniTokenizer(tokenizer_object=backend, **special, **settings)


def _check_ids(ids: Mapping[str, int], unk_token: str) -> None:
    if unk_token not in ids:
        raise ConversionError(f"the vocabulary has no {unk_token!r} for what is unknown.")
    values = list(ids.values())
    if not all(type(value) is int and value >= 0 for value in values) or len(set(values)) < len(values):
        raise ConversionError("the vocabulary must give each entry a number of its own, from 0.")
    if max(values) > 10 * len(values) + 1000:
        raise ConversionError(f"the vocabulary has {len(values)} entries but numbers up to {max(values)}.")


class _Entries:
    """The names that a vocabulary's entries have in a pipeline, so that text gives those of SentencePiece alone.

    What is unknown to SentencePiece is looked up all the same, a whole run of unknown characters at a time: an entry of
    such characters alone, which comes from the other language, is found by the marks at the ends of the run.
    """

    def __init__(self, model: SentencePieceModel, unk_token: str):
        self.unk_token = unk_token
        self.kinds = {text: kind for text, _, kind in model.pieces}
        self.pieces = model.of_kind(NORMAL, USER_DEFINED)
        self.characters = set("".join(self.pieces)) | {SPACE}

    def name(self, text: str) -> str:
        """Return the name of an entry."""
        if self.kinds.get(text) in (NORMAL, USER_DEFINED, BYTE) or self.is_found(text):
            return text
        return f"{OPEN}{text}{CLOSE}" if text and self.characters.isdisjoint(text) else NEVER + text

    def is_found(self, text: str) -> bool:
        """Return whether an entry is a special token or tag, which goes by its name and is never made of text."""
        bracketed = (text.startswith("<") and text.endswith(">")) or (text.startswith(">>") and text.endswith("<<"))
        return bracketed or text == self.unk_token or self.kinds.get(text) in (UNKNOWN, CONTROL)


def _unigram(model: SentencePieceModel, entries: _Entries, numbered: list[str], unk: int) -> models.Unigram:
    """Build the model that finds the most probable division, whose vocabulary is a list in order of the ids."""
    scores = {text: score for text, score, kind in model.pieces if kind == NORMAL}
    best = max(scores.values(), default=0.0)
    # So scored that no other division is better than one with a user-defined piece.
    scores |= {text: len(text) * best - 0.1 for text in model.of_kind(USER_DEFINED)}
    vocabulary = [(text, scores.get(text, 0.0)) for text in numbered]
    return models.Unigram(vocabulary, unk_id=unk, byte_fallback=model.byte_fallback)


def _bpe(model: SentencePieceModel, entries: _Entries, numbered: list[str], unk: int) -> models.BPE:
    """Build the model that merges pairs, best first: every division of a piece into two pieces is a merge of it."""
    normal = {text: score for text, score, kind in model.pieces if kind == NORMAL}
    merges = []
    for text, score in normal.items():
        for cut in range(1, len(text)):
            if text[:cut] in normal and text[cut:] in normal:
                merges.append((-score, cut, text[:cut], text[cut:]))
    merges.sort(key=lambda merge: merge[:2])
    return models.BPE(
        {text: index for index, text in enumerate(numbered)},
        [(left, right) for _, _, left, right in merges],
        unk_token=numbered[unk],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        # Marked runs are found whole; a piece that is a whole word is what its merges make anyway.
        ignore_merges=any(text.startswith(OPEN) for text in numbered),
    )


def _normalizer(model: SentencePieceModel, front_tags: bool, characters: set[str] | None) -> normalizers.Normalizer:
    """Return what changes the text: replacements, spaces, a tag at the front, marks of unknown runs of characters."""
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        # A `▁` of the text itself is taken away at the end, but not in front.
        steps.append(normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    steps.append(normalizers.Replace(" ", SPACE))
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    if front_tags:
        first = normalizers.Replace(Regex(r"\A>>[\s\S]*?<<"), _TAG)
        prefix = SPACE if model.add_dummy_prefix else ""
        alone = normalizers.Replace(Regex(rf"\A{SPACE}?{_TAG}{SPACE}*\z"), _TAG)
        before = normalizers.Replace(Regex(rf"\A{SPACE}?{_TAG}{SPACE}*(?=[\s\S])(?!{SPACE})"), _TAG + prefix)
        steps = [first, *steps, alone, before]
    if characters is not None:
        known = _class_of(characters | {_TAG})
        steps.append(normalizers.Replace(Regex(f"(?<![^{known}])(?=[^{known}])"), OPEN))
        steps.append(normalizers.Replace(Regex(f"(?<=[^{known}{OPEN}])(?![^{known}])"), CLOSE))
    return normalizers.Sequence(steps)


def _class_of(characters: set[str]) -> str:
    """Return the inside of a regular expression's class of characters, as ranges."""
    codes = sorted(map(ord, characters))
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in ranges)


def _pre_tokenizer(entries: _Entries, numbered: list[str], marked: bool) -> pre_tokenizers.PreTokenizer:
    """Return what divides text before the model: at `▁`, where no piece crosses it, which is quicker.

    Unigram looks for all entries in a text, those of special tokens too, which SentencePiece does not: a cut inside of
    text that looks like one keeps it from becoming one.
    """
    steps: list[pre_tokenizers.PreTokenizer] = []
    crossing = any(SPACE in text[1:] for text in entries.pieces)
    if not crossing and entries.kinds.get(SPACE) == NORMAL:
        steps.append(pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=True))
    # Tags are found before.
    cuts = [_cut(text, entries) for text in sorted(numbered) if entries.is_found(text) and not text.startswith(">>")]
    if cuts:
        steps.append(pre_tokenizers.Split(Regex("|".join(cuts)), behavior="merged_with_previous"))
    if marked:
        steps.append(pre_tokenizers.Split(Regex(f"{OPEN}[^{CLOSE}]*{CLOSE}"), behavior="isolated"))
    return pre_tokenizers.Sequence(steps)


def _cut(text: str, entries: _Entries) -> str:
    """Return what matches the beginning of a text, up to where a cut does not divide a run of unknown characters."""
    known = [letter in entries.characters for letter in text]
    at = next((index for index in range(1, len(text)) if known[index - 1] or known[index]), 1)
    return f"{_escaped(text[:at])}(?={_escaped(text[at:])})"


def _escaped(text: str) -> str:
    return "".join(letter if letter.isalnum() else f"\\x{{{ord(letter):x}}}" for letter in text)


def _decoder(model: SentencePieceModel, strip: bool) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(Regex(f"[{NEVER}{OPEN}{CLOSE}]"), "")]
    steps.append(decoders.Replace(SPACE, " "))
    if model.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    # Not decoders.Strip, which fails on empty text.
    if strip:
        steps.append(decoders.Replace(Regex(r"\A +| +\z"), ""))
    elif model.add_dummy_prefix:
        steps.append(decoders.Replace(Regex(r"\A +" if model.remove_extra_whitespaces else r"\A "), ""))
    return decoders.Sequence(steps)


__all__ = ["SentencePieceModel", "read_sentencepiece", "sentencepiece_backend", "sentencepiece_tokenizer"]
