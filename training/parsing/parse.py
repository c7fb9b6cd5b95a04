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

import torch

from vaswani_tx.generation_vaswani import VaswaniGenerationMixin
from vaswani_tx.training.data.lines import read_lines
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.inference.translation import load_model_and_tokenizer, translate_corpus
from vaswani_tx.training.parsing.linear import FAULTS, LEAF, ReadBack, count_faults, kind_of_leaves, read_back
from vaswani_tx.training.parsing.trees import bracket_word, plain_word

PAPER_PARSING = {"num_beams": 21, "gnmt_alpha": 0.3, "max_extra_tokens": 300}


def parse_sentences(
    model: Any, tokenizer: Any, sentences: Sequence[Sequence[str]], **options: Any
) -> tuple[list[ReadBack], list[str]]:
    """Return a tree for each sentence, and the model's outputs as they were.

    Args:
        model, tokenizer: as `load_model_and_tokenizer` returns them; the tokenizer was made by `parsing.prepare`.
        sentences: words, as a bracketed tree can hold them; none may be empty.
        options: of `translate_corpus`: `batch_tokens`, `progress`, `num_beams`, ... The paper's where absent.
    """
    sources = [" ".join(map(plain_word, words)) for words in sentences]
    made = translate_corpus(model, tokenizer, sources, do_sample=False, **(PAPER_PARSING | options))
    leaves = learned_leaves(tokenizer)
    pairs = zip(made.texts, sentences, strict=True)
    return [read_back(output, words, leaves) for output, words in pairs], made.texts


def learned_leaves(tokenizer: Any) -> str:
    """Return which of LEAVES the training data had; XX for a tokenizer that does not record it."""
    return kind_of_leaves(tokenizer.init_kwargs.get("whole_words") or [LEAF])


def load_parser(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the model and tokenizer that the options name; raise ValueError for another kind of model."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_model_and_tokenizer(options.model, options.tokenizer, device=device)
    if not isinstance(model, VaswaniGenerationMixin):
        raise DataError(f"{options.model} holds a {type(model).__name__}: give a model that train_translation made.")
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
    add("--beam", type=_positive, default=PAPER_PARSING["num_beams"], metavar="N", help="beam size (21)")
    add("--alpha", type=_alpha, default=PAPER_PARSING["gnmt_alpha"], help="exponent of GNMT's length penalty (0.3)")
    add(
        "--extra-tokens", type=_positive, default=PAPER_PARSING["max_extra_tokens"], metavar="N",
        help="tokens that an output may have beyond its input's (300)",
    )  # fmt: skip
    add("--batch-tokens", type=_positive, default=600, metavar="N", help="source tokens of a batch, before beams (600)")
    add("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    add("--quiet", action="store_true", help="no progress bar")


def fault_line(counts: dict[str, int], total: int) -> str:
    """Return one line on how many outputs were malformed, and why."""
    kinds = [f"{FAULTS[name]}: {counts[name]}" for name in FAULTS if counts[name]]
    return f"{counts['malformed']} of {total} outputs malformed and repaired" + "".join(f"; {kind}" for kind in kinds)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 2 with one line on stderr for input that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.parsing.parse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_decoding(parser)
    parser.add_argument("--input", metavar="FILE", help="sentences; default: standard input")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the trees here instead of printing them")
    parser.add_argument("--pretty", action="store_true", help="each tree over several lines")
    options = parser.parse_args(argv)
    try:
        model, tokenizer = load_parser(options)
        lines = read_lines(options.input) if options.input else sys.stdin.read().split("\n")
        if not options.input and not lines[-1]:
            lines.pop()
        sentences = [[bracket_word(word) for word in line.split()] for line in lines]
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
        print(fault_line(count_faults(results), len(results)), file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def _alpha(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number of at least 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
