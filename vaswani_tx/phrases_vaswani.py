"""Required and forbidden phrases: which of them a sequence of tokens holds, and how words become token ids."""

from collections.abc import Iterable, Sequence
from typing import Any

# A constraint is the tuple of its alternatives, an alternative the tuple of its token ids.
Alternatives = tuple[tuple[int, ...], ...]
State = tuple[int, int]  # node of the automaton, bits of the constraints that are met

# Up to this many the shortest completion is computed exactly; its cost doubles with every constraint.
MAX_EXACT_CONSTRAINTS = 8
# Blocks of scripts that are written without spaces: Thai to Lao, Burmese, Khmer, Chinese, Japanese.
UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class ConstraintError(ValueError):
    """Required or forbidden phrases that cannot be satisfied: the message says which, why, and what to change."""


class RequiredPhrases:
    """The phrases of one sentence's target: for each constraint, at least one of its alternatives.

    Args:
        constraints: token ids of a phrase, or a list of such phrases of which one is enough; as transformers 4 took
            them for `force_words_ids`.

    Two constraints may share tokens of the target: "a b" and "b c" are both met by "a b c".

    Raises:
        ConstraintError: a phrase is empty or not made of token ids.
    """

    def __init__(self, constraints: Iterable[Sequence]):
        unique = dict.fromkeys(_alternatives(constraint) for constraint in constraints)
        self.constraints: list[Alternatives] = list(unique)
        self.all_met = (1 << len(self.constraints)) - 1
        self._children: list[dict[int, int]] = [{}]
        self._met = [0]  # node -> bits of the constraints whose alternatives end there
        self._paths: list[tuple[int, ...]] = [()]
        self._phrases = [(bit, phrase) for bit, phrases in enumerate(self.constraints) for phrase in phrases]
        for bit, phrase in self._phrases:
            self._met[self._add(phrase)] |= 1 << bit
        self._moves = self._link()
        self._needs: dict[State, int] = {}
        self._shortest = [min(map(len, phrases)) for phrases in self.constraints]

    def __len__(self) -> int:
        return len(self.constraints)

    def _add(self, phrase: tuple[int, ...]) -> int:
        node = 0
        for end, token in enumerate(phrase, start=1):
            if token not in self._children[node]:
                self._children[node][token] = len(self._children)
                self._children.append({})
                self._met.append(0)
                self._paths.append(phrase[:end])
            node = self._children[node][token]
        return node

    def _link(self) -> list[dict[int, int]]:
        """Return for each node where its tokens lead; a token that is not listed leads to the root."""
        moves = [dict(self._children[0])] + [{}] * (len(self._children) - 1)
        waiting, suffix = list(self._children[0].values()), dict.fromkeys(self._children[0].values(), 0)
        for node in waiting:
            self._met[node] |= self._met[suffix[node]]
            moves[node] = {**moves[suffix[node]], **self._children[node]}
            for token, child in self._children[node].items():
                suffix[child] = moves[suffix[node]].get(token, 0)
                waiting.append(child)
        return moves

    def start(self, tokens: Iterable[int] = ()) -> State:
        """Return the state after a given prefix of the target."""
        state: State = (0, 0)
        for token in tokens:
            state = self.step(state, token)
        return state

    def step(self, state: State, token: int) -> State:
        """Return the state after one more token."""
        node = self._moves[state[0]].get(token, 0)
        return node, state[1] | self._met[node]

    def tokens(self, state: State) -> Iterable[int]:
        """Return the tokens that begin or continue a phrase, none where every constraint is met."""
        return () if state[1] == self.all_met else self._moves[state[0]]

    def need(self, state: State) -> int:
        """Return how many tokens must follow at least until every constraint is met.

        Exact up to eight constraints; with more, the constraints are counted one after the other without overlaps.
        """
        if state[1] == self.all_met:
            return 0
        if state not in self._needs:
            exact = len(self) <= MAX_EXACT_CONSTRAINTS
            self._needs[state] = self._shortest_completion(state) if exact else self._upper_bound(state)
        return self._needs[state]

    def _shortest_completion(self, state: State) -> int:
        costs = []
        for bit, phrase in self._phrases:
            if not state[1] >> bit & 1:
                rest = phrase[self._overlap(state[0], phrase) :]
                after = state
                for token in rest:
                    after = self.step(after, token)
                costs.append(len(rest) + self.need(after))
        return min(costs)

    def _upper_bound(self, state: State) -> int:
        # The plan behind the number: first finish the phrase of which most is there, then the others.
        open_bits = [bit for bit in range(len(self)) if not state[1] >> bit & 1]
        total = sum(self._shortest[bit] for bit in open_bits)
        rests = (
            (len(phrase) - self._overlap(state[0], phrase) - self._shortest[bit])
            for bit, phrase in self._phrases
            if bit in open_bits
        )
        return total + min(rests)

    def _overlap(self, node: int, phrase: tuple[int, ...]) -> int:
        """Return how long a start of `phrase` the text at `node` ends with, less than the whole phrase."""
        path = self._paths[node]
        longest = min(len(path), len(phrase) - 1)
        return next(n for n in range(longest, -1, -1) if path[len(path) - n :] == phrase[:n])


def _alternatives(constraint: Any) -> Alternatives:
    parts = constraint if isinstance(constraint, Sequence) and not isinstance(constraint, str) else ()
    if not parts:
        raise ConstraintError(
            f"a required phrase is {constraint!r}: give its token ids, or a list of phrases of which one is enough."
        )
    phrases = [list(part) for part in parts] if isinstance(parts[0], Sequence) else [list(parts)]
    for phrase in phrases:
        if not phrase or not all(isinstance(token, int) and not isinstance(token, bool) for token in phrase):
            raise ConstraintError(
                f"a required phrase holds {phrase!r}: give the whole numbers of its tokens, at least one."
            )
    return tuple(dict.fromkeys(map(tuple, phrases)))


def check_token_ids(constraints: Iterable[RequiredPhrases], vocab_size: int, ends: set[int]) -> None:
    """Raise ConstraintError where a phrase holds an id that the model does not know, or an end of sentence."""
    for phrases in constraints:
        for phrase in (phrase for alternatives in phrases.constraints for phrase in alternatives):
            if bad := [token for token in phrase if not 0 <= token < vocab_size]:
                raise ConstraintError(
                    f"the required phrase {list(phrase)} holds the token id {bad[0]}, but the model's ids run from 0 "
                    f"to {vocab_size - 1}: make the ids with the model's own tokenizer."
                )
            if ended := ends & set(phrase):
                raise ConstraintError(
                    f"the required phrase {list(phrase)} holds the end of sentence ({min(ended)}), after which nothing "
                    "comes: tokenise it with add_special_tokens=False."
                )


def required_phrase_ids(tokenizer: Any, required: Iterable[str | Sequence[str]]) -> list[list[list[int]]]:
    """Turn required words or phrases into the constraints of `RequiredPhrases`.

    Args:
        required: phrases; or lists of phrases of which one is enough, such as the forms of a word.

    Each is taken as it is written at the start of a text and after a space. What follows is free: "cat" is
    held by "cats" too, if the tokenizer writes "cats" as "cat" and "s".

    Raises:
        ConstraintError: a phrase is empty, not text, or holds characters that the tokenizer does not know.
    """
    constraints = []
    for entry in _listed(required, "required"):
        phrases = [entry] if isinstance(entry, str) else _listed(entry, "required")
        constraints.append([ids for phrase in phrases for ids in _spellings(tokenizer, phrase, attached=False)])
    return constraints


def forbidden_phrase_ids(tokenizer: Any, forbidden: Iterable[str]) -> list[list[int]]:
    """Turn forbidden words or phrases into `bad_words_ids` for `generate`.

    Each is taken as it is written at the start of a text, after a space, and after a bracket.

    Raises:
        ConstraintError: a phrase is empty, not text, or holds characters that the tokenizer does not know.
    """
    return [ids for phrase in _listed(forbidden, "bad_words") for ids in _spellings(tokenizer, phrase, attached=True)]


def _listed(value: Any, name: str) -> list:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConstraintError(f"`{name}` is {value!r}: give a list of words or phrases.")
    return list(value)


def _spellings(tokenizer: Any, phrase: Any, attached: bool) -> list[list[int]]:
    """Return the different token ids of a phrase: at the start, after a space, and where asked for or due, attached."""
    if not isinstance(phrase, str) or not phrase.strip():
        raise ConstraintError(f"a required or forbidden phrase is {phrase!r}: give a text with at least one character.")
    phrase = phrase.strip()
    alone = _ids(tokenizer, phrase)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in alone:
        raise ConstraintError(
            f"the phrase {phrase!r} holds something that the tokenizer does not know: the model can never write it."
        )
    first = ord(phrase[0])
    attached = attached or not phrase[0].isalnum() or any(low <= first <= high for low, high in UNSPACED)
    found = [alone]
    for before in ("a ", "(") if attached else ("a ",):
        context, whole = _ids(tokenizer, before.strip()), _ids(tokenizer, before + phrase)
        if whole[: len(context)] == context and tokenizer.unk_token_id not in whole[len(context) :]:
            found.append(whole[len(context) :])
    return [ids for number, ids in enumerate(found) if ids and ids not in found[:number]]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text_target=text, add_special_tokens=False)["input_ids"]


__all__ = ["ConstraintError", "RequiredPhrases", "check_token_ids", "forbidden_phrase_ids", "required_phrase_ids"]
