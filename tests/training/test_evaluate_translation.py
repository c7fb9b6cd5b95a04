"""The evaluation command: scores equal sacreBLEU on the files it wrote, results in order, errors in one line."""

import errno
import json
import os

import pytest
import sacrebleu
import torch

from tests.helpers.processes import run_launched
from tests.helpers.translators import make_model, make_tokenizer, sentences
from vaswani_tx.training import evaluate_translation
from vaswani_tx.training.inference.evaluation import _one_line
from vaswani_tx.training.inference.translation import load_model_and_tokenizer, translate
from vaswani_tx.training.metrics.registry import signed_metrics
from vaswani_tx.training.metrics.scoring import score_translations

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


def test_scores_are_those_of_the_written_hypotheses(folder, corpus, capsys):
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
    assert result["ter"] == sacrebleu.corpus_ter(hypotheses, [references]).score
    assert result["source_tokens"] == sum(LENGTHS) + len(LENGTHS)
    assert result["reference_tokens"] == sum(LENGTHS) + len(LENGTHS)
    assert len(hypotheses) <= result["target_tokens"] <= 6 * len(hypotheses)
    assert result["settings"]["generation"]["num_beams"] == 2
    assert f"BLEU         {result['bleu']:.2f}   {result['bleu_signature']}\n" in printed
    assert f"chrF         {result['chrf']:.2f}   {result['chrf_signature']}\n" in printed
    assert f"TER          {result['ter']:.2f}   {result['ter_signature']}\n" in printed
    assert f"perplexity   {result['perplexity']:.3f}" in printed
    assert "exact match  0.00 %" in printed and "sentences/s" in printed


def test_limit_lowercase_and_table_fields(folder, corpus, capsys):
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


def scored(corpus, capsys, *flags, expect=0):
    """Score the references' lines, in part turned, as a file of hypotheses; the JSON, or the text on stderr."""
    lines = (corpus / "test.de").read_text(encoding="utf-8").splitlines()
    given = [text.upper() if number == 1 else text for number, text in enumerate(lines)]
    (corpus / "given.de").write_text("".join(f"{text}\n" for text in given), encoding="utf-8")
    files = ["--hypotheses", str(corpus / "given.de"), "--target", str(corpus / "test.de")]
    done = evaluate_translation.main([*files, *flags, "--json", str(corpus / "scores.json")])
    captured = capsys.readouterr()
    assert done == expect, captured.err
    if expect:
        assert captured.out == "" and not (corpus / "scores.json").exists()
        return captured.err
    return json.loads((corpus / "scores.json").read_text(encoding="utf-8")), captured.out, (given, lines)


def test_file_of_hypotheses_is_scored_in_every_form_without_a_model(corpus, capsys):
    names = [name for name in signed_metrics() if not name.startswith("bleu_")]  # those have flags of their own
    flags = ["--metrics", *names, "--bootstrap", "30", "--compound-split", "--tokenised-lowercase"]
    flags += ["--target-language", "en"]
    result, printed, (given, lines) = scored(corpus, capsys, *flags)
    expected = score_translations(given, lines, metrics=list(signed_metrics()), bootstrap=30, language="en")
    assert {name: result[name] for name in expected} == expected
    assert result["bleu"] < 100 == pytest.approx(result["bleu_tokenised_lowercase"])
    for name in signed_metrics():
        assert f"{expected[name]:.2f}   {expected[f'{name}_interval']['mean']:.2f} ± " in printed
        assert f"   {expected[f'{name}_signature']}\n" in printed
    assert "BLEU, compounds split      " in printed and "BLEU, tokenised lowercase  100.00   " in printed
    assert "speed" not in printed and "seconds" not in result and "generation" not in result["settings"]
    assert result["settings"]["hypotheses"] == str(corpus / "given.de") and "hypotheses" not in result
    # From a table, and only a part: of a file with just these lines, or with all.
    rows = [{"source": "x", "target": text} for text in lines]
    (corpus / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (corpus / "short.de").write_text("".join(f"{text}\n" for text in given[:3]), encoding="utf-8")
    for file in ("given.de", "short.de"):
        files = ["--hypotheses", str(corpus / file), "--source", str(corpus / "test.jsonl"), "--limit", "3"]
        assert evaluate_translation.main([*files, "--json", str(corpus / "scores.json")]) == 0
        part = json.loads((corpus / "scores.json").read_text(encoding="utf-8"))
        assert part["sentences"] == 3
        assert part["chrf"] == score_translations(given[:3], lines[:3])["chrf"]


def test_several_reference_files(folder, corpus, capsys):
    second = corpus / "second.de"
    second.write_text("".join(f"{text}\n" for text in sentences(LENGTHS)), encoding="utf-8")
    flags = [str(second), "--device", "cpu", "--quiet", "--max-new-tokens", "6", "--beam", "1", "--limit", "4"]
    files = ["--source", str(corpus / "test.en"), "--target", str(corpus / "test.de")]
    arguments = ["--model", str(folder), *files, *flags, "--perplexity", *outputs(corpus)]
    assert evaluate_translation.main(arguments) == 0
    result = json.loads((corpus / "hypotheses.json").read_text(encoding="utf-8"))
    hypotheses = (corpus / "hypotheses.de").read_text(encoding="utf-8").splitlines()
    streams = [file.read_text(encoding="utf-8").splitlines()[:4] for file in (corpus / "test.de", second)]
    assert result["chrf"] == sacrebleu.corpus_chrf(hypotheses, streams).score
    assert result["bleu_signature"].startswith("nrefs:2|")
    assert result["reference_tokens"] == sum(len(text.split()) + 1 for text in streams[0])


def test_file_of_hypotheses_that_cannot_be_scored_is_named(corpus, capsys):
    (corpus / "long.de").write_text("x\n" * 7, encoding="utf-8")
    (corpus / "latin.de").write_bytes(b"sch\xf6n\n" * 6)

    def error_of(*flags, **options):
        message = scored(corpus, capsys, *flags, expect=2)
        assert message.startswith("error: ") and message.count("\n") == 1
        return message

    long, latin = str(corpus / "long.de"), str(corpus / "latin.de")
    assert "long.de has 7 lines but the references have 6: give" in error_of("--hypotheses", long)
    assert "have 6, --limit is 2: give" in error_of("--hypotheses", long, "--limit", "2")
    assert "latin.de, line 1: byte 4 of the line (0xf6) is not valid UTF-8" in error_of("--hypotheses", latin)
    assert "long.de has 7 lines but " in error_of("--target", str(corpus / "test.de"), long)
    assert "no rules for 'xx'" in error_of("--compound-split", "--target-language", "xx")
    assert "no tokeniser '14a'" in error_of("--bleu-tokenizer", "14a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "t"], "one of the arguments --model --hypotheses is required"),
        (["--model", "m", "--hypotheses", "h", "--source", "s"], "not allowed with"),
        (["--model", "m", "--target", "t"], "--model needs --source"),
        (["--hypotheses", "h"], "--hypotheses needs --target"),
        (["--hypotheses", "h", "--target", "t", "--perplexity"], "--perplexity and --output go with --model"),
        (["--hypotheses", "h", "--target", "t", "--bootstrap", "0"], "--bootstrap"),
    ],
)
def test_flags_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate_translation.main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_impossible_scores_are_found_before_the_model_is_loaded(corpus, tmp_path, capsys, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("work was done in vain")

    monkeypatch.setattr("vaswani_tx.training.inference.evaluation.load_model_and_tokenizer", refuse)
    for flags, message in (
        (["--compound-split", "--target-language", "xx"], "no rules for 'xx'"),
        (["--bleu-tokenizer", "14a"], "no tokeniser '14a'"),
    ):
        assert evaluate_translation.main(command(tmp_path, corpus, *flags)) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setenv("SACREBLEU_SEED", "none")
    assert evaluate_translation.main(command(tmp_path, corpus, "--bootstrap", "10")) == 2
    assert "SACREBLEU_SEED is 'none'" in capsys.readouterr().err


def test_alpha_reaches_our_model_and_is_refused_for_another(folder, corpus, capsys):
    done = evaluate_translation.main(command(folder, corpus, "--alpha", "0.9", "--beam", "2", *outputs(corpus)))
    if folder.name.startswith("vaswani"):
        assert done == 0
        result = json.loads((corpus / "hypotheses.json").read_text(encoding="utf-8"))
        assert result["settings"]["generation"]["gnmt_alpha"] == 0.9
    else:
        assert done == 2
        assert "MarianMTModel does not know GNMT's length penalty: use --length-penalty" in capsys.readouterr().err


def test_hypothesis_with_a_line_break_stays_on_its_line():
    assert _one_line("a\nb\rc\u2028d") == "a b c\u2028d"


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


def test_full_disk_is_reported_and_leaves_nothing(corpus, tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    make_model("vaswani").save_pretrained(model)
    make_tokenizer().save_pretrained(model)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert evaluate_translation.main(command(model, corpus, "--beam", "1", *outputs(corpus))) == 1
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
    """Two real processes over gloo."""
    lengths = [*LENGTHS, 2, 5, 11, 6, 8, 10]
    for side, order in (("en", lengths), ("de", lengths[::-1])):
        (corpus / f"test.{side}").write_text("".join(f"{text}\n" for text in sentences(order)), encoding="utf-8")
    model = tmp_path / "model"
    make_model("vaswani").save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    flags = ["--batch-tokens", "16", "--beam", "2", "--perplexity", "--bootstrap", "20", "--compound-split"]
    assert evaluate_translation.main(command(model, corpus, *flags, *outputs(corpus, "one"))) == 0
    alone = capsys.readouterr().out
    words = command(model, corpus, *flags, *outputs(corpus, "two"))
    done = run_launched("cpu.yaml", lambda: evaluate_translation.main(words))
    assert done.returncode == 0, done.errors
    assert done.output.count("BLEU  ") == 1, "only one process reports"
    assert [line for line in done.output.splitlines() if "nrefs" in line] == [
        line for line in alone.splitlines() if "nrefs" in line
    ]
    assert (corpus / "two.de").read_bytes() == (corpus / "one.de").read_bytes()
    hypotheses = (corpus / "one.de").read_text(encoding="utf-8").splitlines()
    assert len(set(hypotheses)) > len(lengths) / 2, "their order must be seen"
    one, two = (json.loads((corpus / f"{name}.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    assert one.keys() == two.keys()
    differing = {"settings", "nll", "perplexity"} | {name for name in one if "second" in name}
    for name in one.keys() - differing:
        assert one[name] == two[name], name
    assert two["nll"] == pytest.approx(one["nll"], rel=1e-6)
    assert torch.distributed.is_initialized() is False


@pytest.mark.parametrize("suffix", ["text", "jsonl"])
def test_a_test_set_with_empty_lines_scores_as_sacrebleu_does(folder, tmp_path, capsys, suffix):
    sources, references = sentences([4, 0, 7, 3]), sentences([5, 2, 0, 3])
    if suffix == "text":
        for name, lines in (("test.en", sources), ("test.de", references)):
            (tmp_path / name).write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")
        files = ["--source", str(tmp_path / "test.en"), "--target", str(tmp_path / "test.de")]
    else:
        rows = [{"source": a or None, "target": b or None} for a, b in zip(sources, references, strict=True)]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files = ["--source", str(tmp_path / "a.jsonl")]
    words = ["--model", str(folder), *files, "--quiet", "--max-new-tokens", "6", "--device", "cpu", "--perplexity"]
    words += ["--metrics", "bleu", "chrf", "ter", *outputs(tmp_path)]
    assert evaluate_translation.main(words) == 0, capsys.readouterr().err
    hypotheses = (tmp_path / "hypotheses.de").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(hypotheses) == 4 and hypotheses[1] == "" and hypotheses[0]
    found = json.loads((tmp_path / "hypotheses.json").read_text(encoding="utf-8"))
    assert found["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert found["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert found["ter"] == sacrebleu.corpus_ter(hypotheses, [references]).score
    assert found["sentences"] == 4 and found["reference_tokens"] == 5 + 2 + 0 + 3 + 4
