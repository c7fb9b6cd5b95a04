"""Back-translation and distillation: pairs of a model, filtered, killed at any moment and resumed to the same bytes."""

import gzip
import json
import os
import signal

import pytest
import yaml

from tests.helpers.cli_runs import LINES, save_model
from tests.helpers.processes import run_child
from tests.helpers.training_runs import flags, run
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.cli.models import load
from vaswani_tx.pipeline_vaswani import TranslationPipeline
from vaswani_tx.training import backtranslate, distill, train_translation
from vaswani_tx.training.inference import synthetic

MONO = [*LINES[:5], "", LINES[1], "   ", LINES[0]]
SIZE = ["--buffer-size", "3", "--max-length", "4", "--device", "cpu", "-q", "--max-length-ratio", "1000"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("reverse"))


@pytest.fixture
def mono(tmp_path):
    (tmp_path / "mono.de").write_text("".join(f"{line}\n" for line in MONO), encoding="utf-8")
    return tmp_path / "mono.de"


def words(model, mono, output, *more):
    return ["--model", str(model), "--input", str(mono), "--output-dir", str(output), *SIZE, *map(str, more)]


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def texts(folder, side):
    return (folder / f"{side}.txt").read_text(encoding="utf-8").splitlines()


def test_pairs_are_the_models_translations_with_an_entry_for_a_recipe(model, mono, tmp_path, capsys):
    output = tmp_path / "bt"
    assert backtranslate.main(words(model, mono, output, "--beams", 2)) == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(synthetic.RESULT)
    assert not (tmp_path / "bt.part").exists()
    filled = [line for line in MONO if line.strip()]
    pipe = TranslationPipeline(*load(str(model), device="cpu", precision=None))
    expected = [record["translation_text"] for record in pipe(filled, num_beams=2, max_new_tokens=4)]
    kept = [(a, b) for a, b in zip(expected, filled, strict=True) if a.strip()]
    assert list(zip(texts(output, "source"), texts(output, "target"), strict=True)) == kept and len(kept) > 4
    [entry] = yaml.safe_load((output / "corpus.yaml").read_text(encoding="utf-8"))
    assert entry == {"source": f"{output}/source.txt", "target": f"{output}/target.txt", "tag": "<BT>", "weight": 1.0}
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out) == [entry]
    assert f"with an empty side). Empty are for example {mono} line 6, " in shown.err
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["counts"]["read"] == len(MONO) and report["counts"]["kept"] == len(kept)
    assert report["counts"]["empty"] == len(MONO) - len(kept) and report["settings"]["beams"] == 2


@pytest.mark.fresh
def test_distillation_turns_the_sides_round_and_has_no_tag(model, mono, tmp_path):
    with gzip.open(tmp_path / "mono.de.gz", "wb") as file:
        file.write(mono.read_bytes())
    assert backtranslate.main(words(model, mono, tmp_path / "bt", "--tag", "")) == 0
    assert distill.main(words(model, f"{mono}.gz", tmp_path / "kd")) == 0
    for one, other in (("source", "target"), ("target", "source")):
        assert texts(tmp_path / "bt", one) == texts(tmp_path / "kd", other)
    for name in ("bt", "kd"):
        assert "tag" not in yaml.safe_load((tmp_path / name / "corpus.yaml").read_text(encoding="utf-8"))[0]


@pytest.mark.fresh
def test_draws_differ_by_seed(model, mono, tmp_path):
    made = {}
    for name, more in {"a": [4], "c": [5]}.items():
        assert backtranslate.main(words(model, mono, tmp_path / name, "--sample", "--top-k", 20, "--seed", *more)) == 0
        made[name] = texts(tmp_path / name, "source")
    assert made["a"] != made["c"]


def stopped_at(monkeypatch, place, number, error):
    """Raise an error where something is called for the nth time."""
    original, calls = getattr(*place), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(*place, call)


@pytest.mark.parametrize(
    "more",
    [pytest.param(["--beams", "2"], marks=pytest.mark.fresh), ["--sample", "--seed", "9"]],
    ids=["search", "sample"],
)
def test_what_is_stopped_anywhere_resumes_to_the_same_bytes(model, mono, tmp_path, monkeypatch, capsys, more):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert backtranslate.main(words(model, mono, whole, *more)) == 0
    places = [((synthetic.Sampler, "__call__"), 3), ((synthetic, "_lengths"), 1)]
    for place, number in places:
        with monkeypatch.context() as patch:
            stopped_at(patch, place, number, KeyboardInterrupt())
            assert backtranslate.main(words(model, mono, parts, *more)) == 130
            assert "the same command resumes from there" in capsys.readouterr().err and not parts.exists()
    with monkeypatch.context() as patch:
        if "--sample" not in more:
            stopped_at(patch, (synthetic.Sampler, "__call__"), 1, AssertionError("translated again"))
        assert backtranslate.main(words(model, mono, parts, *more)) == 0
    for side in ("source", "target"):
        assert (whole / f"{side}.txt").read_bytes() == (parts / f"{side}.txt").read_bytes()
    one, other = (json.loads((folder / "report.json").read_text()) for folder in (whole, parts))
    assert one == other


@pytest.mark.fresh
def test_a_killed_process_resumes_to_the_same_bytes(model, mono, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert backtranslate.main(words(model, mono, whole)) == 0

    def killed():
        translate, calls = synthetic.Sampler.__call__, []

        def call(self, block):
            calls.append(block)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return translate(self, block)

        synthetic.Sampler.__call__ = call
        return backtranslate.main(words(model, mono, parts))

    assert run_child(killed).returncode == -signal.SIGKILL
    assert len((tmp_path / "parts.part" / "translations.txt.part").read_text().splitlines()) == 6
    assert backtranslate.main(words(model, mono, parts)) == 0
    for side in ("source", "target"):
        assert (whole / f"{side}.txt").read_bytes() == (parts / f"{side}.txt").read_bytes()


def test_filters_take_copies_repetitions_and_uneven_pairs(model, mono, tmp_path, monkeypatch, capsys):
    answers = {LINES[0]: LINES[0], LINES[1]: "x " * 40, LINES[2]: "good"}

    def call(self, block):
        return "".join(f"{answers.get(text, 'fine text here')}\n" if text.strip() else "\n" for text in block.texts)

    monkeypatch.setattr(synthetic.Sampler, "__call__", call)
    more = ["--max-length-ratio", 4, "--drop-copies", "--drop-duplicates"]
    assert backtranslate.main(words(model, mono, tmp_path / "bt", *more)) == 0
    counts = json.loads((tmp_path / "bt" / "report.json").read_text())["counts"]
    assert counts["empty"] == 2 and counts["copies"] == MONO.count(LINES[0]) and counts["duplicates"] > 0
    assert "x " * 40 not in texts(tmp_path / "bt", "source") and counts["ratio"] >= 1
    assert (
        counts["read"]
        == len(MONO)
        == counts["kept"] + sum(counts[reason] for reason in ("empty", "copies", "duplicates", "ratio", "too_short"))
    )
    assert "Dropped" in capsys.readouterr().err


def test_nothing_is_overwritten_and_other_settings_do_not_resume(model, mono, tmp_path, monkeypatch, capsys):
    output = tmp_path / "bt"
    with monkeypatch.context() as patch:
        stopped_at(patch, (synthetic.Sampler, "__call__"), 2, KeyboardInterrupt())
        assert backtranslate.main(words(model, mono, output)) == 130
    assert backtranslate.main(words(model, mono, output, "--beams", 3)) == 2
    assert "was made with other settings (beams was None and is 3)" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        stopped_at(patch, (synthetic, "_lengths"), 1, KeyboardInterrupt())
        assert backtranslate.main(words(model, mono, output, "--beams", 3, "--restart")) == 130
    assert backtranslate.main(words(model, mono, output)) == 2
    assert "with other settings or input (beams)" in capsys.readouterr().err
    assert backtranslate.main(words(model, mono, output, "--beams", 3)) == 0
    assert backtranslate.main(words(model, mono, output)) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert backtranslate.main(words(model, mono, output, "--overwrite", "--beams", 1)) == 0
    assert json.loads((output / "report.json").read_text())["settings"]["beams"] == 1
    (output / "notes.md").write_text("mine")
    before = files_of(output)
    assert backtranslate.main(words(model, mono, output, "--overwrite")) == 2
    assert "holds notes.md, which is not of such a command" in capsys.readouterr().err and files_of(output) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--input", "nothing.de"], "there is no file 'nothing.de'"),
        (["--model", "nowhere"], "nowhere"),
        (["--tag", "BT"], "'BT' cannot be a tag"),
        (["--sample", "--beams", "2"], "--sample and --beams are two ways to decode"),
        (["--top-k", "5"], "--top-k is of --sample"),
        (["--sample", "--temperature", "0"], "is no sampling"),
        (["--input", "-"], "--input must be a file"),
    ],
)
def test_wrong_input_ends_with_status_2_and_leaves_nothing(model, mono, tmp_path, capsys, more, message):
    try:
        status = backtranslate.main([*words(model, mono, tmp_path / "bt"), *more])
    except SystemExit as stop:
        status = stop.code
    err = capsys.readouterr().err
    assert status == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "bt").exists() and not (tmp_path / "bt.part").exists()


def test_a_line_that_is_no_utf_8_is_named_and_what_was_done_is_kept(model, mono, tmp_path, capsys):
    mono.write_bytes("".join(f"{line}\n" for line in LINES[:4]).encode() + b"\xff\n")
    assert backtranslate.main(words(model, mono, tmp_path / "bt")) == 2
    assert "line 5" in capsys.readouterr().err and not (tmp_path / "bt").exists()


@pytest.mark.fresh
def test_the_entry_trains_a_model(reversal, tmp_path, fresh_accelerate, capsys):
    start = run(reversal, tmp_path / "start", max_steps=1, average_last=1, token_cache="false")
    [step] = (start / "checkpoints").iterdir()
    made = ["--model", str(step), "--input", str(reversal / "a.tgt"), "--output-dir", str(tmp_path / "bt")]
    assert backtranslate.main([*made, "--sample", "--max-length", "9", "--device", "cpu", "-q"]) == 0
    corpora = [{"source": "a.src", "target": "a.tgt"}, *yaml.safe_load(capsys.readouterr().out)]
    more = {"corpora": json.dumps(corpora), "train_source": "", "train_target": "null", "token_cache": "false"}
    assert train_translation.main(flags(reversal, tmp_path / "run", max_steps=1, average_last=1, **more)) == 0
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["corpora"][1]["tag"] == "<BT>" and data["corpora"][1]["pairs"] > 5
    [last] = (tmp_path / "run" / "checkpoints").iterdir()
    assert len(VaswaniTokenizer.from_pretrained(last).tokenize("<BT> ba")) == 2
