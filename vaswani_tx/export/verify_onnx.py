"""What `--verify` compares between a model and its export to ONNX."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.export.folders import PLAIN_GREEDY, Comparison, batch_of, kind_of
from vaswani_tx.export.verify_ctranslate2 import same_targets

NEW_TOKENS = 20  # of a continuation
BOUND = 1e-4


def verify(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> list[Comparison]:
    """Compare translations, continuations or outputs, by the kind of the model."""
    kind = kind_of(model.config)
    if kind == "encoder-decoder":
        # Here: engines are a layer above this one.
        engine = importlib.import_module("vaswani_tx.engines.onnx_model").OnnxModel(folder)
        settings = [("greedy", {"num_beams": 1}), ("the model's own decoding", {})]
        found = [same_targets(name, model, engine, tokenizer, sentences, options) for name, options in settings]
        return [*found, _merged(folder, tokenizer, sentences, engine, model)]
    return (
        [_continuations(model, tokenizer, folder, sentences)]
        if kind == "decoder"
        else _outputs(model, tokenizer, folder, sentences)
    )


def session(path: Path, threads: int | None = None) -> Any:
    """Return onnxruntime's session of a file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _merged(folder: Path, tokenizer: Any, sentences: Sequence[str], engine: Any, model: Any) -> Comparison:
    """Compare greedy translations through the merged decoder, one source at a time."""
    path = folder / "onnx" / "decoder_model_merged.onnx"
    if not path.exists():
        return Comparison("translations through the merged decoder (not written with int8)", 0, 0)
    merged, config, equal = session(path), model.config, 0
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    for text in sentences:
        batch = batch_of(tokenizer, [text])
        states = engine.get_encoder()(**batch).last_hidden_state.numpy()
        with torch.no_grad():
            wanted = model.generate(**batch, max_new_tokens=NEW_TOKENS, **PLAIN_GREEDY)[0].tolist()
        ids = [config.decoder_start_token_id]
        shapes = {
            one.name: (1, config.num_heads, 0, config.d_k if one.name.endswith("key") else config.d_v)
            for one in merged.get_inputs()
            if one.name.startswith("past")
        }
        past = {name: torch.zeros(shape).numpy() for name, shape in shapes.items()}
        while len(ids) <= NEW_TOKENS and (len(ids) == 1 or ids[-1] not in ends):
            given = {
                "encoder_attention_mask": batch["attention_mask"].numpy(),
                "input_ids": torch.tensor([ids[-1:]]).numpy(),
                "encoder_hidden_states": states,
                "use_cache_branch": torch.tensor([len(ids) > 1]).numpy(),
                **past,
            }
            logits, *present = merged.run(None, given)
            names = [one.name.replace("present", "past_key_values") for one in merged.get_outputs()[1:]]
            past = dict(zip(names, present, strict=True))
            ids.append(int(logits[0, -1].argmax()))
        equal += ids == wanted
    return Comparison(f"greedy translations through the merged decoder, {NEW_TOKENS} tokens", len(sentences), equal)


def _continuations(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> Comparison:
    run, config, equal = session(_only(folder)), model.config, 0
    names = [one.name for one in run.get_inputs()][2:]
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    for text in sentences:
        ids = tokenizer(text, verbose=False)["input_ids"]
        prompt = ids[: max(1, len(ids) // 2)]
        with torch.no_grad():
            wanted = model.generate(torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, **PLAIN_GREEDY)
        made, step = list(prompt), list(prompt)
        past = {
            name: torch.zeros(1, config.num_heads, 0, config.d_k if name.endswith("key") else config.d_v).numpy()
            for name in names
        }
        while len(made) < len(prompt) + NEW_TOKENS:
            mask = torch.ones(1, len(made), dtype=torch.long).numpy()
            given = {"input_ids": torch.tensor([step]).numpy(), "attention_mask": mask, **past}
            logits, *present = run.run(None, given)
            past = dict(zip(names, present, strict=True))
            step = [int(logits[0, -1].argmax())]
            made += step
            if step[0] in ends:
                break
        equal += made == wanted[0].tolist()
    return Comparison(f"greedy continuations of {NEW_TOKENS} tokens, token by token", len(sentences), equal)


def _outputs(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> list[Comparison]:
    run = session(_only(folder))
    batch = batch_of(tokenizer, sentences)
    with torch.no_grad():
        wanted = model(**batch)
    outputs = run.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
    found = []
    for one, values in zip(run.get_outputs(), outputs, strict=True):
        gaps = (torch.from_numpy(values) - wanted[one.name]).abs()
        if gaps.shape[:2] == batch["attention_mask"].shape:
            mask = batch["attention_mask"].bool()
            gaps = gaps.masked_fill(~(mask if gaps.dim() == 2 else mask[..., None]), 0.0)
        each = gaps.flatten(1).amax(dim=1).tolist()
        found.append(Comparison(one.name, len(each), sum(gap <= BOUND for gap in each), max(each), BOUND))
    return found


def _only(folder: Path) -> Path:
    return next(iter(sorted((folder / "onnx").glob("model*.onnx"))))
