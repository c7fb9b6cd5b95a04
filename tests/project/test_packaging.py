"""The wheel holds `vaswani_tx` and nothing else, with its licence, type marker and the version of the source."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from shutil import copy, copytree, ignore_patterns

import pytest

import vaswani_tx
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
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
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.slow
def test_wheel_holds_the_library_only(wheel):
    names = wheel.namelist()
    packages = {name.split("/")[0] for name in names}
    assert packages == {"vaswani_tx", f"vaswani_tx-{vaswani_tx.__version__}.dist-info"}
    assert "vaswani_tx/py.typed" in names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vaswani_tx").rglob("*.py")}
    assert sources <= set(names), "a module of the library is missing"


@pytest.mark.slow
def test_wheel_says_what_it_is(wheel):
    info = f"vaswani_tx-{vaswani_tx.__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "vaswani-tx"
    assert metadata["Version"] == vaswani_tx.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {"train", "trackers", "vision", "dev"}
    needed = {re.match(r"[\w-]+", line)[0] for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert needed == {"torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy"}
    licence = wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence


def test_constraints_pin_every_dependency_exactly():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = set()
    for block in re.findall(r"^(?:dependencies|train|dev) = \[(.*?)\]", text, re.M | re.S):
        wanted |= {re.match(r"[\w-]+", name)[0].lower().replace("_", "-") for name in re.findall(r'"([^"]+)"', block)}
    assert len(wanted) > 20
    assert wanted <= pinned, sorted(wanted - pinned)
