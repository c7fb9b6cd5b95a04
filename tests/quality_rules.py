"""House rules that no other tool checks: the flat Hub closure, prints, machine paths, lengths, words.

    python tests/quality_rules.py            # prints path:line: rule: message, exits 1 on a violation
    python tests/quality_rules.py --words    # prints all words of CONTRIBUTING.md's list, with a count for each file

Needs the standard library only. The direction of imports is in `.importlinter`.
"""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CLOSURE_NAME = re.compile(r"(\w+?)_vaswani(?:_\w+)?")
# huggingface_hub and safetensors always come with transformers.
CLOSURE_PACKAGES = {"torch", "transformers", "tokenizers", "numpy", "huggingface_hub", "safetensors"}
CLOSURE_LAZY_PACKAGES = CLOSURE_PACKAGES | {"PIL"}
# transformers finds what to copy to the Hub with this expression on the text of a file, docstrings included.
COPIED_IMPORT = re.compile(r"^\s*(?:from\s+\.\S*\s+import|import\s+\.\S+)")
MACHINE_PATH = re.compile(r"(?<![\w./~-])/(?:work|tmp|root|home/\w+|opt)(?=[/\s'\"`)]|$)")
TEXT_SUFFIXES = {".py", ".pyi", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".ini", ".json", ".sh", ".html", ""}
SKIPPED_FOLDERS = {".git", ".venv", "build", "dist", "runs", "demo_run", "data"}
# What prints, logs or explains: the strings in these calls are read by users.
MESSAGE_CALLS = {
    "print", "print_status", "key", "add_argument", "add_parser", "ArgumentParser", "error", "warning", "warning_once",
    "info", "warn", "exit", "fail", "stage",
}  # fmt: skip
# Files and folders in which the words of CONTRIBUTING.md's list are still allowed: delete an entry once it has none.
WORDS_LEFT: tuple[str, ...] = ()
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
    """One imported module: its absolute dotted name, and whether the import is inside a function."""

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
        """Return the part of the closure that the file belongs to ("layers", ...), None outside of the closure."""
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


def _project_files(root: Path) -> Iterator[Path]:
    """Return every file that git tracks or would add; without git every file outside of builds and caches."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        yield from (path for name in listed.split("\0") if name and (path := root / name).is_file())
        return
    for folder, names, files in os.walk(root):
        skipped = SKIPPED_FOLDERS if Path(folder) == root else set()
        names[:] = [n for n in names if n not in skipped and not n.endswith((".egg-info", "cache", "cache__"))]
        yield from (Path(folder) / name for name in files)


def _is_command_line(source: Source) -> bool:
    """Return whether a file of the library is part of its command line."""
    return source.parts[1] == "cli"


def no_tests(project: Project) -> Iterator[Violation]:
    """Report imports of the tests in what is installed."""
    for source in project.sources:
        for found in source.imports:
            if source.parts[0] != "tests" and found.name.split(".")[0] == "tests":
                yield Violation(source.path, found.line, "import-tests", "what is installed must not import tests")


def unique_names(project: Project) -> Iterator[Violation]:
    """Report files of the library that share their name with another."""
    count = Counter(s.parts[-1] for s in project.sources if s.in_library)
    for source in project.sources:
        if source.in_library and count[source.parts[-1]] > 1 and source.parts[-1] != "__init__":
            message = "another file of vaswani_tx has this name; the Hub keeps files in one flat folder"
            yield Violation(source.path, 1, "unique-name", message)


def closure_imports(project: Project) -> Iterator[Violation]:
    """Report imports of the closure that a model from the Hub could not follow."""
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
    """Report text that looks like a relative import of the closure: `save_pretrained` would try to copy that file."""
    for source in project.sources:
        if source.closure_kind is None:
            continue
        real = {node.lineno for node in ast.walk(source.tree) if isinstance(node, ast.ImportFrom)}
        for number, line in enumerate(source.text.splitlines(), start=1):
            if COPIED_IMPORT.match(line) and number not in real:
                message = "a line of text that begins like a relative import makes save_pretrained fail: reword it"
                yield Violation(source.path, number, "closure-text", message)


def no_print(project: Project) -> Iterator[Violation]:
    """Report prints of the library outside of its command line."""
    for source in project.sources:
        if not source.in_library or _is_command_line(source):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield Violation(source.path, node.lineno, "no-print", "use logging in the library")


def no_machine_path(project: Project) -> Iterator[Violation]:
    """Report paths that exist on one machine only."""
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
    """Report files and functions that are too long to read in one go."""
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


@dataclass(frozen=True)
class Word:
    """One line of the word list: what is not written, what is written instead, and phrases that are left alone."""

    pattern: re.Pattern[str]
    instead: str
    allowed: re.Pattern[str] | None


def word_list(text: str) -> list[Word]:
    """Return the rows of CONTRIBUTING.md's table with the columns "do not write", "write" and "except"."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[:2] == ["do not write", "write"]:
            inside = True
        elif inside and not line.startswith("|"):
            break
        elif inside and not set(line) <= set("|-: "):
            allowed = _any_of(cells[2]) if len(cells) > 2 and cells[2] else None
            found.append(Word(_any_of(cells[0]), cells[1], allowed))
    return found


def _any_of(cell: str) -> re.Pattern[str]:
    """Return a pattern of whole words for a comma-separated list of words and phrases."""
    phrases = "|".join(re.escape(phrase.strip()).replace(r"\ ", r"\s+") for phrase in cell.split(","))
    return re.compile(rf"(?<![\w-])(?:{phrases})(?![\w-])", re.IGNORECASE)


def _prose(source: Source) -> Iterator[tuple[int, str]]:
    """Return the docstrings, comments and messages of a Python file with their lines; data strings are none of them."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                yield from _strings(node.body[0])
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield from _strings(node.exc)
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in MESSAGE_CALLS or name.endswith("Error"):
                yield from _strings(node)


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _pages(project: Project) -> Iterator[tuple[str, int, str]]:
    """Return the lines of README.md and docs/*.md outside of code blocks."""
    for path in project.files:
        name = path.relative_to(project.root).as_posix()
        if name == "README.md" or (name.startswith("docs/") and name.endswith(".md")):
            code = False
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                code ^= line.startswith("```")
                if not code:
                    yield name, number, line


def words(project: Project) -> Iterator[Violation]:
    """Report the words that CONTRIBUTING.md's list replaces, in docstrings, comments, messages and pages."""
    path = project.root / "CONTRIBUTING.md"
    listed = word_list(path.read_text(encoding="utf-8")) if path.is_file() else []
    texts = [(s.path, line, text) for s in project.sources for line, text in _prose(s)]
    for name, start, text in [*texts, *_pages(project)]:
        for word in listed:
            cleared = word.allowed.sub(lambda match: " " * len(match[0]), text) if word.allowed else text
            for match in word.pattern.finditer(cleared):
                line = start + cleared.count("\n", 0, match.start())
                yield Violation(name, line, "word", f"{' '.join(match[0].split())!r}: write {word.instead}")


def no_listed_words(project: Project) -> Iterator[Violation]:
    """Report the words of `words`, except in files that still have to be rewritten."""
    yield from (violation for violation in words(project) if not violation.path.startswith(WORDS_LEFT))


RULES = (
    no_tests,
    unique_names,
    closure_imports,
    closure_text,
    no_print,
    no_machine_path,
    lengths,
    no_listed_words,
)


def check(root: Path) -> list[Violation]:
    """Return every violation in the checkout at `root`, by file and line."""
    project = Project(root)
    found = {violation for rule in RULES for violation in rule(project)}
    return sorted(found, key=lambda v: (v.path, v.line, v.rule, v.message))


def count_words(root: Path) -> None:
    """Print the house words of the checkout, then how many there are in each file."""
    found = sorted(set(words(Project(root))), key=lambda v: (v.path, v.line, v.message))
    for violation in found:
        print(violation)
    for path, count in Counter(violation.path for violation in found).most_common():
        print(f"{count:4} {path}")
    print(f"words: {len(found)}")


def main(argv: list[str] | None = None) -> int:
    """Print the violations of the checkout around this file; return 1 if there are any."""
    root = Path(__file__).resolve().parent.parent
    if "--words" in (sys.argv[1:] if argv is None else argv):
        count_words(root)
        return 0
    violations = check(root)
    for violation in violations:
        print(violation)
    print(f"house rules: {len(violations) or 'no'} violation{'s' * (len(violations) != 1)}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
