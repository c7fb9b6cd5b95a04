"""Corpus chrF by sacreBLEU as an `evaluate` metric that loads from this folder without a network.

    python -c "import evaluate; m = evaluate.load('training/metrics/chrf'); \
        print(m.compute(predictions=['Hallo Welt .'], references=[['Hallo Welt .']]))"
"""

import datasets
import evaluate
from sacrebleu.metrics import CHRF

_DESCRIPTION = """chrF (Popović, 2015), the F-score of character n-grams over a corpus, as sacreBLEU computes
it; chrF2 by default."""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of str): one hypothesis for each sentence.
    references (list of str, or list of lists of str): one or, the same number for each sentence, several references.
    char_order (int): longest character n-gram. Default 6.
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


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Chrf(evaluate.Metric):
    """Corpus chrF with the sacreBLEU signature."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def _compute(
        self,
        predictions,
        references,
        char_order=CHRF.CHAR_ORDER,
        word_order=CHRF.WORD_ORDER,
        beta=CHRF.BETA,
        lowercase=False,
        whitespace=False,
        eps_smoothing=False,
    ):
        chrf = CHRF(char_order, word_order, beta, lowercase, whitespace, eps_smoothing)
        result = chrf.corpus_score(predictions, _streams(references))
        return {
            "score": result.score,
            "char_order": result.char_order,
            "word_order": result.word_order,
            "beta": result.beta,
            "signature": str(chrf.get_signature()),
        }


# Stands in bleu.py too: `evaluate` copies one file, so a metric can import nothing beside it.
def _streams(references):
    """Turn references by sentence into sacreBLEU's by stream; ValueError where their numbers differ."""
    if isinstance(references[0], str):
        return [references]
    for number, group in enumerate(references):
        if len(group) != len(references[0]):
            raise ValueError(
                f"sentence {number} has {len(group)} references and sentence 0 has {len(references[0])}: "
                "give every sentence the same number of references"
            )
    return [list(stream) for stream in zip(*references, strict=True)]
