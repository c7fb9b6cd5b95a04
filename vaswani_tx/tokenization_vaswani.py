"""`VaswaniTokenizer`: one byte-level byte-pair vocabulary for source and target (the paper's section 5.1).

The whole pipeline is in `tokenizer.json`, so `tokenizers.Tokenizer.from_file` and transformers' own fast class give
the same ids without this package:

    text -> one space in front -> letters | digit | punctuation | white space -> bytes -> merges -> `</s>` at the end

No Unicode normalisation and all 256 bytes in the vocabulary: decoding gives back exactly the text that was encoded. The
space in front makes the first word of a sentence the same token as inside a sentence; decoding takes exactly it away.

Control tokens written in a text are text. Two things are read as control tokens: `<mask>` in the place of a word,
by a tokenizer that has it as its mask token, and what a chat template itself writes.
"""

import importlib
import tempfile
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken
from tokenizers.models import BPE
from transformers import TokenizersBackend

PAD_TOKEN, BOS_TOKEN, EOS_TOKEN, UNK_TOKEN = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
NAMED_TOKENS = {"pad_token": PAD_TOKEN, "bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "unk_token": UNK_TOKEN}
MINIMAL_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
MASK_TOKEN = "<mask>"


class VaswaniTokenizer(TokenizersBackend):
    """Byte-level byte-pair tokenizer, shared by source and target, that appends `</s>` and loses no character.

    Text that looks like a special token (`a </s> b`) is text: `split_special_tokens` is on, and saved as such, so no
    input can end or pad a sentence. Pass `split_special_tokens=False` to a call to have it read as a control token.

    `for_continuation()` returns the form that causal language models need; `tokenization_vaswani_chat.py` adds chats.
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
        """Learn the joint vocabulary of source and target: see `vaswani_tx.tokenizer_training.train_tokenizer`.

        Raises:
            ValueError: files, text or sizes that cannot be trained on.
            ImportError: the class was loaded from a model's folder, and the package is not installed.
        """
        try:
            training = importlib.import_module("vaswani_tx.tokenizer_training")
        except ModuleNotFoundError as error:
            raise ImportError(
                "The code in a model's folder can load a tokenizer but not train one: install the package, with "
                "`pip install vaswani-tx`, and use its VaswaniTokenizer.train."
            ) from error
        return training.train_tokenizer(
            cls, corpus, vocab_size, min_frequency, show_progress, length, mask_token, control_tokens, **kwargs
        )

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
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            settings = {"add_bos_token": True, "add_eos_token": False, "padding_side": "left"}
            return type(self).from_pretrained(folder, **settings)

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


__all__ = ["MASK_TOKEN", "VaswaniTokenizer"]
