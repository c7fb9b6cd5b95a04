"""The 2017 Transformer ("Attention Is All You Need") for transformers, torch and their companions.

Importing this package registers its classes, so that the Auto classes of transformers load saved folders.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipelines

from .configuration_vaswani import PRESETS, VaswaniConfig
from .constraints_vaswani import constrained_beam_search
from .generation_vaswani import VaswaniGenerationConfig
from .hub import HubError, push_to_hub, save_with_code
from .modeling_vaswani import VaswaniForConditionalGeneration, VaswaniModel, VaswaniPreTrainedModel
from .pipeline_vaswani import LANGUAGES_IN_NAME, SummarizationPipeline, TranslationPipeline
from .tokenization_vaswani import VaswaniTokenizer

__version__ = "0.1.0"

AutoConfig.register("vaswani", VaswaniConfig, exist_ok=True)
AutoModel.register(VaswaniConfig, VaswaniModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(VaswaniConfig, VaswaniForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(VaswaniConfig, tokenizer_class=VaswaniTokenizer, exist_ok=True)


class _NoDefaultModel(dict):
    """Stands where a task's default model would: which one to take is the caller's choice."""

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
    """Give `pipeline()` the tasks that transformers 5 removed; one that it still has stays as it is."""
    registry, removed = pipelines.PIPELINE_REGISTRY, getattr(pipelines, "REMOVED_TASKS", {})
    for task, pipeline_class in (("translation", TranslationPipeline), ("summarization", SummarizationPipeline)):
        if task in registry.supported_tasks:
            continue
        removed.pop(task, None)  # names in this table are refused before the registry is asked
        registry.register_pipeline(
            task, pipeline_class, pt_model=AutoModelForSeq2SeqLM, default=_NoDefaultModel(task), type="text"
        )
        # It would make `save_pretrained` of every pipeline copy our code beside other people's weights.
        del pipeline_class._registered_impl
        if task == "translation":
            registry.task_aliases = _TranslationNames(registry.task_aliases)


_register_pipelines()

__all__ = [
    "PRESETS",
    "HubError",
    "SummarizationPipeline",
    "TranslationPipeline",
    "VaswaniConfig",
    "VaswaniForConditionalGeneration",
    "VaswaniGenerationConfig",
    "VaswaniModel",
    "VaswaniPreTrainedModel",
    "VaswaniTokenizer",
    "__version__",
    "constrained_beam_search",
    "push_to_hub",
    "save_with_code",
]
