"""Train a ladder of sizes on one corpus, fit the power laws of the loss in parameters and compute, and draw them.

    python -m vaswani_tx.training.scaling tatoeba_en --output-dir runs/scaling --dry-run
    python -m vaswani_tx.training.scaling tatoeba_en --output-dir runs/scaling

Every further flag is one of the training command's, for all sizes. A size trains into OUTPUT_DIR/SIZE-seedN; finished
ones are skipped and a stopped one resumes when the same command is given again. OUTPUT_DIR gets `scaling.json` (every
number), `scaling.md` (the table) and `scaling.png`; `--only-fit` makes them again from the finished runs. SIGTERM
and Ctrl-C let the current run save first; the exit status is then 128 plus the signal's number. A file or flag that
cannot be used ends with status 2 before anything starts.

A ladder is a YAML mapping:

    title: of the picture                        # optional
    command: train_causal_lm                     # or train_masked_lm, train_translation
    recipe: ../recipes/causal_lm/tatoeba_en.yaml # beside this file; base of all sizes
    set: {max_steps: 1000, eval_every: 100}      # keys of the recipe for all sizes
    seeds: [1, 2]                                # every size is trained with each; they give the error bars
    sizes:
      d64: {model.d_model: 64, model.d_ff: 256}  # keys of the recipe for this size
      d128: {model.d_model: 128, model.d_ff: 512}

All sizes see the same number of updates; the loss is the validation loss in nats a token, at the end of a run and at
each validation on the way. See `training/experiments/scaling_fit.py` for what is fitted.
"""

import shlex
import sys

from vaswani_tx.training.command_line import FAILURES, exit_status, make_parser
from vaswani_tx.training.errors import FitError

USAGE = "%(prog)s FILE --output-dir DIR [--dry-run] [--only-fit] [--KEY VALUE ...]"


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = make_parser(__doc__, "python -m vaswani_tx.training.scaling", USAGE)
    parser.add_argument("file", help="ladder of sizes: a file, or the name of a ready-made one")
    parser.add_argument("--output-dir", "--output_dir", required=True, metavar="DIR", help="folder of runs and results")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the commands, start nothing")
    parser.add_argument("--only-fit", action="store_true", help="train nothing, fit and draw the finished runs")
    options, flags = parser.parse_known_args(argv)

    def work() -> int:
        # Imported here, so that --help need not wait for torch.
        from vaswani_tx.training.experiments.ladder import finalize, read_ladder, train_ladder, training_command

        ladder = read_ladder(options.file, flags, options.output_dir)
        if options.dry_run:
            for rung in ladder.rungs:
                print(f"{rung.name}: {shlex.join(training_command(ladder, rung))}")
            return 0
        status = 0 if options.only_fit else train_ladder(ladder)
        if status < 128:
            finalize(ladder)
        return status

    return exit_status(work, failures=(FitError, *FAILURES))


if __name__ == "__main__":
    sys.exit(main())
