"""What engines share: a model that transformers' tools, the pipelines and the commands call as any other."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.errors import ExportError
from vaswani_tx.export.folders import read_note
from vaswani_tx.generation_vaswani import VaswaniGenerationConfig, VaswaniGenerationMixin
from vaswani_tx.loading import check_generation


class EngineModel(VaswaniGenerationMixin, PreTrainedModel):
    """An encoder-decoder without weights of its own: an engine computes. A base of the engines.

    Args:
        folder: the exported folder.
        note: what it says of itself.
    """

    config_class = VaswaniConfig
    main_input_name = "input_ids"
    engine: ClassVar[str] = ""
    # Options of commands and pipelines that the engine has not: name -> why.
    lacks: ClassVar[dict[str, str]] = {}

    def __init__(self, folder: Path, note: dict[str, Any]):
        super().__init__(config_of(folder, note))
        self.folder, self.note = folder, note
        # Once more: transformers makes one of the model's configuration.
        self.generation_config = generation_of(folder)
        self.name_or_path = str(folder)

    @classmethod
    def can_generate(cls) -> bool:
        return True

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def to(self, *args: Any, **kwargs: Any) -> "EngineModel":
        """Return the model itself: engines compute on the CPU.

        Raises:
            ExportError: another device is asked for.
        """
        wanted = torch.device(kwargs.get("device", args[0] if args else "cpu")) if args or kwargs else self.device
        if wanted.type != "cpu":
            raise ExportError(f"the engine {self.engine} computes on the CPU here, not on {wanted}: give --device cpu.")
        return self

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return an embedding without storage that tells the size of the source's vocabulary."""
        size = self.config.source_vocab_size or self.config.vocab_size
        return torch.nn.Embedding(size, 1, device="meta")

    def get_decoder(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        """Return a module without storage whose embedding tells the size of the target's vocabulary."""
        decoder = torch.nn.Module()
        decoder.embed_tokens = torch.nn.Embedding(self.config.vocab_size, 1, device="meta")
        return decoder

    def lack(self, option: str) -> ExportError:
        """Return the error that the engine has not an option."""
        reason = self.lacks.get(option, "it has no such setting")
        return ExportError(f"{option} is not available with the engine {self.engine}: {reason}.")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise self.lack("a forward pass (alignments, perplexity, labels)")


def config_of(folder: Path, note: dict[str, Any]) -> PreTrainedConfig:
    """Return the configuration of the model that was exported.

    Raises:
        ExportError: the note does not hold one.
    """
    fields = dict(note.get("config") or {})
    try:
        return AutoConfig.for_model(fields.pop("model_type", None), **fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"'{folder}' holds no configuration of a model ({error}): export it again.") from None


def generation_of(folder: Path) -> GenerationConfig:
    """Return the generation settings of an exported folder."""
    try:
        return VaswaniGenerationConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ExportError(f"generation_config.json of '{folder}' cannot be read ({error}): export it again.") from None


def note_of(folder: Path, engine: str) -> dict[str, Any]:
    """Return the note of a folder that was exported for an engine.

    Raises:
        ExportError: it was not.
    """
    note = read_note(folder)
    if note is None:
        raise ExportError(f"'{folder}' is no exported folder: make one with `vaswani-tx export MODEL OUT`.")
    if note["format"] != engine:
        raise ExportError(f"'{folder}' was exported to {note['format']}, which --engine {engine} does not run.")
    if note.get("kind") != "encoder-decoder":
        raise ExportError(f"'{folder}' holds a model of the kind {note.get('kind')}, which does not translate.")
    return note


def check(model: EngineModel) -> EngineModel:
    """Return a model whose generation settings were checked."""
    check_generation(model, str(model.folder))
    return model
