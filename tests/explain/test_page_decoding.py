"""The playing of the decoding: what the page shows of a step is what `generate` did."""

import re

import pytest
import torch

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain

KINDS = ["vaswani", "marian", "t5", "gpt2"]


def rows(page, table):
    return page.tab.locator(f"#decoding .{table} tbody tr").all_inner_texts()


def shown_numbers(row):
    return [float(text.replace("\u2212", "-")) for text in re.findall(r"(?<=\t)[\u2212]?\d+\.\d{4}", row)]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Return a function that gives (model, generate's output, path of the page) of a beam search."""
    made, folder = {}, tmp_path_factory.mktemp("decoding")

    def play(kind):
        if kind not in made:
            model = make(kind)
            model.generation_config.num_beams = 4
            model.generation_config.max_new_tokens = 8
            page = explain.page(model, tokenizer(), SENTENCE, name=kind)
            encoded = tokenizer()(SENTENCE, return_tensors="pt")
            limit = {"max_new_tokens": 24} if kind == "gpt2" else {}
            with torch.no_grad():
                output = model.generate(
                    input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"],
                    num_return_sequences=1, return_dict_in_generate=True, output_scores=True, **limit,
                )  # fmt: skip
            made[kind] = model, output, page.save(folder / f"{kind}.html")
        return made[kind]

    return play


@pytest.mark.parametrize("kind", KINDS)
def test_final_score_is_that_of_generate(played, open_page, kind):
    _, output, path = played(kind)
    page = open_page(path, "#decoding/step=999")  # not there: the first step
    assert page.tab.locator("#decoding h3").first.inner_text().startswith("Step 1")
    page.tab.locator("#decoding input[type=range]").focus()
    page.tab.keyboard.press("End")
    log_prob, divisor, score = shown_numbers(rows(page, "decoding-finished")[0])
    assert score == pytest.approx(float(output.sequences_scores[0]), abs=0.51e-4)
    assert log_prob / divisor == pytest.approx(score, abs=2e-4)
    rule = page.tab.locator("#decoding .decoding-rule").inner_text()
    assert rule == ("log P / ((5 + |y|) / 6)^0.6" if kind == "vaswani" else "log P / |y|^1")


def test_formula_of_a_chosen_candidate(played, open_page):
    _, _, path = played("vaswani")
    page = open_page(path, "#decoding/step=3&candidate=2")
    row = rows(page, "decoding-candidates")[1]
    log_total, divisor, score = shown_numbers(row)[1:]
    assert divisor == pytest.approx(((5 + 3) / 6) ** 0.6, abs=0.51e-4)
    assert score == pytest.approx(log_total / divisor, abs=2e-4)
    filled = page.tab.locator("#decoding .decoding-filled").inner_text().replace("\u2212", "-")
    assert "((5 + 3) / 6)^0.6" in filled and filled.endswith(f"{score:.4f}")
    page.tab.locator('#decoding [data-candidate="4"] button').focus()
    page.tab.keyboard.press("Enter")
    assert "candidate=4" in page.tab.evaluate("location.hash")
    assert page.tab.evaluate("document.activeElement.textContent") == "4"


def test_keys_and_buttons_change_the_step(played, open_page):
    _, _, path = played("vaswani")
    page = open_page(path)
    step = lambda: page.tab.locator("#decoding h3").first.inner_text().split(":")[0]  # noqa: E731
    panel = page.tab.locator("#decoding .decoding-panel")
    panel.focus()
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("ArrowRight")
    assert step() == "Step 3" and page.tab.evaluate("location.hash") == "#decoding/step=3"
    page.tab.keyboard.press("ArrowLeft")
    page.tab.locator("#decoding .decoding-on").click()
    page.tab.locator("#decoding .decoding-on").click()
    page.tab.locator("#decoding .decoding-back").click()
    assert step() == "Step 3"
    page.tab.locator('#decoding .decoding-node[data-step="5"]').first.click()
    assert step() == "Step 5"
    assert page.tab.locator("#decoding .decoding-node.later").count() > 0


def test_generate_plays_and_pauses(played, open_page):
    _, _, path = played("vaswani")
    page = open_page(path, motion="reduce")
    page.tab.clock.install()
    page.goto()
    play = page.tab.locator("#decoding .decoding-play")
    play.click()
    page.tab.clock.run_for(3000)
    assert page.tab.locator("#decoding h3").first.inner_text().startswith("Step 3")
    assert play.get_attribute("aria-pressed") == "true"
    play.click()
    page.tab.clock.run_for(5000)
    assert page.tab.locator("#decoding h3").first.inner_text().startswith("Step 3")
    page.tab.locator("#decoding .decoding-panel").focus()
    page.tab.keyboard.press(" ")
    page.tab.clock.run_for(60_000)
    assert page.tab.locator("#decoding .decoding-end").count() == 1
    assert play.get_attribute("aria-pressed") == "false"


def test_saved_tree_is_complete(played, open_page):
    _, _, path = played("vaswani")
    page = open_page(path, "#decoding/step=2")
    with page.tab.expect_download() as download:
        page.tab.locator('#decoding figure [data-save="svg"]').click()
    text = download.value.path().read_text("utf-8")
    assert text.count("<rect") == page.tab.locator("#decoding .decoding-node").count() + 1
    assert 'opacity="0.13"' not in text
    assert page.tab.locator("#decoding .decoding-node.later").count() > 0


def test_greedy_has_no_ranking(tmp_path, open_page):
    model = make("gpt2")
    path = explain.page(model, tokenizer(), SENTENCE, name="greedy").save(tmp_path / "page.html")
    page = open_page(path, width=360, scheme="dark")
    assert "greedily" in page.tab.locator("#decoding p").first.inner_text()
    assert page.tab.locator("#decoding .decoding-filled").count() == 0
    assert not page.scrolls_sideways()
