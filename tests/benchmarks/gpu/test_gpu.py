"""The benchmark of a GPU: all of it on a CPU, its formula against torch's counter, and what it says of failures."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import results
from tests.benchmarks.gpu import __main__ as command
from tests.benchmarks.gpu import decoding, flops, rates, report, training
from tests.benchmarks.gpu.settings import Settings, tiny
from tests.benchmarks.training_contenders import own_model
from tests.benchmarks.works import SIZES, Size, make_batch


@pytest.mark.parametrize("size", [SIZES["minute"], Size(32, 48, 4, 3)])
def test_the_formula_counts_what_torch_counts(size):
    """Of sentences without padding; torch counts the hidden half of causal scores too, and bmm as eager attention."""
    import numpy as np

    source, target, rows, vocabulary = 7, 5, 3, 50
    model = own_model(size, vocabulary, 0.0)
    model.set_attn_implementation("eager")
    lengths = np.full(rows, source), np.full(rows, target)
    batch = make_batch(lengths, vocabulary, 1)
    with FlopCounterMode(display=False) as counter:
        logits = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}).logits
        forward = counter.get_total_flops()
        logits.sum().backward()
    hidden = size.layers * rows * 4 * size.d_model * (target**2 - target * (target + 1) / 2)
    pairs = [(source, target)] * rows
    assert flops.forward(size, vocabulary, pairs) + hidden == forward
    # The first layers' inputs are embeddings, whose gradient is a product too.
    assert flops.training(size, vocabulary, pairs) + 3 * hidden == counter.get_total_flops()


def test_rates_are_of_the_model_s_products():
    shapes = rates.shapes_of(16, 32, 100, 8, 64)
    found = rates.measure(torch.device("cpu"), shapes, 2)
    assert [(row["m"], row["k"], row["n"]) for row in found] == list(shapes.values())
    assert all(row[kind] > 0 for row in found for kind in rates.KINDS)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_part_that_fails_leaves_a_line_and_the_others_run(tmp_path, monkeypatch, capsys):
    def run(settings, name):
        if name == "bf16 padded":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return made_result(settings, name)

    monkeypatch.setattr(training, "run", run)
    words = ["--device", "cpu", "--tiny", "--in-process", "--only", "training", "--output", str(tmp_path)]
    assert command.main(words) == 1
    shown = capsys.readouterr().out
    reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert f"training/bf16 padded: failed: {reason}\n" in shown
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["training"]) == list(training.VARIANTS)
    table = (tmp_path / "gpu.md").read_text()
    assert f"Not measured: bf16 padded: {reason}" in table
    # 1,000 tokens/s against 500; an update in 0.024 s is 40 minutes for 100,000.
    row = next(line for line in table.splitlines() if line.startswith("| fp32 padded"))
    assert "| 1,000 | 2.00 | 24.0 |" in row
    assert "| 40 |" in row


def made_result(settings, name):
    is_peer = training.VARIANTS[name].peer
    return {
        "loss": 4.0, "gradient_norm": 2.0, "precision": training.VARIANTS[name].precision, "last_loss": 3.0,
        "tokens_per_second": 500.0 if is_peer else 1000.0, "seconds_per_update": 0.024, "flops_per_second": 1e9,
        "flops_per_update": 1e9, "tokens_per_update": 24, "fill": 0.9, "warm_up_seconds": 1.0,
        "peak_memory_gib": 12.25, "attention": None,
    }  # fmt: skip


def test_differing_outputs_are_named():
    found = {name: made_result(None, name) for name in training.VARIANTS}
    assert training.differences(found) == []
    found["bf16 unpadded"]["loss"] = 4.2
    found["bf16 padded"]["gradient_norm"] = float("nan")
    assert training.differences(found) == [
        "bf16 padded: gradient norm nan is not 2.00000 (fp32 padded)",
        "bf16 unpadded: loss 4.20000 is not 4.00000 (fp32 padded)",
    ]
    tokens = {"MarianMT": [[3, 4], [5, 6]], "CTranslate2": [[3, 4], [5, 7]]}
    searches = {name: {"searches": {"2/4": {"tokens": one}}} for name, one in tokens.items()}
    assert decoding.differences(searches) == [
        "CTranslate2: batch 2, 4 beams: 50% of the sentences have MarianMT's tokens"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "sees no CUDA device"),
        (["--updates", "0", "--device", "cpu"], "--updates is 0"),
        (["--docs", "--tiny", "--device", "cpu"], "--docs is for the whole set"),
    ],
)
def test_wrong_options(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([*words, "--output", str(tmp_path / "none")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_settings_survive_json():
    for settings in (Settings(), tiny("cpu")):
        assert Settings.of_fields(json.loads(json.dumps(settings.as_fields()))) == settings
    assert Settings().training_work().tokens == 25_000


def test_the_tables_go_between_the_page_s_markers(tmp_path):
    begin, end = results.markers(report.SECTION)
    assert "| x |" in results.into_page(f"a\n{begin}\n{end}\nb", {report.SECTION: "| x |"})


@pytest.mark.fresh
def test_every_part_on_a_cpu(tmp_path):
    """The whole command but for the processes."""
    words = ["--device", "cpu", "--tiny", "--in-process", "--output", str(tmp_path)]
    status = command.main(words)
    found = json.loads((tmp_path / "gpu.json").read_text())
    failures = {
        name: one["failed"] for part in command.SECTIONS for name, one in found[part].items() if "failed" in one
    }
    assert all("CTranslate2 is not there" in reason for reason in failures.values()), failures
    assert status == (1 if failures else 0)
    assert report.differences(found) == []
    assert (tmp_path / "gpu.md").read_text() == report.render(found) + "\n"


@pytest.mark.fresh
def test_a_process_of_its_own(monkeypatch):
    settings = tiny("cpu")
    assert command.measure_apart(settings, "matrix")["products"][-1]["m"] == 64
    assert "KeyError" in command.measure_apart(settings, "training/none")["failed"]
    monkeypatch.setattr(command, "PART_SECONDS", 0.01)
    assert command.measure_apart(settings, "matrix")["failed"].startswith("not done within")
