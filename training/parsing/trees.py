"""Constituency trees in the Penn Treebank's brackets: reading, writing, cleaning.

    ( (S (NP-SBJ (DT The) (NN dog)) (VP (VBZ barks)) (. .)) )

A file holds any number of trees, each over any number of lines; a folder is read as all its `.mrg` and `.txt` files,
compressed or not.
The outer bracket without a label is dropped. Words are kept as written (`-LRB-` for a bracket); `plain_word` and
`bracket_word` go between that and plain text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaswani_tx.training.data.lines import format_of, read_lines
from vaswani_tx.training.errors import DataError, TreeError

SUFFIXES = (".mrg", ".txt")
EMPTY_TAG = "-NONE-"
ROOTS = ("TOP", "ROOT", "S1")
# The deepest tree of the Penn Treebank has some 40 levels; a deeper one comes from a damaged file.
MAX_DEPTH = 200
WIDTH = 100  # of a pretty printed line

# ASCII white space only: a word of the treebank may hold U+00A0 and the like.
_TOKEN = re.compile(r"[()]|[^\s()]+", re.ASCII)
_ESCAPES = {
    "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}", "\\/": "/", "\\*": "*",
}  # fmt: skip
_ESCAPED = re.compile("|".join(map(re.escape, _ESCAPES)))
_ROUND = {"(": "-LRB-", ")": "-RRB-"}


@dataclass(frozen=True)
class Tree:
    """A constituent with `children`, or a tagged word: then `word` is set, `label` is its tag, and there are none."""

    label: str
    children: tuple["Tree", ...] = ()
    word: str | None = None

    @property
    def is_leaf(self) -> bool:
        """Return whether this is a tagged word."""
        return self.word is not None

    def leaves(self) -> list["Tree"]:
        """Return the tagged words from left to right."""
        return [self] if self.is_leaf else [leaf for child in self.children for leaf in child.leaves()]

    def words(self) -> list[str]:
        """Return the words as the treebank writes them."""
        return [leaf.word for leaf in self.leaves()]

    def constituents(self) -> Iterator["Tree"]:
        """Yield every constituent, the parents first; tagged words are none."""
        if not self.is_leaf:
            yield self
            for child in self.children:
                yield from child.constituents()

    def with_leaves(self, leaves: Iterable["Tree"]) -> "Tree":
        """Return the same tree over as many other tagged words; raise ValueError if the numbers differ."""
        rest = iter(leaves)
        try:
            changed = self._over(rest)
        except StopIteration:
            raise ValueError(f"the tree has {len(self.leaves())} words, which is more than were given") from None
        if next(rest, None) is not None:
            raise ValueError(f"the tree has {len(self.leaves())} words, which is less than were given")
        return changed

    def _over(self, leaves: Iterator["Tree"]) -> "Tree":
        if self.is_leaf:
            return next(leaves)
        # A list, not a generator: Python turns a StopIteration inside of one into another error.
        return Tree(self.label, tuple([child._over(leaves) for child in self.children]))

    def __str__(self) -> str:
        if self.is_leaf:
            return f"({self.label} {self.word})"
        return f"({self.label} {' '.join(map(str, self.children))})"

    def pretty(self, indent: int = 0) -> str:
        """Return the tree over several lines: a constituent that is too long for one has each child on its own line."""
        line = " " * indent + str(self)
        if self.is_leaf or len(line) <= WIDTH:
            return line
        inner = "\n".join(child.pretty(indent + 2) for child in self.children)
        return f"{' ' * indent}({self.label}\n{inner})"


def read_trees(paths: Iterable[str | Path] | str | Path) -> Iterator[Tree]:
    """Yield the trees of files and folders, in the order of the paths; those of a folder in the order of their names.

    Raises TreeError: no such file, a folder without .mrg or .txt files, a file without a tree, text that is not UTF-8,
    a bracket too many or too few, a bracket without label or content, a word without a tag, a depth beyond MAX_DEPTH.
    """
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        for file in _files(Path(path)):
            trees = _Reader(str(file)).read(_lines(file))
            if not trees:
                raise TreeError(f"{file}: there is no tree. Give a file in Penn Treebank brackets.")
            yield from trees


def parse_trees(text: str, name: str = "text") -> list[Tree]:
    """Return all trees of a text; a TreeError names `name` and the line, as described at `read_trees`."""
    return _Reader(name).read(text.split("\n"))


def parse_tree(text: str) -> Tree:
    """Return the only tree of a text; raise TreeError if it holds another number of trees."""
    trees = parse_trees(text)
    if len(trees) != 1:
        raise TreeError(f"{len(trees)} trees where one is wanted: {text[:80]!r}.")
    return trees[0]


def write_trees(trees: Iterable[Tree], pretty: bool = False) -> str:
    """Return the text of a file of trees, one a line, or pretty printed with a blank line between two."""
    return "".join(f"{tree.pretty()}\n\n" if pretty else f"{tree}\n" for tree in trees)


def clean_tree(tree: Tree) -> Tree | None:
    """Return the tree as parsers learn it, None if nothing is left.

    Empty elements (tag -NONE-) are removed with the constituents that held nothing else; labels of constituents lose
    what follows their first `-` or `=` (NP-SBJ-1 becomes NP); TOP, ROOT or S1 over a single tree is removed. Tags stay.
    """
    cleaned = _clean(tree)
    while cleaned is not None and cleaned.label in ROOTS and len(cleaned.children) == 1:
        cleaned = cleaned.children[0]
    return cleaned


def clean_trees(paths: Sequence[str | Path]) -> tuple[list[Tree], int]:
    """Return the cleaned trees of files and folders, and how many held only traces; raise TreeError if none is left."""
    cleaned = [clean_tree(tree) for tree in read_trees(paths)]
    trees = [tree for tree in cleaned if tree is not None]
    if not trees:
        raise TreeError(f"{', '.join(map(str, paths))}: no tree holds a word. Give a file of trees over words.")
    return trees, len(cleaned) - len(trees)


def sentence(tree: Tree) -> str:
    """Return the text of a tree: its plain words, separated by spaces."""
    return " ".join(plain_word(word) for word in tree.words())


def base_label(label: str) -> str:
    """Return a constituent's label without function tags and indices; one that begins with `-` or `=` stays whole."""
    return label[:1] + re.split("[-=]", label[1:], maxsplit=1)[0] if label[:1] not in ("-", "=") else label


def plain_word(word: str) -> str:
    r"""Return the word as text has it: `(` for `-LRB-`, `/` for `\/`."""
    return _ESCAPED.sub(lambda match: _ESCAPES[match[0]], word)


def bracket_word(word: str) -> str:
    """Return the word as a bracketed tree can hold it: `-LRB-` and `-RRB-` for round brackets, the rest unchanged."""
    return re.sub("[()]", lambda match: _ROUND[match[0]], word)


def _clean(tree: Tree) -> Tree | None:
    if tree.is_leaf:
        return None if tree.label == EMPTY_TAG else tree
    children = tuple(kept for kept in map(_clean, tree.children) if kept is not None)
    return Tree(base_label(tree.label), children) if children else None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TreeError(f"{path}: there is no such file or folder.")
    files = sorted(file for file in path.rglob("*") if format_of(str(file)) in SUFFIXES and file.is_file())
    if not files:
        raise TreeError(f"{path}: the folder holds no file whose name ends in {' or '.join(SUFFIXES)}.")
    return files


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except DataError as error:
        raise TreeError(str(error)) from None


@dataclass
class _Open:
    """A bracket that has not been closed yet."""

    line: int
    label: str | None = None
    word: str | None = None
    children: list[Tree] | None = None


class _Reader:
    """A reader of bracketed text; it has a stack of its own, so that a damaged file cannot exhaust Python's."""

    def __init__(self, name: str):
        self.name = name
        self.trees: list[Tree] = []
        self.stack: list[_Open] = []

    def read(self, lines: Iterable[str]) -> list[Tree]:
        """Return all trees of a text."""
        for number, line in enumerate(lines, start=1):
            for token in _TOKEN.findall(line):
                if token == "(":
                    self._open(number)
                elif token == ")":
                    self._close(number)
                else:
                    self._token(token, number)
        if self.stack:
            raise self._error(self.stack[-1].line, "the bracket that opens here is never closed. Add what is missing")
        return self.trees

    def _open(self, line: int) -> None:
        if self.stack:
            parent = self.stack[-1]
            if parent.word is not None:
                raise self._untagged(line, parent)
            if parent.label is None and len(self.stack) > 1:
                raise self._error(line, "a bracket has no label. Only the outermost one may have none")
        if len(self.stack) > MAX_DEPTH:
            raise self._error(line, f"brackets nest more than {MAX_DEPTH} deep. Look for a closing one that is missing")
        self.stack.append(_Open(line))

    def _token(self, token: str, line: int) -> None:
        if not self.stack:
            raise self._error(line, f"{token!r} is outside of any bracket. Remove it")
        top = self.stack[-1]
        if top.label is None and top.children is None:
            top.label = token
        elif top.children is not None or top.word is not None:
            raise self._untagged(line, top, token)
        else:
            top.word = token

    def _close(self, line: int) -> None:
        if not self.stack:
            raise self._error(line, "a closing bracket has no opening one. Remove it, or add the other")
        top = self.stack.pop()
        if top.word is not None:
            tree = Tree(top.label, word=top.word)
        elif top.children is None:
            what = "a bracket is empty" if top.label is None else f"the bracket '{top.label}' holds nothing"
            raise self._error(line, f"{what}. Give it a label and a word, or remove it")
        elif top.label is not None:
            tree = Tree(top.label, tuple(top.children))
        else:
            tree = top.children[0] if len(top.children) == 1 else Tree(ROOTS[0], tuple(top.children))
        if not self.stack:
            self.trees.append(tree)
        elif self.stack[-1].children is None:
            self.stack[-1].children = [tree]
        else:
            self.stack[-1].children.append(tree)

    def _untagged(self, line: int, bracket: _Open, token: str | None = None) -> TreeError:
        word = token if token is not None else bracket.word
        label = bracket.label or ""
        return self._error(line, f"the word {word!r} inside of '({label} ...' has no tag. Write (TAG {word})")

    def _error(self, line: int, message: str) -> TreeError:
        return TreeError(f"{self.name}, line {line}: {message}.")
