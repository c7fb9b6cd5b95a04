"""Train the rows of a table one after another, score each on the development set, and write the table.

    vaswani-tx sweep table3 --output-dir runs/table3 --dry-run
    vaswani-tx sweep table3 --output-dir runs/table3 \\
        --only base A1 --max-steps 5000

The sweep comes first: a file, or the name of a ready-made one. Every further flag is one of `vaswani-tx train
translation`, for all rows, and goes before what they set. A row trains into OUTPUT_DIR/ROW, with `--launch ddp` (a
configuration of accelerate by its file or the name of a ready-made one, and then accelerate's own flags: `--launch "ddp
--num_processes 2"`) through `accelerate launch`.
OUTPUT_DIR/table.md and table.json are rewritten after each row. The same command resumes where it stopped: finished
rows are skipped, a stopped one resumes. A row that fails is reported and the next one started; the exit status is then
1. SIGTERM and Ctrl-C let the current run save first; the exit status is then 128 plus the signal's number. A file or
flag that cannot be used ends with status 2 before anything starts.

A sweep file is a YAML mapping:

    title: what the table is called          # all keys but rows or grid may be left out
    recipe: ../recipes/multi30k_en_de.yaml   # beside this file; base of all rows
    set: {max_steps: 1000}                   # keys of the recipe for all rows
    evaluation: {model: averaged}            # or best, last; source, target, split, beam, ... in place of validation's;
                                             # metrics: [bleu, rouge1] chooses the scores of the table
    rows:
      narrow:
        set: {model.d_ff: 128}               # keys of the recipe for this row; model.FIELD is one field of the model
        paper: {perplexity: 5, bleu: 25, parameters: 36}   # put beside the row's own; parameters in millions
      wide:
        set: {model.d_ff: 512}
    grid: {seed: [1, 2]}                     # every row with every combination: narrow,seed=1 narrow,seed=2 ...
    note: text below the table
"""

import sys

from vaswani_tx.training.command_line import exit_status, make_parser

USAGE = "%(prog)s FILE [--output-dir DIR] [--only ROW ...] [--dry-run] [--launch CONFIG] [--KEY VALUE ...]"


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = make_parser(__doc__, "vaswani-tx sweep", USAGE)
    parser.add_argument("file", help="sweep file, or the name of a ready-made sweep")
    parser.add_argument("--output-dir", "--output_dir", metavar="DIR", help="place of the table and of the rows' runs")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="only these rows; the table shows all")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the commands, start nothing")
    parser.add_argument(
        "--launch", metavar="CONFIG", help="train through accelerate launch with this configuration, such as ddp"
    )
    options, flags = parser.parse_known_args(argv)

    def work() -> int:
        # Imported here, so that --help need not wait for torch.
        from vaswani_tx.training.experiments import sweep
        from vaswani_tx.training.experiments.sweep_rows import read_sweep

        launch = sweep.launch_words(options.launch)
        content = read_sweep(options.file, flags, options.output_dir)
        rows = content.choose(options.only)
        if options.dry_run:
            print(sweep.describe(content, rows, launch))
            return 0
        sweep.write_table(content, {})
        return sweep.run_sweep(content, rows, launch)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
