"""fairseq's `transformer*` and `transformer_lm*`: a checkpoint, its dictionaries, and the codes of its byte pairs.

    model.pt, dict.en.txt, dict.de.txt, bpecodes -> a folder

The checkpoint holds `model` (weights by name) and the settings, as `args` (a Namespace) or as `cfg`. Sinusoids are
halves, sines then cosines, of tensor2tensor's frequencies, and begin at position 2; LayerNorms have epsilon 1e-5. The
decoder starts from `</s>`, and so does a language model.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.configuration_vaswani import VaswaniConfig, VaswaniDecoderConfig
from vaswani_tx.convert.core import ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.hugging_face import layer_rows
from vaswani_tx.convert.subword_bpe import SpecialSymbols, read_lines
from vaswani_tx.convert.toolkit_files import (
    NO_CODES,
    check_rows,
    embeddings_of_ours,
    find_codes,
    interleave_sinusoids,
    make_config,
    number_of,
    number_of_layers,
    one_value,
    same_embeddings,
    tokenizer_of,
)
from vaswani_tx.convert.torch_files import TextFiles, find_checkpoint, load_plain, settings_of

SPECIAL = SpecialSymbols(pad="<pad>", bos="<s>", eos="</s>", unk="<unk>")
BOS, PAD, EOS, UNK = range(4)
SAVE_AGAIN = "Save args or cfg and model of it alone, where fairseq is installed: docs/convert_toolkits.md says how."
_NAMES = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")
_RECORDS = ("fairseq.", "omegaconf.", "typing.", "torch.optim.")
_ACTIVATIONS = {
    "relu": "relu", "gelu": "gelu", "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new", "tanh": "tanh",
    "linear": "linear",
}  # fmt: skip
# Settings that make other layers, and what they are.
_OTHER_LAYERS = {
    "adaptive_softmax_cutoff": "an adaptive softmax",
    "adaptive_input": "adaptive embeddings",
    "character_embeddings": "embeddings of characters",
    "cross_self_attention": "attention to source and target at once",
    "no_cross_attention": "a decoder without attention to the encoder",
    "no_token_positional_embeddings": "no positions",
    "scale_fc": "NormFormer's further norms",
    "scale_attn": "NormFormer's further norms",
    "scale_heads": "NormFormer's scales",
    "scale_resids": "NormFormer's scales",
    "base_layers": "mixtures of experts",
    "moe_freq": "mixtures of experts",
}
_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "out_proj": "o_proj"}
# Modules with a weight and a bias: of a layer of both stacks, and what a decoder with an encoder has besides.
LAYER = {
    **{f"self_attn.{theirs}": f"self_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "self_attn_layer_norm": "self_attn_residual.norm",
    "fc1": "feed_forward.fc1",
    "fc2": "feed_forward.fc2",
    "final_layer_norm": "feed_forward_residual.norm",
}
CROSS = {
    **{f"encoder_attn.{theirs}": f"cross_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "encoder_attn_layer_norm": "cross_attn_residual.norm",
}
# Of a stack; the settings say which are there.
STACK = {"layernorm_embedding": "positional_encoding.norm", "layer_norm": "final_norm"}
_COPIES = ("in_proj_weight", "in_proj_bias", "out_proj_weight", "out_proj_bias", "fc1_weight", "fc1_bias", "fc2_weight")
_IGNORED = [
    row
    for stack in ("encoder", "decoder")
    for row in (
        (f"{stack}.version", "a number of the format"),
        (f"{stack}.embed_positions._float_tensor", "only the type of the sinusoids"),
        (f"{stack}.embed_positions.weights", "the sinusoids of the positions, computed here and equal"),
        *((f"{stack}.layers.{{i}}.{copy}", "a copy for fairseq's fast path") for copy in (*_COPIES, "fc2_bias")),
    )
]
# What versions before 0.9 called these, by layer of the encoder and of the decoder.
_FORMER_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


def recognises(path: Path) -> bool:
    """Return whether a folder has a checkpoint beside a dictionary; a file alone has to be named by its format."""
    folder = path if path.is_dir() else path.parent
    return _find_checkpoint(path) is not None and any(folder.glob("dict*.txt"))


def read(path: Path, **files: str | Path | None) -> Converted:
    """Read a checkpoint of fairseq.

    Args:
        path: the file, or a folder with `model.pt`, `checkpoint_best.pt` or `checkpoint_last.pt`.
        files: those of `TextFiles`; usual are `dict.<language>.txt` and `bpecodes`, `code`, ... beside the checkpoint.

    Raises:
        ConversionError: the model is of another architecture, or has parts that cannot be converted exactly.
        CheckpointError: a file that cannot be read.
    """
    texts = TextFiles(**files)
    file = _find_checkpoint(path)
    if file is None:
        raise ConversionError(f"{path}: has none of {', '.join(_NAMES)}: name the file of the checkpoint.")
    content = load_plain(file, _RECORDS, SAVE_AGAIN)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConversionError(f"{file}: is no checkpoint of fairseq: it has no table `model` of weights.")
    settings, task = _settings(content)
    weights = {name: value for name, value in content["model"].items() if isinstance(value, torch.Tensor)}
    if not settings:
        raise ConversionError(f"{file}: has neither `args` nor `cfg`, which hold the number of heads and the like.")
    is_lm = not any(name.startswith("encoder.") for name in weights)
    _refuse_other_layers(file, settings, weights, is_lm)
    converted = _convert(_present_names(weights), settings, is_lm)
    converted.unchecked = "fairseq cannot run here"
    folder = file.parent
    named = (texts.source_vocabulary, texts.target_vocabulary)
    dictionaries = _dictionaries(folder, task | settings, named, is_lm)
    _add_tokenizer(converted, dictionaries, texts.codes or find_codes(folder), texts.target_codes)
    if "moses" in (settings.get("tokenizer"), task.get("tokenizer")):
        converted.notes.append(
            "Texts have to be tokenised with Moses before, and detokenised after: no pipeline does it."
        )
    return converted


def _find_checkpoint(path: Path) -> Path | None:
    return find_checkpoint(path, r".+\.pt", [re.escape(name) for name in _NAMES])


def _settings(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the model, flat, and those of the task."""
    whole = settings_of(content.get("cfg")) or settings_of(content.get("args"))
    if not whole:
        return {}, {}
    model, task = whole.get("model", whole), whole.get("task", {})
    model = dict(model) if isinstance(model, dict) else {}
    for stack in ("encoder", "decoder"):
        nested = model.pop(stack, None)
        if isinstance(nested, dict):
            model |= {f"{stack}_{name}": value for name, value in nested.items()}
    for name in ("tokenizer", "bpe"):  # of `cfg`: a table of their own, which names itself
        value = whole.get(name)
        model[name] = value.get("_name") if isinstance(value, dict) else value
    return model, task if isinstance(task, dict) else {"task": task}


def _refuse_other_layers(file: Path, settings: Mapping[str, Any], weights: Mapping[str, Any], is_lm: bool) -> None:
    if not any(name.startswith("decoder.") for name in weights):
        raise ConversionError(
            f"{file}: has no weights of a decoder (first: {next(iter(weights), 'none')!r}): only `transformer*` and "
            "`transformer_lm*` are converted."
        )
    for name, what in _OTHER_LAYERS.items():
        if is_lm and name == "no_cross_attention":
            continue
        if settings.get(name):
            raise ConversionError(f"{file}: {name}={settings[name]!r} is {what}, which this model does not have.")
    activation = settings.get("activation_fn") or "relu"
    if activation not in _ACTIVATIONS:
        raise ConversionError(f"{file}: activation_fn={activation!r} is none of {', '.join(_ACTIVATIONS)}.")


def _present_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under the names of fairseq 0.12, where an older version had others."""
    present = {}
    for name, value in weights.items():
        if found := re.fullmatch(r"((encoder|decoder)\.layers\.\d+)\.layer_norms\.(\d)\.(weight|bias)", name):
            layer, stack, number, end = found.groups()
            name = f"{layer}.{_FORMER_NORMS[stack][int(number)]}.{end}"
        elif found := re.fullmatch(r"(.+_attn)\.in_proj_(weight|bias)", name):
            attention, end = found.groups()
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                present[f"{attention}.{part}_proj.{end}"] = piece
            continue
        elif name == "decoder.embed_out":
            name = "decoder.output_projection.weight"
        present[name] = value
    return present


def key_map(stacks: Mapping[str, str], is_lm: bool) -> KeyMap:
    """Return the table of weights, embeddings of tokens aside.

    Args:
        stacks: name of fairseq's -> ours, of the stacks that there are.
        is_lm: the decoder is alone.
    """
    rows: list[Row] = []
    for theirs, ours in stacks.items():
        layer = LAYER if is_lm or theirs == "encoder" else {**LAYER, **CROSS}
        rows += layer_rows(f"{theirs}.layers.{{i}}", f"{ours}.layers.{{i}}", layer)
        for part, own in STACK.items():
            rows += [Row(f"{theirs}.{part}.{end}", f"{ours}.{own}.{end}", optional=True) for end in ("weight", "bias")]
    return KeyMap(rows, _IGNORED)


def _convert(weights: dict[str, torch.Tensor], settings: Mapping[str, Any], is_lm: bool) -> Converted:
    stacks = {"decoder": "model"} if is_lm else {"encoder": "model.encoder", "decoder": "model.decoder"}
    embeddings = {stack: _take(weights, f"{stack}.embed_tokens.weight") for stack in stacks}
    output = weights.pop("decoder.output_projection.weight", None)
    positions = {stack: weights.pop(f"{stack}.embed_positions.weight", None) for stack in stacks}
    fields = _fields(weights, settings, tuple(stacks), embeddings["decoder"].shape[1])
    state, used, ignored = key_map(stacks, is_lm).apply(weights)
    used |= {f"{stack}.embed_tokens.weight" for stack in stacks}
    used |= set() if output is None else {"decoder.output_projection.weight"}
    notes: list[str] = []
    if is_lm:
        state["model.embed_tokens.weight"] = embeddings["decoder"]
        fields["vocab_size"] = embeddings["decoder"].shape[0]
        fields["tie_word_embeddings"] = True
        if output is not None and not same_embeddings(output, embeddings["decoder"]):
            fields["tie_word_embeddings"] = False
            state["lm_head.weight"] = output
    else:
        found, further = embeddings_of_ours(embeddings["encoder"], embeddings["decoder"], output)
        state, fields = state | found, fields | further
    used |= _add_positions(state, fields, {stacks[s]: table for s, table in positions.items()}, settings, notes)
    if fields["position_embedding"] == "sinusoidal":
        state = interleave_sinusoids(state, fields["d_model"])
    ids = {"pad_token_id": PAD, "bos_token_id": EOS if is_lm else BOS, "eos_token_id": EOS}
    config: Any
    if is_lm:
        config = make_config(VaswaniDecoderConfig, **fields, **ids)
    else:
        config = make_config(VaswaniConfig, **fields, **ids, decoder_start_token_id=EOS)
    return Converted(
        config,
        state,
        generation={"suppress_tokens": [PAD]},  # the search of fairseq never chooses it
        notes=notes,
        used=used,
        ignored=ignored,
        title="fairseq's language model" if is_lm else "fairseq's encoder-decoder",
    )


def _take(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in weights:
        raise ConversionError(f"the source has no weight {name!r}: it has embeddings of another kind.")
    return weights.pop(name)


def _fields(
    weights: Mapping[str, torch.Tensor], settings: Mapping[str, Any], stacks: tuple[str, ...], d_model: int
) -> dict[str, Any]:
    """Return the fields of the configuration that settings and shapes say."""

    def common(name: str, what: str) -> Any:
        return one_value(settings, [f"{stack}_{name}" for stack in stacks], what)

    def norms(name: str) -> bool:
        there = {f"{stack}.{name}.weight" in weights for stack in stacks}
        if len(there) > 1:
            raise ConversionError(
                f"only one of the stacks has {name!r}; a model of this package has it in both or none."
            )
        return there.pop()

    inner = {weights[name].shape[0] for stack in stacks if (name := f"{stack}.layers.0.fc1.weight") in weights}
    if len(inner) != 1:
        raise ConversionError(
            f"the feed-forward networks are {sorted(inner)} wide inside, which has to be one number for both stacks."
        )
    if common("embed_dim", "the width of the layers") not in (None, d_model):
        raise ConversionError(
            f"the embeddings are {d_model} wide and the layers {common('embed_dim', '')}: a model of this package has "
            "no projection between them."
        )
    pre = bool(common("normalize_before", "the order of norms") or False)
    layers = {stack: number_of_layers(weights, f"{stack}.layers") for stack in stacks}
    fields = {
        "d_model": d_model,
        "d_ff": inner.pop(),
        "num_heads": int(
            number_of({"attention_heads": common("attention_heads", "the number of heads")}, "attention_heads")
        ),
        "norm_order": "pre" if pre or stacks == ("decoder",) else "post",
        "final_layer_norm": norms("layer_norm"),
        "embedding_norm": norms("layernorm_embedding"),
        "activation_function": _ACTIVATIONS[settings.get("activation_fn") or "relu"],
        "scale_embedding": not settings.get("no_scale_embedding"),
        "attention_bias": True,
        "layer_norm_eps": 1e-5,
        "dropout": number_of(settings, "dropout", 0.0),
        "attention_dropout": number_of(settings, "attention_dropout", 0.0),
        "activation_dropout": number_of(settings, "activation_dropout", 0.0)
        or number_of(settings, "relu_dropout", 0.0),
    }
    if len(stacks) == 1:
        return {**fields, "num_hidden_layers": layers["decoder"]}
    return {**fields, "encoder_layers": layers["encoder"], "decoder_layers": layers["decoder"]}


def _add_positions(
    state: dict[str, torch.Tensor],
    fields: dict[str, Any],
    tables: Mapping[str, torch.Tensor | None],
    settings: Mapping[str, Any],
    notes: list[str],
) -> set[str]:
    """Add learned positions, whose table begins after padding, or say which sinusoids there are; return names used."""
    learned = {stack: table for stack, table in tables.items() if table is not None}
    longest = [settings.get("max_target_positions")]
    longest += [settings.get("max_source_positions")] if len(tables) == 2 else []
    if not learned:
        fields |= {
            "position_embedding": "sinusoidal",
            "position_frequencies": "tensor2tensor",
            "position_offset": PAD + 1,
        }
        fields["max_position_embeddings"] = max([size for size in longest if isinstance(size, int)] or [1024])
        return set()
    if len(learned) < len(tables):
        raise ConversionError(
            "one stack has learned positions, the other sinusoids; a model of this package has one kind."
        )
    sizes = [table.shape[0] - PAD - 1 for table in learned.values()]
    fields |= {"position_embedding": "learned", "max_position_embeddings": min(sizes)}
    if len(set(sizes)) > 1:
        notes.append(f"Texts may have {min(sizes)} tokens, as many as the smaller of the tables of positions has.")
    for stack, table in learned.items():
        state[f"{stack}.positional_encoding.positions.weight"] = table[PAD + 1 : PAD + 1 + min(sizes)]
    return {f"{'encoder' if 'encoder' in stack else 'decoder'}.embed_positions.weight" for stack in learned}


def _dictionaries(
    folder: Path, settings: Mapping[str, Any], named: tuple[str | Path | None, ...], is_lm: bool
) -> list[Path] | None:
    """Return the files of the dictionaries, of the source and of the target, or of a language model's."""
    found: list[Path | None] = [None if name is None else Path(name) for name in named]
    if is_lm:
        present = found[1] or found[0] or _present(folder, ["dict.txt", "dict"])
        return None if present is None else [present]
    languages = settings.get("source_lang"), settings.get("target_lang")
    for place, (language, side) in enumerate(zip(languages, ("src", "tgt"), strict=True)):
        names = [f"dict.{language}.txt", f"dict.{side}.txt", "dict.txt"]
        found[place] = found[place] or _present(folder, names)
    return [path for path in found if path is not None] if None not in found else None


def _present(folder: Path, names: list[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_dictionary(path: Path) -> list[str]:
    """Return the symbols of a dictionary of fairseq in order of their ids, the four special ones first."""
    symbols = dict.fromkeys(("<s>", "<pad>", "</s>", "<unk>"))
    for number, line in enumerate(read_lines(path), start=1):
        symbol, _, count = line.rstrip().removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not symbol or not count.lstrip("-").isdecimal():
            raise ConversionError(f"{path}, line {number}: {line[:80]!r} is not a symbol, a space and a count.")
        if symbol in symbols and not line.rstrip().endswith(" #fairseq:overwrite"):
            raise ConversionError(f"{path}, line {number}: {symbol!r} occurs twice, which fairseq refuses too.")
        symbols[symbol] = None
    return list(symbols)


def _add_tokenizer(
    converted: Converted, files: list[Path] | None, codes: str | Path | None, target_codes: str | Path | None
) -> None:
    if files is None:
        converted.notes.append(
            "No tokenizer is written: there is no dictionary. Give --source-vocabulary and --target-vocabulary."
        )
        return
    config = converted.config
    sizes = (
        (config.vocab_size,) if len(files) == 1 else (config.source_vocab_size or config.vocab_size, config.vocab_size)
    )
    sides = []
    for file, size, own in zip(files, sizes, (codes, target_codes or codes), strict=False):
        symbols = read_dictionary(file)
        check_rows(symbols, size, file)
        sides.append((symbols, own))
    if converted.config.model_type == "vaswani" and config.source_vocab_size is None and sides[0] != sides[-1]:
        raise ConversionError(
            f"{files[0]} and {files[1]} differ, or their codes, but the model embeds source and target with one matrix."
        )
    if len(files) == 1:  # a language model's texts begin with the end of the one before
        converted.tokenizer = tokenizer_of(sides, replace(SPECIAL, bos="</s>"), begins=True)
    else:
        converted.tokenizer = tokenizer_of(sides, SPECIAL)
    if codes is None:
        converted.notes.append(NO_CODES)


__all__ = ["key_map", "read", "read_dictionary", "recognises"]
