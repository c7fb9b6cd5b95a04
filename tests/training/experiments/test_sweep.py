"""The sweep command: its file checked before anything starts, rows trained, resumed and scored, and the table."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from accelerate.state import AcceleratorState

from tests.helpers import GOLDEN_PAPER, ROOT
from tests.helpers.training_runs import SMALL, steps
from vaswani_tx import PRESETS, VaswaniConfig
from vaswani_tx.training import evaluate_translation, sweep, train_translation
from vaswani_tx.training.experiments import child_commands
from vaswani_tx.training.experiments.child_commands import TRAIN, Commands
from vaswani_tx.training.experiments.sweep import evaluation_words, table_text
from vaswani_tx.training.experiments.sweep_rows import count_parameters, make_config, read_sweep

TABLE3 = ROOT / "training" / "sweeps" / "table3.yaml"
GOLDEN = GOLDEN_PAPER["table3_params"]
SETTINGS = {
    "train_source": "a.src", "train_target": "a.tgt", "validation_source": "v.src", "validation_target": "v.tgt",
    "preset": "tiny", "max_source_length": 20, "max_target_length": 20, "max_source_tokens": 60,
    "max_target_tokens": 60, "warmup_steps": 20, "eval_every": None, "save_every": 1, "average_last": 2,
    "final_beam": 1, "tracker": "none", "max_steps": 2, "tokenizer_vocab_size": 290, "model": SMALL,
}  # fmt: skip
ROWS = {
    "plain": {"paper": {"perplexity": 4.9, "bleu": 26.0, "parameters": 65}},
    "wide": {"set": {"model.d_ff": 64, "label_smoothing": 0.0}},
}


def write(tmp_path, data=None, **values):
    """A sweep file; JSON is YAML."""
    common = SETTINGS | ({"data_dir": str(data)} if data else {})
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"title": "Mine", "set": common, "rows": ROWS} | values), encoding="utf-8")
    return path


@pytest.fixture
def in_process(monkeypatch):
    """Runs the rows' commands in this process, where importing PyTorch costs nothing, and keeps what was run."""
    ran = []

    def run(self, words):
        module, flags = words[2], words[3:]
        ran.append((module.rpartition(".")[2], flags))
        AcceleratorState._reset_state(reset_partial_state=True)
        return {
            "vaswani_tx.training.train_translation": train_translation,
            "vaswani_tx.training.evaluate_translation": evaluate_translation,
        }[module].main(flags)

    monkeypatch.setattr(Commands, "run", run)
    return ran


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Tokenised data stay out of the user's cache."""
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path / "cache"))


# The file


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rwos": {}}, "mine.yaml: unknown key 'rwos': did you mean 'rows'?"),
        ({"rows": {"one": {"sett": {}}}}, "mine.yaml, row one: unknown key 'sett': did you mean 'set'?"),
        (
            {"rows": {"one": {"set": {"wramup_steps": 2}}}},
            "row one: unknown key 'wramup_steps': did you mean 'warmup_st",
        ),
        (
            {"rows": {"one": {"set": {"model.dropuot": 0.1}}}},
            "row one: model: VaswaniConfig has no field 'dropuot': did",
        ),
        ({"rows": {"one": {"set": {"model": {"dropuot": 0}}}}}, "row one: model: VaswaniConfig has no field 'dropuot'"),
        (
            {"rows": {"one": {"set": {"preset": "bsae"}}}},
            "row one: preset: there is none called 'bsae': did you mean 'bas",
        ),
        (
            {"rows": {"one": {"set": {"max_steps": "many"}}}},
            "row one: --max-steps: max_steps must be a whole number, got",
        ),
        ({"rows": {"one": {"set": {"model.num_heads": 3}}}}, "row one: model: num_heads=3 does not divide d_model=16"),
        ({"rows": {"one": {"set": {"output_dir": "x"}}}}, "row one: output_dir is made from the row's name"),
        ({"rows": {"one": {"paper": {"blue": 2}}}}, "row one, paper: unknown key 'blue': did you mean 'bleu'?"),
        ({"rows": {"one": {"paper": {"bleu": "2 %"}}}}, "row one, paper: bleu must be a number, got '2 %'"),
        ({"rows": {"a/b": {}}}, "row 'a/b': its folder needs a name of its own"),
        ({"rows": {}}, "mine.yaml has no rows"),
        ({"rows": [1]}, "mine.yaml, rows must be a mapping"),
        ({"recipe": "none.yaml"}, "row plain: No recipe at"),
        ({"evaluation": {"modle": "best"}}, "evaluation: unknown key 'modle': did you mean 'model'?"),
        ({"evaluation": {"model": "worst"}}, "evaluation: model must be one of averaged, best, last, got 'worst'"),
        ({"evaluation": {"metrics": "bleu"}}, "evaluation: metrics must be a list of names, such as [bleu, chrf]"),
        ({"evaluation": {"metrics": ["rouge3"]}}, "evaluation: unknown metric 'rouge3': did you mean 'rouge"),
        ({"evaluation": {"beam": 0}}, "evaluation: beam must be a whole number greater than 0"),
        ({"grid": {"seeds": [1]}}, "mine.yaml, grid: unknown key 'seeds': did you mean 'seed'?"),
        ({"grid": {"seed": 1}}, "mine.yaml, grid: seed must be a list of values"),
        ({"set": SETTINGS | {"validation_source": None}}, "row plain has no development set"),
        ({"set": SETTINGS | {"max_steps": None}}, "row plain: The run has no end"),
    ],
)
def test_a_wrong_file_is_named_with_row_and_fix(tmp_path, capsys, values, message):
    path = write(tmp_path, **values)
    assert sweep.main([str(path), "--output-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_wrong_flags_and_names_start_nothing(tmp_path, capsys):
    path, out = write(tmp_path), tmp_path / "out"
    for words, message in (
        (
            ["--wramup-steps", "2"],
            "row plain, with the flags given: Unknown flag '--wramup-steps': did you mean '--warmup",
        ),
        (["--only", "plian"], "has no row 'plian': did you mean 'plain'?"),
        (["--model.num_heads", "3"], "row plain, with the flags given: model: num_heads=3"),
    ):
        assert sweep.main([str(path), "--output-dir", str(out), *words]) == 2
        assert message in capsys.readouterr().err
    assert sweep.main([str(path)]) == 2
    assert "output_dir is empty: set it there or with --output-dir" in capsys.readouterr().err
    assert sweep.main(["nothing.yaml"]) == 2
    assert "In training/sweeps: table3.yaml" in capsys.readouterr().err
    (tmp_path / "twice.yaml").write_text("rows: {a: {}, a: {}}\noutput_dir: out\n")
    assert sweep.main([str(tmp_path / "twice.yaml")]) == 2
    assert "key 'a' is given twice (line 1)" in capsys.readouterr().err
    assert not out.exists()


def test_flags_hold_for_all_rows_and_say_what_they_replace(tmp_path, capsys):
    path = write(tmp_path, output_dir=str(tmp_path / "out"))
    read = read_sweep(path, ["--max-steps", "7", "--label-smoothing=0.3"])
    assert [row.arguments.max_steps for row in read.rows] == [7, 7]
    assert [row.arguments.label_smoothing for row in read.rows] == [0.3, 0.3]
    assert [row.arguments.model["d_ff"] for row in read.rows] == [32, 64]
    assert [row.arguments.output_dir for row in read.rows] == [str(tmp_path / "out" / name) for name in ROWS]
    assert [row.changed for row in read.rows] == ["-", "d_ff 64, label_smoothing 0.0"]
    assert capsys.readouterr().err == "warning: row wide: a flag replaces its label_smoothing.\n"


def test_a_grid_multiplies_the_rows(tmp_path):
    grid = {"seed": [1, 2], "model.dropout": [0.1, 0.3]}
    rows = read_sweep(write(tmp_path, grid=grid), output_dir="out").rows
    names = [row.name for row in rows]
    assert names[:4] == [f"plain,seed={seed},dropout={rate}" for seed in (1, 2) for rate in (0.1, 0.3)]
    assert len(names) == len(set(names)) == 8
    assert (rows[6].arguments.seed, rows[6].arguments.model["dropout"], rows[6].arguments.model["d_ff"]) == (2, 0.1, 64)
    alone = read_sweep(write(tmp_path, grid={"train_source": ["x/a b", "y"]}, rows=None), output_dir="out").rows
    assert [(row.name, row.arguments.train_source) for row in alone] == [
        ("train_source=x_a_b", "x/a b"), ("train_source=y", "y")
    ]  # fmt: skip


# Table 3


def test_table3_has_every_row_with_the_golden_counts(tmp_path):
    rows = {row.name: row for row in read_sweep(TABLE3, output_dir=tmp_path).rows}
    metrics = GOLDEN["paper_metrics"]
    assert list(rows) == list(metrics)
    for name, row in rows.items():
        assert [row.paper["perplexity"], row.paper["bleu"]] == metrics[name]
        assert row.arguments.preset == name
        assert row.arguments.max_steps == (300_000 if name == "big" else 100_000)
        assert row.arguments.label_smoothing == {"D_ls0.0": 0.0, "D_ls0.2": 0.2}.get(name, 0.1)
        assert row.arguments.tokenizer_vocab_size == 37000
        assert row.evaluation["model"] == "last"
    for golden in GOLDEN["rows"]:
        row = rows[golden["row"]]
        assert count_parameters(make_config(row.arguments)) == golden["total_V37000"], golden["row"]
        assert row.paper.get("parameters") == golden["paper_millions"]
    base = make_config(rows["base"].arguments)
    for name, field, value in (("D_drop0.0", "dropout", 0.0), ("E_learned_pos", "position_embedding", "learned")):
        changed = {key: value for key, value in vars(make_config(rows[name].arguments)).items() if key[0] != "_"}
        assert {key for key in changed if changed[key] != getattr(base, key)} == {field}
        assert changed[field] == value


# Sizes that no row is about; each row keeps what it changes.
CHEAP = {"d_model": 64, "d_ff": 64, "encoder_layers": 1, "decoder_layers": 1}


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("name", GOLDEN["paper_metrics"])
def test_every_row_of_table3_starts(name, reversal, tmp_path):
    own = {} if name == "big" else PRESETS[name]
    cheap = {key: value for key, value in CHEAP.items() if key not in own}
    flags = {
        "data_dir": reversal, "train_source": "a.src", "train_target": "a.tgt", "dataset_config": "null",
        "tokenizer": reversal / "tokenizer", "max_source_length": 40, "max_target_length": 40,
        "max_source_tokens": 60, "max_target_tokens": 60, "max_steps": 1, "tracker": "none",
    }  # fmt: skip
    flags |= {f"model.{key}": value for key, value in cheap.items()}
    read = read_sweep(TABLE3, [f"--{key}={value}" for key, value in flags.items()], str(tmp_path))
    (row,) = read.choose([name])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train_translation.main([*row.words, "--validation-source=null"]) == 0
    trained = VaswaniConfig.from_pretrained(tmp_path / name / "checkpoints" / "step-00000001")
    assert {key: getattr(trained, key) for key in own} == own
    assert trained.dropout == {"D_drop0.0": 0.0, "D_drop0.2": 0.2, "big": 0.3}.get(name, 0.1)


# Running


@pytest.mark.usefixtures("fresh_accelerate")
def test_rows_are_trained_scored_and_reported(reversal, tmp_path, in_process, capsys):
    rows = {"plain": ROWS["plain"], "lost": {"set": {"init_from": "nowhere"}}, "wide": ROWS["wide"]}
    path, out = write(tmp_path, reversal, rows=rows, note="Ours | theirs."), tmp_path / "out"
    assert sweep.main([str(path), "--output-dir", str(out)]) == 1
    error = capsys.readouterr().err
    assert "row lost failed with status 2; continuing with the next row." in error
    assert error.endswith("not done: lost failed with status 2\n")
    train, evaluate = "train_translation", "evaluate_translation"
    assert [module for module, _ in in_process] == [train, evaluate, train, train, evaluate]
    table = json.loads((out / "table.json").read_text())
    plain, lost, wide = table["rows"]
    evaluation = json.loads((out / "plain" / "evaluation.json").read_text())
    assert (plain["perplexity"], plain["bleu"], plain["bleu_signature"]) == tuple(
        evaluation[key] for key in ("perplexity", "bleu", "bleu_signature")
    )
    assert evaluation["settings"]["model"] == str(out / "plain" / "averaged")
    config = VaswaniConfig.from_pretrained(out / "wide" / "averaged")
    assert wide["parameters"] == count_parameters(config) == plain["parameters"] + 2 * (2 * 16 * 32 + 32)
    assert (plain["updates"], plain["state"], lost["state"]) == (2, "finished", "failed with status 2")
    lines = (out / "table.md").read_text().splitlines()
    assert lines[2] == "| row | changed | parameters | updates | PPL | BLEU | minutes | " + (
        "paper's PPL | paper's BLEU | paper's parameters | state |"
    )
    assert lines[4].startswith(f"| plain | - | {plain['parameters']:,} | 2 | {plain['perplexity']:.3f} |")
    assert lines[4].endswith("| 4.90 | 26.0 | 65 M | finished |")
    assert lines[6].startswith("| wide | d_ff 64, label_smoothing 0.0 | ")
    assert any(evaluation["bleu_signature"] in line for line in lines)
    assert lines[-1] == "- Ours | theirs."
    # All rows have the first one's tokenizer, and so its vocabulary.
    assert f"--tokenizer={out / 'plain' / 'tokenizer'}" in in_process[3][1]
    assert not any(word.startswith("--tokenizer=") for word in in_process[0][1])


@pytest.mark.fresh
@pytest.mark.usefixtures("fresh_accelerate")
def test_the_same_command_resumes(reversal, tmp_path, in_process, capsys):
    path, out = write(tmp_path, reversal), tmp_path / "out"
    words = [str(path), "--output-dir", str(out)]
    assert sweep.main([*words, "--only", "wide"]) == 0
    assert [row["state"] for row in json.loads((out / "table.json").read_text())["rows"]] == ["not begun", "finished"]
    in_process.clear()
    assert sweep.main(words) == 0
    assert [module for module, _ in in_process] == ["train_translation", "evaluate_translation"]
    assert f"--output-dir={out / 'plain'}" in in_process[0][1]
    in_process.clear()
    assert sweep.main(words) == 0
    assert in_process == []
    # Another way of scoring scores again, and only that; a higher limit resumes.
    best = write(tmp_path, reversal, evaluation={"model": "best"})
    assert sweep.main([str(best), *words[1:]]) == 0
    assert [module for module, _ in in_process] == ["evaluate_translation"] * 2
    in_process.clear()
    assert sweep.main([*words, "--only", "wide", "--max-steps", "3"]) == 0
    assert [module for module, _ in in_process] == ["train_translation", "evaluate_translation"]
    assert json.loads((out / "table.json").read_text())["rows"][1]["updates"] == 3
    in_process.clear()
    # A folder of another run is refused before anything starts.
    capsys.readouterr()
    assert sweep.main([*words, "--seed", "9"]) == 2
    assert "row plain: " in (error := capsys.readouterr().err)
    assert "holds a different run: seed was 1 and is now 9" in error
    assert in_process == []


def test_dry_run_prints_the_commands_and_writes_nothing(tmp_path, capsys):
    path, out = write(tmp_path), tmp_path / "out"
    launch = "training/accelerate_configs/ddp.yaml --num_processes 2"
    assert sweep.main([str(path), "--output-dir", str(out), "--dry-run", "--launch", launch, "--only", "wide"]) == 0
    printed = capsys.readouterr().out
    config = VaswaniConfig(**(SMALL | {"d_ff": 64}), vocab_size=290)
    assert printed.startswith(
        f"wide: d_ff 64, label_smoothing 0.0; {count_parameters(config):,} parameters with 290 tok"
    )
    assert (
        f"-m accelerate.commands.launch --config_file {launch} -m vaswani_tx.training.train_translation --train-source"
        in printed
    )
    assert printed.rstrip().endswith(f"--output-dir={out / 'wide'}")
    assert not out.exists()


def test_the_table_has_the_metrics_that_the_sweep_names(tmp_path):
    row = {"row": "plain", "changed": "-", "parameters": 1000, "updates": 2, "minutes": 1.0, "perplexity": 3.21049,
           "state": "finished", "scored": "averaged", "sentences": 5, "paper": {"rouge1": 40.1},
           "bleu": 20.0, "bleu_signature": "b", "chrf": 40.0, "rouge1": 33.333, "rouge1_signature": "r"}  # fmt: skip
    named = {"evaluation": {"metrics": ["rouge1", "bleu"]}, "rows": {"plain": {"paper": {"rouge1": 40.1}}}}
    for values, head, cells in (
        (named, "PPL | BLEU | ROUGE-1 | minutes | paper's ROUGE-1 |", "3.210 | 20.00 | 33.33 | 1.0 | 40.1 |"),
        ({}, "PPL | BLEU | minutes | paper's ROUGE-1 |", "3.210 | 20.00 | 1.0 | 40.1 |"),
    ):
        made = read_sweep(write(tmp_path, **values), [], str(tmp_path / "out"))
        lines = table_text(made, [row]).splitlines()
        assert head in lines[2] and cells in lines[4]
        assert ("- ROUGE-1: `r`" in lines) == bool(values)
    made = read_sweep(write(tmp_path, **named), [], str(tmp_path / "out"))
    words = evaluation_words(made.rows[0])
    assert words[words.index("--metrics") :][:3] == ["--metrics", "rouge1", "bleu"]
    assert evaluate_translation.parse(words).metrics == ["rouge1", "bleu"]


# Signals

CHILD = """
import os, signal, sys, time
seen = []
def handle(signum, frame):
    seen.append(signum)
signal.signal(signal.SIGTERM, handle)
signal.signal(signal.SIGINT, handle)
open(sys.argv[2], "w").write("ready")
deadline = time.monotonic() + 60
while not seen and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.3)
open(sys.argv[2], "w").write(f"{seen} {os.getsid(0)}")
sys.exit(128 + seen[0])
"""
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[2], *sys.argv[3:]]) and 1)"


@pytest.mark.usefixtures("default_signal_handlers")
@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_training_process_once(tmp_path, signum, launched):
    note = tmp_path / "note"
    words = [sys.executable, "-c", CHILD, TRAIN, str(note)]
    if launched:
        words = [sys.executable, "-c", LAUNCHER, child_commands.LAUNCHER, CHILD, TRAIN, str(note)]

    def send():
        while not note.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=send)
    with Commands() as commands:
        thread.start()
        status = commands.run(words)
        thread.join()
        assert commands.signum == signum
        assert commands.run(["never started"]) == 128 + signum
    told = signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM
    seen, session = note.read_text().rsplit(" ", 1)
    assert seen == f"[<Signals.{told.name}: {told.value}>]" or seen == f"[{told.value}]"
    assert int(session) != os.getsid(0)
    assert status == (1 if launched else 128 + told)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.fresh
def test_a_stopped_sweep_saves_and_goes_on(reversal, tmp_path, capfd, request):
    """A real process is trained; SIGTERM to the sweep, the row saves; the same command resumes it."""
    path, out = write(tmp_path, reversal, rows={"plain": {}, "wide": {}}), tmp_path / "out"
    metrics = out / "plain" / "metrics.jsonl"

    def send():
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    words = [str(path), "--output-dir", str(out), "--save-every=null", "--log-every=5"]
    assert sweep.main([*words, "--max-steps=1000000"]) == 128 + signal.SIGTERM
    thread.join()
    error = capfd.readouterr().err
    assert "stopped by SIGTERM; saved as" in error
    assert "sweep stopped by SIGTERM in row plain; the same command resumes there." in error
    (saved,) = steps(out / "plain")
    states = [row["state"] for row in json.loads((out / "table.json").read_text())["rows"]]
    assert states == ["begun", "not begun"]
    request.getfixturevalue("in_process")
    assert sweep.main([*words, f"--max-steps={saved + 1}", "--only", "plain"]) == 0
    assert f"resuming from {out / 'plain' / 'checkpoints'}" in capfd.readouterr().err
    first = json.loads((out / "table.json").read_text())["rows"][0]
    assert (first["state"], first["updates"]) == ("finished", saved + 1)
    assert first["bleu"] is not None
