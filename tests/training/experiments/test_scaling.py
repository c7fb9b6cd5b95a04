"""The ladder of sizes: known laws are found again, with error bars that hold them, and wrong ladders are named."""

import json

import numpy as np
import pytest
import yaml

from tests.helpers.training_runs import flags
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.training import scaling
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import FitError
from vaswani_tx.training.experiments import scaling_fit
from vaswani_tx.training.experiments.child_commands import Commands
from vaswani_tx.training.experiments.scaling_fit import (
    Run,
    count_weights,
    fit_all,
    frontier,
    offset_power_law,
    power_law,
    read_run,
)


def test_a_known_law_is_found_again():
    x = np.geomspace(1e4, 1e7, 7)
    alpha, constant = power_law(x, (3e9 / x) ** 0.076)
    assert alpha == pytest.approx(0.076) and constant == pytest.approx(3e9)
    alpha, constant, rest = offset_power_law(x, 1.7 + (5e6 / x) ** 0.34)
    assert (alpha, constant, rest) == pytest.approx((0.34, 5e6, 1.7), rel=1e-3)


def make_runs(noise=0.0, seeds=(1, 2, 3), alpha=0.1):
    random = np.random.default_rng(0)
    runs = []
    for weights in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        for seed in seeds:
            tokens = [10_000 * step for step in range(1, 11)]
            end = (1e12 / weights) ** alpha * np.exp(noise * random.normal())
            losses = [float(end * (10 / step) ** 0.2) for step in range(1, 11)]
            runs.append(Run(f"n{weights}", seed, weights + 5, weights, tokens, losses, 60.0))
    return runs


def test_error_bars_hold_the_truth_and_grow_with_the_noise(monkeypatch):
    monkeypatch.setattr(scaling_fit, "BOOTSTRAPS", 60)
    quiet, loud = fit_all(make_runs(0.001)), fit_all(make_runs(0.03))
    widths = []
    for result in (quiet, loud):
        low, high = result["laws"]["parameters"]["alpha"]["interval"]
        value = result["laws"]["parameters"]["alpha"]["value"]
        assert low <= value <= high and abs(value - 0.1) < high - low
        widths.append(high - low)
    assert widths[1] > 5 * widths[0]
    assert fit_all(make_runs(0.03)) == loud, "the same runs give the same numbers"


def test_the_frontier_is_the_least_loss_at_each_compute():
    runs = make_runs()
    grid, best = frontier(runs)
    assert np.all(np.diff(best) < 0) and len(grid) >= 3
    for compute, loss in zip(grid, best, strict=True):
        for run in runs:
            if run.compute[0] <= compute <= run.compute[-1]:
                there = np.exp(np.interp(np.log(compute), np.log(run.compute), np.log(run.losses)))
                assert loss <= there * (1 + 1e-9)


def test_two_sizes_are_too_few():
    with pytest.raises(FitError, match="at least three"):
        fit_all([run for run in make_runs() if run.weights < 50_000])


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_multiply_each_token(tmp_path, tied):
    config = VaswaniConfig(
        vocab_size=20, d_model=8, d_ff=12, num_heads=2, encoder_layers=1, decoder_layers=1, tie_word_embeddings=tied
    )
    model = VaswaniForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert count_weights(tmp_path) == (total, total - (0 if tied else 20 * 8))
    model = VaswaniForConditionalGeneration(VaswaniConfig(**{**config.to_dict(), "source_vocab_size": 30}))
    model.save_pretrained(tmp_path)
    assert count_weights(tmp_path) == (total + 30 * 8, total - (0 if tied else 20 * 8))


def write_ladder(path, data, **changes):
    words = flags(data, "unused")
    values = {words[i].removeprefix("--"): yaml.safe_load(words[i + 1]) for i in range(0, len(words), 2)}
    values = {
        name: value for name, value in values.items() if name not in ("output_dir", "model.d_model", "model.d_ff")
    }
    (path / "recipe.yaml").write_text("{}\n")
    content = {
        "command": "train_translation",
        "recipe": "recipe.yaml",
        "set": {**values, "max_steps": 4, "eval_every": 2, "log_every": 1, "eval_sentences": 0,
                "validation_source": "a.src", "validation_target": "a.tgt"},
        "sizes": {f"d{size}": {"model.d_model": size, "model.d_ff": 2 * size} for size in (4, 8, 16)},
    }  # fmt: skip
    (path / "ladder.yaml").write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return str(path / "ladder.yaml")


@pytest.mark.slow
@pytest.mark.fresh
def test_one_command_trains_fits_and_draws(reversal, tmp_path, monkeypatch, capsys):
    from accelerate.state import AcceleratorState

    from vaswani_tx.training import train_translation

    # In this process: a new one for each size would take most of the time to import.
    def run(self, words):
        AcceleratorState._reset_state(reset_partial_state=True)
        return train_translation.main(words[3:])

    monkeypatch.setattr(Commands, "run", run)
    ladder = write_ladder(tmp_path, reversal)
    out = tmp_path / "out"
    assert scaling.main([ladder, "--output-dir", str(out)]) == 0, capsys.readouterr().err
    result = json.loads((out / "scaling.json").read_text())
    assert [run["size"] for run in result["runs"]] == ["d4", "d8", "d16"]
    one = read_run("d4", 1, RunFolder(out / "d4-seed1"))
    assert len(one.losses) == 2 and one.losses[-1] == result["runs"][0]["losses"][-1]
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "| d16 | 1 |" in (out / "scaling.md").read_text()
    # Again: nothing is trained, the same comes out.
    monkeypatch.setattr(Commands, "run", lambda self, words: pytest.fail("trained again"))
    assert scaling.main([ladder, "--output-dir", str(out)]) == 0
    assert json.loads((out / "scaling.json").read_text()) == result


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"sizse": {}}, "did you mean 'sizes'"),
        ({"sizes": {"a": {}, "b": {}}}, "at least three"),
        ({"command": "train_everything"}, "command must be one of"),
        ({"seeds": "1"}, "seeds must be a list"),
        ({"recipe": None}, "recipe is missing"),
        ({"set": {"wramup_steps": 3}}, "did you mean '--warmup-steps'"),
    ],
)
def test_wrong_ladders_are_named(reversal, tmp_path, capsys, changes, message):
    ladder = write_ladder(tmp_path, reversal, **changes)
    assert scaling.main([ladder, "--output-dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_dry_run_prints_the_commands(reversal, tmp_path, capsys):
    ladder = write_ladder(tmp_path, reversal, seeds=[1, 2])
    assert scaling.main([ladder, "--output-dir", str(tmp_path / "out"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and "--model.d_model=16" in lines[5] and "--seed=2" in lines[5]
    assert not (tmp_path / "out").exists()
