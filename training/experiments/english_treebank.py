"""English trees from a grammar, for an example of parsing that needs no treebank.

    python -m vaswani_tx.training.experiments.english_treebank 5        # prints 5 random trees

The clauses are those of the demonstration's corpus (`experiments/english_german_grammar.py`): words, agreement and who
does what to whom come from there, the English side of each rule is a tree with the Penn Treebank's labels. This file
makes longer and harder sentences of them. Where a prepositional phrase belongs depends on verb, preposition and noun
(`wash the shirt with a brush`, `saw the man with the beard`), or on chance; there are relative clauses with
either gap, with and without a pronoun; coordination of clauses, verb phrases, noun phrases and nouns (`old men and
women`); complement and infinitive clauses, passives, particles, possessives, appositions, quoted speech, questions. Two
trees of one sentence are therefore possible, and no parser can be right every time.
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from vaswani_tx.limits import SEED
from vaswani_tx.training.command_line import exit_status, make_parser, positive_int
from vaswani_tx.training.experiments import english_german_frames as frames
from vaswani_tx.training.experiments import english_german_lexicon as lexicon
from vaswani_tx.training.experiments import english_german_syntax as syntax
from vaswani_tx.training.experiments.english_german_lexicon import EnglishVerb, Noun, plural
from vaswani_tx.training.experiments.english_german_sampler import ClauseSampler, SampleRejected
from vaswani_tx.training.experiments.english_german_syntax import Clause, Nominal, NounPhrase, Phrase, leaf, node
from vaswani_tx.training.parsing.trees import Tree

SHORTEST, LONGEST, COMMA, STOP = 4, 30, syntax.COMMA, syntax.STOP  # lengths in words, punctuation counted
QUESTION, AND = leaf(".", "?"), leaf("CC", "and")
OPENING_QUOTE, CLOSING_QUOTE = leaf("``", "``"), leaf("''", "''")

# How often a phrase with `with` after an object is the tool of these verbs; of others, one time in ten.
TOOL_RATES = {"repair": 0.8, "wash": 0.8, "eat": 0.8, "drink": 0.5, "see": 0.3, "look": 0.3, "find": 0.3}
# With these verbs a place rather says which object is meant.
PERCEPTION = ("see", "look", "find", "visit", "like", "need", "read", "show")
TIMES = [*(lexicon.HABITS | lexicon.RECENT | lexicon.REMOTE).values(), *list(lexicon.AGO.values())[:4]]
_PLACES = (*frames.OUTDOORS, *frames.INDOORS)
# Nouns that do something or that something is done to, and may therefore have a relative clause.
_TAKING_PART = frozenset(name for frame in frames.FRAMES for name in (*frame.subjects, *frame.accusative))


def generate_trees(count: int, seed: int) -> list[Tree]:
    """Return random trees over `count` different sentences, the same for the same seed.

    Raises ValueError where the grammar does not reach that many.
    """
    rng = random.Random(seed)
    found: dict[tuple[str, ...], Tree] = {}
    drawn = 0
    while len(found) < count:
        drawn += 1
        if drawn > 20 * count + 1000:
            raise ValueError(f"only {len(found)} different sentences were found: ask for fewer than {count}")
        try:
            tree = TreeSampler(rng).draw()
        except SampleRejected:
            continue
        sentence = tuple(tree.words())
        if SHORTEST <= len(sentence) <= LONGEST:
            found.setdefault(sentence, tree)
    return list(found.values())


def split_trees(trees: Sequence[Tree], held_out: Sequence[int], seed: int) -> list[list[Tree]]:
    """Return the trees in random order as a part of each given size, and the rest as the last part."""
    order = list(trees)
    random.Random(seed).shuffle(order)
    parts = []
    for size in held_out:
        parts.append(order[:size])
        order = order[size:]
    return [*parts, order]


class TreeSampler:
    """Draws trees. `levels` is how many more levels of embedding a constituent may hold."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.clauses = ClauseSampler(rng)
        self._chance = self.clauses.chance

    def draw(self) -> Tree:
        """Draw one sentence with its punctuation, the first word capitalised."""
        weights = {self._plain: 60, self._opened: 10, self._subordinate: 9, self._joined: 7, self._quoted: 5}
        return _spelled(self._choose(weights | {self._asked: 9})())

    def _choose(self, weights: dict[Any, float]) -> Any:
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def _pick(self, tag: str, words: Sequence[str]) -> Tree:
        return leaf(tag, self.rng.choice(words))

    def _maybe(self, rate: float, make: Callable[..., Tree], *arguments: Any) -> Tree | None:
        return make(*arguments) if self._chance(rate) else None

    # Sentences

    def _plain(self) -> Tree:
        return node("S", *self.clause(3).children, STOP)

    def _opened(self) -> Tree:
        adverb = node("ADVP", self._pick("RB", lexicon.OPENERS))
        opener = adverb if self._chance(0.4) else self._choose({self.time_phrase: 1, self.place_phrase: 1})()
        return node("S", opener, COMMA, *self.clause(3).children, STOP)

    def _subordinate(self) -> Tree:
        word, main, other = self.rng.choice(lexicon.SUBORDINATORS), self.clause(1), self.clause(1)
        if self._chance(0.5):
            tree = syntax.english_clause_before(word, other, main)
        else:
            tree = syntax.english_clause_after(main, word, other)
        return node("S", *tree.children, STOP)

    def _joined(self) -> Tree:
        comma = COMMA if self._chance(0.6) else None
        return node("S", self.clause(1), comma, self._pick("CC", ("and", "but", "or")), self.clause(1), STOP)

    def _quoted(self) -> Tree:
        speaker = self.base(self.human())
        said = node("VP", self._pick("VBD", ("said", "thought", "reported")))
        quote = (OPENING_QUOTE, self.clause(2), COMMA, CLOSING_QUOTE)
        if self._chance(0.5):
            return node("S", *quote, speaker, said, STOP)
        return node("SINV", *quote, said, speaker, STOP)

    def _asked(self) -> Tree:
        helper = leaf("VBD", "did")
        clause = replace(self.describe(), negated=False)
        if self._chance(0.6):
            helper = self._pick("MD", lexicon.MODALS) if self._chance(0.5) else helper
            return node("SQ", helper, self.phrase(clause.subject, 2), self.predicate(clause, 2, "VB"), QUESTION)
        if self._chance(0.5):
            asked = node("SQ", self.predicate(replace(clause, subject=self.human(), past=True), 2))
        else:
            clause = self.describe(gap=True)
            asked = node("SQ", helper, self.phrase(clause.subject, 2), syntax.english_predicate(clause, "VB"))
        return node("SBARQ", node("WHNP", self._pick("WP", ("who", "what"))), asked, QUESTION)

    # Clauses and verb phrases

    def describe(self, subject: Nominal | None = None, gap: bool | str = False) -> Clause:
        """Draw what a clause says, about `subject` if given; with a gap, its verb takes an object but has none.

        A string as gap is the noun that the clause leaves out.
        """
        fitting = frames.FRAMES
        if isinstance(subject, NounPhrase):
            fitting = [frame for frame in fitting if _alias(subject) in frame.subjects]
        if gap:
            fitting = [frame for frame in fitting if frame.accusative and not frame.dative]
            fitting = [frame for frame in fitting if gap is True or gap in frame.accusative]
        if not fitting:
            raise SampleRejected
        frame = self.rng.choices(fitting, [frame.weight for frame in fitting])[0]
        self.clauses.used.clear()
        if gap:
            frame = replace(frame, accusative=(), phrases={}, habits=())
        return self.clauses.clause(frame, subject=subject, negated=self._chance(0.12), time_rate=0.3)

    def clause(self, levels: int) -> Tree:
        """Draw a declarative clause: subject and finite predicate."""
        if self._chance(0.1):
            clause = self.clauses.property(self.human(), ("old", "tired", "sick", "happy", "young"), self._chance(0.5))
        else:
            clause = self.describe()
        passive = isinstance(clause.accusative, NounPhrase) and clause.dative is None and not clause.verb.particle
        if passive and self._chance(0.12):
            subject = self.phrase(clause.accusative, levels - 1)
            be = EnglishVerb("be").finite(clause.accusative.person, clause.past)
            return node("S", subject, node("VP", be, self.passive(clause, levels)))
        return node("S", self.phrase(clause.subject, levels - 1), self.predicate(clause, levels))

    def predicate(self, clause: Clause, levels: int, tag: str = "") -> Tree:
        """Draw the verb phrase of a clause; `tag` is VB for an infinitive."""
        if clause.verb.base == "be":
            return syntax.english_predicate(clause, tag)
        person, past = clause.subject.person, clause.past
        if levels > 0 and self._chance(0.1):
            other = replace(self.describe(clause.subject), past=past)
            return node("VP", self.core(clause, levels - 1, tag), AND, self.core(other, levels - 1, tag))
        form = "core" if tag else self._choose({"core": 72, "modal": 12, "perfect": 9, "progressive": 7})
        if form == "modal":
            negation = self._maybe(0.25, leaf, "RB", "not")
            return node("VP", self._pick("MD", lexicon.MODALS), negation, self.core(clause, levels, "VB"))
        if form == "perfect":
            return node("VP", EnglishVerb("have").finite(person, past), self.core(clause, levels, "VBN"))
        if form == "progressive":
            return node("VP", EnglishVerb("be").finite(person, past), self.core(clause, levels, "VBG"))
        return self.core(clause, levels, tag)

    def core(self, clause: Clause, levels: int, tag: str = "") -> Tree:
        """Draw a verb with its complements and adjuncts: what the clause says, or another verb of its subject."""
        weights = {self._acting: 70, self._particle: 6}
        if levels > 0 and _is_human(clause.subject):
            weights |= {self._saying: 11, self._controlling: 6, self._wanting: 7}
        phrase = self._choose(weights)(clause, levels, tag)
        if self._chance(0.12):
            manner = node("ADVP", self._pick("RB", lexicon.MANNER))
            phrase = node("VP", manner, *phrase.children) if self._chance(0.4) else node("VP", *phrase.children, manner)
        return phrase

    def _acting(self, clause: Clause, levels: int, tag: str) -> Tree:
        clause, of_object = self._attached(clause)

        def render(nominal: Nominal, is_object: bool, negated: bool) -> Tree:
            thing = self.phrase(nominal, levels - 1, is_object, negated)
            if of_object is not None and nominal is clause.accusative:
                return node("NP", thing, self.prepositional(of_object, levels - 1))
            return thing

        return syntax.english_predicate(clause, tag, render)

    def _attached(self, clause: Clause) -> tuple[Clause, Phrase | None]:
        """Return the clause with a prepositional phrase of its verb, and that of its object if it has one instead."""
        verb, thing = clause.verb.base, clause.accusative
        if clause.dative is not None or not isinstance(thing, NounPhrase) or not self._chance(0.6):
            return clause, None
        if self._chance(0.5):
            uses_tool = self._chance(TOOL_RATES.get(verb, 0.1))
            phrase = Phrase("with", self.other(lexicon.TOOLS if uses_tool else lexicon.FEATURES))
            of_object = not uses_tool or (verb not in TOOL_RATES and self._chance(0.1))
        else:
            phrase = self._place()
            # Nothing but chance decides the rest.
            of_object = self._chance(0.85 if verb in PERCEPTION else 0.1)
        return replace(clause, phrase=None if of_object else phrase), phrase if of_object else None

    def _head(self, clause: Clause, tag: str, verbs: Sequence[str]) -> Tree:
        verb = EnglishVerb(self.rng.choice(verbs))
        return leaf(tag, verb.form(tag)) if tag else verb.finite(clause.subject.person, clause.past)

    def _particle(self, clause: Clause, levels: int, tag: str) -> Tree:
        verb, word = self.rng.choice(lexicon.PARTICLES).split()
        head, particle = self._head(clause, tag, [verb]), node("PRT", leaf("RP", word))
        thing = self.phrase(self.thing(), levels - 1, True)
        return node("VP", head, thing, particle) if self._chance(0.4) else node("VP", head, particle, thing)

    def _saying(self, clause: Clause, levels: int, tag: str) -> Tree:
        that = self._maybe(0.6, leaf, "IN", "that")
        return node("VP", self._head(clause, tag, lexicon.SAYING), node("SBAR", that, self.clause(levels - 1)))

    def _controlling(self, clause: Clause, levels: int, tag: str) -> Tree:
        person = self.human()
        head, told = (
            self._head(clause, tag, lexicon.CONTROLLING),
            self.phrase(person, levels - 2, True),
        )
        return node("VP", head, told, self._infinitive(person, levels))

    def _wanting(self, clause: Clause, levels: int, tag: str) -> Tree:
        return node("VP", self._head(clause, tag, lexicon.WANTING), self._infinitive(clause.subject, levels))

    def _infinitive(self, subject: Nominal, levels: int) -> Tree:
        return node("S", node("VP", leaf("TO", "to"), self.core(self.describe(subject), levels - 1, "VB")))

    def passive(self, clause: Clause, levels: int) -> Tree:
        """Return a passive participle with its agent, and a place or time that may belong to either."""
        verb, *rest = syntax.english_predicate(replace(clause, accusative=None), "VBN").children
        agent = node("PP", leaf("IN", "by"), self.phrase(clause.subject, levels - 1, True))
        return node("VP", verb, agent, *rest)

    # Noun phrases and what modifies them

    def human(self) -> NounPhrase:
        """Draw a person."""
        if self._chance(0.3):
            return self.other(lexicon.PERSONS)
        self.clauses.used.clear()
        return self.clauses.noun_phrase(frames.HUMANS, frames.INDIRECT)

    def thing(self) -> NounPhrase:
        """Draw a thing that can be carried."""
        if self._chance(0.2):
            return self.other(lexicon.TOOLS)
        self.clauses.used.clear()
        return self.clauses.noun_phrase(("book", "letter", "bag", "lamp", "ball", "key", "shirt"), frames.INDIRECT)

    def other(self, nouns: Sequence[str]) -> NounPhrase:
        """Draw a phrase about one of the nouns that only trees have."""
        noun = Noun(self.rng.choice(nouns), "", "", "", frozenset(), ("old", "new", "small", "strange", "famous"))
        adjective = self.rng.choice(noun.adjectives) if self._chance(0.25) else ""
        return NounPhrase(noun, self.rng.choice(("the", "the", "a", "a", "my")), adjective=adjective)

    def phrase(self, nominal: Nominal, levels: int, is_object: bool = False, negated: bool = False) -> Tree:
        """Draw a noun phrase about what `nominal` names, modified as far as `levels` allow."""
        if not isinstance(nominal, NounPhrase):
            return syntax.english_nominal(nominal, is_object)
        if levels < 1 or self._chance(0.5):
            return self.base(nominal, negated)
        weights = {self._of: 18, self._with: 14, self._apposition: 6, self._possessive: 9, self._noted: 3}
        if _alias(nominal) in _TAKING_PART:
            weights |= {self._relative: 26, self._reduced: 9}
        if is_object or nominal.plural:  # a coordination is plural, and the verb agrees with `nominal`
            weights[self._pair] = 18
        return self._choose(weights)(nominal, levels)

    def base(self, phrase: NounPhrase, negated: bool = False, name: bool = True) -> Tree:
        """Return the phrase, its determiner varied, without modifiers behind it; `name` allows a name instead."""
        human = _is_human(phrase)
        if name and human and not phrase.plural and self._chance(0.25):
            return node(
                "NP", self._pick("NNP", lexicon.FIRST_NAMES), self._maybe(0.4, self._pick, "NNP", lexicon.LAST_NAMES)
            )
        words = [self._varied(one, phrase) for one in phrase.tree(negated).children]
        if self._chance(0.06) and phrase.noun.english in lexicon.NOUNS:
            similar = frames.HUMANS if human else ("book", "table", "lamp", "car", "apple", "dog", "horse")
            other = self.rng.choice([word for word in similar if word != phrase.noun.english])
            words += [AND, leaf("NNS", plural(other)) if phrase.plural else leaf("NN", other)]
        elif not human and self._chance(0.1):
            words.insert(-1, self._pick("NN", lexicon.MATERIALS))
        return node("NP", *words)

    def _varied(self, word: Tree, phrase: NounPhrase) -> Tree:
        if word.label == "DT" and word.word == "the":
            others = ("these", "those", "some", "many") if phrase.plural else ("this", "that", "every")
            return self._pick("DT", ("the",) * 8 + (others[:2] if phrase.count else others))
        if word.label == "PRP$":
            return self._pick("PRP$", ("my", "my", "her", "his", "their"))
        if word.label == "CD" and self._chance(0.3):
            return node("QP", self._pick("IN", ("about", "over")), word)
        if word.label == "JJ" and self._chance(0.2):
            if self._chance(0.2):
                return node("ADJP", word, AND, self._pick("JJ", ("strange", "quiet", "heavy", "famous")))
            return node("ADJP", self._pick("RB", lexicon.INTENSIFIERS), word)
        return word

    def _relative(self, phrase: NounPhrase, levels: int) -> Tree:
        acts = any(_alias(phrase) in frame.subjects for frame in frames.FRAMES)
        who = _is_human(phrase) and self._chance(0.7)
        pronoun = leaf("WP", "who") if who else self._pick("WDT", ("that", "which"))
        head = self.base(phrase, name=False)
        if acts and self._chance(0.5):
            gapped = node("S", self.predicate(self.describe(phrase), levels - 1))
            return syntax.relative_clause(head, pronoun, gapped)
        clause = self.describe(gap=_alias(phrase))
        gapped = node("S", self.phrase(clause.subject, levels - 2), syntax.english_predicate(clause))
        return syntax.relative_clause(head, pronoun if self._chance(0.6) else None, gapped)

    def _of(self, phrase: NounPhrase, levels: int) -> Tree:
        part = self.rng.choice(lexicon.PARTS)
        relation = node("NP", leaf("DT", "the"), leaf("NNS", plural(part)) if phrase.plural else leaf("NN", part))
        whole = replace(phrase, plural=False, count=0, determiner="the")
        return node("NP", relation, node("PP", leaf("IN", "of"), self.phrase(whole, levels - 1, True)))

    def _with(self, phrase: NounPhrase, levels: int) -> Tree:
        head = self.base(phrase, name=False)
        if not _is_human(phrase):
            return node("NP", head, self.place_phrase(levels - 1))
        if self._chance(0.4):
            return node("NP", head, node("PP", leaf("IN", "from"), node("NP", self._pick("NNP", lexicon.CITIES))))
        return node("NP", head, self.prepositional(Phrase("with", self.other(lexicon.FEATURES)), 0))

    def _reduced(self, phrase: NounPhrase, levels: int) -> Tree:
        head = self.base(phrase, name=False)
        if _is_human(phrase):
            return node("NP", head, self._acting(self.describe(phrase), levels - 1, "VBG"))
        return node("NP", head, self.passive(self.describe(gap=_alias(phrase)), levels - 1))

    def _pair(self, phrase: NounPhrase, levels: int) -> Tree:
        place, human = phrase.noun.english in _PLACES, _is_human(phrase)
        other = (lambda: self._place().noun_phrase) if place else self.human if human else self.thing
        first, second = (self.phrase(nominal, levels - 1, True) for nominal in (phrase, other()))
        word = AND if self._chance(0.8) else leaf("CC", "or")
        if self._chance(0.2):
            return node("NP", self.base(other()), COMMA, first, word, second)
        return node("NP", first, word, second)

    def _apposition(self, phrase: NounPhrase, levels: int) -> Tree:
        other = self.other(lexicon.PERSONS if _is_human(phrase) else lexicon.IDEAS)
        note = self.phrase(replace(other, plural=phrase.plural, determiner="the"), levels - 1)
        return node("NP", self.base(phrase, name=False), COMMA, note, COMMA)

    def _possessive(self, phrase: NounPhrase, levels: int) -> Tree:
        owner = self.base(self.human() if self._chance(0.5) else self.other(lexicon.PERSONS))
        owned = [one for one in phrase.tree().children if one.label in ("JJ", "NN", "NNS")]
        return node("NP", node("NP", *owner.children, leaf("POS", "'s")), *owned)

    def _noted(self, phrase: NounPhrase, levels: int) -> Tree:
        note = node("PRN", leaf("-LRB-", "-LRB-"), self.base(self.other(lexicon.IDEAS)), leaf("-RRB-", "-RRB-"))
        return node("NP", self.base(phrase, name=False), note)

    # Prepositional phrases

    def prepositional(self, phrase: Phrase, levels: int) -> Tree:
        """Return the prepositional phrase, its noun phrase modified as far as `levels` allow."""
        return node("PP", leaf("IN", phrase.preposition), self.phrase(phrase.noun_phrase, levels, True))

    def _place(self) -> Phrase:
        self.clauses.used.clear()
        place = self.clauses.noun_phrase(_PLACES, frames.PLACE)
        return Phrase(self.rng.choice(lexicon.PLACE_PREPOSITIONS), place)

    def place_phrase(self, levels: int = 0) -> Tree:
        """Draw where something is."""
        if self._chance(0.2):
            return node("PP", leaf("IN", "in"), node("NP", self._pick("NNP", lexicon.CITIES)))
        return self.prepositional(self._place(), levels)

    def time_phrase(self) -> Tree:
        """Draw when something happens: a prepositional phrase, a noun phrase or an adverb phrase."""
        if self._chance(0.3):
            return node("PP", self._pick("IN", ("after", "before", "during")), self.base(self.other(lexicon.EVENTS)))
        if self._chance(0.3):
            date = self._pick("NNP", lexicon.DATES)
            return node("PP", leaf("IN", "on" if date.word.endswith("day") else "in"), node("NP", date))
        return self.rng.choice(TIMES).tree


def _alias(phrase: NounPhrase) -> str:
    """Return the noun by whose frames a phrase is used; nouns that only trees have are used like others."""
    name = phrase.noun.english
    return name if name in lexicon.NOUNS else "man" if name in lexicon.PERSONS else "key"


def _is_human(nominal: Nominal) -> bool:
    return not isinstance(nominal, NounPhrase) or _alias(nominal) in lexicon.HUMANS


def _spelled(tree: Tree) -> Tree:
    """Return the tree with its first word that is not punctuation capitalised, and `a` or `an` as what follows asks."""
    leaves = tree.leaves()
    for number, (one, following) in enumerate(pairwise(leaves)):
        if one.word in ("a", "an") and one.label == "DT":
            leaves[number] = leaf("DT", "an" if following.word[0] in "aeiou" else "a")
    first = next(number for number, one in enumerate(leaves) if one.label != "``")
    word = leaves[first].word
    leaves[first] = leaf(leaves[first].label, word[0].upper() + word[1:])
    return tree.with_leaves(leaves)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = make_parser(__doc__, "python -m vaswani_tx.training.experiments.english_treebank")
    parser.add_argument("count", type=positive_int, nargs="?", default=10, help="trees to print (10)")
    parser.add_argument("--seed", type=SEED, default=2015, help="of the trees (2015)")
    options = parser.parse_args(argv)

    def show() -> None:
        for tree in generate_trees(options.count, options.seed):
            print(" ".join(tree.words()), tree.pretty(), "", sep="\n")

    return exit_status(show)


if __name__ == "__main__":
    sys.exit(main())
