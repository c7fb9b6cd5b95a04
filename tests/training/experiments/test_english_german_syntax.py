"""The grammar rules of the demonstration language against German written by hand."""

import pytest

from vaswani_tx.training.experiments.english_german_lexicon import IT, NOUNS, NUMBERS, PRONOUNS, TIMES, VERBS
from vaswani_tx.training.experiments.english_german_syntax import (
    Clause,
    NounPhrase,
    Phrase,
    clause_after,
    clause_before,
    contrast,
    english_clause,
    main_sentence,
    pronoun_of,
    relative_sentence,
)


def noun_phrase(text, adjective=""):
    """Return the phrase for `the dog`, `a dog`, `my dogs`, `dogs`, `three dogs` or `the three dogs`."""
    *words, last = text.split()
    noun = next(noun for noun in NOUNS.values() if last in (noun.english, noun.english_plural))
    counts = {english: count for count, (english, _) in NUMBERS.items()}
    count = next((counts[word] for word in words if word in counts), 0)
    determiner = " ".join("number" if word in counts else word for word in words) or "bare"
    determiner = "a" if determiner == "an" else determiner
    return NounPhrase(noun, determiner, last != noun.english, adjective, count)


def nominal(text):
    """Read `I`, `it:m`, `the dog` or `the dog|old`."""
    if text in PRONOUNS:
        return PRONOUNS[text]
    if text.startswith("it:"):
        return IT[text[3:]]
    phrase, _, adjective = text.partition("|")
    return noun_phrase(phrase, adjective)


def clause(subject, verb, obj=None, to=None, at=None, when=None, is_=None, past=False, no=False, degree=""):
    """Describe a clause in few words; `at` is `in the garden`."""
    phrase = None
    if at:
        preposition, rest = at.split(" ", 1)
        phrase = Phrase(preposition, nominal(rest))
    objects = (nominal(text) if text else None for text in (obj, to))
    time = TIMES[when] if when else None
    return Clause(nominal(subject), VERBS[verb], past, no, *objects, phrase, time, is_ or "", degree)


def be(subject, adjective, **rest):
    return clause(subject, "be", is_=adjective, **rest)


MAIN = [
    (clause("the man", "buy", "a table"), "The man buys a table.", "Der Mann kauft einen Tisch."),
    (clause("a woman", "sell", "the clock"), "A woman sells the clock.", "Eine Frau verkauft die Uhr."),
    (clause("a child", "look", "a ball"), "A child looks for a ball.", "Ein Kind sucht einen Ball."),
    (clause("the girl", "give", "an egg", to="the dog"), "The girl gives the dog an egg.",
     "Das Mädchen gibt dem Hund ein Ei."),
    (clause("my brother", "show", "my car", to="my sister"), "My brother shows my sister my car.",
     "Mein Bruder zeigt meiner Schwester mein Auto."),
    (clause("he", "give", "a letter", to="we", past=True), "He gave us a letter.", "Er hat uns einen Brief gegeben."),
    (clause("she", "help", to="they"), "She helps them.", "Sie hilft ihnen."),
    (clause("I", "visit", "she", past=True), "I visited her.", "Ich habe sie besucht."),
    (clause("they", "thank", to="she", past=True), "They thanked her.", "Sie haben ihr gedankt."),
    (clause("the boy", "see", "the student"), "The boy sees the student.", "Der Junge sieht den Studenten."),
    (clause("I", "help", to="a boy|small"), "I help a small boy.", "Ich helfe einem kleinen Jungen."),
    (clause("the man|old", "buy", "the bicycle|expensive"), "The old man buys the expensive bicycle.",
     "Der alte Mann kauft das teure Fahrrad."),
    (clause("my sister|young", "need", "an apple|red"), "My young sister needs a red apple.",
     "Meine junge Schwester braucht einen roten Apfel."),
    (clause("my father|tired", "repair", "a bicycle|old"), "My tired father repairs an old bicycle.",
     "Mein müder Vater repariert ein altes Fahrrad."),
    (clause("we", "drink", "milk|cold"), "We drink cold milk.", "Wir trinken kalte Milch."),
    (clause("she", "drink", "coffee|hot"), "She drinks hot coffee.", "Sie trinkt heißen Kaffee."),
    (clause("they", "drink", "water|cold", past=True), "They drank cold water.", "Sie haben kaltes Wasser getrunken."),
    (clause("the child|happy", "help", to="the woman|friendly"), "The happy child helps the friendly woman.",
     "Das glückliche Kind hilft der freundlichen Frau."),
    (clause("the children|small", "play", at="with the dogs"), "The small children play with the dogs.",
     "Die kleinen Kinder spielen mit den Hunden."),
    (clause("three women|young", "buy", "flowers|red"), "Three young women buy red flowers.",
     "Drei junge Frauen kaufen rote Blumen."),
    (clause("he", "play", at="with two children|friendly", past=True), "He played with two friendly children.",
     "Er hat mit zwei freundlichen Kindern gespielt."),
    (clause("the twelve birds|beautiful", "sleep", at="in the forest"),
     "The twelve beautiful birds sleep in the forest.", "Die zwölf schönen Vögel schlafen im Wald."),
    (clause("I", "show", "my pictures|new", to="my brothers"), "I show my brothers my new pictures.",
     "Ich zeige meinen Brüdern meine neuen Bilder."),
    (clause("the mothers", "sell", "five houses"), "The mothers sell five houses.",
     "Die Mütter verkaufen fünf Häuser."),
    (clause("the cat", "stay", at="in the kitchen", past=True), "The cat stayed in the kitchen.",
     "Die Katze ist in der Küche geblieben."),
    (clause("the student", "go", at="into the kitchen", past=True), "The student went into the kitchen.",
     "Der Student ist in die Küche gegangen."),
    (clause("we", "go", at="into the office"), "We go into the office.", "Wir gehen ins Büro."),
    (clause("the teacher", "work", at="in an office|small"), "The teacher works in a small office.",
     "Der Lehrer arbeitet in einem kleinen Büro."),
    (clause("she", "buy", "a shirt", at="for the boy", past=True), "She bought a shirt for the boy.",
     "Sie hat ein Hemd für den Jungen gekauft."),
    (clause("the men", "drive", at="into the city|big", past=True), "The men drove into the big city.",
     "Die Männer sind in die große Stadt gefahren."),
    (clause("he", "call", "the teacher"), "He calls the teacher.", "Er ruft den Lehrer an."),
    (clause("I", "invite", "the girls", past=True), "I invited the girls.", "Ich habe die Mädchen eingeladen."),
    (clause("the daughters", "arrive", at="in the village", past=True, when="yesterday"),
     "The daughters arrived in the village yesterday.", "Die Töchter sind gestern im Dorf angekommen."),
    (clause("the man", "buy", "a car|red", no=True), "The man does not buy a red car.",
     "Der Mann kauft kein rotes Auto."),
    (clause("we", "eat", "apples|small", no=True), "We do not eat any small apples.", "Wir essen keine kleinen Äpfel."),
    (clause("I", "drink", "coffee|cold", no=True), "I do not drink any cold coffee.",
     "Ich trinke keinen kalten Kaffee."),
    (clause("she", "give", "a key", to="the man", past=True, no=True), "She did not give the man a key.",
     "Sie hat dem Mann keinen Schlüssel gegeben."),
    (clause("he", "wash", "the car", past=True, no=True, when="yesterday"), "He did not wash the car yesterday.",
     "Er hat das Auto gestern nicht gewaschen."),
    (clause("the boy", "work", at="in the garden", no=True, when="on Sundays"),
     "The boy does not work in the garden on Sundays.", "Der Junge arbeitet sonntags nicht im Garten."),
    (clause("they", "invite", "the father", no=True), "They do not invite the father.",
     "Sie laden den Vater nicht ein."),
    (be("the coffee", "cold", no=True, degree="very"), "The coffee is not very cold.",
     "Der Kaffee ist nicht sehr kalt."),
    (be("I", "tired"), "I am tired.", "Ich bin müde."),
    (be("the eggs", "expensive", past=True, degree="too"), "The eggs were too expensive.", "Die Eier waren zu teuer."),
]  # fmt: skip
FRONTED = [
    (clause("the woman", "read", "a newspaper", past=True, when="yesterday"), "Yesterday the woman read a newspaper.",
     "Gestern hat die Frau eine Zeitung gelesen."),
    (clause("he", "invite", "the women", when="on Sundays"), "On Sundays he invites the women.",
     "Sonntags lädt er die Frauen ein."),
    (clause("a dog", "play", at="in my garden", past=True, when="this morning"),
     "This morning a dog played in my garden.", "Heute Morgen hat ein Hund in meinem Garten gespielt."),
    (clause("my sisters", "arrive", past=True, when="three weeks ago"), "Three weeks ago my sisters arrived.",
     "Vor drei Wochen sind meine Schwestern angekommen."),
    (clause("the father", "buy", "apples", when="every week"), "Every week the father buys apples.",
     "Jede Woche kauft der Vater Äpfel."),
]  # fmt: skip
COMPLEX = [
    (clause_after(clause("the man", "stay", at="in the house"), "because", be("he", "sick")),
     "The man stays in the house because he is sick.", "Der Mann bleibt im Haus, weil er krank ist."),
    (clause_after(clause("I", "know"), "that", clause("they", "call", "the teacher")),
     "I know that they call the teacher.", "Ich weiß, dass sie den Lehrer anrufen."),
    (clause_after(clause("the woman", "say"), "that", clause("the student", "go", at="into the forest", past=True,
     no=True, when="yesterday")),
     "The woman says that the student did not go into the forest yesterday.",
     "Die Frau sagt, dass der Student gestern nicht in den Wald gegangen ist."),
    (clause_after(clause("we", "hope"), "that", clause("my daughter", "buy", "a lamp", past=True, no=True)),
     "We hope that my daughter did not buy a lamp.", "Wir hoffen, dass meine Tochter keine Lampe gekauft hat."),
    (clause_before("although", be("the child", "tired"), clause("we", "drive", at="into the city")),
     "Although the child is tired, we drive into the city.", "Obwohl das Kind müde ist, fahren wir in die Stadt."),
    (clause_after(clause("he", "buy", "the table"), "because", be("it:m", "cheap")),
     "He buys the table because it is cheap.", "Er kauft den Tisch, weil er billig ist."),
    (clause_after(clause("he", "buy", "a lamp", past=True), "because", be("it:f", "cheap", past=True)),
     "He bought a lamp because it was cheap.", "Er hat eine Lampe gekauft, weil sie billig war."),
    (clause_after(clause("he", "repair", "the car"), "although", be("it:n", "old")),
     "He repairs the car although it is old.", "Er repariert das Auto, obwohl es alt ist."),
    (clause_after(clause("the man", "look", "the key"), "because", clause("he", "need", "it:m")),
     "The man looks for the key because he needs it.", "Der Mann sucht den Schlüssel, weil er ihn braucht."),
    (clause_after(clause("I", "sell", "the clock"), "because", clause("I", "need", "it:f", no=True)),
     "I sell the clock because I do not need it.", "Ich verkaufe die Uhr, weil ich sie nicht brauche."),
    (clause_before("if", be("the picture", "expensive"), clause("we", "buy", "it:n", no=True)),
     "If the picture is expensive, we do not buy it.", "Wenn das Bild teuer ist, kaufen wir es nicht."),
    (contrast(be("the coffee", "hot", past=True), clause("the woman", "drink", "it:m", past=True)),
     "The coffee was hot, but the woman drank it.", "Der Kaffee war heiß, aber die Frau hat ihn getrunken."),
    (clause_before("because", be("the chairs", "beautiful", past=True), clause("I", "sell", "it:p", past=True,
     no=True)),
     "Because the chairs were beautiful, I did not sell them.",
     "Weil die Stühle schön waren, habe ich sie nicht verkauft."),
    (clause_after(clause("the dogs", "play", no=True), "because", be("it:p", "tired")),
     "The dogs do not play because they are tired.", "Die Hunde spielen nicht, weil sie müde sind."),
    (relative_sentence(be("the man", "tired"), clause("the man", "wash", "the car", past=True), "nominative"),
     "The man who washed the car is tired.", "Der Mann, der das Auto gewaschen hat, ist müde."),
    (relative_sentence(be("the table", "old"), clause("my father", "repair"), "accusative"),
     "The table that my father repairs is old.", "Der Tisch, den mein Vater repariert, ist alt."),
    (relative_sentence(be("the bags|red", "new"), clause("the women", "look", past=True), "accusative"),
     "The red bags that the women looked for are new.", "Die roten Taschen, die die Frauen gesucht haben, sind neu."),
]  # fmt: skip


@pytest.mark.parametrize("description, english, german", MAIN, ids=[case[1] for case in MAIN])
def test_main_clause(description, english, german):
    pair = main_sentence(description)
    assert (pair.source, pair.target) == (english, german)


@pytest.mark.parametrize("description, english, german", FRONTED, ids=[case[1] for case in FRONTED])
def test_a_fronted_time_inverts_verb_and_subject(description, english, german):
    pair = main_sentence(description, fronted=True)
    assert (pair.source, pair.target) == (english, german)
    assert "inversion" in pair.phenomena


@pytest.mark.parametrize("pair, english, german", COMPLEX, ids=[case[1] for case in COMPLEX])
def test_complex_sentence(pair, english, german):
    assert (pair.source, pair.target) == (english, german)


@pytest.mark.parametrize(
    ("description", "brackets"),
    [
        (clause("the boys|small", "look", "my ball", when="today"), "(S (NP (DT the) (JJ small) (NNS boys)) (VP (VBP "
         "look) (PP (IN for) (NP (PRP$ my) (NN ball))) (NP (NN today))))"),
        (clause("she", "give", "two eggs", to="I", past=True, no=True), "(S (NP (PRP she)) (VP (VBD did) (RB not) (VP "
         "(VB give) (NP (PRP me)) (NP (CD two) (NNS eggs)))))"),
        (be("the milk", "hot", past=True, no=True, degree="too"), "(S (NP (DT the) (NN milk)) (VP (VBD was) (RB not) "
         "(ADJP (RB too) (JJ hot))))"),
        (clause("I", "arrive", at="in a village", past=True, when="two days ago"), "(S (NP (PRP I)) (VP (VBD arrived) "
         "(PP (IN in) (NP (DT a) (NN village))) (ADVP (NP (CD two) (NNS days)) (RB ago))))"),
    ],
)  # fmt: skip
def test_english_tree(description, brackets):
    assert str(english_clause(description)) == brackets


def test_phenomena_of_a_sentence():
    pair = clause_after(clause("he", "give", "a lamp", to="the boys", past=True, no=True), "because", be("it:f", "old"))
    assert set(pair.phenomena) == {
        *("accusative", "dative", "dative_plural", "definite_article", "indefinite_article", "it_subject"),
        *("negation_kein", "perfect_haben", "plural", "present", "subordinate_clause", "weil_clause"),
    }


def test_pronoun_of():
    names = {"the key": "er", "the lamps": "sie", "my father": "er", "the girls": "sie", "the book": "es", "I": "ich"}
    assert {name: pronoun_of(nominal(name)).nominative for name in names} == names
    with pytest.raises(ValueError, match="Mädchen"):
        pronoun_of(nominal("the girl"))
