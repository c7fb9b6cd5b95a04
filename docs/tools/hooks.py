"""What `mkdocs build` does beside rendering docs/*.md: sources for the API pages, documents, notebooks, links.

mkdocs.yml names this file under `hooks`; mkdocs calls the functions whose names begin with `on_`.
"""

import json
import posixpath
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "build" / "docs_sources"
# Documents outside of docs/, and the pages that they become.
DOCUMENTS = {
    "README.md": "index.md",
    "training/README.md": "guide.md",
    "training/LOG.md": "log.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
# A link or image of Markdown: everything before the target, the target, its anchor.
LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\]\([^)]*\))*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)"
)
EXTERNAL = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\ssrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\srel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\shref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:url\(|@import\s)\s*["']?(?:https?:)?//[^"'\s)]+"""
)
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.M | re.S)


def on_startup(command, dirty):
    """Lay the sources out as they are installed, `training` inside of the library, for griffe to read."""
    package = SOURCES / "vaswani_tx"
    shutil.rmtree(SOURCES, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "vaswani_tx", package, ignore=ignored)
    shutil.copytree(ROOT / "training", package / "training", ignore=ignored)


def on_files(files, config):
    """Add the documents of the repository and the notebooks as pages."""
    from mkdocs.structure.files import File  # here, so that the tests need no mkdocs

    for source, page in DOCUMENTS.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Make links between files of the repository links between pages; what has no page stays as its text."""
    origins = {page: source for source, page in DOCUMENTS.items()}
    origin = origins.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return rewrite_links(markdown, origin, page.file.src_uri)


def on_post_build(config):
    """Raise BuildError where a built page loads anything from elsewhere; a link that a reader clicks is no load."""
    from mkdocs.exceptions import BuildError

    found = [
        f"{path.relative_to(config.site_dir)}: {load}"
        for path in sorted(Path(config.site_dir).rglob("*"))
        if path.suffix in (".html", ".css")
        for load in loads_from_elsewhere(path.read_text(encoding="utf-8"))
    ]
    if found:
        raise BuildError("Pages load from elsewhere; keep the file in docs/ instead:\n" + "\n".join(found))


def loads_from_elsewhere(text: str) -> list[str]:
    """Return the addresses from which a page or style sheet loads scripts, styles, fonts or images."""
    return [match[0] for match in EXTERNAL.finditer(text)]


def rewrite_links(markdown: str, origin: str, page: str) -> str:
    """Return the text of a page with the links of its original, a file of the repository, outside of code blocks."""

    def rewrite(match: re.Match) -> str:
        text = LINK.sub(rewrite, match["text"])
        anchor = match["anchor"] or ""
        if not match["target"] or "://" in match["target"]:
            return f"{match['image']}[{text}]({match['target']}{anchor})"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match["target"]))
        if path in DOCUMENTS:
            target = DOCUMENTS[path]
        elif path.startswith("docs/") and (ROOT / path).is_file():
            target = path.removeprefix("docs/")
            target = f"{target.removesuffix('.ipynb')}.md" if target.endswith(".ipynb") else target
        elif (ROOT / path).exists():
            return text
        else:  # strict mode reports it
            return f"{match['image']}[{text}]({match['target']}{anchor})"
        return f"{match['image']}[{text}]({posixpath.relpath(target, posixpath.dirname(page) or '.')}{anchor})"

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(rewrite, markdown[end : fence.start()]), fence.group()]
        end = fence.end()
    return "".join([*parts, LINK.sub(rewrite, markdown[end:])])


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its text, its code, and the outputs that it was saved with."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<img alt="Figure drawn by the code above" src="data:image/png;base64,{image}">')
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```{{.text .notebook-output}}\n{text.rstrip()}\n```")
    here = f"Download this notebook: [{path.name}]({path.name})."
    return "\n\n".join([*parts, here]) + "\n"
