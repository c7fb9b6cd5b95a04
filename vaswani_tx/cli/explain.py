"""`vaswani-tx explain`: the page of a model and a sentence, or one of its diagrams as a figure."""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoImageProcessor

from vaswani_tx.cli import models
from vaswani_tx.cli.common import CliError, check_output, is_stdio, open_sink
from vaswani_tx.explain import ExplainError, page
from vaswani_tx.explain.figures import Choice, check_figure, figure
from vaswani_tx.explain.trace import Trace, family_of, trace, trace_image
from vaswani_tx.failures import print_status
from vaswani_tx.loading import check_vocabulary, explained, load_model, load_tokenizer, read_config

# Auto classes by what follows the family's name in `architectures`; without a head the bare model.
HEADS = (
    ("ForConditionalGeneration", "AutoModelForSeq2SeqLM"),
    ("MTModel", "AutoModelForSeq2SeqLM"),
    ("ForCausalLM", "AutoModelForCausalLM"),
    ("LMHeadModel", "AutoModelForCausalLM"),
    ("ForMaskedLM", "AutoModelForMaskedLM"),
    ("ForSequenceClassification", "AutoModelForSequenceClassification"),
    ("ForTokenClassification", "AutoModelForTokenClassification"),
    ("ForQuestionAnswering", "AutoModelForQuestionAnswering"),
    ("ForImageClassification", "AutoModelForImageClassification"),
    ("Model", "AutoModel"),
)


def run(options: argparse.Namespace) -> None:
    """Carry out `vaswani-tx explain`."""
    _check_options(options)
    output = _output(options)
    started = time.perf_counter()
    progress = (lambda line: None) if options.quiet else (lambda line: print_status(f"{line} ..."))
    try:
        if options.figure:
            check_figure(options.figure, _format(options, output))
        context = models.process_context(options.device, options.num_threads)
        model, words = _load(options)
        model.to(context.device)
        given = _image(options.text) if family_of(model) == "image" else options.text
        if options.figure:
            written = _figure(options, model, words, given, output, progress)
        else:
            name = options.name or options.model
            chosen = {"layers": options.layers, "run": options.run}
            made = page(model, words, given, options.target, name=name, progress=progress, **chosen)
            written = made.html.encode("utf-8")
    except ExplainError as error:
        raise CliError(_one_line(error)) from None
    with open_sink(str(output)) as sink:
        sink.stream.write(written)
    if not options.quiet:
        print_status(f"{output}: {len(written) / 1e6:.2f} MB in {time.perf_counter() - started:.1f} s")


def _check_options(options: argparse.Namespace) -> None:
    """Raise CliError for an option that would be ignored."""
    if options.figure:
        names, reason = ["layers", "run", "name"], "a page, and --figure writes one diagram: leave it out"
    else:
        names, reason = ["attention", "layer", "head", "format"], "a figure: add --figure NAME, or leave it out"
    for name in names:
        if getattr(options, name) is not None:
            raise CliError(f"--{name} is for {reason}.")


def _output(options: argparse.Namespace) -> Path:
    output = Path(
        options.output or (f"{options.figure}.{options.format or 'svg'}" if options.figure else "explain.html")
    )
    if not is_stdio(str(output)):
        check_output(output)
    return output


def _format(options: argparse.Namespace, output: Path) -> str:
    return options.format or output.suffix.removeprefix(".").lower() or "svg"


def _one_line(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _figure(options: argparse.Namespace, model: Any, words: Any, given: Any, output: Path, progress: Any) -> bytes:
    if family_of(model) == "image":
        found: Trace = trace_image(model, words, given, progress)
    else:
        found = trace(model, words, given, options.target, progress)
    progress("drawing")
    choice = Choice(options.attention, options.layer, options.head or 1)
    return figure(found, options.figure, choice, _format(options, output))


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    """Load a model of any family with its tokenizer or image processor."""
    name, trust = options.model, options.trust_remote_code
    auto = getattr(transformers, _auto_class(read_config(name, trust), name))
    model = load_model(auto, name, trust=trust, dtype=torch.float32).eval()
    if family_of(model) == "image":
        return model, explained(name, "image processor", trust, AutoImageProcessor.from_pretrained, name)
    words = load_tokenizer(options.tokenizer or name, trust)
    check_vocabulary(model, words, name)
    return model, words


def _auto_class(config: Any, name: str) -> str:
    written = (config.architectures or [""])[0]
    for ending, auto in HEADS:
        if written.endswith(ending):
            return auto
    raise CliError(
        f"'{name}' says that it is a {written or 'model without a name'}, which cannot be shown: an encoder-decoder, a "
        "causal or masked language model or a classifier is needed."
    )


def _image(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise CliError(f"there is no image '{path}': this model reads images, so name a file.") from None
    except (UnidentifiedImageError, OSError) as error:
        raise CliError(f"the image '{path}' cannot be read ({error}).") from None
