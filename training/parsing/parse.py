"""Parse sentences with a trained model.

    echo "The nurse saw the man with the hat ." | python -m vaswani_tx.training.parsing.parse --model runs/parsing/model

One sentence a line on standard input or in `--input`, its words separated by spaces as in the treebank that the model
learned from (punctuation apart). One bracketed tree a line comes out, a blank line for a blank one. Words keep their
order and number: a malformed output is repaired, and counted on stderr
(training/parsing/linear.py). Tags are XX unless the model learned them.

Decoding is the paper's for parsing (section 6.3): beam 21, alpha 0.3, at most 300 tokens more than the input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaswani_tx.limits import BEAMS, GNMT_ALPHA, TOKENS
from vaswani_tx.training.command_line import (
    check_writable,
    exit_status,
    make_parser,
    positive_int,
    print_status,
)
from vaswani_tx.training.data.lines import read_lines, stdin_lines, words_of
from vaswani_tx.training.errors import CheckpointError, DataError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.parsing.linear import FAULTS, ReadBack, count_faults
from vaswani_tx.training.parsing.outputs import PAPER_PARSING, learned_leaves, read_outputs
from vaswani_tx.training.parsing.trees import bracket_word, plain_word


def parse_sentences(
    model: Any, tokenizer: Any, sentences: Sequence[Sequence[str]], **options: Any
) -> tuple[list[ReadBack], list[str]]:
    """Return a tree for each sentence, and the model's outputs as they were.

    Args:
        model, tokenizer: as `load_model_and_tokenizer` returns them; the tokenizer was made by `parsing.prepare`.
        sentences: words, as a bracketed tree can hold them; none may be empty.
        options: of `translate_corpus`: `batch_tokens`, `progress`, `num_beams`, ... The paper's where absent.
    """
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.training.inference.translation import translate_corpus

    sources = [" ".join(map(plain_word, words)) for words in sentences]
    made = translate_corpus(model, tokenizer, sources, do_sample=False, **(PAPER_PARSING | options))
    return read_outputs(made.texts, sentences, learned_leaves(tokenizer)), made.texts


def load_parser(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the model and tokenizer that the options name; raise DataError where they are no parser."""
    from vaswani_tx.devices import choose_device
    from vaswani_tx.generation_vaswani import VaswaniGenerationMixin
    from vaswani_tx.training.inference.translation import load_model_and_tokenizer

    device = choose_device(options.device)
    try:
        model, tokenizer = load_model_and_tokenizer(options.model, options.tokenizer, device=device)
    except CheckpointError as error:
        # The user named the folder: wrong input, not a failure of the machine.
        raise DataError(f"--model: {error}") from error
    if not isinstance(model, VaswaniGenerationMixin):
        raise DataError(
            f"{options.model} holds a {type(model).__name__}: give a model that `vaswani-tx train parsing` made."
        )
    return model, tokenizer


def decoding(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of decoding, for `parse_sentences`."""
    return {
        "num_beams": options.beam,
        "gnmt_alpha": options.alpha,
        "max_extra_tokens": options.extra_tokens,
        "batch_tokens": options.batch_tokens,
        "progress": not options.quiet and sys.stderr.isatty(),
    }


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Add the options that parsing and its evaluation share."""
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="folder of a model: best/, averaged/ or a checkpoint of a run")
    add("--tokenizer", metavar="DIR", help="folder of the tokenizer; default: the model's")
    add("--beam", type=BEAMS, default=PAPER_PARSING["num_beams"], metavar="N", help="beam size (21)")
    add("--alpha", type=GNMT_ALPHA, default=PAPER_PARSING["gnmt_alpha"], help="exponent of GNMT's length penalty (0.3)")
    add(
        "--extra-tokens", type=TOKENS, default=PAPER_PARSING["max_extra_tokens"], metavar="N",
        help="tokens that an output may have beyond its input's (300)",
    )  # fmt: skip
    add("--batch-tokens", type=positive_int, default=600, metavar="N", help="source tokens of a batch (600)")
    add("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    add("--quiet", action="store_true", help="no progress bar")


def fault_line(counts: dict[str, int], total: int) -> str:
    """Return one line on how many outputs were malformed, and why."""
    kinds = [f"{FAULTS[name]}: {counts[name]}" for name in FAULTS if counts[name]]
    return f"{counts['malformed']} of {total} outputs malformed and repaired" + "".join(f"; {kind}" for kind in kinds)


def run(options: argparse.Namespace) -> None:
    """Parse the sentences that the options name, and print or write their trees."""
    check_writable(options.output)
    model, tokenizer = load_parser(options)
    lines = read_lines(options.input) if options.input not in (None, "-") else stdin_lines()
    sentences = [[bracket_word(word) for word in words_of(line)] for line in lines]
    asked = [words for words in sentences if words]
    if not asked:
        raise DataError(f"{options.input or 'standard input'} holds no sentence: give one a line.")
    results, _ = parse_sentences(model, tokenizer, asked, **decoding(options))
    trees = iter([result.tree.pretty() if options.pretty else str(result.tree) for result in results])
    text = "".join(f"{next(trees) if words else ''}\n" for words in sentences)
    if options.output:
        atomic_text(options.output, text)
    else:
        print(text, end="")
    print_status(fault_line(count_faults(results), len(results)))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = make_parser(__doc__, "python -m vaswani_tx.training.parsing.parse")
    add_decoding(parser)
    parser.add_argument("--input", metavar="FILE", help="sentences; default: standard input")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the trees here instead of printing them")
    parser.add_argument("--pretty", action="store_true", help="each tree over several lines")
    options = parser.parse_args(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
