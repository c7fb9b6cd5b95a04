"""The command line as a whole: help, exit status, wrong models; and the verbs `score`, `info` and `push`."""

import json
import math
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import MarianConfig, MarianMTModel, T5Config

import vaswani_tx
from tests.helpers import ROOT
from tests.helpers.cli_runs import LINES, command, environment, refused, save_model
from tests.helpers.fake_hub import WRITER, FakeHub
from vaswani_tx import VaswaniTokenizer, cli
from vaswani_tx.cli import info as cli_info
from vaswani_tx.cli import models as cli_models
from vaswani_tx.cli.common import CliFailure
from vaswani_tx.cli.translate import DECIDING
from vaswani_tx.hub import saving as hub
from vaswani_tx.training.inference.translation import perplexity

SOURCES, TARGETS = LINES[:3], LINES[4:]
MARK = "evil code ran"


@pytest.fixture(scope="module")
def marian(folder, tmp_path_factory):
    """A MarianMT of random weights with our tokenizer."""
    place = tmp_path_factory.mktemp("marian")
    tokenizer = VaswaniTokenizer.from_pretrained(folder)
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    torch.manual_seed(0)
    model = MarianMTModel(MarianConfig(vocab_size=320, max_position_embeddings=64, **sizes, **heads, **ids))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def pair(tmp_path):
    (tmp_path / "a.en").write_text("".join(f"{line}\n" for line in SOURCES), encoding="utf-8")
    (tmp_path / "a.de").write_text("".join(f"{line}\n" for line in TARGETS), encoding="utf-8")
    return ["--source", tmp_path / "a.en", "--target", tmp_path / "a.de"]


# The command itself


def test_help_and_version():
    done = command("--help")
    assert done.status == 0 and "130 Ctrl-C" in done.out and "translate files" in done.out
    for verb in ("translate", "score", "info", "push"):
        done = command(verb, "--help")
        assert done.status == 0 and "examples:" in done.out and f"vaswani-tx {verb}" in done.out
        assert "exit status: 0" in done.out and not done.err
    assert command("--version").out == f"vaswani-tx {vaswani_tx.__version__}\n"
    for words in ([], ["fly"], ["translate"]):
        assert command(*words).status == 2


def test_every_option_that_decides_the_output_is_part_of_what_a_resumed_run_must_repeat():
    options = vars(cli.parse(["translate", "model"], "0"))
    of_no_weight = {"verb", "model", "parser", "input", "output", "restart", "quiet", "num_threads", "device"}
    assert set(options) - of_no_weight - {"trust_remote_code"} == set(DECIDING)


def test_python_m_and_the_installed_command_are_the_same():
    done = subprocess.run([sys.executable, "-m", "vaswani_tx", "--version"], env=environment(), capture_output=True)
    assert done.stdout.decode() == f"vaswani-tx {vaswani_tx.__version__}\n" and not done.stderr
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'vaswani-tx = "vaswani_tx.cli:main"' in project


def test_a_failure_of_the_system_and_one_of_our_own_are_told_apart(monkeypatch, folder):
    def fail(error):
        def run(_):
            raise error

        monkeypatch.setattr(cli_info, "run", run)
        return command("info", folder)

    assert fail(PermissionError(13, "Permission denied", "x")).status == 1
    assert fail(CliFailure("the disk")).err == "vaswani-tx: error: the disk\n"
    assert fail(KeyboardInterrupt()).status == 130
    assert fail(BrokenPipeError()).status == 141
    monkeypatch.setenv("RANK", "1")
    assert fail(CliFailure("the disk")).err == ""  # one process of many says it
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("VASWANI_TX_DEBUG", "0")
    done = fail(ZeroDivisionError("a mistake of ours"))
    said = refused(done, "internal error: ZeroDivisionError: a mistake of ours; run again with --debug", status=1)
    assert done.err == f"{said}\n"
    done = command("info", folder, "--debug")
    assert done.status == 1 and "Traceback" in done.err and done.err.splitlines()[-1].endswith("please report it.")
    assert "not enough" in fail(MemoryError()).err and "internal" not in fail(MemoryError()).err
    monkeypatch.setenv("VASWANI_TX_DEBUG", "1")
    assert "Traceback" in fail(CliFailure("the disk")).err


# Models


def test_models_that_cannot_be_had(folder, tmp_path):
    (tmp_path / "run" / "averaged").mkdir(parents=True)
    (tmp_path / "run" / "averaged" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, said in (
        (tmp_path / "none", "there is no model folder"),
        (tmp_path / "run", "did you mean"),
        (tmp_path / "empty", "has no config.json"),
        (tmp_path / "file", "is a file"),
        ("somebody/unknown-model", "somebody/unknown-model"),
    ):
        for verb in ("translate", "info"):
            refused(command(verb, name), said)
    refused(command("translate", folder, "--tokenizer", tmp_path / "none"), "there is no tokenizer folder")
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    refused(command("translate", bert), "is a bert model", "no encoder-decoder")


def test_damaged_folders(folder, tmp_path):
    def copy(name):
        return Path(shutil.copytree(folder, tmp_path / name))

    cut = copy("cut")
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[: len(data) // 2])
    refused(command("translate", cut), "model.safetensors' is damaged")
    refused(command("info", cut), "model.safetensors' is damaged")
    (cut := copy("words") / "tokenizer.json").write_text("{")
    refused(command("translate", cut.parent), "tokenizer.json' is damaged")
    lacking = copy("lacking")
    tensors = load_file(lacking / "model.safetensors")
    del tensors["lm_head.bias"]
    save_file(tensors, lacking / "model.safetensors", {"format": "pt"})
    refused(command("translate", lacking), "lack 1 tensors", "lm_head.bias")
    assert "lm_head.bias is missing" in command("info", lacking).out
    large = save_model(tmp_path / "large", vocabulary=330)
    refused(command("translate", folder, "--tokenizer", large), "--tokenizer", "330 tokens")
    config = json.loads((folder / "config.json").read_text())
    other = copy("other")
    (other / "config.json").write_text(json.dumps(config | {"eos_token_id": 5}))
    refused(command("translate", other), "eos_token_id is 2 in the tokenizer but 5")


def test_code_beside_the_model_is_not_run(folder, tmp_path, monkeypatch):
    evil = Path(shutil.copytree(folder, tmp_path / "evil"))
    mark = tmp_path / MARK
    for name in ("modeling_vaswani", "configuration_vaswani", "tokenization_vaswani", "pipeline_vaswani", "evil"):
        (evil / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    config = json.loads((evil / "config.json").read_text())
    table = {"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Model", "AutoModel": "evil.Model"}
    (evil / "config.json").write_text(json.dumps(config | {"auto_map": table}))
    monkeypatch.chdir(evil)  # nothing in the current folder is imported either
    for words in (["translate", evil], ["info", evil], ["info", "."], ["push", evil, "me/x", "--dry-run"]):
        done = command(*words, stdin="A dog.\n")
        assert done.status == 0, done.err
    assert "PYTHON CODE is beside the model and was not run" in command("info", evil).out
    (evil / "config.json").write_text(json.dumps({"model_type": "unheard", "auto_map": table, "architectures": ["X"]}))
    refused(command("translate", evil), "brings Python code of its own", "--trust-remote-code")
    done = command("info", evil)
    assert done.status == 0 and "X (unheard)" in done.out and "numbers in the files" in done.out
    assert not mark.exists()


# score


@pytest.mark.parametrize("name", ["folder", "marian"])
def test_scores_agree_with_the_loss(request, name, pair):
    place = request.getfixturevalue(name)
    done = command("score", place, *pair, "--batch-size", 2)
    assert done.status == 0, done.err
    rows = [line.split("\t") for line in done.lines]
    cpu = torch.device("cpu")
    with cli.quiet_libraries():
        model, tokenizer = cli_models.load(str(place), device=cpu, precision=None)
    for number, (row, source, target) in enumerate(zip(rows, SOURCES, TARGETS, strict=True), start=1):
        batch = tokenizer([source], text_target=[target], return_tensors="pt")
        with torch.no_grad():
            loss = model(**batch).loss.item()
        count = batch["labels"].shape[1]
        assert (int(row[0]), int(row[2])) == (number, count)
        assert [float(row[1]), float(row[3])] == pytest.approx([-loss * count, -loss], rel=1e-5)
        assert float(row[4]) == pytest.approx(math.exp(loss), rel=1e-4)
    whole = perplexity(model, tokenizer, SOURCES, TARGETS)
    assert f"3 pairs, {whole['reference_tokens']} tokens" in done.err
    assert float(done.err.split()[-1]) == pytest.approx(whole["perplexity"], rel=1e-4)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_quantised_models_are_scored(folder, pair, monkeypatch):
    """The weights of their heads do not show how many logits there are."""
    load = cli_models.load

    def load_quantised(*args, **kwargs):
        model, tokenizer = load(*args, **kwargs)
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8), tokenizer

    plain = [float(line.split("\t")[1]) for line in command("score", folder, *pair).lines]
    monkeypatch.setattr(cli_models, "load", load_quantised)
    done = command("score", folder, *pair)
    assert done.status == 0, done.err
    assert [float(line.split("\t")[1]) for line in done.lines] == pytest.approx(plain, rel=0.05)


def test_scores_by_token_and_as_json(folder, pair, tmp_path):
    plain = [line.split("\t") for line in command("score", folder, *pair).lines]
    rows = [line.split("\t") for line in command("score", folder, *pair, "--by-token").lines]
    records = [json.loads(line) for line in command("score", folder, *pair, "--format", "jsonl", "--by-token").lines]
    for line, record in zip(plain, records, strict=True):
        own = [row for row in rows if row[0] == line[0]]
        assert [int(row[1]) for row in own] == list(range(1, int(line[2]) + 1)) and own[-1][2] == "</s>"
        assert sum(float(row[3]) for row in own) == pytest.approx(float(line[1]), abs=1e-4)
        assert [entry["token"] for entry in record["by_token"]] == [row[2] for row in own]
        assert record["log_prob"] == pytest.approx(float(line[1]), abs=1e-5) and record["line"] == int(line[0])
        assert record["perplexity"] == pytest.approx(float(line[4]), rel=1e-4)
    assert "by_token" not in json.loads(command("score", folder, *pair, "--format", "jsonl").lines[0])
    for words in (["--batch-size", 1], ["--max-tokens", 1], ["--buffer-size", 1], ["--output", tmp_path / "scores"]):
        done = command("score", folder, *pair, *words)
        text = done.out or (tmp_path / "scores").read_text()
        found = [[float(field) for field in line.split("\t")] for line in text.splitlines()]
        assert found == [pytest.approx([float(field) for field in line], rel=1e-4) for line in plain], words
    assert command("score", folder, "--source", "-", *pair[2:], stdin="\n".join(SOURCES)).lines == [
        "\t".join(line) for line in plain
    ]


def test_pairs_that_do_not_match_or_do_not_fit(folder, pair, tmp_path):
    def score(*words, **more):
        return command("score", folder, *words, **more)

    with (tmp_path / "a.en").open("a", encoding="utf-8") as file:
        file.write("\n")
    said = refused(score(*pair, "--output", tmp_path / "scores"), "a.de ends after line 3", "a.en has more")
    assert not (tmp_path / "scores").exists() and str(tmp_path) in said
    refused(score(*pair, "--buffer-size", 3), "a.de ends after line 3")
    done = score("--source", "-", "--target", "-")
    assert done.status == 2 and "both be standard input" in done.err
    refused(score("--source", tmp_path / "a.de", "--target", "-", stdin="a\n" + "b " * 2000), "ends after line 2")
    refused(score(*pair[:2], "--target", "-", stdin="a\n" + "b " * 2000 + "\nc\n\n"), "line 2", "--max-length")
    refused(score(*pair[:2], "--target", "-", stdin=b"a\n\xff\nc\n\n"), "stdin, line 2")
    refused(score(*pair, "--src-lang", "en"), "no languages")
    empty = score("--source", "-", "--target", "/dev/null", stdin="")
    assert empty.status == 0 and empty.out == "" and "no pairs" in empty.err


# info


def test_info_counts_as_torch_does(folder, marian, monkeypatch):
    monkeypatch.setattr(cli_models, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    found = json.loads(command("info", folder, "--json").out)
    model = vaswani_tx.VaswaniForConditionalGeneration.from_pretrained(folder)
    parameters = found["parameters"]
    total = sum(p.numel() for p in model.parameters())
    table = model.get_input_embeddings().weight.numel()
    assert parameters == {
        "total": total, "trainable": total, "embeddings": table, "without_embeddings": total - table, "exact": True,
    }  # fmt: skip
    assert found["tensors"]["count"] == total and found["tensors"]["bytes"] == 4 * total
    assert found["tensors"]["types"] == {"F32": total} and "problems" not in found["tensors"]
    assert (found["class"], found["family"]) == ("VaswaniForConditionalGeneration", "vaswani")
    assert found["tokenizer"]["vocabulary"] == 320
    assert found["tokenizer"]["special_tokens"]["eos_token"] == {"text": "</s>", "id": 2}
    assert found["generation"]["max_extra_tokens"] == 8 and found["sizes"]["d_model"] == 16
    assert found["files"] == {path.name: path.stat().st_size for path in folder.iterdir()}
    other = json.loads(command("info", marian, "--json").out)
    # Its sinusoidal positions are no parameters to train; from_pretrained forgets that they are not.
    model = MarianMTModel(MarianConfig.from_pretrained(marian))
    assert other["parameters"]["total"] == model.num_parameters()
    assert other["parameters"]["trainable"] == model.num_parameters(only_trainable=True)
    assert other["class"] == "MarianMTModel" and "problems" not in other["tensors"]
    text = command("info", folder).out
    assert f"{total:,}, of which {total:,} are trained" in text and "</s> 2" in text


def test_info_tells_where_a_model_comes_from_and_what_is_wrong(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "averaged")
    (run / "recipe.yaml").write_text("preset: tiny\n")
    (run / "metrics.jsonl").write_text("")
    (run / "finished.json").write_text(json.dumps({"step": 42}))
    parts = [{"started": "2026-01-01", "versions": {"torch": "2.13"}, "git": {"revision": "abc"}, "precision": "fp32"}]
    (run / "environment.json").write_text(json.dumps({"parts": parts}))
    corpora = [{"source": "train.en", "target": "train.de", "pairs": 7}]
    (run / "data.json").write_text(json.dumps({"corpora": corpora, "source_tokens": 9}))
    text = command("info", run / "averaged").out
    for words in ("42 updates, started 2026-01-01", "train.en, train.de: 7 pairs", "torch 2.13", "revision abc"):
        assert words in text
    assert json.loads(command("info", run / "averaged", "--json").out)["provenance"]["data"]["source_tokens"] == 9
    (run / "environment.json").write_text("{")
    refused(command("info", run / "averaged"), "environment.json' is damaged")
    config = json.loads((folder / "config.json").read_text())
    (run / "averaged" / "config.json").write_text(json.dumps(config | {"d_ff": 48}))
    (run / "environment.json").unlink()
    assert "has another shape" in command("info", run / "averaged").out
    for path in (run / "averaged").glob("*.safetensors"):
        path.unlink()
    (run / "averaged" / "tokenizer.json").write_text("{")
    text = command("info", run / "averaged").out
    assert "no safetensors file" in text and "cannot be loaded" in text
    t5 = tmp_path / "t5"
    T5Config(vocab_size=50, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4).save_pretrained(t5)
    assert "T5ForConditionalGeneration" not in command("info", t5).err and command("info", t5).status == 0


# push


def test_push_says_what_it_would_send_and_sends_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: WRITER)
    with FakeHub() as running:
        monkeypatch.setattr(hub, "HfApi", partial(HfApi, endpoint=running.url, token=WRITER))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        done = command("push", folder, "me/tiny", "--dry-run", "--no-code")
        assert done.status == 0 and "would be sent to me/tiny" in done.out and not running.requests
        (tmp_path / "card.md").write_text("---\n---\nOur card.\n")
        done = command("push", folder, "me/tiny", "--private", "--message", "First", "--card", tmp_path / "card.md")
        assert done.status == 0, done.err
        commit = running.commits("me/tiny")[-1]
        assert commit.message == "First" and commit.files["README.md"] == b"---\n---\nOur card.\n"
        assert "modeling_vaswani.py" in commit.files and running.repositories["me/tiny"].private
        assert "sent: " in done.out and str(len(commit.files["model.safetensors"])) in done.out.replace(",", "")
        refused(command("push", folder, "somebody/else"), "may not write", status=1)
    refused(command("push", tmp_path / "none", "me/x"), "there is no model folder")
    refused(command("push", folder, "me/x", "--card", tmp_path / "none"), "the card")
    refused(command("push", folder, "a b c", "--dry-run"), "owner/name")
    refused(command("push", folder, "me/x", "--run", tmp_path / "none", "--dry-run"), "There is no run folder")
