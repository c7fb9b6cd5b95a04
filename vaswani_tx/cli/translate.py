"""`vaswani-tx translate`: lines of a file, a pipe or a terminal through the translation pipeline, in their order."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vaswani_tx.cli import models
from vaswani_tx.cli.common import (
    CliError,
    CliFailure,
    CliInterrupted,
    check_output,
    finite,
    is_stdio,
    json_line,
    one_field,
    one_line,
    open_sink,
    print_status,
    shorten,
    stdout_sink,
)
from vaswani_tx.cli.lines import Block, blocks, groups, is_regular, open_input, skip
from vaswani_tx.cli.pieces import cut, join, shorten_to
from vaswani_tx.cli.resume import PartialOutput
from vaswani_tx.generation_vaswani import VaswaniGenerationMixin
from vaswani_tx.pipeline_vaswani import TranslationPipeline
from vaswani_tx.sentences_vaswani import Sentence

PROMPT = "> "
# Named one by one; after that a count says enough.
MAX_WARNINGS = 5
# The options that determine the text of the output, besides model and input.
DECIDING = (
    "format", "n_best", "alignments", "beams", "length_penalty", "gnmt_alpha", "max_length", "no_repeat_ngram_size",
    "forbid", "require", "whole_words", "prefix", "src_lang", "tgt_lang", "max_source_length", "long_lines", "errors",
    "batch_size", "max_tokens", "buffer_size", "precision", "tokenizer", "engine", "search", "quantization",
)  # fmt: skip


class Translator:
    """A model with the settings that the command line gives for it.

    Attributes:
        decides: what determines the output besides the options.

    Raises:
        CliError: what was asked for does not fit together, or not to the model.
    """

    decides: dict[str, Any] = {}

    def __init__(self, options: argparse.Namespace, model: Any, tokenizer: Any):
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.pipe = TranslationPipeline(
            model=model, tokenizer=tokenizer, device=model.device, engine=getattr(options, "search", None)
        )
        self.limit = options.max_source_length or models.source_limit(model, tokenizer)
        self.settings = self._settings()
        self.warned = 0

    def _settings(self) -> dict[str, Any]:
        """Return the keywords of a call of the pipeline."""
        options = self.options
        if options.gnmt_alpha is not None and not isinstance(self.model, VaswaniGenerationMixin):
            raise CliError(f"{type(self.model).__name__} does not know --gnmt-alpha: use --length-penalty.")
        given = {
            "batch_size": options.batch_size,
            "batch_tokens": options.max_tokens,
            "num_beams": options.beams,
            "length_penalty": options.length_penalty,
            "gnmt_alpha": options.gnmt_alpha,
            "max_new_tokens": options.max_length,
            "no_repeat_ngram_size": options.no_repeat_ngram_size,
            "forced_prefix": options.prefix,
            "bad_words": options.forbid,
            "required": [phrase.split("|") for phrase in options.require] if options.require else None,
            "whole_words": options.whole_words or None,
            "src_lang": options.src_lang,
            "tgt_lang": options.tgt_lang,
            "num_return_sequences": options.n_best,
            "return_scores": options.format != "text" or None,
            "return_alignments": options.alignments,
        }
        settings = {name: value for name, value in given.items() if value is not None}
        models.check_engine(self.model, options)
        if options.alignments == "words" and not self.tokenizer.is_fast:
            raise CliError(f"{type(self.tokenizer).__name__} has no offsets into the text: give --alignments tokens.")
        beams = options.beams or self.model.generation_config.num_beams or 1
        if (options.n_best or 1) > beams:
            if options.beams is not None:
                raise CliError(f"--n-best {options.n_best} needs as many beams, not {beams}: raise --beams.")
            settings["num_beams"] = options.n_best
        if options.require and settings.get("num_beams", beams) < 2:
            raise CliError("--require needs a search: give --beams 4, or better 8.")
        return settings

    def __call__(self, block: Block) -> str:
        """Return the output of some lines, each as `_format` gives it.

        Raises:
            CliError: settings that this input cannot be translated under.
            CliFailure: the device's memory is not enough.
        """
        cuts = [self._cut(text, number) for number, text in enumerate(block.texts, start=block.first)]
        units = [piece.text for pieces in cuts for piece in pieces]
        try:
            answers = iter(self.pipe(units, window=max(len(units), 1), **self.settings))
        except torch.OutOfMemoryError:
            raise CliFailure(
                "the device's memory is not enough: give a smaller --max-tokens or --batch-size."
            ) from None
        except ValueError as error:
            where = f"lines {block.first} to {block.first + len(block.texts) - 1}"
            raise CliError(f"{where} cannot be translated with these settings: {shorten(error)}") from error
        output = []
        for number, (text, pieces) in enumerate(zip(block.texts, cuts, strict=True), start=block.first):
            # The pipeline gives a record for a source where it has one, else the list of them.
            found = [answer if isinstance(answer, list) else [answer] for answer in islice(answers, len(pieces))]
            whole = len(pieces) == 1 and pieces[0].text == text
            records = found[0] if whole else [join(text, pieces, list(rank)) for rank in zip(*found, strict=True)]
            output.append(self._format(number, text, records))
        return "".join(output)

    def _cut(self, text: str, number: int) -> list[Sentence]:
        """Return a line as the pieces that go to the model: the line itself unless it is too long."""
        whole = [Sentence(text, 0, "")]
        # No token is shorter than a byte: most lines need not be counted.
        if not text.strip() or len(text.encode("utf-8")) + 8 <= self.limit:
            return whole
        if (tokens := self._count(text)) <= self.limit:
            return whole
        said = f"line {number} has {tokens} tokens and --max-source-length is {self.limit}"
        if self.options.long_lines == "error":
            raise CliError(f"{said}: cut it, or give --long-lines split or truncate.")
        if self.options.long_lines == "truncate":
            self._warn(f"{said}: its end is left out.")
            return [Sentence(shorten_to(text, self.limit, self._count), 0, "")]
        if self.options.prefix or self.options.require:
            raise CliError(
                f"{said}, and --prefix and --require cannot be split: cut it, or give --long-lines truncate."
            )
        pieces = cut(text, self.limit, self._count)
        self._warn(f"{said}: it is translated in {len(pieces)} pieces.")
        return pieces

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def _warn(self, message: str) -> None:
        self.warned += 1
        if self.warned <= MAX_WARNINGS and not self.options.quiet:
            rest = " (further lines like this are not named)" if self.warned == MAX_WARNINGS else ""
            print_status(f"warning: {message}{rest}")

    def _format(self, number: int, source: str, records: list[dict[str, Any]]) -> str:
        if self.options.format == "text":
            return one_line(records[0]["translation_text"]) + "\n"
        if self.options.format == "tsv":
            rows = enumerate(records, start=1)
            return "".join(
                f"{number}\t{rank}\t{record['score']:.6f}\t{one_field(record['translation_text'])}\n"
                for rank, record in rows
            )
        hypotheses = []
        for record in records:
            hypothesis = {"text": record["translation_text"], "score": finite(record["score"])}
            if "alignment" in record:
                hypothesis["alignment"] = record["alignment"]
            hypotheses.append(hypothesis)
        return json_line({"line": number, "source": source, "hypotheses": hypotheses})


def run(options: argparse.Namespace) -> None:
    """Carry out `vaswani-tx translate`."""
    writes_file = not is_stdio(options.output) and _is_file(Path(options.output))
    if writes_file:
        check_output(Path(options.output))
    context = models.process_context("cpu" if options.engine else options.device, options.num_threads)
    try:
        with open_input(options.input) as (stream, name):
            if context.world > 1 and not (is_regular(stream, name) and writes_file):
                raise CliError("several processes need --input and --output with files, which all of them read.")
            options.quiet = options.quiet or not context.is_first
            model, tokenizer = load(options, context)
            translate = Translator(options, model, tokenizer)
            if is_stdio(options.input) and sys.stdin.isatty():
                _converse(translate, options)
            elif writes_file:
                to_file(translate, options, stream, name, context)
            else:
                _to_stream(translate, options, stream, name)
    finally:
        context.leave()


def load(options: argparse.Namespace, context: models.ProcessContext) -> tuple[Any, Any]:
    """Return the model and its tokenizer, for torch or for the engine that was asked for."""
    if options.engine:
        return models.load_for_engine(options)
    return models.load(
        options.model, options.tokenizer, device=context.device, precision=options.precision,
        trust=options.trust_remote_code, quiet=options.quiet,
    )  # fmt: skip


def _is_file(path: Path) -> bool:
    """Return whether a name is, or will be, an ordinary file: /dev/null and named pipes are not."""
    return path.is_file() or not path.exists()


def _to_stream(translate: Translator, options: argparse.Namespace, stream: Any, name: str) -> None:
    """Translate lines of a file in full blocks, those of a pipe as they come; flush the output of every block."""
    at_once = not is_regular(stream, name)
    with open_sink(options.output) as sink, _bar(options, stream) as bar:
        taken = blocks(stream, name, options.buffer_size, at_once=at_once, errors=options.errors)
        for block in taken:
            sink.write(translate(block))
            bar.update(len(block.texts))


def to_file(
    translate: Translator, options: argparse.Namespace, stream: Any, name: str, context: models.ProcessContext
) -> None:
    """Write a file whose finished part survives a kill, for the next command to resume from."""
    partial = None
    try:
        partial, lines = _begin(translate, options, stream, name, context)
        taken = blocks(stream, name, options.buffer_size, at_once=False, errors=options.errors, first=lines + 1)
        with _bar(options, stream, lines) as bar:
            for group in groups(taken, context.world):
                _round(translate, group, context, partial)
                bar.update(sum(len(block.texts) for block in group))
        if partial is not None:
            partial.finish()
    except KeyboardInterrupt:
        kept = partial.lines if partial is not None else 0
        raise CliInterrupted(f"{kept} lines are done and kept; the same command resumes from there.") from None
    finally:
        if partial is not None:
            partial.close()


def _begin(
    translate: Translator, options: argparse.Namespace, stream: Any, name: str, context: models.ProcessContext
) -> tuple[PartialOutput | None, int]:
    """Open the output in the first process, and move the input of all processes past the lines that are done."""
    partial, begin, error = None, (0, 0), None
    if context.is_first:
        try:
            partial = PartialOutput(Path(options.output), identity(options, translate), options.restart)
            partial.skip_done(stream, name)
            begin = (partial.lines, partial.consumed)
        except CliError as found:
            error = found
    # The others wait for the line to begin at, or for the error.
    (lines, consumed), said = context.gather((begin, error and (str(error), error.status)))[0]
    if said:
        raise _failure(*said)
    if not context.is_first:
        skip(stream, consumed)
    elif lines and not options.quiet:
        print_status(f"resuming after line {lines}, where an earlier run stopped.")
    return partial, lines


def _round(
    translate: Translator, group: list[Block], context: models.ProcessContext, partial: PartialOutput | None
) -> None:
    """Translate one whole block in each process: the batches do not depend on the number of processes."""
    text, error = "", None
    if context.rank < len(group):
        try:
            text = translate(group[context.rank])
        except CliError as found:
            error = found
    answers = context.gather((text, error and (str(error), error.status)))
    for block, (answer, said) in zip(group, answers, strict=False):
        if said:
            raise _failure(*said)
        if partial is not None:
            partial.write(answer, block)


def _failure(message: str, status: int) -> CliError:
    """Return the error of another process."""
    return CliFailure(message) if status == CliFailure.status else CliError(message)


def identity(options: argparse.Namespace, translate: Translator) -> dict[str, Any]:
    """Return everything besides the input that determines the output, as values of JSON."""
    model = translate.model
    found = translate.decides | {name: getattr(options, name) for name in DECIDING}
    found |= {name: metadata.version(name) for name in ("torch", "transformers")}
    found["model"] = models.fingerprint(options.model, model, options.tokenizer)
    found["device"] = model.device.type
    return found


@contextmanager
def _bar(options: argparse.Namespace, stream: Any, done: int = 0) -> Iterator[tqdm]:
    """Yield a progress bar on a terminal, shown where the work takes long."""
    shown = sys.stderr.isatty() and not options.quiet
    total = _count_lines(options.input) if shown and is_regular(stream) and not is_stdio(options.input) else None
    with tqdm(total=total, initial=done, unit="line", delay=2, disable=not shown, file=sys.stderr) as bar:
        yield bar


def _count_lines(path: str) -> int:
    with open(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _converse(translate: Translator, options: argparse.Namespace) -> None:
    """Answer what is typed, line by line, until Ctrl-D; the arrow keys bring back earlier lines."""
    sink = stdout_sink()
    if not options.quiet:
        print_status("Type a sentence and press Enter; Ctrl-D ends.")
    for number, text in enumerate(_typed(), start=1):
        try:
            sink.write(translate(Block(number, [text], [])))
        except CliError as error:
            print_status(f"error: {error}")


def _typed() -> Iterator[str]:
    ask: Callable[[], str]
    if sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401  editing and history for input()

        def ask() -> str:
            return input(PROMPT)
    else:

        def ask() -> str:
            # input() would put its prompt among the translations.
            sys.stderr.write(PROMPT)
            sys.stderr.flush()
            if not (line := sys.stdin.readline()):
                raise EOFError
            return line.removesuffix("\n")

    while True:
        try:
            yield ask()
        except UnicodeDecodeError:
            print_status("error: what was typed is not valid UTF-8.")
        except EOFError:
            print_status("")
            return
