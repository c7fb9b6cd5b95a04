"""The keys that the recipes of all training commands share: model, optimiser, limits, saving, arithmetic."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from vaswani_tx.errors import NumberError
from vaswani_tx.limits import LARGEST_WHOLE, SEED, real, thread_bounds, whole
from vaswani_tx.training.config.recipe import check_known, check_text, key
from vaswani_tx.training.config.schedules import SCHEDULES
from vaswani_tx.training.errors import SettingsError


@dataclass
class RunSettings:
    """Everything that decides any training run; each command adds the keys of its data."""

    # Beams of a validation's translations, where a command has any.
    eval_beam = 1
    final_beam = 1
    # Keys whose values must be greater than 0; each class adds its own.
    positive = (
        "max_steps", "max_epochs", "max_minutes", "log_every", "eval_every", "patience", "save_every", "save_minutes",
        "accumulation_steps", "num_threads", "max_grad_norm", "lr_factor", "attention_init_gain", "learning_rate",
        "decay_steps", "adam_epsilon", "layer_lr_decay",
    )  # fmt: skip

    output_dir: str = key("", "Run folder: checkpoints, best and averaged model, metrics, the resolved recipe.")
    data_dir: str | None = key(None, "Folder that relative names of data files start from.")

    preset: str = key("base", "Named model size: base, big, tiny, a row of Table 3.")
    model: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Fields of the model's configuration that replace the preset's, such as dropout."},
    )
    init_from: str | None = key(None, "Model folder to start from (fine-tuning) instead of random weights.")
    init_scheme: str | None = key(
        None,
        "Initial weights of a new model: tensor2tensor, fairseq, small, small_attention, deepnorm or "
        "small_embeddings; empty: the preset's.",
    )
    attention_init_gain: float = key(
        1.0, "Factor on the initial query, key and value matrices of a new model, beside init_scheme's own."
    )
    freeze: list[str] | None = field(
        default=None,
        metadata={"help": "Parts of the model that do not learn, by the beginnings of their parameters' names."},
    )
    layer_lr_decay: float | None = key(
        None, "Factor on the rate from each layer to the one below it, embeddings last (layer-wise rates): 0.8."
    )
    seed: int = key(1, "Seed of initialisation, dropout and data order.", bounds=SEED)

    accumulation_steps: int = key(1, "Batches whose gradients make one update, on each process.")
    label_smoothing: float = key(0.1, "Smoothing of the target distribution.")
    schedule: str = key("noam", "Learning rate.", choices=SCHEDULES)
    warmup_steps: int = key(4000, "Updates of linear warm-up.")
    lr_factor: float = key(1.0, "Factor on the schedule's rate.")
    learning_rate: float | None = key(None, "Peak rate of every schedule but noam.")
    decay_steps: int | None = key(
        None, "Last update of linear and cosine; empty: max_steps. It belongs to the run: a resumed one keeps it."
    )
    adam_beta1: float = key(0.9, "Adam's first decay rate.")
    adam_beta2: float = key(0.98, "Adam's second decay rate.")
    adam_epsilon: float = key(1e-9, "Adam's epsilon.")
    weight_decay: float = key(0.0, "Decoupled weight decay on matrices (AdamW); 0: Adam.")
    max_grad_norm: float | None = key(None, "Clip the gradient to this norm; empty: no clipping.")
    ema_decay: float | None = key(
        None, "Decay of a moving average of the weights, which is then what is validated and kept as best; 0.999."
    )

    max_steps: int | None = key(None, "Stop after this many updates.")
    max_epochs: int | None = key(None, "Stop after this many passes over the data.")
    max_minutes: float | None = key(None, "Stop after this much wall-clock time, resumed time included.")

    log_every: int = key(50, "Updates between two records of the training loss.")
    eval_every: int | None = key(1000, "Updates between two validations; empty: only at the end.")
    best_by: str = key("loss", "Validation score that chooses best/.")
    patience: int | None = key(None, "Stop after this many validations without a better score.")

    save_every: int | None = key(1000, "Updates between two checkpoints.")
    save_minutes: float | None = key(None, "Minutes between two checkpoints.")
    keep_last: int = key(5, "Checkpoints kept.")
    average_last: int = key(5, "Checkpoints averaged at the end; 0 or 1: no average.")

    precision: Literal["fp32", "bf16", "fp16"] = key("fp32", "Arithmetic of the forward pass; weights stay float32.")
    compile: bool = key(False, "torch.compile the model.")
    gradient_checkpointing: bool = key(False, "Recompute activations in the backward pass to save memory.")
    num_threads: int | None = key(None, "CPU threads of PyTorch; empty: its default.", bounds=thread_bounds())
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = key("tensorboard", "Where curves go besides JSONL.")

    resume: str = key("auto", "auto: from the last checkpoint of output_dir; never; or a checkpoint folder.")
    overwrite: bool = key(False, "Delete the run that output_dir holds and start again.")

    def __post_init__(self):
        self.check()

    @property
    def model_fields(self) -> dict[str, Any]:
        """The fields of a new model's configuration that replace the preset's."""
        return self.model if self.init_scheme is None else {"init_scheme": self.init_scheme} | self.model

    @property
    def schedule_end(self) -> int | None:
        """The update at which the schedule reaches its floor; None for one that never does."""
        return (self.decay_steps or self.max_steps) if SCHEDULES[self.schedule].ends else None

    def check(self) -> None:
        """Raise SettingsError, naming the key and how to fix it, where values contradict each other."""
        for name in self.positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name} must be greater than 0, got {value}.")
        self._check_bounds()
        self.check_least(1, "keep_last")
        for name in ("label_smoothing", "adam_beta1", "adam_beta2", "ema_decay"):
            if getattr(self, name) is not None and not 0.0 <= getattr(self, name) < 1.0:
                raise SettingsError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.init_scheme not in (None, self.model.get("init_scheme", self.init_scheme)):
            raise SettingsError(
                f"init_scheme is '{self.init_scheme}' and model.init_scheme '{self.model['init_scheme']}': give one."
            )
        if self.average_last > self.keep_last:
            raise SettingsError(
                f"average_last ({self.average_last}) needs as many kept checkpoints: raise keep_last "
                f"({self.keep_last}) or lower average_last."
            )
        if self.layer_lr_decay is not None and self.layer_lr_decay > 1.0:
            raise SettingsError(f"layer_lr_decay must be at most 1, got {self.layer_lr_decay}.")
        if SCHEDULES[self.schedule].needs_rate and self.learning_rate is None:
            raise SettingsError(f"schedule: {self.schedule} needs learning_rate, its rate after the warm-up.")

    def _check_bounds(self) -> None:
        """Raise SettingsError where a number is not finite or larger than any sensible one."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            usual = whole(-LARGEST_WHOLE) if isinstance(value, int) else real()
            try:
                item.metadata.get("bounds", usual).check(value)
            except NumberError as error:
                raise SettingsError(f"{item.name} {error}.") from None

    def check_least(self, least: int, *names: str) -> None:
        """Raise SettingsError where a key's value is below `least`."""
        for name in names:
            if getattr(self, name) < least:
                raise SettingsError(f"{name} must be at least {least}, got {getattr(self, name)}.")

    def check_corpora(self, side: str, keys: Iterable[str]) -> None:
        """Raise SettingsError where the key `corpora` does not describe corpora.

        Args:
            side: the key of an entry that must be there; with `train_` in front, the key for a single corpus.
            keys: all keys that an entry may have.
        """
        if self.corpora is None:
            return
        if getattr(self, f"train_{side}"):
            raise SettingsError(f"train_{side} and corpora are both set: give the training data in one of them.")
        if not self.corpora:
            raise SettingsError(f"corpora is an empty list: name at least one corpus, or use train_{side}.")
        for number, corpus in enumerate(self.corpora, start=1):
            origin = f"corpora, number {number}"
            for name, value in corpus.items():
                check_known(name, keys, f"{origin}: unknown key '{name}'")
                if name not in ("weight", "reverse") and value is not None:
                    for entry in value if isinstance(value, (list, tuple)) else [value]:
                        check_text(name, entry, origin)
            if not corpus.get(side):
                raise SettingsError(f"{origin}: {side} is missing.")
            weight = corpus.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
                raise SettingsError(f"{origin}: weight must be a number greater than 0, got '{weight}'.")

    def check_model(self, presets: Iterable[str], config_class: type) -> None:
        """Raise SettingsError, with the nearest known name, where `preset` or `model` name what does not exist."""
        check_known(self.preset, presets, f"preset: there is none called '{self.preset}'")
        fields = {*config_class.__dataclass_fields__, *config_class.attribute_map}
        for name in self.model:
            check_known(name, fields, f"model: {config_class.__name__} has no field '{name}'")
        if self.init_from or getattr(self, "encoder_from", None) or getattr(self, "decoder_from", None):
            return  # the other fields are those of that model
        try:
            config_class.from_preset(self.preset, **self.model_fields)
        except Exception as error:  # the configuration raises ValueErrors and what huggingface_hub wraps them in
            raise SettingsError(f"model: {' '.join(str(error).split())}") from error

    def check_for_training(self) -> None:
        """Raise SettingsError where a key that training needs is empty."""
        if not self.output_dir:
            raise SettingsError("output_dir is empty: set it in the recipe or with --output-dir.")
        self.check_data()
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise SettingsError("The run has no end: set max_steps, max_epochs or max_minutes.")

    def check_data(self) -> None:
        """Raise SettingsError where the recipe names no training data; each command has its own."""

    def to_yaml(self) -> str:
        """Return the resolved recipe, every key with its help as comment; reading it gives the same settings."""
        lines = []
        for item in dataclasses.fields(self):
            entry = yaml.safe_dump({item.name: getattr(self, item.name)}, sort_keys=False, allow_unicode=True).rstrip()
            lines.append(f"# {item.metadata['help']}\n{entry}")
        return "\n".join(lines) + "\n"
