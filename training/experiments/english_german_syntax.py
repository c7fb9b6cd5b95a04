"""Grammar rules: noun phrases, clauses and sentences as English constituency trees and German text at once.

A clause is described once and rendered twice, so the two sides cannot drift apart; `english_german_sampler` draws
descriptions. The English side is a tree with the Penn Treebank's labels, whose words are the sentence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vaswani_tx.training.experiments.english_german_lexicon import (
    ADJECTIVES,
    DEGREES,
    IT,
    NUMBERS,
    PRONOUNS,
    EnglishVerb,
    Noun,
    Pronoun,
    Time,
    Verb,
    adjective_form,
    definite_article,
    ein_word,
)
from vaswani_tx.training.parsing.trees import Tree

CONJUNCTIONS = {"because": "weil", "although": "obwohl", "if": "wenn", "that": "dass"}
PREPOSITIONS = {
    "in": ("in", "dative"), "into": ("in", "accusative"), "with": ("mit", "dative"), "for": ("für", "accusative"),
}  # fmt: skip
CONTRACTIONS = {("in", "dem"): "im", ("in", "das"): "ins"}
AUXILIARIES = {"haben": {"ich": "habe", "er": "hat", "pl": "haben"}, "sein": {"ich": "bin", "er": "ist", "pl": "sind"}}


COMMA, STOP = Tree(",", word=","), Tree(".", word=".")


@dataclass(frozen=True)
class Pair:
    """One sentence in both languages with the sorted names of the phenomena that it shows."""

    source: str
    target: str
    phenomena: tuple[str, ...]


def node(label: str, *children: Tree | None) -> Tree:
    """Return a constituent of the children that are not None."""
    return Tree(label, tuple(child for child in children if child is not None))


def leaf(tag: str, word: str) -> Tree:
    """Return a tagged word."""
    return Tree(tag, word=word)


@dataclass(frozen=True)
class NounPhrase:
    """A noun with its determiner: `the`, `a`, `my`, `bare` (no article), `number` or `the number` (with `count`)."""

    noun: Noun
    determiner: str = "the"
    plural: bool = False
    adjective: str = ""
    count: int = 0

    @property
    def definite(self) -> bool:
        """Whether the listener knows which one is meant."""
        return self.determiner in ("the", "my", "the number")

    @property
    def takes_kein(self) -> bool:
        """Whether a negation turns the article of this object into kein."""
        return self.determiner in ("a", "bare")

    @property
    def person(self) -> str:
        """The verb form that this phrase takes as subject."""
        return "pl" if self.plural else "er"

    @property
    def gender(self) -> str:
        """Gender as the endings see it: m, f, n, or p for every plural."""
        return "p" if self.plural else self.noun.gender

    def tree(self, negated: bool = False) -> Tree:
        """Return the English phrase; a negated one without article takes `any`."""
        words = [leaf("NNS", self.noun.english_plural) if self.plural else leaf("NN", self.noun.english)]
        if self.adjective:
            words.insert(0, leaf("JJ", self.adjective))
        if self.count:
            words.insert(0, leaf("CD", NUMBERS[self.count][0]))
        if self.determiner == "a":
            words.insert(0, leaf("DT", "an" if words[0].word[0] in "aeiou" else "a"))
        elif self.determiner == "my":
            words.insert(0, leaf("PRP$", "my"))
        elif self.definite:
            words.insert(0, leaf("DT", "the"))
        elif negated and self.takes_kein:
            words.insert(0, leaf("DT", "any"))
        return node("NP", *words)

    def german(self, case: str, negated: bool = False) -> str:
        """Return the German phrase in `case`; `negated` makes kein out of ein and of a missing article."""
        words, declension = [], "strong"
        if self.determiner in ("the", "the number"):
            words, declension = [definite_article(case, self.gender)], "weak"
        elif self.determiner in ("a", "my") or negated:
            stem = "mein" if self.determiner == "my" else "kein" if negated else "ein"
            words, declension = [ein_word(stem, case, self.gender)], "mixed"
        if self.count:
            words.append(NUMBERS[self.count][1])
        if self.adjective:
            words.append(adjective_form(self.adjective, declension, case, self.gender))
        return " ".join([*words, self.noun.inflect(case, self.plural)])

    def phenomena(self, case: str) -> Iterator[str]:
        """Yield the phenomena that this phrase shows in `case`."""
        articles = {"a": "indefinite_article", "my": "possessive", "bare": "no_article", "number": "no_article"}
        yield articles.get(self.determiner, "definite_article")
        yield case
        if self.adjective:
            yield "adjective_ending"
        if self.plural:
            yield "plural"
        if self.plural and case == "dative":
            yield "dative_plural"
        if self.count:
            yield "number"
        if self.noun.weak and not self.plural and case != "nominative":
            yield "weak_noun"


Nominal = NounPhrase | Pronoun


@dataclass(frozen=True)
class Phrase:
    """A prepositional phrase, named by its English preposition."""

    preposition: str
    noun_phrase: NounPhrase

    def german(self) -> str:
        """Return the German phrase; in + dem and in + das contract."""
        preposition, case = PREPOSITIONS[self.preposition]
        first, *rest = self.noun_phrase.german(case).split()
        contracted = CONTRACTIONS.get((preposition, first))
        return " ".join([contracted, *rest] if contracted else [preposition, first, *rest])


@dataclass(frozen=True)
class Clause:
    """Who does what: the description from which both languages are rendered."""

    subject: Nominal
    verb: Verb
    past: bool = False
    negated: bool = False
    accusative: Nominal | None = None
    dative: Nominal | None = None
    phrase: Phrase | None = None
    time: Time | None = None
    predicate: str = ""
    degree: str = ""

    @property
    def has_kein(self) -> bool:
        """Whether the negation is carried by the object."""
        return self.negated and isinstance(self.accusative, NounPhrase) and self.accusative.takes_kein


def pronoun_of(nominal: Nominal) -> Pronoun:
    """Return the pronoun that refers to `nominal`; ValueError for das Kind and das Mädchen (he, she, but German es)."""
    if isinstance(nominal, Pronoun):
        return nominal
    if not nominal.noun.human:
        return IT[nominal.gender]
    if nominal.gender == "n":
        raise ValueError(f"{nominal.noun.german} has no pronoun with the same gender in English: use another noun")
    return PRONOUNS[{"m": "he", "f": "she", "p": "they"}[nominal.gender]]


def english_clause(clause: Clause) -> Tree:
    """Return the English clause, in the simple present or past."""
    return node("S", english_nominal(clause.subject), english_predicate(clause))


def english_nominal(nominal: Nominal, is_object: bool = False, negated: bool = False) -> Tree:
    """Return the noun phrase of a nominal."""
    if isinstance(nominal, Pronoun):
        return node("NP", leaf("PRP", nominal.object if is_object else nominal.subject))
    return nominal.tree(negated)


def english_predicate(
    clause: Clause, tag: str = "", render: Callable[[Nominal, bool, bool], Tree] = english_nominal
) -> Tree:
    """Return the verb phrase of a clause.

    Args:
        clause: what is said.
        tag: VB, VBN or VBG for a verb that is not finite and not negated; by default it agrees with the subject.
        render: makes the noun phrase of an object, given as to `english_nominal`.
    """
    verb, person = clause.verb, clause.subject.person
    rest = _english_complements(clause, render)
    if clause.negated and not tag:
        negation = leaf("RB", "not")
        if verb.base == "be":
            return node("VP", verb.finite(person, clause.past), negation, *rest)
        inner = node("VP", leaf("VB", verb.base), *rest)
        return node("VP", EnglishVerb("do").finite(person, clause.past), negation, inner)
    return node("VP", leaf(tag, verb.form(tag)) if tag else verb.finite(person, clause.past), *rest)


def _english_complements(clause: Clause, render: Callable[[Nominal, bool, bool], Tree]) -> Iterator[Tree]:
    """Yield what follows the verb: predicative adjective, objects, prepositional phrase, time."""
    if clause.predicate:
        yield node("ADJP", leaf("RB", clause.degree) if clause.degree else None, leaf("JJ", clause.predicate))
    if clause.dative is not None:
        yield render(clause.dative, True, False)
    thing = None if clause.accusative is None else render(clause.accusative, True, clause.negated)
    if clause.verb.particle:
        yield node("PP", leaf("IN", clause.verb.particle), thing)
    elif thing is not None:
        yield thing
    if clause.phrase is not None:
        yield node("PP", leaf("IN", clause.phrase.preposition), render(clause.phrase.noun_phrase, True, False))
    if clause.time is not None:
        yield clause.time.tree


def _german_verb(clause: Clause) -> tuple[str, str]:
    """Return the finite verb and what closes the clause: participle, separable prefix or nothing."""
    verb, person = clause.verb, clause.subject.person
    if verb.base == "be" and clause.past:  # the perfect of sein is bookish where English has was
        return ("waren" if person == "pl" else "war"), ""
    if clause.past:
        return AUXILIARIES[verb.auxiliary][person], verb.participle
    return verb.german_present(person), verb.prefix


def _german_middle(clause: Clause) -> list[str]:
    """Return what is between the verbs: pronouns, time, objects, nicht, the rest."""
    pronouns, objects = [], []
    for case, nominal in (("accusative", clause.accusative), ("dative", clause.dative)):
        if isinstance(nominal, Pronoun):
            pronouns.append(nominal.inflect(case))
    for case, nominal in (("dative", clause.dative), ("accusative", clause.accusative)):
        if isinstance(nominal, NounPhrase):
            objects.append(nominal.german(case, clause.has_kein and case == "accusative"))
    time = [clause.time.german] if clause.time is not None else []
    nicht = ["nicht"] if clause.negated and not clause.has_kein else []
    # The objects of a clause with nicht are known ones and precede the time: hat das Auto gestern nicht gewaschen.
    inner = objects + time + nicht if nicht else time + objects
    rest = [clause.phrase.german()] if clause.phrase is not None else []
    if clause.predicate:
        rest.extend([DEGREES[clause.degree], ADJECTIVES[clause.predicate][0]])
    return pronouns + inner + [word for word in rest if word]


def _german_subject(clause: Clause) -> str:
    subject = clause.subject
    return subject.nominative if isinstance(subject, Pronoun) else subject.german("nominative")


def german_main(clause: Clause, first: str = "subject") -> str:
    """Return the German main clause; `first` is what precedes its verb: `subject`, `time` or `clause`."""
    finite, closing = _german_verb(clause)
    if first == "time":
        words = [clause.time.german, finite, _german_subject(clause), *_german_middle(replace(clause, time=None))]
    elif first == "clause":
        words = [finite, _german_subject(clause), *_german_middle(clause)]
    else:
        words = [_german_subject(clause), finite, *_german_middle(clause)]
    return " ".join([*words, closing] if closing else words)


def german_subordinate(clause: Clause, introduction: str, with_subject: bool = True) -> str:
    """Return the German clause with the finite verb last, after `introduction` (conjunction or relative pronoun)."""
    finite, closing = _german_verb(clause)
    if clause.past and closing:
        ending = [closing, finite]
    else:
        ending = [closing + finite]
    subject = [_german_subject(clause)] if with_subject else []
    return " ".join([introduction, *subject, *_german_middle(clause), *ending])


def clause_phenomena(clause: Clause) -> set[str]:
    """Return the phenomena of one clause, sentence structure apart."""
    found = set()
    nominals = (("nominative", clause.subject), ("accusative", clause.accusative), ("dative", clause.dative))
    for case, nominal in nominals:
        if isinstance(nominal, NounPhrase):
            found.update(nominal.phenomena(case))
        elif nominal is not None and nominal.anaphoric:
            found.add(f"{nominal.subject}_{'subject' if case == 'nominative' else 'object'}")
    if clause.phrase is not None:
        found.update(clause.phrase.noun_phrase.phenomena(PREPOSITIONS[clause.phrase.preposition][1]))
        found.add("preposition")
    if clause.past:
        found.add("past_of_be" if clause.verb.base == "be" else f"perfect_{clause.verb.auxiliary}")
    else:
        found.add("present")
    if clause.negated:
        found.add("negation_kein" if clause.has_kein else "negation_nicht")
    if clause.verb.prefix:
        found.add("separable_verb")
    if clause.verb.base in ("help", "thank"):
        found.add("dative_verb")
    return found


def _pair(english: Tree, german: str, *clauses: Clause, extra: tuple[str, ...] = ()) -> Pair:
    found = set(extra).union(*(clause_phenomena(clause) for clause in clauses))
    source = " ".join(english.words()).replace(" ,", ",")
    return Pair(source[0].upper() + source[1:] + ".", german[0].upper() + german[1:] + ".", tuple(sorted(found)))


def main_sentence(clause: Clause, fronted: bool = False) -> Pair:
    """Return a main clause; `fronted` puts its time expression first in both languages."""
    if not fronted:
        return _pair(english_clause(clause), german_main(clause), clause)
    rest = english_clause(replace(clause, time=None))
    english = node("S", clause.time.tree, *rest.children)
    return _pair(english, german_main(clause, "time"), clause, extra=("inversion",))


def english_clause_after(main: Tree, conjunction: str, subordinate: Tree) -> Tree:
    """Return a clause whose verb phrase ends with a subordinate clause."""
    subject, predicate = main.children
    adverbial = node("SBAR", leaf("IN", conjunction), subordinate)
    return node("S", subject, node("VP", *predicate.children, adverbial))


def clause_after(main: Clause, conjunction: str, subordinate: Clause) -> Pair:
    """Return main clause + because, although, if or that + subordinate clause."""
    word = CONJUNCTIONS[conjunction]
    english = english_clause_after(english_clause(main), conjunction, english_clause(subordinate))
    german = f"{german_main(main)}, {german_subordinate(subordinate, word)}"
    return _pair(english, german, main, subordinate, extra=("subordinate_clause", f"{word}_clause"))


def english_clause_before(conjunction: str, subordinate: Tree, main: Tree) -> Tree:
    """Return a clause that begins with a subordinate clause."""
    return node("S", node("SBAR", leaf("IN", conjunction), subordinate), COMMA, *main.children)


def clause_before(conjunction: str, subordinate: Clause, main: Clause) -> Pair:
    """Return the subordinate clause first: the German main clause begins with its verb."""
    word = CONJUNCTIONS[conjunction]
    english = english_clause_before(conjunction, english_clause(subordinate), english_clause(main))
    german = f"{german_subordinate(subordinate, word)}, {german_main(main, 'clause')}"
    extra = ("subordinate_clause", f"{word}_clause", "inversion")
    return _pair(english, german, main, subordinate, extra=extra)


def contrast(first: Clause, second: Clause) -> Pair:
    """Return two main clauses joined by but."""
    english = node("S", english_clause(first), COMMA, leaf("CC", "but"), english_clause(second))
    return _pair(english, f"{german_main(first)}, aber {german_main(second)}", first, second, extra=("but_clause",))


def relative_clause(head: Tree, pronoun: Tree | None, clause: Tree) -> Tree:
    """Return a noun phrase with a relative clause."""
    return node("NP", head, node("SBAR", node("WHNP", pronoun) if pronoun else None, clause))


def relative_sentence(main: Clause, relative: Clause, case: str) -> Pair:
    """Return a main clause whose subject has a relative clause; the relative pronoun is its subject or its object.

    `case` is that of the relative pronoun, `nominative` or `accusative`; `relative` has the same subject as `main` in
    the first case, and no accusative object in the second.
    """
    head, is_subject = main.subject, case == "nominative"
    pronoun = leaf("WP", "who") if is_subject and head.noun.human else leaf("WDT", "that")
    gapped = node("S", english_predicate(relative)) if is_subject else english_clause(relative)
    english = node("S", relative_clause(head.tree(), pronoun, gapped), english_predicate(main))
    german_relative = german_subordinate(relative, definite_article(case, head.gender), not is_subject)
    head_german = head.german("nominative")
    rest = german_main(main).removeprefix(head_german + " ")
    german = f"{head_german}, {german_relative}, {rest}"
    return _pair(english, german, main, relative, extra=("relative_clause", f"relative_{case}"))
