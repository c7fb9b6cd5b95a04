"""Translate a test set with a trained model and score it: BLEU, chrF and TER with signatures, exact match, speed.

    python -m vaswani_tx.training.evaluate_translation --model runs/demo/best --source test.en --target test.de

The model is any encoder-decoder folder that the Auto classes of transformers load (`best/`, `averaged/` or a checkpoint
of a run of ours, a MarianMT folder) or a name on the Hub. The test set comes in every format of the training data: two
line-aligned text files, one .jsonl, .tsv or .parquet file (`--source-field`, `--target-field`), or a data set's name.
Several reference files after `--target` are several references of each sentence.

Decoding is the model's own (`generation_config.json`; for ours the paper's beam 4, alpha 0.6, source + 50 tokens)
unless a flag says otherwise: `--beam 1` is greedy and several times as fast. Sentences of any length are translated.
`--output` keeps the hypotheses, one a line; `--json` keeps every number. A file of hypotheses, whoever made it, is
scored without a model:

    python -m vaswani_tx.training.evaluate_translation --hypotheses test.out.de --target test.de --bootstrap 1000

Scores are those of sacreBLEU on plain text; put the signature beside a score that you publish. `--bootstrap N` adds the
mean and 95 % interval over N resamples of the test set by sacreBLEU, with its fixed seed 12345 (or SACREBLEU_SEED from
the environment). Whether one of two systems is better: `python -m vaswani_tx.training.compare_translations`.
`--compound-split` and `--tokenised-lowercase` add the tokenised BLEU of the paper's and of Multi30k's results, which
compare with those results and with nothing else (training/metrics/moses.py; `--target-language` for the tokeniser).
`--perplexity` costs one more pass, over the first reference; compare it between models with one vocabulary only.

    python -m vaswani_tx.training.evaluate_translation --model runs/multi30k/averaged --source test2016.en --target test2016.de \\
        --beam 5 --bootstrap 1000 --compound-split --tokenised-lowercase --perplexity --output test2016.out.de

On several devices, with the results in order:  accelerate launch -m vaswani_tx.training.evaluate_translation --model ...
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vaswani_tx
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_text

if TYPE_CHECKING:
    import torch


# By their names in torch.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.evaluate_translation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    made = parser.add_mutually_exclusive_group(required=True)
    made.add_argument("--model", metavar="DIR", help="model folder, or a name on the Hub")
    made.add_argument("--hypotheses", metavar="FILE", help="score these translations, one a line, without a model")
    add("--tokenizer", metavar="DIR", help="folder of the tokenizer; default: the model's")
    add("--source", help="source side: a text file, one .jsonl, .tsv, .parquet file, or a data set")
    add("--target", nargs="+", metavar="FILE", help="references: line-aligned text file(s); left out for other formats")
    add("--source-field", default="source", help="field or column of the source text")
    add("--target-field", default="target", help="field or column of the target text")
    add("--split", default="test", help="split of a data set from the Hub")
    add("--dataset-config", help="configuration of a data set from the Hub, such as de-en")
    add("--limit", type=_positive, metavar="N", help="only the first N sentences")
    add("--beam", type=_positive, metavar="N", help="beam size; 1 is greedy; default: the model's own")
    add("--alpha", type=float, help="exponent of GNMT's length penalty; default: the model's own")
    add("--length-penalty", type=float, help="transformers' length penalty, for models without GNMT's")
    add("--max-new-tokens", type=_positive, metavar="N", help="longest translation; default: the model's own rule")
    add("--max-source-length", type=_positive, metavar="N", help="cut sources to N tokens; default: never")
    add("--batch-tokens", type=_positive, default=4096, metavar="N", help="source tokens of a batch, before beams")
    add("--lowercase", action="store_true", help="score without regard to case")
    add("--bleu-tokenizer", default="13a", help="sacreBLEU's tokeniser: 13a, intl, char, none, ...")
    add("--bootstrap", type=_positive, default=0, metavar="N", help="resamples for 95 %% intervals, such as 1000")
    add("--compound-split", action="store_true", help="also the paper's tokenised BLEU with compounds split")
    add("--tokenised-lowercase", action="store_true", help="also BLEU lowercased, normalised, tokenised, as Multi30k's")
    add("--target-language", default="de", metavar="CODE", help="for the tokeniser of these two; default: de")
    add("--perplexity", action="store_true", help="also compute the perplexity of the references")
    add("--output", type=Path, metavar="FILE", help="write the hypotheses here, one a line")
    add("--json", type=Path, metavar="FILE", help="write the scores and settings here")
    add("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    add("--dtype", choices=DTYPES, help="arithmetic; default: the checkpoint's")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    if options.model and not options.source:
        parser.error("--model needs --source: the sentences to translate")
    if not (options.source or options.target):
        parser.error("--hypotheses needs --target: the references, or --source: a file or data set that holds them")
    if options.hypotheses and (options.perplexity or options.output):
        parser.error("--perplexity and --output go with --model: --hypotheses is scored without one")
    return options


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Run the evaluation that the options describe and return its results; writes no file and prints no score.

    Of several processes only the first scores; the others return without scores. Raises ValueError (CheckpointError,
    DataError) where the model, the data or a choice of scores cannot be used.
    """
    from vaswani_tx.training.metrics.scoring import score_translations

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
    scores = score_translations(hypotheses, *references, **_scoring(options)) if _is_main_process() else {}
    return {**scores, **made, "hypotheses": hypotheses}


def _translate(
    options: argparse.Namespace, sources: list[str], references: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """The hypotheses of the model, and what it took to make them."""
    import torch

    from vaswani_tx.training.inference.translation import load_model_and_tokenizer, perplexity, translate_corpus

    device, distributed = _device(options.device)
    loading = {"dtype": getattr(torch, DTYPES[options.dtype])} if options.dtype else {}
    model, tokenizer = load_model_and_tokenizer(options.model, options.tokenizer, device=device, **loading)
    work = {"batch_tokens": options.batch_tokens, "progress": not options.quiet, "distributed": distributed}
    made = translate_corpus(
        model, tokenizer, sources, max_source_length=options.max_source_length, **work, **_decoding(options, model)
    )
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


def _test_set(options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """Sources (none where only hypotheses are scored) and the references, a list for each of their files."""
    from vaswani_tx.training.data.parallel import load_parallel
    from vaswani_tx.training.metrics.scoring import read_lines

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
    """The given translations, of the whole test set of `total` sentences or of its first `--limit`."""
    from vaswani_tx.training.metrics.scoring import read_lines

    lines = read_lines(options.hypotheses)
    limit = min(options.limit or total, total)
    if len(lines) not in (limit, total):
        there = f"the references have {total}" + (f", --limit is {limit}" if limit < total else "")
        raise DataError(
            f"{options.hypotheses} has {len(lines)} lines but {there}: give one translation a line, in the same order."
        )
    return lines[:limit]


def _scoring(options: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of the scores, as `score_translations` takes it."""
    extra = {"bleu_compound_split": options.compound_split, "bleu_tokenised_lowercase": options.tokenised_lowercase}
    return {
        "forms": ["bleu", "chrf", "ter", *(name for name, wanted in extra.items() if wanted)],
        "bootstrap": options.bootstrap,
        "lowercase": options.lowercase,
        "tokenize": options.bleu_tokenizer,
        "language": options.target_language,
    }


def _check_scoring(options: argparse.Namespace) -> None:
    """Find an impossible choice of scores before the work of translating is done, not after."""
    from vaswani_tx.training.metrics.scoring import check_seed, make_metric_spec

    choices = _scoring(options)
    for name in choices["forms"]:
        make_metric_spec(name, tokenize=choices["tokenize"], language=choices["language"]).prepare([])
    if options.bootstrap:
        check_seed()


def report(result: dict[str, Any]) -> str:
    """The results as lines for people."""
    from vaswani_tx.training.metrics.scoring import aligned, score_rows

    rows = []
    if "perplexity" in result:
        rows.append(("perplexity", f"{result['perplexity']:.3f}   a token, {result['nll']:.4f} nats"))
    if "seconds" in result:
        speed = f"{result['sentences_per_second']:.1f} sentences/s, {result['target_tokens_per_second']:.0f} tokens/s"
        rows.append(("speed", f"{speed}   ({result['sentences']} sentences in {result['seconds']:.1f} s)"))
    return "\n".join(aligned([*score_rows(result), *rows]))


def main(argv: list[str] | None = None) -> int:
    """Evaluate, write what was asked for, print the scores; 2 with one line on stderr for input that cannot be used."""
    options = parse(argv)
    import torch
    import transformers

    if options.quiet:
        transformers.utils.logging.disable_progress_bar()
    try:
        for path in (options.output, options.json):
            _check_writable(path)
        result = evaluate(options)
        if _is_main_process():
            hypotheses = result.pop("hypotheses")
            if options.output:
                atomic_text(options.output, "".join(f"{text}\n" for text in hypotheses))
            if options.json:
                atomic_text(options.json, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
            print(report(result))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def _field(name: str) -> str | int:
    """A column of a table without a header is given by its number."""
    return int(name) if name.isdecimal() else name


def _device(name: str | None) -> "tuple[torch.device, bool]":
    """The device, and whether several processes share the work; only then Accelerate is needed."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import Accelerator

        # Without a GPU and without this word accelerate makes no group: each process would do all of the work.
        return Accelerator(cpu=name == "cpu" or not torch.accelerator.is_available()).device, True
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu")), False


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _decoding(options: argparse.Namespace, model: Any) -> dict[str, Any]:
    """What the flags override of the model's generation configuration."""
    from vaswani_tx.generation_vaswani import VaswaniGenerationMixin

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
    import torch
    import transformers

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
    """A hypothesis must stay on its line of the file, whatever the model made."""
    return text.replace("\r", " ").replace("\n", " ")


def _check_writable(path: Path | None) -> None:
    """Find a folder in the way of an output file before the work of translating is done, not after."""
    if path is not None and path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name a file for the results")


if __name__ == "__main__":
    sys.exit(main())
