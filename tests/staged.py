"""Check the layers of imports, and the types, on a copy in which `training` is where it is installed.

    python tests/staged.py imports          # import-linter with .importlinter
    python tests/staged.py types            # mypy with [tool.mypy] of pyproject.toml

`vaswani_tx.training` is the folder `training` beside the library. Tools that find modules by folder see it only in a
copy of both folders, in a temporary one. Needs the extra `dev`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = (".importlinter", "pyproject.toml")
# The copy comes first, whatever finder an editable install has put before Python's own.
LINT_IMPORTS = """
import sys
from importlib.machinery import PathFinder
sys.meta_path.insert(0, PathFinder)
from importlinter.cli import lint_imports_command
lint_imports_command()
"""
COMMANDS = {
    "imports": [sys.executable, "-c", LINT_IMPORTS],
    "types": [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache")],
}


def stage(target: Path) -> None:
    """Copy the sources to `target` as they are installed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "vaswani_tx", target / "vaswani_tx", ignore=ignored)
    shutil.copytree(ROOT / "training", target / "vaswani_tx" / "training", ignore=ignored)
    for name in CONFIGURATION:
        shutil.copy(ROOT / name, target)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status of the tool."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python tests/staged.py {{{','.join(COMMANDS)}}} [option ...]", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder))
        environment = os.environ | {"PYTHONPATH": folder}
        return subprocess.run([*COMMANDS[arguments[0]], *arguments[1:]], cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
