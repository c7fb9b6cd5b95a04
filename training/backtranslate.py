"""Back-translation: more parallel text from text in the target language alone, by a model of the other direction.

    vaswani-tx backtranslate --model runs/de_en/averaged --input mono.de --output-dir bt

Every line of --input, text in the language that your model is to write, is translated into its source language. The
model learns from such pairs as from real ones (Sennrich, Haddow and Birch 2016, arXiv 1511.06709), best with a tag in
front of the machine's sources, so that it knows which they are (Caswell, Chelba and Grangier 2019, arXiv 1906.06442).
--output-dir then holds

    source.txt, target.txt    the pairs, line by line: translations, and the lines of --input that they are of
    corpus.yaml               the entry for `corpora` of a recipe, with the tag
    report.json               what was made with which model and settings, and what was left out

Decoding is the model's own (beam search for ours) unless an option says more. `--beams 1` is greedy. `--sample` draws
translations instead, which are worse and teach more where there is much text (Edunov et al. 2018, arXiv 1808.09381);
`--top-k 10` keeps to the ten best tokens each time, `--temperature` below 1 sharpens. The draws depend on --seed, the
lines and the sizes of buffer and batches, not on where a run was stopped.

Pairs with an empty side are left out, and pairs of which one side has more than --max-length-ratio times the tokens of
the other, as of a model that repeats itself; the counts are printed and in report.json.

A large input survives a kill: what is done is in OUTPUT_DIR.part, and the same command resumes from there and ends with
the same bytes. OUTPUT_DIR itself appears when all is done. On several devices:
`accelerate launch -m vaswani_tx backtranslate ...`. The same command is `python -m vaswani_tx.training.backtranslate`.

    vaswani-tx train translation RECIPE.yaml       with, in the recipe:
    corpora:
      - {source: train.en, target: train.de}
      - {source: bt/source.txt, target: bt/target.txt, tag: <BT>, weight: 0.5}
"""

import argparse
import sys
from pathlib import Path

from vaswani_tx.limits import BEAMS, GENERATION, GNMT_ALPHA, LENGTH_PENALTY, SEED, TOKENS, real, thread_bounds
from vaswani_tx.training.command_line import FAILURES, exit_status, make_parser, positive_int
from vaswani_tx.training.config.translation import check_tags
from vaswani_tx.training.errors import SettingsError

INTERRUPTED = "what is done is kept, the same command resumes from there"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    return parse_as(argv, "vaswani-tx backtranslate", __doc__, tag="<BT>", forward=False)


def parse_as(argv: list[str] | None, name: str, manual: str, tag: str, forward: bool) -> argparse.Namespace:
    """Read the command line of a command that makes parallel text with a model.

    Args:
        tag: the default of --tag.
        forward: the given text is the source of the pairs, not the target.
    """
    parser = make_parser(manual, name)
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="model folder, or a name on the Hub")
    add("--input", required=True, metavar="FILE", help="text to translate, one sentence a line; also .gz, .zst, ...")
    add("--output-dir", required=True, type=Path, metavar="DIR", help="folder to write; it must be empty or absent")
    add("--tag", default=tag, help=f"tags for the corpus entry; '' for none; default: {tag or 'none'}")
    add("--max-length-ratio", type=real(1), default=3.0, metavar="R", help="see above; default: 3")
    add("--drop-copies", action="store_true", help="also leave out pairs whose two sides are the same text")
    add("--drop-duplicates", action="store_true", help="also leave out pairs that came before")
    add("--restart", action="store_true", help="ignore what an earlier run left in DIR.part, start again")
    add("--overwrite", action="store_true", help="replace DIR, which must be the result of such a command")
    add = parser.add_argument_group("decoding").add_argument
    add("--beams", type=BEAMS, metavar="N", help="beams; 1: greedy; default: the model's own")
    add("--length-penalty", type=LENGTH_PENALTY, metavar="P", help="rank by log P / length**P")
    add(
        "--gnmt-alpha", type=GNMT_ALPHA, metavar="A", help="exponent of GNMT's length penalty; default: the model's own"
    )
    add("--sample", action="store_true", help="draw each translation at random")
    add("--temperature", type=GENERATION["temperature"], metavar="T", help="of --sample; default: 1")
    add("--top-k", type=GENERATION["top_k"], metavar="K", help="of --sample: only the K best tokens; default: 0, all")
    add("--seed", type=SEED, metavar="N", help="of --sample; default: 1")
    add("--max-length", type=TOKENS, metavar="N", help="most tokens of a translation")
    add("--src-lang", metavar="CODE", help="language of the input, for models of many languages")
    add(
        "--tgt-lang", metavar="CODE", help="language of the translations; of a model with tags, en for its token >>en<<"
    )
    add = parser.add_argument_group("long lines, batches, device").add_argument
    add("--long-lines", choices=("split", "truncate", "error"), default="split",
        help="lines over --max-source-length: in pieces (default), cut off, or refused")  # fmt: skip
    add("--max-source-length", type=positive_int, metavar="N", help="default: the model's, at most 1024")
    add("--errors", choices=("strict", "replace"), default="strict", help="what bytes that are not UTF-8 do")
    add("--buffer-size", type=positive_int, default=512, metavar="N", help="lines that are saved at once; default: 512")
    add("--batch-size", type=positive_int, default=128, metavar="N", help="most lines of a batch; default: 128")
    add("--max-tokens", type=positive_int, default=4096, metavar="N", help="most tokens of a batch; default: 4096")
    add("--tokenizer", metavar="DIR", help="folder of the tokenizer; default: the model's")
    add("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="arithmetic; default: the checkpoint's")
    add("--num-threads", type=thread_bounds(), metavar="N", help="CPU threads; default: torch's choice")
    add("--engine", choices=("ctranslate2", "onnx"), help="what computes instead of torch, as in `translate`")
    add("--quantization", metavar="TYPE", help="with --engine: of the weights, such as int8; default: float32")
    add("-q", "--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    options.forward = forward
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with status 2 and the usage where options do not go together."""
    if options.input == "-":
        parser.error("--input must be a file: the lines are read again beside their translations")
    if not options.sample:
        for name in ("temperature", "top_k", "seed"):
            if getattr(options, name) is not None:
                parser.error(f"--{name.replace('_', '-')} is of --sample: give that too")
    elif options.beams is not None:
        parser.error("--sample and --beams are two ways to decode: give one")
    elif options.engine:
        parser.error(f"--sample needs torch: leave --engine {options.engine} out")
    if options.temperature == 0:
        parser.error("--temperature 0 is no sampling: give --beams 1")
    if options.quantization and not options.engine:
        parser.error("--quantization is of an engine: give --engine ctranslate2 or onnx too")
    if options.engine and options.precision:
        parser.error("--precision is of torch: with --engine give --quantization")
    if options.gnmt_alpha is not None and options.length_penalty is not None:
        parser.error("--gnmt-alpha and --length-penalty are two rankings of the same beams: give one")
    try:
        check_tags(options.tag, "--tag")
    except SettingsError as error:
        parser.error(str(error))


def carry_out(options: argparse.Namespace) -> int:
    """Make the parallel text and return the exit status."""
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.cli.common import CliFailure, quiet_libraries

    def work() -> None:
        from vaswani_tx.training.inference.synthetic import make_pairs

        with quiet_libraries():
            make_pairs(options)

    return exit_status(work, interrupted=INTERRUPTED, failures=(*FAILURES, CliFailure))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return carry_out(parse(argv))


if __name__ == "__main__":
    sys.exit(main())
