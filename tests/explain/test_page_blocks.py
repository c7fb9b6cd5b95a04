"""The blocks, the architecture and the family on the page: hints, links and numbers are the model's."""

import re

import numpy as np
import pytest
import torch

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain
from vaswani_tx.explain.recording import recorded_sublayers


def numbers(text):
    return [
        float(number.replace(",", "").replace("\u2212", "-")) for number in re.findall(r"[\u2212]?\d[\d,]*\.?\d*", text)
    ]


@pytest.mark.parametrize("kind", ["vaswani", "pre-norm"])
def test_block_shows_the_lengths_of_this_pass(written_pages, open_page, kind):
    model, _, path = written_pages(kind)
    encoded = tokenizer()(SENTENCE, return_tensors="pt")
    with torch.no_grad(), recorded_sublayers(model) as stages:
        model(**encoded, decoder_input_ids=torch.tensor([[1]]))
    wanted = [stage for stage in stages if (stage.stack, stage.layer) == ("encoder", 1)]
    page = open_page(path, "#blocks/encoder=2")
    rows = page.tab.locator("#blocks .blocks-one").first.locator(".blocks-numbers tbody tr").all_inner_texts()
    for row, stage in zip(rows, wanted, strict=True):
        shown = numbers(row)
        assert shown[:2] == stage.shape
        assert shown[2:] == pytest.approx([stage.before, stage.written, stage.after], abs=0.0051)
    page.tab.locator('#blocks [data-part="feed_forward-sublayer"]').first.focus()
    assert f"32 \u2192 {model.config.d_ff} \u2192 32" in page.hint()
    parts = page.tab.locator("#blocks svg").first.locator("[data-part]")
    labels = [parts.nth(i).get_attribute("aria-label") for i in range(parts.count())]
    post = ["Self-attention", "Add & norm", "Feed-forward network", "Add & norm"]
    pre = ["Norm", "Self-attention", "Add", "Norm", "Feed-forward network", "Add"]
    assert labels == (pre if kind == "pre-norm" else post)


def test_mask_grows(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#blocks/row=3")
    slider = page.tab.locator('#blocks input[type="range"]')
    assert slider.input_value() == "3"
    slider.focus()
    page.tab.keyboard.press("ArrowRight")
    assert "row=4" in page.tab.evaluate("location.hash")
    assert page.tab.locator("#blocks .blocks-said").inner_text().startswith("Row 4")
    canvas = page.tab.locator("#blocks canvas.cells")
    canvas.focus()
    hints = []
    for key in ("ArrowRight", "ArrowRight", "End"):
        page.tab.keyboard.press(key)
        hints.append(page.hint())
    assert re.search(r"1\.0000", hints[0]) and "masked" in hints[1]
    page.tab.keyboard.press("PageDown")
    assert "not written yet" in page.hint()


def test_architecture_leads_to_sections(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    page = open_page(path)
    for part, address in (
        ("encoder-self", "#attention/kind=encoder"),
        ("decoder-self", "#attention/kind=decoder"),
        ("cross", "#attention/kind=cross"),
        ("memory", "#attention/kind=cross"),
        ("decoder-feed-forward", "#blocks/decoder=1"),
        ("encoder-positions", "#positions"),
        ("softmax", "#decoding"),
    ):
        page.tab.locator(f'#architecture [data-part="{part}"]').first.focus()
        assert page.hint()
        page.tab.keyboard.press("Enter")
        assert page.tab.evaluate("location.hash") == address
    page.tab.locator('#architecture [data-part="memory"]').first.focus()
    assert page.hint().startswith("K and V of the encoder")
    page.tab.locator('#architecture [data-part="cross"]').first.focus()
    count = sum(parameter.numel() for name, parameter in model.named_parameters() if ".cross_attn." in name)
    assert f"{count:,} parameters" in page.hint()
    shown = page.tab.locator(".architecture-parts tbody tr").all_inner_texts()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(numbers(row)[0] for row in shown) == total
    assert f"{total:,}" in page.tab.locator(".architecture-parts tfoot").inner_text()


@pytest.mark.parametrize("kind", ["gpt2", "bert", "t5", "marian", "causal"])
def test_other_architectures(written_pages, open_page, kind):
    _, _, path = written_pages(kind)
    page = open_page(path, width=360)
    ids = page.tab.locator("#architecture [data-part]").evaluate_all("all => all.map((part) => part.dataset.part)")
    assert ("cross" in ids) == (kind in ("t5", "marian"))
    assert any(part.startswith("encoder") for part in ids) == (kind not in ("gpt2", "causal"))
    assert any(part.endswith("positions") for part in ids) == (kind != "t5")
    assert ("are not drawn" in page.tab.locator("#blocks").inner_text()) == (kind != "causal")
    assert page.tab.locator("#family .family-member.this").get_attribute("data-family") == (
        {"gpt2": "decoder", "causal": "decoder", "bert": "encoder"}.get(kind, "encoder-decoder")
    )
    assert not page.scrolls_sideways()


def saved(tmp_path, model, processor, text):
    return explain.page(model, processor, text, name="sibling").save(tmp_path / "page.html")


def test_masked_tokens(tmp_path, open_page):
    model = make("masked")
    text = SENTENCE.replace("cat", "<mask>")
    page = open_page(saved(tmp_path, model, tokenizer(), text))
    encoded = tokenizer()(text, return_tensors="pt")
    position = encoded["input_ids"][0].tolist().index(tokenizer().mask_token_id)
    with torch.no_grad():
        best = model(**encoded).logits[0, position].softmax(-1).topk(5).values.tolist()
    shown = page.tab.locator("#family .family-bars td.number").all_inner_texts()
    assert [float(text) for text in shown] == pytest.approx(best, abs=0.51e-4)


def test_classes(tmp_path, open_page):
    model = make("classifier")
    page = open_page(saved(tmp_path, model, tokenizer(), SENTENCE))
    with torch.no_grad():
        probabilities = model(**tokenizer()(SENTENCE, return_tensors="pt")).logits[0].softmax(-1)
    shown = page.tab.locator("#family .family-bars td.number").all_inner_texts()
    assert [float(text) for text in shown] == pytest.approx(sorted(probabilities.tolist(), reverse=True), abs=0.51e-4)


def test_patches_look_at_patches(tmp_path, open_page):
    from vaswani_tx import VaswaniImageProcessor

    model = make("image")
    processor = VaswaniImageProcessor(size={"height": 16, "width": 16})
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    page = open_page(saved(tmp_path, model, processor, image), "#family/layer=1&head=2&patch=6")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(**processor(images=image, return_tensors="pt"), output_attentions=True).attentions[0][0, 1]
    canvas = page.tab.locator("#family canvas.family-image")
    for patch in (1, 7, 16):
        row, column = divmod(patch - 1, 4)
        page.tab.mouse.move(*page.cell(canvas, row, column, 4, 4))
        assert float(page.hint().split()[-1]) == pytest.approx(float(weights[6, patch]), abs=0.51e-4)
    canvas.focus()
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("Enter")
    assert "patch=" in page.tab.evaluate("location.hash")
    page.tab.locator('#family select[data-key="Looks"]').select_option("0")
    assert "the class token looks most at" in page.tab.locator("#family .family-said").inner_text()
