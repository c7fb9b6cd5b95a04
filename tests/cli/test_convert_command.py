"""`vaswani-tx convert`: the report, what it refuses, and that nothing half-written is left."""

import json
import subprocess
import sys

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tests.helpers.foreign_models import marian_folder
from vaswani_tx.cli import main


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return marian_folder(tmp_path_factory.mktemp("marian") / "opus", tags=(">>deu<<",))


def test_a_report_and_a_folder_that_translates(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(source), str(out), "--with-code"]) == 0
    printed = capsys.readouterr().out
    model = "VaswaniForConditionalGeneration, 2+1 layers, d_model 24"
    for part in ("marian-hf", model, "0 ignored", "float64", str(out)):
        assert part in printed
    assert "44 of 44" in printed and (out / "modeling_vaswani.py").is_file() and (out / "README.md").is_file()
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer.has_target and model.generation_config.num_beams == 4
    (tmp_path / "lines").write_text(">>deu<< the big dog\n\n")
    options = ["--input", str(tmp_path / "lines"), "--device", "cpu", "-q"]
    assert main(["translate", str(out), *options]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines", "out"]


def test_what_is_there_is_kept_unless_it_may_be_replaced(source, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    arguments = ["convert", str(source), str(out), "--no-verify"]
    assert main(arguments) == 2
    assert "is not empty (notes.txt)" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert "no: --no-verify was given" in capsys.readouterr().out
    assert (out / "notes.txt").read_text() == "mine" and (out / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all", "OUT"], "there is no folder or file 'nowhere/at/all'"),
        (["no/repository", "OUT"], "no repository of that name could be had from the Hub"),
        (["SOURCE", "OUT", "--format", "marian-fh"], "there is no format 'marian-fh': did you mean 'marian-hf'"),
        (["SOURCE", "OUT", "--format", "bert-hf"], "says model_type 'marian', not 'bert'"),
        (["SOURCE", "OUT", "--map", "map.yaml"], "no ready map 'map.yaml'"),
        (["SOURCE", "OUT", "--format", "marian-hf", "--map", "map.yaml"], "has no such option"),
        (["SOURCE", "SOURCE", "--overwrite"], "holds the source itself"),
        (["EMPTY", "OUT"], "is of no format that is known"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(source, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"SOURCE": str(source), "OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "empty")}
    assert main(["convert", *(places.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json' is damaged"),
        ("source.spm", "none", "source.spm' is damaged"),
        ("vocab.json", '{"<unk>": 0, "</s>": 1}', "no '<pad>'"),
        ("vocab.json", '{"<unk>": 0, "</s>": 1, "<pad>": 5000}', "has ids beyond the model's vocabulary"),
        ("tokenizer_config.json", '{"extra_special_tokens": ["<x>"]}', "adds '<x>' to the vocabulary"),
        ("model.safetensors", "x", "model.safetensors' is damaged"),
    ],
)
def test_damaged_files_are_named(source, tmp_path, capsys, file, content, message):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in source.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / file).write_text(content)
    assert main(["convert", str(damaged), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged"]


def test_a_folder_without_a_tokenizer_says_so(source, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (bare / name).write_bytes((source / name).read_bytes())
    assert main(["convert", str(bare), str(tmp_path / "out"), "--no-verify"]) == 0
    assert "no tokenizer was written, because the source has no source.spm" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "vaswani"


@pytest.mark.fresh
def test_help_needs_no_torch():
    code = "import sys; from vaswani_tx.cli import main\n"
    code += "try:\n    main(['convert', '--help'])\nfinally:\n    print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "marian-hf" in found.stdout and found.stdout.splitlines()[-1] == "False"
