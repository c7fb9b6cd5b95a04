"""`vaswani-tx translate`: every form of input and output, lines that break other tools, slow pipes, Ctrl-C."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from tests.helpers.cli_runs import LINES, TEXT, Terminal, command, environment, refused
from tests.helpers.processes import Child
from vaswani_tx import TranslationPipeline, cli
from vaswani_tx.cli import translate as cli_translate
from vaswani_tx.cli.common import CliError
from vaswani_tx.cli.lines import blocks, decode
from vaswani_tx.cli.pieces import cut, shorten_to
from vaswani_tx.sentences_vaswani import join_sentences
from vaswani_tx.training import evaluate_translation


@pytest.fixture(scope="module")
def expected(loaded):
    """What `generate` itself gives for every line alone."""
    model, tokenizer = loaded
    made = [model.generate(**tokenizer([line], return_tensors="pt")) for line in LINES]
    texts = [tokenizer.batch_decode(ids, skip_special_tokens=True)[0] for ids in made]
    assert len(set(texts)) > 3  # a model that answers the same to everything would prove nothing
    return texts


def translate(folder, *words, stdin=TEXT, status=0, **more):
    done = command("translate", folder, *words, stdin=stdin, **more)
    assert done.status == status, done.err
    return done


# Input and output


@pytest.mark.parametrize(
    "words",
    [[], ["--buffer-size", 1], ["--buffer-size", 3, "--batch-size", 2], ["--max-tokens", 1], ["--device", "cpu", "-q"]],
)
def test_a_pipe_is_answered_line_by_line_in_order(folder, expected, words):
    done = translate(folder, *words)
    assert done.lines == expected and done.err == ""


def test_a_file_equals_a_pipe_and_evaluation(folder, expected, tmp_path):
    source = tmp_path / "a.en"
    source.write_text(TEXT, encoding="utf-8")
    assert translate(folder, "--input", source, stdin="").lines == expected
    translate(folder, "-i", source, "-o", tmp_path / "a.de", "--buffer-size", "2", stdin="")
    words = ["--model", folder, "--source", source, "--target", source, "--quiet", "--output", tmp_path / "eval.de"]
    assert evaluate_translation.main([str(word) for word in words]) == 0
    assert (tmp_path / "a.de").read_bytes() == (tmp_path / "eval.de").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.de", "a.en", "eval.de"]
    translate(folder, "-o", tmp_path / "b.de", stdin=TEXT)
    assert (tmp_path / "b.de").read_text(encoding="utf-8").splitlines() == expected
    assert translate(folder, "-o", "/dev/null", stdin=TEXT).out == ""


def test_n_best_as_a_table_and_as_json_with_alignments(folder, loaded, expected):
    model, tokenizer = loaded
    pipe = TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    records = pipe(LINES, num_return_sequences=3, return_scores=True, return_alignments="words")
    rows = [line.split("\t") for line in translate(folder, "--format", "tsv", "--n-best", 3).lines]
    assert [(int(row[0]), int(row[1])) for row in rows] == [(n, r) for n in range(1, 8) for r in (1, 2, 3)]
    assert [row[3] for row in rows] == [record["translation_text"] for found in records for record in found]
    assert [float(row[2]) for row in rows] == pytest.approx([r["score"] for found in records for r in found], abs=1e-5)
    assert len(translate(folder, "--format", "tsv", "--n-best", 6, stdin="A dog.\n").lines) == 6  # beams follow
    done = translate(folder, "--format", "jsonl", "--n-best", 3, "--alignments", "--batch-size", 2)
    for number, (line, source, found) in enumerate(zip(done.lines, LINES, records, strict=True), start=1):
        answer = json.loads(line)
        assert (answer["line"], answer["source"]) == (number, source)
        for hypothesis, record in zip(answer["hypotheses"], found, strict=True):
            assert hypothesis["text"] == record["translation_text"]
            assert hypothesis["score"] == pytest.approx(record["score"], abs=1e-5)
            spans = [entry["target_span"] for entry in hypothesis["alignment"]]
            assert spans == [list(entry["target_span"]) for entry in record["alignment"]]
    tokens = json.loads(translate(folder, "--format", "jsonl", "--alignments", "tokens").lines[0])
    assert "target_token" in tokens["hypotheses"][0]["alignment"][0]


def test_the_search_is_what_the_options_say(folder, loaded, expected):
    model, tokenizer = loaded

    def alone(**settings):
        made = [model.generate(**tokenizer([line], return_tensors="pt"), **settings) for line in LINES]
        return [tokenizer.batch_decode(ids, skip_special_tokens=True)[0] for ids in made]

    for words, settings in (
        (["--beams", 1], {"num_beams": 1}),
        (["--max-length", 4], {"max_new_tokens": 4}),
        (["--no-repeat-ngram-size", 1], {"no_repeat_ngram_size": 1}),
    ):
        found = translate(folder, *words).lines
        assert found == alone(**settings), words
        assert found != expected, words
    pipe = TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    for name, option in (("length_penalty", "--length-penalty"), ("gnmt_alpha", "--gnmt-alpha")):
        rows = translate(folder, "--format", "tsv", option, 0.3).lines
        scores = [record["score"] for record in pipe(LINES, return_scores=True, **{name: 0.3})]
        assert [float(row.split("\t")[2]) for row in rows] == pytest.approx(scores, abs=1e-5)
        usual = [record["score"] for record in pipe(LINES, return_scores=True)]
        assert scores != pytest.approx(usual, abs=0.1)
    assert all("dog" in line for line in translate(folder, "--require", "dog", "--beams", 6).lines)
    either = translate(folder, "--require", "dog|Hund", "--beams", 6).lines
    assert all("dog" in line or "Hund" in line for line in either)
    assert all(line.startswith("Zwei Männer") for line in translate(folder, "--prefix", "Zwei Männer").lines)
    words = sorted({word for line in expected for word in line.split() if word.isalpha()}, key=len)[-2:]
    banned = translate(folder, *(part for word in words for part in ("--forbid", word))).lines
    assert not any(word in line for word in words for line in banned)
    ranks = ("--format", "tsv", "--n-best", 4, "--beams", 4)
    answers = translate(folder, "--forbid", words[0][1:], *ranks).lines
    assert len(answers) == 4 * len(LINES) and not any(words[0][1:] in line.split("\t")[3] for line in answers)
    whole = translate(folder, "--whole-words", "--require", "dog", "--forbid", words[0], "--beams", 6).lines
    for line in whole:
        found = re.findall(r"\w+", line)
        assert "dog" in found and words[0] not in found
    assert translate(folder, "--precision", "bf16", "--num-threads", torch.get_num_threads()).lines


# Lines that break other tools


def test_only_a_line_feed_ends_a_line_and_empty_lines_stay(folder):
    odd = ["A dog\x0b runs.", "Two\x00 men", "A\x85 woman\u2028 reads\u2029.", "", "  \t ", "The\x1c dog\x0c\r sleeps."]
    done = translate(folder, stdin="\ufeff" + "\r\n".join(odd))
    assert len(done.lines) == 6 and done.lines[3:5] == ["", ""]
    assert done.lines == [translate(folder, "-q", stdin=line).out.removesuffix("\n") for line in odd]
    assert translate(folder, stdin="").out == ""
    blank = [json.loads(line) for line in translate(folder, "--format", "jsonl", stdin="\n \n").lines]
    assert [record["hypotheses"] for record in blank] == [[{"text": "", "score": 0.0}]] * 2
    assert [record["source"] for record in blank] == ["", " "]
    # A mark inside the text, or in a later line, is a character like any other.
    assert decode(b"\xef\xbb\xbfa", 2, "x") == "\ufeffa"


def test_what_the_model_writes_stays_on_its_line_and_off_the_terminal(folder, monkeypatch):
    class Pipe:
        def __init__(self, **_):
            pass

        def __call__(self, units, **_):
            return [{"translation_text": "a\nb\r\tc\x1b[31m\x85", "score": float("-inf")} for _ in units]

    monkeypatch.setattr(cli_translate, "TranslationPipeline", Pipe)
    assert translate(folder, stdin="x\n").out == "a b \tc\x1b[31m\x85\n"
    assert translate(folder, "--format", "tsv", stdin="x\n").out == "1\t1\t-inf\ta b  c\x1b[31m\x85\n"
    assert json.loads(translate(folder, "--format", "jsonl", stdin="x\n").out)["hypotheses"][0]["score"] is None
    screen = io.TextIOWrapper(io.BytesIO(), "utf-8")
    screen.isatty = lambda: True
    translate(folder, stdin="x\n", out=screen)
    assert screen.buffer.getvalue().decode() == "a b \tc\ufffd[31m\ufffd\n"


@pytest.mark.parametrize("as_file", [True, False])
def test_bytes_that_are_not_utf8_stop_at_their_line_or_are_replaced(folder, expected, tmp_path, as_file):
    data = TEXT.encode().replace(b"sleeps", b"sl\xffeps")
    (tmp_path / "a.en").write_bytes(data)
    words = ["--input", tmp_path / "a.en"] if as_file else []
    done = translate(folder, *words, stdin=data, status=2)
    refused(done, "line 4: byte 11 of the line (0xff)", "a.en" if as_file else "stdin", "--errors replace")
    assert done.lines == expected[:3]  # what came before is not lost
    assert len(translate(folder, *words, "--errors", "replace", stdin=data).lines) == 7


def test_long_lines_are_cut_joined_shortened_or_refused(folder, loaded):
    _, tokenizer = loaded
    text = "A dog runs. Two men talk.  " + "the old green book " * 40 + "sleeps."
    limit = ["--max-source-length", 16]
    done = translate(folder, *limit, stdin=f"The dog sleeps.\n{text}\n")
    assert done.err.startswith("warning: line 2 has ") and "in" in done.err and len(done.lines) == 2

    def count(part):
        return len(tokenizer(part)["input_ids"])

    pieces = cut(text, 16, count)
    assert max(count(piece.text) for piece in pieces) <= 16 and len(pieces) > 8
    assert join_sentences([piece.text for piece in pieces], pieces)[0] == text  # nothing is lost
    alone = translate(folder, stdin="".join(f"{piece.text}\n" for piece in pieces)).lines
    assert done.lines[1] == join_sentences(alone, pieces)[0].replace("\r", " ")
    record = json.loads(translate(folder, *limit, "-q", "--format", "jsonl", "--alignments", stdin=text).out)
    best = record["hypotheses"][0]
    assert best["text"] == done.lines[1]
    for entry in best["alignment"]:
        assert best["text"][slice(*entry["target_span"])] == entry["target"]
        assert text[slice(*entry["source_span"])] == entry["source"]

    kept = shorten_to(text, 16, count)
    assert text.startswith(kept) and count(kept) <= 16 < count(kept + text[len(kept) :].lstrip().split()[0] + " dog")
    cut_off = translate(folder, *limit, "--long-lines", "truncate", stdin=text)
    assert "left out" in cut_off.err and cut_off.lines == translate(folder, stdin=kept).lines
    refused(translate(folder, *limit, "--long-lines", "error", stdin=text, status=2), "line 1", "--long-lines split")
    refused(translate(folder, *limit, "--prefix", "Zwei", stdin=text, status=2), "truncate")


def test_a_word_without_end_and_many_long_lines(folder):
    many = "dog " * 30 + "\n"
    done = translate(folder, "--max-source-length", 8, "--beams", 1, stdin="x" * 3000 + "\n" + many * 7)
    assert len(done.lines) == 8
    assert len(done.err.splitlines()) == 5 and "not named" in done.err.splitlines()[-1]
    assert shorten_to("x" * 100, 8, len) == "x" * 8
    assert [piece.text for piece in cut("a b" + "x" * 9, 4, len)] == ["a b", "xxx", "xxx", "xxx"]


# Pipes and terminals


def test_a_slow_pipe_is_answered_at_once_and_a_fast_one_in_blocks():
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:
        taken = blocks(stream, "pipe", 100, at_once=True)
        os.write(writing, b"one\n")
        assert next(taken).texts == ["one"]
        os.write(writing, b"two\nthree\nfo")
        assert next(taken).texts == ["two", "three"]
        os.write(writing, b"ur\n" + b"x\n" * 150)
        sizes, got = [], []
        os.close(writing)
        for block in taken:
            sizes.append(len(block.texts))
            got += block.texts
        assert got == ["four", *"x" * 150] and sizes[0] == 100
    with pytest.raises(CliError, match="pipe, line 3"):
        list(blocks(io.BytesIO(b"a\nb\n\xfe\n"), "pipe", 9, at_once=True))


def test_a_prompt_answers_until_ctrl_d(folder, expected, monkeypatch):
    done = command("translate", folder, typed=LINES[:2])
    assert done.status == 0 and done.lines == expected[:2]
    assert done.err.count("> ") == 3 and "Ctrl-D" in done.err
    # With a screen for the answers too, input() asks: it knows the arrow keys.
    asked, answers = [], iter([LINES[0], EOFError()])

    def ask(prompt):
        asked.append(prompt)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", ask)
    screen = io.TextIOWrapper(io.BytesIO(), "utf-8")
    screen.isatty = lambda: True
    command("translate", folder, typed=[], out=screen)
    assert asked == ["> ", "> "] and screen.buffer.getvalue().decode() == expected[0] + "\n"
    assert "readline" in sys.modules
    # A sentence that cannot be translated does not end the conversation.
    done = command("translate", folder, "--max-source-length", 8, "--long-lines", "error", typed=["dog " * 20, "dog"])
    assert done.status == 0 and "error: line 1" in done.err and len(done.lines) == 1


def test_progress_is_for_terminals_only(folder, monkeypatch):
    monkeypatch.setattr(cli_translate, "tqdm", lambda **settings: pytest.fail(str(settings)))
    seen = {}

    class Bar:
        def __init__(self, **settings):
            seen.update(settings)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            seen["done"] = seen.get("done", 0) + count

    monkeypatch.setattr(cli_translate, "tqdm", Bar)
    translate(folder)
    assert seen["disable"] and seen["done"] == 7
    monkeypatch.setattr(cli_translate.sys, "stderr", Terminal())
    options = cli_translate.argparse.Namespace(quiet=False, input=None)
    with cli_translate._bar(options, io.BytesIO()):
        assert not seen["disable"] and seen["total"] is None


def start(folder, *words, **streams):
    """A new process: `python -m vaswani_tx translate`."""
    program = [sys.executable, "-m", "vaswani_tx", "translate", str(folder), *words]
    return subprocess.Popen(program, env=environment(), stderr=subprocess.PIPE, **streams)


@pytest.mark.usefixtures("default_signal_handlers")
def test_each_line_of_a_slow_writer_is_answered_and_ctrl_c_ends_quietly(folder, expected):
    (question_end, question), (answer_end, answer) = os.pipe(), os.pipe()

    def work():
        os.close(question)
        os.dup2(question_end, 0)
        os.dup2(answer, 1)
        os.close(answer)
        return cli.main(["translate", str(folder)])

    process = Child(work)
    os.close(question_end)
    os.close(answer)
    with open(question, "wb", 0) as stdin, open(answer_end, "rb") as stdout:
        for line, translation in zip(LINES[:2], expected, strict=False):
            stdin.write(f"{line}\n".encode())
            assert stdout.readline().decode() == f"{translation}\n"  # while the pipe is open
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        rest = stdout.read()
    assert (process.returncode, rest, process.errors) == (130, b"", "vaswani-tx: interrupted\n")


@pytest.mark.fresh
def test_a_closed_pipe_ends_quietly(folder, expected):
    process = start(folder, "--buffer-size", "1", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(TEXT.encode() * 20)
    process.stdin.close()
    assert process.stdout.readline().decode() == f"{expected[0]}\n"
    process.stdout.close()
    assert process.stderr.read().decode() == ""
    assert process.wait(timeout=60) == 141


# Wrong usage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n-best", 2], "--format tsv or jsonl"),
        (["--alignments"], "--format jsonl"),
        (["--alignments", "--format", "tsv"], "--format jsonl"),
        (["--gnmt-alpha", 1, "--length-penalty", 1], "give one"),
        (["--restart"], "--output"),
        (["--beams", 0], "at least 1"),
        (["--gnmt-alpha", "nan"], "must be a number, not nan"),
        (["--beam", 4], "unrecognized"),
    ],
)
def test_options_that_do_not_go_together(words, said):
    done = command("translate", "model", *words)
    assert done.status == 2 and said in done.err and "usage: vaswani-tx translate" in done.err


def test_settings_that_do_not_fit_the_model_or_the_place(folder, tmp_path):
    for words, said in (
        (["--input", tmp_path / "none"], ["there is no file", "none"]),
        (["--input", tmp_path], ["is a folder"]),
        (["--output", tmp_path], ["is a folder"]),
        (["--output", tmp_path / "no" / "file"], ["there is no folder"]),
        (["--device", "quantum"], ["--device quantum"]),
        (["--beams", 2, "--n-best", 3, "--format", "tsv"], ["--beams"]),
        (["--beams", 1, "--require", "dog"], ["--require", "--beams 4"]),
        (["--tgt-lang", "de"], ["no languages"]),
        (["--forbid", " "], ["phrase"]),
    ):
        refused(translate(folder, *words, status=2), *said)
    assert not list(tmp_path.iterdir())
