"""What a model wrote as trees, and the scores of these trees: evaluation and validation during training share it.

outputs -> read_outputs -> one tree a sentence -> score_outputs -> evalb's summary
"""

from collections.abc import Sequence
from typing import Any

from vaswani_tx.token_texts_vaswani import target_of
from vaswani_tx.training.parsing.evalb import score_trees
from vaswani_tx.training.parsing.linear import LEAF, ReadBack, kind_of_leaves, read_back
from vaswani_tx.training.parsing.trees import Tree

# Section 6.3: a beam of 21, alpha 0.3, at most 300 tokens more than the input.
PAPER_PARSING = {"num_beams": 21, "gnmt_alpha": 0.3, "max_extra_tokens": 300}


def learned_leaves(tokenizer: Any) -> str:
    """Return which of LEAVES the training data had; XX for a tokenizer that does not record it."""
    return kind_of_leaves(target_of(tokenizer).init_kwargs.get("whole_words") or [LEAF])


def read_outputs(outputs: Sequence[str], sentences: Sequence[Sequence[str]], leaves: str) -> list[ReadBack]:
    """Return a tree over all words of each sentence, whatever the model wrote for it.

    Args:
        outputs: linearised trees as the model wrote them.
        sentences: the words of each, as a bracketed tree can hold them.
        leaves: one of LEAVES.
    """
    return [read_back(output, words, leaves) for output, words in zip(outputs, sentences, strict=True)]


def score_outputs(
    results: Sequence[ReadBack], gold: Sequence[Tree], leaves: str
) -> tuple[dict[str, float | int], list[Tree]]:
    """Return evalb's summary of some outputs, and their trees as they were scored.

    Args:
        results: as `read_outputs` returns them.
        gold: the cleaned trees of the same sentences, with tags.
        leaves: one of LEAVES; only with `tags` are the model's own tags scored, else the trees get those of `gold`.
    """
    parsed = [result.tree for result in results]
    if leaves != "tags":
        # Without tags evalb could not tell punctuation from words.
        parsed = [tree.with_leaves(one.leaves()) for tree, one in zip(parsed, gold, strict=True)]
    return score_trees(gold, parsed), parsed
