"""Sources of a model card: a run's files, evaluations, and facts about a model that its user gives.

Files may be missing, and what they hold is checked before it is used: a card is read by strangers.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

# Identifiers that the Hub takes as `license`; any other licence is "other" with its name.
LICENSES = frozenset(
    (
        "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
        "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
        "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
        "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m", "ecl-2.0", "epl-1.0",
        "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "h-research",
        "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl",
        "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0", "other", "pddl", "postgresql",
        "unknown", "unlicense", "wtfpl", "zlib",
    )
)  # fmt: skip
# Keys of a recipe on where a run was and how it was started, which a card leaves out.
PLACES = {"output_dir", "data_dir", "resume", "overwrite", "tracker", "cache_dir", "token_cache"}
# ISO 639-1; a code of three letters is one of ISO 639-2 or 639-3, of which there are thousands.
_TWO_LETTERS = frozenset(
    (
        "aa", "ab", "ae", "af", "ak", "am", "an", "ar", "as", "av", "ay", "az", "ba", "be", "bg", "bh", "bi", "bm",
        "bn", "bo", "br", "bs", "ca", "ce", "ch", "co", "cr", "cs", "cu", "cv", "cy", "da", "de", "dv", "dz", "ee",
        "el", "en", "eo", "es", "et", "eu", "fa", "ff", "fi", "fj", "fo", "fr", "fy", "ga", "gd", "gl", "gn", "gu",
        "gv", "ha", "he", "hi", "ho", "hr", "ht", "hu", "hy", "hz", "ia", "id", "ie", "ig", "ii", "ik", "io", "is",
        "it", "iu", "ja", "jv", "ka", "kg", "ki", "kj", "kk", "kl", "km", "kn", "ko", "kr", "ks", "ku", "kv", "kw",
        "ky", "la", "lb", "lg", "li", "ln", "lo", "lt", "lu", "lv", "mg", "mh", "mi", "mk", "ml", "mn", "mr", "ms",
        "mt", "my", "na", "nb", "nd", "ne", "ng", "nl", "nn", "no", "nr", "nv", "ny", "oc", "oj", "om", "or", "os",
        "pa", "pi", "pl", "ps", "pt", "qu", "rm", "rn", "ro", "ru", "rw", "sa", "sc", "sd", "se", "sg", "sh", "si",
        "sk", "sl", "sm", "sn", "so", "sq", "sr", "ss", "st", "su", "sv", "sw", "ta", "te", "tg", "th", "ti", "tk",
        "tl", "tn", "to", "tr", "ts", "tt", "tw", "ty", "ug", "uk", "ur", "uz", "ve", "vi", "vo", "wa", "wo", "xh",
        "yi", "yo", "za", "zh", "zu",
    )
)  # fmt: skip
_LANGUAGE_WORDS = ("code", "multilingual")  # what the Hub takes beside codes
_LICENSE_NAME = re.compile(r"[a-z0-9.-]+")


class CardError(ValueError):
    """Something that a card cannot be made from; the message names the file or option and says how to fix it."""


@dataclass(frozen=True)
class About:
    """Facts about a model that no file holds; what is None or empty is left out of the card.

    Args:
        languages: ISO 639 codes, the source's first.
        license: of the weights; an identifier of `LICENSES`, or any name. "other" needs `license_name`.
        dataset_name: the usual name of the training data, "Multi30k".
        dataset_id: its name on the Hub, where it has one.
        dataset_license: the licence of the data.
        widget: sentences for the page's input box; None: one for the source language, where we have one.
        license_name: what a licence that is not on the list is called, in small letters, digits, dots and hyphens.
        license_link: where its text is: a URL, or a file of the folder such as LICENSE.
    """

    languages: Sequence[str] = ()
    license: str | None = None
    dataset_name: str | None = None
    dataset_id: str | None = None
    dataset_license: str | None = None
    widget: Sequence[str] | None = None
    license_name: str | None = None
    license_link: str | None = None

    def check(self) -> None:
        """Raise CardError for a value that the Hub would refuse."""
        for code in self.languages:
            known = code in _TWO_LETTERS or code in _LANGUAGE_WORDS or re.fullmatch(r"[a-z]{3}", code)
            if not known:
                raise CardError(
                    f"{code!r} is no language code: give two or three small letters of ISO 639, such as de or deu, "
                    "'multilingual' or 'code'."
                )
        self._check_license()
        if self.dataset_id is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.dataset_id):
            raise CardError(f"{self.dataset_id!r} is no data set's name on the Hub: give owner/name.")

    def _check_license(self) -> None:
        listed = self.license is not None and self.license.lower() in LICENSES - {"other"}
        if (self.license or "").lower() == "other" and not self.license_name:
            raise CardError(
                "The license is 'other', and the Hub wants its name: give --license-name, and --license-link with a "
                "URL or the name of a file; or name the licence itself."
            )
        if (self.license_name or self.license_link) and (self.license is None or listed):
            raise CardError(
                f"A name and a link are for licences that are not on the Hub's list, but the license is "
                f"{self.license!r}: leave them out, or give 'other'."
            )
        if self.license_name is not None and not _LICENSE_NAME.fullmatch(self.license_name):
            raise CardError(
                f"{self.license_name!r} is no name of a licence for the Hub: use small letters, digits, dots, hyphens."
            )
        if self.license_link is not None and re.search(r"\s", self.license_link):
            raise CardError(f"{self.license_link!r} is no link: give a URL, or the name of a file in the folder.")


@dataclass
class Run:
    """The contents of a run folder; empty where a file is missing."""

    recipe: dict[str, Any] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    finished: dict[str, Any] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


def find_run(folder: str | os.PathLike) -> Path | None:
    """Return the run of a model folder (`RUN/best`, `RUN/averaged`, `RUN/checkpoints/step-...`), or None."""
    folder = Path(os.path.abspath(folder))
    near = (folder, folder.parent, folder.parent.parent)
    return next((p for p in near if (p / "recipe.yaml").is_file() and (p / "metrics.jsonl").is_file()), None)


def read_run(run: Path) -> Run:
    if not run.is_dir():
        raise CardError(f"There is no run folder '{run}'.")
    recipe: Any = {}
    if (run / "recipe.yaml").is_file():
        try:
            recipe = yaml.safe_load(_read(run / "recipe.yaml")) or {}
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise CardError(f"'{run / 'recipe.yaml'}' is no YAML: {error}") from None
        if not isinstance(recipe, dict):
            raise CardError(f"'{run / 'recipe.yaml'}' holds no keys: restore it.")
    events: dict[str, list[dict[str, Any]]] = {}
    if (run / "metrics.jsonl").is_file():
        for number, line in enumerate(_read(run / "metrics.jsonl").split("\n"), start=1):
            if line:
                record = _parse(line, f"'{run / 'metrics.jsonl'}', line {number},")
                events.setdefault(str(record.get("event")), []).append(record)
    parts = read_object(run / "environment.json").get("parts", [])
    return Run(
        recipe=recipe,
        events=events,
        finished=read_object(run / "finished.json"),
        parts=[part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else [],
        data=read_object(run / "data.json"),
    )


def read_evaluation(path: Path, folder: Path) -> dict[str, Any]:
    """Return an evaluation's results; raise CardError if they are of another model."""
    score = read_object(path, needed=True)
    settings = score.get("settings")
    score["settings"] = settings = settings if isinstance(settings, dict) else {}
    of = settings.get("model")
    if of and not _same_place(of, folder):
        raise CardError(
            f"'{path}' holds the scores of '{of}', not of '{folder}': evaluate this model, or name that one."
        )
    if not list(scores_of(score)):
        raise CardError(f"'{path}' holds no score with a signature: make it with `vaswani-tx evaluate --json`.")
    return score


def read_object(path: Path, needed: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file; empty where there is none and none is needed."""
    if not path.is_file():
        if needed:
            raise CardError(f"There is no '{path}'.")
        return {}
    return _parse(_read(path), f"'{path}'")


def scores_of(score: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and signature of every score that has all three."""
    for key, value in score.items():
        signature = score.get(f"{key}_signature")
        if is_number(value) and isinstance(signature, str):
            yield key, float(value), signature


def is_number(value: Any) -> bool:
    """Return whether a value from a file can be printed as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def test_set(score: dict[str, Any]) -> list[str]:
    """Return the names of the files, or of the data set, that an evaluation was made on, without folders."""
    settings = score["settings"]
    names: list[Any] = []
    for key in ("source", "target"):
        given = settings.get(key)
        names += given if isinstance(given, list) else [given]
    return [PurePosixPath(str(name).replace("\\", "/")).name for name in names if name]


def without_folder(value: Any) -> Any:
    """Return a recipe's value in which every path of the machine is cut to its last name."""
    if isinstance(value, dict):
        return {key: without_folder(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folder(item) for item in value]
    if isinstance(value, str) and (PureWindowsPath(value).anchor or value.startswith(("/", "~", "."))):
        return PurePosixPath(value.replace("\\", "/")).name or "."
    return value


def parameters(folder: Path) -> int:
    """Count the numbers in the safetensors files of a folder from their headers; tied matrices are stored once."""
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CardError(f"'{path}' is damaged ({error}): copy it again from where it is whole.") from None
    return count


def _same_place(given: str, folder: Path) -> bool:
    """Return whether two names mean one model folder; the run may have moved since, so the last two names decide."""
    one, other = (Path(os.path.abspath(path)).parts[-2:] for path in (given, folder))
    return one == other


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"'{path}' cannot be read ({error}): restore it.") from None


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CardError(f"{where} is damaged ({error}): restore it.") from None
    if not isinstance(values, dict):
        raise CardError(f"{where} holds no JSON object: restore it.")
    return values
