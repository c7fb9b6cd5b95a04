"""Our `evaluate` metric modules give sacreBLEU's own numbers, load by path, and need no network."""

import json
import os
import subprocess
import sys

import evaluate
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF, TER

from tests.helpers import ROOT
from vaswani_tx.training.metrics import METRICS, load_metric
from vaswani_tx.training.metrics.moses import compound_split, split_compounds, tokenised_lowercase

HYPOTHESES = ["Der Hund läuft schnell nach Hause.", "Eine Frau liest ein Buch", "Das ist gut!", ""]
REFERENCES = ["Der Hund rannte schnell nach Hause.", "Eine Frau liest ein rotes Buch.", "das ist gut!", "Ende."]
SECOND = ["Der Hund läuft heim.", "Die Frau liest ein Buch", "Das ist schön!", "Schluss."]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lowercase": True},
        {"tokenize": "char"},
        {"tokenize": "intl"},
        {"smooth_method": "floor", "smooth_value": 0.1},
    ],
    ids=str,
)
def test_bleu_equals_sacrebleu(options):
    result = load_metric("bleu").compute(predictions=HYPOTHESES, references=REFERENCES, **options)
    scorer = BLEU(**options)
    expected = scorer.corpus_score(HYPOTHESES, [REFERENCES])
    assert result["score"] == expected.score
    assert 0 < result["score"] < 100
    for name in ("counts", "totals", "precisions", "bp", "sys_len", "ref_len"):
        assert result[name] == getattr(expected, name), name
    assert result["signature"] == str(scorer.get_signature())


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"lowercase": True}, {"beta": 1, "char_order": 4}], ids=str)
def test_chrf_equals_sacrebleu(options):
    result = load_metric("chrf").compute(predictions=HYPOTHESES, references=REFERENCES, **options)
    scorer = CHRF(**options)
    assert result["score"] == scorer.corpus_score(HYPOTHESES, [REFERENCES]).score
    assert result["signature"] == str(scorer.get_signature())


@pytest.mark.parametrize(
    "options", [{}, {"case_sensitive": True}, {"normalized": True, "no_punct": True}, {"asian_support": True}], ids=str
)
def test_ter_equals_sacrebleu(options):
    result = load_metric("ter").compute(predictions=HYPOTHESES, references=REFERENCES, **options)
    scorer = TER(**options)
    expected = scorer.corpus_score(HYPOTHESES, [REFERENCES])
    assert 0 < result["score"] < 100
    for name in ("score", "num_edits", "ref_length"):
        assert result[name] == getattr(expected, name), name
    assert result["signature"] == str(scorer.get_signature())


def test_ter_by_hand():
    """One word replaced, and two words moved at once: 2 edits for 8 reference words."""
    predictions, references = ["a b x d", "c d a b"], ["a b c d", "a b c d"]
    result = load_metric("ter").compute(predictions=predictions, references=references)
    assert (result["num_edits"], result["ref_length"], result["score"]) == (2, 8, 25.0)


@pytest.mark.parametrize(("name", "scorer"), [("bleu", BLEU), ("chrf", CHRF), ("ter", TER)])
def test_several_references_are_turned_the_right_way(name, scorer):
    groups = [list(pair) for pair in zip(REFERENCES, SECOND, strict=True)]
    result = load_metric(name).compute(predictions=HYPOTHESES, references=groups)
    assert result["score"] == scorer().corpus_score(HYPOTHESES, [REFERENCES, SECOND]).score
    assert "nrefs:2|" in result["signature"]
    with pytest.raises(ValueError, match=r"sentence 1 has 1 references and sentence 0 has 2"):
        load_metric(name).compute(predictions=HYPOTHESES[:2], references=[["a", "b"], ["c"]])


def test_exact_match_counts_equal_sentences():
    metric = load_metric("exact_match")
    predictions, references = ["a b", " c ", "D", "e"], ["a b", "c", "d", "f"]
    assert metric.compute(predictions=predictions, references=references) == {"exact_match": 0.5, "count": 2}
    found = metric.compute(predictions=predictions, references=references, ignore_case=True)
    assert found == {"exact_match": 0.75, "count": 3}
    assert metric.compute(predictions=["a"], references=[["b", "a"]])["exact_match"] == 1.0


def test_metric_adds_batches_as_evaluate_does():
    metric = load_metric("bleu")
    for hypothesis, reference in zip(HYPOTHESES, REFERENCES, strict=True):
        metric.add(prediction=hypothesis, reference=reference)
    assert metric.compute()["score"] == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rich-text", "rich ##AT##-##AT## text"),
        ("Ein Rich-Text-Feld .", "Ein Rich ##AT##-##AT## Text ##AT##-##AT## Feld ."),
        ("von 3 - 5 , - und - ja", "von 3 - 5 , - und - ja"),
        ("Haus- und Hof-", "Haus- und Hof-"),
        # A match uses up its neighbours, as in the script of the published numbers.
        ("U-S-A", "U ##AT##-##AT## S-A"),
        ("a--b", "a ##AT##-##AT## -b"),
        ("", ""),
    ],
)
def test_compounds_split(text, expected):
    assert split_compounds(text) == expected


def test_compound_split_tokenises_and_leaves_case():
    given = [
        "Er sagt: \u201eRich-Text\u201c, z.B. \u2026 & <b>!",
        "Am 3. Mai, 3,5 km.",
        "",
        "It\u2019s a\u00a0well-known dog's tail.",
    ]
    assert compound_split(given) == [
        'Er sagt : \u201e Rich ##AT##-##AT## Text " , z.B. ... & < b > !',
        "Am 3. Mai , 3,5 km .",
        "",
        "It ' s a well ##AT##-##AT## known dog ' s tail .",
    ]
    assert compound_split(given[3:], "en") == ["It 's a well ##AT##-##AT## known dog 's tail ."]


def test_tokenised_lowercase_normalises_and_leaves_compounds():
    given = ["Er sagt: \u201eRich-Text\u201c \u2013 ÄH \u2026", 'Das "Boot," (blau) : 5 %!', ""]
    assert tokenised_lowercase(given) == [
        'er sagt : " rich-text " - äh ...',
        'das " boot " , ( blau ) : 5 % !',
        "",
    ]
    assert tokenised_lowercase(['Say "Boat", now.'], "en") == ['say " boat , " now .']


@pytest.mark.parametrize("prepare", [compound_split, tokenised_lowercase])
def test_moses_without_rules_for_a_language_is_an_error(prepare):
    with pytest.raises(ValueError, match=r"no rules for 'german': choose one of as, .* de, "):
        prepare(["Hallo"], "german")


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"no metric 'blue'.*bleu, chrf, ter, exact_match"):
        load_metric("blue")


@pytest.mark.fresh
def test_every_metric_loads_by_path_with_every_connection_refused_and_an_empty_cache(tmp_path):
    script = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"a connection was tried: {args}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import evaluate
scores = {}
for path in sys.argv[1:]:
    metric = evaluate.load(path)
    scores[path] = metric.compute(predictions=["a b c d"], references=["a b c d"])
print(json.dumps(scores))
"""
    paths = [str(ROOT / "training" / "metrics" / f"{name}.py") for name in METRICS]
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_EVALUATE_OFFLINE": "0"}
    command = [sys.executable, "-c", script, *paths]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    scores = list(json.loads(done.stdout.splitlines()[-1]).values())
    assert [round(score.get("score", score.get("exact_match")), 6) for score in scores] == [100, 100, 0, 1]


def test_loaded_metric_is_an_evaluate_metric():
    for name in METRICS:
        metric = load_metric(name)
        assert isinstance(metric, evaluate.Metric)
        assert metric.name == name
