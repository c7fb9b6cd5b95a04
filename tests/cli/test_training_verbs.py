"""The verbs that hand over to the commands of `vaswani_tx.training`, quick help, and `vaswani-tx run`."""

import importlib
import json
import re
import subprocess
import sys
import tomllib

import pytest

from tests.helpers import ROOT
from tests.helpers.cli_runs import command, environment, refused
from vaswani_tx.cli import foreign, training
from vaswani_tx.cli.training import COMMANDS, Command

pytest_plugins = ["tests.helpers.cli_runs"]
VERBS = [
    (*([verb] if isinstance(found, Command) else [verb, kind]),)
    for verb, found in COMMANDS.items()
    for kind in ([None] if isinstance(found, Command) else found)
]
MEASURE = """
import sys, time
start = time.perf_counter()
from vaswani_tx.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
assert not status, status
heavy = {"torch", "transformers", "datasets", "matplotlib", "pandas", "sklearn", "scipy"} & set(sys.modules)
print(time.perf_counter() - start, *heavy, file=sys.stderr)
"""


def command_of(words):
    found = COMMANDS[words[0]]
    return found if isinstance(found, Command) else found[words[1]]


@pytest.mark.parametrize("words", [(), *VERBS, ("train",), ("evaluate",), ("run",), ("translate",)], ids=" ".join)
def test_help_is_quick_and_imports_neither_torch_nor_transformers(words):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words, "--help"], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    _, *heavy = done.stderr.split()
    assert heavy == []
    assert len(done.stdout) > 200
    if words and words[0] in ("train", "evaluate") and len(words) == 1:
        assert all(f"  {kind} " in done.stdout for kind in COMMANDS[words[0]])


def test_help_of_the_whole_names_every_verb_and_kind():
    text = command("--help").out
    for words in VERBS:
        assert re.search(rf"(^|\s){words[-1]}[\s,]", text), words
    for verb in ("translate", "score", "info", "push", "run"):
        assert re.search(rf"^  {verb} ", text, re.M)
    assert "pip install 'vaswani-tx[train]'" in text


def test_words_reach_the_command_unread(monkeypatch):
    seen = []

    class Module:
        @staticmethod
        def main(words):
            seen.append(words)
            return 7

    names = []
    monkeypatch.setattr(training.importlib, "import_module", lambda name: names.append(name) or Module)
    monkeypatch.setattr(training, "check_extra", lambda: None)
    for words in VERBS:
        assert training.run([*words, "a b", "--x", "--", "-1"]) == 7
        assert names.pop() == f"vaswani_tx.training.{command_of(words).module}"
        assert seen.pop() == ["a b", "--x", "--", "-1"]
    assert training.run(["evaluate", "--model", "m", "--source", "s"]) == 7
    assert names == ["vaswani_tx.training.evaluate_translation"] and seen == [["--model", "m", "--source", "s"]]


def test_a_wrong_kind_or_verb_names_the_nearest():
    refused(command("train", "translatoin"), "there is no 'translatoin': did you mean 'translation'?")
    refused(command("evaluate", "xyz"), "there is no 'xyz': there are translation, language-model")
    done = command("trian")
    assert done.status == 2 and "there is no verb 'trian': did you mean 'train'?" in done.err
    assert command("train").status == 2 and command("train", "--help").status == 0


def test_wrong_keys_end_with_2_and_the_nearest_one(tmp_path):
    done = command("train", "translation", "--max-stepz", 3, "--output-dir", tmp_path)
    assert done.status == 2 and "did you mean '--max-steps'?" in done.err


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_without_the_extra_one_line_names_it(words, monkeypatch):
    def hide(name, package=None):
        return None if name in ("accelerate", "sacrebleu") else importlib.machinery.ModuleSpec(name, None)

    monkeypatch.setattr(training, "find_spec", hide)
    done = command(*words, "x")
    refused(done, "pip install 'vaswani-tx[train]'", "accelerate, sacrebleu")
    assert done.err.count("\n") == 1 and not done.out


def test_a_package_that_only_the_work_needs_is_named_too(monkeypatch):
    real = importlib.import_module

    def import_module(name, package=None):
        if name == "vaswani_tx.training.report":
            raise ModuleNotFoundError("No module named 'rouge_score'", name="rouge_score")
        return real(name, package)

    monkeypatch.setattr(training.importlib, "import_module", import_module)
    refused(command("report", "x"), "rouge_score is not installed: pip install 'vaswani-tx[train]'")


def test_the_packages_asked_for_are_those_of_the_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extra = {re.match(r"[\w-]+", line)[0] for line in project["project"]["optional-dependencies"]["train"]}
    imported = {"pillow": "PIL", "scikit-learn": "sklearn", "rouge-score": "rouge_score"}
    assert {imported.get(name, name) for name in extra} - {"tensorboard"} == set(training.REQUIRED)


# run


@pytest.mark.slow
def test_run_knows_the_models_that_a_foreign_module_loads(folder, tmp_path):
    (tmp_path / "foreign_tool").mkdir()
    (tmp_path / "foreign_tool" / "__init__.py").touch()
    (tmp_path / "foreign_tool" / "__main__.py").write_text(
        "import json, sys\n"
        "from transformers import AutoModelForSeq2SeqLM\n"
        "assert __name__ == '__main__' and sys.argv[0].endswith('__main__.py')\n"
        "print(json.dumps([type(AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1])).__name__, *sys.argv[1:]]))\n"
        "sys.exit(5)\n"
    )
    words = ["run", "-m", "foreign_tool", str(folder), "--help", "-m"]
    done = subprocess.run(
        [sys.executable, "-m", "vaswani_tx", *words], env=environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 5, done.stderr
    assert json.loads(done.stdout) == ["VaswaniForConditionalGeneration", str(folder), "--help", "-m"]


def test_run_of_a_script(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    (tmp_path / "script.py").write_text(
        "import sys\nfrom beside import NAME\nfrom transformers import AutoConfig\n"
        "print(__name__, NAME, AutoConfig.from_pretrained(sys.argv[1]).model_type, sys.argv)\n"
    )
    script = str(tmp_path / "script.py")
    monkeypatch.setattr(sys, "argv", ["vaswani-tx"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert foreign.run([script, str(folder), "-x"]) == 0
    assert capsys.readouterr().out == f"__main__ beside vaswani {[script, str(folder), '-x']}\n"


def test_run_of_what_is_not_there(tmp_path):
    refused(command("run", "-m", "no_such_tool"), "there is no module 'no_such_tool'")
    refused(command("run", "-m", "no_such.tool"), "there is no module 'no_such.tool'")
    refused(command("run", "-m", "json"), "there is no module 'json' that runs")
    refused(command("run", "-m"), "needs the name of a module")
    refused(command("run", tmp_path / "none.py"), "there is no file", "none.py")
    refused(command("run", "unittest"), "`vaswani-tx run -m unittest` runs a module")
    refused(command("run", "--quiet"), "comes before the program")
    assert command("run").status == 2 and command("run", "--help").status == 0
