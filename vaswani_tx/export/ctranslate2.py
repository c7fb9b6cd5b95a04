"""CTranslate2: the folder that its `Translator`, `Generator` and `Encoder` load.

Sinusoids are passed as the model's own table: CTranslate2's built-in ones are halves of sines and cosines, counted
from 1. Each weight of a model has its place in the specification here; a field that has none is refused.
"""

import math
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.export.folders import kind_of, need, refuse_fields, save_words
from vaswani_tx.export.verify_ctranslate2 import verify as verify
from vaswani_tx.layers_vaswani import VaswaniSinusoidalPositions
from vaswani_tx.token_texts_vaswani import source_of, target_of

QUANTIZATIONS = ("float32", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16")
# Their `Activation`, by the names of transformers' functions that compute the same.
ACTIVATIONS = {
    "relu": "RELU",
    "gelu": "GELU",
    "gelu_new": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "gelu_fast": "GELUTanh",
    "quick_gelu": "GELUSigmoid",
    "silu": "SWISH",
    "swish": "SWISH",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
}
# Rows of a table of sinusoids, which ends where those of the model do not.
POSITIONS = 2048


def check(config: Any) -> None:
    """Raise ExportError, with all reasons, where CTranslate2 has no place for what a configuration says."""
    kind_of(config)
    wrong = []
    if config.activation_function not in ACTIVATIONS:
        wrong.append(f"activation_function={config.activation_function!r} is none of {', '.join(ACTIVATIONS)}")
    if config.d_k != config.d_v:
        wrong.append(f"d_k={config.d_k} and d_v={config.d_v} differ, and its heads have one width")
    elif config.num_heads * config.d_k != config.d_model:
        wrong.append(f"num_heads * d_k = {config.num_heads * config.d_k} is not d_model={config.d_model}")
    if getattr(config, "decoder_cell", "attention") != "attention":
        wrong.append(f"decoder_cell={config.decoder_cell!r}, and its decoders have self-attention only")
    refuse_fields(config, "CTranslate2", wrong)


def write(
    model: Any,
    tokenizer: Any,
    folder: Path,
    quantization: str | None = None,
    positions: int | None = None,
) -> list[str]:
    """Write model.bin, config.json and the vocabulary; return notes.

    Args:
        quantization: of the stored weights, one of `QUANTIZATIONS`; None: float32.
        positions: rows of the table of sinusoids; None: `POSITIONS`, or the model's where it has more.
    """
    need("ctranslate2", "export to CTranslate2")
    check(model.config)
    quantization = quantization or "float32"
    spec = {"encoder-decoder": _translator, "decoder": _generator, "encoder": _encoder}[kind_of(model.config)](
        model, tokenizer, positions
    )
    spec.config.layer_norm_epsilon = float(model.config.layer_norm_eps)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    save_words(model, tokenizer, folder)
    config = model.config
    notes = [f"weights are stored as {quantization}"]
    if config.position_embedding == "sinusoidal":
        rows = _rows(config, positions)
        notes.append(f"the table of sinusoids ends at position {rows}: a longer source or target is refused")
    return notes


def note(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return what an engine has to know: where the table of positions ends."""
    config = model.config
    is_table = config.position_embedding == "learned"
    return {"positions": config.max_position_embeddings if is_table else _rows(config, options.get("positions"))}


def _rows(config: Any, positions: int | None) -> int:
    return positions or max(POSITIONS, config.max_position_embeddings)


def _options(config: Any) -> dict[str, Any]:
    from ctranslate2.specs import common_spec

    return {
        # Built with the places of final norms where the model has them: they do not depend on the order of norms.
        "pre_norm": config.final_layer_norm,
        "no_final_norm": not config.final_layer_norm,
        "activation": getattr(common_spec.Activation, ACTIVATIONS[config.activation_function]),
        "layernorm_embedding": config.embedding_norm,
    }


def _translator(model: Any, tokenizer: Any, positions: int | None) -> Any:
    from ctranslate2.specs import transformer_spec

    config = model.config
    spec = transformer_spec.TransformerSpec(
        transformer_spec.TransformerEncoderSpec(config.encoder_layers, config.num_heads, **_options(config)),
        transformer_spec.TransformerDecoderSpec(config.decoder_layers, config.num_heads, **_options(config)),
    )
    _fill_stack(spec.encoder, spec.encoder.embeddings[0], model.model.encoder, positions)
    _fill_stack(spec.decoder, spec.decoder.embeddings, model.model.decoder, positions)
    _fill_linear(spec.decoder.projection, model.lm_head)
    source, target = source_of(tokenizer), target_of(tokenizer)
    source_tokens = tokens_of(source, config.source_vocab_size or config.vocab_size)
    target_tokens = tokens_of(target, config.vocab_size)
    spec.register_source_vocabulary(source_tokens)
    spec.register_target_vocabulary(target_tokens)
    start = model.generation_config.decoder_start_token_id
    _name_tokens(spec.config, target, target_tokens)
    spec.config.decoder_start_token = target_tokens[config.decoder_start_token_id if start is None else start]
    spec.config.add_source_bos = spec.config.add_source_eos = False  # the tokenizer writes them
    return spec


def _generator(model: Any, tokenizer: Any, positions: int | None) -> Any:
    from ctranslate2.specs import transformer_spec

    config = model.config
    decoder = transformer_spec.TransformerDecoderSpec(
        config.num_hidden_layers, config.num_heads, with_encoder_attention=False, **_options(config)
    )
    spec = transformer_spec.TransformerDecoderModelSpec(decoder)
    _fill_stack(spec.decoder, spec.decoder.embeddings, model.model, positions)
    _fill_linear(spec.decoder.projection, model.lm_head)
    tokens = tokens_of(tokenizer, config.vocab_size)
    spec.register_vocabulary(tokens)
    _name_tokens(spec.config, tokenizer, tokens)
    return spec


def _encoder(model: Any, tokenizer: Any, positions: int | None) -> Any:
    from ctranslate2.specs import transformer_spec

    config = model.config
    encoder = transformer_spec.TransformerEncoderSpec(config.num_hidden_layers, config.num_heads, **_options(config))
    spec = transformer_spec.TransformerEncoderModelSpec(encoder)
    _fill_stack(spec.encoder, spec.encoder.embeddings[0], model.base_model, positions)
    tokens = tokens_of(tokenizer, config.vocab_size)
    spec.register_vocabulary(tokens)
    _name_tokens(spec.config, tokenizer, tokens)
    return spec


def tokens_of(tokenizer: Any, size: int) -> list[str]:
    """Return the token of each id; ids that the tokenizer does not have get names of their own."""
    tokens = [tokenizer.convert_ids_to_tokens(index) if index < len(tokenizer) else None for index in range(size)]
    taken, found = set(tokens), []
    for index, token in enumerate(tokens):
        if token is None:
            token = f"<unused{index}>"
            while token in taken:
                token += "'"
        found.append(token)
    return found


def _name_tokens(config: Any, tokenizer: Any, tokens: list[str]) -> None:
    # A token that the vocabulary lacks would be added to it, and nothing would fit any more.
    fallback = tokenizer.pad_token or tokenizer.eos_token or tokens[0]
    for name in ("unk_token", "bos_token", "eos_token"):
        setattr(config, name, getattr(tokenizer, name, None) or fallback)


def _fill_stack(spec: Any, embeddings: Any, stack: Any, positions: int | None) -> None:
    config = stack.config
    spec.pre_norm = config.norm_order == "pre"
    spec.scale_embeddings = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    embeddings.weight = _array(stack.embed_tokens.weight)
    encoding = stack.positional_encoding
    spec.position_encodings.encodings = _table(encoding.positions, _rows(config, positions))
    if encoding.norm is not None:
        _fill_norm(spec.layernorm_embedding, encoding.norm)
    if stack.final_norm is not None:
        _fill_norm(spec.layer_norm, stack.final_norm)
    for layer_spec, layer in zip(spec.layer, stack.layers, strict=True):
        self_attention = layer.self_attn
        _fill_joined(
            layer_spec.self_attention.linear[0],
            [self_attention.q_proj, self_attention.k_proj, self_attention.v_proj],
        )
        _fill_linear(layer_spec.self_attention.linear[1], self_attention.o_proj)
        _fill_norm(layer_spec.self_attention.layer_norm, layer.self_attn_residual.norm)
        if hasattr(layer, "cross_attn"):
            cross = layer.cross_attn
            _fill_linear(layer_spec.attention.linear[0], cross.q_proj)
            _fill_joined(layer_spec.attention.linear[1], [cross.k_proj, cross.v_proj])
            _fill_linear(layer_spec.attention.linear[2], cross.o_proj)
            _fill_norm(layer_spec.attention.layer_norm, layer.cross_attn_residual.norm)
        _fill_linear(layer_spec.ffn.linear_0, layer.feed_forward.fc1)
        _fill_linear(layer_spec.ffn.linear_1, layer.feed_forward.fc2)
        _fill_norm(layer_spec.ffn.layer_norm, layer.feed_forward_residual.norm)


def _table(positions: Any, rows: int) -> Any:
    if isinstance(positions, VaswaniSinusoidalPositions):
        return positions.encode(torch.arange(rows)).to(torch.float32).numpy()
    return _array(positions.weight)


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _fill_linear(spec: Any, linear: torch.nn.Linear) -> None:
    spec.weight = _array(linear.weight)
    if linear.bias is not None:
        spec.bias = _array(linear.bias)


def _fill_joined(spec: Any, linears: list[torch.nn.Linear]) -> None:
    spec.weight = _array(torch.cat([linear.weight for linear in linears]))
    if linears[0].bias is not None:
        spec.bias = _array(torch.cat([linear.bias for linear in linears]))


def _fill_norm(spec: Any, norm: torch.nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)
