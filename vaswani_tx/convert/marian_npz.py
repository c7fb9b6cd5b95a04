"""Marian's own models, `model.npz` and `.bin`: post- or pre-norm encoder-decoders, also with recurrent decoders.

Marian's arithmetic: weights are [inputs, outputs]; sinusoids are [all sines | all cosines] with tensor2tensor's
frequencies, from position 0; LayerNorm has epsilon 1e-6; and the first input of the decoder is a zero vector, which
becomes a token `<pad>` behind the vocabulary, whose row is zero and whose logit is `NEVER`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert.channels import interleaving, permute_channels
from vaswani_tx.convert.core import ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.marian_files import MarianFile, is_weights, read_marian
from vaswani_tx.convert.marian_vocabularies import read_tokenizer

# The logit of the token that only begins a target: its probability is exactly 0, and half types can hold it.
NEVER = -1e4
# Settings whose other values make another computation: name -> (what is read, reason).
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "transformer-ffn-depth": ((2,), "our feed-forward networks have two layers"),
    "transformer-decoder-ffn-depth": ((0, 2), "our feed-forward networks have two layers"),
    "transformer-pool": ((False,), "it replaces attention to the source by the first source position"),
    "transformer-rnn-projection": ((False,), "the recurrence here has no output projection"),
    "transformer-disable-position-embeddings": ((False,), "our models add positions"),
    "transformer-attention-mask": (("default",), "our models have no ALiBi"),
    "transformer-no-bias": ((False,), "our feed-forward networks have biases"),
    "transformer-no-affine": ((False,), "our LayerNorms have scales and biases"),
    "ulr": ((False,), "our models have no universal embeddings"),
    "lemma-dim-emb": ((0,), "our vocabularies have no factors"),
    "lemma-dependency": (("",), "our vocabularies have no factors"),
    "right-left": ((False,), "it writes the target from right to left"),
}
_ACTIVATIONS = {"relu": "relu", "swish": "silu"}
# The versions of Marian since which GELU is exact, and keys are normalised in pre-norm self-attention.
_EXACT_GELU, _NORMALISED_KEYS = (1, 12, 3), (1, 11, 0)
# Settings of translation: name -> (Marian's default, least, most).
_SEARCH: dict[str, tuple[Any, float, float]] = {
    "beam-size": (12, 1, 1000),
    "normalize": (0.0, 0.0, 100.0),
    "word-penalty": (0.0, -100.0, 100.0),
}
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
_RECURRENCE = [("W", "in_proj.weight"), ("Wf", "forget_proj.weight"), ("bf", "forget_proj.bias")]
_CHANNELS = {"in_proj.weight": (0, 1), "forget_proj.weight": (0, 1), "forget_proj.bias": (0,)}


def recognises(path: Path) -> bool:
    """Return whether a file, or one of a folder, holds Marian's weights with their settings."""
    return path.is_file() and is_weights(path) if not path.is_dir() else bool(_weight_files(path))


def read(path: Path) -> Converted:
    """Read `model.npz` or `.bin`, with the vocabularies and search settings beside it.

    Raises:
        ConversionError: it is damaged, or a setting makes a computation that our models do not have.
    """
    file = path if not path.is_dir() else _weights_of(path)
    found = read_marian(file)
    decoding = _decoding_settings(file)
    notes: list[str] = []
    config = _config(found, notes)
    state, used, ignored = key_map(found, config).apply(found.weights)
    state = permute_channels(_completed(state, config, found), interleaving(config.d_model), _CHANNELS)
    tokenizer, special = read_tokenizer(file, decoding, config, notes)
    generation = _generation(config, decoding, special, notes)
    if quantised := [name for name in found.quantised if name in used]:
        notes.append(
            f"{len(quantised)} weights were in 8 or 16 bits and are exact multiples of their scales in float32. "
            "Marian also rounds activations to 8 bits, so some of its translations differ from this model's."
        )
    return Converted(
        config,
        state,
        tokenizer=tokenizer,
        generation=generation,
        notes=notes,
        used=used,
        ignored=ignored,
        unchecked="Marian is a program of its own, which Python cannot run",
        title=f"Marian {found.settings.get('version', '')}".strip(),
    )


def _weight_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix in (".npz", ".bin") and is_weights(path)]


def _weights_of(folder: Path) -> Path:
    """Return the file of weights in a folder: the one that its settings name, or the only one."""
    files = _weight_files(folder)
    if not files:
        raise ConversionError(f"'{folder}' has no .npz or .bin of Marian.")
    if len(files) > 1:
        named = _decoding_settings(files[0]).get("models")
        named = named if isinstance(named, list) else []
        chosen = [file for file in files if file.name in {Path(str(name)).name for name in named}]
        if len(chosen) != 1:
            names = ", ".join(file.name for file in files)
            raise ConversionError(f"'{folder}' has several models ({names}): name one of the files.")
        return chosen[0]
    return files[0]


def _decoding_settings(file: Path) -> dict[str, Any]:
    """Return the settings of translation beside a model: `model.npz.decoder.yml`, or the folder's only such file."""
    own = [Path(f"{file}.decoder.yml"), file.with_name("decoder.yml"), file.with_name("config.yml")]
    others = sorted(file.parent.glob("config*.yml"))
    for path in [path for path in own if path.is_file()] or (others if len(others) == 1 else []):
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
            raise ConversionError(f"'{path}' is damaged, or no YAML: correct it or take it away.") from None
        if isinstance(found, dict):
            return found
    return {}


def _version(settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", str(settings.get("version", "")))
    return tuple(int(part) for part in match.groups()) if match else None


def _operations(settings: Mapping[str, Any], name: str, default: str) -> str:
    """Return the operations of a sub-layer's end, without dropout, which translation has not."""
    value = settings.get(name, default)
    return str("" if value is None else value).replace("d", "")


def _norms(settings: Mapping[str, Any], recurrent: bool, notes: list[str]) -> dict[str, Any]:
    """Return where the LayerNorms are."""
    before, after = (
        _operations(settings, f"transformer-{name}", default)
        for name, default in (("preprocess", ""), ("postprocess", "dan"))
    )
    if (before, after) not in (("", "an"), ("n", "a")):
        raise ConversionError(
            f"transformer-preprocess={settings.get('transformer-preprocess', '')!r} with transformer-postprocess="
            f"{settings.get('transformer-postprocess', 'dan')!r} cannot be converted: our layers are post-norm ('' and "
            "'dan') or pre-norm ('n' and 'da'), without highway gates (h) and RMSNorm (r)."
        )
    if before:
        version = _version(settings)
        if version is None or version < _NORMALISED_KEYS:
            raise ConversionError(
                f"a pre-norm model of Marian {settings.get('version', 'of unknown version')!s} cannot be converted: up "
                "to version 1.10 its self-attention normalised the queries but neither keys nor values."
            )
        if not recurrent:
            notes.append(
                "The model computes what Marian trained and scores with. Marian's own search leaves the keys of "
                "earlier target tokens without their LayerNorm in pre-norm models, so its translations may differ."
            )
    top = _operations(settings, "transformer-postprocess-top", "")
    embedded = _operations(settings, "transformer-postprocess-emb", "d")
    for name, value in (("top", top), ("emb", embedded)):
        if value not in ("", "n"):
            raise ConversionError(
                f"transformer-postprocess-{name}={settings[f'transformer-postprocess-{name}']!r} cannot be converted: "
                "only a LayerNorm (n) and dropout (d) can."
            )
    return {
        "norm_order": "pre" if before else "post",
        "final_layer_norm": top == "n",
        "embedding_norm": embedded == "n",
    }


def _cell(settings: Mapping[str, Any]) -> str:
    kind = settings.get("transformer-decoder-autoreg", "self-attention")
    if kind == "self-attention":
        return "attention"
    if kind != "rnn":
        raise ConversionError(
            f"transformer-decoder-autoreg={kind!r} cannot be converted: only self-attention and rnn can."
        )
    if settings.get("dec-cell") != "ssru":
        raise ConversionError(
            f"dec-cell={settings.get('dec-cell')!r} cannot be converted: of the recurrent cells, only ssru can."
        )
    if settings.get("layer-normalization"):
        raise ConversionError(
            "layer-normalization inside of the recurrent cell cannot be converted: the cell here has none."
        )
    return "ssru"


def _activation(settings: Mapping[str, Any]) -> str:
    name = settings.get("transformer-ffn-activation", "swish")
    if name == "gelu":
        version = _version(settings)
        if version is None:
            raise ConversionError(
                "transformer-ffn-activation=gelu is computed in two ways by versions of Marian, and the model does not "
                "say its version."
            )
        return "gelu" if version >= _EXACT_GELU else "quick_gelu"
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ConversionError(f"transformer-ffn-activation={name!r} cannot be converted: relu, swish and gelu can.")
    return _ACTIVATIONS[name]


def _number(settings: Mapping[str, Any], name: str) -> int:
    value = settings.get(name)
    if type(value) is not int or value < 1:
        raise ConversionError(f"the model's setting {name} is {value!r}, not a number of 1 or more.")
    return value


def _check_settings(settings: Mapping[str, Any]) -> None:
    if settings.get("type") != "transformer":
        raise ConversionError(
            f"the model is of type {settings.get('type')!r}: only Marian's 'transformer' can be converted."
        )
    for name, (values, reason) in _FIXED.items():
        if name in settings and settings[name] not in values:
            raise ConversionError(f"{name}={settings[name]!r} cannot be converted: {reason}.")
    vocabularies = settings.get("dim-vocabs")
    if not isinstance(vocabularies, list) or len(vocabularies) != 2:
        raise ConversionError(f"dim-vocabs={vocabularies!r} cannot be converted: only one source and one target can.")
    kinds = settings.get("input-types") or []
    if not isinstance(kinds, list) or any(kind != "sequence" for kind in kinds):
        raise ConversionError(f"input-types={kinds!r} cannot be converted: only texts (sequence) can.")
    inner = settings.get("transformer-decoder-dim-ffn") or settings.get("transformer-dim-ffn")
    if inner != settings.get("transformer-dim-ffn"):
        raise ConversionError(
            f"transformer-decoder-dim-ffn={inner} differs from transformer-dim-ffn="
            f"{settings.get('transformer-dim-ffn')}, and our models have one number for both."
        )


def _embeddings(settings: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Return the names of the source's and target's embedding, and whether the output shares the latter."""
    shared = settings.get("tied-embeddings-all") or settings.get("tied-embeddings-src")
    names = ("Wemb", "Wemb") if shared else ("encoder_Wemb", "decoder_Wemb")
    return *names, bool(settings.get("tied-embeddings-all") or settings.get("tied-embeddings"))


def _rows(found: MarianFile, name: str) -> int:
    if name not in found.weights or found.weights[name].dim() != 2:
        raise ConversionError(f"the model has no matrix {name!r}, its embedding: it is damaged, or factored.")
    return len(found.weights[name])


def _config(found: MarianFile, notes: list[str]) -> VaswaniConfig:
    settings = found.settings
    _check_settings(settings)
    source, target, tied = _embeddings(settings)
    cell = _cell(settings)
    size = _rows(found, target)
    learned = "Wpos" in found.weights
    if learned:
        notes.append(
            "Positions are learned. This model numbers target positions as Marian does in training; Marian's own "
            "search gives position 0 to each, and repeats the last one beyond the table, where this model refuses."
        )
    tied_layers = settings.get("transformer-tied-layers") or []
    if tied_layers:
        notes.append(
            f"Decoder layers share weights {tied_layers} in Marian; here each has a copy, which computes the same."
        )
    kwargs = {} if learned else {"position_frequencies": "tensor2tensor"}
    try:
        return VaswaniConfig(
            vocab_size=size + 1,
            source_vocab_size=None if source == target else _rows(found, source) + 1,
            d_model=_number(settings, "dim-emb"),
            d_ff=_number(settings, "transformer-dim-ffn"),
            num_heads=_number(settings, "transformer-heads"),
            encoder_layers=_number(settings, "enc-depth"),
            decoder_layers=_number(settings, "dec-depth"),
            decoder_cell=cell,
            activation_function=_activation(settings),
            layer_norm_eps=1e-6,
            attention_bias=True,
            lm_head_bias=True,
            position_embedding="learned" if learned else "sinusoidal",
            max_position_embeddings=_rows(found, "Wpos") if learned else 1024,
            scale_embedding=not learned,
            tie_word_embeddings=tied,
            pad_token_id=size,
            bos_token_id=None,
            eos_token_id=0,
            decoder_start_token_id=size,
            **_norms(settings, cell == "ssru", notes),
            **kwargs,
        )
    except ConversionError:
        raise
    except ValueError as error:
        raise ConversionError(f"the model's settings make no model: {error}") from None


def _with_zero_row(matrix: torch.Tensor) -> torch.Tensor:
    """Return an embedding with a further row of zeros: the start of targets, and padding."""
    return torch.cat((matrix, matrix.new_zeros(1, matrix.shape[1])))


def _zero_row_of_columns(matrix: torch.Tensor) -> torch.Tensor:
    return _with_zero_row(matrix.t())


def _output_bias(bias: torch.Tensor) -> torch.Tensor:
    flat = bias.flatten()
    return torch.cat((flat, flat.new_full((1,), NEVER)))


def key_map(found: MarianFile, config: VaswaniConfig) -> KeyMap:
    """Return where each weight of ours comes from, for a model of these settings."""
    settings = found.settings
    source, target, tied = _embeddings(settings)
    projects = not settings.get("transformer-no-projection")
    parts = _ATTENTION if projects else {part: ours for part, ours in _ATTENTION.items() if part != "o"}
    suffix = "_pre" if config.norm_order == "pre" else ""
    if source == target:
        rows = [Row(target, "model.shared.weight", _with_zero_row)]
    else:
        rows = [Row(source, "model.encoder.embed_tokens.weight", _with_zero_row)]
        rows += [Row(target, "model.decoder.embed_tokens.weight", _with_zero_row)]
    if not tied and "decoder_ff_logit_out_W" in found.weights:  # of old models
        rows += [Row("decoder_ff_logit_out_W", "lm_head.weight", _zero_row_of_columns)]
    elif not tied:
        rows += [Row("decoder_ff_logit_out_Wt", "lm_head.weight", _with_zero_row)]
    if not settings.get("output-omit-bias"):
        rows += [Row("decoder_ff_logit_out_b", "lm_head.bias", _output_bias)]
    for side, depth in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        ours = f"model.{side}"
        if config.position_embedding == "learned":
            rows += [Row("Wpos", f"{ours}.positional_encoding.positions.weight")]
        if config.embedding_norm:
            rows += _norm_rows(f"{side}_emb", f"{ours}.positional_encoding.norm", "_pre")
        if config.final_layer_norm:
            rows += _norm_rows(f"{side}_top", f"{ours}.final_norm")
        numbers = _layer_numbers(settings, side, depth)
        for index, number in enumerate(numbers):
            rows += _layer_rows(f"{side}_l{number}", f"{ours}.layers.{index}", side, config, parts, suffix)
    scales = [name for name in found.weights if name.endswith(("_QuantMultA", "_QuantMultB"))]
    reason = "a scale of 8-bit arithmetic; this model computes in floating point"
    return KeyMap(rows, [(name, reason) for name in scales])


def _layer_numbers(settings: Mapping[str, Any], side: str, depth: int) -> list[int]:
    """Return the number, in names, of each layer's weights."""
    numbers = settings.get("transformer-tied-layers") or []
    if side == "encoder" or not numbers:
        return list(range(1, depth + 1))
    if not isinstance(numbers, list) or len(numbers) != depth or not all(isinstance(one, int) for one in numbers):
        raise ConversionError(
            f"transformer-tied-layers={numbers!r} does not name a layer for each of dec-depth={depth}."
        )
    return numbers


def _norm_rows(theirs: str, ours: str, suffix: str = "") -> list[Row]:
    return [
        Row(f"{theirs}_ln_scale{suffix}", f"{ours}.weight", "flatten"),
        Row(f"{theirs}_ln_bias{suffix}", f"{ours}.bias", "flatten"),
    ]


def _layer_rows(
    theirs: str, ours: str, side: str, config: VaswaniConfig, parts: Mapping[str, str], suffix: str
) -> list[Row]:
    """Return the rows of one layer: self-attention or recurrence, attention to the source, feed-forward network."""
    rows = []
    if side == "decoder" and config.decoder_cell == "ssru":
        rows += [
            Row(f"{theirs}_rnn_{name}", f"{ours}.ssru.{module}", "flatten" if module.endswith("bias") else "transpose")
            for name, module in _RECURRENCE
        ]
        rows += _norm_rows(f"{theirs}_rnn" + ("" if suffix else "_ffn"), f"{ours}.ssru_residual.norm", suffix)
        attentions = []
    else:
        attentions = [("self", "self_attn")]
    if side == "decoder":
        attentions += [("context", "cross_attn")]
    for name, module in attentions:
        for part, projection in parts.items():
            rows += [Row(f"{theirs}_{name}_W{part}", f"{ours}.{module}.{projection}.weight", "transpose")]
            rows += [Row(f"{theirs}_{name}_b{part}", f"{ours}.{module}.{projection}.bias", "flatten")]
        rows += _norm_rows(f"{theirs}_{name}_Wo", f"{ours}.{module}_residual.norm", suffix)
    for number in (1, 2):
        rows += [Row(f"{theirs}_ffn_W{number}", f"{ours}.feed_forward.fc{number}.weight", "transpose")]
        rows += [Row(f"{theirs}_ffn_b{number}", f"{ours}.feed_forward.fc{number}.bias", "flatten")]
    return rows + _norm_rows(f"{theirs}_ffn_ffn", f"{ours}.feed_forward_residual.norm", suffix)


def _completed(state: dict[str, torch.Tensor], config: VaswaniConfig, found: MarianFile) -> dict[str, torch.Tensor]:
    """Return the weights with those that Marian leaves out because they change nothing."""
    state = dict(state)
    if "lm_head.bias" not in state:
        bias = torch.zeros(config.vocab_size)
        bias[-1] = NEVER
        state["lm_head.bias"] = bias
    if found.settings.get("transformer-no-projection"):
        for name in [name for name in state if name.endswith("v_proj.weight")]:
            output = name.replace("v_proj.weight", "o_proj")
            state[f"{output}.weight"], state[f"{output}.bias"] = torch.eye(config.d_model), torch.zeros(config.d_model)
    return state


def _generation(
    config: VaswaniConfig, decoding: Mapping[str, Any], special: Mapping[str, int], notes: list[str]
) -> dict[str, Any]:
    """Return Marian's settings of translation as transformers names them."""
    config.eos_token_id = special["eos"]
    if not decoding:
        decoding = {"beam-size": 4, "normalize": 1.0}
        notes.append(
            "There are no settings of translation beside the model: it has num_beams=4 and length_penalty=1.0."
        )
    values: dict[str, Any] = {}
    for name, (default, least, most) in _SEARCH.items():
        value = decoding.get(name, default)
        if not isinstance(value, (int, type(default))) or not least <= value <= most:
            raise ConversionError(
                f"the setting {name} beside the model is {value!r}, not a number from {least} to {most}."
            )
        values[name] = type(default)(value)
    if values["word-penalty"]:
        notes.append(
            f"word-penalty={values['word-penalty']} of Marian's search is left out: transformers has no such setting."
        )
    if "shortlist" in decoding:
        notes.append("The shortlist is left out: this model chooses among all words, so some translations differ.")
    generation = {
        "num_beams": values["beam-size"],
        "length_penalty": values["normalize"],
        "max_length": 512,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
    }
    forbidden = [config.pad_token_id] + ([] if decoding.get("allow-unk") else [special["unk"]])
    return {**generation, "bad_words_ids": [[index] for index in forbidden]}


__all__ = ["NEVER", "key_map", "read", "recognises"]
