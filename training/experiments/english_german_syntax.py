"""Grammar rules of the demonstration language: noun phrases, clauses and sentences in English and German at once.

A clause is described once and rendered twice, so the two sides cannot drift apart; `demo_grammar` draws descriptions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vaswani_tx.training.experiments.english_german_lexicon import (
    ADJECTIVES,
    DEGREES,
    IT,
    NOUNS,
    NUMBERS,
    PRONOUNS,
    Noun,
    Pronoun,
    Time,
    Verb,
    adjective_form,
    definite_article,
    ein_word,
)

CONJUNCTIONS = {"because": "weil", "although": "obwohl", "if": "wenn", "that": "dass"}
PREPOSITIONS = {
    "in": ("in", "dative"),
    "into": ("in", "accusative"),
    "with": ("mit", "dative"),
    "for": ("für", "accusative"),
}
CONTRACTIONS = {("in", "dem"): "im", ("in", "das"): "ins"}
AUXILIARIES = {"haben": {"ich": "habe", "er": "hat", "pl": "haben"}, "sein": {"ich": "bin", "er": "ist", "pl": "sind"}}


@dataclass(frozen=True)
class Pair:
    """One sentence in both languages with the sorted names of the phenomena that it shows."""

    source: str
    target: str
    phenomena: tuple[str, ...]


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
        """Whether the hearer knows which one is meant."""
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

    def english(self, negated: bool = False) -> str:
        """Return the English phrase; a negated one without article takes `any`."""
        words = [self.adjective] if self.adjective else []
        words.append(self.noun.english_plural if self.plural else self.noun.english)
        if self.count:
            words.insert(0, NUMBERS[self.count][0])
        if self.determiner == "a":
            words.insert(0, "an" if words[0][0] in "aeiou" else "a")
        elif self.definite:
            words.insert(0, self.determiner.split()[0])
        elif negated and self.takes_kein:
            words.insert(0, "any")
        return " ".join(words)

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
        kinds = {"a": "indefinite_article", "my": "possessive", "bare": "no_article", "number": "no_article"}
        yield kinds.get(self.determiner, "definite_article")
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

    def english(self) -> str:
        """Return the English phrase."""
        return f"{self.preposition} {self.noun_phrase.english()}"

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


def noun_phrase(text: str, adjective: str = "") -> NounPhrase:
    """Return the phrase for `the dog`, `a dog`, `my dogs`, `dogs`, `three dogs` or `the three dogs`."""
    *words, last = text.split()
    noun = next(noun for noun in NOUNS.values() if last in (noun.english, noun.english_plural))
    counts = {english: count for count, (english, _) in NUMBERS.items()}
    count = next((counts[word] for word in words if word in counts), 0)
    determiner = " ".join("number" if word in counts else word for word in words) or "bare"
    determiner = "a" if determiner == "an" else determiner
    return NounPhrase(noun, determiner, last != noun.english, adjective, count)


def pronoun_of(nominal: Nominal) -> Pronoun:
    """Return the pronoun that takes up `nominal`; ValueError for das Kind and das Mädchen (he, she, but German es)."""
    if isinstance(nominal, Pronoun):
        return nominal
    if not nominal.noun.human:
        return IT[nominal.gender]
    if nominal.gender == "n":
        raise ValueError(f"{nominal.noun.german} has no pronoun with the same gender in English: use another noun")
    return PRONOUNS[{"m": "he", "f": "she", "p": "they"}[nominal.gender]]


def english_clause(clause: Clause, with_subject: bool = True, with_time: bool = True) -> str:
    """Return the English clause, in the simple present or past, without capital and full stop."""
    words = []
    if with_subject:
        subject = clause.subject
        words.append(subject.subject if isinstance(subject, Pronoun) else subject.english())
    words.append(_english_verb(clause))
    if clause.predicate:
        words.extend([clause.degree, clause.predicate])
    if clause.dative is not None:
        words.append(_english_object(clause.dative, False))
    words.append(clause.verb.particle)
    if clause.accusative is not None:
        words.append(_english_object(clause.accusative, clause.negated))
    if clause.phrase is not None:
        words.append(clause.phrase.english())
    if clause.time is not None and with_time:
        words.append(clause.time.english)
    return " ".join(word for word in words if word)


def _english_object(nominal: Nominal, negated: bool) -> str:
    return nominal.object if isinstance(nominal, Pronoun) else nominal.english(negated)


def _english_verb(clause: Clause) -> str:
    verb, person = clause.verb, clause.subject.person
    if verb.base == "be":
        forms = {"ich": ("am", "was"), "er": ("is", "was"), "pl": ("are", "were")}
        return forms[person][clause.past] + (" not" if clause.negated else "")
    if clause.negated:
        return ("did" if clause.past else "does" if person == "er" else "do") + f" not {verb.base}"
    return verb.past if clause.past else verb.third if person == "er" else verb.base


def _german_verb(clause: Clause) -> tuple[str, str]:
    """Return the finite verb and what closes the clause: participle, separable prefix or nothing."""
    verb, person = clause.verb, clause.subject.person
    if verb.base == "be" and clause.past:  # the perfect of sein is bookish where English has was
        return ("waren" if person == "pl" else "war"), ""
    if clause.past:
        return AUXILIARIES[verb.auxiliary][person], verb.participle
    return verb.german_present(person), verb.prefix


def _german_middle(clause: Clause, with_time: bool) -> list[str]:
    """Return what stands between the verbs: pronouns, time, objects, nicht, the rest."""
    pronouns, objects = [], []
    for case, nominal in (("accusative", clause.accusative), ("dative", clause.dative)):
        if isinstance(nominal, Pronoun):
            pronouns.append(nominal.inflect(case))
    for case, nominal in (("dative", clause.dative), ("accusative", clause.accusative)):
        if isinstance(nominal, NounPhrase):
            objects.append(nominal.german(case, clause.has_kein and case == "accusative"))
    time = [clause.time.german] if clause.time is not None and with_time else []
    nicht = ["nicht"] if clause.negated and not clause.has_kein else []
    # The objects of a clause with nicht are known ones and stand before the time: hat das Auto gestern nicht gewaschen.
    inner = objects + time + nicht if nicht else time + objects
    rest = [clause.phrase.german()] if clause.phrase is not None else []
    if clause.predicate:
        rest.extend([DEGREES[clause.degree], ADJECTIVES[clause.predicate][0]])
    return pronouns + inner + [word for word in rest if word]


def _german_subject(clause: Clause) -> str:
    subject = clause.subject
    return subject.nominative if isinstance(subject, Pronoun) else subject.german("nominative")


def german_main(clause: Clause, first: str = "subject") -> str:
    """Return the German main clause; `first` is what stands before its verb: `subject`, `time` or `clause`."""
    finite, closing = _german_verb(clause)
    middle = _german_middle(clause, first != "time")
    if first == "subject":
        words = [_german_subject(clause), finite, *middle, closing]
    else:
        fronted = clause.time.german if first == "time" else ""
        words = [fronted, finite, _german_subject(clause), *middle, closing]
    return " ".join(word for word in words if word)


def german_subordinate(clause: Clause, introduction: str, with_subject: bool = True) -> str:
    """Return the German clause with the finite verb last, after `introduction` (conjunction or relative pronoun)."""
    finite, closing = _german_verb(clause)
    if clause.past and closing:
        ending = [closing, finite]
    else:
        ending = [closing + finite]
    subject = [_german_subject(clause)] if with_subject else []
    return " ".join([introduction, *subject, *_german_middle(clause, True), *ending])


def clause_phenomena(clause: Clause) -> set[str]:
    """Return the phenomena of one clause, sentence structure apart."""
    found = set()
    for case, nominal in (
        ("nominative", clause.subject),
        ("accusative", clause.accusative),
        ("dative", clause.dative),
    ):
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


def _pair(english: str, german: str, *clauses: Clause, extra: tuple[str, ...] = ()) -> Pair:
    found = set(extra).union(*(clause_phenomena(clause) for clause in clauses))
    return Pair(english[0].upper() + english[1:] + ".", german[0].upper() + german[1:] + ".", tuple(sorted(found)))


def main_sentence(clause: Clause, fronted: bool = False) -> Pair:
    """Return a main clause; `fronted` puts its time expression first in both languages."""
    if not fronted:
        return _pair(english_clause(clause), german_main(clause), clause)
    english = f"{clause.time.english} {english_clause(clause, with_time=False)}"
    return _pair(english, german_main(clause, "time"), clause, extra=("inversion",))


def clause_after(main: Clause, conjunction: str, subordinate: Clause) -> Pair:
    """Return main clause + because, although, if or that + subordinate clause."""
    word = CONJUNCTIONS[conjunction]
    english = f"{english_clause(main)} {conjunction} {english_clause(subordinate)}"
    german = f"{german_main(main)}, {german_subordinate(subordinate, word)}"
    return _pair(english, german, main, subordinate, extra=("subordinate_clause", f"{word}_clause"))


def clause_before(conjunction: str, subordinate: Clause, main: Clause) -> Pair:
    """Return the subordinate clause first: the German main clause begins with its verb."""
    word = CONJUNCTIONS[conjunction]
    english = f"{conjunction} {english_clause(subordinate)}, {english_clause(main)}"
    german = f"{german_subordinate(subordinate, word)}, {german_main(main, 'clause')}"
    extra = ("subordinate_clause", f"{word}_clause", "inversion")
    return _pair(english, german, main, subordinate, extra=extra)


def contrast(first: Clause, second: Clause) -> Pair:
    """Return two main clauses joined by but."""
    english = f"{english_clause(first)}, but {english_clause(second)}"
    return _pair(english, f"{german_main(first)}, aber {german_main(second)}", first, second, extra=("but_clause",))


def relative_sentence(main: Clause, relative: Clause, case: str) -> Pair:
    """Return a main clause whose subject carries a relative clause; the relative pronoun is its subject or its object.

    `case` is that of the relative pronoun, `nominative` or `accusative`; `relative` has the same subject as `main` in
    the first case, and no accusative object in the second.
    """
    head, is_subject = main.subject, case == "nominative"
    introduction = "who" if is_subject and head.noun.human else "that"
    english = (
        f"{head.english()} {introduction} {english_clause(relative, not is_subject)} {english_clause(main, False)}"
    )
    german_relative = german_subordinate(relative, definite_article(case, head.gender), not is_subject)
    head_german = head.german("nominative")
    rest = german_main(main).removeprefix(head_german + " ")
    german = f"{head_german}, {german_relative}, {rest}"
    return _pair(english, german, main, relative, extra=("relative_clause", f"relative_{case}"))
