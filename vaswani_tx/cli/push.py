"""`vaswani-tx push`: a model folder to the Hugging Face Hub."""

import argparse
from pathlib import Path

from vaswani_tx.cli.common import CliError, CliFailure, stdout_sink
from vaswani_tx.hub.card_sources import CardError
from vaswani_tx.hub.families import DATA_FILES
from vaswani_tx.hub.saving import HubError, check_repo_id, push_to_hub
from vaswani_tx.loading import check_files, read_config, read_object


def run(options: argparse.Namespace) -> None:
    """Carry out `vaswani-tx push`."""
    if not Path(options.model).is_dir():
        raise CliError(f"there is no model folder '{options.model}': what is pushed comes from a folder.")
    _check(options)
    card = _read_card(options.card) if options.card else None
    # Imported when the verb runs: the library itself does without the training package.
    from vaswani_tx.training.metrics.registry import card_titles

    try:
        push = push_to_hub(
            options.model,
            options.repo,
            options.tokenizer,
            code=not options.no_code,
            card=card,
            run=options.run,
            titles=card_titles(),
            private=options.private or None,
            revision=options.revision,
            commit_message=options.message,
            dry_run=options.dry_run,
        )
    except CardError as error:
        raise CliError(str(error)) from None
    except HubError as error:
        raise CliFailure(str(error)) from None
    width = max(map(len, push.files))
    lines = [f"{name:<{width}}  {size:>13,} bytes" for name, size in push.files.items()]
    lines += [f"{name:<{width}}  deleted" for name in push.deleted]
    total = f"{len(push.files)} files, {sum(push.files.values()):,} bytes"
    lines.append(f"would be sent to {push.repo_id}: {total}" if options.dry_run else f"{total} sent: {push.url}")
    stdout_sink().write("\n".join(lines) + "\n")


def _check(options: argparse.Namespace) -> None:
    """Raise CliError or CheckpointError for what is wrong with the command, before the Hub is asked."""
    try:
        check_repo_id(options.repo)
    except HubError as error:
        raise CliError(str(error)) from None
    read_config(options.model)
    check_files(options.model)
    for folder in filter(None, (options.model, options.tokenizer)):
        for path in sorted(Path(folder).glob("*.json")):
            if path.name in DATA_FILES:
                read_object(path)


def _read_card(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"the card '{path}' cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CliError(f"the card '{path}' is not UTF-8: convert it (`iconv -t UTF-8`).") from None
