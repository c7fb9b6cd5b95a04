"""`page` and what it returns."""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vaswani_tx.explain.contents import check_source, contents
from vaswani_tx.explain.document import build
from vaswani_tx.explain.runs import read_run
from vaswani_tx.explain.trace import Progress, check_text, family_of, trace, trace_image


@dataclass
class Page:
    """A finished page; in a notebook it shows itself."""

    html: str = field(repr=False)
    title: str

    def save(self, path: str | os.PathLike) -> Path:
        """Write the page to a file, whole or not at all, and return its path."""
        target = Path(path)
        if target.exists() and not target.is_file():  # a device or a pipe is written to, never replaced
            target.write_text(self.html, encoding="utf-8", newline="\n")
            return target
        temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
        try:
            temporary.write_text(self.html, encoding="utf-8", newline="\n")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def _repr_html_(self) -> str:
        return (
            '<iframe sandbox="allow-scripts allow-downloads" width="100%" height="800" title="'
            f'{html.escape(self.title)}" srcdoc="{html.escape(self.html)}"></iframe>'
        )


def page(
    model: Any,
    tokenizer: Any,
    text: Any,
    target: str | None = None,
    *,
    name: str | None = None,
    layers: Sequence[int] | None = None,
    run: str | os.PathLike | None = None,
    progress: Progress = lambda line: None,
) -> Page:
    """Return the page of `model` on `text`.

    Args:
        model: an encoder-decoder, decoder or encoder of transformers, or one of our image classifiers.
        tokenizer: its tokenizer; of an image classifier, its image processor.
        text: the source sentence or the prompt; for an image classifier, an image.
        target: the translation to follow; None: the one that the model finds.
        name: what the page calls the model; None: the folder or repository that it came from.
        layers: layers to keep, counted from 1; None: all, as far as they fit.
        run: the run folder of the model's training, whose curves are shown; None: none are.
        progress: told what is being done, a few words at a time.

    Raises:
        ExplainError: an empty or too long text, a model whose attention cannot be read, no such layer, or a damaged
            run folder.
    """
    name = name or str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    check_text(name, "name of the model")
    kept = None if layers is None else sorted(set(layers))
    curves = None if run is None else read_run(run)
    if family_of(model) == "image":
        found = trace_image(model, tokenizer, text, progress)
        packed = contents(found, model, None, name, "", kept, curves)
    else:
        found = trace(model, tokenizer, text, target, progress, partial(check_source, model, kept))
        packed = contents(found, model, tokenizer, name, text, kept, curves)
    title = f"{name}: the Transformer, explained"
    return Page(build(title, packed), title)
