"""Draw the README's badges from pyproject.toml: licence, Python, transformers. No page loads them from elsewhere.

python docs/tools/badges.py        # writes docs/badges/*.svg
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, LETTER, MARGIN = 20, 6.6, 12
TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" aria-label="{label}: {value}">
<title>{label}: {value}</title>
<clipPath id="r"><rect width="{width}" height="{height}" rx="3"/></clipPath>
<g clip-path="url(#r)"><rect width="{split}" height="{height}" fill="#4b5158"/>
<rect x="{split}" width="{rest}" height="{height}" fill="#1f6fb4"/></g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{middle_left}" y="14">{label}</text><text x="{middle_right}" y="14">{value}</text></g>
</svg>
"""


def badges() -> dict[str, str]:
    """Return the file names of the badges with their drawings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (transformers,) = (name for name in project["dependencies"] if name.startswith("transformers"))
    low, high = re.fullmatch(r"transformers>=([\d.]+),<([\d.]+)", transformers).groups()
    classifier = "Programming Language :: Python :: 3."
    minors = [name.removeprefix(classifier) for name in project["classifiers"] if name.startswith(classifier)]
    return {
        "licence.svg": draw("licence", project["license"]),
        "python.svg": draw("Python", " | ".join(f"3.{minor}" for minor in minors)),
        "transformers.svg": draw("transformers", f"{low} or newer, below {high}"),
    }


def draw(label: str, value: str) -> str:
    """Return one badge as SVG."""
    split, rest = (round(len(text) * LETTER + MARGIN) for text in (label, value))
    return TEMPLATE.format(
        label=label, value=value, split=split, rest=rest, width=split + rest, height=HEIGHT,
        middle_left=split / 2, middle_right=split + rest / 2,
    )  # fmt: skip


if __name__ == "__main__":
    folder = ROOT / "docs" / "badges"
    folder.mkdir(exist_ok=True)
    for name, drawing in badges().items():
        (folder / name).write_text(drawing, encoding="utf-8")
