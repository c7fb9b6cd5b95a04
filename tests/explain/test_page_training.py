"""The section on training: losses of teacher forcing, smoothed and not, the paper's rate, and the curves of a run."""

import re

import pytest
import torch

from tests.explain.test_page_positions import number
from tests.explain.test_runs import RECIPE, lines, train, validation
from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain
from vaswani_tx.loss_vaswani import smoothed_cross_entropy
from vaswani_tx.training.config.schedules import NoamSchedule

TARGET = "Die Katze trinkt die Milch."


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A page of a given target with a run; logits and labels by the model's own forward pass."""
    folder = tmp_path_factory.mktemp("training")
    run = folder / "first"
    run.mkdir()
    (run / "recipe.yaml").write_text(RECIPE.replace("0.1", "0.2"), encoding="utf-8")
    records = [train(25, 6.5, 0.0004), train(50, 5.25, 0.0008), validation(50, 4.5, bleu=1.5, chrf=20.25, best=True)]
    (run / "metrics.jsonl").write_text(
        lines(*records, train(75, 4.0, 0.0012), validation(75, 4.75, bleu=1.25, chrf=21.0))
    )
    model, words = make("vaswani"), tokenizer()
    made = explain.page(model, words, SENTENCE, TARGET, run=run)
    source = words(SENTENCE, return_tensors="pt")
    labels = words(text_target=TARGET, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(**source, labels=labels).logits[0]
    return made.save(folder / "pair.html"), logits, labels[0]


def attribute(page, name):
    return float(page.tab.locator(f"#training [{name}]").get_attribute(name))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.37])
def test_losses_are_those_of_training(pair, open_page, epsilon):
    path, logits, labels = pair
    page = open_page(path, f"#training/epsilon={epsilon}")
    plain = smoothed_cross_entropy(logits, labels).item()
    smoothed = smoothed_cross_entropy(logits, labels, label_smoothing=epsilon).item()
    assert attribute(page, "data-mean-loss") == pytest.approx(plain, abs=1e-4)
    assert attribute(page, "data-smoothed-loss") == pytest.approx(smoothed, abs=1e-4)
    size = logits.shape[1]
    target = torch.full((size,), epsilon / size, dtype=torch.float64)
    target[0] += 1 - epsilon
    assert attribute(page, "data-floor") == pytest.approx(float(-torch.special.xlogy(target, target).sum()), abs=1e-9)


def test_each_token_has_its_label_loss_and_guesses(pair, open_page):
    path, logits, labels = pair
    page = open_page(path)
    section = page.tab.locator("#training")
    rows = section.locator(".training-row")
    assert rows.count() == len(labels)
    section.locator("details summary").click()
    cells = [row.locator("td") for row in section.locator(".training-table tbody tr").all()]
    texts = [tokens.inner_text() for row in cells for tokens in (row.nth(0), row.nth(1))]
    assert texts[1:-1:2] == texts[2::2]  # each label is the next input
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    for row, loss in zip(cells, losses.tolist(), strict=True):
        assert number(row.nth(3).inner_text()) == pytest.approx(loss, abs=0.6e-4)
        assert number(row.nth(2).inner_text()) == pytest.approx(2.718281828**-loss, abs=1.5e-4)
    best = logits[2].softmax(-1).topk(5).values.tolist()
    rows.nth(2).focus()
    assert [float(shown) for shown in re.findall(r"^(\d\.\d{4}) ", page.hint(), re.MULTILINE)] == pytest.approx(
        best, abs=1e-4
    )
    page.tab.keyboard.press("Enter")
    assert "step=3" in page.tab.evaluate("location.hash")
    guesses = section.locator(".guesses li .number").all_inner_texts()
    assert [float(shown) for shown in guesses] == pytest.approx(best, abs=1e-4)
    rows.nth(2).press("Enter")
    assert section.locator(".guesses").count() == 0


def test_smoothing_starts_at_the_recipes_and_slides(pair, open_page):
    path, _, _ = pair
    page = open_page(path)
    slider = page.tab.locator("#training").get_by_role("slider", name="Label smoothing")
    assert slider.input_value() == "0.2"
    before = attribute(page, "data-smoothed-loss")
    slider.focus()
    page.tab.keyboard.press("Home")
    assert attribute(page, "data-smoothed-loss") == pytest.approx(attribute(page, "data-mean-loss"), abs=1e-12)
    assert attribute(page, "data-smoothed-loss") != before and "epsilon=0" in page.tab.evaluate("location.hash")


def test_rate_is_equation_3(written_pages, open_page):
    _, _, path = written_pages("vaswani")
    page = open_page(path, "#training/width=512&warmup=4000")
    section = page.tab.locator("#training")
    assert attribute(page, "data-peak") == pytest.approx(NoamSchedule(512, 4000)(4000), rel=1e-12)
    section.locator("[data-name=width]").focus()
    page.tab.keyboard.press("ArrowRight")
    assert attribute(page, "data-peak") == pytest.approx(NoamSchedule(1024, 4000)(4000), rel=1e-12)
    section.locator("[data-name=warmup]").focus()
    page.tab.keyboard.press("ArrowLeft")
    assert "warmup=2000" in page.tab.evaluate("location.hash")
    chart = section.locator("figure[data-name=learning-rate] svg.curves")
    chart.focus()
    page.tab.keyboard.press("End")
    assert "update 10,000" in page.hint()
    shown = re.search(r"d_model 1024, warm-up 2,000: (\S+)", page.hint())[1]
    assert number(shown) == pytest.approx(NoamSchedule(1024, 2000)(10000), rel=1e-3)
    page.tab.keyboard.press("Home")
    shown = re.search(r"d_model 1024, warm-up 2,000: (\S+)", page.hint())[1]
    assert number(shown) == pytest.approx(NoamSchedule(1024, 2000)(1), rel=1e-3)


def test_curves_of_the_run(pair, open_page):
    path, _, _ = pair
    page = open_page(path)
    section = page.tab.locator("#training")
    assert "first" in section.inner_text() and section.locator("[data-left-out=run]").count() == 0
    for name, wanted in (
        ("run-losses", ["training: 4", "validation: 4.75"]),
        ("run-scores", ["bleu: 1.25"]),
        ("run-rates", ["this run: 0.0012"]),
    ):
        section.locator(f"figure[data-name={name}] svg.curves").focus()
        page.tab.keyboard.press("End")
        assert "update 75" in page.hint()
        for text in wanted:
            assert text in page.hint()
    section.get_by_role("combobox", name="Score").select_option("chrf")
    section.locator("figure[data-name=run-scores] svg.curves").focus()
    page.tab.keyboard.press("Home")
    assert "chrf: 20.25" in page.hint()


def test_own_continuation_and_mask_of_a_decoder(written_pages, open_page):
    model, _, path = written_pages("causal")
    page = open_page(path)
    ids = [token.id for token in explain.trace.trace(model, tokenizer(), SENTENCE).target]
    row = torch.tensor([ids])
    with torch.no_grad():
        loss = model(row, labels=row).loss.item()
    assert attribute(page, "data-mean-loss") == pytest.approx(loss, abs=1e-4)
    assert page.tab.locator("#training .training-row").count() == len(ids) - 1


def test_encoders_show_what_applies(tmp_path, written_pages, open_page):
    model = make("masked")
    text = "The cat <mask> the milk."
    page = open_page(explain.page(model, tokenizer(), text).save(tmp_path / "masked.html"))
    found = explain.trace.trace(model, tokenizer(), text).masked[0]["predictions"]
    shown = [number(cell) for cell in page.tab.locator("#training .training-masked td.number").all_inner_texts()]
    assert shown[::2] == pytest.approx([entry["probability"] for entry in found], abs=1e-4)
    assert 2.718281828 ** -shown[1] == pytest.approx(shown[0], abs=1e-3)
    classifier = open_page(written_pages("classifier")[2])
    assert classifier.tab.locator("#training .training-classes tbody tr").count() == 3
    plain = open_page(written_pages("bert")[2])
    assert plain.tab.locator("#training [data-left-out=teacher-forcing]").count() == 1


def test_sections_fit_a_phone(pair, open_page):
    path, _, _ = pair
    page = open_page(path, "#training/step=2", width=360, scheme="dark", motion="reduce")
    assert not page.scrolls_sideways()
