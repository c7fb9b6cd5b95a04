"""Metrics of generated texts with signatures: sacreBLEU's BLEU, chrF and TER, and the two older tokenised BLEU scores.

Each number is sacreBLEU's on plain text; a `TextMetric` names what is done to the sentences first, if anything:

- `bleu`, `chrf`, `ter`: sacreBLEU unchanged (Post 2018). TER counts errors: lower is better.
- `bleu_compound_split`: the tokenised BLEU of the paper's WMT14 results, hyphenated compounds split.
- `bleu_tokenised_lowercase`: the tokenised BLEU of Multi30k's results, lowercased, punctuation normalised.

The last two are BLEU without smoothing (`multi-bleu.perl`): 0 where no 4-gram of the test set matches.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest

METHODS = {"bootstrap": "bs", "randomization": "ar"}


@dataclass(frozen=True)
class TextOptions:
    """What the user chooses of metrics of texts.

    Args:
        lowercase: compare without regard to case; TER and ROUGE always ignore it, the compound-split BLEU never does.
        tokenize: sacreBLEU's tokeniser for `bleu`; None: "13a".
        language: of the target: for the Moses tokeniser of the two older BLEU scores, and for ROUGE's stemmer.
    """

    lowercase: bool = False
    tokenize: str | None = None
    language: str = "de"


@dataclass(frozen=True)
class TextMetric:
    """A metric with its options: the score, the preparation of every sentence, and the signature."""

    name: str
    metric: Metric
    preparation: str | None = None
    language: str = "de"

    def prepare(self, sentences: Sequence[str]) -> list[str]:
        """Return the prepared sentences, one for each."""
        if self.preparation is None:
            return list(sentences)
        # sacremoses is loaded only where a metric needs it.
        from vaswani_tx.training.metrics import moses

        return getattr(moses, self.preparation)(sentences, self.language)

    def signature(self, found: Any) -> str:
        """Return sacreBLEU's signature, with the true tokens and case of prepared sentences."""
        if self.preparation is not None:
            import sacremoses

            lower = self.preparation == "tokenised_lowercase"
            found.update("case", "lc" if lower else "mixed")
            found.update("tok", f"norm-moses-{self.language}" if lower else f"ascii-moses-{self.language}-atat")
            found.update("sacremoses", sacremoses.__version__)
        return str(found)

    def score(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, str]:
        """Return the score of a test set and its signature."""
        found = self.metric.corpus_score(self.prepare(hypotheses), [self.prepare(stream) for stream in references])
        return float(found.score), self.signature(self.metric.get_signature())

    def paired_test(
        self, systems: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], method: str, samples: int
    ) -> tuple[str, list[Any]]:
        """Resample one or several systems, the first of them the baseline, by sacreBLEU; in this process, quietly.

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


def check_seed() -> int:
    """Return the seed of sacreBLEU's random draws; ValueError where SACREBLEU_SEED makes them differ between runs."""
    text = os.environ.get("SACREBLEU_SEED", "12345")
    # sacreBLEU's paired test takes 0 for "no seed".
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"SACREBLEU_SEED is {text!r}: set it to a whole number above 0, or leave it out for 12345")
    return int(text)


def bleu(options: TextOptions) -> TextMetric:
    """Return BLEU; ValueError for a tokeniser that sacreBLEU does not have or cannot use."""
    tokenize = options.tokenize
    if tokenize is not None and tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"sacreBLEU has no tokeniser {tokenize!r}: choose one of {', '.join(BLEU.TOKENIZERS)}")
    try:
        return TextMetric("bleu", BLEU(lowercase=options.lowercase, tokenize=tokenize, force=True))
    except RuntimeError as error:  # Japanese and Korean need more packages
        raise ValueError(
            f"sacreBLEU's tokeniser {tokenize!r} cannot be used: {' '.join(str(error).split())}"
        ) from error


def chrf(options: TextOptions) -> TextMetric:
    """Return chrF."""
    return TextMetric("chrf", CHRF(lowercase=options.lowercase))


def ter(options: TextOptions) -> TextMetric:
    """Return TER."""
    return TextMetric("ter", TER())


def bleu_compound_split(options: TextOptions) -> TextMetric:
    """Return the tokenised BLEU of the paper."""
    return _multi_bleu("compound_split", options)


def bleu_tokenised_lowercase(options: TextOptions) -> TextMetric:
    """Return the tokenised BLEU of Multi30k's results."""
    return _multi_bleu("tokenised_lowercase", options)


def _multi_bleu(preparation: str, options: TextOptions) -> TextMetric:
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    return TextMetric(f"bleu_{preparation}", metric, preparation, options.language)


def exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool = False) -> float:
    """Return the share of hypotheses equal to one of their references, spaces at the ends aside."""
    return count_matches(hypotheses, list(zip(*references, strict=True)), lowercase) / len(hypotheses)


def count_matches(hypotheses: Sequence[str], groups: Sequence[Sequence[str]], lowercase: bool = False) -> int:
    """Return how many hypotheses equal one of the references in their group."""

    def normal(sentence: str) -> str:
        return sentence.strip().casefold() if lowercase else sentence.strip()

    pairs = zip(hypotheses, groups, strict=True)
    return sum(normal(hypothesis) in map(normal, group) for hypothesis, group in pairs)
