"""The wheel holds `vaswani_tx` with its training commands alone; installed from it, they train and translate."""

import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
import torch

import vaswani_tx
from tests.helpers import ROOT

# Documents that are read in the repository.
NOT_INSTALLED = {"training/LOG.md", "training/README.md"}
SOURCE = ["A dog runs on the grass.", "Two men talk.", "A woman reads a book.", "The dog sleeps."]
TARGET = ["Ein Hund läuft über das Gras.", "Zwei Männer reden.", "Eine Frau liest ein Buch.", "Der Hund schläft."]


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory):
    """The wheel, built without network from a copy, so that the checkout gets no build folders."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        copy(ROOT / name, source)
    for name in ("vaswani_tx", "training", "tests"):
        copytree(ROOT / name, source / name, ignore=ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(wheel_file):
    with zipfile.ZipFile(wheel_file) as archive:
        yield archive


@pytest.mark.slow
def test_wheel_holds_the_library_and_training_only(wheel):
    names = wheel.namelist()
    packages = {name.split("/")[0] for name in names}
    assert packages == {"vaswani_tx", f"vaswani_tx-{vaswani_tx.__version__}.dist-info"}
    assert "vaswani_tx/py.typed" in names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vaswani_tx").rglob("*.py")}
    assert sources <= set(names), "a module of the library is missing"
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "training").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name} - NOT_INSTALLED
    installed = {f"training/{name.removeprefix('vaswani_tx/training/')}" for name in names if "/training/" in name}
    assert files == installed, "a command, recipe, sweep, template or setting of training is missing, or too much"
    assert {Path(name).suffix for name in files} == {".py", ".yaml", ".html"}


@pytest.fixture(scope="module")
def installed(wheel_file, tmp_path_factory):
    """The wheel in an environment of its own, which borrows nothing but the dependencies; the folder of its commands.

    A folder that a .pth file adds is searched for packages, but its own .pth files, such as the finder of this
    checkout's editable installation, do nothing.
    """
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True, timeout=120)
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    command = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "install", "--no-deps", "--no-index", str(wheel_file)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = place.rglob("site-packages/vaswani_tx")
    dependencies = Path(torch.__file__).parents[1]
    (packages.parent / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
    return scripts


def run_installed(installed, folder, command, *words, stdin=""):
    """Run an installed command outside of the checkout; return its output."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(installed / command), *map(str, words)], env=own | {"OMP_NUM_THREADS": "1"}, cwd=folder, input=stdin,
        capture_output=True, encoding="utf-8", timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.fresh
def test_installed_alone_it_trains_and_translates(installed, tmp_path):
    (tmp_path / "a.en").write_text("".join(f"{line}\n" for line in SOURCE * 5), encoding="utf-8")
    (tmp_path / "a.de").write_text("".join(f"{line}\n" for line in TARGET * 5), encoding="utf-8")
    program = "import importlib.util, vaswani_tx.training as t; print(t.__file__, importlib.util.find_spec('training'))"
    place, _, training = run_installed(installed, tmp_path, "python", "-c", program).strip().rpartition(" ")
    assert Path(place).is_relative_to(installed.parent) and training == "None"
    run_installed(
        installed, tmp_path, "vaswani-tx", "train", "translation", "--preset", "tiny",
        "--train-source", "a.en", "--train-target", "a.de", "--tokenizer-vocab-size", "300",
        "--model.encoder_layers", "1", "--model.decoder_layers", "1", "--model.d_model", "32", "--model.d_ff", "32",
        "--max-steps", "4", "--save-every", "2", "--tracker", "none", "--output-dir", "run",
    )  # fmt: skip
    said = run_installed(
        installed,
        tmp_path,
        "vaswani-tx",
        "translate",
        "run/averaged",
        "--max-length",
        "5",
        stdin="A dog.\n\nTwo men.\n",
    )
    assert said.count("\n") == 3 and said.split("\n")[1] == ""


@pytest.mark.slow
def test_wheel_says_what_it_is(wheel):
    info = f"vaswani_tx-{vaswani_tx.__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "vaswani-tx"
    assert metadata["Version"] == vaswani_tx.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {
        "train",
        "trackers",
        "vision",
        "dev",
        "zstd",
        "docs",
        "export",
        "bench",
    }
    needed = {re.match(r"[\w-]+", line)[0] for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert needed == {"torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "pyyaml"}
    licence = wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence


def test_constraints_pin_every_dependency_exactly():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = set()
    for block in re.findall(r"^(?:dependencies|train|dev|docs) = \[(.*?)\]", text, re.M | re.S):
        wanted |= {re.match(r"[\w-]+", name)[0].lower().replace("_", "-") for name in re.findall(r'"([^"]+)"', block)}
    assert len(wanted) > 20
    assert wanted <= pinned, sorted(wanted - pinned)
