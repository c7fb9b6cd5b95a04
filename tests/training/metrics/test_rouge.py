"""ROUGE: the numbers of rouge-score, by hand, with references, languages, intervals and signature."""

from importlib import metadata

import pytest
from rouge_score.rouge_scorer import RougeScorer

from vaswani_tx.training.metrics.registry import BY_NAME, signed_metrics
from vaswani_tx.training.metrics.scoring import make_text_metric, score_translations

NAMES = [name for name in signed_metrics() if name.startswith("rouge")]
HYPOTHESES = ["The cats were running home.", "A man reads.\nHe is old.", "nothing alike"]
REFERENCES = ["The cat runs home", "A man is reading a book.\nHe is very old.", "quite different words"]
SECOND = ["Cats run home.", "The man reads.\nHe is old.", "all of it differs"]


@pytest.mark.parametrize("name", NAMES)
def test_english_is_scored_as_the_package_does(name):
    scores = score_translations(HYPOTHESES, REFERENCES, metrics=[name], language="en")
    scorer = RougeScorer([name], use_stemmer=True)
    pairs = zip(HYPOTHESES, REFERENCES, strict=True)
    expected = [scorer.score(reference, hypothesis)[name].fmeasure for hypothesis, reference in pairs]
    assert scores[name] == pytest.approx(100 * sum(expected) / 3) and 0 < scores[name] < 100
    both = score_translations(HYPOTHESES, REFERENCES, SECOND, metrics=[name], language="en")
    triples = zip(HYPOTHESES, REFERENCES, SECOND, strict=True)
    expected = [scorer.score_multi([one, other], text)[name].fmeasure for text, one, other in triples]
    assert both[name] == pytest.approx(100 * sum(expected) / 3) and both[name] > scores[name]


def test_by_hand():
    found = score_translations(["a b c"], ["a b d e"], metrics=["rouge1", "rouge2", "rougeL"], language="en")
    # Words: 2 of 3 and 2 of 4. Pairs: 1 of 2 and 1 of 3. The longest common subsequence is `a b`.
    assert found["rouge1"] == pytest.approx(100 * 2 * 2 / 7)
    assert found["rouge2"] == pytest.approx(100 * 2 * 1 / 5)
    assert found["rougeL"] == pytest.approx(100 * 2 * 2 / 7)


def test_other_languages_keep_their_letters_and_are_not_stemmed():
    # The package's own tokeniser sees `bung` and `gr` `e`, and its stemmer takes `Haus` for `Hau`.
    assert score_translations(["Übung"], ["bung"], metrics=["rouge1"], language="de")["rouge1"] == 0.0
    assert score_translations(["Hau"], ["Haus"], metrics=["rouge1"], language="de")["rouge1"] == 0.0
    assert score_translations(["ÜBUNG macht"], ["Übung, macht"], metrics=["rouge1"])["rouge1"] == pytest.approx(100)
    assert score_translations(["running"], ["runs"], metrics=["rouge1"], language="en")["rouge1"] == pytest.approx(100)


def test_the_signature_holds_words_stemmer_and_version():
    versions = f"|rouge-score:{metadata.version('rouge-score')}|version:{metadata.version('sacrebleu')}"
    scores = score_translations(HYPOTHESES, REFERENCES, metrics=["rouge1"], language="en")
    assert scores["rouge1_signature"] == f"nrefs:1|case:lc|tok:rouge-score|stem:porter{versions}"
    scores = score_translations(HYPOTHESES, REFERENCES, SECOND, metrics=["rouge1"], language="de")
    assert scores["rouge1_signature"] == f"nrefs:2|case:lc|tok:unicode|stem:no{versions}"


def test_intervals_and_paired_tests_of_means():
    count = 40
    worse = ["a b c d" if number % 2 else "a b x y" for number in range(count)]
    better = ["a b c d" if number % 4 else "a b x y" for number in range(count)]
    references = [["a b c d"] * count]
    metric = make_text_metric("rougeL", language="en")
    signature, (first, second) = metric.paired_test({"worse": worse, "better": better}, references, "bootstrap", 200)
    assert (first.score, second.score) == pytest.approx((75.0, 87.5))
    assert abs(first.mean - 75.0) < 2 and 0 < first.ci < 15 and second.p_value < 0.05
    assert signature.startswith("nrefs:1|bs:200|seed:12345|case:lc|")
    scores = score_translations(worse, *references, metrics=["rougeL"], bootstrap=200, language="en")
    assert scores["rougeL"] == pytest.approx(75.0) and scores["rougeL_interval"]["half_width"] == first.ci
    assert BY_NAME["rougeL"].show(scores["rougeL"]) == "75.00"
