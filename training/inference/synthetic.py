"""Parallel text that a model makes: back-translations, or a teacher's translations of the training sources.

    input -> the resumable output of `vaswani-tx translate`, in DIR.part -> filters -> DIR: source.txt, target.txt, ...

DIR is written under another name and renamed; DIR.part is deleted then. `training/backtranslate.py` is the manual.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from vaswani_tx import __version__
from vaswani_tx.cli import arguments, models, translate
from vaswani_tx.cli.lines import Block, blocks, open_input
from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.training.command_line import print_status
from vaswani_tx.training.config.translation import tags_in
from vaswani_tx.training.data.filters import FilterCounts, PairFilter, SeenPairs
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_folder, atomic_text, remove_folder

RESULT = ("source.txt", "target.txt", "corpus.yaml", "report.json")
TRANSLATIONS, SETTINGS = "translations.txt", "settings.json"
LINES = 4096  # that are filtered at once
# Options of `vaswani-tx translate` that these commands have too.
PASSED = (
    "tokenizer", "beams", "length_penalty", "gnmt_alpha", "max_length", "src_lang", "tgt_lang", "long_lines",
    "max_source_length", "errors", "buffer_size", "batch_size", "max_tokens", "device", "precision", "num_threads",
    "engine", "quantization",
)  # fmt: skip
PLACES = 5  # of empty lines that are named


class Sampler(translate.Translator):
    """A translator that can also draw its translations, the same ones for the same lines.

    Args:
        options: of `vaswani-tx translate`.
        drawing: temperature, top_k and seed; None: it searches.
    """

    def __init__(self, options: argparse.Namespace, model: Any, tokenizer: Any, drawing: dict[str, Any] | None):
        super().__init__(options, model, tokenizer)
        self.drawing = drawing
        if drawing is not None:
            kinds = {name: drawing[name] for name in ("temperature", "top_k")}
            self.settings |= {"do_sample": True, "num_beams": 1, **kinds}
        self.decides = {"sampling": drawing}

    def __call__(self, block: Block) -> str:
        """Return the output of some lines; the draws begin at their first line, wherever a run was stopped."""
        if self.drawing is not None:
            digest = hashlib.blake2b(f"{self.drawing['seed']} {block.first}".encode(), digest_size=7).digest()
            torch.manual_seed(int.from_bytes(digest))
        return super().__call__(block)


def make_pairs(options: argparse.Namespace) -> None:
    """Translate the input and write the folder of pairs; print its entry for a recipe.

    Raises:
        DataError: the folder is there already, or nothing is left of the pairs.
        CliError: input or options that cannot be used, as of `vaswani-tx translate`.
    """
    output: Path = options.output_dir
    _check_output(output, options.overwrite)
    work = output.with_name(f"{output.name}.part")
    if work.exists() and not work.is_dir():
        raise DataError(f"'{work}' is in the way: move it, or choose another --output-dir.")
    given = _translate_options(options, work / TRANSLATIONS)
    context = models.process_context("cpu" if options.engine else options.device, options.num_threads)
    try:
        with open_input(options.input):
            pass  # a file that is not there is told before the model is loaded
        made = _translate(options, given, work, context)
        if context.is_first:
            _finish(options, made, work)
    finally:
        context.leave()


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise DataError(f"'{output}' is a file: give a folder as --output-dir.")
    found = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if found and not overwrite:
        raise DataError(f"'{output}' exists and is not empty. Give another --output-dir, or --overwrite to replace it.")
    if strange := [name for name in found if name not in RESULT]:
        raise DataError(f"--overwrite: '{output}' holds {strange[0]}, which is not of such a command: move it away.")


def _translate_options(options: argparse.Namespace, output: Path) -> argparse.Namespace:
    words = ["translate", options.model, f"--input={options.input}", f"--output={output}"]
    for name in PASSED:
        if (value := getattr(options, name)) is not None:
            words.append(f"--{name.replace('_', '-')}={value}")
    words += [f"--{name}" for name in ("restart", "quiet") if getattr(options, name)]
    return arguments.parse(words, __version__)


def _translate(
    options: argparse.Namespace, given: argparse.Namespace, work: Path, context: models.ProcessContext
) -> Sampler:
    """Write the translations to the folder of the work; return the translator that made them."""
    given.quiet = given.quiet or not context.is_first
    drawing = None
    if options.sample:
        drawing = {name: getattr(options, name) for name in ("temperature", "top_k", "seed")}
        drawing = {name: default if drawing[name] is None else drawing[name]
                   for name, default in (("temperature", 1.0), ("top_k", 0), ("seed", 1))}  # fmt: skip
    translator = Sampler(given, *translate.load(given, context), drawing)
    done = work / TRANSLATIONS
    settings = {**translate.identity(given, translator), "input": _hash(options.input)}
    # The first process decides, and the others follow it.
    complete = context.gather(done.is_file() and not options.restart)[0]
    if complete:
        _check_same(settings, work)
        return translator
    if context.is_first:
        work.mkdir(parents=True, exist_ok=True)
        if not (done.with_name(f"{done.name}.part")).exists() or options.restart:
            done.unlink(missing_ok=True)
        atomic_text(work / SETTINGS, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    context.gather(None)
    with open_input(options.input) as (stream, name):
        translate.to_file(translator, given, stream, name, context)
    return translator


def _check_same(settings: dict[str, Any], work: Path) -> None:
    """Raise DataError where translations that are complete were made with other settings, or of another input."""
    try:
        was = json.loads((work / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        was = {}
    if changed := [name for name in settings if was.get(name, settings) != json.loads(json.dumps(settings[name]))]:
        raise DataError(
            f"'{work}' holds translations that were made with other settings or input ({', '.join(changed[:3])}): give "
            "the same command to complete them, or --restart to start again."
        )


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finish(options: argparse.Namespace, made: Sampler, work: Path) -> None:
    """Filter the pairs and write the folder of the result."""
    output: Path = options.output_dir
    rules = PairFilter(
        max_length_ratio=options.max_length_ratio, drop_copies=options.drop_copies,
        drop_duplicates=options.drop_duplicates,
    )  # fmt: skip
    counts = FilterCounts()
    with atomic_folder(output, replace=output.exists()) as folder:
        with (folder / "source.txt").open("wb") as source, (folder / "target.txt").open("wb") as target:
            for pairs in _kept(options, made, rules, counts, work):
                for file, side in ((source, 0), (target, 1)):
                    file.write("".join(f"{pair[side]}\n" for pair in pairs).encode("utf-8"))
        if not counts.kept:
            raise rules.nothing_left(counts, f"{options.input} and its translations")
        entry = _entry(options)
        what = "translations" if options.forward else "back-translations"
        title = f"# {counts.kept:,} {what} of {options.input} by {options.model}: an entry for `corpora` of a recipe."
        atomic_text(folder / "corpus.yaml", f"{' '.join(title.split())}\n{entry}")
        atomic_text(folder / "report.json", json.dumps(_report(options, made, rules, counts), indent=1) + "\n")
    remove_folder(work)
    print_status(rules.describe(counts))
    print_status(f"written to {output}; for `corpora` of a recipe:")
    print(entry, end="", flush=True)


def _kept(
    options: argparse.Namespace, made: Sampler, rules: PairFilter, counts: FilterCounts, work: Path
) -> Iterator[list[tuple[str, str]]]:
    """Yield the pairs of source and target that the filters leave, some lines at a time."""
    seen = SeenPairs() if rules.drop_duplicates else None
    sides = (source_of(made.tokenizer), target_of(made.tokenizer))
    special = tuple(side.num_special_tokens_to_add() for side in sides)
    with ExitStack() as stack:
        streams = [stack.enter_context(open_input(str(path))) for path in (options.input, work / TRANSLATIONS)]
        lines, answers = (
            _lines(stream, name, errors)
            for (stream, name), errors in zip(streams, (options.errors, "strict"), strict=True)
        )
        first = 1
        while own := list(islice(lines, LINES)):
            texts = [own, list(islice(answers, len(own)))]
            filled = [i for i, pair in enumerate(zip(*texts, strict=True)) if all(text.strip() for text in pair)]
            empty = sorted(set(range(len(own))) - set(filled))
            counts.empty_places += [
                f"{options.input} line {first + i}" for i in empty[: PLACES - len(counts.empty_places)]
            ]
            first += len(own)
            counts.read, counts.empty = counts.read + len(own), counts.empty + len(empty)
            texts = [[side[i] for i in filled] for side in texts]
            pair = texts if options.forward else texts[::-1]
            keep = rules.by_text(*pair, seen, counts)
            texts, pair = (
                [[t for t, ok in zip(side, keep, strict=True) if ok] for side in each] for each in (texts, pair)
            )
            if texts[0]:
                lengths = [_lengths(side, text) for side, text in zip(sides, texts, strict=True)]
                keep, _ = rules.by_length(*lengths, special, counts)
                kept = [one for one, ok in zip(zip(*pair, strict=True), keep, strict=True) if ok]
                counts.kept += len(kept)
                yield kept
        if next(answers, None) is not None:
            raise DataError(f"'{work / TRANSLATIONS}' has more lines than {options.input}: start again with --restart.")


def _lines(stream: Any, name: str, errors: str) -> Iterator[str]:
    for block in blocks(stream, name, LINES, at_once=False, errors=errors):
        yield from block.texts


def _lengths(tokenizer: Any, texts: list[str]) -> np.ndarray:
    return np.array([len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]])


def _entry(options: argparse.Namespace) -> str:
    output = options.output_dir.resolve()
    entry: dict[str, Any] = {"source": str(output / "source.txt"), "target": str(output / "target.txt")}
    if tags := tags_in(options.tag):
        entry["tag"] = tags[0] if len(tags) == 1 else tags
    return yaml.safe_dump([entry | {"weight": 1.0}], sort_keys=False, allow_unicode=True, width=1000)


def _report(options: argparse.Namespace, made: Sampler, rules: PairFilter, counts: FilterCounts) -> dict[str, Any]:
    return {
        "kind": "translations" if options.forward else "back-translations",
        "model": options.model,
        "input": options.input,
        "tag": options.tag,
        "settings": translate.identity(made.options, made),
        "filters": rules.to_dict(),
        "counts": counts.to_dict(),
    }
