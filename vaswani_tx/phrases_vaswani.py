"""Required and forbidden phrases: which of them a sequence of tokens holds, and how words become token ids."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .token_texts_vaswani import is_unspaced, is_word_character, separates, token_texts


class Phrase(NamedTuple):
    """One way to write a required phrase.

    Args:
        ids: its tokens.
        closed_by: where it counts as whole words only, the ids of which one must follow, unless the text ends.
        textless: ids that leave the text as it is.
        only_first: whether it counts at the beginning of the text only.
    """

    ids: tuple[int, ...]
    closed_by: frozenset[int] | None = None
    textless: frozenset[int] = frozenset()
    only_first: bool = False


# A constraint is the tuple of its alternatives.
Alternatives = tuple[Phrase, ...]
State = tuple[int, int]  # node of the automaton, bits of the constraints that are met

# Up to this many the shortest completion is computed exactly; its cost doubles with every constraint.
MAX_EXACT_CONSTRAINTS = 8
BEGINNING = -1  # the id that the automaton reads before a text


class ConstraintError(ValueError):
    """Required or forbidden phrases that cannot be satisfied: the message says which, why, and what to change."""


class RequiredPhrases:
    """The phrases of one sentence's target: for each constraint, at least one of its alternatives.

    Args:
        constraints: token ids of a phrase, or a list of such phrases of which one is enough; as transformers 4 took
            them for `force_words_ids`. A `Phrase` in place of token ids may count as whole words only.

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
        self._open = [0]  # node -> bits of those that end there if the word ends there
        self._paths: list[tuple[int, ...]] = [()]
        self._phrases: list[tuple[int, tuple[int, ...]]] = []
        self._closing, self._textless = frozenset[int](), frozenset[int]()
        for bit, phrase in ((bit, phrase) for bit, phrases in enumerate(self.constraints) for phrase in phrases):
            path = (BEGINNING, *phrase.ids) if phrase.only_first else phrase.ids
            self._phrases.append((bit, path))
            ended = self._met if phrase.closed_by is None else self._open
            ended[self._add(path)] |= 1 << bit
            self._closing |= phrase.closed_by or frozenset()
            self._textless |= phrase.textless
        moves = self._link()
        self._first = moves[0].get(BEGINNING, 0)
        self._moves = [{token: node for token, node in move.items() if token != BEGINNING} for move in moves]
        self._needs: dict[State, int] = {}
        self._shortest = [min(len(phrase.ids) for phrase in phrases) for phrases in self.constraints]

    def __len__(self) -> int:
        return len(self.constraints)

    def _add(self, phrase: tuple[int, ...]) -> int:
        node = 0
        for end, token in enumerate(phrase, start=1):
            if token not in self._children[node]:
                self._children[node][token] = len(self._children)
                self._children.append({})
                self._met.append(0)
                self._open.append(0)
                self._paths.append(phrase[:end])
            node = self._children[node][token]
        return node

    def _link(self) -> list[dict[int, int]]:
        """Return for each node where its tokens lead; a token that is not listed leads to the root."""
        moves = [dict(self._children[0])] + [{}] * (len(self._children) - 1)
        waiting, suffix = list(self._children[0].values()), dict.fromkeys(self._children[0].values(), 0)
        for node in waiting:
            self._met[node] |= self._met[suffix[node]]
            self._open[node] |= self._open[suffix[node]]
            moves[node] = {**moves[suffix[node]], **self._children[node]}
            for token, child in self._children[node].items():
                suffix[child] = moves[suffix[node]].get(token, 0)
                waiting.append(child)
        return moves

    def start(self, tokens: Iterable[int] = ()) -> State:
        """Return the state after a given prefix of the target."""
        state: State = (self._first, 0)
        for token in tokens:
            state = self.step(state, token)
        return state

    def step(self, state: State, token: int) -> State:
        """Return the state after one more token."""
        if token in self._textless:
            return state
        node = self._moves[state[0]].get(token, 0)
        closed = self._open[state[0]] if token in self._closing else 0
        return node, state[1] | closed | self._met[node]

    def is_met(self, state: State) -> bool:
        """Return whether a text that ends here meets every constraint."""
        return self._met_by(state) == self.all_met

    def _met_by(self, state: State) -> int:
        return state[1] | self._open[state[0]]

    def tokens(self, state: State) -> Iterable[int]:
        """Return the tokens that begin or continue a phrase, none where every constraint is met."""
        return () if self.is_met(state) else self._moves[state[0]]

    def need(self, state: State) -> int:
        """Return how many tokens must follow at least until every constraint is met.

        Exact up to eight constraints; with more, the constraints are counted one after the other without overlaps.
        With phrases that count as whole words only, it may be a few too many.
        """
        if self.is_met(state):
            return 0
        if state not in self._needs:
            exact = len(self) <= MAX_EXACT_CONSTRAINTS
            self._needs[state] = self._shortest_completion(state) if exact else self._upper_bound(state)
        return self._needs[state]

    def _shortest_completion(self, state: State) -> int:
        costs = []
        for _, phrase, rest in self._rests(state):
            for tokens in self._ways(state, phrase, rest):
                after = state
                for token in tokens:
                    after = self.step(after, token)
                costs.append(len(tokens) + self.need(after))
        return min(costs)

    def _upper_bound(self, state: State) -> int:
        # The plan behind the number: first finish the phrase of which most is there, then the others.
        total = sum(self._shortest[bit] for bit in range(len(self)) if not self._met_by(state) >> bit & 1)
        plans = [(bit, self._ways(state, phrase, rest)[-1]) for bit, phrase, rest in self._rests(state)]
        return total + min(len(way) - self._shortest[bit] for bit, way in plans if not self._loses(state, way[0]))

    def _rests(self, state: State) -> Iterable[tuple[int, tuple[int, ...], tuple[int, ...]]]:
        """Yield the phrases of unmet constraints, each with its constraint's bit and what is missing of it."""
        for bit, phrase in self._phrases:
            if not self._met_by(state) >> bit & 1:
                rest = phrase[self._overlap(state[0], phrase) :]
                if rest[0] != BEGINNING:
                    yield bit, phrase, rest

    def _ways(self, state: State, phrase: tuple[int, ...], rest: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return tokens that end in `phrase`; the last ones let a word that ends here count before."""
        if not self._loses(state, rest[0]) or phrase[0] == BEGINNING:
            return [rest]
        if phrase[0] not in self._closing:
            return [(min(self._closing), *phrase)]
        return [rest, phrase]

    def _loses(self, state: State, token: int) -> bool:
        """Return whether a token continues a word that would count if it ended here."""
        return bool(self._open[state[0]] & ~state[1]) and token not in self._closing

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
    listed = parts if isinstance(parts[0], Sequence) and not isinstance(parts, Phrase) else [parts]
    phrases = [part if isinstance(part, Phrase) else Phrase(tuple(part)) for part in listed]
    for ids in (phrase.ids for phrase in phrases):
        if not ids or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
            raise ConstraintError(
                f"a required phrase holds {list(ids)!r}: give the whole numbers of its tokens, at least one."
            )
    return tuple(dict.fromkeys(phrases))


def check_token_ids(constraints: Iterable[RequiredPhrases], vocab_size: int, ends: set[int]) -> None:
    """Raise ConstraintError where a phrase holds an id that the model does not know, or an end of sentence."""
    for phrases in constraints:
        for phrase in (phrase.ids for alternatives in phrases.constraints for phrase in alternatives):
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


def required_phrase_ids(
    tokenizer: Any, required: Iterable[str | Sequence[str]], whole_words: bool = False
) -> list[Sequence[list[int] | Phrase]]:
    """Turn required words or phrases into the constraints of `RequiredPhrases`.

    Args:
        required: phrases; or lists of phrases of which one is enough, such as the forms of a word.
        whole_words: they count only as whole words: "cat" is not held by "cats". Else what follows is free, if the
            tokenizer writes "cats" as "cat" and "s".

    Each is taken as it is written at the start of a text and after a space.

    Raises:
        ConstraintError: a phrase is empty, not text, or holds characters that the tokenizer does not know.
    """
    constraints: list[Sequence[list[int] | Phrase]] = []
    for entry in listed(required, "required"):
        phrases = [entry] if isinstance(entry, str) else listed(entry, "required")
        spellings = [(phrase, ids) for phrase in phrases for ids in _spellings(tokenizer, phrase, attached=False)]
        constraints.append(_as_whole_words(tokenizer, spellings) if whole_words else [ids for _, ids in spellings])
    return constraints


def _as_whole_words(tokenizer: Any, spellings: list[tuple[str, list[int]]]) -> list[Phrase]:
    texts, found = token_texts(tokenizer), []
    for phrase, ids in spellings:
        first, last = phrase.strip()[0], phrase.strip()[-1]
        only_first = is_word_character(first) and not separates(texts.of.get(ids[0], b""), unsure=False)
        ended = texts.of.get(ids[-1], b"")[-1:] == b" "  # `dog</w>` brings the space behind its word
        closed_by = texts.separators if is_word_character(last) and not ended else None
        found.append(Phrase(tuple(ids), closed_by, texts.textless, only_first))
    if all(phrase.only_first for phrase in found):  # spaces are no text of this tokenizer's tokens
        found = [phrase._replace(only_first=False) for phrase in found]
    return found


def forbidden_phrase_ids(tokenizer: Any, forbidden: Iterable[str]) -> list[list[int]]:
    """Turn forbidden words or phrases into `bad_words_ids` for `generate`.

    Each is taken as it is written at the start of a text, after a space, and after a bracket. Other tokens may still
    make the same text: `ForbiddenPhrases` forbids that too.

    Raises:
        ConstraintError: a phrase is empty, not text, or holds characters that the tokenizer does not know.
    """
    return [ids for phrase in listed(forbidden, "bad_words") for ids in _spellings(tokenizer, phrase, attached=True)]


def listed(value: Any, name: str) -> list:
    """Return phrases as a list; raise ConstraintError where they are a single text, or nothing that can be listed."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConstraintError(f"`{name}` is {value!r}: give a list of words or phrases.")
    return list(value)


def checked_phrase(tokenizer: Any, phrase: Any) -> tuple[str, list[int]]:
    """Return a phrase without the spaces around it, and its ids; raise ConstraintError where it cannot be written."""
    if not isinstance(phrase, str) or not phrase.strip():
        raise ConstraintError(f"a required or forbidden phrase is {phrase!r}: give a text with at least one character.")
    phrase = phrase.strip()
    ids = _ids(tokenizer, phrase)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise ConstraintError(
            f"the phrase {phrase!r} holds something that the tokenizer does not know: the model can never write it."
        )
    return phrase, ids


def _spellings(tokenizer: Any, phrase: Any, attached: bool) -> list[list[int]]:
    """Return the different token ids of a phrase: at the start, after a space, and where asked for or due, attached."""
    phrase, by_itself = checked_phrase(tokenizer, phrase)
    attached = attached or not phrase[0].isalnum() or is_unspaced(phrase[0])
    found = [by_itself]
    for before in ("a ", "(") if attached else ("a ",):
        context, whole = _ids(tokenizer, before.strip()), _ids(tokenizer, before + phrase)
        if whole[: len(context)] == context and tokenizer.unk_token_id not in whole[len(context) :]:
            found.append(whole[len(context) :])
    return [ids for number, ids in enumerate(found) if ids and ids not in found[:number]]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text_target=text, add_special_tokens=False)["input_ids"]


__all__ = [
    "ConstraintError",
    "Phrase",
    "RequiredPhrases",
    "check_token_ids",
    "checked_phrase",
    "forbidden_phrase_ids",
    "listed",
    "required_phrase_ids",
]
