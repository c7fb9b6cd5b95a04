"""Power laws of the loss in parameters and in compute, with error bars (Kaplan et al. 2020; Hoffmann et al. 2022).

    parameters:  L(N) = (N_c / N) ** alpha, and L(N) = E + (N_c / N) ** alpha with an irreducible loss E
    compute:     the same of the frontier: at each compute the least loss that any size has reached with it

N counts the weights that multiply every token: all but the embedding, the output projection included. Compute is
C = 6 N D for D trained tokens: two operations a weight forward, four backward (Kaplan et al., section 2.1).

Error bars are a bootstrap's 95 % interval over the runs: whole runs are drawn with replacement, at least three sizes
among them, and everything is fitted again. With one seed a size they show how much the fit depends on single sizes;
they do not include the noise between seeds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from transformers import AutoConfig, AutoModel

import vaswani_tx.training.models.architectures  # noqa: F401  registers the model types of the baselines
from vaswani_tx.training.engine.checkpoints import latest_checkpoint
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import FitError

BOOTSTRAPS = 400
FRONTIER_POINTS = 12


@dataclass(frozen=True)
class Run:
    """One trained model: its size, its cost, and its validation losses on the way."""

    size: str
    seed: int
    parameters: int
    weights: int
    tokens: list[int]
    losses: list[float]
    seconds: float

    @property
    def compute(self) -> np.ndarray:
        """Return the operations of training up to each validation."""
        return 6.0 * self.weights * np.array(self.tokens, dtype=float)


def read_run(size: str, seed: int, folder: RunFolder) -> Run:
    """Read a finished run folder; raise FitError where it holds no validation."""
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        raise FitError(f"'{folder.path}' holds no checkpoint: train it again.")
    total, weights = count_weights(newest)
    tokens_at: dict[int, int] = {}
    losses: dict[int, float] = {}
    seconds = 0.0
    for line in folder.metrics.read_text(encoding="utf-8").split("\n"):
        if not line:
            continue
        record = json.loads(line)
        if record["event"] == "train":
            tokens_at[record["step"]] = record["target_tokens"]
            seconds = record["seconds"]
        elif record["event"] == "validation":
            losses[record["step"]] = record["loss"]
    steps = [step for step in sorted(losses) if step in tokens_at]
    if not steps:
        raise FitError(
            f"'{folder.metrics}' holds no validation at a logged update: set eval_every to a multiple of log_every."
        )
    return Run(size, seed, total, weights, [tokens_at[s] for s in steps], [losses[s] for s in steps], seconds)


def count_weights(folder) -> tuple[int, int]:
    """Return the parameters of a saved model, and those that multiply every token (see the top of this module)."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    # A tied matrix multiplies tokens as the projection; of two, the embedding only looks its rows up.
    weights = sum(parameter.numel() for parameter in model.parameters())
    if getattr(config, "source_vocab_size", None) is None:
        target, source = model.get_input_embeddings().weight.numel(), 0
    else:  # the source's is only looked up
        target, source = (side.get_input_embeddings().weight.numel() for side in (model.get_decoder(), model))
    own_projection = 0 if config.tie_word_embeddings else target
    return weights + own_projection, weights - source


def power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return exponent alpha and constant x_c of `y = (x_c / x) ** alpha`, by least squares of the logarithms."""
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    alpha = -slope
    return float(alpha), float(np.exp(intercept / alpha)) if alpha else float("nan")


STARTS = (0.0, 0.3, 0.6, 0.9)


def offset_power_law(
    x: Sequence[float], y: Sequence[float], starts: Sequence[float] = STARTS
) -> tuple[float, float, float]:
    """Return exponent, constant and E of `y = E + (x_c / x) ** alpha`, by least squares of relative errors, E >= 0.

    The optimum is flat: the search starts with E at each of `starts`, shares of the least y.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    center = np.log(x).mean()

    def predict(values):
        amplitude, alpha, rest = np.exp(values[0]), values[1], values[2]
        return rest + amplitude * np.exp(-alpha * (np.log(x) - center))

    best = None
    for share in starts:
        rest = share * y.min()
        start = [np.log(max(y.mean() - rest, 1e-6)), 0.2, rest]
        found = least_squares(
            lambda values: predict(values) / y - 1, start, bounds=([-50, 1e-4, 0], [50, 10, y.min()]), x_scale="jac"
        )
        if best is None or found.cost < best.cost:
            best = found
    amplitude, alpha, rest = np.exp(best.x[0]), best.x[1], best.x[2]
    return float(alpha), float(np.exp(center + np.log(amplitude) / alpha)), float(rest)


def frontier(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Return compute and least loss: at evenly spaced log computes, the best of all runs until then.

    Only where at least two sizes have been validated, and only where the best changes: a flat end says nothing.
    """
    low = sorted(run.compute[0] for run in runs)
    starts = {run.size: min(r.compute[0] for r in runs if r.size == run.size) for run in runs}
    begin = sorted(starts.values())[min(1, len(starts) - 1)]
    end = max(run.compute[-1] for run in runs)
    grid = np.geomspace(max(begin, low[0]), end, FRONTIER_POINTS)
    best = []
    for compute in grid:
        reached = []
        for run in runs:
            if run.compute[0] <= compute <= run.compute[-1] * (1 + 1e-9):
                reached.append(np.exp(np.interp(np.log(compute), np.log(run.compute), np.log(run.losses))))
            elif compute > run.compute[-1]:
                reached.append(run.losses[-1])
        best.append(min(reached) if reached else np.nan)
    best = np.array(best)
    kept = np.isfinite(best) & np.r_[True, best[1:] < np.minimum.accumulate(best)[:-1]]
    return grid[kept], best[kept]


def fit_all(runs: Sequence[Run], seed: int = 0) -> dict[str, Any]:
    """Return both laws with their error bars, and what they were fitted to.

    Raises:
        FitError: fewer than three sizes.
    """
    sizes = sorted({run.size for run in runs})
    if len(sizes) < 3:
        raise FitError(f"A law needs at least three trained sizes, and there are {len(sizes)}: {', '.join(sizes)}.")
    random = np.random.default_rng(seed)
    found = _fit(runs)
    rest = found.get("parameters_with_rest", {}).get("rest", 0.0) / min(run.losses[-1] for run in runs)
    drawn = [_fit(_draw(runs, random), starts=(min(rest, 0.99),)) for _ in range(BOOTSTRAPS)]
    laws = {}
    for law, values in found.items():
        samples = {name: [one[law][name] for one in drawn if one.get(law)] for name in values}
        laws[law] = {name: {"value": value, "interval": _interval(samples[name])} for name, value in values.items()}
    grid, best = frontier(runs)
    return {
        "laws": laws,
        "frontier": {"compute": grid.tolist(), "loss": best.tolist()},
        "runs": [
            {
                "size": run.size, "seed": run.seed, "parameters": run.parameters, "weights": run.weights,
                "tokens": run.tokens, "compute": run.compute.tolist(), "losses": run.losses, "seconds": run.seconds,
            }
            for run in sorted(runs, key=lambda run: (run.weights, run.seed))
        ],
        "bootstraps": BOOTSTRAPS,
    }  # fmt: skip


def _draw(runs: Sequence[Run], random: np.random.Generator) -> list[Run]:
    """Return runs drawn with replacement until three sizes are among them."""
    while True:
        chosen = [runs[i] for i in random.integers(0, len(runs), len(runs))]
        if len({run.size for run in chosen}) >= 3:
            return chosen


def _fit(runs: Sequence[Run], starts: Sequence[float] = STARTS) -> dict[str, dict[str, float]]:
    weights, losses = [run.weights for run in runs], [run.losses[-1] for run in runs]
    laws: dict[str, dict[str, float]] = {}
    alpha, constant = power_law(weights, losses)
    laws["parameters"] = {"alpha": alpha, "constant": constant}
    if len(set(weights)) >= 4:
        alpha, constant, rest = offset_power_law(weights, losses, starts)
        laws["parameters_with_rest"] = {"alpha": alpha, "constant": constant, "rest": rest}
    grid, best = frontier(runs)
    if len(grid) >= 3:
        alpha, constant = power_law(grid, best)
        laws["compute"] = {"alpha": alpha, "constant": constant}
    return laws


def _interval(values: list[float]) -> list[float]:
    return [float(bound) for bound in np.nanpercentile(values, [2.5, 97.5])] if values else []


def table(result: dict[str, Any]) -> str:
    """Return the runs and the laws in Markdown."""
    columns = ("size", "seed", "parameters", "weights N", "tokens D", "compute 6ND", "loss", "minutes")
    lines = [f"# {result['title']}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for run in result["runs"]:
        lines.append(
            f"| {run['size']} | {run['seed']} | {run['parameters']:,} | {run['weights']:,} | {run['tokens'][-1]:,} | "
            f"{run['compute'][-1]:.3g} | {run['losses'][-1]:.4f} | {run['seconds'] / 60:.1f} |"
        )
    lines.append("")
    formulas = {
        "parameters": "L(N) = (N_c / N)^alpha",
        "parameters_with_rest": "L(N) = E + (N_c / N)^alpha",
        "compute": "L(C) = (C_c / C)^alpha, frontier",
    }
    for law, values in result["laws"].items():
        parts = [
            f"{'E' if name == 'rest' else name} {entry['value']:.4g}"
            + (f" [{entry['interval'][0]:.4g}, {entry['interval'][1]:.4g}]" if entry["interval"] else "")
            for name, entry in values.items()
        ]
        lines.append(f"- {formulas[law]}: {', '.join(parts)}")
    lines.append(
        f"- In brackets: 95 % intervals of {result['bootstraps']:,} bootstrap samples of the runs. The loss is the "
        "validation's, in nats a token."
    )
    return "\n".join(lines) + "\n"
