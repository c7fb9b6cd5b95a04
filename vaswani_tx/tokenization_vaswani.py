"""`VaswaniTokenizer`: one byte-level byte-pair vocabulary for source and target (the paper's section 5.1).

The whole pipeline is in `tokenizer.json`, so `tokenizers.Tokenizer.from_file` and transformers' own fast class give
the same ids without this package:

    text -> one space in front -> letters | digit | punctuation | white space -> bytes -> merges -> `</s>` at the end

No Unicode normalisation and all 256 bytes in the vocabulary: decoding gives back exactly the text that was encoded. The
space in front makes the first word of a sentence the same token as inside a sentence; decoding takes exactly it away.
It is put in front of the text only, not of what follows an added token: `>>de<< I` is `>>de<<` and `ĠI`.

Control tokens written in a text are text. Two things are read as control tokens: `<mask>` in the place of a word,
by a tokenizer that has it as its mask token, and what a chat template itself writes.
"""

import copy
import importlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from tokenizers import AddedToken, Encoding, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import TokenizersBackend

from .tokenization_vaswani_pair import TARGET_FILE, TwoVocabularies

PAD_TOKEN, BOS_TOKEN, EOS_TOKEN, UNK_TOKEN = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
NAMED_TOKENS = {"pad_token": PAD_TOKEN, "bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "unk_token": UNK_TOKEN}
MINIMAL_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
MASK_TOKEN = "<mask>"
ADDED_AT_ENDS = ("add_bos_token", "add_eos_token")
# transformers gives these to every tokenizer that it loads, and would write them into tokenizer_config.json.
_TRACES_OF_LOADING = ("is_local", "local_files_only")

# The space in front of a text. `tokenizers` normalises and splits what is between added tokens part by part, and only
# Metaspace tells the first part from the others, but it adds no space to a text that begins with one. So a part that
# begins with a space (or with the mark itself) is given a mark and a space first; Metaspace then puts its space before
# the mark, in the first part only; and what is taken away is the mark with the space before it, which leaves the one
# behind it, or in other parts the mark with the space behind it. The mark is a character that no text should hold.
_MARK = "\ufdd0"
_FRONT = r"(?<![\s\S])"  # the front of a part, not of a line


def front_normalizer(mask_token: str | None = None) -> normalizers.Normalizer:
    """Return the normaliser that marks a space at the front, and gives a mask there the space that belongs to it."""
    steps = [
        normalizers.Replace(Regex(f"{_FRONT}{_MARK}"), f"{_MARK} {_MARK}"),
        normalizers.Replace(Regex(f"{_FRONT} "), f"{_MARK}  "),
    ]
    if mask_token is not None:
        # The content of a mask is normalised too: it is found in text with the space in front of it.
        steps.append(normalizers.Replace(Regex(f"{_FRONT}{re.escape(mask_token)}"), f" {mask_token}"))
    return normalizers.Sequence(steps)


def front_pre_tokenizers() -> list[pre_tokenizers.PreTokenizer]:
    """Return the first steps of pre-tokenization: one space in front of a text, none in front of its later parts."""
    return [
        pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
        pre_tokenizers.Split(Regex(f"{_FRONT}(?: {_MARK}|{_MARK} )"), behavior="removed"),
    ]


def space_in_front_only(backend: Tokenizer) -> bool:
    """Return whether a pipeline puts its space in front of texts only; the former one: after each added token too."""
    steps = backend.pre_tokenizer
    first = steps[0] if isinstance(steps, pre_tokenizers.Sequence) else None
    return isinstance(first, pre_tokenizers.Metaspace) and first.replacement == " "


def _without_stray_spaces(backend: Tokenizer, mask_token: str | None) -> Tokenizer:
    """Give a pipeline of the former kind the present one, where that changes no ids: it has no added tokens yet."""
    steps, known = backend.pre_tokenizer, {*SPECIAL_TOKENS, mask_token}
    former = isinstance(backend.normalizer, normalizers.Prepend) and isinstance(steps, pre_tokenizers.Sequence)
    former = former and isinstance(steps[1], pre_tokenizers.ByteLevel)
    if former and all(token.content in known for token in backend.get_added_tokens_decoder().values()):
        words, to_bytes = steps[0], steps[1]
        backend.normalizer = front_normalizer(mask_token)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*front_pre_tokenizers(), words, to_bytes])
    return backend


def _ends(backend: Tokenizer, special_tokens: dict[str, Any]) -> dict[str, bool]:
    """Return which of `<s>` and `</s>` a pipeline puts at the ends of a text."""
    put = backend.encode("").tokens
    return {name: str(special_tokens.get(name.removeprefix("add_"))) in put for name in ADDED_AT_ENDS}


def forged_places(encoding: Encoding, control: set[int], ids: Sequence[int] | None = None) -> set[int]:
    """Return where the model itself found control tokens in a text, and no template put them there."""
    ids = encoding.ids if ids is None else ids
    if control.isdisjoint(ids):
        return set()
    put = encoding.special_tokens_mask
    return {place for place, index in enumerate(ids) if index in control and not put[place]}


class OneVocabulary(TokenizersBackend):
    """What one vocabulary needs beyond its pipeline, as the base of `VaswaniTokenizer`, which may have two.

    A pipeline of another kind (SentencePiece, WordPiece, words) encodes and decodes as it says itself, but that text is
    read as unknown where its model finds a control token in it, as a list of words does that holds `</s>`.
    """

    _decoded_apart: tuple[int, set[int]] = (-1, set())
    _at_front: list[int] | None = None
    _byte_level = True
    _control: tuple[tuple[Any, ...], set[int]] = ((None,), set())

    def __init__(self, *args: Any, tokenizer_object: Any = None, tokenizer_file: Any = None, **kwargs: Any):
        backend = None
        if tokenizer_object is not None:
            backend = copy.deepcopy(tokenizer_object)
        elif tokenizer_file is not None and os.path.isfile(tokenizer_file):
            backend = Tokenizer.from_file(str(tokenizer_file))
        ends: dict[str, bool] = {}
        if backend is not None:
            mask_token = kwargs.get("mask_token")
            self._tokenizer = _without_stray_spaces(backend, None if mask_token is None else str(mask_token))
            self._byte_level = "ByteLevel" in repr(backend.pre_tokenizer)
            ends = _ends(backend, kwargs)
            given = {name: kwargs.pop(name, there) for name, there in ends.items()}
            if given != ends:  # transformers then writes the pipeline's last step again
                kwargs, ends = {**kwargs, **given}, given
        super().__init__(*args, **kwargs)
        self._add_bos_token, self._add_eos_token = (ends.get(name, getattr(self, name)) for name in ADDED_AT_ENDS)
        for name in (*ADDED_AT_ENDS, *_TRACES_OF_LOADING):
            self.init_kwargs.pop(name, None)
        if self.dictionary_size is not None and self.unk_token is None:
            raise ValueError("A vocabulary with a `dictionary_size` needs an `unk_token` for what is beyond it.")

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Complete what a folder says: special tokens where it has no `tokenizer_config.json`, tokens at the ends."""
        if not any(kwargs.get(name) for name in NAMED_TOKENS):
            kwargs.update(NAMED_TOKENS)
            kwargs.setdefault("split_special_tokens", True)
        file = kwargs.get("tokenizer_file")
        if file is None or not os.path.isfile(file):
            return super().convert_to_native_format(trust_remote_code=trust_remote_code, **kwargs)
        config = os.path.join(os.path.dirname(file), "tokenizer_config.json")
        if os.path.isfile(config):
            with open(config, encoding="utf-8") as stream:
                settings = json.load(stream)
            # transformers takes these out where there is a tokenizer.json.
            kwargs = {**{name: settings[name] for name in ADDED_AT_ENDS if name in settings}, **kwargs}
        return kwargs

    def save_chat_templates(self, save_directory: Any, tokenizer_config: dict[str, Any], *args: Any, **kwargs: Any):
        """Save templates, and say in the configuration what is put at the ends of texts, which transformers does not.

        Evaluation harnesses and trainers read it to know whether a text begins with `<s>`.
        """
        settings, files = super().save_chat_templates(save_directory, tokenizer_config, *args, **kwargs)
        return {**settings, **_ends(self._tokenizer, self.special_tokens_map)}, files

    @property
    def dictionary_size(self) -> int | None:
        """Number of ids, where the pipeline has more: pieces beyond are only found in text, and read as unknown."""
        return self.init_kwargs.get("dictionary_size")

    @property
    def vocab_size(self) -> int:
        """Number of entries without added tokens."""
        return super().vocab_size if self.dictionary_size is None else self.dictionary_size

    def __len__(self) -> int:
        return super().__len__() if self.dictionary_size is None else self.dictionary_size

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of all tokens."""
        vocabulary, size = super().get_vocab(), self.dictionary_size
        return vocabulary if size is None else {token: index for token, index in vocabulary.items() if index < size}

    def _convert_encoding(self, encoding: Any, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], list[Any]]:
        converted, encodings = super()._convert_encoding(encoding, *args, **kwargs)
        if (size := self.dictionary_size) is not None:
            unknown, rows = self.unk_token_id, converted["input_ids"]
            converted["input_ids"] = [[unknown if index >= size else index for index in row] for row in rows]
        if not self._byte_level and self._tokenizer.encode_special_tokens:
            control = self.control_ids()
            for place, (row, found) in enumerate(zip(converted["input_ids"], encodings, strict=True)):
                if forged := forged_places(found, control, row):
                    row = [self.unk_token_id if i in forged else index for i, index in enumerate(row)]
                    converted["input_ids"][place] = row
        return converted, encodings

    def control_ids(self) -> set[int]:
        """Return the ids of padding, beginning and end, which no text may have; all but the unknown token's."""
        named = tuple(self._special_tokens_map.items())
        if self._control[0] != named:
            ids = {self.convert_tokens_to_ids(str(token)) for token in self.special_tokens_map.values()}
            self._control = (named, ids - {self.unk_token_id, self.mask_token_id if self.mask_token else None})
        return self._control[1]

    def _convert_token_to_id_with_added_voc(self, token: str) -> int:
        index, size = super()._convert_token_to_id_with_added_voc(token), self.dictionary_size
        return self.unk_token_id if size is not None and index is not None and index >= size else index

    def _front(self) -> list[int]:
        """Return a token whose text, a space, the decoder takes away from the front; none if it takes none away."""
        if self._at_front is None:
            found = (self._tokenizer.token_to_id(space) for space in ("Ġ", "▁"))
            self._at_front = [i for i in found if i is not None and self._tokenizer.decode([i]) == ""][:1]
        return self._at_front

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        token_ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if self.bos_token_id in self._tokenizer.encode("").ids:  # `for_continuation`
            first = next((index for index in token_ids if index != self.pad_token_id), None)
            if first != self.bos_token_id:
                # The decoder takes a space away from the front, which here is not the one that encoding put there.
                token_ids = [*self._front(), *token_ids]
        # The decoder reads the letters of added tokens as bytes where it can, which is wrong beyond ASCII; and it would
        # take away a space that an added token begins with.
        apart = self._tokens_to_decode_apart()
        if apart.isdisjoint(token_ids):
            return super()._decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)
        text = ""
        for inner, group in groupby(token_ids, apart.__contains__):
            if inner:
                skipped = self.all_special_ids if skip_special_tokens else ()
                text += "".join(self.added_tokens_decoder[token].content for token in group if token not in skipped)
            else:
                front = self._front() if text else []
                text += super()._decode([*front, *group], skip_special_tokens=skip_special_tokens, **kwargs)
        return text

    def _tokens_to_decode_apart(self) -> set[int]:
        """Return the ids of added tokens whose text the decoder would change; found again when tokens were added."""
        size = self._tokenizer.get_vocab_size()
        if self._decoded_apart[0] != size:
            added = self._tokenizer.get_added_tokens_decoder().items() if self._byte_level else ()
            found = {index for index, token in added if token.content[:1] == " " or not token.content.isascii()}
            self._decoded_apart = (size, found)
        return self._decoded_apart[1]

    def _add_tokens(self, new_tokens: list[str | AddedToken], special_tokens: bool = False) -> int:
        """Add tokens; the mask as one that is read from text, where special ones are not, with the space before it."""
        mask = None if self.mask_token is None else str(self.mask_token)
        if self.dictionary_size is not None:
            self._refuse_new(new_tokens)
        rest, added = [token for token in new_tokens if str(token) != mask], 0
        # A pipeline of another kind has its own way with what is in it already, and spaces in front of words only.
        byte_level, present = self._byte_level, space_in_front_only(self._tokenizer)
        if len(rest) < len(new_tokens) and (byte_level or mask not in self.added_tokens_encoder):
            if present:
                self._tokenizer.normalizer = front_normalizer(mask)
            token = AddedToken(mask, special=False, normalized=byte_level, lstrip=not byte_level)
            added = self._tokenizer.add_tokens([token])
        if present:
            # Text is not changed by normalisation, only marked at its front: what is looked for is the text itself.
            rest = [_as_written(token, special_tokens) for token in rest]
        return added + (super()._add_tokens(rest, special_tokens=special_tokens) if rest else 0)

    def _refuse_new(self, tokens: list[str | AddedToken]) -> None:
        new = [str(token) for token in tokens if self._tokenizer.token_to_id(str(token)) is None]
        if new:
            raise ValueError(
                f"{new[0]!r} cannot be added: beyond its {self.dictionary_size} entries this vocabulary has pieces "
                "that only divide text, so that a new token would have no id beside the others."
            )


class VaswaniTokenizer(TwoVocabularies, OneVocabulary):
    """Byte-level byte-pair tokenizer, shared by source and target, that appends `</s>` and loses no character.

    Text that looks like a special token (`a </s> b`) is text: `split_special_tokens` is on, and saved as such, so no
    input can end or pad a sentence. Pass `split_special_tokens=False` to a call to have it read as a control token.

    `pair(source, target)` gives source and target a vocabulary each: see `tokenization_vaswani_pair.py`.
    `for_continuation()` returns the form that causal language models need; `tokenization_vaswani_chat.py` adds chats.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "target_tokenizer_file": TARGET_FILE}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "right"
    truncation_side = "right"
    model = BPE

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
        """Learn the joint vocabulary of source and target from files, or from texts that cannot be taken for files.

        See `vaswani_tx.tokenizer_training.train_tokenizer`.

        Raises:
            ValueError: files, text or sizes that cannot be trained on.
            ImportError: the class was loaded from a model's folder, and the package is not installed.
        """
        training = _training()
        return training.train_tokenizer(
            cls, corpus, vocab_size, min_frequency, show_progress, length, mask_token, control_tokens, **kwargs
        )

    @classmethod
    def train_from_iterator(cls, texts: Iterable[Any], vocab_size: int = 37000, **kwargs: Any) -> "VaswaniTokenizer":
        """Learn the joint vocabulary from texts, in a list or any iterable of strings or of lists of them.

        Args:
            texts: never read as names of files.
            vocab_size: as of `train`, like all that `kwargs` may hold.

        Raises:
            ValueError: text or sizes that cannot be trained on.
            ImportError: the class was loaded from a model's folder, and the package is not installed.
        """
        training = _training()
        return training.train_tokenizer(cls, training.texts_of(texts), vocab_size, **kwargs)

    @classmethod
    def train_pair(
        cls, source_corpus: Any, target_corpus: Any, source_vocab_size: int = 37000, vocab_size: int = 37000,
        **kwargs: Any,
    ) -> "VaswaniTokenizer":  # fmt: skip
        """Learn a vocabulary of each language, for models with `source_vocab_size`.

        Args:
            source_corpus, target_corpus: files or texts, as of `train`.
            source_vocab_size, vocab_size: entries wanted of the source's and of the target's vocabulary.
            kwargs: as of `train`, for both.

        Raises:
            ValueError: files, text or sizes that cannot be trained on; the message says which size.
            ImportError: the class was loaded from a model's folder, and the package is not installed.
        """
        training = _training()
        training.check_vocab_size("source_vocab_size", source_vocab_size, kwargs)
        training.check_vocab_size("vocab_size", vocab_size, kwargs)
        source = cls.train(source_corpus, source_vocab_size, **kwargs)
        return cls.pair(source, cls.train(target_corpus, vocab_size, **kwargs))

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Render messages with the chat template, without tokenizing them.

        Raises:
            NotImplementedError: tokens are asked for; control tokens that users wrote would not be recognised here.
        """
        if kwargs.pop("tokenize", True):
            raise NotImplementedError(
                "The code in this model's folder does not tokenize chats, as only that of a decoder-only model does: "
                "install the package, with `pip install vaswani-tx`, and import vaswani_tx before loading."
            )
        return super().apply_chat_template(conversation, *args, tokenize=False, **kwargs)

    def for_continuation(self) -> "VaswaniTokenizer":
        """Return the same vocabulary for causal language models: `<s>` in front of a text, no `</s>`, padding left.

        Tokens that do not begin with `<s>` are then the middle of a text: decoding leaves the space at their front.

        Raises:
            ValueError: source and target have a vocabulary each.
        """
        if self.has_target:
            raise ValueError(
                "A causal language model reads one vocabulary, and this tokenizer has two: call for_continuation of "
                "its `.source` or its `.target`."
            )
        if self.bos_token is None:
            raise ValueError(
                "This vocabulary has no token for the beginning of a text, which a causal language model needs: name "
                'one, as with add_special_tokens({"bos_token": "<s>"}).'
            )
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            settings = {"add_bos_token": True, "add_eos_token": False, "padding_side": "left"}
            return type(self).from_pretrained(folder, **settings)


def _training() -> Any:
    try:
        return importlib.import_module("vaswani_tx.tokenizer_training")
    except ModuleNotFoundError as error:
        raise ImportError(
            "The code in a model's folder can load a tokenizer but not train one: install the package, with "
            "`pip install vaswani-tx`, and use its VaswaniTokenizer.train."
        ) from error


def _as_written(token: str | AddedToken, special: bool) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=False)
    return AddedToken(**{**token.__getstate__(), "normalized": False})


__all__ = ["MASK_TOKEN", "VaswaniTokenizer"]
