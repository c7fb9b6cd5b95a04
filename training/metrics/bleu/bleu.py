"""Corpus BLEU by sacreBLEU as an `evaluate` metric that loads from this folder without a network.

    python -c "import evaluate; m = evaluate.load('training/metrics/bleu'); \
        print(m.compute(predictions=['Hallo Welt .'], references=[['Hallo Welt .']]))"
"""

import datasets
import evaluate
from sacrebleu.metrics import BLEU

_DESCRIPTION = """BLEU (Papineni et al., 2002) over a corpus, as sacreBLEU computes it (Post, 2018): the texts are plain
and detokenised, and the signature says everything that another needs to get the same number."""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of str): one hypothesis for each sentence.
    references (list of str, or list of lists of str): one or, the same number for each sentence, several references.
    lowercase (bool): compare without regard to case. Default False.
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


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Bleu(evaluate.Metric):
    """Corpus BLEU with the sacreBLEU signature."""

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
        lowercase=False,
        tokenize=None,
        smooth_method="exp",
        smooth_value=None,
        use_effective_order=False,
        force=False,
    ):
        bleu = BLEU(
            lowercase=lowercase,
            force=force,
            tokenize=tokenize,
            smooth_method=smooth_method,
            smooth_value=smooth_value,
            effective_order=use_effective_order,
        )
        result = bleu.corpus_score(predictions, _streams(references))
        return {
            "score": result.score,
            "counts": result.counts,
            "totals": result.totals,
            "precisions": result.precisions,
            "bp": result.bp,
            "sys_len": result.sys_len,
            "ref_len": result.ref_len,
            "signature": str(bleu.get_signature()),
        }


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
