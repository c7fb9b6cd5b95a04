"""Corpus chrF by sacreBLEU as an `evaluate` metric that loads from its path without a network.

    python -c "import evaluate; m = evaluate.load('training/metrics/chrf.py'); \
        print(m.compute(predictions=['Hallo Welt .'], references=[['Hallo Welt .']]))"
"""

from sacrebleu.metrics import CHRF

from .texts import SacreBleuModule, info

_DESCRIPTION = """chrF (Popović, 2015), the F-score of character n-grams over a corpus, as sacreBLEU computes
it; chrF2 by default."""

_ARGUMENTS = """    char_order (int): longest character n-gram. Default 6.
    word_order (int): longest word n-gram; 2 gives chrF++. Default 0.
    beta (int): weight of recall against precision. Default 2.
    lowercase (bool): compare without regard to case. Default False.
    whitespace (bool): count spaces as characters. Default False.
    eps_smoothing (bool): smooth as NLTK and Moses do instead of leaving out empty orders. Default False.

Returns:
    score, char_order, word_order, beta, signature.
"""

_CITATION = """@inproceedings{popovic-2015-chrf,
    title = "chr{F}: character n-gram {F}-score for automatic {MT} evaluation",
    author = "Popovi{\\'c}, Maja",
    booktitle = "Proceedings of the Tenth Workshop on Statistical Machine Translation",
    year = "2015"
}"""


class Chrf(SacreBleuModule):
    """Corpus chrF with the sacreBLEU signature."""

    metric = CHRF
    returned = ("score", "char_order", "word_order", "beta")

    def _info(self):
        return info(_DESCRIPTION, _ARGUMENTS, _CITATION)
