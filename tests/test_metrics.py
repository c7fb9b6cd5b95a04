"""Our `evaluate` metric modules give sacreBLEU's own numbers, load by path, and need no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

from training.metrics import METRICS, load_metric, score_translations

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.mark.parametrize(("name", "scorer"), [("bleu", BLEU), ("chrf", CHRF)])
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


def test_score_translations_has_every_score_with_its_signature():
    scores = score_translations(HYPOTHESES, REFERENCES)
    assert scores["bleu"] == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert scores["exact_match"] == 0.0
    assert scores["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    lower = score_translations(HYPOTHESES, REFERENCES, lowercase=True, tokenize="char")
    assert lower["bleu"] == BLEU(lowercase=True, tokenize="char").corpus_score(HYPOTHESES, [REFERENCES]).score
    assert lower["exact_match"] == 0.25
    assert "|case:lc|" in lower["bleu_signature"] and "|case:lc|" in lower["chrf_signature"]


def test_score_translations_twice_keeps_nothing_of_the_first():
    first = score_translations(HYPOTHESES, REFERENCES)
    score_translations(["x"], ["y"])
    assert score_translations(HYPOTHESES, REFERENCES) == first


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"no metric 'blue'.*bleu, chrf, exact_match"):
        load_metric("blue")
    with pytest.raises(ValueError, match="4 hypotheses but 3 references"):
        score_translations(HYPOTHESES, REFERENCES[:3])
    with pytest.raises(ValueError, match="no sentences"):
        score_translations([], [])


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
    paths = [str(ROOT / "training" / "metrics" / name) for name in METRICS]
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_EVALUATE_OFFLINE": "0"}
    command = [sys.executable, "-c", script, *paths]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    scores = list(json.loads(done.stdout.splitlines()[-1]).values())
    assert [round(score.get("score", score.get("exact_match")), 6) for score in scores] == [100, 100, 1]


def test_loaded_metric_is_an_evaluate_metric():
    for name in METRICS:
        metric = load_metric(name)
        assert isinstance(metric, evaluate.Metric)
        assert metric.name == name
