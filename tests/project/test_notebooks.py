"""Every notebook runs from top to bottom, on a smaller corpus and for a few updates; the runner reports what fails."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

RUNNER = ROOT / "docs" / "tools" / "notebooks.py"
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# What makes a notebook short: (in its code, in the test).
ALL = [("--preset tiny", "SMALL"), ("--warmup-steps 50", "--warmup-steps 1")]
SHORTER = {
    "translate.ipynb": [("PAIRS, STEPS = 4000, 500", "PAIRS, STEPS = 100, 2"), *ALL],
    "look_inside.ipynb": [("PAIRS, STEPS = 4000, 500", "PAIRS, STEPS = 100, 2"), *ALL],
    "train.ipynb": [("PAIRS, UNSEEN = 6000, 200", "PAIRS, UNSEEN = 150, 5"), ("STEPS = 600", "STEPS = 2"), *ALL],
}
SMALL = "--preset tiny --model.encoder_layers 2 --model.decoder_layers 2 --model.d_model 32 --model.d_ff 32"


def run_notebook(path, folder, *words):
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RUNNER), str(path), "--folder", str(folder), *words]
    return subprocess.run(command, env=settings, capture_output=True, text=True, encoding="utf-8", timeout=240)


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    words = [word for old, new in SHORTER[path.name] for word in ("--replace", old, new.replace("SMALL", SMALL))]
    done = run_notebook(path, tmp_path, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    code = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert done.stdout.endswith(f"{path.name}: {len(code)} cells ran\n")


def test_notebooks_are_whole_and_small():
    assert {path.stem for path in NOTEBOOKS} == {"translate", "train", "look_inside"}
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert notebook["nbformat"] == 4 and notebook["cells"][0]["cell_type"] == "markdown"
        assert path.stat().st_size < 500_000
        for cell in notebook["cells"]:
            needed = {"cell_type", "metadata", "source"}
            assert set(cell) == needed | ({"outputs", "execution_count"} if cell["cell_type"] == "code" else set())
            assert not any(output["output_type"] == "error" for output in cell.get("outputs", []))


def make(path, *sources):
    cells = [
        {"cell_type": "code", "source": [s], "outputs": [], "execution_count": None, "metadata": {}} for s in sources
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}), encoding="utf-8")
    return path


def test_runner_names_the_cell_that_fails(tmp_path):
    path = make(tmp_path / "bad.ipynb", "a = 1", "b = a / 0\n")
    done = run_notebook(path, tmp_path)
    assert done.returncode == 1
    assert "bad.ipynb, cell 2 (b = a / 0): ZeroDivisionError" in done.stderr
    absent = run_notebook(path, tmp_path, "--replace", "c = 1", "c = 2")
    assert absent.returncode == 1 and "no cell holds 'c = 1'" in absent.stderr


def test_runner_stores_what_cells_print_return_and_draw(tmp_path):
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, 2])"
    path = make(tmp_path / "good.ipynb", "a = 1\nprint('one')\na + 1", draw, "a = a\n")
    before = path.read_text(encoding="utf-8")
    assert run_notebook(path, tmp_path).returncode == 0
    assert path.read_text(encoding="utf-8") == before
    assert run_notebook(path, tmp_path, "--write", "--replace", "print('one')", "print('two')").returncode == 0
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    printed, value = cells[0]["outputs"]
    assert printed["text"] == ["two\n"] and value["data"] == {"text/plain": ["2"]}
    assert cells[0]["source"] == ["a = 1\nprint('one')\na + 1"], "what is replaced is not stored"
    assert list(cells[1]["outputs"][0]["data"]) == ["image/png"]
    assert cells[2]["outputs"] == []


def test_runner_page_shows_text_code_and_outputs(tmp_path):
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "tools" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    path = make(tmp_path / "good.ipynb", "print('one')")
    assert run_notebook(path, tmp_path, "--write").returncode == 0
    page = hooks.notebook_page(path)
    assert page.startswith("```python\nprint('one')\n```") and "\none\n" in page and "good.ipynb" in page
