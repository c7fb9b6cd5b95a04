"""House rules that ruff cannot check: direction of imports, the flat Hub closure, prints, paths and lengths.

    python tests/quality_rules.py            # prints path:line: rule: message, exits 1 on a violation

Needs the standard library only. DESIGN: configuration -> layers, loss, tokenization, image processing -> generation ->
modeling -> pipeline = closure boundary = convert, export, explain, hub -> cli -> training.
"""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# The Hub closure: the part of a file's name before its family, with its place in the direction of imports.
CLOSURE_RANKS = {
    "configuration": 0,
    "layers": 1,
    "loss": 1,
    "tokenization": 1,
    "image_processing": 1,
    "sentences": 1,
    "phrases": 1,
    "constraints": 1,
    "alignments": 1,
    "transfer": 1,
    "generation": 2,
    "modeling": 3,
    "pipeline": 4,
}
LIBRARY_RANK, CLI_RANK = 5, 6
CLOSURE_NAME = re.compile(r"(\w+?)_vaswani(?:_\w+)?")
# huggingface_hub and safetensors always come with transformers.
CLOSURE_PACKAGES = {"torch", "transformers", "tokenizers", "numpy", "huggingface_hub", "safetensors"}
CLOSURE_LAZY_PACKAGES = CLOSURE_PACKAGES | {"PIL"}
# transformers finds what to copy to the Hub with this expression on the text of a file, docstrings included.
COPIED_IMPORT = re.compile(r"^\s*(?:from\s+\.\S*\s+import|import\s+\.\S+)")
MACHINE_PATH = re.compile(r"(?<![\w./~-])/(?:work|tmp|root|home/\w+|opt)(?=[/\s'\"`)]|$)")
TEXT_SUFFIXES = {".py", ".pyi", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".ini", ".json", ".sh", ".html", ""}
SKIPPED_FOLDERS = {".git", ".venv", "build", "dist", "runs", "demo_run", "data"}
# One test file a module, so a test file may be longer; a function's docstring is not counted.
MAX_FILE_LINES, MAX_TEST_LINES, MAX_MODELING_LINES, MAX_FUNCTION_LINES = 450, 600, 900, 70


@dataclass(frozen=True)
class Violation:
    """One broken rule at one place."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True)
class Import:
    """One imported module: its absolute dotted name, and whether it stands inside a function."""

    line: int
    name: str
    level: int
    relative_module: str | None
    lazy: bool


class Source:
    """One Python file with what the rules ask about it."""

    def __init__(self, root: Path, path: Path):
        self.path = path.relative_to(root).as_posix()
        self.parts = Path(self.path).with_suffix("").parts
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, filename=self.path)

    @property
    def in_library(self) -> bool:
        return self.parts[0] == "vaswani_tx"

    @property
    def closure_kind(self) -> str | None:
        """The closure part that the file belongs to ("layers", ...), None outside of the closure."""
        named = CLOSURE_NAME.fullmatch(self.parts[-1])
        return named[1] if self.in_library and len(self.parts) == 2 and named else None

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, self.parts, lazy=False))


def _imports(node: ast.AST, parts: tuple[str, ...], lazy: bool) -> Iterator[Import]:
    package = parts if parts[-1] == "__init__" else parts[:-1] + ("",)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, alias.name, 0, None, lazy)
        elif isinstance(child, ast.ImportFrom):
            base = ".".join(package[: len(package) - child.level]) if child.level else ""
            name = ".".join(filter(None, (base, child.module)))
            # `from . import x` and `from package import module` name the module in the list.
            for alias in child.names:
                yield Import(child.lineno, f"{name}.{alias.name}", child.level, child.module, lazy)
        else:
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, parts, lazy or inner)


class Project:
    """The files of a checkout: parsed Python sources of the packages and tests, and every text file's path."""

    def __init__(self, root: Path):
        self.root = root
        self.files = sorted(_project_files(root))
        python = [path for path in self.files if path.suffix == ".py"]
        folders = {"vaswani_tx", "training", "tests"}
        self.sources = [Source(root, path) for path in python if path.relative_to(root).parts[0] in folders]
        self.modules = {".".join(s.parts).removesuffix(".__init__"): s for s in self.sources}

    def resolve(self, name: str) -> Source | None:
        """The file that a dotted name means: the module itself, or the one that the last part is taken from."""
        return self.modules.get(name) or self.modules.get(name.rpartition(".")[0])


def _project_files(root: Path) -> Iterator[Path]:
    """Every file that git tracks or would add; without git every file outside of builds and caches."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        yield from (path for name in listed.split("\0") if name and (path := root / name).is_file())
        return
    for folder, names, files in os.walk(root):
        names[:] = [n for n in names if n not in SKIPPED_FOLDERS and not n.endswith((".egg-info", "cache", "cache__"))]
        yield from (Path(folder) / name for name in files)


def _rank(source: Source) -> int | None:
    """The place in the direction of imports; None for the package's own `__init__`, which names everything."""
    if source.closure_kind is not None:
        return CLOSURE_RANKS.get(source.closure_kind, LIBRARY_RANK)
    if source.parts in {("vaswani_tx", "__init__"), ("vaswani_tx", "__main__")}:
        return None
    return CLI_RANK if _is_command_line(source) else LIBRARY_RANK


def _is_command_line(source: Source) -> bool:
    """Whether a file of the library is `cli.py` or one of its parts, `cli_*.py`."""
    return source.parts[1] == "cli" or source.parts[1].startswith("cli_")


def import_direction(project: Project) -> Iterator[Violation]:
    """Imports run one way, and `vaswani_tx` never imports `training` or the tests."""
    for source in project.sources:
        for found in source.imports:
            first = found.name.split(".")[0]
            if source.in_library and first in {"training", "tests"}:
                yield Violation(source.path, found.line, "import-direction", f"vaswani_tx must not import {first}")
            if source.parts[0] == "training" and first == "tests":
                yield Violation(source.path, found.line, "import-direction", "training must not import tests")
            target = project.resolve(found.name)
            if not source.in_library or target is None or not target.in_library or target is source:
                continue
            own, other = _rank(source), _rank(target)
            if own is not None and other is not None and other > own:
                message = f"{source.parts[-1]} must not import {'.'.join(target.parts)}, which stands after it"
                yield Violation(source.path, found.line, "import-direction", message)


def import_cycle(project: Project) -> Iterator[Violation]:
    """No file of the library reaches itself through imports at the top of files."""
    graph: dict[str, set[str]] = {}
    for source in project.sources:
        if source.in_library and source.parts[-1] != "__init__":
            targets = (project.resolve(found.name) for found in source.imports if not found.lazy)
            graph[source.path] = {t.path for t in targets if t and t.in_library and t is not source}
    for start in graph:
        seen, waiting = set(), list(graph[start])
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                waiting.extend(graph.get(path, ()))
        if start in seen:
            yield Violation(start, 1, "import-cycle", "imports itself through " + ", ".join(sorted(seen - {start})))


def closure_names(project: Project) -> Iterator[Violation]:
    """A closure file has a place in the direction of imports, and no two files of the library share a name."""
    count = Counter(s.parts[-1] for s in project.sources if s.in_library)
    for source in project.sources:
        if source.closure_kind is not None and source.closure_kind not in CLOSURE_RANKS:
            message = f"no place is given for {source.closure_kind}_...: add it to CLOSURE_RANKS or rename the file"
            yield Violation(source.path, 1, "closure-name", message)
        if source.in_library and count[source.parts[-1]] > 1 and source.parts[-1] != "__init__":
            message = "another file of vaswani_tx has this name; the Hub keeps files in one flat folder"
            yield Violation(source.path, 1, "unique-name", message)


def closure_imports(project: Project) -> Iterator[Violation]:
    """The closure imports only the standard library, torch, transformers, tokenizers, numpy and `from .x_vaswani`."""
    for source in project.sources:
        if source.closure_kind is None:
            continue
        for found in source.imports:
            first = found.name.split(".")[0]
            if found.level:
                target = project.modules.get(f"vaswani_tx.{found.relative_module}")
                if found.level == 1 and target is not None and target.closure_kind is not None:
                    continue
                message = "the Hub copies only `from .name_vaswani import X` of this folder's closure files"
            elif first == "vaswani_tx":
                message = "import from `.name_vaswani`: absolute imports of this package do not travel"
            elif first in sys.stdlib_module_names or first in (
                CLOSURE_LAZY_PACKAGES if found.lazy else CLOSURE_PACKAGES
            ):
                continue
            else:
                message = f"{first} may not be needed to load a model from the Hub"
            yield Violation(source.path, found.line, "closure-import", message)


def closure_text(project: Project) -> Iterator[Violation]:
    """No line of text in a closure file looks like a relative import: `save_pretrained` would try to copy that file."""
    for source in project.sources:
        if source.closure_kind is None:
            continue
        real = {node.lineno for node in ast.walk(source.tree) if isinstance(node, ast.ImportFrom)}
        for number, line in enumerate(source.text.splitlines(), start=1):
            if COPIED_IMPORT.match(line) and number not in real:
                message = "a line of text that begins like a relative import makes save_pretrained fail: reword it"
                yield Violation(source.path, number, "closure-text", message)


def no_print(project: Project) -> Iterator[Violation]:
    """The library logs; only its command line prints."""
    for source in project.sources:
        if not source.in_library or _is_command_line(source):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield Violation(source.path, node.lineno, "no-print", "use logging in the library")


def no_machine_path(project: Project) -> Iterator[Violation]:
    """No file names a folder of somebody's machine."""
    for path in project.files:
        if path.suffix not in TEXT_SUFFIXES:
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            found = None if line.startswith("#!") else MACHINE_PATH.search(line)
            if found:
                message = f"{found[0]}... exists on one machine only: use a relative path or a temporary folder"
                yield Violation(path.relative_to(project.root).as_posix(), number, "machine-path", message)


def lengths(project: Project) -> Iterator[Violation]:
    """Files and functions stay short enough to read in one go."""
    for source in project.sources:
        limit = MAX_TEST_LINES if source.parts[0] == "tests" else MAX_FILE_LINES
        if source.in_library and source.parts[-1].startswith("modeling_"):
            limit = MAX_MODELING_LINES
        if (count := len(source.text.splitlines())) > limit:
            yield Violation(source.path, count, "file-length", f"{count} lines, at most {limit}: split the file")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    count -= node.body[0].end_lineno - node.body[0].lineno + 1
                if count > MAX_FUNCTION_LINES:
                    message = f"{node.name} has {count} lines, at most {MAX_FUNCTION_LINES}: split the function"
                    yield Violation(source.path, node.lineno, "function-length", message)


RULES = (
    import_direction,
    import_cycle,
    closure_names,
    closure_imports,
    closure_text,
    no_print,
    no_machine_path,
    lengths,
)


def check(root: Path) -> list[Violation]:
    """Every violation in the checkout at `root`, by file and line."""
    project = Project(root)
    found = {violation for rule in RULES for violation in rule(project)}
    return sorted(found, key=lambda v: (v.path, v.line, v.rule, v.message))


def main() -> int:
    """Print the violations of the checkout around this file; 1 if there are any."""
    root = Path(__file__).resolve().parent.parent
    violations = check(root)
    for violation in violations:
        print(violation)
    print(f"house rules: {len(violations) or 'no'} violation{'s' * (len(violations) != 1)}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
