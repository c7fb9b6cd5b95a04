"""Measure a language model on text: perplexity and bits per byte, or the loss and accuracy of masked words.

    vaswani-tx evaluate language-model --model runs/causal_tatoeba_en/best --text test.en
    vaswani-tx evaluate language-model --model runs/masked_tatoeba_en/best --text test.en --pseudo

The model is a folder (or a name on the Hub) that `AutoModelForCausalLM` or `AutoModelForMaskedLM` loads: of a run of
ours, or GPT-2 and its like. The text is what a recipe's `validation_text` may be: text files of a document a line
(`--documents paragraph`: up to a blank line), .jsonl, .json, .csv, .tsv or .parquet files with `--field`, all of them
also compressed (.gz, .bz2, .xz, .zst), or a data set with `--split`.

A causal model predicts each document from `<s>` on, `</s>` included (`<|endoftext|>` where a tokenizer has nothing
else). The perplexity per token compares models of one vocabulary only. These two compare any models:

- bits per byte: all bits over the bytes of the texts in UTF-8, the end of each document, which `</s>` predicts, being
  one byte, as in a text file;
- perplexity per word: words between white space, the end of each line counted as one word.

A document longer than `--length` (the model's own limit, or 1024) is read in blocks, each of which sees the last
`--context` tokens before it (half of the length) without predicting them again.

A masked model predicts 15 % of the words, always the same ones (`--seed`, `--rate`), 80 % of their tokens masked, 10 %
random, 10 % as they are. `--pseudo` adds the pseudo-log-likelihood (Salazar et al. 2020): each token from all others,
one forward pass for each. `--scores FILE` keeps it text by text.
"""

import argparse
import json
import sys
from pathlib import Path

from vaswani_tx.limits import SEED, real, thread_bounds
from vaswani_tx.training.command_line import DTYPES, check_writable, exit_status, make_parser, positive_int
from vaswani_tx.training.files import atomic_text


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "vaswani-tx evaluate language-model")
    add = parser.add_argument
    add("--model", required=True, help="folder of a causal or masked language model, or a name on the Hub")
    add("--text", nargs="+", required=True, help="files, or a data set")
    add("--kind", choices=("causal", "masked"), help="what to load the folder as; else what its config.json says")
    add("--documents", choices=("line", "paragraph"), default="line", help="what a document of a text file is (line)")
    add("--field", default="text", help="field or column of the text in other formats (text)")
    add("--split", default="test", help="split of a Hub data set (test)")
    add("--dataset-config", help="configuration of a Hub data set")
    add("--limit", type=positive_int, help="read only so many documents, the first ones")
    add("--length", type=positive_int, help="longest sequence in tokens; else the model's limit, at most 1024")
    add("--context", type=positive_int, help="tokens that a later block of a document sees again; else half the length")
    add("--batch-tokens", type=positive_int, default=4096, help="tokens of a batch, padding counted (4096)")
    add("--rate", type=real(), default=0.15, help="share of the words to mask (0.15)")
    add("--seed", type=SEED, default=1, help="chooses them (1)")
    add("--pseudo", action="store_true", help="pseudo-log-likelihood of a masked model")
    add("--scores", type=Path, help="write it for each document, a number a line")
    add("--json", type=Path, help="write every number")
    add("--device", help="cpu, cuda, ... (the accelerator if there is one)")
    add("--dtype", choices=tuple(DTYPES), default="fp32", help="arithmetic of the model (fp32)")
    add("--num-threads", type=thread_bounds(), help="CPU threads of PyTorch")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    if options.scores and not options.pseudo:
        parser.error("--scores goes with --pseudo")
    if not 0 < options.rate <= 1:
        parser.error("--rate must be above 0 and at most 1")
    return options


def run(options: argparse.Namespace) -> None:
    """Evaluate, write what was asked for and print the scores; raise ValueError for input that cannot be used."""
    for path in (options.scores, options.json):
        check_writable(path)
    # Imported here, so that --help need not wait for torch.
    import transformers

    from vaswani_tx.training.inference.language_model_evaluation import evaluate, report

    transformers.utils.logging.disable_progress_bar()
    result = evaluate(options)
    if options.scores:
        atomic_text(options.scores, "".join(f"{nats:.6f}\n" for nats in result["pseudo_scores"]))
    if options.json:
        atomic_text(options.json, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(report(result))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
