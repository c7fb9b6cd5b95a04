"""The heads of a layer side by side, and the habits of all heads: numbers against the model, sorting, keys, links."""

import re

import pytest
import torch

from tests.helpers.explained import SENTENCE, tokenizer
from vaswani_tx import explain


def numbers(text):
    return [float(found.replace("\u2212", "-")) for found in re.findall(r"\u2212?\d+\.\d+", text)]


def hint_of(page, locator):
    """Return the hint of an element under the pointer, once the page has come to rest."""
    page.scroll_to(locator)
    locator.hover()
    return page.hint()


def items_of(model, kind):
    return [item for item in explain.trace.trace(model, tokenizer(), SENTENCE).attention if item.kind == kind]


@pytest.mark.parametrize("model_kind, kind, layer, token", [("vaswani", "cross", 1, 3), ("gpt2", "decoder", 0, 5)])
def test_what_each_head_writes_is_the_models(written_pages, open_page, model_kind, kind, layer, token):
    model, _, path = written_pages(model_kind)
    item = items_of(model, kind)[layer]
    page = open_page(path, f"#heads/kind={kind}&layer={layer + 1}&token={token + 1}")
    lengths = item.written[:, token].norm(dim=-1)
    logits = item.written[:, token] @ model.get_output_embeddings().weight.detach().T
    rows = page.tab.locator("#heads .heads-table tbody tr").all()
    assert len(rows) == len(lengths)
    for head, row in enumerate(rows):
        cells = [cell.inner_text() for cell in row.locator("td").all()]
        assert numbers(cells[0])[0] == pytest.approx(float(item.weights[head, token].max()), abs=0.00501)
        assert float(cells[1]) == pytest.approx(float(lengths[head]), abs=0.00551)
        assert float(cells[2].rstrip("%")) == pytest.approx(100 * float(lengths[head] / lengths.sum()), abs=0.6)
        best = logits[head].topk(3)
        assert numbers(cells[3]) == pytest.approx(best.values.tolist(), abs=0.00501)
        words = [explain.tokens.token_text(tokenizer(), int(i)).replace(" ", "\u00b7") for i in best.indices]
        assert all(shown in cells[3] for shown in words if shown.isprintable())
    assert "straight through the output projection" in page.tab.locator("#heads").inner_text()
    together = float(re.search(r"have length ([\d.]+\d)", page.tab.locator("#heads").inner_text())[1])
    assert together == pytest.approx(float(item.output[token].norm()), abs=0.006)


def test_encoder_heads_raise_no_words_and_say_why(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#heads/kind=encoder&layer=2&token=2")
    assert "raises the output words" not in page.tab.locator("#heads").inner_text()
    assert "never meet the output projection" in page.tab.locator("#heads").inner_text()
    page.tab.locator("#heads .heads-choose").nth(2).click()
    assert "layer=2&head=3" in page.tab.evaluate("location.hash")
    page.tab.get_by_role("link", name="Head 3 as a matrix").click()
    page.tab.wait_for_function("() => location.hash.startsWith('#attention/kind=encoder&layer=2&head=3&row=2')")
    assert "encoder self-attention, layer 2, head 3" in page.tab.locator("#attention figcaption").first.inner_text()


def shares(weights):
    """Return mean shares of a head's attention with torch's own diagonals."""
    rows = weights.shape[0]
    return {
        "entropy": float(torch.special.entr(weights.double()).sum() / rows / torch.log(torch.tensor(2.0))),
        "previous": float(weights.diagonal(-1).sum() / rows),
        "itself": float(weights.diagonal().sum() / rows),
        "first": float(weights[:, 0].mean()),
    }


def test_table_of_habits_is_the_models_and_sorts(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    items = items_of(model, "decoder")
    page = open_page(path, "#attention/kind=decoder&layer=1&head=2&row=5&column=3")
    table = page.tab.locator("#attention .habit-table")
    headings = [text.strip(" \u2191\u2193") for text in table.locator("thead th").all_inner_texts()]
    pair = headings.index(next(text for text in headings if "\u2192" in text))
    for row in table.locator("tbody tr").all():
        layer, head = map(int, re.findall(r"\d+", row.locator("th").inner_text()))
        cells = row.locator("th, td").all_inner_texts()
        weights = items[layer - 1].weights[head - 1]
        for name, wanted in shares(weights).items():
            assert float(cells[headings.index(name)]) == pytest.approx(wanted, abs=0.011 if name == "entropy" else 6e-4)
        assert float(cells[pair]) == pytest.approx(float(weights[4, 2]), abs=0.5001e-4)
    for name in ("previous", "itself"):
        table.get_by_role("button", name=name, exact=False).first.click()
        column = headings.index(name)
        shown = [float(row.locator("th, td").nth(column).inner_text()) for row in table.locator("tbody tr").all()]
        assert shown == sorted(shown, reverse=True)
        assert table.locator("th[aria-sort=descending]").count() == 1
    first = table.locator("tbody .jump").first
    layer, head = map(int, re.findall(r"\d+", first.inner_text()))
    first.click()
    caption = page.tab.locator("#attention figcaption").first.inner_text()
    assert f"layer {layer}, head {head}." in caption


def test_all_layers_are_reached_by_pointer_and_keys(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    page = open_page(path, "#attention/kind=encoder&layer=1&head=1")
    cells = page.tab.locator("#attention .overview-cell")
    assert cells.count() == len(items_of(model, "encoder")) * 4
    cells.nth(6).click()
    assert "layer=2&head=3" in page.tab.evaluate("location.hash")
    page.tab.keyboard.press("ArrowUp")
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("Enter")
    assert "layer=1&head=4" in page.tab.evaluate("location.hash")
    page.tab.locator("#attention .multiple").nth(1).click()
    assert "layer=1&head=2" in page.tab.evaluate("location.hash")


def test_labels_tell_what_a_token_looks_at_and_who_looks_at_it(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    weights = items_of(model, "cross")[1].weights[0]
    page = open_page(path, "#attention/kind=cross&layer=2&head=1", motion="reduce")
    looks = hint_of(page, page.tab.locator("#attention .row-labels button").nth(3))
    assert numbers(looks) == pytest.approx(weights[3].topk(4).values.tolist(), abs=0.5001e-4)
    looked_at = hint_of(page, page.tab.locator("#attention .column-labels > span").nth(2))
    assert numbers(looked_at) == pytest.approx(weights[:, 2].topk(4).values.tolist(), abs=0.5001e-4)


def test_enter_chooses_a_cell_and_keeps_the_focus(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#attention/kind=cross&layer=2&head=1")
    page.tab.locator("#attention canvas.cells").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        page.tab.keyboard.press(key)
    assert "row=2&column=2" in page.tab.evaluate("location.hash")
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("Enter")
    assert "row=2&column=3" in page.tab.evaluate("location.hash")


def test_lines_are_the_weights_from_the_limit_on(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    weights = items_of(model, "cross")[1].weights
    page = open_page(path, "#attention/kind=cross&layer=2&head=1&view=lines&from=0.10")
    lines = page.tab.locator("#attention svg.lines line")
    rounded = (weights * 10_000).round() / 10_000
    assert lines.count() == int((rounded[0] >= 0.0999999).sum())
    page.scroll_to(page.tab.locator("#attention svg.lines"))
    page.tab.locator("#attention svg.lines text[data-row='2']").hover()
    assert lines.count() == int((rounded[0, 2] >= 0.0999999).sum())
    page.tab.locator("#attention svg.lines text[data-column='1']").hover()
    assert lines.count() == int((rounded[0, :, 1] >= 0.0999999).sum())
    page.tab.locator("#attention").get_by_role("button", name="all heads").click()
    page.tab.mouse.move(2, 2)
    assert lines.count() == int((rounded >= 0.0999999).sum())
    assert "heads=all" in page.tab.evaluate("location.hash")
