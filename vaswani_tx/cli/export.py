"""`vaswani-tx export`: a model folder in the format of another runtime."""

import argparse

from vaswani_tx.cli.common import CliError, CliFailure, is_stdio
from vaswani_tx.cli.lines import blocks, open_input
from vaswani_tx.errors import ExportError
from vaswani_tx.export import export

BLOCK = 1024


def run(options: argparse.Namespace) -> None:
    """Carry out `vaswani-tx export`; end with status 1 where the export is not equal to the model."""
    verify: bool | list[str] = options.verify is not None
    if options.verify:
        verify = _sentences(options.verify)
    try:
        report = export(
            options.model,
            options.out,
            options.format,
            tokenizer=options.tokenizer,
            quantization=options.quantization,
            verify=verify,
            overwrite=options.overwrite,
            positions=options.positions,
            opset=options.opset,
        )
    except ExportError as error:
        raise CliError(str(error)) from None
    if not options.quiet or not report.passed:
        print(report)
    if not report.passed:
        raise CliFailure(
            f"the export is in '{options.out}', but not everything is equal to the model, see above"
            + (": weights of another type round." if options.quantization not in (None, "float32") else ".")
        )


def _sentences(name: str) -> list[str]:
    """Return the lines of a file that are not blank."""
    if is_stdio(name):
        raise CliError("--verify takes a file of sentences, not standard input.")
    with open_input(name) as (stream, label):
        found = [text for block in blocks(stream, label, BLOCK, at_once=False) for text in block.texts if text.strip()]
    if not found:
        raise CliError(f"'{name}' holds no sentences to compare: name another file, or give --verify alone.")
    return found
