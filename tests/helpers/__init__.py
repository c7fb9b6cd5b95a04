"""What tests of several folders share: runs to look at, fakes, references and the contract of every model."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN_PAPER = json.loads((ROOT / "tests" / "golden" / "golden_paper.json").read_text(encoding="utf-8"))
