"""The evaluation of a translation model, or of given translations, on a test set: scores with signatures, and speed.

`vaswani_tx.training.evaluate_translation` is the command and describes its options.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

import vaswani_tx
from vaswani_tx.devices import choose_device, slow_bfloat16
from vaswani_tx.engines import load_engine
from vaswani_tx.generation_vaswani import VaswaniGenerationMixin
from vaswani_tx.token_texts_vaswani import language_tag
from vaswani_tx.training.command_line import DTYPES, print_status
from vaswani_tx.training.data.lines import read_lines
from vaswani_tx.training.data.parallel import load_parallel
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.inference.translation import load_model_and_tokenizer, perplexity, translate_corpus
from vaswani_tx.training.metrics.registry import BY_NAME
from vaswani_tx.training.metrics.scoring import aligned, make_text_metric, score_rows, score_translations
from vaswani_tx.training.metrics.text_metrics import check_seed

# Metrics that have a flag of their own beside `--metrics`.
EXTRA_METRICS = {"compound_split": "bleu_compound_split", "tokenised_lowercase": "bleu_tokenised_lowercase"}


@contextmanager
def process_group() -> Iterator[None]:
    """Leave the group of processes, if there is one, when the work ends, however it ends."""
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Run the evaluation that the options describe and return its results; writes no file and prints no score.

    Of several processes only the first scores; the others return without scores. Raises ValueError (CheckpointError,
    DataError) where the model, the data or a choice of scores cannot be used.
    """
    _check_scoring(options)
    sources, references = _test_set(options)
    if options.hypotheses:
        hypotheses = _read_hypotheses(options, len(references[0]))
        references = [stream[: len(hypotheses)] for stream in references]
        made: dict[str, Any] = {"sentences": len(hypotheses), "settings": _settings(options)}
    else:
        limit = options.limit or len(sources)
        sources, references = sources[:limit], [stream[:limit] for stream in references]
        made, hypotheses = _translate(options, sources, references[0])
    scores: dict[str, Any] = {}
    if is_main_process():
        scores = score_translations(
            hypotheses, *references, metrics=_metrics(options), bootstrap=options.bootstrap, **_choices(options)
        )
    return {**scores, **made, "hypotheses": hypotheses}


def _translate(
    options: argparse.Namespace, sources: list[str], references: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the hypotheses of the model, and what it took to make them."""
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    device, distributed = _device("cpu" if options.engine else options.device)
    model, tokenizer = _load(options, device)
    if options.tgt_lang:
        tag = language_tag(tokenizer, options.tgt_lang)
        if tag is None:
            raise ValueError(
                f"--tgt-lang: {type(tokenizer).__name__} has no token >>{options.tgt_lang}<<; leave it out."
            )
        sources = [f"{tag} {text}" if text.strip() else text for text in sources]
    work = {"batch_tokens": options.batch_tokens, "progress": not options.quiet, "distributed": distributed}
    made = translate_corpus(
        model, tokenizer, sources, max_source_length=options.max_source_length, **work, **_decoding(options, model),
        engine=getattr(options, "search", None),
    )  # fmt: skip
    result: dict[str, Any] = {
        "sentences": len(sources),
        "source_tokens": made.source_tokens,
        "target_tokens": made.target_tokens,
        "seconds": made.seconds,
        "sentences_per_second": len(sources) / made.seconds,
        "target_tokens_per_second": made.target_tokens / made.seconds,
    }
    if options.perplexity:
        result |= perplexity(model, tokenizer, sources, references, **work)
    result["settings"] = _settings(options, model)
    return result, [_one_line(text) for text in made.texts]


def _load(options: argparse.Namespace, device: torch.device) -> tuple[Any, Any]:
    if options.engine:
        return load_engine(
            options.model,
            options.engine,
            options.tokenizer,
            quantization=options.quantization,
            threads=options.num_threads,
            device=options.device,
        )
    loading = {"dtype": getattr(torch, DTYPES[options.dtype])} if options.dtype else {}
    model, tokenizer = load_model_and_tokenizer(options.model, options.tokenizer, device=device, **loading)
    slow = slow_bfloat16(device, "--dtype fp32") if model.dtype == torch.bfloat16 else ""
    if slow and not options.quiet and is_main_process():
        print_status(slow)
    return model, tokenizer


def _test_set(options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """Return the sources (none where only hypotheses are scored) and the references, a list for each of their files."""
    targets = options.target or []
    if options.source is None:
        return [], _same_length(targets, [read_lines(path) for path in targets])
    pairs = load_parallel(
        options.source,
        targets[0] if targets else None,
        source_field=_field(options.source_field),
        target_field=_field(options.target_field),
        split=options.split,
        name=options.dataset_config,
        empty="keep",
    )
    references = [list(pairs["target"]), *(read_lines(path) for path in targets[1:])]
    return list(pairs["source"]), _same_length(targets, references)


def _same_length(files: list[str], streams: list[list[str]]) -> list[list[str]]:
    for file, stream in zip(files, streams, strict=False):
        if len(stream) != len(streams[0]):
            raise DataError(
                f"{file} has {len(stream)} lines but {files[0]} has {len(streams[0])}: each line must be a reference "
                "of the same sentence."
            )
    return streams


def _read_hypotheses(options: argparse.Namespace, total: int) -> list[str]:
    """Return the given translations, of the whole test set of `total` sentences or of its first `--limit`."""
    lines = read_lines(options.hypotheses)
    limit = min(options.limit or total, total)
    if len(lines) not in (limit, total):
        there = f"the references have {total}" + (f", --limit is {limit}" if limit < total else "")
        raise DataError(
            f"{options.hypotheses} has {len(lines)} lines but {there}: give one translation a line, in the same order."
        )
    return lines[:limit]


def _metrics(options: argparse.Namespace) -> list[str]:
    """Return the names of the metrics that the flags ask for, each once."""
    extra = [name for flag, name in EXTRA_METRICS.items() if getattr(options, flag)]
    return list(dict.fromkeys([*options.metrics, *extra]))


def _choices(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the metrics, as `TextOptions` has them."""
    return {
        "lowercase": options.lowercase,
        "tokenize": options.bleu_tokenizer,
        "language": options.target_language,
    }


def _check_scoring(options: argparse.Namespace) -> None:
    """Raise ValueError for an impossible choice of scores before the work of translating is done, not after."""
    for name in _metrics(options):
        make_text_metric(name, **_choices(options)).prepare([])
    if options.bootstrap:
        check_seed()


def report(result: dict[str, Any]) -> str:
    """Return the results as lines of text."""
    rows = []
    if "perplexity" in result:
        spec = BY_NAME["perplexity"]
        value = spec.show_precisely(result["perplexity"])
        rows.append((spec.title, f"{value}   a token, {result['nll']:.4f} nats"))
    if "seconds" in result:
        speed = f"{result['sentences_per_second']:.1f} sentences/s, {result['target_tokens_per_second']:.0f} tokens/s"
        rows.append(("speed", f"{speed}   ({result['sentences']} sentences in {result['seconds']:.1f} s)"))
    return "\n".join(aligned([*score_rows(result), *rows]))


def _field(name: str) -> str | int:
    """Return the field's name, or its number: that is how a column of a table without a header is given."""
    return int(name) if name.isdecimal() else name


def _device(name: str | None) -> tuple[torch.device, bool]:
    """Return the device, and whether several processes share the work; only then Accelerate is needed."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import Accelerator

        # Without a GPU and without `cpu` accelerate makes no group: each process would do all of the work.
        return Accelerator(cpu=name == "cpu" or not torch.accelerator.is_available()).device, True
    return choose_device(name), False


def is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _decoding(options: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Return what the flags override of the model's generation configuration."""
    given = {
        "num_beams": options.beam,
        "gnmt_alpha": options.alpha,
        "length_penalty": options.length_penalty,
        "max_new_tokens": options.max_new_tokens,
    }
    if options.alpha is not None and not isinstance(model, VaswaniGenerationMixin):
        raise ValueError(
            f"{type(model).__name__} does not know GNMT's length penalty: use --length-penalty, not --alpha"
        )
    return {name: value for name, value in given.items() if value is not None}


def _settings(options: argparse.Namespace, model: Any = None) -> dict[str, Any]:
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    if model is not None:
        settings |= {
            "generation": model.generation_config.to_diff_dict() | _decoding(options, model),
            "model_class": type(model).__name__,
            "device": str(model.device),
        }
    settings["versions"] = {module.__name__: module.__version__ for module in (vaswani_tx, transformers, torch)}
    return settings


def _one_line(text: str) -> str:
    """Return a hypothesis without line breaks, so that it stays on its line of the file."""
    return text.replace("\r", " ").replace("\n", " ")
