"""The section on positions: its formula is the model's table, and its numbers are under the pointer and the keys."""

import json
import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import (
    VaswaniForImageClassification,
    VaswaniImageProcessor,
    VaswaniVisionConfig,
    explain,
)
from vaswani_tx.explain.document import EXPORT
from vaswani_tx.layers_vaswani import sinusoids

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def evaluate(browser, expression):
    """Evaluate an expression over the functions of positions_table.js in an empty page."""
    source = (files("vaswani_tx.explain") / "assets" / "sections" / "positions_table.js").read_text("utf-8")
    tab = browser.new_page()
    try:
        return json.loads(tab.evaluate(f"() => {{ {EXPORT.sub('', source)}; return JSON.stringify({expression}); }}"))
    finally:
        tab.close()


def number(text):
    """Read a number as the page writes it, such as 2.2·10⁻¹⁶."""
    text = text.translate(SUPERSCRIPTS).replace("\u2212", "-").replace(",", "")
    return float(text.replace("\u00b710", "e")) if "\u00b7" in text else float(text)


def value_under(page, row, column, rows, columns):
    canvas = page.tab.locator("#positions canvas.table-cells").first
    page.tab.mouse.move(*page.cell(canvas, row, column, rows, columns))
    return page.hint()


@pytest.mark.parametrize(("length", "width"), [(64, 32), (600, 512), (3, 2)])
def test_formula_is_the_models_table(browser, length, width):
    shown = evaluate(browser, f"sinusoidTable({length}, {width}).map((row) => Array.from(row))")
    assert np.abs(np.array(shown) - sinusoids(torch.arange(length), width).numpy()).max() < 1e-12


def test_dot_products_rotations_and_wavelengths(browser):
    table = sinusoids(torch.arange(40), 32)
    dots = evaluate(browser, "[0, 1, 7, 30].map((k) => offsetDot(k, 32))")
    assert dots == pytest.approx([float(table[5] @ table[5 + k]) for k in (0, 1, 7, 30)], abs=1e-12)
    turned = evaluate(browser, "Array.from(rotatedRow(sinusoidRow(4, 32), 9))")
    assert turned == pytest.approx(table[13].tolist(), abs=1e-12)
    waves = evaluate(browser, "[0, 1, 2, 31].map((j) => sinusoidWavelength(j, 32))")
    assert waves == pytest.approx([2 * np.pi * 10000 ** (2 * i / 32) for i in (0, 0, 1, 15)], rel=1e-12)


@pytest.mark.parametrize(("kind", "sides"), [("vaswani", ["encoder", "decoder"]), ("causal", ["decoder"])])
def test_page_finds_its_formula_in_the_pass(written_pages, open_page, kind, sides):
    _, _, path = written_pages(kind)
    found = open_page(path).tab.locator("#positions [data-check]")
    assert [found.nth(i).get_attribute("data-side") for i in range(found.count())] == sides
    for i in range(len(sides)):
        assert found.nth(i).get_attribute("data-check") == "equal"
        assert float(found.nth(i).get_attribute("data-difference")) < 0.500001e-3


def test_page_notices_a_table_that_is_not_the_formula(tmp_path, open_page):
    model = make("causal")
    positions = next(module for name, module in model.named_modules() if name.endswith("positions"))
    positions.table = torch.cat((positions.table[:, ::2], positions.table[:, 1::2]), dim=1)  # halves
    page = open_page(explain.page(model, tokenizer(), SENTENCE).save(tmp_path / "p.html"))
    assert page.tab.locator("#positions [data-check]").get_attribute("data-check") == "different"


def test_hovered_number_is_the_models(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    page = open_page(path)
    width = model.config.d_model
    table = sinusoids(torch.arange(64), width)
    for row, column in ((0, 1), (12, 7), (5, 30)):
        hint = value_under(page, row, column, 64, width)
        assert f"position {row}, dimension {column}" in hint
        shown, added = re.search(r"= (\S+)", hint)[1], re.search(r"in this pass: (\S+)", hint)[1]
        assert number(shown) == pytest.approx(float(table[row, column]), abs=1e-6)
        assert number(added) == pytest.approx(float(table[row, column]), abs=0.501e-3)
    page.tab.locator("#positions").get_by_role("button", name="sines, then cosines").click()
    assert f"position 3, dimension {2 * 4 + 1}" in value_under(page, 3, width // 2 + 4, 64, width)
    ticks = page.tab.locator("#positions .column-axis span").all_inner_texts()
    assert ticks[:4] == ["0", "8", "16", "24"] and ticks[4:] == ["1", "9", "17", "25"]
    assert "columns=halves" in page.tab.evaluate("location.hash")


def test_length_goes_beyond_the_text_and_keys_read_the_table(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#positions/length=1024")
    section = page.tab.locator("#positions")
    slider = section.get_by_role("slider", name="Length")
    assert slider.input_value() == "1024"
    slider.focus()
    page.tab.keyboard.press("ArrowRight")
    assert "length=1032" in page.tab.evaluate("location.hash")
    assert section.locator("canvas.table-cells").evaluate("canvas => canvas.height") == 1032
    section.locator("canvas.table-cells").focus()
    for key in ("ArrowRight", "ArrowRight", "PageDown"):
        page.tab.keyboard.press(key)
    assert "position 16, dimension 1" in page.hint() and f"{np.cos(16):.6f}".replace("-", "\u2212") in page.hint()


def test_rotation_has_no_residual_and_curves_have_numbers(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#positions/position=4&offset=9")
    residual = page.tab.locator("#positions [data-residual]")
    assert float(residual.get_attribute("data-residual")) < 1e-14
    assert number(residual.inner_text()) == pytest.approx(float(residual.get_attribute("data-residual")), rel=0.1)
    assert float(page.tab.locator("[data-own-residual]").get_attribute("data-own-residual")) < 2e-3
    page.tab.get_by_role("slider", name="Offset k").focus()
    page.tab.keyboard.press("End")
    assert "PE(259)" in page.tab.locator("#positions .residual").inner_text()
    assert page.tab.locator("[data-own-residual]").count() == 0
    chart = page.tab.locator("#positions svg.curves").nth(1)
    chart.focus()
    page.tab.keyboard.press("End")
    table = sinusoids(torch.arange(64), 32)
    assert number(re.search(r"dot product: (\S+)", page.hint())[1]) == pytest.approx(
        float(table[0] @ table[63]), rel=1e-3
    )


def test_learned_positions_are_shown_as_rows(written_pages, open_page):
    model, _, path = written_pages("pre-norm")
    page = open_page(path)
    section = page.tab.locator("#positions")
    assert "learned" in section.inner_text() and section.locator("[data-check]").count() == 0
    weight = next(p for name, p in model.get_encoder().named_parameters() if "positions" in name).detach()
    rows = section.locator("canvas.table-cells").first.evaluate("canvas => canvas.height")
    hint = value_under(page, 2, 5, rows, weight.shape[1])
    assert number(hint.splitlines()[-1]) == pytest.approx(float(weight[2, 5]), abs=0.501e-3)
    section.locator("canvas.cells").first.focus()
    page.tab.keyboard.press("ArrowRight")
    assert number(re.search(r"dot product (\S+)", page.hint())[1]) == pytest.approx(
        float(weight[0] @ weight[0]), abs=0.05
    )


@pytest.mark.parametrize(("kind", "reason"), [("t5", "a number for each distance"), ("marian", "in its own code")])
def test_other_models_say_what_is_left_out(written_pages, open_page, kind, reason):
    _, _, path = written_pages(kind)
    assert reason in open_page(path).tab.locator("#positions [data-left-out]").inner_text()


@pytest.mark.parametrize("kind", ["sinusoidal", "sinusoidal_2d", "learned"])
def test_patches_have_positions_too(tmp_path, open_page, kind):
    torch.manual_seed(0)
    config = VaswaniVisionConfig(
        image_size=16, patch_size=4, d_model=32, d_ff=64, num_heads=4, num_hidden_layers=1, num_labels=3,
        position_embedding=kind, num_channels=3,
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    processor = VaswaniImageProcessor(size={"height": 16, "width": 16})
    made = explain.page(VaswaniForImageClassification(config).eval(), processor, Image.fromarray(pixels))
    page = open_page(made.save(tmp_path / "image.html"))
    checks = page.tab.locator("#positions [data-check]")
    assert checks.count() == (0 if kind == "learned" else 1)
    if kind != "learned":
        assert checks.get_attribute("data-check") == "equal"
    assert "loss if right" in page.tab.locator("#training").inner_text()
