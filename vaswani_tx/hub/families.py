"""Files of each family of models that carries its code, and the classes that every Auto class loads from them.

A new family is a new entry of `FAMILIES`; `tests/hub/test_saving.py` compares the entries with what the classes import.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CODE_FOLDER = Path(__file__).parent.parent
DATA_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "target_tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "preprocessor_config.json",
)
CARD = "README.md"
INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


@dataclass(frozen=True)
class Family:
    """A model type's code files, and the classes that each Auto class and pipeline loads from them.

    Args:
        code: names of the closure's files, all that the classes below import.
        auto_map: for each JSON file, its table of Auto classes.
        pipelines: task -> (pipeline class, Auto class of its model), for `custom_pipelines` of config.json.
        needs: data files without which a folder of this family cannot be used.
    """

    code: tuple[str, ...]
    auto_map: dict[str, dict[str, Any]]
    pipelines: dict[str, tuple[str, str]] = field(default_factory=dict)
    needs: tuple[str, ...] = ("config.json", "tokenizer.json", "tokenizer_config.json")


# Imported by every family. `modeling_vaswani.py` holds the encoder-decoder too: it brings its generation and pipelines.
_SHARED_CODE = (
    "alignments_vaswani.py",
    "captured_decoding_vaswani.py",
    "configuration_vaswani.py",
    "configuration_vaswani_base.py",
    "constraints_vaswani.py",
    "dropout_vaswani.py",
    "fast_decoder_vaswani.py",
    "fast_generation_vaswani.py",
    "fast_scores_vaswani.py",
    "fast_search_vaswani.py",
    "forbidden_vaswani.py",
    "generation_vaswani.py",
    "layers_vaswani.py",
    "loss_vaswani.py",
    "modeling_vaswani.py",
    "padding_vaswani.py",
    "phrases_vaswani.py",
    "pipeline_vaswani.py",
    "pipeline_vaswani_parts.py",
    "positions_vaswani.py",
    "search_vaswani.py",
    "sentences_vaswani.py",
    "ssru_vaswani.py",
    "token_texts_vaswani.py",
    "transfer_vaswani.py",
    "varlen_attention_vaswani.py",
)
_TEXT_CODE = (*_SHARED_CODE, "tokenization_vaswani.py", "tokenization_vaswani_pair.py")
# In the order that transformers writes when a loaded tokenizer is saved again; it loads the one that is not None.
_TOKENIZER = {"AutoTokenizer": ["tokenization_vaswani.VaswaniTokenizer", None]}
_CHAT_TOKENIZER = {"AutoTokenizer": ["tokenization_vaswani_chat.VaswaniTokenizer", None]}

FAMILIES = {
    "vaswani": Family(
        code=_TEXT_CODE,
        auto_map={
            "config.json": {
                "AutoConfig": "configuration_vaswani.VaswaniConfig",
                "AutoModel": "modeling_vaswani.VaswaniModel",
                "AutoModelForSeq2SeqLM": "modeling_vaswani.VaswaniForConditionalGeneration",
            },
            "tokenizer_config.json": _TOKENIZER,
        },
        pipelines={
            "translation": ("pipeline_vaswani.TranslationPipeline", "AutoModelForSeq2SeqLM"),
            "summarization": ("pipeline_vaswani.SummarizationPipeline", "AutoModelForSeq2SeqLM"),
        },
    ),
    "vaswani_encoder": Family(
        code=(*_TEXT_CODE, "modeling_vaswani_encoder.py"),
        auto_map={
            "config.json": {
                "AutoConfig": "configuration_vaswani.VaswaniEncoderConfig",
                "AutoModel": "modeling_vaswani_encoder.VaswaniEncoderModel",
                "AutoModelForMaskedLM": "modeling_vaswani_encoder.VaswaniForMaskedLM",
                "AutoModelForQuestionAnswering": "modeling_vaswani_encoder.VaswaniForQuestionAnswering",
                "AutoModelForSequenceClassification": "modeling_vaswani_encoder.VaswaniForSequenceClassification",
                "AutoModelForTokenClassification": "modeling_vaswani_encoder.VaswaniForTokenClassification",
            },
            "tokenizer_config.json": _TOKENIZER,
        },
    ),
    "vaswani_decoder": Family(
        code=(*_TEXT_CODE, "modeling_vaswani_decoder.py", "tokenization_vaswani_chat.py"),
        auto_map={
            "config.json": {
                "AutoConfig": "configuration_vaswani.VaswaniDecoderConfig",
                "AutoModel": "modeling_vaswani_decoder.VaswaniDecoderModel",
                "AutoModelForCausalLM": "modeling_vaswani_decoder.VaswaniForCausalLM",
            },
            "tokenizer_config.json": _CHAT_TOKENIZER,
        },
    ),
    "vaswani_vision": Family(
        code=(*_SHARED_CODE, "image_processing_vaswani.py", "modeling_vaswani_vision.py"),
        auto_map={
            "config.json": {
                "AutoConfig": "configuration_vaswani.VaswaniVisionConfig",
                "AutoModel": "modeling_vaswani_vision.VaswaniVisionModel",
                "AutoModelForImageClassification": "modeling_vaswani_vision.VaswaniForImageClassification",
            },
            "preprocessor_config.json": {"AutoImageProcessor": "image_processing_vaswani.VaswaniImageProcessor"},
        },
        needs=("config.json", "preprocessor_config.json"),
    ),
}
CODE_NAMES = frozenset(name for family in FAMILIES.values() for name in family.code)


def is_ours(name: str) -> bool:
    """Return whether a file of this name is one that may be saved or sent with a model."""
    return name in DATA_FILES or name in CODE_NAMES or name == CARD or WEIGHTS.fullmatch(name) is not None
