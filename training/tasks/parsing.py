"""Constituency parsing as the paper does it (section 6.3): the source is a sentence, the target its tree as symbols.

The paper trains 4 layers with d_model 1024 on 40,000 sentences of the Wall Street Journal part of the Penn Treebank,
with a vocabulary of 16,000 tokens. It chooses dropout, learning rates and beam on section 22 and leaves all else as in
translation. It parses with a beam of 21, alpha 0.3 and at most 300 tokens more than the input: 91.3 F1 on section 23.

So data, model and loss are those of translation. Validation is not: it parses sentences, reads the trees back and
scores their brackets.

recipe -> prepare -> TaskComponents -> engine
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from vaswani_tx.training.config.parsing import ParsingSettings
from vaswani_tx.training.data.lines import words_of
from vaswani_tx.training.engine.run import RunContext
from vaswani_tx.training.engine.task import Scores, TaskComponents
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import resolve_path
from vaswani_tx.training.metrics import registry
from vaswani_tx.training.parsing.linear import count_faults
from vaswani_tx.training.parsing.outputs import PAPER_PARSING, learned_leaves, read_outputs, score_outputs
from vaswani_tx.training.parsing.trees import Tree, clean_trees, sentence
from vaswani_tx.training.tasks.translation import TranslationTask, components_of, load_validation

# The name of a metric -> its name in evalb's summary.
SUMMARY_KEYS = {
    "labelled_f1": "f1", "labelled_precision": "precision", "labelled_recall": "recall",
    "complete_match": "complete_match",
}  # fmt: skip


class ParsingTask(TranslationTask):
    """Sentences and their linearised trees; the loss counts symbols of trees, validation scores brackets.

    Args:
        gold: the trees of the validation sentences, with tags; None where brackets are not scored.
    """

    family = registry.PARSING

    def __init__(self, *args: Any, gold: Sequence[Tree] | None = None):
        super().__init__(*args)
        self.gold = gold
        self.leaves = learned_leaves(self.tokenizer) if self.settings.leaves == "auto" else self.settings.leaves

    def decoding_options(self) -> dict[str, Any]:
        """Return the paper's decoding, but for the beam, which the recipe decides."""
        return {name: value for name, value in PAPER_PARSING.items() if name != "num_beams"}

    def score_outputs(self, chosen: Sequence[int], hypotheses: Sequence[str]) -> Scores:
        """Return the metrics of the recipe for what the model wrote, and how many outputs had to be repaired."""
        gold = [self.gold[i] for i in chosen]
        results = read_outputs(hypotheses, [tree.words() for tree in gold], self.leaves)
        summary, _ = score_outputs(results, gold, self.leaves)
        scores = {name: summary[SUMMARY_KEYS[name]] for name in self.settings.metrics}
        return scores | {"malformed": count_faults(results)["malformed"]}

    def describe(self, scores: Scores) -> str:
        """Return scores as one line."""
        details = [f"beam {scores['beam']}"] if "beam" in scores else []
        details += [f"{scores['sentences']} sentences"] if "sentences" in scores else []
        details += [f"{scores['malformed']} malformed"] if "malformed" in scores else []
        return registry.describe(scores) + (f" ({', '.join(details)})" if details else "")


def prepare(context: RunContext) -> TaskComponents:
    """Return data, tokenizer, model and validation of a parsing run."""
    settings, validation = context.settings, load_validation(context.settings)
    return components_of(context, partial(ParsingTask, gold=load_gold(settings, validation)), validation)


def load_gold(settings: ParsingSettings, validation: tuple[list[str], list[str]] | None) -> list[Tree] | None:
    """Return the trees of the validation sentences, None where the recipe asks for no scores of brackets.

    Raises:
        DataError: the trees are not those of the sentences.
        TreeError: a file of trees that cannot be read.
    """
    if validation is None or settings.eval_sentences == 0:
        return None
    path = resolve_path(settings.data_dir, settings.validation_trees)
    fix = "name the trees of validation_source in its order, or set eval_sentences to 0 to measure only the loss"
    trees, _ = clean_trees([path])
    sources = validation[0]
    if len(trees) != len(sources):
        raise DataError(f"validation_trees: {path} holds {len(trees):,} trees for {len(sources):,} sentences; {fix}.")
    for number, (source, tree) in enumerate(zip(sources, trees, strict=True), start=1):
        if words_of(source) != words_of(sentence(tree)):
            raise DataError(
                f"validation_trees: tree {number} of {path} is over {sentence(tree)!r}, but sentence {number} of "
                f"{settings.validation_source} is {source!r}; {fix}."
            )
    return trees
