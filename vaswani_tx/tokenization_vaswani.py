"""`VaswaniTokenizer`: one byte-level byte-pair vocabulary for source and target (the paper's section 5.1).

The whole pipeline stands in `tokenizer.json`, so `tokenizers.Tokenizer.from_file` and transformers' own fast class give
the same ids without this package:

    text -> one space in front -> letters | digit | punctuation | white space -> bytes -> merges -> `</s>` at the end

No Unicode normalisation and all 256 bytes in the vocabulary: decoding gives back exactly the text that was encoded. The
space in front makes the first word of a sentence the same token as inside a sentence; decoding takes exactly it away.

Control tokens written in a text are text. Two things are read as control tokens all the same: `<mask>` in the place of
a word, by a tokenizer that has it as its mask token, and what a chat template itself writes.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import BatchEncoding, TokenizersBackend
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import logging

logger = logging.get_logger(__name__)

PAD_TOKEN, BOS_TOKEN, EOS_TOKEN, UNK_TOKEN = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
NAMED_TOKENS = {"pad_token": PAD_TOKEN, "bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "unk_token": UNK_TOKEN}
MINIMAL_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
MASK_TOKEN = "<mask>"

CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
# <s><|user|>Hello.</s><|assistant|>Hello to you.</s>: contents follow their control token without a space of their own,
# so that their words are the tokens that they are in any text.
CHAT_TEMPLATE = """
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception("A message's role must be system, user or assistant, not '" ~ message['role'] ~ "'.") -}}
    {%- endif -%}
    {{- '<|' ~ message['role'] ~ '|>' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- message['content'] | trim ~ eos_token -}}{%- endgeneration -%}
    {%- else -%}
        {{- message['content'] | trim ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
# How transformers reads the answer to such a chat back into a message.
CHAT_RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {"content": {"close": EOS_TOKEN, "content": "text"}},
}
# Where the letters that stand for others in a chat are looked for: private use, so hardly ever in a text.
STAND_INS = range(0xE000, 0xF8FF)

# A word keeps its inner apostrophes (don't, l'homme): merges then decide where it parts. Digits stand alone, so that a
# number never seen in training is still copied digit by digit. The last space of a run goes to the word that follows.
WORD_PATTERN = "|".join(
    (
        r" ?[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*",
        r" ?\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
LINES_PER_CHUNK = 1000


class VaswaniTokenizer(TokenizersBackend):
    """Byte-level byte-pair tokenizer, shared by source and target, that appends `</s>` and loses no character.

    Text that looks like a special token (`a </s> b`) is text: `split_special_tokens` is on, and saved as such, so no
    input can end or pad a sentence. Pass `split_special_tokens=False` to a call to have it read as a control token.

    `for_continuation()` gives the form that causal language models need, `prepare_for_chat()` a chat template.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "right"
    truncation_side = "right"
    model = BPE

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Name the special tokens where a folder holds `tokenizer.json` and no `tokenizer_config.json`."""
        if not any(kwargs.get(name) for name in NAMED_TOKENS):
            kwargs.update(NAMED_TOKENS)
            kwargs.setdefault("split_special_tokens", True)
        return super().convert_to_native_format(trust_remote_code=trust_remote_code, **kwargs)

    @classmethod
    def train(
        cls,
        corpus: Any,
        vocab_size: int = 37000,
        min_frequency: int = 2,
        show_progress: bool = True,
        length: int | None = None,
        mask_token: str | None = None,
        control_tokens: Sequence[str] = (),
        **kwargs: Any,
    ) -> "VaswaniTokenizer":
        """Learn the joint vocabulary from the text of both languages; equal text gives an equal vocabulary.

        Args:
            corpus: a path or a list of paths of text files (UTF-8, one sentence a line), or an iterable, other than a
                list of strings, that yields sentences or lists of sentences.
            vocab_size: entries wanted, with the 4 special tokens and the 256 bytes. A small corpus may not fill it.
            min_frequency: a pair of tokens seen less often is not merged.
            length: number of sentences in an iterable, for the progress bar.
            mask_token: "<mask>" for masked language models: the entry after the 4 special tokens. In text it is read as
                the mask where it stands as a word does, at the front or after a space.
            control_tokens: further special tokens, such as `CHAT_TOKENS`, which come next.
            kwargs: handed to the tokenizer, `model_max_length=512` for example.

        Raises:
            ValueError: no file, a missing file, invalid UTF-8 (file, line and byte), a corpus without text, or a
                `vocab_size` below 260.
        """
        further = [*filter(None, [mask_token]), *control_tokens]
        reason = "the special tokens and the 256 bytes" if further else "the 4 special tokens and the 256 bytes"
        _check_size("vocab_size", vocab_size, MINIMAL_VOCAB_SIZE + len(further), reason)
        _check_size("min_frequency", min_frequency, 1, "a pair that occurs")
        files = _file_list(corpus)
        if files is not None:
            length = sum(sum(map(len, _read_chunks(file))) for file in files)
            chunks: Iterator[list[str]] = (chunk for file in files for chunk in _read_chunks(file))
        else:
            chunks = _text_chunks(corpus)
        counter = _Counter(chunks)
        backend = _untrained_backend()
        backend.train_from_iterator(counter, _trainer(vocab_size, min_frequency, show_progress, further), length=length)
        if not counter.sentences:
            where = f"the files {', '.join(files)}" if files else "the corpus"
            raise ValueError(f"No text to train on: {where} held no line with text. Check what was passed as `corpus`.")
        backend.post_processor = _append_eos(backend)
        if backend.get_vocab_size() < vocab_size:
            logger.warning(
                f"The vocabulary has {backend.get_vocab_size()} entries instead of the {vocab_size} asked for: the "
                f"{counter.sentences} sentences hold no further pair seen {min_frequency} times. Give this number to "
                "the model, or use more text or a smaller `min_frequency`."
            )
        kwargs = {**NAMED_TOKENS, "split_special_tokens": True, "clean_up_tokenization_spaces": False, **kwargs}
        if mask_token is not None:
            backend, kwargs["mask_token"] = _mask_in_text(backend, mask_token), mask_token
        if control_tokens:
            kwargs["extra_special_tokens"] = list(control_tokens)
        return cls(tokenizer_object=backend, **kwargs)

    def for_continuation(self) -> "VaswaniTokenizer":
        """Give the same vocabulary for causal language models: `<s>` in front of a text, no `</s>`, padding left.

        Tokens that do not begin with `<s>` are then the middle of a text: decoding leaves the space at their front.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            settings = {"add_bos_token": True, "add_eos_token": False, "padding_side": "left"}
            return type(self).from_pretrained(folder, **settings)

    def prepare_for_chat(self) -> int:
        """Set `CHAT_TEMPLATE` and return how many of its tokens were new: the model needs so many more embeddings."""
        added = self.add_special_tokens({"extra_special_tokens": list(CHAT_TOKENS)}, replace_extra_special_tokens=False)
        self.chat_template, self.response_template = CHAT_TEMPLATE, dict(CHAT_RESPONSE)
        return added

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Any = None,
        documents: Any = None,
        chat_template: str | None = None,
        tokenize: bool = True,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render messages with the chat template and give their tokens; arguments as in transformers.

        Only what the template writes becomes a control token. The same characters inside messages, tools, documents
        and further variables stay text, whatever the template does with them: a control token needs at least its first
        character from the template.
        """
        kwargs.pop("sanitize_control_tokens", None)  # it is always done
        if tokenize:
            if isinstance(conversation, (list, tuple)):
                conversation = [getattr(chat, "messages", chat) for chat in conversation]
            conversation = getattr(conversation, "messages", conversation)
            given = [conversation, tools, documents, kwargs]
            letters = self._stand_ins(str(self.get_chat_template(chat_template, tools)), given)
            marks = self._beginnings_of_control_tokens()
            conversation, tools, documents, kwargs = (_replace(value, marks, letters) for value in given)
            tokenizer_kwargs = {**(tokenizer_kwargs or {}), "stand_ins": letters}
        return super().apply_chat_template(
            conversation,
            tools,
            documents,
            chat_template,
            tokenize=tokenize,
            tokenizer_kwargs=tokenizer_kwargs,
            **kwargs,
        )

    def _control_tokens(self) -> list[str]:
        """All of them, longer ones first."""
        return sorted((token.content for token in self.added_tokens_decoder.values()), key=len, reverse=True)

    def _beginnings_of_control_tokens(self) -> re.Pattern:
        """Match the first character of a control token, also of one that a text ends in the middle of.

        In capitals or not: a template may change that.
        """
        tokens = self._control_tokens()
        cut = {token[:length] for token in tokens for length in range(1, len(token))}
        choices = [*map(re.escape, tokens), *(f"{re.escape(part)}\\Z" for part in sorted(cut))]
        return re.compile(f"(?=(?:{'|'.join(choices)})).", re.IGNORECASE | re.DOTALL)

    def _stand_ins(self, template: str, given: Any) -> dict[str, str]:
        """For each letter that a control token may begin with another one that stands nowhere in template and data."""
        firsts = {form for token in self._control_tokens() for form in (token[0].lower(), token[0].upper())}
        taken = {*template, *json.dumps(given, ensure_ascii=False, default=str)}
        free = (chr(code) for code in STAND_INS if chr(code) not in taken)
        try:
            return {first: next(free) for first in sorted(firsts)}
        except StopIteration:
            raise ValueError(
                "The messages hold every private-use character, U+E000 to U+F8FE: take some out."
            ) from None

    def _encode_plus(self, text: Any, text_pair: Any = None, stand_ins: Any = None, **kwargs: Any) -> BatchEncoding:
        """Encode text, or chats in which control tokens given by the user have another first letter (`stand_ins`)."""
        if stand_ins is None:
            return super()._encode_plus(text, text_pair, **kwargs)
        padding = kwargs.get("padding_strategy", PaddingStrategy.DO_NOT_PAD)
        side, longest = kwargs.get("padding_side") or self.padding_side, kwargs.get("max_length")
        self.set_truncation_and_padding(
            PaddingStrategy.DO_NOT_PAD, TruncationStrategy.DO_NOT_TRUNCATE, None, 0, None, None
        )
        chats = [text] if isinstance(text, str) else text
        encodings = [self._encode_chat(chat, stand_ins) for chat in chats]
        truncation = kwargs.get("truncation_strategy", TruncationStrategy.DO_NOT_TRUNCATE)
        for encoding in encodings if truncation != TruncationStrategy.DO_NOT_TRUNCATE and longest else ():
            encoding.truncate(longest, direction=self.truncation_side)
        if padding != PaddingStrategy.DO_NOT_PAD:
            fills = padding == PaddingStrategy.MAX_LENGTH and longest is not None
            width = longest if fills else max(map(len, encodings))
            multiple = kwargs.get("pad_to_multiple_of") or 1
            for encoding in encodings:
                length = -(-width // multiple) * multiple
                encoding.pad(length, direction=side, pad_id=self.pad_token_id, pad_token=self.pad_token)
        wanted = {
            name: value for name, value in kwargs.items() if name.startswith("return_") and name != "return_tensors"
        }
        rows = [self._convert_encoding(encoding, **wanted)[0] for encoding in encodings]
        data = {name: [value for row in rows for value in row[name]] for name in rows[0]}
        if isinstance(text, str) and kwargs.get("return_tensors") is None:
            data = {name: values[0] for name, values in data.items()}
        return BatchEncoding(data, encodings, tensor_type=kwargs.get("return_tensors"))

    def _encode_chat(self, chat: str, stand_ins: dict[str, str]) -> Any:
        """Tokens of one rendered chat; offsets count its characters."""
        meant = str.maketrans({other: letter for letter, other in stand_ins.items()})
        backend, parts = self._tokenizer, []
        for number, piece in enumerate(re.split(f"({'|'.join(map(re.escape, self._control_tokens()))})", chat)):
            if piece:
                # What the split found is the template's; all else is text.
                backend.encode_special_tokens = number % 2 == 0
                parts.append(backend.encode(piece.translate(meant), add_special_tokens=False))
        parts = parts or [backend.encode("", add_special_tokens=False)]
        merged = type(parts[0]).merge(parts, growing_offsets=True)
        merged.set_sequence_id(0)  # to find characters in all parts
        return merged

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        token_ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if self.bos_token_id in self._tokenizer.encode("").ids:  # `for_continuation`
            first = next((index for index in token_ids if index != self.pad_token_id), None)
            if first != self.bos_token_id:
                # The decoder takes a space away from the front, which here is not the one that encoding put there.
                token_ids = [self.convert_tokens_to_ids("Ġ"), *token_ids]
        return super()._decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def _add_tokens(self, new_tokens: list[str | AddedToken], special_tokens: bool = False) -> int:
        """Add tokens; the mask as one that is read from text, where special ones are not, with the space before it."""
        mask = None if self.mask_token is None else str(self.mask_token)
        rest = [token for token in new_tokens if str(token) != mask]
        added = 0
        if len(rest) < len(new_tokens):
            added = self._tokenizer.add_tokens([AddedToken(mask, special=False, normalized=True)])
        return added + (super()._add_tokens(rest, special_tokens=special_tokens) if rest else 0)


class _Counter:
    """Passes chunks on and counts their sentences."""

    def __init__(self, chunks: Iterable[list[str]]):
        self.chunks, self.sentences = chunks, 0

    def __iter__(self) -> Iterator[list[str]]:
        for chunk in self.chunks:
            self.sentences += len(chunk)
            yield chunk


def _untrained_backend() -> Tokenizer:
    """The pipeline of the module's head, before any merge is learned."""
    backend = Tokenizer(BPE(unk_token=UNK_TOKEN))
    backend.normalizer = normalizers.Prepend(" ")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # ByteLevel joins all tokens into one text first: Strip then sees the front of the sentence, not of each token.
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    return backend


def _trainer(vocab_size: int, min_frequency: int, show_progress: bool, further: Sequence[str]) -> trainers.BpeTrainer:
    """Special tokens first (ids 0 to 3), then `further` ones, every byte, seen or not, and the merges."""
    special = [AddedToken(token, special=True, normalized=False) for token in (*SPECIAL_TOKENS, *further)]
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=show_progress,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def _mask_in_text(backend: Tokenizer, mask: str) -> Tokenizer:
    """Give the tokenizer that finds its entry `mask` in text: normalised as text is, it has a space in front there."""
    pipeline = json.loads(backend.to_str())
    for token in pipeline["added_tokens"]:
        if token["content"] == mask:
            token.update(special=False, normalized=True)
    return Tokenizer.from_str(json.dumps(pipeline))


def _replace(value: Any, pattern: re.Pattern, letters: dict[str, str]) -> Any:
    """Give nested lists and mappings with each letter that `pattern` finds in their texts replaced."""
    if isinstance(value, str):
        return pattern.sub(lambda found: letters[found[0]], value)
    if isinstance(value, dict):
        return {_replace(key, pattern, letters): _replace(inner, pattern, letters) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace(inner, pattern, letters) for inner in value]
    return value


def _append_eos(backend: Tokenizer) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single=f"$A:0 {EOS_TOKEN}:0",
        pair=f"$A:0 {EOS_TOKEN}:0 $B:1 {EOS_TOKEN}:1",
        special_tokens=[(EOS_TOKEN, backend.token_to_id(EOS_TOKEN))],
    )


def _check_size(name: str, value: Any, least: int, reason: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` is {value!r}: give a whole number of at least {least} ({reason}).")


def _file_list(corpus: Any) -> list[str] | None:
    """The paths in `corpus` as strings, each an existing file, or None when it holds text instead."""
    if isinstance(corpus, (str, os.PathLike)):
        corpus = [corpus]
    if not isinstance(corpus, (list, tuple)):
        return None
    if not corpus:
        raise ValueError("No files to train on: `corpus` is an empty list. Pass the files of both languages.")
    if not all(isinstance(item, (str, os.PathLike)) for item in corpus):
        return None
    files = [os.fspath(item) for item in corpus]
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(
                f"{file[:200]!r} in `corpus` is not a file. A list of strings is read as a list of paths: check the "
                "path, or pass `iter(sentences)` to train on the strings themselves."
            )
    return files


def _read_chunks(file: str) -> Iterator[list[str]]:
    """Lists of the file's lines that hold text, parted at \\n only; ValueError at the first byte that is not UTF-8."""
    lines: list[str] = []
    with open(file, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            try:
                line = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file}, line {number}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not "
                    "valid UTF-8. Convert the file, with `iconv -t UTF-8` for example."
                ) from None
            if line and not line.isspace():
                lines.append(line)
            if len(lines) == LINES_PER_CHUNK:
                yield lines
                lines = []
    if lines:
        yield lines


def _text_chunks(corpus: Iterable[Any]) -> Iterator[list[str]]:
    """Lists of sentences from an iterable of sentences or of lists of them, without the blank ones."""
    try:
        items = iter(corpus)
    except TypeError:
        raise ValueError(
            f"`corpus` is {type(corpus).__name__}: pass a list of paths, or an iterable of sentences or lists of them."
        ) from None
    lines: list[str] = []
    for number, item in enumerate(items, start=1):
        for text in item if isinstance(item, (list, tuple)) else (item,):
            if not isinstance(text, str):
                raise ValueError(
                    f"Item {number} of `corpus` holds {text!r} ({type(text).__name__}): give strings or lists of them."
                )
            _check_unicode(text, number)
            if text and not text.isspace():
                lines.append(text)
        if len(lines) >= LINES_PER_CHUNK:
            yield lines
            lines = []
    if lines:
        yield lines


def _check_unicode(text: str, number: int) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Item {number} of `corpus` holds half of a surrogate pair (character {error.start + 1} of {text[:80]!r}), "
            "which is not text: repair the source that it was read from."
        ) from None


__all__ = ["CHAT_RESPONSE", "CHAT_TEMPLATE", "CHAT_TOKENS", "MASK_TOKEN", "VaswaniTokenizer"]
