"""The page as a reader meets it: drawn, quiet, safe, and with the model's numbers under the pointer."""

import re

import pytest
import torch

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain

HOSTILE = "</script><img src=x onerror=alert(1)> <!-- \u202e \u200b &lt;b> it's"


def cell(page, row, column):
    """Return the middle of a cell of the large heatmap in the window, which it scrolls to."""
    canvas = page.tab.locator("#attention canvas.cells").first
    grid = page.tab.locator("#attention .heatmap").first
    rows, columns = grid.locator(".row-labels button").count(), grid.locator(".column-labels > span").count()
    return page.cell(canvas, row, column, rows, columns)


def test_address_that_is_no_valid_url_is_ignored(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#%E0%A4%A")
    assert page.tab.locator("main > section").count() == 10


@pytest.mark.parametrize("kind", ["vaswani", "marian", "gpt2", "bert"])
def test_hovered_weight_is_the_models(written_pages, open_page, kind):
    model, _, path = written_pages(kind)
    page = open_page(path)
    found = explain.trace.trace(model, tokenizer(), SENTENCE)
    wanted = "cross" if kind in ("vaswani", "marian") else "decoder" if kind == "gpt2" else "encoder"
    item = [item for item in found.attention if item.kind == wanted][-1]
    for row, column in ((0, 0), (5, 2), (item.weights.shape[1] - 1, item.weights.shape[2] - 1)):
        page.tab.mouse.move(*cell(page, row, column))
        shown = re.search(r"[01]\.\d{4}", page.hint())
        value = float(item.weights[0, row, column])
        assert (shown is not None and float(shown[0]) == pytest.approx(value, abs=0.5001e-4)) or "masked" in page.hint()


def test_keyboard_reads_the_same_cell(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path)
    page.tab.locator("#attention canvas.cells").first.focus()
    page.tab.keyboard.press("ArrowRight")  # the first press shows the first cell
    page.tab.keyboard.press("ArrowRight")
    by_key = page.hint()
    page.tab.mouse.move(*cell(page, 0, 1))
    assert by_key == page.hint() != ""
    page.tab.keyboard.press("Escape")
    assert page.hint() == ""


def test_focus_keeps_the_hint_of_a_row_through_its_scroll(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path)
    label = page.tab.locator("#attention .row-labels button").first
    label.focus()
    page.rest()
    shown = page.hint()
    assert shown
    page.tab.mouse.wheel(0, 40)
    page.rest()
    assert page.hint() == shown


def test_address_leads_to_a_view_and_follows_it(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#attention/kind=encoder&layer=1&head=3&row=2")
    assert "encoder self-attention, layer 1, head 3" in page.tab.locator("#attention figcaption").first.inner_text()
    assert "looks at:" in page.tab.locator("#attention").inner_text()
    page.tab.locator("#attention").get_by_role("button", name="cross-attention", exact=True).click()
    assert "kind=cross" in page.tab.evaluate("location.hash")
    page.goto("#attention/kind=nonsense&layer=99&head=-1&row=x")
    assert page.tab.locator("#attention canvas.cells").count() >= 1


@pytest.mark.parametrize(
    "kind", ["vaswani", "pre-norm", "causal", "masked", "classifier", "marian", "bart", "t5", "gpt2", "bert"]
)
def test_every_family_draws_on_a_phone_and_in_the_dark(written_pages, open_page, kind):
    _, _, path = written_pages(kind)
    page = open_page(path, width=360, scheme="dark", motion="reduce")
    assert not page.scrolls_sideways()
    titles = page.tab.locator("main > section > h2").all_inner_texts()
    assert "Attention matrices" in titles and len(set(titles)) == len(titles)
    assert "\u0120" not in page.tab.locator("body").inner_text()


def test_hostile_text_is_text(tmp_path, open_page):
    words = tokenizer()
    model = make("vaswani")
    page = explain.page(model, words, HOSTILE, HOSTILE, name=HOSTILE)
    assert page.html.lower().count("<script") == 2 and "<img" not in page.html.lower()
    opened = open_page(page.save(tmp_path / "hostile.html"))
    assert (
        opened.tab.locator("h1")
        .inner_text()
        .replace("\n", " ")
        .startswith("Inside </script><img src=x onerror=alert(1)>")
    )
    assert opened.tab.locator("img").count() == 0
    assert not opened.scrolls_sideways()


def test_notebook_frame(tmp_path, open_page, written_pages):
    _, page, _ = written_pages("vaswani")
    outer = tmp_path / "notebook.html"
    outer.write_text(
        f"<!doctype html><html data-ready=true><meta charset=utf-8><title>n</title>{page._repr_html_()}",
        encoding="utf-8",
    )
    opened = open_page(outer)
    frame = opened.tab.frame_locator("iframe")
    frame.locator("#attention canvas.cells").first.wait_for()
    frame.locator("#attention .multiple").nth(1).click()
    assert "head 2" in frame.locator("#attention figcaption").first.inner_text()


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_diagram_is_saved(written_pages, open_page, tmp_path, kind):
    _, _, path = written_pages("vaswani")
    page = open_page(path)
    with page.tab.expect_download() as waiting:
        page.tab.locator(f"#attention [data-save={kind}]").first.click()
    saved = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(saved)
    start = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF-1.4"}[kind]
    assert saved.read_bytes().startswith(start) and saved.suffix == f".{kind}" and saved.stat().st_size > 2000


def test_page_is_small_and_asks_for_layers(written_pages):
    _, page, _ = written_pages("vaswani")
    assert len(page.html) < 600_000
    config = make("vaswani").config
    assert config.encoder_layers == 2
    with pytest.raises(explain.ExplainError, match="no layer 3: the model has layers 1 to 2"):
        explain.page(make("vaswani"), tokenizer(), SENTENCE, layers=[3])
    for text, reason in (("", "empty"), ("  \n", "empty"), ("word " * 2000, "tokens")):
        with pytest.raises(explain.ExplainError, match=reason):
            explain.page(make("vaswani"), tokenizer(), text)
    with pytest.raises(explain.ExplainError, match="--layers"):
        explain.page(make("vaswani"), tokenizer(), "the cat " * 200, "the cat " * 200)


def test_weights_that_are_not_finite_are_named():
    model = make("vaswani")
    with torch.no_grad():
        model.get_encoder().layers[0].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises((explain.ExplainError, ValueError, RuntimeError)):
        explain.page(model, tokenizer(), SENTENCE, SENTENCE)


def test_paper_is_light(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, scheme="dark")
    colours = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.tab.evaluate(colours)
    page.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    light = page.tab.evaluate(colours)
    page.tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert light != dark == page.tab.evaluate(colours)


def test_a_long_text_is_refused_before_the_model_runs(monkeypatch):
    model = make("vaswani")
    monkeypatch.setattr(model, "generate", lambda **kwargs: pytest.fail("the model ran"))
    with pytest.raises(explain.ExplainError, match=r"--layers 1\)|shorter text"):
        explain.page(model, tokenizer(), "the cat drinks " * 150)
