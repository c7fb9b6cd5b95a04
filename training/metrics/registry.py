"""The registry of metrics: name, title, direction, number format and function of each, and the tasks that it fits.

Everything that names, sorts, prints, plots or chooses by a metric reads this table: `--metrics`, `best_by`, the line of
a validation, the report's columns and curves, the sweep's table, the comparison, the model card. To add a metric, add
one entry to `METRICS` (and its function to a file of this folder). Importing this module loads nothing but itself.

A function is named as `file:function`, a file of this folder, and is called as the family of its tasks asks:

- `TEXT`: `function(options) -> TextMetric` (see text_metrics.py), or, of an unsigned metric,
  `function(hypotheses, references, lowercase) -> float`;
- `CLASSIFICATION`: `function(predicted, true, classes)`, two lists of class numbers and how many classes there are;
- `MULTI_LABEL`: `function(predicted, true)`, two arrays [N, C] of 0 and 1;
- `REGRESSION`: `function(predicted, true)`, two lists of numbers;
- `TAGGING`: `function(predicted, true, names)`, the sentences' tags twice, and all tags; None where it has no meaning;
- `QUESTION_ANSWERING`: `function(predicted, references)`, answers and the lists of right ones.

Metrics without a function come from the task itself: the loss of the model's forward pass and what follows from it, or
scores that need more than predictions and references, such as the brackets of trees.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

TEXT, CAUSAL_LM, MASKED_LM = "text", "causal_lm", "masked_lm"
CLASSIFICATION, MULTI_LABEL, REGRESSION = "classification", "multi_label", "regression"
TAGGING, QUESTION_ANSWERING, IMAGES = "tagging", "question_answering", "image_classification"
PARSING = "parsing"
FAMILIES = (
    TEXT, CAUSAL_LM, MASKED_LM, CLASSIFICATION, MULTI_LABEL, REGRESSION, TAGGING, QUESTION_ANSWERING, IMAGES, PARSING,
)  # fmt: skip


@dataclass(frozen=True)
class MetricSpec:
    """One metric of some families of tasks.

    Args:
        name: key in recipes, flags and files of scores.
        title: name in tables and lines of output.
        families: the tasks that it fits.
        function: what computes it, `file:function`; None: the forward pass of the model.
        higher_is_better: direction.
        number: format of a value.
        precise: format in tables of final results, where it differs.
        published: format of published numbers beside ours in a sweep's table; empty: as they are given.
        scale: `percent` (0 to 100), `share` (0 to 1, correlations from -1) or `open`: which curves share a plot.
        unit: of an open scale, for its plot.
        log: plotted on a logarithmic scale.
        signed: scores carry a signature, and bootstrap intervals and paired tests can be made.
        in_line: shown in the one-line summary of a validation.
        column: short title for the head of a table; empty: the title.
        card_title: title in a model card, for readers without context; empty: the title.
    """

    name: str
    title: str
    families: tuple[str, ...]
    function: str | None = None
    higher_is_better: bool = True
    number: str = ".4f"
    precise: str = ""
    published: str = ""
    scale: Literal["percent", "share", "open"] = "share"
    unit: str = ""
    log: bool = False
    signed: bool = False
    in_line: bool = True
    column: str = ""
    card_title: str = ""

    def show(self, value: float) -> str:
        """Return a value as text."""
        return format(value, self.number)

    def show_precisely(self, value: float) -> str:
        """Return a value as text for a table of final results."""
        return format(value, self.precise or self.number)

    def resolve(self) -> Callable[..., Any]:
        """Import and return the function; ValueError for a metric that the model's forward pass gives."""
        if self.function is None:
            raise ValueError(f"{self.title} has no function of its own: it comes from the loss of the model")
        file, _, name = self.function.partition(":")
        return getattr(importlib.import_module(f"{__package__}.{file}"), name)


def _signed(name: str, title: str, function: str, **settings: Any) -> MetricSpec:
    """Return the entry of a metric of texts from 0 to 100 that has a signature."""
    return MetricSpec(name, title, (TEXT,), function, number=".2f", scale="percent", signed=True, **settings)


def _brackets(name: str, title: str) -> MetricSpec:
    """Return the entry of a score of trees from 0 to 100, as evalb prints it."""
    return MetricSpec(name, title, (PARSING,), number=".2f", scale="percent")


METRICS = (
    MetricSpec("loss", "loss", FAMILIES, higher_is_better=False, scale="open", unit="nats"),
    MetricSpec(
        "perplexity", "perplexity", (TEXT, CAUSAL_LM, MASKED_LM, PARSING), higher_is_better=False, number=".2f",
        precise=".3f", published=".2f", scale="open", unit="per token", log=True, column="PPL",
    ),
    MetricSpec("bits_per_byte", "bits per byte", (CAUSAL_LM,), higher_is_better=False, scale="open"),
    _signed("bleu", "BLEU", "text_metrics:bleu"),
    _signed("chrf", "chrF", "text_metrics:chrf"),
    _signed("ter", "TER", "text_metrics:ter", higher_is_better=False, card_title="TER (lower is better)"),
    _signed(
        "bleu_compound_split", "BLEU, compounds split", "text_metrics:bleu_compound_split",
        card_title="BLEU, tokenised, compounds split (the paper's form)",
    ),
    _signed(
        "bleu_tokenised_lowercase", "BLEU, tokenised lowercase", "text_metrics:bleu_tokenised_lowercase",
        card_title="BLEU, tokenised, lowercased (Multi30k's form)",
    ),
    _signed("rouge1", "ROUGE-1", "rouge:rouge1"),
    _signed("rouge2", "ROUGE-2", "rouge:rouge2"),
    _signed("rougeL", "ROUGE-L", "rouge:rougeL"),
    _signed("rougeLsum", "ROUGE-Lsum", "rouge:rougeLsum"),
    MetricSpec("exact_match", "exact match", (TEXT,), "text_metrics:exact_match"),
    MetricSpec("accuracy", "accuracy", (CLASSIFICATION,), "classes:accuracy"),
    MetricSpec("accuracy", "accuracy", (TAGGING,), "spans:tag_accuracy"),
    MetricSpec("accuracy", "accuracy", (MASKED_LM, IMAGES)),
    MetricSpec("precision", "precision", (TAGGING,), "spans:tag_precision", in_line=False),
    MetricSpec("recall", "recall", (TAGGING,), "spans:tag_recall", in_line=False),
    MetricSpec("f1", "F1", (CLASSIFICATION,), "classes:macro_f1"),
    MetricSpec("f1", "F1", (MULTI_LABEL,), "classes:label_micro_f1"),
    MetricSpec("f1", "F1", (TAGGING,), "spans:tag_f1"),
    MetricSpec("f1", "F1", (IMAGES,)),
    _brackets("labelled_f1", "labelled F1"),
    _brackets("labelled_precision", "labelled precision"),
    _brackets("labelled_recall", "labelled recall"),
    _brackets("complete_match", "complete match"),
    MetricSpec("macro_f1", "macro F1", (MULTI_LABEL,), "classes:label_macro_f1", in_line=False),
    MetricSpec("macro_f1", "macro F1", (TAGGING,), "spans:tag_macro_f1", in_line=False),
    MetricSpec("weighted_f1", "weighted F1", (CLASSIFICATION,), "classes:weighted_f1", in_line=False),
    MetricSpec("matthews", "Matthews correlation", (CLASSIFICATION,), "classes:matthews", in_line=False),
    MetricSpec("exact_match", "exact match", (MULTI_LABEL,), "classes:all_labels_match"),
    MetricSpec("exact_match", "exact match", (QUESTION_ANSWERING,), "answers:answer_exact_match"),
    MetricSpec("f1", "F1", (QUESTION_ANSWERING,), "answers:answer_mean_f1"),
    MetricSpec(
        "mean_squared_error", "mean squared error", (REGRESSION,), "classes:mean_squared_error",
        higher_is_better=False, scale="open",
    ),
    MetricSpec("pearson", "Pearson correlation", (REGRESSION,), "classes:pearson", in_line=False),
    MetricSpec("spearman", "Spearman correlation", (REGRESSION,), "classes:spearman"),
)  # fmt: skip

# What chooses the best model of a task unless its recipe says otherwise.
MAIN_METRICS = {
    TEXT: "bleu", CAUSAL_LM: "loss", MASKED_LM: "loss", CLASSIFICATION: "accuracy", MULTI_LABEL: "f1",
    REGRESSION: "spearman", TAGGING: "f1", QUESTION_ANSWERING: "f1", IMAGES: "accuracy",
    PARSING: "labelled_f1",
}  # fmt: skip
# What a test set of texts is scored by unless a command names others.
DEFAULT_METRICS = ("bleu", "chrf", "ter")
# The metrics by name, in their order; where families share a name, they share title, direction and format, too.
BY_NAME: Mapping[str, MetricSpec] = {
    name: next(spec for spec in METRICS if spec.name == name) for name in dict.fromkeys(spec.name for spec in METRICS)
}


def metrics_for(family: str) -> dict[str, MetricSpec]:
    """Return the metrics of a family of tasks by name, in the order in which they are shown."""
    if family not in FAMILIES:
        raise ValueError(f"there is no family of tasks {family!r}: choose one of {', '.join(FAMILIES)}")
    return {spec.name: spec for spec in METRICS if family in spec.families}


def signed_metrics() -> dict[str, MetricSpec]:
    """Return the metrics of texts that can be chosen for a test set: those with a signature."""
    return {name: spec for name, spec in metrics_for(TEXT).items() if spec.signed}


def found_metrics(scores: Mapping[str, Any]) -> list[MetricSpec]:
    """Return the metrics for which there is a number among scores, in the order of the registry."""
    return [spec for name, spec in BY_NAME.items() if _is_number(scores.get(name))]


def card_titles() -> dict[str, str]:
    """Return the title of every metric as a model card shows it, by name."""
    return {name: spec.card_title or spec.title for name, spec in BY_NAME.items()}


def check_metric(name: str, family: str) -> MetricSpec:
    """Return the metric of that name; ValueError, naming those of the family, where it has none of that name."""
    known = metrics_for(family)
    if name not in known:
        raise ValueError(f"there is no metric {name!r} for this task: choose one of {', '.join(known)}")
    return known[name]


def score_predictions(family: str, *data: Any) -> dict[str, float]:
    """Score predictions by every metric of a family that has a function; see the head of this file for the arguments.

    Metrics that have no meaning for these data are left out.
    """
    found = {name: spec.resolve()(*data) for name, spec in metrics_for(family).items() if spec.function}
    return {name: float(value) for name, value in found.items() if value is not None}


def describe(scores: Mapping[str, Any]) -> str:
    """Return the scores of a validation as one line: the loss first, metrics of texts with their signature last."""
    signed = [spec for spec in found_metrics(scores) if spec.signed]
    apart = {"loss", "perplexity", *(spec.name for spec in signed)}
    first = [BY_NAME[name] for name in ("loss", "perplexity") if name in scores]
    others = [BY_NAME[name] for name in scores if name in BY_NAME and name not in apart and BY_NAME[name].in_line]
    text = ", ".join(f"{spec.title} {spec.show(scores[spec.name])}" for spec in [*first, *others, *signed])
    if signed:
        details = [f"beam {scores['beam']}"] if "beam" in scores else []
        details += [f"{scores['sentences']} sentences"] if "sentences" in scores else []
        signatures = (scores.get(f"{spec.name}_signature") for spec in signed)
        details += [signature for signature in signatures if signature][:1]
        text += f" ({', '.join(details)})" if details else ""
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
