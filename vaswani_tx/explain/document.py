"""Assemble a page: one HTML file with its style, its scripts and the packed numbers, which needs no network.

Text of the user, of the vocabulary or of the model's name is only ever data: it travels inside the packed block and is
put on the page as text nodes. The Content-Security-Policy in the page allows the two inline blocks by their hashes and
nothing else.
"""

import base64
import hashlib
import html
import re
from functools import cache
from importlib.resources import files

# In the order in which they are put together: every file uses only names of the files before it.
SCRIPTS = ("core.js", "state.js", "diagram.js", "heatmap.js", "curves.js", "sections.js")
IMPORT = re.compile(r"^import\s[^;]*?;\n", re.MULTILINE)
EXPORT = re.compile(r"^export\s+", re.MULTILINE)
TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page draws its diagrams with JavaScript, which is switched off here.</noscript>
<script type="text/plain" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def build(title: str, data: str) -> str:
    """Return the page; `data` is what `Packer.pack` returned."""
    style, script = stylesheet(), javascript()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return TEMPLATE.format(policy=policy, title=html.escape(title), style=style, script=script, data=data)


@cache
def stylesheet() -> str:
    """Return the style of the page: the common part, then one file a section."""
    folder = files("vaswani_tx.explain") / "assets"
    names = ["page.css", *(f"sections/{name}.css" for name in section_names())]
    return "\n".join((folder / name).read_text("utf-8") for name in names if (folder / name).is_file())


@cache
def javascript() -> str:
    """Return all scripts as one module: their imports from each other fall away, as all names are then in one scope."""
    folder = files("vaswani_tx.explain") / "assets"
    names = [*SCRIPTS, *(f"sections/{name}.js" for name in section_names()), "main.js"]
    texts = [EXPORT.sub("", IMPORT.sub("", (folder / name).read_text("utf-8"))) for name in names]
    script = "\n".join(texts)
    if "</script" in script.lower():
        raise AssertionError("a script holds its own end tag")
    return script


@cache
def section_names() -> list[str]:
    """Return the sections' files in alphabetic order; the order on the page is in main.js."""
    folder = files("vaswani_tx.explain") / "assets" / "sections"
    return sorted(entry.name.removesuffix(".js") for entry in folder.iterdir() if entry.name.endswith(".js"))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"
