"""The section on why: the two ways of reading step, play and count, and the measured curves are the project's."""

import json
import re
from importlib.resources import files

import pytest

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain


def counts(page):
    """Return how many states each panel has read."""
    panels = page.tab.locator("#why svg.why-panel")
    return [panels.nth(i).locator("[data-read]").count() for i in range(2)]


def step_of(page):
    return int(page.tab.locator("#why").get_by_role("slider", name="Step").input_value())


def test_steps_by_button_slider_and_key(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#why/step=0")
    section = page.tab.locator("#why")
    assert counts(page) == [0, 0]
    section.locator("[data-action=step]").click()
    count = counts(page)[1]
    assert counts(page) == [1, count] and count > 10
    section.locator("[data-action=step]").click()
    section.locator("[data-action=back]").click()
    section.locator(".why-stage").focus()
    for key, step in (
        ("ArrowRight", 2),
        ("ArrowRight", 3),
        ("ArrowLeft", 2),
        ("End", count),
        ("ArrowRight", count),
        ("Home", 0),
    ):
        page.tab.keyboard.press(key)
        assert step_of(page) == step
    section.get_by_role("slider", name="Step").focus()
    page.tab.keyboard.press("ArrowRight")
    assert counts(page) == [1, count] and "#why/step=1" in page.tab.evaluate("location.hash")


def test_play_runs_and_pauses(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#why/step=0")
    play = page.tab.locator("#why [data-action=play]")
    play.click()
    assert play.inner_text() == "Pause"
    page.tab.locator("#why svg.why-panel").first.locator("[data-read]").nth(1).wait_for()
    play.click()
    stopped = step_of(page)
    assert play.inner_text() == "Play" and f"step={stopped}" in page.tab.evaluate("location.hash")
    page.tab.wait_for_timeout(700)
    assert step_of(page) == stopped


def test_less_motion_goes_to_the_end_at_once(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#why/step=0", motion="reduce")
    play = page.tab.locator("#why [data-action=play]")
    assert play.inner_text() == "To the end"
    play.click()
    assert counts(page)[0] == counts(page)[1] > 10


def test_path_and_weight_are_counted(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#why/step=9&from=3&to=8")
    section = page.tab.locator("#why")
    assert section.locator("[data-path=recurrent]").inner_text() == "5"
    assert section.locator("[data-path=attention]").inner_text() == "1"
    first = explain.trace.trace(make("vaswani"), tokenizer(), SENTENCE).attention[0].weights
    shown = float(section.locator("[data-weight]").inner_text())
    assert shown == pytest.approx(float(first[:, 7, 2].mean()), abs=1e-4)
    section.get_by_label("From token").select_option("6")
    assert section.locator("[data-path=recurrent]").inner_text() == "2"
    assert "from=6" in page.tab.evaluate("location.hash")
    page.goto("#why/step=999&from=50&to=-1")
    assert step_of(page) == 4


def test_work_is_that_of_table_1(written_pages, open_page):
    model, _, path = written_pages("vaswani")
    page = open_page(path)
    n, d = len(tokenizer()(SENTENCE)["input_ids"]), model.config.d_model
    cells = page.tab.locator("#why .why-table td.number").all_inner_texts()
    assert [int(cell.replace(",", "")) for cell in cells] == [n * n * d, n * d * d, 3 * n * d * d]
    assert page.tab.locator("#why .why-table tbody tr").nth(1).inner_text().count(f"n = {n}") == 2


def test_measured_curves_say_where_they_come_from(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path)
    measured = json.loads((files("vaswani_tx.explain") / "assets" / "measured.json").read_text("utf-8"))
    page.tab.locator("#why details.sources summary").click()
    shown = page.tab.locator("#why details.sources").inner_text()
    assert measured["gradients"]["source"] in shown and measured["speed"]["source"] in shown
    chart = page.tab.locator("#why svg.curves").nth(2)
    chart.focus()
    page.tab.keyboard.press("End")
    assert "512 tokens" in page.hint()
    for name, values in measured["speed"]["stepsPerSecond"].items():
        assert re.search(rf"{name}: {values[-1]}\b", page.hint())


def test_speed_and_gradients_are_those_of_the_documentation():
    text = (files("vaswani_tx.explain") / "assets" / "measured.json").read_text("utf-8")
    measured = json.loads(text)
    left = {
        (path, name): float(f"{values[-1] / values[0]:.2g}")
        for path in ("encoder", "target")
        for name, values in measured["gradients"][path].items()
    }
    # The table of docs/families.md, "Before the Transformer".
    assert left[("target", "Transformer")] == 0.97 and left[("target", "LSTM")] == 0.034
    assert left[("encoder", "Transformer")] == 0.018 and left[("encoder", "LSTM")] == 2.8e-8
    table = {16: (1.21, 1.47, 1.26), 128: (1.14, 1.31, 0.46), 512: (0.76, 1.21, 0.17)}
    assert measured["speed"]["lengths"] == list(table)
    assert list(zip(*measured["speed"]["stepsPerSecond"].values(), strict=True)) == list(table.values())


@pytest.mark.parametrize("kind", ["causal", "bert", "gpt2"])
def test_other_families_read_too(written_pages, open_page, kind):
    _, _, path = written_pages(kind)
    page = open_page(path, "#why/step=1")
    recurrent, attention = counts(page)
    assert recurrent == 1 and attention > 10
    said = page.tab.locator("#why figcaption").nth(1).inner_text()
    assert ("all tokens before it" in said) == (kind != "bert")
