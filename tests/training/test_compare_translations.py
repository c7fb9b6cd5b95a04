"""The paired comparison: sacreBLEU's own test, the same every time, quiet, with errors that name the file."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

from tests.helpers import ROOT
from vaswani_tx.training import compare_translations

WORDS = ["rot", "gelb", "Hund", "Rich-Text", "Haus", "geht", "steht", "und", "oder", "nicht"]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """References and three systems: b errs in other sentences than a and about as often, c four times as often."""
    random = np.random.default_rng(0)
    references = [list(random.choice(WORDS, size=random.integers(5, 12))) for _ in range(60)]
    write(tmp_path / "ref.de", references)
    write(tmp_path / "src.en", [[f"source-{number}"] for number in range(60)])
    # The word at this place of a sentence is wrong.
    places = {
        "a": lambda i: {1} if i % 2 else set(),
        "b": lambda i: set() if i % 2 or not i else {1},
        "c": lambda i: {0, 3},
    }
    for name, place in places.items():
        wrong = [
            ["falsch" if j in place(i) else word for j, word in enumerate(words)] for i, words in enumerate(references)
        ]
        write(tmp_path / f"{name}.de", wrong)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, sentences):
    path.write_text("".join(" ".join(words) + ".\n" for words in sentences), encoding="utf-8")


def run(capsys, *arguments, expect=0):
    assert compare_translations.main(["--target", "ref.de", *arguments]) == expect
    captured = capsys.readouterr()
    assert captured.err == "" if expect == 0 else captured.out == ""
    return captured.out if expect == 0 else captured.err


@pytest.mark.parametrize(("method", "code"), [("bootstrap", "bs"), ("randomization", "ar")])
def test_numbers_are_those_of_sacrebleus_paired_test(corpus, capsys, method, code):
    flags = ["--method", method, "--samples", "120", "--json", "out.json"]
    printed = run(capsys, "a.de", "b.de", "c.de", *flags)
    result = json.loads((corpus / "out.json").read_text(encoding="utf-8"))
    lines = {name: (corpus / f"{name}.de").read_text(encoding="utf-8").splitlines() for name in ("a", "b", "c", "ref")}
    systems = [(name, lines[name]) for name in "abc"]
    metrics = {"BLEU": BLEU(force=True), "chrF2": CHRF(), "TER": TER()}
    signatures, columns = PairedTest(systems, metrics, [lines["ref"]], code, n_samples=120)()
    assert list(result["metrics"]) == ["bleu", "chrf", "ter"]
    for (name, expected), found in zip(metrics.items(), result["metrics"].values(), strict=True):
        assert found["signature"] == str(signatures[name]) and f"|{code}:120|seed:12345|" in "|" + found["signature"]
        for row, system, file in zip(found["systems"], columns[name], "abc", strict=True):
            assert row["system"] == f"{file}.de"
            assert row["score"] == expected.corpus_score(lines[file], [lines["ref"]]).score
            assert row.get("p_value") == system.p_value
            assert row.get("mean") == system.mean and row.get("half_width") == system.ci
            assert f"{row['score']:6.2f}" in printed
        baseline, close, far = found["systems"]
        assert "p_value" not in baseline and "difference" not in baseline
        assert far["difference"] == far["score"] - baseline["score"]
        assert far["p_value"] < 0.05 < close["p_value"]
        assert found["lower_is_better"] == (name == "TER")
    assert printed.count(" *\n") + printed.endswith(" *\n") >= 3
    assert result["seed"] == 12345 and result["sentences"] == 60 and result["samples"] == 120
    assert result["baseline"] == "a.de" and result["method"] == method


def test_table_can_be_read(corpus, capsys):
    table = run(capsys, "a.de", "c.de", "--metrics", "ter", "--samples", "50").splitlines()
    assert table[0] == "60 sentences, paired bootstrap, 50 samples, seed 12345"
    assert table[1] == "* p < 0.05 against the baseline a.de"
    assert table[3].startswith("TER (lower is better)   nrefs:1|bs:50|seed:12345|case:lc|tok:tercom|")
    assert table[4].startswith("  a.de   ") and "p =" not in table[4] and " ± " in table[4]
    assert table[5].startswith("  c.de   ") and table[5].endswith(" *")
    assert table[5].split()[5].startswith("+"), "TER counts errors"


def test_same_table_every_time_in_this_process_and_without_a_word_of_sacrebleu(corpus, capsys, monkeypatch, caplog):
    def refuse(*arguments, **keywords):
        raise AssertionError("a process was started")

    monkeypatch.setattr(multiprocessing, "get_context", refuse)
    flags = ["a.de", "b.de", "--samples", "40", "--metrics", "bleu", "chrf"]
    with caplog.at_level(logging.WARNING):
        first = run(capsys, *flags)
        assert run(capsys, *flags) == first
    assert not caplog.records
    monkeypatch.setenv("SACREBLEU_SEED", "99")
    other = run(capsys, *flags)
    assert other != first and "seed 99" in other and "|seed:99|" in other
    monkeypatch.setenv("SACREBLEU_SEED", "none")
    assert "SACREBLEU_SEED is 'none'" in run(capsys, *flags, expect=2)


@pytest.mark.parametrize("method", ["bootstrap", "randomization"])
def test_a_copy_of_the_baseline_is_not_called_different(corpus, capsys, method):
    (corpus / "same.de").write_bytes((corpus / "a.de").read_bytes())
    table = run(capsys, "a.de", "same.de", "--metrics", "bleu", "--method", method, "--samples", "30")
    assert table.splitlines()[-1].endswith("   +0.00   p = 1.0000")


def test_older_forms_and_several_references(corpus, capsys):
    (corpus / "second.de").write_bytes((corpus / "a.de").read_bytes())
    names = ["bleu_compound_split", "bleu_tokenised_lowercase", "bleu"]
    flags = ["--target", "second.de", "--metrics", *names, "--samples", "20", "--json", "out.json"]
    printed = run(capsys, "a.de", "b.de", *flags)
    found = json.loads((corpus / "out.json").read_text(encoding="utf-8"))["metrics"]
    assert list(found) == names
    assert "|tok:ascii-moses-de-atat|" in found[names[0]]["signature"] and "nrefs:2|" in found[names[0]]["signature"]
    assert "|case:lc|eff:no|tok:norm-moses-de|" in found[names[1]]["signature"]
    assert all(form["systems"][0]["score"] == pytest.approx(100) for form in found.values())
    split, lower, _ = (form["systems"][1]["score"] for form in found.values())
    assert abs(split - lower) > 0.2
    assert "BLEU, compounds split   nrefs:2|bs:20|" in printed


def test_examples_are_the_sentences_that_differ_most(corpus, capsys):
    lines = (corpus / "a.de").read_text(encoding="utf-8").splitlines()
    changed = list(lines)
    changed[7], changed[20] = "x", lines[20][:-6]
    (corpus / "d.de").write_text("\n".join(changed) + "\n", encoding="utf-8")
    flags = ["--source", "src.en", "--examples", "2", "--samples", "5", "--metrics", "bleu", "--json", "out.json"]
    printed = run(capsys, "a.de", "d.de", *flags)
    first, second = json.loads((corpus / "out.json").read_text(encoding="utf-8"))["examples"]
    assert (first["line"], second["line"]) == (8, 21)
    assert first["difference"] < second["difference"] < 0
    assert first["sentences"] | {"reference": ""} == {
        "source": "source-7.", "reference": "", "a.de": lines[7], "d.de": "x"
    }  # fmt: skip
    assert "line 8: " in printed and "  source     source-7.\n" in printed


def test_unusable_files_are_named(corpus, capsys):
    def error(*arguments):
        message = run(capsys, *arguments, expect=2)
        assert message.startswith("error: ") and message.count("\n") == 1
        return message

    (corpus / "short.de").write_text("eins\n" * 59, encoding="utf-8")
    assert "short.de has 59 lines but ref.de has 60" in error("a.de", "short.de")
    assert "short.de has 59 lines" in error("a.de", "b.de", "--source", "short.de")
    assert "short.de has 59 lines" in error("a.de", "b.de", "--target", "short.de")
    (corpus / "latin.de").write_bytes(b"gut\n" * 30 + b"sch\xf6n\n" * 30)
    assert "latin.de, line 31: byte 4 of the line (0xf6) is not valid UTF-8" in error("a.de", "latin.de")
    assert "nowhere.de: there is no such file" in error("a.de", "nowhere.de")
    assert "a.de is named twice" in error("a.de", "b.de", "a.de")
    assert "'.' is a folder" in error("a.de", "b.de", "--json", ".")
    assert "no rules for 'xx'" in error("a.de", "b.de", "--metrics", "bleu_compound_split", "--target-language", "xx")
    (corpus / "ref.de").write_text("", encoding="utf-8")
    assert "ref.de is empty" in error("a.de", "b.de")


@pytest.mark.parametrize("flag", ["--samples=0", "--metrics=blue", "--method=t", "--metric=bleu", None])
def test_wrong_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare_translations.main(["--target", "ref.de", "a.de", *(["b.de", flag] if flag else [])])
    assert stopped.value.code == 2
    assert (flag.split("=")[0] if flag else "give two files at least") in capsys.readouterr().err


def test_as_a_command(corpus):
    command = [sys.executable, "-m", "vaswani_tx.training.compare_translations", "--target", "ref.de", "a.de", "b.de"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--metrics", "bleu", "--samples", "5"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("60 sentences, paired bootstrap, 5 samples")
