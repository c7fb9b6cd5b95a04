"""What the training commands of language models share: tokenizer, new or loaded model, validation set."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.tokenization_vaswani import MASK_TOKEN
from vaswani_tx.training.config.language_modeling import LanguageModelSettings
from vaswani_tx.training.data.sources import placed
from vaswani_tx.training.data.text import TextCorpus, training_texts
from vaswani_tx.training.engine.run import (
    RunContext,
    configure_model,
    find_or_train_tokenizer,
    model_fields,
    on_main,
    scale_attention,
)
from vaswani_tx.training.errors import CheckpointError, SettingsError
from vaswani_tx.training.inference.language_modeling import read_documents
from vaswani_tx.training.inference.translation import check_vocabulary
from vaswani_tx.training.models.loading import check_folder, load_pretrained


def make_tokenizer(start: RunContext) -> VaswaniTokenizer:
    """The tokenizer of the run: its own when it goes on, else the given one, else one trained on the text."""
    return on_main(start.accelerator, lambda: _tokenizer(start))


def _tokenizer(start: RunContext) -> VaswaniTokenizer:
    arguments = start.arguments
    places = [arguments.tokenizer, arguments.init_from]
    if start.resume_from:
        places = [start.resume_from, start.folder.tokenizer]
    return find_or_train_tokenizer(
        places,
        start.resume_from is not None,
        arguments.tokenizer_vocab_size,
        # With the mask in any case: the vocabulary then also serves the other kind of model.
        lambda size: VaswaniTokenizer.train(training_texts(arguments), vocab_size=size, mask_token=MASK_TOKEN),
    )


def load_validation(arguments: LanguageModelSettings) -> list[str]:
    """The validation documents; none where the recipe names no such text."""
    if not arguments.validation_text:
        return []
    text = placed(arguments.data_dir, arguments.validation_text, text_files=True)
    settings = {"split": arguments.validation_split, "config": arguments.dataset_config, "field": arguments.text_field}
    return read_documents(TextCorpus(text, documents=arguments.documents, empty=arguments.empty_lines, **settings))


def make_model(
    kind: type[transformers.PreTrainedModel], tokenizer: VaswaniTokenizer, start: RunContext
) -> transformers.PreTrainedModel:
    """A model from the preset, or from a folder; raises ValueError where the vocabulary does not fit."""
    arguments: LanguageModelSettings = start.arguments
    config_class, weights = kind.config_class, start.weights
    if weights:
        changes = {} if weights != arguments.init_from else arguments.model
        model = load_model(kind, weights, dtype=torch.float32, **changes)
    else:
        model = kind(config_class.from_preset(arguments.preset, **model_fields(arguments, len(tokenizer))))
        scale_attention(model, arguments.attention_init_gain)
    check_vocabulary(model, tokenizer, str(weights or "the model of this recipe"))
    _check_positions(model.config, arguments)
    return configure_model(model, arguments)


def load_model(kind: type[transformers.PreTrainedModel], folder: str | Path, **options: Any) -> Any:
    """The model that a folder holds; raises CheckpointError where it is damaged or of another family."""
    check_folder(Path(folder))
    found = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("model_type")
    wanted = kind.config_class.model_type
    if found != wanted:
        raise CheckpointError(
            f"'{folder}' holds a model of type {found!r}, not {wanted!r}: name a folder that this command's models "
            "were saved in."
        )
    return load_pretrained(kind, folder, **options)


def loader(kind: type[transformers.PreTrainedModel]) -> Any:
    """`load_model` for one kind of model."""
    return partial(load_model, kind)


def _check_positions(config: Any, arguments: LanguageModelSettings) -> None:
    learned = getattr(config, "position_embedding", "sinusoidal") == "learned"
    if learned and config.max_position_embeddings < arguments.row_length:
        raise SettingsError(
            f"row_length ({arguments.row_length}) is beyond the model's {config.max_position_embeddings} learned "
            "positions: lower it, or raise model.max_position_embeddings."
        )
