"""The keys of a translation recipe, and how a YAML file and flags become one checked set of arguments.

A recipe is a flat YAML mapping whose keys are the fields of `TranslationArguments`. Flags override it: `--max-steps 9`
and `--max_steps 9` are the same, `--compile` and `--no-compile` switch, `--max-steps null` empties a key, and
`--model.dropout 0.3` sets one entry of the `model` mapping.
"""

import dataclasses
import difflib
import math
import os
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from vaswani_tx import PRESETS, VaswaniConfig


class ArgumentsError(ValueError):
    """A recipe or flag that cannot be used; the message names the key and the mend."""


def _key(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class TranslationArguments:
    """Everything that decides a translation training run, in the order in which a recipe gives it."""

    output_dir: str = _key("", "Run folder: checkpoints, best and averaged model, metrics, the resolved recipe.")

    data_dir: str | None = _key(None, "Folder that relative names of data files start from.")
    train_source: str = _key("", "Source side: a text file, or one .jsonl, .tsv, .parquet file, or a Hub data set.")
    train_target: str | None = _key(None, "Target side: the line-aligned text file; empty for the other formats.")
    train_split: str = _key("train", "Split of a Hub data set to train on.")
    validation_source: str | None = _key(None, "Source side of the validation set; empty: no validation.")
    validation_target: str | None = _key(None, "Target side of the validation set.")
    validation_split: str = _key("validation", "Split of a Hub data set to validate on.")
    dataset_config: str | None = _key(None, "Configuration name of a Hub data set, such as de-en.")
    corpora: list[dict[str, Any]] | None = field(
        default=None, metadata={"help": "Corpora with weights instead of train_source: {source, target, weight, ...}."}
    )
    streaming: bool = _key(False, "Read the training data piece by piece, for corpora that no memory or disk holds.")
    stream_buffer: int = _key(200_000, "Pairs of one piece of a stream; similar lengths are looked for within it.")
    source_field: str = _key("source", "Field or column of the source text (.jsonl, .tsv, .parquet, Hub).")
    target_field: str = _key("target", "Field or column of the target text (.jsonl, .tsv, .parquet, Hub).")
    empty_lines: Literal["error", "drop"] = _key("error", "What an empty line on either side does.")
    max_source_length: int = _key(256, "Longest source in tokens, with </s>.")
    max_target_length: int = _key(256, "Longest target in tokens, with </s>.")
    too_long: Literal["drop", "error", "truncate"] = _key("drop", "What a longer training pair does.")
    min_length: int = _key(1, "Training pairs with a side of fewer tokens, </s> not counted, are dropped.")
    max_length_ratio: float | None = _key(None, "Training pairs with a side so many times as long are dropped.")
    drop_duplicates: bool = _key(False, "Drop training pairs that stood in the data before; of a stream, in its piece.")
    drop_copies: bool = _key(False, "Drop training pairs whose two sides are the same text.")
    token_cache: bool = _key(True, "Keep tokenised training data on disk and use it again while nothing changed.")
    cache_dir: str | None = _key(None, "Where they are kept; empty: $VASWANI_TX_CACHE or ~/.cache/vaswani_tx.")

    tokenizer: str | None = _key(None, "Folder of a trained tokenizer; empty: train one (tokenizer_vocab_size).")
    tokenizer_vocab_size: int | None = _key(None, "Joint vocabulary to train on both sides where no folder exists.")

    preset: str = _key("base", "Named model size: base, big, tiny, a row of Table 3.")
    model: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of VaswaniConfig that replace the preset's, such as dropout."}
    )
    init_from: str | None = _key(None, "Model folder to start from (fine-tuning) instead of random weights.")
    attention_init_gain: float = _key(
        1.0, "Factor on the initial query, key and value matrices of a new model; 0.7071 is fairseq's and torch's."
    )
    seed: int = _key(1, "Seed of initialisation, dropout and data order.")

    max_source_tokens: int = _key(4096, "Source tokens of one batch on one process, padding counted.")
    max_target_tokens: int = _key(4096, "Target tokens of one batch on one process, padding counted.")
    accumulation_steps: int = _key(1, "Batches whose gradients make one update, on each process.")

    label_smoothing: float = _key(0.1, "Smoothing of the target distribution.")
    smoothing_over: Literal["vocabulary", "others"] = _key(
        "vocabulary", "Spread over all entries, as the paper's citation; others: all but the right one, tensor2tensor."
    )
    schedule: Literal["noam", "inverse_sqrt", "constant", "linear", "cosine"] = _key("noam", "Learning rate.")
    warmup_steps: int = _key(4000, "Updates of linear warm-up.")
    lr_factor: float = _key(1.0, "Factor on the schedule's rate.")
    learning_rate: float | None = _key(None, "Peak rate of every schedule but noam.")
    decay_steps: int | None = _key(None, "Last update of linear and cosine; empty: max_steps.")
    adam_beta1: float = _key(0.9, "Adam's first decay rate.")
    adam_beta2: float = _key(0.98, "Adam's second decay rate.")
    adam_epsilon: float = _key(1e-9, "Adam's epsilon.")
    weight_decay: float = _key(0.0, "Decoupled weight decay on matrices (AdamW); 0: Adam.")
    max_grad_norm: float | None = _key(None, "Clip the gradient to this norm; empty: no clipping.")
    ema_decay: float | None = _key(
        None, "Decay of a moving average of the weights, which is then what is validated and kept as best; 0.999."
    )

    max_steps: int | None = _key(None, "Stop after this many updates.")
    max_epochs: int | None = _key(None, "Stop after this many passes over the data.")
    max_minutes: float | None = _key(None, "Stop after this much wall-clock time, resumed time included.")

    log_every: int = _key(50, "Updates between two records of the training loss.")
    eval_every: int | None = _key(1000, "Updates between two validations; empty: only at the end.")
    eval_sentences: int | None = _key(None, "Validation sentences to translate; empty: all, 0: loss only.")
    eval_beam: int = _key(1, "Beam of the translations during training; 1: greedy.")
    final_beam: int = _key(4, "Beam of the last validation, of the best and of the averaged model.")
    best_by: Literal["bleu", "chrf", "loss"] = _key("bleu", "Validation score that chooses best/.")
    patience: int | None = _key(None, "Stop after this many validations without a better score.")

    save_every: int | None = _key(1000, "Updates between two checkpoints.")
    save_minutes: float | None = _key(None, "Minutes between two checkpoints.")
    keep_last: int = _key(5, "Checkpoints kept.")
    average_last: int = _key(5, "Checkpoints averaged at the end; 0 or 1: no average.")

    precision: Literal["fp32", "bf16", "fp16"] = _key("fp32", "Arithmetic of the forward pass; weights stay float32.")
    compile: bool = _key(False, "torch.compile the model.")
    gradient_checkpointing: bool = _key(False, "Recompute activations in the backward pass to save memory.")
    num_threads: int | None = _key(None, "CPU threads of PyTorch; empty: its default.")
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = _key("tensorboard", "Where curves go besides JSONL.")

    resume: str = _key("auto", "auto: go on where output_dir stands; never; or a checkpoint folder.")
    overwrite: bool = _key(False, "Delete the run that output_dir holds and start anew.")

    def __post_init__(self):
        self.check()

    def check(self) -> None:
        """Raises ArgumentsError, naming the key and the mend, where values contradict themselves."""
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ArgumentsError(f"{name} must be greater than 0, got {value}.")
        for name in ("keep_last", "max_source_length", "max_target_length", "min_length"):
            least = 1 if name in ("keep_last", "min_length") else 2
            if getattr(self, name) < least:
                raise ArgumentsError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        for name in ("label_smoothing", "adam_beta1", "adam_beta2", "ema_decay"):
            if getattr(self, name) is not None and not 0.0 <= getattr(self, name) < 1.0:
                raise ArgumentsError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.average_last > self.keep_last:
            raise ArgumentsError(
                f"average_last ({self.average_last}) needs as many kept checkpoints: raise keep_last "
                f"({self.keep_last}) or lower average_last."
            )
        if self.max_source_tokens < self.max_source_length or self.max_target_tokens < self.max_target_length:
            raise ArgumentsError(
                "A batch must hold the longest sentence: max_source_tokens and max_target_tokens "
                f"({self.max_source_tokens}, {self.max_target_tokens}) must not be below max_source_length and "
                f"max_target_length ({self.max_source_length}, {self.max_target_length})."
            )
        _check_known(self.preset, PRESETS, f"preset: there is none called '{self.preset}'")
        for name in self.model:
            _check_known(name, _MODEL_FIELDS, f"model: VaswaniConfig has no field '{name}'")
        if self.max_length_ratio is not None and self.max_length_ratio < 1.0:
            raise ArgumentsError(f"max_length_ratio must be at least 1, got {self.max_length_ratio}.")
        self._check_corpora()
        if self.schedule != "noam" and self.learning_rate is None:
            raise ArgumentsError(f"schedule: {self.schedule} needs learning_rate, its rate after the warm-up.")

    def _check_corpora(self) -> None:
        if self.corpora is None:
            return
        if self.train_source:
            raise ArgumentsError("train_source and corpora are both set: give the training data in one of them.")
        if not self.corpora:
            raise ArgumentsError("corpora is an empty list: name at least one corpus, or use train_source.")
        for number, corpus in enumerate(self.corpora, start=1):
            for name in corpus:
                _check_known(name, CORPUS_KEYS, f"corpora, number {number}: unknown key '{name}'")
            if not corpus.get("source"):
                raise ArgumentsError(f"corpora, number {number}: source is missing.")
            weight = corpus.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
                raise ArgumentsError(
                    f"corpora, number {number}: weight must be a number greater than 0, got '{weight}'."
                )

    def check_for_training(self) -> None:
        """Raises ArgumentsError when a key that training cannot do without is empty."""
        if not self.output_dir:
            raise ArgumentsError("output_dir is empty: set it in the recipe or with --output-dir.")
        if not (self.train_source or self.corpora):
            raise ArgumentsError("train_source is empty: set it in the recipe or with --train-source.")
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise ArgumentsError("The run has no end: set max_steps, max_epochs or max_minutes.")
        if not (self.tokenizer or self.tokenizer_vocab_size or self.init_from):
            raise ArgumentsError("No tokenizer: set tokenizer (a folder) or tokenizer_vocab_size (train one).")

    def to_yaml(self) -> str:
        """The resolved recipe, every key with its help as comment; reading it gives the same arguments."""
        lines = []
        for item in dataclasses.fields(self):
            entry = yaml.safe_dump({item.name: getattr(self, item.name)}, sort_keys=False, allow_unicode=True).rstrip()
            lines.append(f"# {item.metadata['help']}\n{entry}")
        return "\n".join(lines) + "\n"


CORPUS_KEYS = ("source", "target", "weight", "split", "config", "source_field", "target_field")
_MODEL_FIELDS = {*VaswaniConfig.__dataclass_fields__, *VaswaniConfig.attribute_map}
_POSITIVE = (
    "max_steps", "max_epochs", "max_minutes", "log_every", "eval_every", "eval_beam", "final_beam", "patience",
    "save_every", "save_minutes", "accumulation_steps", "max_source_tokens", "max_target_tokens", "num_threads",
    "tokenizer_vocab_size", "max_grad_norm", "lr_factor", "attention_init_gain",
    "learning_rate", "decay_steps", "adam_epsilon", "stream_buffer",
)  # fmt: skip


def parse_arguments(argv: list[str] | None = None) -> TranslationArguments:
    """Arguments from a command line: at most one recipe file, then flags that override it.

    Raises:
        ArgumentsError: unknown key or flag (with the nearest known one), a value of the wrong type, no such recipe.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    recipe, flags = _split(argv)
    values = read_recipe(recipe) if recipe else {}
    model = dict(values.get("model") or {})
    for name, text, origin in flags:
        if name.startswith("model."):
            model[name.removeprefix("model.")] = _yaml_value(text, origin)
        elif name == "model":
            model = _coerce("model", _yaml_value(text, origin), origin)
        else:
            values[name] = _coerce(name, _yaml_value(text, origin), origin)
    if model:
        values["model"] = model
    return TranslationArguments(**values)


def read_recipe(path: str | os.PathLike) -> dict[str, Any]:
    """The checked keys of one YAML recipe; raises ArgumentsError naming file and key."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArgumentsError(f"No recipe at '{path}'. {_known_recipes()}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentsError(f"The recipe '{path}' cannot be read: {error}.") from error
    try:
        values = yaml.load(text, Loader=UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ArgumentsError(f"{path} is not a YAML mapping: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ArgumentsError(f"{path} must be a mapping of keys to values, got a {type(values).__name__}.")
    for name in values:
        _check_known(str(name), _FIELDS, f"{path}: unknown key '{name}'")
    return {name: _coerce(name, value, str(path)) for name, value in values.items()}


def usage() -> str:
    """One line for each key: flag, default and meaning."""
    lines = []
    for item in dataclasses.fields(TranslationArguments):
        default = item.default if item.default is not dataclasses.MISSING else {}
        lines.append(f"  {_flag(item.name):28}{item.metadata['help']} (default: {default!r})")
    return "\n".join(lines)


class UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.YAMLError(f"key '{key}' is given twice (line {key_node.start_mark.line + 1}).")
            seen.add(key)
        return super().construct_mapping(node, deep)


_FIELDS = {item.name: item for item in dataclasses.fields(TranslationArguments)}
_TYPES = typing.get_type_hints(TranslationArguments)


def _split(argv: list[str]) -> tuple[str | None, list[tuple[str, str, str]]]:
    """The recipe's path and the flags as (key, text, flag as typed)."""
    recipe, flags = None, []
    position = 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if not word.startswith("--"):
            if recipe is not None:
                raise ArgumentsError(f"'{word}' is a second recipe beside '{recipe}': give one file, then --flags.")
            recipe = word
            continue
        flag, equals, text = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name == "recipe":
            recipe, position = (text, position) if equals else (_value(argv, position, flag), position + 1)
            continue
        name, text_of_switch = _switch(name)
        _check_known(name.partition(".")[0], _FIELDS, f"Unknown flag '{flag}'", as_flag=True)
        if "." in name and not name.startswith("model."):
            raise ArgumentsError(f"Unknown flag '{flag}': only --model.FIELD has a dot.")
        if equals:
            pass
        elif text_of_switch is not None:
            text = text_of_switch
        elif _TYPES.get(name) is bool and (position == len(argv) or not _is_boolean(argv[position])):
            text = "true"
        else:
            text, position = _value(argv, position, flag), position + 1
        flags.append((name, text, flag))
    return recipe, flags


def _switch(name: str) -> tuple[str, str | None]:
    positive = name.removeprefix("no_")
    if positive != name and _TYPES.get(positive) is bool:
        return positive, "false"
    return name, None


def _value(argv: list[str], position: int, flag: str) -> str:
    if position >= len(argv) or argv[position].startswith("--"):
        raise ArgumentsError(f"{flag} needs a value.")
    return argv[position]


def _is_boolean(word: str) -> bool:
    return word.lower() in ("true", "false", "yes", "no")


def _yaml_value(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ArgumentsError(f"{origin}: '{text}' cannot be read: {error}") from error


def _coerce(name: str, value: Any, origin: str) -> Any:
    """`value` as the type of field `name`; YAML reads 1e-9 as text and 3 as a whole number, both fine for a rate."""
    kind = _TYPES[name]
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None:
        if type(None) in options:
            return None
        if typing.get_origin(kind) is dict:
            return {}
        raise ArgumentsError(f"{origin}: {name} must not be empty.")
    kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is list:
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise ArgumentsError(f"{origin}: {name} must be a list of mappings, got '{value}'.")
        return [{str(key): entry for key, entry in item.items()} for item in value]
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        text = "none" if value is False else str(value)
        if text not in choices:
            raise ArgumentsError(f"{origin}: {name} must be one of {', '.join(choices)}, got '{value}'.")
        return text
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ArgumentsError(f"{origin}: {name} must be a mapping of fields to values, got '{value}'.")
        return {str(key): _number(entry) for key, entry in value.items()}
    converted = _scalar(kind, value)
    if converted is None:
        what = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
        raise ArgumentsError(f"{origin}: {name} must be {what}, got '{value}'.")
    return converted


def _scalar(kind: type, value: Any) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is str:
        return None if isinstance(value, (dict, list)) else str(value)
    if isinstance(value, bool):
        return None
    if kind is int and isinstance(value, int):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if kind is int:
        return int(number) if number.is_integer() else None
    return number if math.isfinite(number) else None


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check_known(name: str, known: typing.Iterable[str], message: str, as_flag: bool = False) -> None:
    if name in known:
        return
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    shown = [_flag(word) if as_flag else word for word in nearest]
    raise ArgumentsError(message + (f": did you mean '{shown[0]}'?" if shown else ": --help lists all."))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _known_recipes() -> str:
    folder = Path(__file__).parent / "recipes"
    names = sorted(path.name for path in folder.glob("*.yaml"))
    return f"Ready-made ones in training/recipes: {', '.join(names)}."
