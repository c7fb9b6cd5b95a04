"""Corpus BLEU by sacreBLEU as an `evaluate` metric that loads from its path without a network.

    python -c "import evaluate; m = evaluate.load('training/metrics/bleu.py'); \
        print(m.compute(predictions=['Hallo Welt .'], references=[['Hallo Welt .']]))"
"""

from sacrebleu.metrics import BLEU

from .texts import SacreBleuModule, info

_DESCRIPTION = """BLEU (Papineni et al., 2002) over a corpus, as sacreBLEU computes it (Post, 2018): the texts are plain
and detokenised, and the signature says everything that another needs to get the same number."""

_ARGUMENTS = """    lowercase (bool): compare without regard to case. Default False.
    tokenize (str or None): sacreBLEU's tokeniser ("13a", "intl", "char", "none", ...). None: "13a".
    smooth_method (str): "exp", "floor", "add-k" or "none". Default "exp".
    smooth_value (float or None): the value for "floor" and "add-k".
    use_effective_order (bool): leave out n-gram orders without a match; meant for single sentences. Default False.
    force (bool): do not warn about text that looks tokenised. Default False.

Returns:
    score, counts, totals, precisions (1- to 4-grams), bp (brevity penalty), sys_len, ref_len, signature.
"""

_CITATION = """@inproceedings{post-2018-call,
    title = "A Call for Clarity in Reporting {BLEU} Scores",
    author = "Post, Matt",
    booktitle = "Proceedings of the Third Conference on Machine Translation: Research Papers",
    year = "2018"
}"""


class Bleu(SacreBleuModule):
    """Corpus BLEU with the sacreBLEU signature."""

    metric = BLEU
    returned = ("score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len")
    renamed = {"use_effective_order": "effective_order"}

    def _info(self):
        return info(_DESCRIPTION, _ARGUMENTS, _CITATION)
