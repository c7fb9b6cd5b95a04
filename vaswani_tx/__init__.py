"""The 2017 Transformer ("Attention Is All You Need") for transformers, torch and their companions.

Importing this package registers its classes, so that the Auto classes of transformers load saved folders: at once where
transformers is imported already, else as soon as it is (see `import_hook.py`). The import itself is quick: each public
name brings its module, and with it torch and transformers, when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .import_hook import HOOK

__version__ = "0.1.0"

# The public names by the module that defines them; type checkers read the imports below instead.
_MODULES = {
    "configuration_vaswani": (
        "PRESETS",
        "VaswaniConfig",
        "VaswaniDecoderConfig",
        "VaswaniEncoderConfig",
        "VaswaniVisionConfig",
    ),
    "constraints_vaswani": ("constrained_beam_search",),
    "fast_generation_vaswani": ("fast_generate",),
    "forbidden_vaswani": ("ForbiddenPhrases",),
    "generation_vaswani": ("VaswaniGenerationConfig",),
    "hub.saving": ("HubError", "push_to_hub", "save_with_code"),
    "image_processing_vaswani": ("VaswaniImageProcessor",),
    "modeling_vaswani": ("VaswaniForConditionalGeneration", "VaswaniModel", "VaswaniPreTrainedModel"),
    "modeling_vaswani_decoder": ("VaswaniDecoderModel", "VaswaniForCausalLM"),
    "modeling_vaswani_encoder": (
        "VaswaniEncoderModel",
        "VaswaniForMaskedLM",
        "VaswaniForQuestionAnswering",
        "VaswaniForSequenceClassification",
        "VaswaniForTokenClassification",
    ),
    "modeling_vaswani_vision": ("VaswaniForImageClassification", "VaswaniVisionModel"),
    "pipeline_vaswani": ("SummarizationPipeline", "TranslationPipeline"),
    "tokenization_vaswani_chat": ("VaswaniTokenizer",),
    "transfer_vaswani": ("TransferError", "VocabularyTransfer", "transfer_vocabulary"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:
    from .configuration_vaswani import (
        PRESETS,
        VaswaniConfig,
        VaswaniDecoderConfig,
        VaswaniEncoderConfig,
        VaswaniVisionConfig,
    )
    from .constraints_vaswani import constrained_beam_search
    from .fast_generation_vaswani import fast_generate
    from .forbidden_vaswani import ForbiddenPhrases
    from .generation_vaswani import VaswaniGenerationConfig
    from .hub.saving import HubError, push_to_hub, save_with_code
    from .image_processing_vaswani import VaswaniImageProcessor
    from .modeling_vaswani import VaswaniForConditionalGeneration, VaswaniModel, VaswaniPreTrainedModel
    from .modeling_vaswani_decoder import VaswaniDecoderModel, VaswaniForCausalLM
    from .modeling_vaswani_encoder import (
        VaswaniEncoderModel,
        VaswaniForMaskedLM,
        VaswaniForQuestionAnswering,
        VaswaniForSequenceClassification,
        VaswaniForTokenClassification,
    )
    from .modeling_vaswani_vision import VaswaniForImageClassification, VaswaniVisionModel
    from .pipeline_vaswani import SummarizationPipeline, TranslationPipeline
    from .tokenization_vaswani_chat import VaswaniTokenizer
    from .transfer_vaswani import TransferError, VocabularyTransfer, transfer_vocabulary


def __getattr__(name: str) -> Any:
    """Import a public name, or a module of this package, when it is first used (PEP 562)."""
    module = _MODULE_OF.get(name, name)
    if module not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Before our module: two threads that import the two in turn would wait for each other.
    import_module("transformers")
    found = import_module(f".{module}", __name__)
    if name in _MODULE_OF:
        found = globals()[name] = getattr(found, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


__all__ = [
    "PRESETS",
    "ForbiddenPhrases",
    "HubError",
    "SummarizationPipeline",
    "TransferError",
    "TranslationPipeline",
    "VaswaniConfig",
    "VaswaniDecoderConfig",
    "VaswaniDecoderModel",
    "VaswaniEncoderConfig",
    "VaswaniEncoderModel",
    "VaswaniForCausalLM",
    "VaswaniForConditionalGeneration",
    "VaswaniForImageClassification",
    "VaswaniForMaskedLM",
    "VaswaniForQuestionAnswering",
    "VaswaniForSequenceClassification",
    "VaswaniForTokenClassification",
    "VaswaniGenerationConfig",
    "VaswaniImageProcessor",
    "VaswaniModel",
    "VaswaniPreTrainedModel",
    "VaswaniTokenizer",
    "VaswaniVisionConfig",
    "VaswaniVisionModel",
    "VocabularyTransfer",
    "__version__",
    "constrained_beam_search",
    "fast_generate",
    "push_to_hub",
    "save_with_code",
    "transfer_vocabulary",
]

HOOK.install()
