"""onnxruntime as an engine: transformers' generation over the files of an export to ONNX."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from vaswani_tx.engines.base import EngineModel, check, note_of
from vaswani_tx.errors import ExportError
from vaswani_tx.export.folders import need
from vaswani_tx.export.onnx import parts_in
from vaswani_tx.export.verify_onnx import session


class _Encoder(nn.Module):
    """The encoder of an exported folder."""

    main_input_name = "input_ids"

    def __init__(self, run: Any):
        super().__init__()
        self.run = run

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutput:
        """Encode sources [B, S]: `last_hidden_state` [B, S, D]."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        given = {"input_ids": input_ids.numpy(), "attention_mask": mask.numpy()}
        return BaseModelOutput(last_hidden_state=torch.from_numpy(self.run.run(None, given)[0]))


class OnnxModel(EngineModel):
    """An encoder-decoder that onnxruntime computes, step by step; the search is that of `generate`.

    Args:
        folder: the exported folder.
        threads: of onnxruntime; None: torch's.
    """

    engine = "onnx"
    lacks: ClassVar[dict[str, str]] = {
        "alignments": "its files do not return cross-attention",
        "a forward pass (alignments, perplexity, labels)": "its files do not return cross-attention",
    }

    def __init__(self, folder: str | Path, threads: int | None = None):
        folder = Path(folder)
        super().__init__(folder, note_of(folder, self.engine))
        need("onnxruntime", "--engine onnx")
        files = parts_in(folder)
        try:
            runs = [
                session(files[name], threads) for name in ("encoder_model", "decoder_model", "decoder_with_past_model")
            ]
        except Exception as error:  # onnxruntime has no common class of errors
            raise ExportError(f"onnxruntime cannot load '{folder}' ({error}): export the model again.") from None
        self.encoder, self.first, self.later = _Encoder(runs[0]), runs[1], runs[2]
        check(self)

    def get_encoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Return the encoder."""
        return self.encoder

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Return logits [B, T, V] of targets `decoder_input_ids` [B, T], those after what is cached.

        Raises:
            ExportError: attention or inputs are asked for that the files do not have.
        """
        if output_attentions or decoder_input_ids is None:
            raise self.lack("a forward pass (alignments, perplexity, labels)")
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        states = encoder_outputs[0]
        mask = torch.ones(states.shape[:2], dtype=torch.long) if attention_mask is None else attention_mask.long()
        given = {"encoder_attention_mask": mask.numpy(), "input_ids": decoder_input_ids.numpy()}
        cache = past_key_values
        cached = cache.get_seq_length() if cache is not None else 0
        if not cached:
            logits, *present = self.first.run(None, {**given, "encoder_hidden_states": states.numpy()})
        else:
            if not isinstance(cache, EncoderDecoderCache) or decoder_input_ids.shape[1] != 1:
                raise ExportError("the exported decoder takes one token after those that are cached.")
            for number, (own, source) in enumerate(_layers(cache)):
                for stack, layer in (("decoder", own), ("encoder", source)):
                    for what, tensor in (("key", layer.keys), ("value", layer.values)):
                        given[f"past_key_values.{number}.{stack}.{what}"] = tensor.contiguous().numpy()
            logits, *present = self.later.run(None, given)
        tensors = [torch.from_numpy(array) for array in present]
        if use_cache is not False:
            cache = _stored(cache, tensors, 2 if cached else 4, self.config)
        return Seq2SeqLMOutput(logits=torch.from_numpy(logits), past_key_values=cache, encoder_last_hidden_state=states)


def _layers(cache: EncoderDecoderCache) -> list[tuple[Any, Any]]:
    return list(zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=True))


def _stored(cache: Any, tensors: list[torch.Tensor], each: int, config: Any) -> EncoderDecoderCache:
    """Put what a step returned, `each` tensors a layer, in the place of what was cached."""
    if not isinstance(cache, EncoderDecoderCache):
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    own, source = cache.self_attention_cache, cache.cross_attention_cache
    for number in range(len(tensors) // each):
        keys, values, *rest = tensors[each * number : each * (number + 1)]
        if rest:
            own.update(keys, values, number)
            source.update(*rest, number)
            cache.is_updated[number] = True
        else:
            own.layers[number].keys, own.layers[number].values = keys, values
    return cache
