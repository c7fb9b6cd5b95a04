"""A classifier, a tagger or a question answering model with its tokenizer, to predict with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import vaswani_tx  # noqa: F401  registers the Auto classes
from vaswani_tx.loading import check_vocabulary, load_tokenizer, read_config, read_object
from vaswani_tx.training.data.labelled import Example, QuestionExample, TextExample, WordsExample
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.inference.classification import predict
from vaswani_tx.training.inference.task_specs import TaskSpec, task_spec
from vaswani_tx.training.models.loading import check_folder, load_pretrained


@dataclass
class Classifier:
    """A model with its tokenizer and the task that it was trained for."""

    model: transformers.PreTrainedModel
    tokenizer: Any
    kind: TaskSpec
    batch_tokens: int = 8192

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu", **settings: Any) -> "Classifier":
        """Load the classifier that a folder holds; `settings` replace its own `max_length`, `stride` or `no_answer`.

        Raises:
            CheckpointError: the folder is damaged, or holds another kind of model.
        """
        folder = Path(folder)
        check_folder(folder)
        config = read_config(folder)  # its fields have the right types
        own = _own_settings(folder)
        task = own.pop("task", None) or _task_of(config, folder)
        names = [] if task == "question_answering" else [config.id2label[n] for n in sorted(config.id2label)]
        settings = {name: value for name, value in settings.items() if value is not None}
        try:
            kind = task_spec(task, names=names, **(own | settings))
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"config.json of '{folder}': task_specific_params.vaswani_tx is damaged ({error}): copy the folder "
                "again."
            ) from error
        model = load_pretrained(getattr(transformers, kind.auto_class), folder, dtype=torch.float32)
        if not (folder / "tokenizer_config.json").is_file() and not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"'{folder}' holds no tokenizer: copy tokenizer.json and its configuration there.")
        tokenizer = load_tokenizer(folder)
        check_vocabulary(model, tokenizer, str(folder))
        return cls(model.to(device).eval(), tokenizer, kind)

    def predict(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Return a prediction for each example, in order."""
        rows = self.kind.rows(examples, self.tokenizer, labelled=False)
        return predict(self.model, self.kind, rows, batch_tokens=self.batch_tokens)[0]

    def texts(self, texts: Sequence[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """Return a label for each text, or pair of texts."""
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        return self.predict([TextExample(f"text {i}", *pair, None) for i, pair in enumerate(pairs, start=1)])

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Return a tag for each word of each sentence."""
        return self.predict([WordsExample(f"sentence {i}", list(s), None) for i, s in enumerate(sentences, start=1)])

    def answer(self, question: str, context: str) -> dict[str, Any]:
        """Return the answer to a question, where in the context it begins, and its probability in its window."""
        return self.predict([QuestionExample("the question", "1", question, context, None)])[0]


def _own_settings(folder: Path) -> dict[str, Any]:
    """Return what our training noted in a configuration; nothing for a model that was made elsewhere."""
    noted = read_object(folder / "config.json").get("task_specific_params") or {}
    own = noted.get("vaswani_tx") or {} if isinstance(noted, dict) else noted
    if not isinstance(own, dict):
        raise CheckpointError(
            f"config.json of '{folder}': task_specific_params must be a mapping of mappings: copy the folder again."
        )
    return dict(own)


def _task_of(config: Any, folder: Path) -> str:
    """Return the task by the class and the problem type, for models that were made elsewhere."""
    name = next(iter(config.architectures or []), "")
    if name.endswith("ForTokenClassification"):
        return "tagging"
    if name.endswith("ForQuestionAnswering"):
        return "question_answering"
    if name.endswith("ForSequenceClassification"):
        return {"multi_label_classification": "multi_label", "regression": "regression"}.get(
            config.problem_type, "classification"
        )
    raise CheckpointError(f"'{folder}' holds a {name or 'model without a class'}, which is no classifier.")
