"""The verbs that make and measure models: each hands its words to a command of `vaswani_tx.training`, unread.

`vaswani-tx train translation ...` is `python -m vaswani_tx.training.train_translation ...`; both also run under
`accelerate launch -m`. The commands come with the extra `train`.
"""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec

from vaswani_tx.cli.common import CliError
from vaswani_tx.suggestions import did_you_mean

PACKAGE = "vaswani_tx.training"
EXTRA = "pip install 'vaswani-tx[train]'"
# What the extra brings, by the names that Python imports; without TensorBoard a run only lacks its curves there.
REQUIRED = (
    "accelerate", "datasets", "evaluate", "filelock", "jinja2", "markupsafe", "matplotlib", "PIL", "psutil", "pyarrow",
    "rouge_score", "sacrebleu", "sacremoses", "scipy", "sklearn", "tqdm",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command of `vaswani_tx.training`: its module there, and a line of help."""

    module: str
    help: str


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "train": {
        "translation": Command("train_translation", "a translation model, from parallel text"),
        "summarization": Command("train_summarization", "a model that shortens documents"),
        "masked-lm": Command("train_masked_lm", "a language model that fills in masked words, from text"),
        "causal-lm": Command("train_causal_lm", "a language model that continues text, from text"),
        "classifier": Command("train_classifier", "a classifier or tagger of texts, or a finder of answers"),
        "image-classifier": Command("train_image_classifier", "a classifier of images"),
        "parsing": Command("train_parsing", "a constituency parser, from words and linearised trees"),
        "tokenizer": Command("train_tokenizer", "the vocabulary that all of these can share"),
    },
    "evaluate": {
        "translation": Command("evaluate_translation", "BLEU, chrF, TER, exact match and perplexity on a test set"),
        "language-model": Command("evaluate_language_model", "perplexity and bits per byte, or masked words found"),
        "parsing": Command("parsing.evaluate", "bracket scores of a constituency parser"),
    },
    "backtranslate": Command("backtranslate", "parallel text from text in the target language, by a model"),
    "distill": Command("distill", "a teacher's translations of the sources, for a student to learn from"),
    "classify": Command("classify", "label texts or words, answer questions, score the predictions"),
    "compare": Command("compare_translations", "is one system better than another? a paired significance test"),
    "average": Command("average_checkpoints", "the mean of checkpoints, as one model"),
    "report": Command("report", "a page of HTML about a run, or about several side by side"),
    "sweep": Command("sweep", "train and score many variants of a recipe, such as Table 3"),
    "card": Command("make_card", "the model card of a run, every number from its files"),
}
# `vaswani-tx evaluate --model ...` without a second word.
DEFAULTS = {"evaluate": "translation"}
TITLES = {
    "train": "Train a model, or a tokenizer; of each, `vaswani-tx train KIND --help` is the manual.",
    "evaluate": "Measure a model on a test set; without KIND, a translation model.",
}
HELP_FLAGS = ("-h", "--help")


def run(words: list[str]) -> int:
    """Run the command that the first word, or the first two, of a command line name; return its exit status.

    Raises:
        CliError: no such command, or the extra `train` is not installed.
    """
    verb, *rest = words
    command = COMMANDS[verb]
    if isinstance(command, dict):
        if rest[:1] in ([], ["-h"], ["--help"]) and (not rest or verb not in DEFAULTS or len(rest) == 1):
            print(kinds_help(verb))
            return 0 if rest else 2
        if rest[0].startswith("-") and verb in DEFAULTS:
            rest.insert(0, DEFAULTS[verb])
        kind, *rest = rest
        if kind not in command:
            hint = did_you_mean(kind, command) or f": there are {', '.join(command)}"
            raise CliError(f"vaswani-tx {verb}: there is no '{kind}'{hint}")
        command = command[kind]
    try:
        if not any(flag in rest for flag in HELP_FLAGS):
            check_extra()
        return importlib.import_module(f"{PACKAGE}.{command.module}").main(rest)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("vaswani_tx"):
            raise
        raise CliError(f"{error.name} is not installed: {EXTRA}") from None


def check_extra() -> None:
    """Raise CliError where a package of the extra `train` is missing."""
    if missing := [name for name in REQUIRED if find_spec(name) is None]:
        raise CliError(f"training needs packages that are not installed ({', '.join(missing)}): {EXTRA}")


def kinds_of(verb: str) -> dict[str, Command]:
    """Return the commands of a verb that has several, none of another verb."""
    found = COMMANDS[verb]
    return found if isinstance(found, dict) else {}


def kinds_help(verb: str) -> str:
    """Return the help of a verb that has several commands."""
    kinds = kinds_of(verb)
    width = max(map(len, kinds))
    rows = [f"  {kind:<{width}}  {command.help}" for kind, command in kinds.items()]
    return "\n".join([f"usage: vaswani-tx {verb} KIND ...", "", TITLES[verb], "", "KIND is one of:", *rows])
