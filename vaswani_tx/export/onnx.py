"""ONNX by `torch.onnx.export`: the folder layout and the names that optimum and transformers.js look for."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.export.folders import kind_of, need, refuse_fields, save_words, write_json
from vaswani_tx.export.onnx_merge import merge_decoders
from vaswani_tx.export.steps import Part, parts_of
from vaswani_tx.export.verify_onnx import verify as verify
from vaswani_tx.loading import read_object

OPSET = 18
FOLDER = "onnx"
# Of a file in protobuf's format; larger weights go into a file of their own.
MOST_BYTES = 1_800_000_000


def check(config: Any) -> None:
    """Raise ExportError where a model has no step that can be traced."""
    kind_of(config)
    wrong = []
    if getattr(config, "decoder_cell", "attention") != "attention":
        wrong.append(f"decoder_cell={config.decoder_cell!r}: the files hold keys and values of attention")
    refuse_fields(config, "this layout of ONNX files", wrong)


def write(
    model: Any, tokenizer: Any, folder: Path, quantization: str | None = None, opset: int | None = None
) -> list[str]:
    """Write onnx/*.onnx, config.json and the tokenizer; return notes.

    Args:
        quantization: "float32", or "int8": matrices by onnxruntime's dynamic quantization.
        opset: version of the operators; None: `OPSET`.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "export to ONNX")
    check(model.config)
    place = folder / FOLDER
    place.mkdir()
    parts = parts_of(traceable(model))
    for part in parts:
        _write_part(part, place / f"{part.name}.onnx", opset or OPSET)
    if kind_of(model.config) == "encoder-decoder":
        merge_decoders(place)
    notes = [f"operators of opset {opset or OPSET}"]
    if quantization == "int8":
        _quantize(place)
        notes.append("matrices are int8 (files *_quantized.onnx), activations are quantized as they come")
    write_json(folder / "config.json", known_config(model))
    save_words(model, tokenizer, folder)
    path = folder / "tokenizer_config.json"
    # transformers.js knows no class of ours; the pipeline in tokenizer.json is the whole tokenizer.
    write_json(path, {**read_object(path), "tokenizer_class": "PreTrainedTokenizerFast"})
    return notes


def traceable(model: Any) -> Any:
    """Return a copy with plain attention, whose operators every runtime has."""
    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")
    return model


def note(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return what an engine has to know: where learned positions end."""
    config = model.config
    return {"positions": config.max_position_embeddings if config.position_embedding == "learned" else None}


def known_config(model: Any) -> dict[str, Any]:
    """Return a config.json by which transformers.js and optimum know what kind of files they have.

    The files compute all; of the configuration such tools read the kind, the ids and the sizes of a cache.
    """
    config = model.config
    ids = {name: getattr(config, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"d_model": config.d_model, "max_position_embeddings": config.max_position_embeddings}
    kind = kind_of(config)
    if kind == "encoder-decoder":
        start = config.decoder_start_token_id
        return {
            "model_type": "marian", "architectures": ["MarianMTModel"], "is_encoder_decoder": True, **ids, **sizes,
            "decoder_start_token_id": start, "vocab_size": config.source_vocab_size or config.vocab_size,
            "decoder_vocab_size": config.vocab_size, "encoder_layers": config.encoder_layers,
            "decoder_layers": config.decoder_layers, "encoder_attention_heads": config.num_heads,
            "decoder_attention_heads": config.num_heads, "encoder_ffn_dim": config.d_ff,
            "decoder_ffn_dim": config.d_ff, "forced_eos_token_id": None,
        }  # fmt: skip
    if kind == "decoder":
        return {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **ids, "vocab_size": config.vocab_size,
            "n_embd": config.d_model, "n_head": config.num_heads, "n_layer": config.num_hidden_layers,
            "n_positions": config.max_position_embeddings, "n_inner": config.d_ff,
        }  # fmt: skip
    labels = {name: getattr(config, name) for name in ("id2label", "label2id") if getattr(config, name, None)}
    return {
        "model_type": "bert", "architectures": [type(model).__name__.replace("Vaswani", "Bert")], **ids, **labels,
        "vocab_size": config.vocab_size, "hidden_size": config.d_model, "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_hidden_layers, "intermediate_size": config.d_ff,
        "max_position_embeddings": config.max_position_embeddings,
    }  # fmt: skip


def _write_part(part: Part, path: Path, opset: int) -> None:
    program = part.program()
    exported: Any = torch.onnx.export(
        program,
        input_names=list(part.inputs),
        output_names=part.outputs,
        opset_version=opset,
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    proto = exported.model_proto
    name_dimensions(proto, part)
    save(proto, path)


def name_dimensions(proto: Any, part: Part) -> None:
    """Give the dimensions that may have any size the names that optimum gives them."""
    names: dict[str, str] = {}
    for value in proto.graph.input:
        for place, name in part.dynamic[value.name].items():
            dimension = value.type.tensor_type.shape.dim[place]
            if dimension.dim_param:
                names[dimension.dim_param] = name
            dimension.dim_param = name
    for value in proto.graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                for symbol in sorted(names, key=len, reverse=True):
                    dimension.dim_param = dimension.dim_param.replace(symbol, names[symbol])
    del proto.graph.value_info[:]


def save(proto: Any, path: Path) -> None:
    """Save a model; weights beyond protobuf's limit go into a file beside it."""
    import onnx

    if proto.ByteSize() > MOST_BYTES:
        onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=1024)
    else:
        onnx.save(proto, path)


def _quantize(place: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for path in sorted(place.glob("*.onnx")):
        if path.stem == "decoder_model_merged":
            path.unlink()
            continue
        quantize_dynamic(path, path.with_name(f"{path.stem}_quantized.onnx"), weight_type=QuantType.QInt8)
        path.unlink()


def parts_in(folder: Path) -> dict[str, Path]:
    """Return the files of an exported folder by their parts: `encoder_model`, `decoder_model`, ..."""
    found: dict[str, Path] = {}
    for path in sorted((folder / FOLDER).glob("*.onnx")):
        found.setdefault(path.stem.removesuffix("_quantized"), path)
    return found


def names(sequence: Sequence[Any]) -> list[str]:
    return [one.name for one in sequence]
