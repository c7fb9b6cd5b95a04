"""Scores of test sets: sacreBLEU's own numbers, the older BLEU against a plain reference, intervals, files."""

import json
import math
from collections import Counter
from functools import partial

import pytest
import sacremoses
from sacrebleu.metrics import BLEU, CHRF, TER

from vaswani_tx.training.metrics import load_metric
from vaswani_tx.training.metrics.moses import compound_split, tokenised_lowercase
from vaswani_tx.training.metrics.registry import signed_metrics
from vaswani_tx.training.metrics.scoring import aligned, make_text_metric, score_rows, score_translations

HYPOTHESES = ["Der Hund läuft schnell nach Hause.", "Eine Frau liest ein Rich-Text-Buch", "Das ist gut!", "Ein Hund."]
REFERENCES = ["Der Hund rannte schnell nach Hause.", "Eine Frau liest ein Rich-Text-Heft", "das ist gut!", "Ende."]
SECOND = ["Der Hund läuft heim.", "Die Frau liest ein Buch", "Das ist schön!", "Schluss."]


def plain_bleu(hypotheses, *streams):
    """BLEU of tokens separated by spaces as Papineni et al. (2002) define it, without smoothing; the reference."""
    matches, totals, length, reference_length = [0] * 4, [0] * 4, 0, 0
    for hypothesis, *references in zip(hypotheses, *streams, strict=True):
        words = hypothesis.split(" ") if hypothesis else []
        groups = [reference.split(" ") if reference else [] for reference in references]
        length += len(words)
        reference_length += min((abs(len(group) - len(words)), len(group)) for group in groups)[1]
        for n in range(1, 5):
            grams = [Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for tokens in (words, *groups)]
            most = Counter()
            for counts in grams[1:]:
                most |= counts
            matches[n - 1] += sum((grams[0] & most).values())
            totals[n - 1] += sum(grams[0].values())
    if 0 in matches:
        return 0.0
    mean = sum(math.log(match / total) for match, total in zip(matches, totals, strict=True)) / 4
    return 100 * min(1.0, math.exp(1 - reference_length / length)) * math.exp(mean)


def test_every_score_with_its_signature():
    scores = score_translations(HYPOTHESES, REFERENCES, metrics=list(signed_metrics()))
    assert scores["bleu"] == BLEU().corpus_score(HYPOTHESES, [REFERENCES]).score
    assert scores["chrf"] == CHRF().corpus_score(HYPOTHESES, [REFERENCES]).score
    assert scores["ter"] == TER().corpus_score(HYPOTHESES, [REFERENCES]).score
    assert scores["exact_match"] == 0.0
    assert scores["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert scores["ter_signature"].startswith("nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:")
    moses = f"|smooth:none|sacremoses:{sacremoses.__version__}|version:"
    for name, head in (
        ("compound_split", "nrefs:1|case:mixed|eff:no|tok:ascii-moses-de-atat"),
        ("tokenised_lowercase", "nrefs:1|case:lc|eff:no|tok:norm-moses-de"),
    ):
        assert scores[f"bleu_{name}_signature"].startswith(head + moses)
    json.dumps(scores)


def test_lowercase_and_tokeniser_reach_the_scores():
    lower = score_translations(HYPOTHESES, REFERENCES, lowercase=True, tokenize="char")
    assert lower["bleu"] == BLEU(lowercase=True, tokenize="char").corpus_score(HYPOTHESES, [REFERENCES]).score
    assert lower["chrf"] == CHRF(lowercase=True).corpus_score(HYPOTHESES, [REFERENCES]).score
    assert lower["exact_match"] == 0.25
    assert "|case:lc|" in lower["bleu_signature"] and "|case:lc|" in lower["chrf_signature"]
    assert set(lower) == {"bleu", "bleu_signature", "chrf", "chrf_signature", "exact_match"}


def test_scores_equal_the_metric_modules():
    scores = score_translations(HYPOTHESES, REFERENCES, metrics=["bleu", "chrf", "ter"], lowercase=True)
    inputs = {"predictions": HYPOTHESES, "references": REFERENCES}
    assert load_metric("bleu").compute(**inputs, lowercase=True)["score"] == scores["bleu"]
    assert load_metric("chrf").compute(**inputs, lowercase=True)["score"] == scores["chrf"]
    assert load_metric("ter").compute(**inputs)["score"] == scores["ter"]
    assert load_metric("exact_match").compute(**inputs, ignore_case=True)["exact_match"] == scores["exact_match"]


def test_several_references():
    scores = score_translations(HYPOTHESES, REFERENCES, SECOND, metrics=list(signed_metrics()), lowercase=True)
    assert scores["bleu"] == BLEU(lowercase=True).corpus_score(HYPOTHESES, [REFERENCES, SECOND]).score
    assert scores["ter"] == TER().corpus_score(HYPOTHESES, [REFERENCES, SECOND]).score
    assert all(scores[f"{name}_signature"].startswith("nrefs:2|") for name in signed_metrics())
    both = compound_split(HYPOTHESES), compound_split(REFERENCES), compound_split(SECOND)
    assert scores["bleu_compound_split"] == pytest.approx(plain_bleu(*both), rel=1e-12)
    assert score_translations(["b"], ["a"], ["b"])["exact_match"] == 1.0


@pytest.mark.parametrize("language", ["de", "en"])
@pytest.mark.parametrize("prepare", [compound_split, tokenised_lowercase])
def test_older_bleu_equals_the_plain_reference(prepare, language):
    name = f"bleu_{prepare.__name__}"
    scores = score_translations(HYPOTHESES, REFERENCES, metrics=[name], language=language)
    expected = plain_bleu(prepare(HYPOTHESES, language), prepare(REFERENCES, language))
    assert 0 < expected < 100
    assert scores[name] == pytest.approx(expected, rel=1e-12)
    # Neither sacreBLEU's tokens nor the other form's give this number.
    assert score_translations(HYPOTHESES, REFERENCES)["bleu"] != pytest.approx(expected, abs=0.5)


def test_older_bleu_by_hand():
    score = partial(score_translations, metrics=["bleu_compound_split", "bleu_tokenised_lowercase"])
    # Ein Rich ##AT##-##AT## Text ##AT##-##AT## Buch: of the 6, 5, 4 and 3 n-grams all but the last match.
    found = score(["Ein Rich-Text-Buch"], ["Ein Rich-Text-Heft"])
    assert found["bleu_compound_split"] == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4))
    assert found["bleu_tokenised_lowercase"] == 0.0
    # the cat sat on the mat / the cat sat on a mat: 5 of 6, 3 of 5, 2 of 4, 1 of 3.
    found = score(["The Cat sat on the mat"], ["the cat sat on a mat"])
    assert found["bleu_tokenised_lowercase"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))
    assert found["bleu_compound_split"] == 0.0
    # Brevity penalty: 5 tokens for 6, all of them right.
    found = score(["der hund ist da ,"], ["der hund ist da , ja"])
    assert found["bleu_compound_split"] == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_without_a_matching_four_gram_the_older_forms_are_zero_and_bleu_is_smoothed():
    scores = score_translations(["a b c x y z"], ["a b c d e f"], metrics=list(signed_metrics()), bootstrap=3)
    assert scores["bleu_compound_split"] == scores["bleu_tokenised_lowercase"] == 0.0
    assert scores["bleu_compound_split_interval"]["mean"] == 0.0
    assert scores["bleu"] > 5


@pytest.mark.parametrize(("name", "scorer"), [("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())])
def test_interval_is_sacrebleus(name, scorer, monkeypatch):
    hypotheses, references = HYPOTHESES[:3] * 4, REFERENCES[:3] * 4
    scores = score_translations(hypotheses, references, metrics=[name], bootstrap=80)
    expected = scorer.corpus_score(hypotheses, [references], n_bootstrap=80)
    interval = scores[f"{name}_interval"]
    assert scores[name] == expected.score
    assert interval["mean"] == pytest.approx(expected._mean, rel=1e-6)
    assert interval["half_width"] == pytest.approx(expected._ci, rel=1e-6) and expected._ci > 0
    assert {key: interval[key] for key in ("level", "samples", "seed")} == {"level": 0.95, "samples": 80, "seed": 12345}
    assert "nrefs:1|bs:80|seed:12345|" in scores[f"{name}_signature"]
    assert score_translations(hypotheses, references, metrics=[name], bootstrap=80) == scores, "the seed is fixed"
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    other = score_translations(hypotheses, references, metrics=[name], bootstrap=80)
    assert other[f"{name}_interval"]["seed"] == 7 and "|seed:7|" in other[f"{name}_signature"]
    assert other[f"{name}_interval"]["mean"] != interval["mean"]


def test_interval_where_some_resamples_have_no_match():
    """sacreBLEU's own n_bootstrap mixes two kinds of floats here, and its mean fails."""
    scores = score_translations(["a b", "x"], ["a b", ""], metrics=["ter", "chrf"], bootstrap=50)
    assert 0 < scores["chrf_interval"]["mean"] < 100
    assert 0 < scores["ter_interval"]["mean"] <= 100


@pytest.mark.parametrize("seed", ["none", "0", "-3", "x", ""])
def test_seed_that_is_none_is_refused(seed, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    with pytest.raises(ValueError, match=f"SACREBLEU_SEED is '{seed}'"):
        score_translations(HYPOTHESES, REFERENCES, bootstrap=10)
    assert score_translations(HYPOTHESES, REFERENCES)["bleu"] > 0, "without a draw no seed is needed"


def test_scoring_twice_keeps_nothing_of_the_first():
    first = score_translations(HYPOTHESES, REFERENCES)
    score_translations(["x"], ["y"])
    assert score_translations(HYPOTHESES, REFERENCES) == first


def test_rows_name_every_score_and_are_aligned():
    scores = score_translations(HYPOTHESES, REFERENCES, metrics=["bleu", "bleu_compound_split"], bootstrap=10)
    bleu, split, exact = aligned(score_rows(scores))
    interval = scores["bleu_interval"]
    value = f"{scores['bleu']:.2f}   {interval['mean']:.2f} ± {interval['half_width']:.2f}"
    assert bleu == f"BLEU                   {value}   {scores['bleu_signature']}"
    assert split.startswith(f"BLEU, compounds split  {scores['bleu_compound_split']:.2f}   ")
    assert exact == "exact match            0.00 %"


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="4 hypotheses but 3 references"):
        score_translations(HYPOTHESES, REFERENCES, REFERENCES[:3])
    with pytest.raises(ValueError, match="no sentences"):
        score_translations([], [])
    with pytest.raises(ValueError, match="no references"):
        score_translations(["a"])
    with pytest.raises(ValueError, match=r"no score 'blue': choose one of bleu, chrf, ter, bleu_compound_split"):
        score_translations(HYPOTHESES, REFERENCES, metrics=["blue"])
    with pytest.raises(ValueError, match=r"no tokeniser '13b': choose one of none, zh, 13a"):
        make_text_metric("bleu", tokenize="13b")
    with pytest.raises(ValueError, match=r"no rules for 'xx'"):
        score_translations(HYPOTHESES, REFERENCES, metrics=["bleu_compound_split"], language="xx")
