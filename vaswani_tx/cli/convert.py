"""`vaswani-tx convert`: a checkpoint of another toolkit as a model folder of this package."""

import argparse

from vaswani_tx.cli.common import stdout_sink
from vaswani_tx.convert.writing import convert

# Options of formats; those that are not given are left to the format.
OPTIONS = (
    "source_vocabulary", "target_vocabulary", "codes", "target_codes", "hparams_set", "num_heads", "target_space_id",
)  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Carry out `vaswani-tx convert`."""
    further = {name: value for name in OPTIONS if (value := getattr(options, name)) is not None}
    report = convert(
        options.model,
        options.out,
        options.format,
        options.map,
        verify=not options.no_verify,
        overwrite=options.overwrite,
        with_code=options.with_code,
        **further,
    )
    stdout_sink().write(f"{report}\n")
