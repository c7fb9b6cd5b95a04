"""Scores of whole test sets of texts by the metrics of the registry, with their signatures and intervals, and as lines.

`score_translations` is what evaluation, validation and the demonstration share, `score_rows` how they print it.
"""

from collections.abc import Sequence
from typing import Any

from vaswani_tx.training.metrics.registry import TEXT, metrics_for, signed_metrics
from vaswani_tx.training.metrics.text_metrics import TextMetric, TextOptions, check_seed


def make_text_metric(name: str, **options: Any) -> TextMetric:
    """Return a metric by its name in the registry; ValueError for an unknown name, sacreBLEU tokeniser or language.

    Args:
        name: which metric.
        options: the fields of `TextOptions`: `lowercase`, `tokenize`, `language`.
    """
    known = signed_metrics()
    if name not in known:
        raise ValueError(f"there is no score {name!r}: choose one of {', '.join(known)}")
    return known[name].resolve()(TextOptions(**options))


def score_translations(
    hypotheses: Sequence[str],
    *references: Sequence[str],
    metrics: Sequence[str] = ("bleu", "chrf"),
    bootstrap: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Score plain detokenised sentences against one or several references each.

    Args:
        hypotheses: the translations.
        references: one sequence of sentences, or several, each as long as the hypotheses.
        metrics: which scores, names of `signed_metrics()`.
        bootstrap: resamples of the test set for a 95 % confidence interval of every score; 0: none.
        options: see `make_text_metric`.

    Returns each metric's score (0 to 100; TER may be more) under its name, its `..._signature`, with `bootstrap` its
    `..._interval` (`mean`, `half_width`, `level`, `samples`, `seed`), and the metrics without a signature, such as
    `exact_match` (0 to 1). ValueError if the numbers of sentences differ or are zero.
    """
    check_counts(hypotheses, references)
    scores: dict[str, Any] = {}
    for name in metrics:
        metric = make_text_metric(name, **options)
        if bootstrap:
            # Not corpus_score(n_bootstrap=...): its mean fails where numpy's floats and Python's meet.
            signature, (found,) = metric.paired_test({"": hypotheses}, references, "bootstrap", bootstrap)
            interval = {"mean": float(found.mean), "half_width": float(found.ci), "level": 0.95}
            scores |= {name: float(found.score), f"{name}_signature": signature}
            scores[f"{name}_interval"] = interval | {"samples": bootstrap, "seed": check_seed()}
        else:
            scores[name], scores[f"{name}_signature"] = metric.score(hypotheses, references)
    for name, spec in metrics_for(TEXT).items():
        if spec.function and not spec.signed:
            scores[name] = spec.resolve()(hypotheses, references, options.get("lowercase", False))
    return scores


def score_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each score's title, and its value, interval and signature as text; for `aligned`."""
    rows = []
    for name, spec in metrics_for(TEXT).items():
        if spec.function is None or name not in scores:
            continue
        if spec.signed:
            value = spec.show(scores[name])
            if interval := scores.get(f"{name}_interval"):
                value += f"   {spec.show(interval['mean'])} ± {spec.show(interval['half_width'])}"
            rows.append((spec.title, f"{value}   {scores[f'{name}_signature']}"))
        else:
            rows.append((spec.title, f"{100 * scores[name]:.2f} %"))
    return rows


def aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return lines of a title and a text each, the texts below each other."""
    width = max((len(title) for title, _ in rows), default=0)
    return [f"{title:<{width}}  {text}" for title, text in rows]


def check_counts(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise ValueError unless there are hypotheses and every stream of references is as long."""
    if not references:
        raise ValueError("there are no references to score against")
    for stream in references:
        if len(hypotheses) != len(stream):
            raise ValueError(f"{len(hypotheses)} hypotheses but {len(stream)} references: give one for each sentence")
    if not hypotheses:
        raise ValueError("there are no sentences to score")
