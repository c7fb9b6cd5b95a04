"""Two vocabularies behind one tokenizer: that of the source, read by the encoder, and that of the target.

A folder with two holds `tokenizer.json` (the source's pipeline), `target_tokenizer.json` (the target's) and, in
`tokenizer_config.json`, the target's special tokens as the table `target`. Without that table a folder has one.

    tok(text)                       ids of the source
    tok(text_target=text)           ids of the target
    tok(text, text_target=text)     the former, with the latter as `labels`
    tok.decode(ids), tok.convert_ids_to_tokens(ids), tok.pad_token_id     of the target, as of the model
    len(tok), tok.get_vocab(), tok.convert_tokens_to_ids(tokens), tok.add_tokens(tokens)     of the source

`tok.source` and `tok.target` are the tokenizers of one vocabulary, on which everything is that side's.
"""

import copy
import os
from typing import Any

from transformers import BatchEncoding, TokenizersBackend

TARGET_FILE = "target_tokenizer.json"
# The sides share these settings: those of the tokenizer that holds both count.
SHARED_SETTINGS = ("model_max_length", "padding_side", "truncation_side")
# What `tokenizer_config.json` says of a target besides its special tokens, where it differs from transformers' default.
_OWN_SETTINGS = ("split_special_tokens", "clean_up_tokenization_spaces", "dictionary_size")
_OWN_STATE = ("_source", "_target", "_reads_target")


def side_settings(tokenizer: Any) -> dict[str, Any]:
    """Return the special tokens and settings that, with its pipeline, make a tokenizer of one vocabulary."""
    settings: dict[str, Any] = dict(tokenizer.special_tokens_map)
    if tokenizer.extra_special_tokens:
        settings["extra_special_tokens"] = list(tokenizer.extra_special_tokens)
    settings |= {name: getattr(tokenizer, name, None) for name in _OWN_SETTINGS}
    return {name: value for name, value in settings.items() if value is not None}


class TwoVocabularies(TokenizersBackend):
    """The part of `VaswaniTokenizer` that sends each call to the side that it is for; with one side, to itself.

    The object's own pipeline is the source's.
    """

    _target: Any = None
    _source: Any = None
    _reads_target = False

    def __init__(self, *args: Any, target: Any = None, target_tokenizer_file: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if isinstance(target, dict):
            if target_tokenizer_file is None or not os.path.isfile(target_tokenizer_file):
                raise ValueError(
                    f"tokenizer_config.json says that the target has a vocabulary of its own, but {TARGET_FILE} is "
                    "missing: copy the folder again from where it is whole."
                )
            target = type(self)(tokenizer_file=target_tokenizer_file, **target)
        if target is not None:
            self._source, self._target = copy.copy(self), target

    @classmethod
    def pair(cls, source: Any, target: Any) -> Any:
        """Return one tokenizer of two vocabularies.

        Args:
            source, target: tokenizers of one vocabulary each, which are copied. Maximal length and the sides of
                padding and truncation are the source's, for both.

        Raises:
            ValueError: one is no tokenizer of the library `tokenizers`, or has two vocabularies itself.
        """
        for name, side in (("source", source), ("target", target)):
            if not isinstance(side, TokenizersBackend):
                raise ValueError(
                    f"The {name} is {type(side).__name__}: give a VaswaniTokenizer, or another fast tokenizer."
                )
            if getattr(side, "has_target", False):
                raise ValueError(f"The {name} has two vocabularies: give its `.source` or its `.target`.")
        shared = {name: getattr(source, name) for name in SHARED_SETTINGS}
        other = cls(tokenizer_object=target.backend_tokenizer, **side_settings(target))
        return cls(tokenizer_object=source.backend_tokenizer, target=other, **side_settings(source), **shared)

    @property
    def has_target(self) -> bool:
        """Return whether the target has a vocabulary of its own."""
        return self._target is not None

    @property
    def source(self) -> Any:
        """Return the source's tokenizer, which is this one where there is one vocabulary."""
        if self._target is None:
            return self
        # One object throughout, as caches of its tokens expect, that follows every change of this one.
        self._source.__dict__.update({name: value for name, value in self.__dict__.items() if name not in _OWN_STATE})
        return self._source

    @property
    def target(self) -> Any:
        """Return the target's tokenizer, which is this one where there is one vocabulary."""
        if self._target is None:
            return self
        for name in SHARED_SETTINGS:
            setattr(self._target, name, getattr(self, name))
        return self._target

    @property
    def _side(self) -> Any:
        """The side that texts are of at the moment, as transformers' switches say."""
        return self.target if self._reads_target else self.source

    def _switch_to_input_mode(self) -> None:
        if self.has_target:
            self._reads_target = False

    def _switch_to_target_mode(self) -> None:
        if self.has_target:
            self._reads_target = True

    def __call__(
        self, text: Any = None, text_pair: Any = None, text_target: Any = None, text_pair_target: Any = None,
        *args: Any, **kwargs: Any,
    ) -> BatchEncoding:  # fmt: skip
        """Encode a text, a target (`text_target`), or both: the target's ids are then `labels`."""
        if not self.has_target or (text is None and text_target is None):
            return super().__call__(text, text_pair, text_target, text_pair_target, *args, **kwargs)
        if not self._in_target_context_manager:
            self._switch_to_input_mode()
        # No switching in between: calls of several threads do not meet.
        found = None if text is None else self._side(text, text_pair, None, None, *args, **kwargs)
        if text_target is None:
            return found
        target = self.target(None, None, text_target, text_pair_target, *args, **kwargs)
        if found is None:
            return target
        found["labels"] = target["input_ids"]
        return found

    def _encode_plus(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        return self._side._encode_plus(*args, **kwargs) if self.has_target else super()._encode_plus(*args, **kwargs)

    def _decode(self, *args: Any, use_source_tokenizer: bool = False, **kwargs: Any) -> str:
        if not self.has_target:
            return super()._decode(*args, **kwargs)
        return (self.source if use_source_tokenizer else self.target)._decode(*args, **kwargs)

    def pad(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Pad encoded texts with the padding of the source; what a call encodes as target is padded with its own."""
        return self._side.pad(*args, **kwargs) if self.has_target else super().pad(*args, **kwargs)

    def convert_ids_to_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tokens of the target with these ids."""
        own = super().convert_ids_to_tokens
        return (self.target.convert_ids_to_tokens if self.has_target else own)(*args, **kwargs)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Return the text of tokens of the target."""
        own = super().convert_tokens_to_string
        return (self.target.convert_tokens_to_string if self.has_target else own)(tokens)

    def _convert_id_to_token(self, index: int) -> str | None:
        return self.target._convert_id_to_token(index) if self.has_target else super()._convert_id_to_token(index)

    def _convert_token_to_id_with_added_voc(self, token: str) -> Any:
        own = super()._convert_token_to_id_with_added_voc
        return (self._side._convert_token_to_id_with_added_voc if self.has_target else own)(token)

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of special tokens in the target, which decoding can skip."""
        return self.target.all_special_ids if self.has_target else super().all_special_ids

    def __getattr__(self, key: str) -> Any:
        # `pad_token_id` and its like go from the tokenizer into models and labels, where they are the target's.
        if key.endswith(("_token_id", "_tokens_ids")) and self.__dict__.get("_target") is not None:
            return getattr(self._target, key)
        return super().__getattr__(key)

    def update_post_processor(self) -> None:
        """Write the last step of the pipeline again, with the ids of its own side."""
        if self.has_target:
            self.source.update_post_processor()
        else:
            super().update_post_processor()

    def save_chat_templates(self, save_directory: Any, tokenizer_config: dict[str, Any], *args: Any, **kwargs: Any):
        """Save templates, and say in the configuration what the target's special tokens are."""
        settings, files = super().save_chat_templates(save_directory, tokenizer_config, *args, **kwargs)
        settings.pop("target", None)
        if self.has_target:
            settings = {**settings, "target": side_settings(self.target)}
        return settings, files

    def _save_pretrained(
        self, save_directory: Any, file_names: tuple[str, ...], legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:  # fmt: skip
        if not self.has_target:
            return super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        sides = {"tokenizer.json": self.source, TARGET_FILE: self.target}
        paths = {os.path.join(str(save_directory), prefix + name): side for name, side in sides.items()}
        try:
            for path, side in paths.items():
                side.backend_tokenizer.save(f"{path}.new")
            for path in paths:
                os.replace(f"{path}.new", path)
        finally:
            for path in paths:
                if os.path.exists(f"{path}.new"):
                    os.remove(f"{path}.new")
        return (*file_names, *paths)


__all__ = ["TARGET_FILE", "TwoVocabularies", "side_settings"]
