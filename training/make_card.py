"""Write the model card (README.md) of a run: metadata, use, data, recipe, scores with signatures, time, licence.

    vaswani-tx evaluate --model runs/first/averaged --source test.en --target test.de --json scores.json
    vaswani-tx card runs/first --evaluation scores.json --output model_cards/first.md --language en de

Every number comes from the run's files and the evaluations; what they do not hold is left out. What no file knows (the
languages, licences and names) comes from the flags. Works offline; the metadata are what the Hub reads.
"""

import argparse
import sys
from pathlib import Path

from vaswani_tx.hub.model_card import About, CardError, make_card
from vaswani_tx.training.command_line import exit_status, make_parser
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.metrics.registry import card_titles


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "vaswani-tx card")
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder that `vaswani-tx train` wrote")
    add("--output", type=Path, required=True, metavar="FILE", help="card to write, replaced where it exists")
    add("--model", type=Path, metavar="DIR", help="model folder; default: RUN/averaged, else RUN/best")
    add(
        "--evaluation", type=Path, nargs="+", default=[], metavar="FILE", help="what `vaswani-tx evaluate --json` wrote"
    )
    add("--name", help="the model's name; default: the run folder's")
    add("--load-from", metavar="NAME", help="what the example loads: a folder, or a name on the Hub; default: the name")
    add("--with-code", action="store_true", help="the model is shared with its code (save_with_code)")
    add("--language", nargs="+", default=[], metavar="CODE", help="language codes, the source's first")
    add("--license", help="licence of the weights, such as apache-2.0")
    add("--license-name", metavar="NAME", help="name of a licence that the Hub does not list (--license other)")
    add("--license-link", metavar="URL", help="where that licence is: a URL, or a file of the folder such as LICENSE")
    add("--dataset-name", help="usual name of the training data")
    add("--dataset-id", metavar="OWNER/NAME", help="the training data's name on the Hub")
    add("--dataset-license", metavar="TEXT", help="what the owners of the data allow")
    add("--widget", nargs="+", metavar="TEXT", help="sentences for the input box of the model's page")
    return parser.parse_args(argv)


def write_card(options: argparse.Namespace) -> Path:
    """Write the card that the options describe.

    Raises:
        CardError: no run or model, a damaged file, scores of another model, a wrong flag.
        CheckpointError: the card cannot be written.
    """
    if not options.run.is_dir():
        raise CardError(f"There is no run folder '{options.run}'.")
    found = [options.run / kind for kind in ("averaged", "best") if (options.run / kind / "config.json").is_file()]
    model = options.model or next(iter(found), None)
    if model is None:
        raise CardError(f"'{options.run}' holds neither averaged/ nor best/: finish the run, or name --model.")
    if options.output.is_dir():
        raise CardError(f"'{options.output}' is a folder: name a file for the card.")
    about = About(
        languages=options.language,
        license=options.license,
        license_name=options.license_name,
        license_link=options.license_link,
        dataset_name=options.dataset_name,
        dataset_id=options.dataset_id,
        dataset_license=options.dataset_license,
        widget=options.widget,
    )
    text = make_card(
        model,
        run=options.run,
        evaluations=options.evaluation,
        name=options.name or options.run.resolve().name,
        load_from=options.load_from,
        code=options.with_code,
        about=about,
        titles=card_titles(),
    )
    atomic_text(options.output, text)
    return options.output


def main(argv: list[str] | None = None) -> int:
    """Write the card, say where, and return the exit status."""
    options = parse(argv)
    return exit_status(lambda: print(f"wrote {write_card(options)}"))


if __name__ == "__main__":
    sys.exit(main())
