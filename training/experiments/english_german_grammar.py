"""A synthetic English-German corpus for the demonstration, drawn from a grammar with one German rendering a sentence.

`english_german_lexicon` holds the words, `_syntax` the rules, `_frames` what makes sense, `_sampler` draws clauses;
this file makes sentences of them and splits the corpus. `parsing/grammar.py` makes trees of the same clauses.

    python -m vaswani_tx.training.experiments.english_german_grammar 20        # prints 20 random pairs
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from vaswani_tx.limits import SEED, whole
from vaswani_tx.text_files import use_utf8
from vaswani_tx.training.experiments import english_german_frames as frames
from vaswani_tx.training.experiments import english_german_lexicon as lexicon
from vaswani_tx.training.experiments import english_german_syntax as syntax
from vaswani_tx.training.experiments.english_german_sampler import ClauseSampler, SampleRejected, only
from vaswani_tx.training.experiments.english_german_syntax import Clause, Nominal, NounPhrase, Pair, pronoun_of

SHORTEST, LONGEST = 5, 13  # words of an English sentence


_FEELINGS = ("tired", "sick", "happy", "friendly")
_TRAITS = ("old", "young", "small", "new", "big", "beautiful", "expensive", "cheap", "red")
_PASSING = ("tired", "sick", "happy", "cold", "hot")
_ANIMAL_LINKS = (
    ("because", "play", True),
    ("because", "sleep", False),
    ("although", "play", False),
    ("although", "sleep", True),
)
_THINGS = tuple(name for name, noun in lexicon.NOUNS.items() if not noun.human and noun.determiners & {"T", "s"})


def _random_frame(draw: ClauseSampler) -> frames.Frame:
    return draw.rng.choices(frames.FRAMES, [frame.weight for frame in frames.FRAMES])[0]


def _statement(draw: ClauseSampler) -> Clause:
    """Draw any clause: somebody does something, or something is so."""
    return _description(draw) if draw.chance(0.15) else draw.clause(_random_frame(draw))


def _description(draw: ClauseSampler) -> Clause:
    nouns = lexicon.HUMANS if draw.chance(0.45) else _THINGS
    subject = draw.subject(nouns, only(frames.SUBJECT, "tmTMN") | {"m": 22})
    adjectives = subject.noun.adjectives if isinstance(subject, NounPhrase) else _FEELINGS
    clause = draw.property(subject, adjectives, draw.chance(0.4), draw.chance(0.3))
    if clause.predicate in _PASSING and draw.chance(0.35):
        times = ("yesterday", "this morning", "on Monday") if clause.past else ("today",)
        key = draw.rng.choice(times)
        clause = replace(clause, time=lexicon.RECENT.get(key) or lexicon.HABITS[key])
    return clause


def _simple(draw: ClauseSampler) -> Pair:
    clause = draw.clause(_random_frame(draw), time_rate=0.6)
    if clause.time is None:
        return syntax.main_sentence(clause)
    # Behind an inverted verb a pronoun object vies with the subject for the first place.
    pronouns = any(isinstance(one, lexicon.Pronoun) for one in (clause.accusative, clause.dative))
    free = isinstance(clause.subject, lexicon.Pronoun) or not pronouns
    return syntax.main_sentence(clause, _crowded(clause) or (free and draw.chance(0.55)))


def _crowded(clause: Clause) -> bool:
    """Whether a time expression between the objects would sound odd: two objects and nicht."""
    return clause.negated and not clause.has_kein and clause.dative is not None and clause.accusative is not None


def _predicate(draw: ClauseSampler) -> Pair:
    clause = _description(draw)
    return syntax.main_sentence(clause, clause.time is not None and draw.chance(0.6))


def _reported(draw: ClauseSampler) -> Pair:
    verb = draw.rng.choice(("say", "know", "believe", "hope"))
    speaker = draw.subject(lexicon.HUMANS, only(frames.SUBJECT, "tmTM"), pronouns=0.45)
    first_person = (lexicon.PRONOUNS["I"], lexicon.PRONOUNS["we"])
    doubtful = verb == "believe" or (verb == "know" and speaker not in first_person)
    negated = doubtful and draw.chance(0.2)
    content = _statement(draw)
    if speaker in first_person and content.subject in first_person:
        raise SampleRejected
    # "The child says that she ...": German may say es or sie.
    neuter = isinstance(speaker, NounPhrase) and speaker.gender == "n"
    nominals = (content.subject, content.accusative, content.dative)
    unclear = neuter and any(isinstance(one, lexicon.Pronoun) for one in nominals)
    hoped_past = verb == "hope" and content.predicate and content.past
    if hoped_past or unclear or content.subject == speaker or _crowded(content):
        raise SampleRejected
    return syntax.clause_after(Clause(speaker, lexicon.VERBS[verb], negated=negated), "that", content)


def _thing_with_property(draw: ClauseSampler) -> Pair:
    """A thing and "it": buy it because it is cheap; if it is cheap, buy it; it is expensive, but they buy it."""
    verb, negated, conjunction, properties = draw.rng.choice(frames.PROPERTY_LINKS)
    frame = draw.frame(verb)
    past = conjunction != "if" and draw.chance(0.5) and verb != "like"
    # "Show him it" is not English.
    order = "after" if verb == "show" else draw.rng.choice(("after", "after", "before", "but"))
    if order == "after":
        main = draw.clause(frame, past=past, negated=negated, time_rate=0.0, phrase_rate=0.0,
                           object_determiners=_antecedents(frame, negated or conjunction == "if"),
                           pronoun_objects=0.0)  # fmt: skip
        antecedent = main.accusative
        state = draw.property(antecedent, properties.split(), past)
    else:
        antecedent = draw.noun_phrase(frame.accusative, only(frames.OBJECT, _antecedents(frame, True)))
        state = draw.property(antecedent, properties.split(), past)
        # A pronoun as subject keeps the order of subject and object after an inverted verb beyond doubt.
        subject = draw.subject(frame.subjects, frames.SUBJECT, pronouns=1.0 if order == "before" else 0.4)
        main = Clause(subject, lexicon.VERBS[verb], past, negated, lexicon.IT[antecedent.gender])
    if isinstance(antecedent, lexicon.Pronoun) or antecedent.noun.human or (order == "after" and antecedent.count > 5):
        raise SampleRejected
    if _rivals(main.subject, antecedent) or _rivals(main.dative, antecedent):
        raise SampleRejected
    if state.predicate in frames.TOO and conjunction != "although" and (negated or verb == "sell") and draw.chance(0.4):
        state = replace(state, degree="too")
    if order == "after":
        return syntax.clause_after(main, conjunction, replace(state, subject=pronoun_of(antecedent)))
    if order == "before":
        return syntax.clause_before(conjunction, state, main)
    if conjunction != "although":
        raise SampleRejected
    return syntax.contrast(state, main)


def _antecedents(frame: frames.Frame, known: bool) -> str:
    """Return the determiners of an object that a pronoun refers to; beside nicht it is a known one."""
    return "".join(letter for letter in frame.object_determiners if letter in ("tmTM" if known else "tamTMbnN"))


def _rivals(other: Nominal | None, antecedent: NounPhrase) -> bool:
    """Whether "they" could mean the persons of the sentence as well as its plural things."""
    return other is not None and antecedent.plural and other.person == "pl" and getattr(other, "subject", "") != "we"


def _thing_for_use(draw: ClauseSampler) -> Pair:
    """Look for the key because I need it: the pronoun is an object."""
    verb, negated, conjunction, second, second_negated = draw.rng.choice(frames.TOOLS_LINKS)
    past = second != "like" and draw.chance(0.5)
    frame = draw.frame(verb)
    main = draw.clause(frame, past=past, negated=negated, time_rate=0.0, phrase_rate=0.0,
                       object_determiners=_antecedents(frame, negated))  # fmt: skip
    antecedent = main.accusative
    if _rivals(main.subject, antecedent) or (second == "need" and antecedent.noun.english in frames.ANIMALS):
        raise SampleRejected
    pronoun = pronoun_of(antecedent)
    reason = Clause(pronoun_of(main.subject), lexicon.VERBS[second], past, second_negated, pronoun)
    if draw.chance(0.3) and isinstance(main.subject, lexicon.Pronoun) and antecedent.definite:
        reason = replace(reason, accusative=antecedent)
        return syntax.clause_before(conjunction, reason, replace(main, accusative=pronoun))
    return syntax.clause_after(main, conjunction, reason)


def _animal(draw: ClauseSampler) -> Pair:
    """An animal as subject of both clauses: the dog does not play because it is tired."""
    conjunction, verb, negated = draw.rng.choice(_ANIMAL_LINKS)
    frame = draw.rng.choice([frame for frame in frames.FRAMES if frame.verb == verb and "dog" in frame.subjects])
    animals = [name for name in frame.subjects if not lexicon.NOUNS[name].human]
    subject = draw.noun_phrase(animals, only(frames.SUBJECT, "tmTMN"), 4)
    past = draw.chance(0.5)
    main = Clause(subject, lexicon.VERBS[verb], past, negated)
    state = draw.property(subject, ("tired", "sick", "old"), past)
    pronoun = pronoun_of(subject)
    if draw.chance(0.5):
        return syntax.clause_before(conjunction, state, replace(main, subject=pronoun))
    return syntax.clause_after(main, conjunction, replace(state, subject=pronoun))


def _link(draw: ClauseSampler, links: Sequence[tuple[str, bool, str]]) -> tuple[str, bool, str]:
    verb, negated, conjunctions = draw.rng.choice(links)
    return verb, negated, draw.rng.choice(conjunctions.split())


def _own_state(draw: ClauseSampler) -> Pair:
    """Somebody does something because, although or if he or she is tired or sick."""
    verb, negated, conjunction = _link(draw, frames.STATE_LINKS)
    past = conjunction != "if" and draw.chance(0.5)
    frame = draw.frame(verb)
    subject = draw.subject([name for name in frame.subjects if lexicon.NOUNS[name].human], only(frames.SUBJECT, "tmTM"))
    main = draw.clause(frame, subject=subject, past=past, negated=negated, time_rate=0.0, pronoun_objects=0.0)
    pronoun = pronoun_of(subject)
    others = (main.accusative, main.dative, getattr(main.phrase, "noun_phrase", None))
    if any(_confusable(pronoun, other) for other in others):
        raise SampleRejected
    state = draw.property(subject, ("tired", "sick"), past)
    if draw.chance(0.5):
        return syntax.clause_before(conjunction, state, replace(main, subject=pronoun))
    return syntax.clause_after(main, conjunction, replace(state, subject=pronoun))


def _confusable(pronoun: lexicon.Pronoun, other: Nominal | None) -> bool:
    """Whether he, she or they, meant for the subject, could also mean `other`."""
    if not isinstance(other, NounPhrase) or pronoun.subject in ("I", "we"):
        return False
    if other.plural or pronoun.subject == "they":
        return other.plural and pronoun.subject == "they"
    return other.noun.human and (other.gender == "n" or pronoun_of(other) == pronoun)


def _accomplished(draw: ClauseSampler) -> Pair:
    """Somebody is tired or happy because of what he or she has done, or is thanked for it."""
    subject = draw.subject(lexicon.HUMANS, only(frames.SUBJECT, "tmTM"))
    if draw.chance(0.4):
        grateful = draw.subject(lexicon.HUMANS, only(frames.SUBJECT, "tmTM"), pronouns=0.4)
        if isinstance(subject, lexicon.Pronoun) or _same_pronoun(grateful, subject):
            raise SampleRejected
        deed = draw.clause(draw.frame(draw.rng.choice(frames.FAVOURS), subject), subject=pronoun_of(subject), past=True,
                           negated=False, time_rate=0.2, pronoun_objects=0.0, phrase_rate=0.0)  # fmt: skip
        return syntax.clause_after(Clause(grateful, lexicon.VERBS["thank"], dative=subject), "because", deed)
    feeling = draw.rng.choice(("tired", "happy"))
    frame = draw.frame(draw.rng.choice(frames.ACCOMPLISHMENTS[feeling]), subject)
    deed = draw.clause(frame, subject=pronoun_of(subject), past=True, negated=False, time_rate=0.6, pronoun_objects=0.0)
    if deed.time not in (None, lexicon.RECENT["yesterday"], lexicon.RECENT["this morning"]):  # older moods have passed
        deed = replace(deed, time=None)
    return syntax.clause_after(draw.property(subject, (feeling,), False), "because", deed)


def _same_pronoun(first: Nominal, second: Nominal) -> bool:
    try:
        return pronoun_of(first) == pronoun_of(second)
    except ValueError:
        raise SampleRejected from None


def _others_state(draw: ClauseSampler) -> Pair:
    """Somebody stays in the house because somebody else is sick, or visits a person because that one is sick."""
    patient = draw.noun_phrase(lexicon.HUMANS, only(frames.OBJECT, "tmTM"))
    helper = draw.subject(lexicon.HUMANS, only(frames.SUBJECT, "tmTM"), pronouns=0.5)
    if draw.chance(0.5):
        if _same_pronoun(helper, patient):
            raise SampleRejected
        verb = draw.rng.choice(("visit", "call", "help"))
        past = draw.chance(0.5)
        state = draw.property(patient, ("sick",), past)
        role = "dative" if verb == "help" else "accusative"
        main = Clause(helper, lexicon.VERBS[verb], past, **{role: patient})
        if draw.chance(0.5) and isinstance(helper, lexicon.Pronoun):
            return syntax.clause_before("because", state, replace(main, **{role: pronoun_of(patient)}))
        return syntax.clause_after(main, "because", replace(state, subject=pronoun_of(patient)))
    verb, negated, conjunction = _link(draw, frames.DEED_LINKS)
    past = conjunction != "if" and draw.chance(0.5)
    frame = draw.frame(verb, helper)
    main = draw.clause(frame, subject=helper, past=past, negated=negated, time_rate=0.0)
    state = draw.property(patient, ("sick",), past)
    if getattr(helper, "subject", "") in ("he", "she", "they"):
        raise SampleRejected
    if draw.chance(0.6):
        return syntax.clause_before(conjunction, state, main)
    return syntax.clause_after(main, conjunction, state)


def _relative(draw: ClauseSampler) -> Pair:
    """A subject with a relative clause: the man who washed the car is tired; the book that she reads is old."""
    if draw.chance(0.55):
        frame = _random_frame(draw)
        if frame.verb == "need":
            raise SampleRejected
        nouns = [name for name in frame.subjects if lexicon.NOUNS[name].human] or lexicon.HUMANS
        head = draw.subject(nouns, only(frames.SUBJECT, "tT"), frame.singular_subject, 0.0)
        rate = 0.5 if frame.phrase_rate < 1 else None
        relative = draw.clause(frame, subject=head, negated=draw.chance(0.1), time_rate=0.3, phrase_rate=rate)
        if _crowded(relative):
            raise SampleRejected
        state = draw.property(head, (*_FEELINGS, "old", "young"), False)
        return syntax.relative_sentence(state, relative, "nominative")
    frame = draw.frame(draw.rng.choice(("buy", "sell", "look", "find", "read", "repair", "need", "like", "eat")))
    # A head that could itself act makes the German ambiguous: die Katze, die das Kind mag.
    inanimate = [name for name in frame.accusative if name not in (*lexicon.HUMANS, *frames.ANIMALS)]
    head = draw.noun_phrase(inanimate, only(frames.SUBJECT, "tT"))
    relative = draw.clause(replace(frame, accusative=()), time_rate=0.2, phrase_rate=0.0)
    past = relative.past and draw.chance(0.5)
    return syntax.relative_sentence(draw.property(head, _TRAITS, past), relative, "accusative")


TEMPLATES: tuple[tuple[Callable[[ClauseSampler], Pair], float], ...] = (
    (_simple, 38), (_predicate, 6), (_reported, 14), (_thing_with_property, 17), (_thing_for_use, 7), (_animal, 2),
    (_own_state, 6), (_accomplished, 6), (_others_state, 5), (_relative, 8),
)  # fmt: skip


def random_pair(rng: random.Random) -> Pair:
    """Draw one pair of 5 to 13 English words."""
    builder = rng.choices([builder for builder, _ in TEMPLATES], [weight for _, weight in TEMPLATES])[0]
    while True:
        try:
            pair = builder(ClauseSampler(rng))
        except (SampleRejected, ValueError):
            continue
        # Two equal pronouns side by side ("weil sie sie mag") are right but puzzle a reader.
        if SHORTEST <= len(pair.source.split()) <= LONGEST and "sie sie" not in pair.target:
            return pair


def generate_corpus(size: int = 20000, seed: int = 2017) -> list[Pair]:
    """Return `size` pairs with distinct sources, the same for the same seed; no source has two targets."""
    rng = random.Random(seed)
    pairs: dict[str, Pair] = {}
    for _ in range(100 * size):
        if len(pairs) == size:
            return list(pairs.values())
        pair = random_pair(rng)
        known = pairs.setdefault(pair.source, pair)
        if known.target != pair.target:
            raise ValueError(f"the grammar is ambiguous: {pair.source!r} is {known.target!r} and {pair.target!r}")
    raise ValueError(f"size: {size} distinct sentences were asked for, but only {len(pairs)} were found: ask for fewer")


def split_corpus(
    pairs: Sequence[Pair], valid: int = 1000, test: int = 1000, seed: int = 2017
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Return train, valid and test: no sentence of one part, source or target, is in another."""
    if valid < 0 or test < 0 or valid + test >= len(pairs):
        raise ValueError(f"valid={valid}, test={test}: {len(pairs)} pairs leave nothing to train on: ask for fewer")
    shuffled = list(pairs)
    random.Random(seed).shuffle(shuffled)
    count: dict[str, int] = {}
    for pair in shuffled:
        count[pair.target] = count.get(pair.target, 0) + 1
    single = [pair for pair in shuffled if count[pair.target] == 1]
    if len(single) < valid + test:
        raise ValueError(f"valid={valid}, test={test}: only {len(single)} targets are unique: ask for fewer")
    held_out = single[: valid + test]
    sources = {pair.source for pair in held_out}
    return [pair for pair in shuffled if pair.source not in sources], held_out[:valid], held_out[valid:]


def main() -> None:
    """Print some pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=whole(), default=20)
    parser.add_argument("--seed", type=SEED, default=2017)
    arguments = parser.parse_args()
    use_utf8()
    for pair in generate_corpus(arguments.count, arguments.seed):
        print(pair.source, pair.target, ", ".join(pair.phenomena), sep="\n    ")


if __name__ == "__main__":
    main()
