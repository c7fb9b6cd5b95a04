"""Execute a notebook from top to bottom, as Jupyter's "Run All" does, without Jupyter.

    python docs/tools/notebooks.py docs/notebooks/translate.ipynb --folder runs/notebooks
    python docs/tools/notebooks.py docs/notebooks/translate.ipynb --folder . --write
    python docs/tools/notebooks.py docs/notebooks/train.ipynb --folder runs/short --replace "STEPS = 600" "STEPS = 9"

`--write` stores in the notebook what the cells print, their last values and figures. Plain Python only, no magics.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "agg")


class NotebookError(RuntimeError):
    """A cell that fails, or a text to replace that the notebook lacks."""


def read(path: Path) -> dict[str, Any]:
    """Return a notebook as JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def replace(notebook: dict[str, Any], old: str, new: str) -> None:
    """Replace a text in the code of a notebook, such as how long it trains; raise NotebookError where it is absent."""
    cells = [cell for cell in notebook["cells"] if old in "".join(cell["source"])]
    if not cells:
        raise NotebookError(f"no cell holds {old!r}")
    for cell in cells:
        cell["source"] = "".join(cell["source"]).replace(old, new).splitlines(keepends=True)


def execute(notebook: dict[str, Any], name: str) -> list[list[dict[str, Any]]]:
    """Run the code cells in order in one namespace and return the outputs of each.

    Raises NotebookError that names the cell and its first line.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        try:
            found.append(_run(source, f"<{name}, cell {number}>", namespace))
        except Exception as error:
            first = source.partition("\n")[0]
            raise NotebookError(f"{name}, cell {number} ({first}): {type(error).__name__}: {error}") from error
    return found


def _run(source: str, where: str, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one cell and return what it printed, the value of a last expression, and its figures."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    outputs: list[dict[str, Any]] = []
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), namespace)
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    figures = _figures()
    if value is not None and not figures:
        outputs.append(_data("execute_result", {"text/plain": _lines(repr(value))}) | {"execution_count": None})
    return outputs + [_data("display_data", {"image/png": figure}) for figure in figures]


def _figures() -> list[str]:
    """Return the open figures of matplotlib as base64 and close them."""
    if "matplotlib.pyplot" not in sys.modules:
        return []
    plt = sys.modules["matplotlib.pyplot"]
    images = []
    for number in plt.get_fignums():
        target = io.BytesIO()
        plt.figure(number).savefig(target, dpi=80, metadata={"Software": None})
        images.append(base64.b64encode(target.getvalue()).decode())
    plt.close("all")
    return images


def _data(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": kind, "data": data, "metadata": {}}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("notebook", type=Path)
    add("--folder", type=Path, required=True, help="where it runs, and writes its files")
    add("--replace", nargs=2, action="append", default=[], metavar=("OLD", "NEW"), help="in the code, before it runs")
    add("--write", action="store_true", help="store the outputs in the notebook")
    options = parser.parse_args(argv)
    path, notebook = options.notebook.resolve(), read(options.notebook)
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    try:
        for old, new in options.replace:
            replace(notebook, old, new)
        outputs = execute(notebook, path.name)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path.name}: {len(outputs)} cells ran")
    if options.write:
        stored = read(path)
        for cell, output in zip((c for c in stored["cells"] if c["cell_type"] == "code"), outputs, strict=True):
            cell["outputs"] = output
        path.write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
