"""`vaswani-tx info`: what a model is, without loading its weights or running the code beside them."""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, get_safetensors_metadata
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

import vaswani_tx
from vaswani_tx.cli.common import CliError, shorten, stdout_sink
from vaswani_tx.errors import CheckpointError
from vaswani_tx.hub.card_sources import CardError, find_run, read_object
from vaswani_tx.loading import check_folder, load_tokenizer, read_config
from vaswani_tx.model_size import ModelSize, build_without_memory, has_few_layers, model_size
from vaswani_tx.token_texts_vaswani import source_of, target_of

# What a configuration says of its sizes, under the names that families give them.
SIZES = (
    "d_model", "hidden_size", "d_ff", "d_kv", "encoder_ffn_dim", "decoder_ffn_dim", "intermediate_size", "d_k", "d_v",
    "num_heads", "encoder_attention_heads", "decoder_attention_heads", "num_attention_heads", "encoder_layers",
    "decoder_layers", "num_layers", "num_decoder_layers", "num_hidden_layers", "max_position_embeddings",
    "position_embedding", "norm_order", "activation_function", "dropout", "tie_word_embeddings", "source_vocab_size",
)  # fmt: skip
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Tensors:
    """What the headers of safetensors files say: for each name its type and shape."""

    entries: dict[str, tuple[str, tuple[int, ...]]]

    def count(self) -> int:
        return sum(math.prod(shape) for _, shape in self.entries.values())

    def size(self) -> int | None:
        """Bytes of all tensors; None with a type that is not known here."""
        found = [math.prod(shape) * BYTES[kind] for kind, shape in self.entries.values() if kind in BYTES]
        return sum(found) if len(found) == len(self.entries) else None

    def types(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for kind, shape in self.entries.values():
            found[kind] = found.get(kind, 0) + math.prod(shape)
        return found


def run(options: argparse.Namespace) -> None:
    """Carry out `vaswani-tx info`."""
    found = gather(options.model)
    text = json.dumps(found, indent=2, ensure_ascii=False, default=str) if options.json else report(found)
    stdout_sink().write(text + "\n")


def gather(model: str) -> dict[str, Any]:
    """Return what is known of a model, as values of JSON; raise CliError where there is none or it is damaged."""
    check_folder(model)
    folder = Path(model) if Path(model).is_dir() else None
    try:
        config = read_config(model)
    except CheckpointError as error:
        # Of a model with code of its own, the headers of its files still tell the size.
        if folder is None or "--trust-remote-code" not in str(error):
            raise
        config = None
    tensors = _headers(model, folder)
    found: dict[str, Any] = {"model": model}
    found |= _architecture(config, folder)
    found["parameters"], found["tensors"] = _parameters(model, config, tensors)
    found["tokenizer"] = _tokenizer(model)
    found["generation"] = _generation(model)
    found["files"] = _files(model, folder)
    code = [name for name in found["files"] if name.endswith(".py")]
    if code:
        found["code_files"] = code
    if folder is not None and (provenance := _provenance(folder)):
        found["provenance"] = provenance
    return found


def _architecture(config: Any, folder: Path | None) -> dict[str, Any]:
    if config is None:
        raw = _object(folder / "config.json")
        return {"family": raw.get("model_type"), "class": (raw.get("architectures") or [None])[0], "sizes": {}}
    known = config.to_dict()
    sizes = {name: known[name] for name in SIZES if known.get(name) is not None}
    names = list(config.architectures or [])
    return {"family": config.model_type, "class": names[0] if names else None, "sizes": sizes}


def _class(config: Any) -> type | None:
    """The class of a model, of transformers or ours; None for one that only other code defines."""
    for name in config.architectures or []:
        found = getattr(vaswani_tx, name, None) or getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING.get(type(config), None)


def _parameters(name: str, config: Any, tensors: Tensors | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters as torch counts them, from a model without memory; and what the files hold."""
    stored: dict[str, Any] = {}
    if tensors is not None:
        stored = {"count": tensors.count(), "bytes": tensors.size(), "types": tensors.types()}
    kind = None if config is None else _class(config)
    if kind is None:
        return {"total": stored.get("count"), "exact": False}, stored
    try:
        size = model_size(config, kind)
    except ValueError as error:
        raise CheckpointError(f"config.json of '{name}': {error}.") from None
    found = {
        "total": size.parameters,
        "trainable": size.trainable,
        "embeddings": size.embeddings,
        "without_embeddings": size.parameters - size.embeddings,
        "exact": True,
    }
    if tensors is not None and (problems := _problems(config, kind, tensors, size)):
        stored["problems"] = problems
    return found, stored


def _problems(config: Any, kind: type, tensors: Tensors, size: ModelSize) -> list[str]:
    """Return what the files lack of the model that the configuration describes."""
    if not has_few_layers(config):
        wanted, there = size.parameters, tensors.count()
        return [] if wanted == there else [f"{there:,} numbers are there of the {wanted:,} of config.json"]
    model = build_without_memory(kind, config)
    every = dict(model.named_parameters())
    names: dict[int, set[str]] = {}  # a shared matrix has several, and the files may hold it under any of them
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    absent = [name for name, parameter in every.items() if not names[id(parameter)] & tensors.entries.keys()]
    missing = [name for name in absent if not _is_made_up(model, name)]
    wrong = [n for n, p in every.items() if n in tensors.entries and tensors.entries[n][1] != tuple(p.shape)]
    return [f"{n} is missing" for n in missing] + [f"{n} has another shape" for n in wrong]


def _is_made_up(model: torch.nn.Module, name: str) -> bool:
    """Return whether a tensor is computed and not stored: sinusoidal positions of other families."""
    return not model.get_parameter(name).requires_grad


def _headers(model: str, folder: Path | None) -> Tensors | None:
    """Type and shape of every stored tensor; None where there are no safetensors files."""
    if folder is None:
        try:
            remote = get_safetensors_metadata(model)
        except Exception:  # no such file there, or no network: the rest can still be said
            return None
        files = remote.files_metadata.values()
        return Tensors({n: (t.dtype, tuple(t.shape)) for file in files for n, t in file.tensors.items()})
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    paths = sorted(folder.glob("*.safetensors"))
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  not a dict
                    part = file.get_slice(name)
                    entries[name] = (part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise CliError(f"'{path}' is damaged ({shorten(error)}): copy it again from where it is whole.") from None
    return Tensors(entries) if paths else None


def _tokenizer(model: str) -> dict[str, Any] | None:
    try:
        tokenizer = load_tokenizer(model)
    except CheckpointError as error:
        return {"problem": shorten(error, 200)}
    longest = tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None
    found = {"class": type(tokenizer).__name__, **_words(source_of(tokenizer)), "longest_input": longest}
    return {**found, "target": _words(tokenizer.target)} if target_of(tokenizer) is not tokenizer else found


def _words(tokenizer: Any) -> dict[str, Any]:
    special = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return {
        "vocabulary": len(tokenizer),
        "special_tokens": {n: {"text": v, "id": tokenizer.convert_tokens_to_ids(v)} for n, v in special.items()},
    }


def _generation(model: str) -> dict[str, Any] | None:
    """What is saved of decoding; the marks of versions and empty entries left out."""
    try:
        values = GenerationConfig.from_pretrained(model).to_diff_dict()
    except Exception:  # a model without the file decodes by transformers' defaults
        return None
    of_no_use = {"transformers_version", "output_attentions", "output_hidden_states", "use_cache"}
    return {n: v for n, v in values.items() if not n.startswith("_") and n not in of_no_use and v is not None}


def _files(model: str, folder: Path | None) -> dict[str, int | None]:
    if folder is not None:
        return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    try:
        tree = HfApi().list_repo_tree(model)
        return {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
    except Exception:
        return {}


def _provenance(folder: Path) -> dict[str, Any]:
    """What the training run that a folder belongs to says of itself."""
    run = find_run(folder)
    if run is None:
        return {}
    parts = [part for part in _object(run / "environment.json").get("parts") or [] if isinstance(part, dict)]
    found: dict[str, Any] = {"run": str(run), **_object(run / "finished.json")}
    if parts:
        found |= {name: parts[-1].get(name) for name in ("started", "versions", "git", "hardware", "precision")}
        found |= {"started": parts[0].get("started"), "parts": len(parts)}
    if data := _object(run / "data.json"):
        found["data"] = {name: data.get(name) for name in ("corpora", "counts", "source_tokens", "target_tokens")}
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except CardError as error:
        raise CliError(str(error)) from None


def report(found: dict[str, Any]) -> str:
    """Return the findings as lines of text."""
    rows = list(_rows(found))
    width = max(len(title) for title, _ in rows)
    return "\n".join(f"{title:<{width}}  {text}".rstrip() for title, text in rows)


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", f"{found['model']}"
    yield "class", f"{found['class'] or 'unknown'} ({found['family']})"
    parameters, tensors = found["parameters"], found["tensors"]
    if parameters["exact"]:
        yield "parameters", f"{parameters['total']:,}, of which {parameters['trainable']:,} are trained"
        share = f"{parameters['embeddings']:,} in embeddings, {parameters['without_embeddings']:,} in all else"
        yield "", share
    elif parameters["total"] is not None:
        yield "parameters", f"{parameters['total']:,} numbers in the files (the class is not known here)"
    if tensors:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in tensors["types"].items())
        yield "weights", f"{kinds}" + (f": {tensors['bytes']:,} bytes" if tensors["bytes"] is not None else "")
        for problem in tensors.get("problems", [])[:5]:
            yield "", f"PROBLEM: {problem}"
    else:
        yield "weights", "no safetensors file"
    yield from _listed("sizes", found["sizes"])
    tokenizer = found["tokenizer"]
    if "problem" in tokenizer:
        yield "tokenizer", f"cannot be loaded: {tokenizer['problem']}"
    else:
        for name, side in ((tokenizer["class"], tokenizer), ("target", tokenizer.get("target"))):
            if side is not None:
                special = ", ".join(f"{t['text']} {t['id']}" for t in side["special_tokens"].values())
                yield "tokenizer", f"{name}, {side['vocabulary']:,} tokens; {special}"
    yield from _listed("generation", found["generation"] or {"": "nothing saved: transformers' defaults"})
    for number, (name, size) in enumerate(found["files"].items()):
        yield "" if number else "files", f"{name}  {size:,} bytes" if size is not None else name
    if "code_files" in found:
        yield "", f"PYTHON CODE is beside the model and was not run: {', '.join(found['code_files'])}"
    yield from _history(found.get("provenance", {}))


def _history(provenance: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not provenance:
        return
    yield "run", provenance["run"]
    if "step" in provenance:
        started = f", started {provenance['started']}" if provenance.get("started") else ""
        yield "", f"{provenance['step']} updates{started}"
    for corpus in (provenance.get("data") or {}).get("corpora") or []:
        yield "data", f"{corpus.get('source')}, {corpus.get('target')}: {corpus.get('pairs')} pairs"
    for title, name in (("software", "versions"), ("hardware", "hardware"), ("revision", "git")):
        if values := provenance.get(name):
            yield title, ", ".join(f"{key} {value}" for key, value in values.items() if value not in (None, [], {}))


def _listed(title: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values in lines of moderate length."""
    words = [
        f"{name} {json.dumps(value, ensure_ascii=False)}" if name else str(value) for name, value in values.items()
    ]
    while words:
        line = words.pop(0)
        while words and len(line) + len(words[0]) < 96:
            line += f", {words.pop(0)}"
        yield title, line
        title = ""
