"""ROUGE (Lin 2004) by the package rouge-score: F-measure of words, pairs of words, or longest common subsequences.

The score of a test set is the mean over its texts, times 100, of several references the best one. For English it is
what `run_summarization` of transformers reports: letters and digits of lowercased text, Porter's stemmer (that script
takes a mean of resamples, which may differ in the second decimal). The package's tokeniser knows only ASCII letters
and its stemmer only English: texts of other languages are split into words by Unicode and not stemmed. ROUGE-Lsum
takes each line of a text for a sentence; of a single line it is ROUGE-L.
"""

import re
from functools import partial
from importlib import metadata

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from vaswani_tx.training.metrics.sentence_means import SentenceMean
from vaswani_tx.training.metrics.text_metrics import TextMetric, TextOptions


class UnicodeWords(Tokenizer):
    """Lowercased words of any script."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return re.findall(r"\w+", text.lower())


def rouge(name: str, options: TextOptions) -> TextMetric:
    """Return the ROUGE that the package calls `name`."""
    english = options.language.lower().split("-")[0] == "en"
    scorer = RougeScorer([name], use_stemmer=True, tokenizer=None if english else UnicodeWords())
    facts = {"case": "lc", "tok": "rouge-score" if english else "unicode", "stem": "porter" if english else "no"}
    facts["rouge-score"] = metadata.version("rouge-score")

    def f_measure(hypothesis: str, reference: str) -> float:
        return scorer.score(reference, hypothesis)[name].fmeasure

    return TextMetric(name, SentenceMean(name, f_measure, facts))


rouge1, rouge2, rougeL, rougeLsum = (partial(rouge, name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"))
