"""Trees as sequences of symbols and back (Vinyals et al. 2015, "Grammar as a Foreign Language").

    (S (NP (DT The) (NN dog)) (VP (VBZ barks)) (. .))   <->   (S (NP XX XX )NP (VP XX )VP XX )S

Closing symbols carry their label. The symbol of a word is one of LEAVES: `XX`, as in that paper; its tag (`tags`),
which the model then predicts, too; or the word itself (`words`). Only with words can a model find its place in the
sentence by what it wrote so far instead of by counting, which it learns from far fewer trees. With all three, the
sentence's own words are inserted from left to right when a tree is read back.

A model's output need not be a tree. `read_back` always makes one over all words, by these rules, in this order:

1.  From left to right: `(L` opens a constituent, a leaf symbol (XX; with tags and words anything but a bracket) takes
    the next word, `)L` closes the innermost open constituent with the label L and everything opened inside of that.
2.  Dropped: what is no symbol, a leaf symbol after the last word, `)L` where no L is open, `(L` below MAX_DEPTH.
3.  Words without a leaf symbol, at the end, go into the innermost constituent that is still open when the output
    ends, into the last root if none is open, with the tag XX. Then what is open is closed.
4.  Constituents without a word are removed.
5.  Several roots are put under one S, also a word beside a constituent.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vaswani_tx.training.data.lines import words_of
from vaswani_tx.training.parsing.trees import MAX_DEPTH, Tree

LEAF = "XX"
LEAVES = ("XX", "tags", "words")
ROOT = "S"
# What can be wrong with an output, with its description.
FAULTS = {
    "unclosed": "constituents left open",
    "mismatched": "closing symbols out of order, or without an opening one",
    "too few": "fewer leaf symbols than words",
    "too many": "more leaf symbols than words",
    "other": "other words than the sentence's",
    "unknown": "unknown symbols",
    "empty": "constituents without a word",
    "roots": "several roots, or none",
    "deep": "constituents nested too deep",
}


@dataclass(frozen=True)
class ReadBack:
    """A tree over all words of its sentence, and the faults (keys of FAULTS) of the output that it was read from."""

    tree: Tree
    faults: tuple[str, ...] = ()


def linearise(tree: Tree, leaves: str = "XX") -> str:
    """Return the tree's symbols, separated by spaces; `leaves` is one of LEAVES."""
    return " ".join(_symbols(tree, leaves))


def symbols_of(trees: Iterable[Tree], leaves: str = "XX") -> list[str]:
    """Return every symbol but words that the linearised trees need, sorted."""
    # Words as leaves are text like the sentence's and no symbols.
    found = {symbol for tree in trees for symbol in _symbols(tree, leaves)}
    return sorted(symbol for symbol in found if leaves != "words" or _is_bracket(symbol))


def kind_of_leaves(symbols: Iterable[str]) -> str:
    """Return which of LEAVES a set of symbols, as `symbols_of` returns it, was made with."""
    others = {symbol for symbol in symbols if not _is_bracket(symbol)}
    return "words" if not others else "XX" if others == {LEAF} else "tags"


def read_back(output: str, words: Sequence[str], leaves: str = "XX") -> ReadBack:
    """Return the tree of a model's output, with its words; what is malformed is repaired by the rules above.

    Args:
        output: the symbols, separated by spaces.
        words: of the sentence, as a bracketed tree can hold them.
        leaves: one of LEAVES; the leaves of the tree get the tags of the output where it has them, else XX.

    Raises ValueError for a sentence without words, which has no tree.
    """
    if not words:
        raise ValueError("a sentence without words has no tree: remove empty lines")
    return _Builder(words, leaves).read(words_of(output))


def count_faults(results: Iterable[ReadBack]) -> dict[str, int]:
    """Count the outputs that were malformed (`malformed`), and those that had each fault."""
    results = list(results)
    kinds = Counter(fault for result in results for fault in result.faults)
    return {"malformed": sum(bool(result.faults) for result in results), **{name: kinds[name] for name in FAULTS}}


def _is_bracket(symbol: str) -> bool:
    return symbol[0] in "()" and len(symbol) > 1


def _symbols(tree: Tree, leaves: str) -> list[str]:
    if tree.is_leaf:
        return [{"XX": LEAF, "tags": tree.label, "words": tree.word}[leaves]]
    inner = [symbol for child in tree.children for symbol in _symbols(child, leaves)]
    return [f"({tree.label}", *inner, f"){tree.label}"]


class _Builder:
    """A stack of open constituents, the lowest of which collects the roots."""

    def __init__(self, words: Sequence[str], leaves: str):
        self.words, self.leaves = words, leaves
        self.used = 0
        self.stack: list[tuple[str, list[Tree]]] = [("", [])]
        self.faults: set[str] = set()

    def read(self, symbols: Sequence[str]) -> ReadBack:
        for symbol in symbols:
            if _is_bracket(symbol):
                (self._open if symbol[0] == "(" else self._close_to)(symbol[1:])
            elif symbol not in ("(", ")") and (self.leaves != "XX" or symbol == LEAF):
                self._leaf(symbol)
            else:
                self.faults.add("unknown")
        self._rest()
        while len(self.stack) > 1:
            self.faults.add("unclosed")
            self._close()
        tree = self._root(self.stack[0][1])
        return ReadBack(tree, tuple(name for name in FAULTS if name in self.faults))

    def _open(self, label: str) -> None:
        # One level is left for the root that may have to be put over everything.
        if len(self.stack) >= MAX_DEPTH - 1:
            self.faults.add("deep")
        else:
            self.stack.append((label, []))

    def _close_to(self, label: str) -> None:
        if all(open_label != label for open_label, _ in self.stack[1:]):
            self.faults.add("mismatched")
            return
        while self.stack[-1][0] != label:
            self.faults.add("mismatched")
            self._close()
        self._close()

    def _close(self) -> None:
        label, children = self.stack.pop()
        if children:
            self.stack[-1][1].append(Tree(label, tuple(children)))
        else:
            self.faults.add("empty")

    def _leaf(self, symbol: str) -> None:
        if self.used == len(self.words):
            self.faults.add("too many")
            return
        word = self.words[self.used]
        if self.leaves == "words" and symbol != word:
            self.faults.add("other")
        self.stack[-1][1].append(Tree(symbol if self.leaves == "tags" else LEAF, word=word))
        self.used += 1

    def _rest(self) -> None:
        left = [Tree(LEAF, word=word) for word in self.words[self.used :]]
        if not left:
            return
        self.faults.add("too few")
        roots = self.stack[0][1]
        if len(self.stack) == 1 and roots and not roots[-1].is_leaf:
            roots[-1] = Tree(roots[-1].label, (*roots[-1].children, *left))
        else:
            self.stack[-1][1].extend(left)

    def _root(self, roots: list[Tree]) -> Tree:
        if len(roots) == 1:
            return roots[0]
        self.faults.add("roots")
        return Tree(ROOT, tuple(roots))
