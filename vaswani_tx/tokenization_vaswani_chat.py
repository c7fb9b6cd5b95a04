"""Chats for `VaswaniTokenizer`: a template, and tokens of rendered chats in which no message can forge a control token.

A template writes its control tokens into one text with what users wrote. To tell the two apart, the first letter of
every control token in the messages is replaced, before rendering, by a private-use character that occurs nowhere else;
in the rendered text, all control tokens are then the template's, and the letters are put back when the rest is encoded.

`tokenizer_config.json` names the class, so that it has the name of the one that it extends: folders of models with and
without chats load with either.
"""

import json
import re
from typing import Any

from tokenizers import pre_tokenizers
from transformers import BatchEncoding, TokenizersBackend
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy

from .tokenization_vaswani import EOS_TOKEN, forged_places, space_in_front_only
from .tokenization_vaswani import VaswaniTokenizer as TextTokenizer

CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
# <s><|user|> Hello.</s><|assistant|> Hello to you.</s>: contents follow their control token after a space, so that
# their words are the tokens that they are in any text.
CHAT_TEMPLATE = """
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception("A message's role must be system, user or assistant, not '" ~ message['role'] ~ "'.") -}}
    {%- endif -%}
    {{- '<|' ~ message['role'] ~ '|>' -}}
    {%- set content = message['content'] | trim -%}
    {%- set space = ' ' if content else '' -%}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- space ~ content ~ eos_token -}}{%- endgeneration -%}
    {%- else -%}
        {{- space ~ content ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
# For tokenizers that put a space after each control token themselves, as all did once.
TEMPLATE_WITHOUT_SPACES = CHAT_TEMPLATE.replace("' ' if content else ''", "''")
# How transformers reads the answer to such a chat back into a message.
CHAT_RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {"content": {"close": EOS_TOKEN, "content": "text"}},
}
# Where replacement letters are looked for: private use, so hardly ever in a text.
PRIVATE_USE = range(0xE000, 0xF8FF)


class VaswaniTokenizer(TextTokenizer):
    """The tokenizer of `tokenization_vaswani.py` with chats: `prepare_for_chat()` gives it a chat template."""

    def prepare_for_chat(self) -> int:
        """Set `CHAT_TEMPLATE` and return how many of its tokens were new: the model needs so many more embeddings."""
        added = self.add_special_tokens({"extra_special_tokens": list(CHAT_TOKENS)}, replace_extra_special_tokens=False)
        self.chat_template = CHAT_TEMPLATE if space_in_front_only(self._tokenizer) else TEMPLATE_WITHOUT_SPACES
        self.response_template = dict(CHAT_RESPONSE)
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
        """Render messages with the chat template and return their tokens; arguments as in transformers.

        Only what the template writes becomes a control token. The same characters inside messages, tools, documents
        and further variables remain text, whatever the template does with them: a control token needs at least its
        first character from the template.
        """
        if self.has_target:
            rest = {"chat_template": chat_template, "tokenize": tokenize, "tokenizer_kwargs": tokenizer_kwargs}
            return self.source.apply_chat_template(conversation, tools, documents, **rest, **kwargs)
        kwargs.pop("sanitize_control_tokens", None)  # it is always done
        if tokenize:
            if isinstance(conversation, (list, tuple)):
                conversation = [getattr(chat, "messages", chat) for chat in conversation]
            conversation = getattr(conversation, "messages", conversation)
            given = [conversation, tools, documents, kwargs]
            letters = self._replacement_letters(str(self.get_chat_template(chat_template, tools)), given)
            marks = self._beginnings_of_control_tokens()
            conversation, tools, documents, kwargs = (_replace(value, marks, letters) for value in given)
            tokenizer_kwargs = {**(tokenizer_kwargs or {}), "replacement_letters": letters}
        # Not the text tokenizer's method, which refuses to tokenize chats.
        return TokenizersBackend.apply_chat_template(
            self,
            conversation,
            tools,
            documents,
            chat_template,
            tokenize=tokenize,
            tokenizer_kwargs=tokenizer_kwargs,
            **kwargs,
        )

    def _control_tokens(self) -> list[str]:
        """Return all control tokens, longer ones first."""
        return sorted((token.content for token in self.added_tokens_decoder.values()), key=len, reverse=True)

    def _beginnings_of_control_tokens(self) -> re.Pattern:
        """Match the first character of a control token, also of one that a text ends in the middle of.

        Upper and lower case match: a template may change the case.
        """
        tokens = self._control_tokens()
        cut = {token[:length] for token in tokens for length in range(1, len(token))}
        choices = [*map(re.escape, tokens), *(f"{re.escape(part)}\\Z" for part in sorted(cut))]
        return re.compile(f"(?=(?:{'|'.join(choices)})).", re.IGNORECASE | re.DOTALL)

    def _replacement_letters(self, template: str, given: Any) -> dict[str, str]:
        """Map each letter that a control token may begin with to one that occurs nowhere in template and data."""
        firsts = {form for token in self._control_tokens() for form in (token[0].lower(), token[0].upper())}
        taken = {*template, *json.dumps(given, ensure_ascii=False, default=str)}
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in taken)
        try:
            return {first: next(free) for first in sorted(firsts)}
        except StopIteration:
            raise ValueError(
                "The messages hold every private-use character, U+E000 to U+F8FE: take some out."
            ) from None

    def _encode_plus(
        self, text: Any, text_pair: Any = None, replacement_letters: Any = None, **kwargs: Any
    ) -> BatchEncoding:
        """Encode text, or chats in which the first letters of control tokens that users wrote are replaced."""
        if replacement_letters is None:
            return super()._encode_plus(text, text_pair, **kwargs)
        padding = kwargs.get("padding_strategy", PaddingStrategy.DO_NOT_PAD)
        side, longest = kwargs.get("padding_side") or self.padding_side, kwargs.get("max_length")
        self.set_truncation_and_padding(
            PaddingStrategy.DO_NOT_PAD, TruncationStrategy.DO_NOT_TRUNCATE, None, 0, None, None
        )
        chats = [text] if isinstance(text, str) else text
        encodings = [self._encode_chat(chat, replacement_letters) for chat in chats]
        truncation = kwargs.get("truncation_strategy", TruncationStrategy.DO_NOT_TRUNCATE)
        for encoding in encodings if truncation != TruncationStrategy.DO_NOT_TRUNCATE and longest else ():
            encoding.truncate(longest, direction=self.truncation_side)
        if padding != PaddingStrategy.DO_NOT_PAD:
            fills = padding == PaddingStrategy.MAX_LENGTH
            width = longest if fills and longest is not None else max(map(len, encodings))
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

    def _encode_chat(self, chat: str, replacement_letters: dict[str, str]) -> Any:
        """Return the tokens of one rendered chat; offsets count its characters."""
        meant = str.maketrans({other: letter for letter, other in replacement_letters.items()})
        backend, parts = self._tokenizer, []
        steps = backend.pre_tokenizer
        # Each part is encoded as a text of its own: only the first may be given the space in front.
        later = steps
        if space_in_front_only(backend):
            later = pre_tokenizers.Sequence([steps[place] for place in (1, 2, 3)])
        elif isinstance(steps, pre_tokenizers.Metaspace) and steps.prepend_scheme == "first":
            later = pre_tokenizers.Metaspace(steps.replacement, "never", steps.split)
        try:
            for number, part in enumerate(re.split(f"({'|'.join(map(re.escape, self._control_tokens()))})", chat)):
                if part:
                    # What the split found is the template's; all else is text.
                    backend.encode_special_tokens = number % 2 == 0
                    parts.append(backend.encode(part.translate(meant), add_special_tokens=False))
                    if number % 2 == 0 and not self._byte_level and forged_places(parts[-1], self.control_ids()):
                        raise ValueError(
                            "A message holds what this vocabulary reads as a control token whatever is around it: take "
                            f"{' and '.join(sorted(self.special_tokens_map.values()))} out of the messages."
                        )
                    backend.pre_tokenizer = later
        finally:
            backend.pre_tokenizer = steps
        parts = parts or [backend.encode("", add_special_tokens=False)]
        merged = type(parts[0]).merge(parts, growing_offsets=True)
        merged.set_sequence_id(0)  # to find characters in all parts
        backend.encode_special_tokens = False  # the control tokens in it are meant
        return merged


def _replace(value: Any, pattern: re.Pattern, letters: dict[str, str]) -> Any:
    """Return nested lists and mappings with each letter that `pattern` finds in their texts replaced."""
    if isinstance(value, str):
        return pattern.sub(lambda found: letters[found[0]], value)
    if isinstance(value, dict):
        return {_replace(key, pattern, letters): _replace(inner, pattern, letters) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace(inner, pattern, letters) for inner in value]
    return value


__all__ = ["CHAT_RESPONSE", "CHAT_TEMPLATE", "CHAT_TOKENS", "VaswaniTokenizer"]
