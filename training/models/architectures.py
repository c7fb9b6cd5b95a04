"""The models that `vaswani-tx train translation` can train, by the recipe's key `architecture`.

Importing this registers their classes, so that `AutoModelForSeq2SeqLM` loads what any of them saved.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from vaswani_tx import PRESETS, VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.models.loading import check_folder, load_pretrained
from vaswani_tx.training.models.lstm import LSTM_PRESETS, LstmForConditionalGeneration, LstmSeq2SeqConfig


@dataclass(frozen=True)
class Architecture:
    """Classes and named sizes of one kind of model.

    Args:
        without: keys of a recipe that change nothing in these models, each with the value it must then have.
    """

    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    presets: dict[str, dict[str, Any]]
    without: dict[str, Any]

    @property
    def fields(self) -> set[str]:
        """What the recipe's `model` mapping may name."""
        return {*self.config_class.__dataclass_fields__, *self.config_class.attribute_map}

    def make(self, preset: str, fields: dict[str, Any]) -> PreTrainedModel:
        """A new model of a preset's size, `fields` in place of the preset's; raises ValueError for a wrong field."""
        return self.model_class(self.config_class.from_preset(preset, **fields))

    def load(self, folder: str | os.PathLike, **options: Any) -> PreTrainedModel:
        """The model that a folder holds; `options` go to `from_pretrained`.

        Raises:
            CheckpointError: the folder is damaged, or holds a model of another kind.
        """
        check_folder(Path(folder))
        found = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("model_type")
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
        {"attention_init_gain": 1.0, "gradient_checkpointing": False, "compile": False},
    ),
}  # fmt: skip
