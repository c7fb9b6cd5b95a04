"""What a model card says about a model's task: the Hub's name of it, an example, a limit."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class CardTask:
    """A task as the Hub knows it.

    Args:
        tag: `pipeline_tag` of the card.
        kind: the model, as a card's first sentence begins.
        limit: what such a model does not do.
        example: arguments of its pipeline; None: text in, text out, by `generate`.
    """

    tag: str
    kind: str
    limit: str
    example: str | None = None


_BOTH = "An encoder-decoder Transformer"
_ENCODER = "The encoder of a Transformer"
TRANSLATION = CardTask(
    "translation", _BOTH, "It translates each sentence alone, and may leave out, repeat or invent words."
)
SUMMARIZATION = CardTask("summarization", _BOTH, "It may leave out what matters, and say what its document does not.")
# By the class that config.json names; another one, such as a bare stack, gives features.
_TASKS = {
    "VaswaniForConditionalGeneration": TRANSLATION,
    "VaswaniModel": CardTask("feature-extraction", _BOTH, "It has no head: it gives hidden states.", '"A sentence."'),
    "VaswaniForMaskedLM": CardTask(
        "fill-mask",
        _ENCODER,
        "It guesses likely words, not true ones.",
        '"A man <mask> his bicycle."',
    ),
    "VaswaniForSequenceClassification": CardTask(
        "text-classification", _ENCODER, "It knows no label but its own.", '"A sentence of yours."'
    ),
    "VaswaniForTokenClassification": CardTask(
        "token-classification", _ENCODER, "It knows no label but its own.", '"A sentence of yours."'
    ),
    "VaswaniForQuestionAnswering": CardTask(
        "question-answering",
        _ENCODER,
        "It only finds answers that the context holds word by word.",
        'question="Who repairs it?", context="A man repairs his bicycle."',
    ),
    "VaswaniEncoderModel": CardTask(
        "feature-extraction", _ENCODER, "It has no head: it gives hidden states.", '"A sentence."'
    ),
    "VaswaniForCausalLM": CardTask(
        "text-generation", "The decoder of a Transformer", "It writes what is likely, not what is true.", '"A man"'
    ),
    "VaswaniDecoderModel": CardTask(
        "feature-extraction", "The decoder of a Transformer", "It has no head: it gives hidden states.", '"A sentence."'
    ),
    "VaswaniForImageClassification": CardTask(
        "image-classification",
        "A Transformer's encoder over patches of an image",
        "It knows no label but its own.",
        '"picture.png"',
    ),
    "VaswaniVisionModel": CardTask(
        "image-feature-extraction",
        "A Transformer's encoder over patches of an image",
        "It has no head: it gives hidden states.",
        '"picture.png"',
    ),
}


def task_of(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> CardTask:
    """Return the task of a model by its config.json, and of an encoder-decoder by its run's recipe."""
    names = config.get("architectures")
    found = _TASKS.get(str(names[0])) if isinstance(names, list) and names else None
    if found in (None, TRANSLATION) and "lead_sentences" in recipe:
        return SUMMARIZATION
    return found or TRANSLATION


def example_of(task: CardTask, load_from: str, code: bool, sentence: str) -> str:
    """Return a program that loads a model and uses it."""
    trust = ", trust_remote_code=True" if code else ""
    classes = "AutoModelForSeq2SeqLM, AutoTokenizer" if task.example is None else "pipeline"
    lines = [
        *([] if code else ["import vaswani_tx  # registers the classes with transformers"]),
        f"from transformers import {classes}",
        "",
        f"name = {json.dumps(load_from)}  # the folder, or the name on the Hub",
    ]
    if task.example is not None:
        lines += [f'run = pipeline("{task.tag}", model=name{trust})', f"print(run({task.example}))"]
        return "\n".join(lines)
    lines += [
        f"tokenizer = AutoTokenizer.from_pretrained(name{trust})",
        f"model = AutoModelForSeq2SeqLM.from_pretrained(name{trust})",
        f'inputs = tokenizer([{json.dumps(sentence, ensure_ascii=False)}], return_tensors="pt")',
        "print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))",
    ]
    return "\n".join(lines)


def hub_datasets(recipe: Mapping[str, Any]) -> list[str]:
    """Return the data sets of the Hub that a recipe trains on: `owner/name`, no file's name and no file here."""
    return list(dict.fromkeys(name for name in _sources(recipe) if _is_hub_name(name)))


def _sources(recipe: Mapping[str, Any]) -> Iterator[Any]:
    corpora = recipe.get("corpora")
    for part in (recipe, *(corpora if isinstance(corpora, list) else ())):
        if isinstance(part, Mapping):
            for side in ("source", "file", "text"):
                # Two files, one a language, are not one data set.
                if not (part.get("train_target") or part.get("target")):
                    yield from (part.get(f"train_{side}"), part.get(side))
            yield part.get("dataset")


def _is_hub_name(name: Any) -> bool:
    whole = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name)
    return bool(whole) and not PurePosixPath(name).suffix and not Path(name).exists()
