"""English-like trees from a grammar, for an example of parsing that needs no treebank.

    python -m vaswani_tx.training.parsing.grammar 5        # prints 5 random trees

The brackets are the Penn Treebank's. What makes the language worth parsing: where a prepositional phrase belongs
depends on verb, preposition and noun (`cut the rope with a knife`, `saw the man with the beard`), or on chance alone;
relative clauses with either gap, with and without a pronoun; coordination of clauses, verb phrases, noun phrases and
nouns (`old men and women`); complement and infinitive clauses, passives, particles, possessives, appositions, quoted
speech, questions. Two trees of one sentence are therefore possible, and no parser can be right every time.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from itertools import pairwise

from vaswani_tx.training.parsing import lexicon
from vaswani_tx.training.parsing.trees import Tree

SHORTEST, LONGEST = 4, 30  # words, punctuation counted
MASS_SUBJECTS = ("person", "person", "person", "animal", "thing", "idea")


def generate_trees(count: int, seed: int) -> list[Tree]:
    """Random trees over `count` different sentences; the same seed gives the same trees.

    Raises ValueError where the grammar does not reach that many.
    """
    rng = random.Random(seed)
    found: dict[tuple[str, ...], Tree] = {}
    drawn = 0
    while len(found) < count:
        drawn += 1
        if drawn > 20 * count + 1000:
            raise ValueError(f"only {len(found)} different sentences were found: ask for fewer than {count}")
        tree = Sentences(rng).draw()
        words = tuple(tree.words())
        if SHORTEST <= len(words) <= LONGEST:
            found.setdefault(words, tree)
    return list(found.values())


def split_trees(trees: Sequence[Tree], held_out: Sequence[int], seed: int) -> list[list[Tree]]:
    """The trees in random order as a part of each given size, and the rest as the last part."""
    order = list(trees)
    random.Random(seed).shuffle(order)
    parts = []
    for size in held_out:
        parts.append(order[:size])
        order = order[size:]
    return [*parts, order]


def node(label: str, *children: Tree | None) -> Tree:
    """A constituent; children that are None are left away."""
    return Tree(label, tuple(child for child in children if child is not None))


def leaf(tag: str, word: str) -> Tree:
    """A tagged word."""
    return Tree(tag, word=word)


COMMA, STOP, QUESTION, AND = leaf(",", ","), leaf(".", "."), leaf(".", "?"), leaf("CC", "and")


class Sentences:
    """Draws trees. `room` is how many more levels of embedding a constituent may hold."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def draw(self) -> Tree:
        """One sentence with its punctuation, the first word capitalised."""
        kind = self._choose(
            {self._plain: 60, self._opened: 10, self._subordinate: 9, self._joined: 7, self._quoted: 5, self._asked: 9}
        )
        return _capitalised(kind())

    def _choose(self, weights: dict):
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def _pick(self, words: Sequence[str]) -> str:
        return self.rng.choice(words)

    def _chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    # Sentences

    def _plain(self) -> Tree:
        return node("S", *self.clause(3).children, STOP)

    def _opened(self) -> Tree:
        if self._chance(0.4):
            opener = node("ADVP", leaf("RB", self._pick(lexicon.OPENERS)))
        else:
            opener = self.time_phrase() if self._chance(0.5) else self.place_phrase(0)
        return node("S", opener, COMMA, *self.clause(2).children, STOP)

    def _subordinate(self) -> Tree:
        adverbial = node("SBAR", leaf("IN", self._pick(lexicon.SUBORDINATORS)), self.clause(1))
        if self._chance(0.5):
            return node("S", adverbial, COMMA, *self.clause(1).children, STOP)
        main = self.clause(1)
        subject, predicate = main.children
        return node("S", subject, node("VP", *predicate.children, adverbial), STOP)

    def _joined(self) -> Tree:
        word = leaf("CC", self._pick(("and", "but", "or")))
        comma = COMMA if self._chance(0.6) else None
        return node("S", self.clause(1), comma, word, self.clause(1), STOP)

    def _quoted(self) -> Tree:
        speaker, said = self.noun_phrase("person", 0), leaf("VBD", self._pick(("said", "thought", "reported")))
        quote = (leaf("``", "``"), self.clause(1), COMMA, leaf("''", "''"))
        if self._chance(0.5):
            return node("S", *quote, speaker, node("VP", said), STOP)
        return node("SINV", *quote, node("VP", said), speaker, STOP)

    def _asked(self) -> Tree:
        plural = self._chance(0.4)
        subject = self.noun_phrase("person", 1, plural)
        if self._chance(0.6):
            helper = leaf("MD", self._pick(lexicon.MODALS)) if self._chance(0.5) else leaf("VBD", "did")
            return node("SQ", helper, subject, self.predicate("VB", 1), QUESTION)
        if self._chance(0.5):
            who = node("WHNP", leaf("WP", self._pick(("who", "what"))))
            return node("SBARQ", who, node("SQ", self.predicate("VBD", 1)), QUESTION)
        who = node("WHNP", leaf("WP", self._pick(("who", "what"))))
        seen = node("VP", leaf("VB", self._verb("see", "VB")), self._maybe(0.4, self.time_phrase))
        return node("SBARQ", who, node("SQ", leaf("VBD", "did"), subject, seen), QUESTION)

    # Clauses and verb phrases

    def clause(self, room: int) -> Tree:
        """A declarative clause: subject and finite predicate."""
        plural = self._chance(0.35)
        subject = self.noun_phrase(self._pick(MASS_SUBJECTS), room - 1, plural)
        finite = "VBD" if self._chance(0.6) else "VBP" if plural else "VBZ"
        return node("S", subject, self.predicate(finite, room))

    def predicate(self, tag: str, room: int) -> Tree:
        """A verb phrase whose first word has the tag VB, VBP, VBZ or VBD."""
        weights = {self.simple: 62, self._be: 14, self._modal: 10, self._perfect: 6, self._coordinated: 8}
        if tag == "VB":
            weights = {self.simple: 88, self._coordinated: 12}
        if room < 1:
            weights.pop(self._coordinated)
        return self._choose(weights)(tag, room)

    def _modal(self, tag: str, room: int) -> Tree:
        negation = self._maybe(0.25, lambda: leaf("RB", "not"))
        return node("VP", leaf("MD", self._pick(lexicon.MODALS)), negation, self.simple("VB", room))

    def _perfect(self, tag: str, room: int) -> Tree:
        word = {"VBZ": "has", "VBP": "have", "VBD": "had"}[tag]
        return node("VP", leaf(tag, word), self.simple("VBN", room))

    def _coordinated(self, tag: str, room: int) -> Tree:
        return node("VP", self.simple(tag, room - 1), AND, self.simple(tag, room - 1))

    def _be(self, tag: str, room: int) -> Tree:
        be = leaf(tag, {"VBZ": "is", "VBP": "are", "VBD": "was"}[tag])
        kind = self._choose({"adjective": 35, "noun": 20, "passive": 30, "progressive": 15})
        if kind == "adjective":
            return node("VP", be, self.adjective_phrase("person", room))
        if kind == "noun":
            return node("VP", be, self.noun_phrase("person", room - 1, False))
        if kind == "progressive":
            return node("VP", be, self.simple("VBG", room))
        return node("VP", be, self.passive(room))

    def passive(self, room: int) -> Tree:
        """A passive participle with its agent, and a place or time that may belong to either."""
        agent = node("PP", leaf("IN", "by"), self.noun_phrase("person", room - 1))
        kind = self._pick(("made", "see", "tool"))
        return node("VP", leaf("VBN", self._verb(kind, "VBN")), agent, self._maybe(0.3, self.time_phrase))

    def simple(self, tag: str, room: int) -> Tree:
        """A verb with its complements and adjuncts, without auxiliaries."""
        weights = {
            self._transitive: 42, self._intransitive: 14, self._moving: 8, self._placing: 8, self._giving: 8,
            self._particle: 6,
        }  # fmt: skip
        if room > 0:
            weights |= {self._saying: 10, self._controlling: 6, self._wanting: 7}
        phrase = self._choose(weights)(tag, room)
        if self._chance(0.12):
            manner = node("ADVP", leaf("RB", self._pick(lexicon.MANNER)))
            phrase = node("VP", manner, *phrase.children) if self._chance(0.4) else node("VP", *phrase.children, manner)
        return phrase

    def _transitive(self, tag: str, room: int) -> Tree:
        kind = self._choose({"tool": 35, "see": 45, "trade": 20})
        head = leaf(tag, self._verb(kind, tag))
        what = self._choose({"thing": 6, "person": 4, "animal": 3} if kind == "see" else {"thing": 7, "animal": 1})
        thing = self.noun_phrase(what, room - 1)
        if not self._chance(0.55):
            return node("VP", head, thing, self._maybe(0.2, self.time_phrase))
        return node("VP", head, *self._attached(kind, thing, room))

    def _attached(self, kind: str, thing: Tree, room: int) -> Sequence[Tree]:
        """An object and a prepositional phrase, which belongs to the verb or to the object."""
        which = self._choose({"with": 45, "place": 35, "time": 20})
        if which == "time":
            return thing, self.time_phrase()
        if which == "place":
            phrase = self.place_phrase(room - 1)
            # With verbs of seeing a place rather says which one is seen; nothing but chance decides the rest.
            return (node("NP", thing, phrase),) if self._chance(0.85 if kind == "see" else 0.1) else (thing, phrase)
        uses_tool = self._chance({"tool": 0.8, "see": 0.3, "trade": 0.1}[kind])
        what = self.noun_phrase("tool" if uses_tool else "feature", 0)
        phrase = node("PP", leaf("IN", "with"), what)
        own = not uses_tool or (kind != "tool" and self._chance(0.1))
        return (node("NP", thing, phrase),) if own else (thing, phrase)

    def _intransitive(self, tag: str, room: int) -> Tree:
        place = self._maybe(0.6, lambda: self.place_phrase(room - 1))
        return node("VP", leaf(tag, self._verb("stay", tag)), place, self._maybe(0.35, self.time_phrase))

    def _moving(self, tag: str, room: int) -> Tree:
        path = node("PP", leaf(*self._path()), self.noun_phrase("place", room - 1))
        return node("VP", leaf(tag, self._verb("go", tag)), path, self._maybe(0.3, self.time_phrase))

    def _placing(self, tag: str, room: int) -> Tree:
        thing = self.noun_phrase("thing", room - 2)
        return node("VP", leaf(tag, self._verb("move", tag)), thing, self.place_phrase(room - 1))

    def _giving(self, tag: str, room: int) -> Tree:
        head = leaf(tag, self._verb("give", tag))
        thing, person = self.noun_phrase("thing", room - 2), self.noun_phrase("person", room - 2)
        if self._chance(0.5):
            return node("VP", head, person, thing)
        return node("VP", head, thing, node("PP", leaf("TO", "to"), person))

    def _particle(self, tag: str, room: int) -> Tree:
        base, word = self._pick(lexicon.PARTICLES)
        head, particle = leaf(tag, lexicon.verb(base).form(tag)), node("PRT", leaf("RP", word))
        thing = self.noun_phrase("thing", room - 1)
        return node("VP", head, thing, particle) if self._chance(0.4) else node("VP", head, particle, thing)

    def _saying(self, tag: str, room: int) -> Tree:
        that = self._maybe(0.6, lambda: leaf("IN", "that"))
        return node("VP", leaf(tag, self._verb("say", tag)), node("SBAR", that, self.clause(room - 1)))

    def _controlling(self, tag: str, room: int) -> Tree:
        person = self.noun_phrase("person", room - 2)
        return node("VP", leaf(tag, self._verb("control", tag)), person, self._infinitive(room))

    def _wanting(self, tag: str, room: int) -> Tree:
        return node("VP", leaf(tag, self._verb("want", tag)), self._infinitive(room))

    def _infinitive(self, room: int) -> Tree:
        return node("S", node("VP", leaf("TO", "to"), self.simple("VB", room - 1)))

    # Noun phrases and what modifies them

    def noun_phrase(self, kind: str, room: int, plural: bool | None = None) -> Tree:
        """A noun phrase about a noun of the class `kind`; None as `plural` leaves the number to chance."""
        plural = self._chance(0.3) if plural is None else plural
        if room < 1 or self._chance(0.5):
            return self._base(kind, plural)
        weights = {
            self._relative: 26, self._of: 18, self._with: 14, self._reduced: 9, self._pair: 14, self._apposition: 6,
            self._possessive: 9, self._noted: 3,
        }  # fmt: skip
        return self._choose(weights)(kind, room, plural)

    def _base(self, kind: str, plural: bool) -> Tree:
        if kind == "person" and self._chance(0.35):
            return self._name_or_pronoun(plural)
        if kind == "place" and self._chance(0.25):
            return node("NP", leaf("NNP", self._pick(lexicon.CITIES)))
        noun = self._noun(kind, plural)
        if plural and self._chance(0.3):
            count = leaf("CD", self._pick(lexicon.NUMBERS))
            count = node("QP", leaf("IN", self._pick(("about", "over"))), count) if self._chance(0.3) else count
            return node("NP", count, self._maybe(0.25, lambda: self._adjective(kind)), noun)
        if self._chance(0.06):
            other = self._noun(kind, plural)
            return node(
                "NP", self._determiner(plural), self._maybe(0.6, lambda: self._adjective(kind)), noun, AND, other
            )
        describe = self._choose({"none": 55, "one": 27, "two": 5, "degree": 6, "noun": 7})
        between: list[Tree] = []
        if describe == "degree":
            between = [node("ADJP", leaf("RB", self._pick(lexicon.DEGREES)), self._adjective(kind))]
        elif describe == "noun":
            between = [leaf("NN", self._pick(lexicon.NOUNS["material"]))]
        elif describe != "none":
            between = [self._adjective(kind) for _ in range(1 + (describe == "two"))]
        return node("NP", self._determiner(plural), *between, noun)

    def _name_or_pronoun(self, plural: bool) -> Tree:
        if self._chance(0.3):
            return node("NP", leaf("PRP", self._pick(("they", "we", "you") if plural else ("he", "she"))))
        if plural:
            return self._base("person", True)
        last = self._maybe(0.4, lambda: leaf("NNP", self._pick(lexicon.LAST_NAMES)))
        return node("NP", leaf("NNP", self._pick(lexicon.FIRST_NAMES)), last)

    def _relative(self, kind: str, room: int, plural: bool) -> Tree:
        head = self._headed(kind, plural)
        who = (
            leaf("WP", "who") if kind == "person" and self._chance(0.7) else leaf("WDT", self._pick(("that", "which")))
        )
        tag = "VBD" if self._chance(0.6) else "VBP" if plural else "VBZ"
        if self._chance(0.5):
            return node("NP", head, node("SBAR", node("WHNP", who), node("S", self.predicate(tag, room - 1))))
        seen = node("VP", leaf("VBD", self._verb("see", "VBD")), self._maybe(0.25, self.time_phrase))
        gapped = node("S", self.noun_phrase("person", room - 2), seen)
        return node("NP", head, node("SBAR", self._maybe(0.6, lambda: node("WHNP", who)), gapped))

    def _of(self, kind: str, room: int, plural: bool) -> Tree:
        relation = node("NP", leaf("DT", "the"), self._noun("relation", plural))
        return node("NP", relation, node("PP", leaf("IN", "of"), self.noun_phrase(kind, room - 1)))

    def _with(self, kind: str, room: int, plural: bool) -> Tree:
        if kind == "person" and self._chance(0.4):
            phrase = node("PP", leaf("IN", "from"), node("NP", leaf("NNP", self._pick(lexicon.CITIES))))
        elif kind in ("person", "animal") and self._chance(0.5):
            phrase = node("PP", leaf("IN", "with"), self._base("feature", False))
        elif kind == "idea":
            phrase = node("PP", leaf("IN", "about"), self.noun_phrase(self._pick(("event", "person")), room - 1))
        else:
            phrase = self.place_phrase(room - 1)
        return node("NP", self._headed(kind, plural), phrase)

    def _reduced(self, kind: str, room: int, plural: bool) -> Tree:
        head = self._headed(kind, plural)
        if kind in ("person", "animal"):
            return node("NP", head, self._intransitive("VBG", room))
        return node("NP", head, self.passive(room - 1))

    def _pair(self, kind: str, room: int, plural: bool) -> Tree:
        word = AND if self._chance(0.8) else leaf("CC", "or")
        first, second = (self.noun_phrase(kind, room - 1, self._chance(0.3)) for _ in range(2))
        if self._chance(0.2):
            third = self.noun_phrase(kind, 0)
            return node("NP", third, COMMA, first, word, second)
        return node("NP", first, word, second)

    def _apposition(self, kind: str, room: int, plural: bool) -> Tree:
        first = self._headed(kind, plural)
        return node("NP", first, COMMA, self.noun_phrase(kind, room - 1, plural), COMMA)

    def _possessive(self, kind: str, room: int, plural: bool) -> Tree:
        owner = self._base("person", False)
        if owner.children[0].label == "PRP":
            owner = node("NP", leaf("NNP", self._pick(lexicon.FIRST_NAMES)))
        owner = node("NP", *owner.children, leaf("POS", "'s"))
        return node("NP", owner, self._maybe(0.3, lambda: self._adjective(kind)), self._noun(kind, plural))

    def _noted(self, kind: str, room: int, plural: bool) -> Tree:
        note = self._base(kind, plural)
        return node("NP", self._headed(kind, plural), node("PRN", leaf("-LRB-", "-LRB-"), note, leaf("-RRB-", "-RRB-")))

    def _headed(self, kind: str, plural: bool) -> Tree:
        """A base noun phrase that can be modified further: no pronoun and no name."""
        return node(
            "NP", self._determiner(plural), self._maybe(0.25, lambda: self._adjective(kind)), self._noun(kind, plural)
        )

    def adjective_phrase(self, kind: str, room: int) -> Tree:
        """A predicative adjective phrase, maybe coordinated."""
        degree = self._maybe(0.35, lambda: leaf("RB", self._pick(lexicon.DEGREES)))
        if self._chance(0.2):
            return node("ADJP", degree, self._adjective(kind), AND, self._adjective(kind))
        return node("ADJP", degree, self._adjective(kind))

    def place_phrase(self, room: int) -> Tree:
        """Where something is."""
        return node("PP", leaf("IN", self._pick(lexicon.PLACE_PREPOSITIONS)), self.noun_phrase("place", room))

    def time_phrase(self) -> Tree:
        """When something happens: a prepositional phrase, or a noun phrase of its own."""
        kind = self._choose({"day": 35, "month": 25, "event": 25, "bare": 15})
        if kind == "day":
            return node("PP", leaf("IN", "on"), node("NP", leaf("NNP", self._pick(lexicon.NOUNS["day"]))))
        if kind == "month":
            return node("PP", leaf("IN", "in"), node("NP", leaf("NNP", self._pick(lexicon.NOUNS["month"]))))
        if kind == "event":
            when = self._pick(("after", "before", "during"))
            return node("PP", leaf("IN", when), node("NP", leaf("DT", "the"), self._noun("event", False)))
        if self._chance(0.5):
            return node("NP", leaf("NN", self._pick(("yesterday", "today", "tomorrow"))))
        return node("NP", leaf("DT", "last"), leaf("NN", self._pick(("week", "year", "summer", "night"))))

    # Words

    def _noun(self, kind: str, plural: bool) -> Tree:
        noun = self._pick(lexicon.NOUNS[kind])
        return leaf("NNS", lexicon.plural(noun)) if plural else leaf("NN", noun)

    def _adjective(self, kind: str) -> Tree:
        return leaf("JJ", self._pick(lexicon.ADJECTIVES.get(kind, lexicon.ADJECTIVES["other"])))

    def _determiner(self, plural: bool) -> Tree:
        if self._chance(0.12):
            return leaf("PRP$", self._pick(("her", "his", "their", "my")))
        words = {"the": 60, "these": 6, "those": 6, "some": 14, "many": 14}
        return leaf("DT", self._choose(words if plural else {"the": 55, "a": 30, "that": 6, "this": 5, "every": 4}))

    def _verb(self, kind: str, tag: str) -> str:
        return lexicon.verb(self._pick(lexicon.VERBS[kind])).form(tag)

    def _path(self) -> tuple[str, str]:
        word = self._pick(lexicon.PATH_PREPOSITIONS)
        return "TO" if word == "to" else "IN", word

    def _maybe(self, probability: float, make) -> Tree | None:
        return make() if self._chance(probability) else None


def _capitalised(tree: Tree) -> Tree:
    """The tree with its first word that is not punctuation capitalised, and `a` turned into `an` before a vowel."""
    leaves = tree.leaves()
    for number, (one, following) in enumerate(pairwise(leaves)):
        if one.word == "a" and following.word[0] in "aeiou":
            leaves[number] = leaf(one.label, "an")
    first = next(number for number, one in enumerate(leaves) if one.label != "``")
    word = leaves[first].word
    leaves[first] = leaf(leaves[first].label, word[0].upper() + word[1:])
    return tree.with_leaves(leaves)


def main(argv: list[str] | None = None) -> int:
    """Print random trees."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.parsing.grammar", description=__doc__.split("\n")[0]
    )
    parser.add_argument("count", type=int, nargs="?", default=10)
    parser.add_argument("--seed", type=int, default=2015)
    options = parser.parse_args(argv)
    for tree in generate_trees(options.count, options.seed):
        print(f"{' '.join(tree.words())}\n{tree.pretty()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
