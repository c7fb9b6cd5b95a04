"""The models that `vaswani-tx train translation` can train, by the recipe's key `architecture`.

Importing this registers their classes, so that `AutoModelForSeq2SeqLM` loads what any of them saved.
"""

import os
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from vaswani_tx import PRESETS, VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.models.loading import build_model, load_pretrained, read_model_type
from vaswani_tx.training.models.lstm import LSTM_PRESETS, LstmForConditionalGeneration, LstmSeq2SeqConfig


@dataclass(frozen=True)
class Architecture:
    """Classes and named sizes of one architecture.

    Args:
        without: keys of a recipe that change nothing in these models, each with the value it must then have.
    """

    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    presets: dict[str, dict[str, Any]]
    without: dict[str, Any]

    @property
    def fields(self) -> set[str]:
        """Return the fields that the recipe's `model` mapping may set."""
        return {*self.config_class.__dataclass_fields__, *self.config_class.attribute_map}

    def make(self, preset: str, fields: dict[str, Any], copies: int = 1) -> PreTrainedModel:
        """Return a new model of a preset's size, changed by `fields`; raise ValueError for a wrong field.

        Args:
            copies: how often the memory of its weights is needed, 4 for training.
        """
        return build_model(self.model_class, self.config_class.from_preset(preset, **fields), copies)

    def load(self, folder: str | os.PathLike, **options: Any) -> PreTrainedModel:
        """Return the model that a folder holds; `options` go to `from_pretrained`.

        Raises:
            CheckpointError: the folder is damaged, or holds a model of another architecture.
        """
        found = read_model_type(folder)
        if found != self.config_class.model_type:
            raise CheckpointError(
                f"'{folder}' holds a model of type {found!r}, not {self.config_class.model_type!r}: set `architecture` "
                "to what it was trained with, or name another folder."
            )
        return load_pretrained(self.model_class, folder, **options)


ARCHITECTURES = {
    "vaswani": Architecture(VaswaniConfig, VaswaniForConditionalGeneration, PRESETS, {}),
    "lstm": Architecture(
        LstmSeq2SeqConfig, LstmForConditionalGeneration, LSTM_PRESETS,
        {"init_scheme": None, "attention_init_gain": 1.0, "gradient_checkpointing": False, "compile": False,
         "source_vocab_size": None, "rdrop_weight": 0.0, "simcut_weight": 0.0, "teacher": None},
    ),
}  # fmt: skip
