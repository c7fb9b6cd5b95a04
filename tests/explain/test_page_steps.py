"""The section that follows one token through attention: its numbers are the model's at the digits shown."""

import math
import re

import pytest
import torch

from tests.helpers.explained import SENTENCE, tokenizer
from vaswani_tx import explain

# (kind of model, attention, layer counted from 0, head, token, key)
PLACES = [
    ("vaswani", "decoder", 1, 2, 4, 1),
    ("vaswani", "cross", 0, 0, 3, 6),
    ("pre-norm", "encoder", 1, 3, 2, 5),
    ("gpt2", "decoder", 0, 1, 6, 2),
    ("bert", "encoder", 1, 0, 1, 4),
]


def number(text):
    return float(re.search(r"[\u2212-]?\d+(\.\d+)?", text)[0].replace("\u2212", "-"))


def numbers(text):
    return [float(found.replace("\u2212", "-")) for found in re.findall(r"\u2212?\d+\.\d+", text)]


def agrees(shown, wanted):
    """Whether the last number of a text is the wanted one, but for one unit of its last digit."""
    last = re.findall(r"\u2212?\d+\.\d+", shown)[-1]
    return abs(number(last) - float(wanted)) <= 1.0001 * 10.0 ** -len(last.partition(".")[2])


def attention(model, kind, layer):
    found = explain.trace.trace(model, tokenizer(), SENTENCE)
    return next(item for item in found.attention if (item.kind, item.layer) == (kind, layer))


def address(kind, layer, head, token, key, more=""):
    return f"#steps/kind={kind}&layer={layer + 1}&head={head + 1}&token={token + 1}&key={key + 1}{more}"


def read_cell(page, label, row, column):
    """Walk to a cell of a heatmap with the arrow keys and return its hint."""
    canvas = page.tab.locator(f"#steps canvas[aria-label^='{label}']")
    canvas.focus()
    for key, times in (("Home", 1), ("PageUp", 1), ("ArrowDown", row), ("ArrowRight", column)):
        for _ in range(times):
            page.tab.keyboard.press(key)
    return page.tab.evaluate(
        "[...document.getElementById('hint').children].map((line) => line.textContent).join('\\n')"
    )


@pytest.mark.parametrize("model_kind, kind, layer, head, token, key", PLACES)
def test_scores_and_weights_are_the_models(written_pages, open_page, model_kind, kind, layer, head, token, key):
    model, _, path = written_pages(model_kind)
    item = attention(model, kind, layer)
    query, keys = item.query[head, token].double(), item.key[head].double()
    page = open_page(path, address(kind, layer, head, token, key, "&dot=1"))
    rows = page.tab.locator("#steps .steps-table tbody tr").all()
    assert len(rows) == len(keys)
    for column, row in enumerate(rows):
        product, score, *_, weight = [cell.inner_text() for cell in row.locator("td").all()]
        exact = float(query @ keys[column])
        for shown, wanted in ((product, exact), (score, exact * item.scaling)):
            unit = 10.0 ** -len(re.search(r"\d+(?:\.(\d+))?", shown)[1] or "")
            assert number(shown) == pytest.approx(wanted, abs=1.0001 * unit)
        assert float(weight) == pytest.approx(float(item.weights[head, token, column]), abs=0.5001e-4)
        hidden = item.masked is not None and bool(item.masked[token, column])
        assert ("\u2212\u221e" in score) == hidden
    assert page.tab.locator("#steps .steps-total").inner_text() == "1.000"
    written_out = page.tab.locator("#steps .steps-terms").inner_text()
    terms = re.findall(r"\(?(\u2212?[\d.]+)\)? \u00d7 \(?(\u2212?[\d.]+)\)?", written_out)
    assert len(terms) == query.numel()
    total = sum(number(left) * number(right) for left, right in terms)
    assert numbers(written_out)[-1] == pytest.approx(total, abs=0.6e-4)
    assert total == pytest.approx(float(query @ keys[key]), abs=0.01)


def test_two_digits_of_every_score_are_the_models(written_pages):
    model, page, _ = written_pages("vaswani")
    _, arrays = explain.packing.unpack(re.search(r'id="data">([^<]*)<', page.html)[1])
    for number_, item in enumerate(explain.trace.trace(model, tokenizer(), SENTENCE).attention):
        query, key = (torch.tensor(arrays[f"{name}{number_}"]) for name in ("query", "key"))
        packed = query @ key.transpose(1, 2) * item.scaling
        exact = item.query.double() @ item.key.double().transpose(1, 2) * item.scaling
        assert float((packed - exact).abs().max()) < 0.005


def test_what_a_masked_position_gets(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    item, head, token = attention(model, "decoder", 0), 1, 2
    scores = (item.query[head, token].double() @ item.key[head].double().T) * item.scaling
    page = open_page(path, address("decoder", 0, head, token, token + 1))
    told = page.tab.locator("#steps .steps-masked").inner_text()
    assert number(told) == pytest.approx(float(scores[token + 1]), abs=0.011)
    assert "\u2212\u221e" in told and told.endswith("weight 0.0000")
    share = float(scores.softmax(-1)[token + 1 :].sum())
    text = page.tab.locator("#steps").inner_text()
    assert float(re.search(r"they would get (\d+)% of its attention", text)[1]) == pytest.approx(100 * share, abs=1)
    page.tab.locator("#steps").get_by_role("button", name="cross-attention").click()
    assert "Nothing is masked here" in page.tab.locator("#steps").inner_text()


def test_vectors_from_the_embedding_to_the_output(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    item, head, token = attention(model, "encoder", 0), 1, 3
    page = open_page(path, address("encoder", 0, head, token, 2))
    embedding = model.get_input_embeddings().weight[tokenizer()(SENTENCE)["input_ids"][token]].detach()
    scale = math.sqrt(model.config.d_model)
    position = math.cos(token / 10000 ** (4 / model.config.d_model))
    assert agrees(read_cell(page, "Embedding", 0, 5), embedding[5])
    assert agrees(read_cell(page, "Embedding", 1, 5), embedding[5] * scale)
    assert agrees(read_cell(page, "Embedding", 3, 5), embedding[5] * scale + position)
    assert agrees(read_cell(page, "Q, queries", token, 2), item.query[head, token, 2])
    rows = item.weights.shape[-1]
    assert agrees(read_cell(page, "Values times", rows, 4), item.outputs[head, token, 4])
    assert agrees(read_cell(page, "Outputs of all heads", 2, 1), item.outputs[2, token, 1])
    wanted = model.model.encoder.layers[0].self_attn.o_proj(item.outputs[:, token].flatten()).detach()
    assert agrees(read_cell(page, "What attention hands on", 0, 7), wanted[7])


def test_a_token_is_followed_by_buttons_cells_and_links(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, address("encoder", 0, 0, 1, 2))
    following = page.tab.locator("#steps button[aria-label='Follow: next token']")
    following.focus()
    page.tab.keyboard.press("Enter")
    page.tab.keyboard.press("Enter")  # the focus is still there
    assert "token=4&key=3" in page.tab.evaluate("location.hash")
    page.tab.locator("#steps .steps-table .steps-key").nth(5).click()
    assert "token=4&key=6" in page.tab.evaluate("location.hash")
    page.tab.locator("#steps .row-labels button").nth(0).click()
    page.tab.locator("#steps summary").click()
    page.tab.locator("#steps .steps-terms").wait_for()
    assert "dot=1" in page.tab.evaluate("location.hash")
    page.tab.get_by_role("link", name="What each head writes").click()
    assert page.tab.evaluate("location.hash").startswith("#heads/kind=encoder&layer=1&token=")


def test_a_model_with_relative_positions_says_that_scores_lack_them(written_pages, open_page):
    _, _, path = written_pages("t5")
    page = open_page(path, "#steps/kind=encoder")
    text = page.tab.locator("#steps").inner_text()
    assert "relative position bias" in text and "is not recorded" in text
