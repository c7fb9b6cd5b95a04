"""Sampling of noun phrases and clauses that make sense."""

import random
from collections.abc import Sequence

from vaswani_tx.training.experiments import english_german_frames as frames
from vaswani_tx.training.experiments import english_german_lexicon as lexicon
from vaswani_tx.training.experiments.english_german_syntax import Clause, Nominal, NounPhrase, Phrase

# The first person singular has verb forms of its own: without this weight some would hardly be seen.
WEIGHED_PRONOUNS = ("I",) * 7 + ("we", "he", "she", "they") * 2


class SampleRejected(Exception):
    """The parts of a sample do not fit together; another one must be drawn."""


class ClauseSampler:
    """Draws the parts of one sentence; `used` holds its nouns, none of which is drawn twice."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.used: set[str] = set()

    def chance(self, rate: float) -> bool:
        """Return true at the given rate."""
        return self.rng.random() < rate

    def noun_phrase(self, nouns: Sequence[str], roles: dict[str, int], largest: int = 12) -> NounPhrase:
        """Draw a phrase, every second one with an adjective; `roles` weighs the determiners."""
        candidates = [
            name for name in nouns if name not in self.used and lexicon.NOUNS[name].determiners & roles.keys()
        ]
        if not candidates:
            raise SampleRejected
        noun = lexicon.NOUNS[self.rng.choice(candidates)]
        self.used.add(noun.english)
        letters = sorted(noun.determiners & roles.keys())
        kin = noun.english in frames.KIN  # "my brother" more often than "the brother"
        letter = self.rng.choices(letters, [roles[one] * (2 if kin and one in "mM" else 1) for one in letters])[0]
        determiner, plural = lexicon.DETERMINERS[letter]
        count = self.rng.randint(2, min(largest, frames.FEW.get(noun.english, 12))) if letter in "nN" else 0
        mood = 0.3 if noun.human else 0.05  # a thing that is bought is seldom tired
        weights = [mood if word in frames.MOODS else 1.0 for word in noun.adjectives]
        adjective = "" if self.chance(0.55) else self.rng.choices(noun.adjectives, weights)[0]
        return NounPhrase(noun, determiner, plural, adjective, count)

    def subject(
        self, nouns: Sequence[str], roles: dict[str, int], singular: bool = False, pronouns: float = 0.3
    ) -> Nominal:
        """Draw a subject, for humans at the rate `pronouns` a pronoun."""
        if not nouns:
            raise SampleRejected
        if self.chance(pronouns) and lexicon.NOUNS[nouns[0]].human:
            names = ("he", "she") if singular else WEIGHED_PRONOUNS
            return lexicon.PRONOUNS[self.rng.choice(names)]
        if singular:
            roles = only(roles, "tam")
        return self.noun_phrase(nouns, roles)

    def object_pronoun(self, subject: Nominal) -> lexicon.Pronoun:
        """Draw me, us, him, her or them, unlike the subject."""
        own = getattr(subject, "subject", "")
        banned = ("I", "we") if own in ("I", "we") else (own,)
        return lexicon.PRONOUNS[
            self.rng.choice([name for name in ("I", "I", "we", "he", "she", "they") if name not in banned])
        ]

    def time(self, frame: frames.Frame, past: bool, negated: bool, new_object: bool) -> lexicon.Time | None:
        """Draw a time expression that fits, if there is one; what is bought every day is not the same thing again."""
        if past:
            times = list(lexicon.RECENT.values()) + (list(lexicon.REMOTE.values()) if frame.remote else [])
            if not negated and self.chance(0.22) and frame.verb not in ("need", "drink", "eat"):
                times = list(lexicon.AGO.values())
        elif frame.habit_needs_new_object and not new_object:
            times = []
        else:
            times = [lexicon.HABITS[key] for key in frame.habits if not negated or lexicon.HABITS[key].negatable]
        return self.rng.choice(times) if times else None

    def frame(self, verb: str, subject: Nominal | None = None) -> frames.Frame:
        """Return a frame of `verb` that allows `subject`."""
        found = [frame for frame in frames.FRAMES if frame.verb == verb]
        if isinstance(subject, NounPhrase):
            found = [frame for frame in found if subject.noun.english in frame.subjects]
        if not found:
            raise SampleRejected
        return self.rng.choice(found)

    def clause(
        self, frame: frames.Frame, *, subject: Nominal | None = None, past: bool | None = None,
        negated: bool | None = None, time_rate: float = 0.45, phrase_rate: float | None = None,
        pronoun_objects: float = 0.2, object_determiners: str = "",
    ) -> Clause:  # fmt: skip
        """Draw a clause of a frame, with the given parts fixed."""
        past = not self.chance(frame.present_rate) if past is None else past
        if past and not lexicon.VERBS[frame.verb].participle:
            raise SampleRejected
        negated = self.chance(0.28) if negated is None else negated
        if subject is None:
            roles = only(frames.SUBJECT, "tmTM") if negated else frames.SUBJECT
            subject = self.subject(frame.subjects, roles, frame.singular_subject)
        elif frame.singular_subject and subject.person != "er":
            raise SampleRejected
        accusative = dative = None
        if isinstance(subject, NounPhrase) and not subject.definite:
            pronoun_objects = 0.0  # a pronoun would have to leave its place: weil mich ein Mann besucht
        human = frame.accusative and frame.accusative[0] in lexicon.HUMANS and frame.verb != "like"
        if frame.dative:
            if self.chance(pronoun_objects):
                dative = self.object_pronoun(subject)
            else:
                dative = self.noun_phrase(frame.dative, only(frames.INDIRECT, "tmTM") if negated else frames.INDIRECT)
        if frame.accusative:
            if human and self.chance(pronoun_objects):
                accusative = self.object_pronoun(subject)
            else:
                roles = only(frames.OBJECT, object_determiners or frame.object_determiners)
                roles = {**only(roles, "tmTM"), **only(frames.KEIN, "".join(roles))} if negated else roles
                accusative = self.noun_phrase(frame.accusative, roles, frame.largest_number)
        new = isinstance(accusative, NounPhrase) and not accusative.definite
        time = self.time(frame, past, negated, new) if self.chance(time_rate) else None
        phrase = None
        if frame.phrases and self.chance(frame.phrase_rate if phrase_rate is None else phrase_rate):
            phrase = self.phrase(frame, negated)
        return Clause(subject, lexicon.VERBS[frame.verb], past, negated, accusative, dative, phrase, time)

    def phrase(self, frame: frames.Frame, negated: bool) -> Phrase:
        """Draw the prepositional phrase of a frame."""
        ((preposition, nouns),) = frame.phrases.items()
        roles = frames.INDIRECT if preposition in ("with", "for") else frames.PLACE
        return Phrase(preposition, self.noun_phrase(nouns, only(roles, "tmTM") if negated else roles, 4))

    def property(self, subject: Nominal, adjectives: Sequence[str], past: bool, negated: bool = False) -> Clause:
        """Draw "subject is adjective", without saying twice or denying what the subject's own adjective says."""
        if isinstance(subject, NounPhrase):
            own = subject.adjective
            fitting = [word for word in adjectives if word in subject.noun.adjectives and word != own]
            adjectives = [word for word in fitting if frozenset((word, own)) not in lexicon.OPPOSITES]
        if not adjectives:
            raise SampleRejected
        predicate = self.rng.choice(list(adjectives))
        degree = "very" if self.chance(0.3) and predicate != "red" else ""
        return Clause(subject, lexicon.VERBS["be"], past, negated, predicate=predicate, degree=degree)


def only(roles: dict[str, int], letters: str) -> dict[str, int]:
    """Return the weights of the given determiner letters."""
    return {letter: weight for letter, weight in roles.items() if letter in letters}
