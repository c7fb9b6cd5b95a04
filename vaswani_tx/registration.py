"""Registration with transformers: the classes behind its Auto classes, and its two pipelines."""

import contextlib

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipelines,
)
from transformers.models.auto import modeling_auto

from .configuration_vaswani import VaswaniConfig, VaswaniDecoderConfig, VaswaniEncoderConfig, VaswaniVisionConfig
from .image_processing_vaswani import VaswaniImageProcessor
from .modeling_vaswani import VaswaniForConditionalGeneration, VaswaniModel
from .modeling_vaswani_decoder import VaswaniDecoderModel, VaswaniForCausalLM
from .modeling_vaswani_encoder import (
    VaswaniEncoderModel,
    VaswaniForMaskedLM,
    VaswaniForQuestionAnswering,
    VaswaniForSequenceClassification,
    VaswaniForTokenClassification,
)
from .modeling_vaswani_vision import VaswaniForImageClassification, VaswaniVisionModel
from .pipeline_vaswani import LANGUAGES_IN_NAME, SummarizationPipeline, TranslationPipeline
from .tokenization_vaswani_chat import VaswaniTokenizer

_MODELS = {
    VaswaniConfig: {AutoModel: VaswaniModel, AutoModelForSeq2SeqLM: VaswaniForConditionalGeneration},
    VaswaniEncoderConfig: {
        AutoModel: VaswaniEncoderModel,
        AutoModelForMaskedLM: VaswaniForMaskedLM,
        AutoModelForQuestionAnswering: VaswaniForQuestionAnswering,
        AutoModelForSequenceClassification: VaswaniForSequenceClassification,
        AutoModelForTokenClassification: VaswaniForTokenClassification,
    },
    VaswaniDecoderConfig: {AutoModel: VaswaniDecoderModel, AutoModelForCausalLM: VaswaniForCausalLM},
    VaswaniVisionConfig: {
        AutoModel: VaswaniVisionModel,
        AutoModelForImageClassification: VaswaniForImageClassification,
    },
}
# Tables of names that parts of transformers read instead of the Auto classes: pipelines, the Trainer's label smoothing.
_NAME_TABLES = {
    AutoModelForCausalLM: "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    AutoModelForImageClassification: "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    AutoModelForMaskedLM: "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    AutoModelForQuestionAnswering: "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    AutoModelForSeq2SeqLM: "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    AutoModelForSequenceClassification: "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    AutoModelForTokenClassification: "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
}


def register() -> None:
    """Register all classes and pipelines; a second call changes nothing."""
    _register_models()
    _register_pipelines()


def _register_models() -> None:
    for config_class, models in _MODELS.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        for auto_class, model_class in models.items():
            auto_class.register(config_class, model_class, exist_ok=True)
            names = getattr(modeling_auto, _NAME_TABLES.get(auto_class, ""), None)
            if names is not None:
                names[config_class.model_type] = model_class.__name__
        if config_class is not VaswaniVisionConfig:
            AutoTokenizer.register(config_class, tokenizer_class=VaswaniTokenizer, exist_ok=True)
    with contextlib.suppress(ImportError):  # raised by the Auto class where its requirements are missing
        # One class for both backends: under "pil" alone, transformers would warn where torchvision is installed.
        both = {"pil": VaswaniImageProcessor, "torchvision": VaswaniImageProcessor}
        AutoImageProcessor.register(VaswaniVisionConfig, image_processor_classes=both, exist_ok=True)


class _NoDefaultModel(dict):
    """An entry for a task without a default model: the caller has to name one."""

    def __init__(self, task: str):
        super().__init__(model=None)
        self._task = task

    def __getitem__(self, key):
        raise ValueError(
            f'the task "{self._task}" has no default model: pipeline("{self._task}", model=...) needs one.'
        )


class _TranslationNames(dict):
    """The registry's aliases, and `translation_xx_to_yy` as a name of "translation" for any two languages."""

    def __contains__(self, task):
        return super().__contains__(task) or (isinstance(task, str) and bool(LANGUAGES_IN_NAME.fullmatch(task)))

    def __missing__(self, task):
        if task in self:
            return "translation"
        raise KeyError(task)


def _register_pipelines() -> None:
    """Give `pipeline()` the tasks that transformers 5 removed; one that it still has does not change."""
    registry, removed = pipelines.PIPELINE_REGISTRY, getattr(pipelines, "REMOVED_TASKS", {})
    for task, pipeline_class in (("translation", TranslationPipeline), ("summarization", SummarizationPipeline)):
        if task in registry.supported_tasks:
            continue
        removed.pop(task, None)  # names in this table are refused before the registry is asked
        registry.register_pipeline(
            task, pipeline_class, pt_model=AutoModelForSeq2SeqLM, default=_NoDefaultModel(task), type="text"
        )
        # It would make `save_pretrained` of every pipeline copy our code beside the weights of others.
        del pipeline_class._registered_impl
        if task == "translation":
            registry.task_aliases = _TranslationNames(registry.task_aliases)
