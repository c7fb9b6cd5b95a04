"""Scores of whole test sets: BLEU, chrF, TER, the two older tokenised BLEU forms, exact match, with their signatures.

`score_translations` is what evaluation, validation and the demonstration share, `score_rows` how they print it. Each
number is sacreBLEU's on plain text; a `MetricSpec` says what is done to the sentences first where that is not nothing:

- `bleu`, `chrf`, `ter`: sacreBLEU as it is (Post 2018). TER counts errors: lower is better.
- `bleu_compound_split`: the tokenised BLEU of the paper's WMT14 results, hyphenated compounds split.
- `bleu_tokenised_lowercase`: the tokenised BLEU of Multi30k's results, lowercased, punctuation normalised.

The last two are BLEU without smoothing (`multi-bleu.perl`): 0 where no 4-gram of the test set matches.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest

from vaswani_tx.training.errors import DataError

METRIC_SPECS = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "bleu_compound_split": "BLEU, compounds split",
    "bleu_tokenised_lowercase": "BLEU, tokenised lowercase",
}
LOWER_IS_BETTER = {"ter"}
METHODS = {"bootstrap": "bs", "randomization": "ar"}


@dataclass(frozen=True)
class MetricSpec:
    """One way to a score: the metric that counts, what happens to every sentence before, how the signature says it."""

    name: str
    metric: Metric
    preparation: str | None = None
    language: str = "de"

    def prepare(self, sentences: Sequence[str]) -> list[str]:
        """The sentences as the metric is to see them, one for one."""
        if self.preparation is None:
            return list(sentences)
        # sacremoses is loaded only where a form asks for it.
        from vaswani_tx.training.metrics import moses

        return getattr(moses, self.preparation)(sentences, self.language)

    def signature(self, found: Any) -> str:
        """sacreBLEU's signature, with the true tokens and case of prepared sentences."""
        if self.preparation is not None:
            import sacremoses

            lower = self.preparation == "tokenised_lowercase"
            found.update("case", "lc" if lower else "mixed")
            found.update("tok", f"norm-moses-{self.language}" if lower else f"ascii-moses-{self.language}-atat")
            found.update("sacremoses", sacremoses.__version__)
        return str(found)

    def paired_test(
        self, systems: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], method: str, samples: int
    ) -> tuple[str, list[Any]]:
        """sacreBLEU's resampling of one or several systems, the first of them the baseline; in this process, quietly.

        Returns the signature and for each system a result with `score`, `mean` and `ci` (bootstrap), `p_value` (not
        for the baseline). `method` is `bootstrap` or `randomization`. ValueError for an unusable seed.
        """
        check_seed()
        prepared = [(name, self.prepare(lines)) for name, lines in systems.items()]
        streams = [self.prepare(stream) for stream in references]
        test = PairedTest(prepared, {self.name: self.metric}, streams, METHODS[method], n_samples=samples)
        signatures, columns = test()
        (title,) = signatures
        return self.signature(signatures[title]), columns[title]


def make_metric_spec(
    name: str, *, lowercase: bool = False, tokenize: str | None = None, language: str = "de"
) -> MetricSpec:
    """Return a form by name (a key of METRIC_SPECS); ValueError for an unknown name or sacreBLEU tokeniser.

    Args:
        name: which form.
        lowercase: compare without regard to case; TER never regards it, the compound-split form always.
        tokenize: sacreBLEU's tokeniser for `bleu`; None: "13a".
        language: of the target, for the Moses tokeniser of the two older forms.
    """
    if name == "bleu":
        if tokenize is not None and tokenize not in BLEU.TOKENIZERS:
            raise ValueError(f"sacreBLEU has no tokeniser {tokenize!r}: choose one of {', '.join(BLEU.TOKENIZERS)}")
        try:
            return MetricSpec(name, BLEU(lowercase=lowercase, tokenize=tokenize, force=True))
        except RuntimeError as error:  # Japanese and Korean need more packages
            raise ValueError(
                f"sacreBLEU's tokeniser {tokenize!r} cannot be used: {' '.join(str(error).split())}"
            ) from error
    if name == "chrf":
        return MetricSpec(name, CHRF(lowercase=lowercase))
    if name == "ter":
        return MetricSpec(name, TER())
    if name in METRIC_SPECS:
        as_multi_bleu = BLEU(tokenize="none", smooth_method="none", force=True)
        return MetricSpec(name, as_multi_bleu, name.removeprefix("bleu_"), language)
    raise ValueError(f"there is no score {name!r}: choose one of {', '.join(METRIC_SPECS)}")


def score_translations(
    hypotheses: Sequence[str],
    *references: Sequence[str],
    metrics: Sequence[str] = ("bleu", "chrf"),
    bootstrap: int = 0,
    lowercase: bool = False,
    tokenize: str | None = None,
    language: str = "de",
) -> dict[str, Any]:
    """Score plain detokenised sentences against one or several references each.

    Args:
        hypotheses: the translations.
        references: one sequence of sentences, or several, each as long as the hypotheses.
        metrics: which scores, keys of METRIC_SPECS.
        bootstrap: resamples of the test set for a 95 % confidence interval of every score; 0: none.
        lowercase, tokenize, language: see `make_metric_spec`.

    Returns each form's score (0 to 100; TER may be more) under its name, its `..._signature`, with `bootstrap` its
    `..._interval` (`mean`, `half_width`, `level`, `samples`, `seed`), and `exact_match` (0 to 1).
    ValueError if the numbers of sentences differ or are zero.
    """
    check_counts(hypotheses, references)
    scores: dict[str, Any] = {}
    for name in metrics:
        form = make_metric_spec(name, lowercase=lowercase, tokenize=tokenize, language=language)
        if bootstrap:
            # Not corpus_score(n_bootstrap=...): its mean fails where numpy's floats and Python's meet.
            signature, (found,) = form.paired_test({"": hypotheses}, references, "bootstrap", bootstrap)
        else:
            found = form.metric.corpus_score(form.prepare(hypotheses), [form.prepare(stream) for stream in references])
            signature = form.signature(form.metric.get_signature())
        scores |= {name: float(found.score), f"{name}_signature": signature}
        if bootstrap:
            interval = {"mean": float(found.mean), "half_width": float(found.ci), "level": 0.95}
            scores[f"{name}_interval"] = interval | {"samples": bootstrap, "seed": check_seed()}
    scores["exact_match"] = _exact_match(hypotheses, references, lowercase)
    return scores


def score_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Each score's title, and its value, interval and signature as text; for `aligned`."""
    rows = []
    for name, title in METRIC_SPECS.items():
        if name in scores:
            value = f"{scores[name]:.2f}"
            if interval := scores.get(f"{name}_interval"):
                value += f"   {interval['mean']:.2f} ± {interval['half_width']:.2f}"
            rows.append((title, f"{value}   {scores[f'{name}_signature']}"))
    rows.append(("exact match", f"{100 * scores['exact_match']:.2f} %"))
    return rows


def aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of a title and a text each, the texts below each other."""
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


def check_seed() -> int:
    """The seed of sacreBLEU's random draws; ValueError where SACREBLEU_SEED makes them differ from run to run."""
    text = os.environ.get("SACREBLEU_SEED", "12345")
    # sacreBLEU's paired test takes 0 for "no seed".
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"SACREBLEU_SEED is {text!r}: set it to a whole number above 0, or leave it out for 12345")
    return int(text)


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file, blank ones too, parted at \\n alone; DataError names a file that is none."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: {'this is a folder' if path.is_dir() else 'there is no such file'}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: this is not UTF-8. Convert the file, with `iconv -t UTF-8` for example."
        ) from None
    # Not str.splitlines: it also parts at U+2028, U+0085, form feeds and the like, which stand inside sentences.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool) -> float:
    def normal(sentence: str) -> str:
        return sentence.strip().casefold() if lowercase else sentence.strip()

    right = sum(
        normal(hypothesis) in map(normal, group) for hypothesis, *group in zip(hypotheses, *references, strict=True)
    )
    return right / len(hypotheses)
