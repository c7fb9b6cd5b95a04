"""Sequence-level distillation: a teacher's translations of the training sources as the targets of a smaller student.

    vaswani-tx distill --model runs/big/averaged --input train.en --output-dir distilled --beams 5

A student learns more from what a good teacher writes than from the references, and needs less search at the end (Kim
and Rush 2016, arXiv 1606.07947, section 3.2). --output-dir then holds

    source.txt, target.txt    the pairs, line by line: the lines of --input, and the teacher's translations
    corpus.yaml               the entry for `corpora` of a recipe
    report.json               what was made with which model and settings, and what was left out

--input is the source side of the training data, or any other text in that language. Decoding is the model's own (beam
search for ours) unless an option says more.

Pairs with an empty side are left out, and pairs of which one side has more than --max-length-ratio times the tokens of
the other; the counts are printed and in report.json.

A large input survives a kill: what is done is in OUTPUT_DIR.part, and the same command resumes from there and ends with
the same bytes. OUTPUT_DIR itself appears when all is done. On several devices: `accelerate launch -m vaswani_tx distill
...`. The same command is `python -m vaswani_tx.training.distill`. Text in the target language alone is for
`vaswani-tx backtranslate`.

    vaswani-tx train translation RECIPE.yaml --train-source distilled/source.txt --train-target distilled/target.txt
"""

import argparse
import sys

from vaswani_tx.training.backtranslate import carry_out, parse_as


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    return parse_as(argv, "vaswani-tx distill", __doc__, tag="", forward=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return carry_out(parse(argv))


if __name__ == "__main__":
    sys.exit(main())
