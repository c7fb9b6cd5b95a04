"""Each house rule holds for this checkout, and each is seen to catch a violation planted in a small clean project."""

import subprocess

import pytest

from tests import quality_rules
from tests.helpers import ROOT

SLASH = "/"  # keeps the planted paths of this file from being violations themselves

CLEAN = {
    "README.md": "Train in `runs/first`, see docs/work/notes and example.org/tmp/page.\n",
    "vaswani_tx/__init__.py": "from .configuration_vaswani import Config\n",
    "vaswani_tx/configuration_vaswani.py": '"""Settings."""\n\nimport math\n\nimport torch\n\nConfig = (math, torch)\n',
    "vaswani_tx/layers_vaswani.py": "from transformers import x\n\nfrom .configuration_vaswani import Config\n",
    "vaswani_tx/image_processing_vaswani.py": "def load():\n    from PIL import Image\n\n    return Image\n",
    "vaswani_tx/modeling_vaswani.py": "from .layers_vaswani import (\n    Config,\n)\n",
    "vaswani_tx/modeling_vaswani_encoder.py": "from .modeling_vaswani import Config\n",
    "vaswani_tx/hub.py": "from vaswani_tx.modeling_vaswani import Config\n",
    "vaswani_tx/cli.py": "from .hub import Config\n\nprint(Config)\n",
    "vaswani_tx/convert/__init__.py": "from ..modeling_vaswani import Config\n",
    "vaswani_tx/convert/marian.py": "import sentencepiece\n",
    "training/__init__.py": "",
    "training/engine/loop.py": "import vaswani_tx\nfrom training import data\n\nprint(vaswani_tx, data)\n",
    "training/data/parallel.py": "",
    "tests/test_loop.py": "import vaswani_tx.training.engine.loop\n",
}

# rule, file, its text (added at the end of what CLEAN has there), part of the message
PLANTED = [
    ("import-direction", "vaswani_tx/layers_vaswani.py", "from .modeling_vaswani import X", "stands after"),
    (
        "import-direction",
        "vaswani_tx/layers_vaswani.py",
        "def f():\n    from .modeling_vaswani import X",
        "stands after",
    ),
    ("import-direction", "vaswani_tx/hub.py", "from .cli import X", "stands after"),
    ("import-direction", "vaswani_tx/hub.py", "import vaswani_tx.training.engine.loop", "must not import training"),
    ("import-direction", "vaswani_tx/convert/marian.py", "def f():\n    from training import data", "must not import"),
    ("import-direction", "training/data/parallel.py", "from tests import test_loop", "must not import tests"),
    ("import-cycle", "vaswani_tx/modeling_vaswani.py", "from .modeling_vaswani_encoder import X", "imports itself"),
    ("closure-name", "vaswani_tx/helpers_vaswani.py", "", "add it to CLOSURE_RANKS"),
    ("unique-name", "vaswani_tx/export/marian.py", "", "flat folder"),
    ("closure-import", "vaswani_tx/modeling_vaswani.py", "from . import layers_vaswani", "copies only"),
    ("closure-import", "vaswani_tx/modeling_vaswani.py", "from .hub import X", "copies only"),
    ("closure-import", "vaswani_tx/modeling_vaswani.py", "from .convert.marian import X", "copies only"),
    ("closure-import", "vaswani_tx/modeling_vaswani.py", "from vaswani_tx.layers_vaswani import X", "do not travel"),
    ("closure-import", "vaswani_tx/modeling_vaswani.py", "import scipy.special", "scipy"),
    ("closure-import", "vaswani_tx/image_processing_vaswani.py", "from PIL import Image", "PIL"),
    ("closure-text", "vaswani_tx/modeling_vaswani.py", 'X = """How:\n    from .x import y\n"""', "text that begins"),
    ("no-print", "vaswani_tx/hub.py", "def f():\n    print(1)", "logging"),
    ("machine-path", "README.md", f"see {SLASH}work/shared", "one machine only"),
    ("machine-path", "training/data/parallel.py", f"FOLDER = '{SLASH}tmp/out'", "one machine only"),
    ("file-length", "training/data/parallel.py", "x = 1\n" * 450, "451 lines, at most 450"),
    ("file-length", "tests/test_loop.py", "x = 1\n" * 599, "at most 600"),
    ("file-length", "vaswani_tx/modeling_vaswani.py", "x = 1\n" * 900, "at most 900"),
    ("function-length", "tests/test_loop.py", "def f():\n" + "    x = 1\n" * 70, "f has 71 lines"),
]


@pytest.fixture
def project(tmp_path):
    for name, text in CLEAN.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_this_checkout_keeps_the_rules():
    violations = quality_rules.check(ROOT)
    assert not violations, "\n" + "\n".join(map(str, violations))


def test_clean_project_has_no_violation(project):
    assert quality_rules.check(project) == []


@pytest.mark.parametrize(("rule", "name", "text", "message"), PLANTED)
def test_planted_violation_is_caught(project, rule, name, text, message):
    path = project / name
    path.parent.mkdir(exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}{text}\n" if text else before, encoding="utf-8")
    found = [v for v in quality_rules.check(project) if v.rule == rule and v.path == name]
    assert found and message in found[0].message


def test_docstring_does_not_make_a_function_long(project):
    body = '    """Does:\n' + "    nothing\n" * 40 + '    """\n' + "    x = 1\n" * 69
    (project / "training/data/parallel.py").write_text(f"def f():\n{body}", encoding="utf-8")
    assert quality_rules.check(project) == []


def test_modeling_file_may_be_longer_than_others(project):
    path = project / "vaswani_tx/modeling_vaswani.py"
    path.write_text(path.read_text(encoding="utf-8") + "x = 1\n" * 500, encoding="utf-8")
    assert quality_rules.check(project) == []


def test_files_that_git_ignores_are_not_checked(project):
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (project / ".gitignore").write_text("/scratch.md\n", encoding="utf-8")
    (project / "scratch.md").write_text(f"{SLASH}tmp/x\n", encoding="utf-8")
    assert quality_rules.check(project) == []
    (project / "seen.md").write_text(f"{SLASH}tmp/x\n", encoding="utf-8")
    assert [violation.path for violation in quality_rules.check(project)] == ["seen.md"]


def test_command_exits_with_one_on_a_violation(project, monkeypatch, capsys):
    monkeypatch.setattr(quality_rules, "__file__", str(project / "tests" / "quality_rules.py"))
    assert quality_rules.main() == 0
    (project / "vaswani_tx/hub.py").write_text("print(1)\n", encoding="utf-8")
    assert quality_rules.main() == 1
    assert "vaswani_tx/hub.py:1: no-print: use logging in the library" in capsys.readouterr().out
