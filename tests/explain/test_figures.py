"""Diagrams for papers: each kind in each format, and clear words where the model lacks what was asked for."""

import re

import pytest

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx.errors import ExplainError
from vaswani_tx.explain.figures import FIGURES, Choice, figure, save_figure
from vaswani_tx.explain.trace import trace

STARTS = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}


@pytest.fixture(scope="module")
def found():
    return trace(make("vaswani"), tokenizer(), SENTENCE + " It costs $5 or $6.")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(found, name):
    content = figure(found, name, Choice(layer=1, head=2), "svg")
    assert content.startswith(STARTS["svg"]) and len(content) > 3000
    assert content == figure(found, name, Choice(layer=1, head=2), "svg")


@pytest.mark.parametrize("file_format", STARTS)
def test_formats(found, tmp_path, file_format):
    path = save_figure(found, "attention", tmp_path / f"a.{file_format}")
    assert path.read_bytes().startswith(STARTS[file_format])


def test_labels_are_text_and_the_cells_are_the_weights(found):
    """Words stay text in the SVG, dollars too; the choice is in the caption."""
    text = figure(found, "attention", Choice("encoder", 2, 3), "svg").decode()
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert "encoder self-attention, layer 2, head 3" in words
    assert any("$" in word for word in words) and len([word for word in words if word]) > len(found.source)


@pytest.mark.parametrize(
    ("name", "choice", "file_format", "reason"),
    [
        ("atention", Choice(), "svg", "did you mean 'attention'"),
        ("attention", Choice(), "gif", "svg, pdf, png"),
        ("attention", Choice(layer=3), "svg", "layers 1 to 2"),
        ("heads", Choice(layer=0), "svg", "layers 1 to 2"),
        ("lines", Choice(head=5), "svg", "heads 1 to 4"),
    ],
)
def test_what_does_not_exist_is_named(found, name, choice, file_format, reason):
    with pytest.raises(ExplainError, match=reason):
        figure(found, name, choice, file_format)


def test_a_model_without_the_part_says_so():
    encoder = trace(make("masked"), tokenizer(), SENTENCE)
    for name in ("beams", "losses"):
        with pytest.raises(ExplainError, match=r"no next token|does not generate"):
            figure(encoder, name)
    with pytest.raises(ExplainError, match="no cross-attention: choose one of encoder"):
        figure(encoder, "attention", Choice("cross"))
    with pytest.raises(ExplainError, match="no positions"):
        figure(trace(make("bert"), tokenizer(), SENTENCE), "positions")
