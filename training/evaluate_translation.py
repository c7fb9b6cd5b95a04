"""Translate a test set with a trained model and score it by any metric, with signatures; also its speed.

    vaswani-tx evaluate --model runs/demo/best --source test.en --target test.de

The model is any encoder-decoder folder that the Auto classes of transformers load (`best/`, `averaged/` or a checkpoint
of a run of ours, a MarianMT folder) or a name on the Hub. The test set comes in every format of the training data: two
line-aligned text files, one .jsonl, .json, .csv, .tsv or .parquet file (`--source-field`, `--target-field`), all of
them also compressed (.gz, .bz2, .xz, .zst), or a data set's name. Several reference files after `--target` are several
references of each sentence.

Decoding is the model's own (`generation_config.json`; for ours the paper's beam 4, alpha 0.6, source + 50 tokens)
unless a flag changes it: `--beam 1` is greedy and several times as fast. Sentences of any length are translated.
`--output` keeps the hypotheses, one a line; `--json` keeps every number. A file of hypotheses, whoever made it, is
scored without a model:

    vaswani-tx evaluate --hypotheses test.out.de --target test.de --bootstrap 1000

`--metrics` chooses the scores, such as `--metrics bleu chrf` or, of summaries, `--metrics rouge1 rouge2 rougeL`: those
of training/metrics/registry.py, on plain text. Put the signature beside a score that you publish. `--bootstrap N` adds
the mean and 95 % interval over N resamples of the test set by sacreBLEU, with its fixed seed 12345 (or SACREBLEU_SEED
from the environment). Whether one of two systems is better: `vaswani-tx compare`.
`--compound-split` and `--tokenised-lowercase` add the tokenised BLEU of the paper's and of Multi30k's results, which
compare with those results and with nothing else (training/metrics/moses.py; `--target-language` for the tokeniser).
`--perplexity` costs one more pass, over the first reference; compare it between models with one vocabulary only.

    vaswani-tx evaluate --model runs/multi30k/averaged \\
        --source test2016.en --target test2016.de --beam 5 --bootstrap 1000 \\
        --compound-split --tokenised-lowercase --perplexity --output test2016.out.de

On several devices, with the results in order: `accelerate launch -m vaswani_tx evaluate --model ...`. The same command
is `python -m vaswani_tx.training.evaluate_translation`.
"""

import argparse
import json
import sys
from pathlib import Path

from vaswani_tx import light_imports
from vaswani_tx.limits import BEAMS, GNMT_ALPHA, LENGTH_PENALTY, RESAMPLES, TOKENS, thread_bounds
from vaswani_tx.training.command_line import DTYPES, check_writable, exit_status, make_parser, positive_int
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.metrics.registry import DEFAULT_METRICS, signed_metrics


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "vaswani-tx evaluate translation")
    add = parser.add_argument
    made = parser.add_mutually_exclusive_group(required=True)
    made.add_argument("--model", metavar="DIR", help="model folder, or a name on the Hub")
    made.add_argument("--hypotheses", metavar="FILE", help="score these translations, one a line, without a model")
    add("--tokenizer", metavar="DIR", help="folder of the tokenizer; default: the model's")
    add("--source", help="source side: a text file, one .jsonl, .json, .csv, .tsv, .parquet file, or a data set")
    add("--target", nargs="+", metavar="FILE", help="references: line-aligned text file(s); left out for other formats")
    add("--source-field", default="source", help="field or column of the source text")
    add("--target-field", default="target", help="field or column of the target text")
    add("--tgt-lang", metavar="CODE", help="language to write, of a model with tags: de puts >>de<< before each source")
    add("--split", default="test", help="split of a data set from the Hub")
    add("--dataset-config", help="configuration of a data set from the Hub, such as de-en")
    add("--limit", type=positive_int, metavar="N", help="only the first N sentences")
    add("--beam", type=BEAMS, metavar="N", help="beam size; 1 is greedy; default: the model's own")
    add("--alpha", type=GNMT_ALPHA, help="exponent of GNMT's length penalty; default: the model's own")
    add("--length-penalty", type=LENGTH_PENALTY, help="transformers' length penalty, for models without GNMT's")
    add("--max-new-tokens", type=TOKENS, metavar="N", help="longest translation; default: the model's own rule")
    add("--max-source-length", type=positive_int, metavar="N", help="cut sources to N tokens; default: never")
    add("--batch-tokens", type=positive_int, default=4096, metavar="N", help="source tokens of a batch, before beams")
    names = ", ".join(signed_metrics())
    add("--metrics", nargs="+", choices=signed_metrics(), default=list(DEFAULT_METRICS), metavar="NAME",
        help=f"scores: {names}; default: {' '.join(DEFAULT_METRICS)}")  # fmt: skip
    add("--lowercase", action="store_true", help="score without regard to case")
    add("--bleu-tokenizer", default="13a", help="sacreBLEU's tokeniser: 13a, intl, char, none, ...")
    add("--bootstrap", type=RESAMPLES, default=0, metavar="N", help="resamples for 95 %% intervals, such as 1000")
    add("--compound-split", action="store_true", help="also the paper's tokenised BLEU with compounds split")
    add("--tokenised-lowercase", action="store_true", help="also BLEU lowercased, normalised, tokenised, as Multi30k's")
    add(
        "--target-language",
        default="de",
        metavar="CODE",
        help="for the tokeniser of these two and for ROUGE's stemmer; default: de",
    )
    add("--perplexity", action="store_true", help="also compute the perplexity of the references")
    add("--output", type=Path, metavar="FILE", help="write the hypotheses here, one a line")
    add("--json", type=Path, metavar="FILE", help="write the scores and settings here")
    add("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    add("--dtype", choices=DTYPES, help="arithmetic; default: the checkpoint's")
    add("--engine", choices=("ctranslate2", "onnx", "transformers"),
        help="what computes instead of torch, as in `translate`; transformers: plain `generate`")  # fmt: skip
    add("--quantization", metavar="TYPE", help="with --engine: of the weights, such as int8; default: float32")
    add("--num-threads", type=thread_bounds(), metavar="N", help="CPU threads; default: torch's choice")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    if options.model and not options.source:
        parser.error("--model needs --source: the sentences to translate")
    if not (options.source or options.target):
        parser.error("--hypotheses needs --target: the references, or --source: a file or data set that holds them")
    if options.hypotheses and (options.perplexity or options.output):
        parser.error("--perplexity and --output go with --model: --hypotheses is scored without one")
    options.search = "transformers" if options.engine == "transformers" else None
    options.engine = None if options.search else options.engine
    if options.quantization and not options.engine:
        parser.error("--quantization is of an engine: give --engine ctranslate2 or onnx too")
    if options.engine and (options.dtype or options.perplexity):
        parser.error("--dtype and --perplexity are of torch: leave --engine out")
    return options


def run(options: argparse.Namespace) -> None:
    """Evaluate, write what was asked for and print the scores; raise ValueError for input that cannot be used."""
    for path in (options.output, options.json):
        check_writable(path)
    # Imported here, so that --help need not wait for torch.
    light_imports.import_transformers()
    import transformers

    from vaswani_tx.training.inference import evaluation

    if options.quiet:
        transformers.utils.logging.disable_progress_bar()
    with evaluation.process_group():
        result = evaluation.evaluate(options)
        if not evaluation.is_main_process():
            return
        hypotheses = result.pop("hypotheses")
        if options.output:
            atomic_text(options.output, "".join(f"{text}\n" for text in hypotheses))
        if options.json:
            atomic_text(options.json, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        print(evaluation.report(result))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
