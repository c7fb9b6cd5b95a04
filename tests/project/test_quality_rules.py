"""House rules and layers of imports hold for this checkout, and each is seen to catch a planted violation."""

import ast
import re
import subprocess

import pytest

from tests import quality_rules, staged
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
    "vaswani_tx/cli/__init__.py": "from ..hub import Config\n\nprint(Config)\n",
    "vaswani_tx/convert/__init__.py": "from ..modeling_vaswani import Config\n",
    "vaswani_tx/convert/marian.py": "import sentencepiece\n",
    "training/__init__.py": "",
    "training/engine/loop.py": "import vaswani_tx\nfrom training import data\n\nprint(vaswani_tx, data)\n",
    "training/data/parallel.py": "",
    "tests/test_loop.py": "import vaswani_tx.training.engine.loop\n",
}

# rule, file, its text (added at the end of what CLEAN has there), part of the message
PLANTED = [
    ("import-tests", "training/data/parallel.py", "from tests import test_loop", "must not import tests"),
    ("import-tests", "vaswani_tx/hub.py", "def f():\n    import tests.test_loop", "must not import tests"),
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


@pytest.mark.fresh
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


WORDS = """
| do not write | write | except |
|---|---|---|
| mend, mended | fix | |
| stands | is | stands for |

| mend | not of this table |
"""


def test_words_are_found_in_prose_and_not_in_data(project, capsys, monkeypatch):
    (project / "CONTRIBUTING.md").write_text(WORDS, encoding="utf-8")
    (project / "README.md").write_text("It stands\n```\nmend\n```\nand stands for nothing.\n", encoding="utf-8")
    code = '"""Understands how to\nMEND."""\n# mended\nx = "mend"\nraise ValueError(f"{x}: mend it")\nprint("mend")\n'
    (project / "training/data/parallel.py").write_text(code, encoding="utf-8")
    found = {str(violation) for violation in quality_rules.words(quality_rules.Project(project))}
    assert sorted(found) == [
        "README.md:1: word: 'stands': write is",
        "training/data/parallel.py:2: word: 'MEND': write fix",
        "training/data/parallel.py:3: word: 'mended': write fix",
        "training/data/parallel.py:5: word: 'mend': write fix",
        "training/data/parallel.py:6: word: 'mend': write fix",
    ]
    monkeypatch.setattr(quality_rules, "__file__", str(project / "tests" / "quality_rules.py"))
    assert quality_rules.main(["--words"]) == 0
    assert "   4 training/data/parallel.py\n" in capsys.readouterr().out


def test_a_listed_word_is_a_violation(project, monkeypatch):
    (project / "CONTRIBUTING.md").write_text(WORDS, encoding="utf-8")
    (project / "training/data/parallel.py").write_text("# mended\n", encoding="utf-8")
    (project / "training/data/lines.py").write_text("# mended\n", encoding="utf-8")
    monkeypatch.setattr(quality_rules, "WORDS_LEFT", ("training/data/lines.py",))
    found = [str(violation) for violation in quality_rules.check(project)]
    assert found == ["training/data/parallel.py:1: word: 'mended': write fix"]


def test_the_word_list_is_read():
    listed = quality_rules.word_list((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(listed) > 10
    text = "A standard that understands bedrooms and twinned parts"
    assert not [word for word in listed if word.pattern.search(text)]


# Below `vaswani_tx` in the copy that import-linter reads: a file, what is added to it, what the tool says of it.
PLANTED_IMPORTS = [
    ("layers_vaswani.py", "def f():\n    from .modeling_vaswani import X", "vaswani_tx.modeling_vaswani"),
    ("hub/saving.py", "from vaswani_tx.cli import main", "vaswani_tx.cli"),
    ("hub/saving.py", "import vaswani_tx.training.errors", "vaswani_tx.training.errors"),
    ("training/data/batching.py", "import vaswani_tx.training.engine.loop", "vaswani_tx.training.engine.loop"),
    ("training/errors.py", "def f():\n    import vaswani_tx.training.demo", "vaswani_tx.training.demo"),
]
PLANTED_CYCLE = (
    "modeling_vaswani.py", "from .modeling_vaswani_encoder import X", "No cycles are allowed in vaswani_tx."
)  # fmt: skip
UNKNOWN_MODULES = ["new_vaswani.py", "training/new_command.py"]


def test_import_layers_hold_and_are_guarded(tmp_path, monkeypatch):
    def lint():
        run = subprocess.run(
            [*staged.COMMANDS["imports"]], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
        )
        return run.returncode, re.sub(r"\s+", " ", run.stdout)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    staged.stage(tmp_path)
    status, printed = lint()
    assert status == 0, printed
    for name in UNKNOWN_MODULES:
        (tmp_path / "vaswani_tx" / name).touch()
        status, printed = lint()
        assert status == 1 and f"vaswani_tx.{name.removesuffix('.py').replace('/', '.')}" in printed
        (tmp_path / "vaswani_tx" / name).unlink()
    for name, text, _ in [*PLANTED_IMPORTS, PLANTED_CYCLE]:
        path = tmp_path / "vaswani_tx" / name
        path.write_text(f"{path.read_text(encoding='utf-8')}\n{text}\n", encoding="utf-8")
    status, printed = lint()
    assert status == 1 and PLANTED_CYCLE[2] in printed
    for name, _, target in PLANTED_IMPORTS:
        assert f"vaswani_tx.{name.removesuffix('.py').replace('/', '.')} -> {target}" in printed


def test_files_named_as_slow_exist():
    tree = ast.parse((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    names = ast.literal_eval(assigned["SLOW_FILES"])
    assert not [name for name in names if not (ROOT / "tests" / name).is_file()]
