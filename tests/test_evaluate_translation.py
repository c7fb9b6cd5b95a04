"""The evaluation command: scores equal sacreBLEU on the files it wrote, results in order, errors in one line."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu
import torch
from test_translate import folder, make_model, make_tokenizer, sentences  # noqa: F401  folder is a fixture

from training import evaluate_translation
from training.translate import load_model_and_tokenizer, translate

ROOT = Path(__file__).resolve().parent.parent
LENGTHS = [4, 12, 1, 7, 3, 9]


@pytest.fixture
def corpus(tmp_path):
    sources, references = sentences(LENGTHS), sentences(reversed(LENGTHS))
    (tmp_path / "test.en").write_text("".join(f"{text}\n" for text in sources), encoding="utf-8")
    (tmp_path / "test.de").write_text("".join(f"{text}\n" for text in references), encoding="utf-8")
    return tmp_path


def command(model, corpus, *more):
    files = ["--source", str(corpus / "test.en"), "--target", str(corpus / "test.de")]
    return ["--model", str(model), *files, "--device", "cpu", "--quiet", "--max-new-tokens", "6", *more]


def outputs(corpus, name="hypotheses"):
    return ["--output", str(corpus / f"{name}.de"), "--json", str(corpus / f"{name}.json")]


def test_scores_are_those_of_the_written_hypotheses(folder, corpus, capsys):  # noqa: F811
    done = evaluate_translation.main(command(folder, corpus, "--beam", "2", "--perplexity", *outputs(corpus)))
    printed = capsys.readouterr().out
    assert done == 0
    hypotheses = (corpus / "hypotheses.de").read_text(encoding="utf-8").splitlines()
    references = (corpus / "test.de").read_text(encoding="utf-8").splitlines()
    result = json.loads((corpus / "hypotheses.json").read_text(encoding="utf-8"))
    assert len(hypotheses) == result["sentences"] == len(LENGTHS)
    model, tokenizer = load_model_and_tokenizer(str(folder))
    assert hypotheses == translate(model, tokenizer, sentences(LENGTHS), num_beams=2, max_new_tokens=6)
    assert hypotheses != sorted(hypotheses), "their order must be seen"
    assert result["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert result["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert result["source_tokens"] == sum(LENGTHS) + len(LENGTHS)
    assert result["reference_tokens"] == sum(LENGTHS) + len(LENGTHS)
    assert len(hypotheses) <= result["target_tokens"] <= 6 * len(hypotheses)
    assert result["settings"]["generation"]["num_beams"] == 2
    assert f"BLEU         {result['bleu']:.2f}   {result['bleu_signature']}" in printed
    assert f"chrF         {result['chrf']:.2f}   {result['chrf_signature']}" in printed
    assert f"perplexity   {result['perplexity']:.3f}" in printed
    assert "exact match  0.00 %" in printed and "sentences/s" in printed


def test_limit_lowercase_and_table_fields(folder, corpus, capsys):  # noqa: F811
    rows = [{"en": text, "de": text.upper()} for text in sentences([3, 2, 4])]
    table = corpus / "test.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fields = ["--source", str(table), "--source-field", "en", "--target-field", "de", "--limit", "2"]
    common = ["--model", str(folder), *fields, "--device", "cpu", "--quiet", "--beam", "1", "--max-new-tokens", "5"]
    assert evaluate_translation.main([*common, "--lowercase", *outputs(corpus)]) == 0
    result = json.loads((corpus / "hypotheses.json").read_text(encoding="utf-8"))
    assert result["sentences"] == 2
    assert "|case:lc|" in result["bleu_signature"]
    assert len((corpus / "hypotheses.de").read_text(encoding="utf-8").splitlines()) == 2


def test_alpha_reaches_our_model_and_is_refused_for_another(folder, corpus, capsys):  # noqa: F811
    done = evaluate_translation.main(command(folder, corpus, "--alpha", "0.9", "--beam", "2", *outputs(corpus)))
    if folder.name.startswith("vaswani"):
        assert done == 0
        result = json.loads((corpus / "hypotheses.json").read_text(encoding="utf-8"))
        assert result["settings"]["generation"]["gnmt_alpha"] == 0.9
    else:
        assert done == 2
        assert "MarianMTModel does not know GNMT's length penalty: use --length-penalty" in capsys.readouterr().err


def test_hypothesis_with_a_line_break_stays_on_its_line():
    assert evaluate_translation._one_line("a\nb\rc\u2028d") == "a b c\u2028d"


def test_unusable_input_is_one_line_and_leaves_nothing(corpus, tmp_path, capsys):
    def error_of(*arguments):
        assert evaluate_translation.main([*arguments, *outputs(corpus)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert not list(corpus.glob("hypotheses*")) and not list(corpus.glob(".tmp-*"))
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        return captured.err

    assert "nowhere" in error_of(*command(tmp_path / "nowhere", corpus))
    with (corpus / "test.de").open("a", encoding="utf-8") as file:
        file.write("one more\n")
    message = error_of(*command(tmp_path / "nowhere", corpus))
    assert "6" in message and "7" in message and "test.en" in message
    (corpus / "folder").mkdir()
    assert evaluate_translation.main(command(tmp_path, corpus, "--output", str(corpus / "folder"))) == 2
    assert "is a folder" in capsys.readouterr().err


def test_full_disk_is_said_and_leaves_nothing(corpus, tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    make_model("vaswani").save_pretrained(model)
    make_tokenizer().save_pretrained(model)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert evaluate_translation.main(command(model, corpus, "--beam", "1", *outputs(corpus))) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not [path.name for path in corpus.iterdir() if "hypotheses" in path.name]


@pytest.mark.parametrize("flag", ["--beam=0", "--batch-tokens=0", "--dtype=fp8", "--beams=4"])
def test_wrong_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate_translation.main(["--model", "m", "--source", "s", flag])
    assert stopped.value.code == 2
    assert flag.split("=")[0] in capsys.readouterr().err


@pytest.mark.distributed
def test_two_processes_give_the_results_of_one_in_order(corpus, tmp_path, capsys):
    model = tmp_path / "model"
    make_model("vaswani").save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    flags = ["--batch-tokens", "16", "--beam", "2", "--perplexity"]
    assert evaluate_translation.main(command(model, corpus, *flags, *outputs(corpus, "one"))) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    target = ["-m", "training.evaluate_translation", *command(model, corpus, *flags, *outputs(corpus, "two"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch + target, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("BLEU  ") == 1, "only one process reports"
    assert (corpus / "two.de").read_bytes() == (corpus / "one.de").read_bytes()
    one, two = (json.loads((corpus / f"{name}.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    for name in ("bleu", "chrf", "sentences", "source_tokens", "target_tokens", "reference_tokens"):
        assert one[name] == two[name], name
    assert two["nll"] == pytest.approx(one["nll"], rel=1e-6)
    assert torch.distributed.is_initialized() is False
