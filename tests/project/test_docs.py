"""What README, docs and CONTRIBUTING name exists: files, modules, names, commands, links; badges are true."""

import ast
import importlib.util
import re
import subprocess
import tomllib
from functools import cache

import pytest
import yaml

import vaswani_tx
from tests.helpers import ROOT
from vaswani_tx.cli import training

# The log tells of files as they were.
LISTED = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()
DOCUMENTS = [
    name for name in dict.fromkeys(LISTED) if name != "training/LOG.md" and not name.startswith("model_cards/")
]
PATH = re.compile(r"(?<![\w./~*-])(?:training|tests|docs|model_cards|vaswani_tx)/[\w./*-]*[\w/*]")
DOTTED = re.compile(r"(?<![\w/.-])vaswani_tx(?:\.\w+)+(?![\w/])")
IMPORT = re.compile(r"^\s*from (vaswani_tx[\w.]*) import ([\w, ]+)$", re.M)
VERB = re.compile(r"(?<!\w)(?:vaswani-tx|python -m vaswani_tx|-m vaswani_tx) ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
LIBRARY_VERBS = {"translate", "score", "explain", "info", "push", "export", "convert", "run"}


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def source_of(module):
    """The file of a dotted module, None where there is none; `vaswani_tx.training` is the folder `training`."""
    parts = module.split(".")
    parts = parts[1:] if parts[:2] == ["vaswani_tx", "training"] else parts
    stem = ROOT.joinpath(*parts)
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@cache
def names_in(module):
    """The names that a module defines, or imports, without running it."""
    if module == "vaswani_tx":
        return set(vaswani_tx.__all__)
    found = set()
    body = ast.parse(source_of(module).read_text(encoding="utf-8")).body
    # What `if TYPE_CHECKING:` imports is what a package gives when it is first asked for it.
    lazy = [inner for node in body if isinstance(node, ast.If) for inner in node.body]
    for node in [*body, *lazy]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def exists(dotted):
    """Whether a dotted name is a module, or a name of one."""
    module, _, name = dotted.rpartition(".")
    return source_of(dotted) is not None or (source_of(module) is not None and name in names_in(module))


def slugs(text):
    """The anchors of a document's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def missing_paths(text):
    return [path for path in PATH.findall(text) if not any(ROOT.glob(path.rstrip("/")))]


def missing_names(text):
    dotted = [name for name in DOTTED.findall(text) if not exists(name)]
    imports = [
        f"{module}.{name.strip()}"
        for module, names in IMPORT.findall(text)
        for name in names.split(",")
        if not exists(f"{module}.{name.strip()}")
    ]
    return dotted + imports


def missing_verbs(text):
    missing = []
    for verb, kind in VERB.findall(text):
        kinds = training.COMMANDS.get(verb)
        known = verb in LIBRARY_VERBS or kinds is not None
        if not known or (isinstance(kinds, dict) and kind and kind not in kinds):
            missing.append(f"{verb} {kind}".strip())
    return missing


def dead_links(name, text):
    dead = []
    for target, anchor in LINK.findall(FENCE.sub("", text)):
        if "://" in target:
            continue
        path = (ROOT / name).parent / target if target else ROOT / name
        if not path.exists() or (anchor and anchor not in slugs(path.read_text(encoding="utf-8"))):
            dead.append(f"{target}#{anchor}")
    return dead


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_what_exists(name):
    text = text_of(name)
    assert missing_paths(text) == [], "files"
    assert missing_names(text) == [], "modules and names"
    assert missing_verbs(text) == [], "commands"
    assert dead_links(name, text) == [], "links"


def test_documents_are_found():
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/families.md", "training/README.md"} <= set(DOCUMENTS)


def test_each_check_finds_what_is_wrong():
    assert missing_paths("see `training/loop.py` and `training/engine/loop.py`, docs/*.md") == ["training/loop.py"]
    bad = ["vaswani_tx.training.loop", "vaswani_tx.VaswaniModle"]
    good = "`vaswani_tx.training.engine.loop`, vaswani_tx.VaswaniModel, vaswani_tx.hub.saving.push_to_hub."
    assert missing_names(f"{' '.join(bad)} {good}") == bad
    assert missing_names("from vaswani_tx.layers_vaswani import sinusoids, sinuses\n") == [
        "vaswani_tx.layers_vaswani.sinuses"
    ]
    assert missing_verbs("vaswani-tx train translation; vaswani-tx train poetry; vaswani-tx walk MODEL") == [
        "train poetry", "walk",
    ]  # fmt: skip
    links = "[a](docs/families.md#transfer) [b](docs/families.md#transfers) [c](nowhere.md) [d](https://example.org/x)"
    assert dead_links("README.md", links) == ["docs/families.md#transfers", "nowhere.md#"]


def test_links_between_files_become_links_between_pages():
    hooks = load_tool("hooks")
    text = "[g](training/README.md#2-training) ![p](docs/overview.png) [n](docs/notebooks/train.ipynb) [l](LICENSE)"
    assert hooks.rewrite_links(text, "README.md", "index.md") == (
        "[g](guide.md#2-training) ![p](overview.png) [n](notebooks/train.md) l"
    )
    assert hooks.rewrite_links("[r](../training/README.md)", "docs/families.md", "families.md") == "[r](guide.md)"
    assert hooks.rewrite_links("[f](../docs/families.md)", "training/README.md", "guide.md") == "[f](families.md)"
    code = "```\n[g](README.md)\n```\n"
    assert hooks.rewrite_links(code, "README.md", "index.md") == code


def test_what_a_page_loads_from_elsewhere_is_found():
    find = load_tool("hooks").loads_from_elsewhere
    assert find('<a href="https://example.org">x</a> <img src="a.png"> <link href="a.css" rel="stylesheet">') == []
    for text in (
        '<script async src="https://example.org/x.js"></script>', '<img alt="" src=//example.org/x.png>',
        '<link rel="stylesheet" href="https://fonts.example.org/css">', "a { background: url(https://example.org/a) }",
    ):  # fmt: skip
        assert len(find(text)) == 1, text


def test_badges_say_what_pyproject_says():
    for name, drawing in load_tool("badges").badges().items():
        assert text_of(f"docs/badges/{name}") == drawing, "run: python docs/tools/badges.py"
        assert f"docs/badges/{name}" in text_of("README.md")


def test_citation_says_what_pyproject_says():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    assert citation["version"] == vaswani_tx.__version__
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
