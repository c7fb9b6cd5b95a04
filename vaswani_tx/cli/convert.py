"""`vaswani-tx convert`: a checkpoint of another toolkit as a model folder of this package."""

import argparse

from vaswani_tx.cli.common import stdout_sink
from vaswani_tx.convert.writing import convert


def run(options: argparse.Namespace) -> None:
    """Carry out `vaswani-tx convert`."""
    report = convert(
        options.model,
        options.out,
        options.format,
        options.map,
        verify=not options.no_verify,
        overwrite=options.overwrite,
        with_code=options.with_code,
    )
    stdout_sink().write(f"{report}\n")
