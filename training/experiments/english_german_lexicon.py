"""Words that the demonstration's corpus and the synthetic treebank share, with their English and German inflection.

Everything that a speaker has to know by heart is here: gender, plural, participle, auxiliary, the stem of an adjective,
and which adjectives suit a noun. `english_german_syntax` holds the rules that put the words together.
"""

from dataclasses import dataclass

from vaswani_tx.training.parsing.trees import Tree, parse_tree


def words(text: str) -> tuple[str, ...]:
    """Return the words of a line."""
    return tuple(text.split())


HUMANS = words("man father brother teacher boy student woman mother sister daughter child girl")
# English, German, German plural, gender, determiners, adjectives; a final asterisk marks a weak noun
_NOUNS = """
man       Mann      Männer    m  taTnN    old young friendly tired sick happy
father    Vater     Väter     m  tmT      old friendly tired sick happy
brother   Bruder    Brüder    m  tmMTN    young friendly tired sick happy
teacher   Lehrer    Lehrer    m  tamTnN   old young friendly tired sick happy
boy       Junge     Jungen    m  taTnN    small friendly tired sick happy *
student   Student   Studenten m  taTnN    young friendly tired sick happy *
woman     Frau      Frauen    f  taTnN    old young friendly tired sick happy
mother    Mutter    Mütter    f  tmT      old friendly tired sick happy
sister    Schwester Schwestern f  tmMTN    young friendly tired sick happy
daughter  Tochter   Töchter   f  tmMTN    small young friendly tired sick happy
child     Kind      Kinder    n  tamMTnN  small friendly tired sick happy
girl      Mädchen   Mädchen   n  taTnN    small friendly tired sick happy
dog       Hund      Hunde     m  tamMTbnN old young small big friendly tired sick
cat       Katze     Katzen    f  tamMTbnN old young small big beautiful tired sick
horse     Pferd     Pferde    n  tamMTbnN old young small big beautiful tired sick
bird      Vogel     Vögel     m  taTbnN   young small big beautiful tired sick
apple     Apfel     Äpfel     m  taTbnN   small big red beautiful
cake      Kuchen    Kuchen    m  taTbnN   small big beautiful expensive
egg       Ei        Eier      n  taTbnN   small big cold
ball      Ball      Bälle     m  tamTbnN  old new small big red
letter    Brief     Briefe    m  taTbnN   old new
key       Schlüssel Schlüssel m  tamMTbnN old new small big
table     Tisch     Tische    m  tamTbnN  old new small big beautiful expensive cheap
chair     Stuhl     Stühle    m  tamMTbnN old new small beautiful expensive cheap
lamp      Lampe     Lampen    f  tamTbnN  old new small big beautiful red expensive cheap
bag       Tasche    Taschen   f  tamMTbnN old new small big beautiful red expensive cheap
newspaper Zeitung   Zeitungen f  taTbnN   old new
clock     Uhr       Uhren     f  tamTbnN  old new small big beautiful expensive cheap
flower    Blume     Blumen    f  taTbnN   small beautiful red
book      Buch      Bücher    n  tamMTbnN old new beautiful expensive cheap
car       Auto      Autos     n  tamTbnN  old new small big beautiful red expensive cheap
house     Haus      Häuser    n  tamTbnN  old new small big beautiful expensive
picture   Bild      Bilder    n  tamMTbnN old new small big beautiful expensive cheap
bicycle   Fahrrad   Fahrräder n  tamTbnN  old new small beautiful red expensive cheap
shirt     Hemd      Hemden    n  tamMTbnN old new small beautiful red expensive cheap
coffee    Kaffee    -         m  ts       cold hot
milk      Milch     -         f  ts       cold hot
water     Wasser    -         n  ts       cold hot
garden    Garten    -         m  tam      old small big beautiful
park      Park      -         m  ta       small big beautiful
forest    Wald      -         m  ta       old small big
kitchen   Küche     -         f  tm       old new small big beautiful
city      Stadt     -         f  ta       old small big beautiful
school    Schule    -         f  t        old new small big
office    Büro      -         n  tam      old new small big
village   Dorf      -         n  ta       old small beautiful
hotel     Hotel     -         n  ta       old new small big beautiful expensive
"""
# English base; German ich, er, plural, participle; then sein, a separable prefix (-ein), an English particle (+for)
_VERBS = """
buy     kaufe     kauft     kaufen     gekauft
sell    verkaufe  verkauft  verkaufen  verkauft
see     sehe      sieht     sehen      gesehen
look    suche     sucht     suchen     gesucht     +for
find    finde     findet    finden     gefunden
read    lese      liest     lesen      gelesen
eat     esse      isst      essen      gegessen
drink   trinke    trinkt    trinken    getrunken
repair  repariere repariert reparieren repariert
wash    wasche    wäscht    waschen    gewaschen
need    brauche   braucht   brauchen   gebraucht
like    mag       mag       mögen      -
visit   besuche   besucht   besuchen   besucht
invite  lade      lädt      laden      eingeladen  -ein
call    rufe      ruft      rufen      angerufen   -an
help    helfe     hilft     helfen     geholfen
thank   danke     dankt     danken     gedankt
give    gebe      gibt      geben      gegeben
show    zeige     zeigt     zeigen     gezeigt
sleep   schlafe   schläft   schlafen   geschlafen
work    arbeite   arbeitet  arbeiten   gearbeitet
play    spiele    spielt    spielen    gespielt
go      gehe      geht      gehen      gegangen    sein
drive   fahre     fährt     fahren     gefahren    sein
stay    bleibe    bleibt    bleiben    geblieben   sein
arrive  komme     kommt     kommen     angekommen  sein -an
say     sage      sagt      sagen      -
know    weiß      weiß      wissen     -
believe glaube    glaubt    glauben    -
hope    hoffe     hofft     hoffen     -
be      bin       ist       sind       gewesen     sein
"""
# English past and participle; third person and gerund where no rule gives them.
_IRREGULAR_VERBS = {
    "buy": "bought bought", "sell": "sold sold", "see": "saw seen", "find": "found found", "read": "read read",
    "eat": "ate eaten", "drink": "drank drunk", "give": "gave given", "show": "showed shown", "sleep": "slept slept",
    "go": "went gone", "drive": "drove driven", "say": "said said", "know": "knew known", "cut": "cut cut",
    "hit": "hit hit", "think": "thought thought", "hear": "heard heard", "tell": "told told", "teach": "taught taught",
    "forget": "forgot forgotten", "begin": "began begun", "take": "took taken", "throw": "threw thrown",
    "put": "put put", "draw": "drew drawn", "steal": "stole stolen", "write": "wrote written", "break": "broke broken",
    "hide": "hid hidden", "leave": "left left", "sit": "sat sat", "run": "ran run", "be": "was been",
    "do": "did done", "have": "had had", "bring": "brought brought",
}  # fmt: skip
_BE = ({"ich": "am", "er": "is", "pl": "are"}, {"ich": "was", "er": "was", "pl": "were"})  # present and past
_DOUBLING = ("stop", "drop", "plan", "admit", "hit", "cut", "put", "run", "sit", "begin", "forget")
_IRREGULAR_PLURALS = {"man": "men", "woman": "women", "child": "children", "knife": "knives", "wolf": "wolves"}

# English -> (German predicative form, German stem before an ending)
ADJECTIVES = {
    "old": ("alt", "alt"), "new": ("neu", "neu"), "young": ("jung", "jung"), "small": ("klein", "klein"),
    "big": ("groß", "groß"), "beautiful": ("schön", "schön"), "red": ("rot", "rot"), "expensive": ("teuer", "teur"),
    "cheap": ("billig", "billig"), "friendly": ("freundlich", "freundlich"), "tired": ("müde", "müd"),
    "sick": ("krank", "krank"), "happy": ("glücklich", "glücklich"), "cold": ("kalt", "kalt"), "hot": ("heiß", "heiß"),
}  # fmt: skip
# Pairs that would contradict one another in "the A noun is B".
OPPOSITES = frozenset(
    frozenset(pair.split())
    for pair in ("old new", "old young", "small big", "expensive cheap", "cold hot", "tired happy", "sick happy")
)
DEGREES = {"": "", "very": "sehr", "too": "zu"}
_NUMBERS = "two zwei three drei four vier five fünf six sechs seven sieben eight acht nine neun ten zehn eleven elf"
NUMBERS = dict(enumerate(zip(*[iter(f"{_NUMBERS} twelve zwölf".split())] * 2, strict=True), start=2))
# Determiners that a noun allows, by letter; capitals are plural, s is the bare singular of a mass noun.
DETERMINERS = {
    "t": ("the", False), "a": ("a", False), "m": ("my", False), "T": ("the", True), "M": ("my", True),
    "b": ("bare", True), "n": ("number", True), "N": ("the number", True), "s": ("bare", False),
}  # fmt: skip

# Words that only the treebank has. Several are noun and verb alike: saw, report, brush, play.
TOOLS = words("hammer saw camera telescope knife brush rope spoon needle microscope pen stick")
FEATURES = words("hat beard scarf coat tail mustache uniform tattoo limp wig accent handbag")
IDEAS = words("report claim plan story idea rumor fact promise answer question theory warning")
PARTS = words("owner price color picture roof end author rest center edge")
PERSONS = words("doctor nurse farmer painter judge lawyer thief cook king queen sailor pilot neighbor friend guest")
EVENTS = words("meeting party war concert wedding trial game lunch dinner storm election strike")
MATERIALS = words("stone brick glass silver paper iron leather silk kitchen police winter school")
FIRST_NAMES = words("Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Nick Olga Paul Rosa Sam")
LAST_NAMES = words("Adams Baker Cooper Davis Evans Fisher Green Hill King Lopez Miller Novak Parker Stone")
CITIES = words("Paris London Rome Boston Vienna Oslo Madrid Cairo Tokyo Lima Dublin Geneva")
DATES = words("January March April July October December Tuesday Wednesday Friday Saturday")
OPENERS = words("However Fortunately Finally Meanwhile Suddenly Later")
MANNER = words("quickly slowly quietly carefully suddenly often rarely happily secretly again")
INTENSIFIERS = words("very quite rather too extremely surprisingly")
MODALS = words("will can must should may could would might")
SUBORDINATORS = words("because although if when while before after since")
PLACE_PREPOSITIONS = words("in near near behind at by on on under")
PARTICLES = ("pick up", "turn off", "turn on", "throw away", "take off", "put down", "bring back", "clean up")
SAYING = words("say think know believe hear report claim admit forget hope")
WANTING = words("want try plan hope forget begin promise refuse")
CONTROLLING = words("tell ask want force teach allow order")

# Endings for masculine, feminine, neuter and plural.
_DEFINITE = {"nominative": "der die das die", "accusative": "den die das die", "dative": "dem der dem den"}
_EIN_ENDINGS = {"nominative": "- e - e", "accusative": "en e - e", "dative": "em er em en"}
_ADJECTIVE_ENDINGS = {
    "weak": {"nominative": "e e e en", "accusative": "en e e en", "dative": "en en en en"},
    "mixed": {"nominative": "er e es en", "accusative": "en e es en", "dative": "en en en en"},
    "strong": {"nominative": "er e es e", "accusative": "en e es e", "dative": "em er em en"},
}


@dataclass(frozen=True)
class Noun:
    """An English noun and its German counterpart; `gender` is m, f or n, `weak` means -(e)n in the oblique singular."""

    english: str
    german: str
    german_plural: str
    gender: str
    determiners: frozenset[str]
    adjectives: tuple[str, ...]
    weak: bool = False

    @property
    def human(self) -> bool:
        """Whether the noun names a person."""
        return self.english in HUMANS

    @property
    def english_plural(self) -> str:
        """The English plural."""
        return plural(self.english)

    def inflect(self, case: str, plural: bool) -> str:
        """Return the German form; the dative plural takes -n unless the plural ends in -n or -s."""
        if plural:
            needs_n = case == "dative" and self.german_plural[-1] not in "ns"
            return self.german_plural + ("n" if needs_n else "")
        return self.german_plural if self.weak and case != "nominative" else self.german


@dataclass(frozen=True)
class Pronoun:
    """A pronoun in both languages.

    `person` is `ich`, `er` or `pl` (the first and third person plural share their verb forms); `anaphoric` marks one
    that refers to a thing or an animal named in the same sentence.
    """

    subject: str
    object: str
    nominative: str
    accusative: str
    dative: str
    person: str
    anaphoric: bool = False

    def inflect(self, case: str) -> str:
        """Return the German form in the given case."""
        return getattr(self, case)


@dataclass(frozen=True)
class EnglishVerb:
    """The five forms of an English verb, by rule or from the table of irregular ones."""

    base: str

    def finite(self, person: str, past: bool) -> Tree:
        """Return the tagged form for a subject; `person` is as in `Pronoun`."""
        tag = "VBD" if past else "VBZ" if person == "er" else "VBP"
        if self.base == "be":
            return Tree(tag, word=_BE[past][person])
        return Tree(tag, word=self.form(tag))

    def form(self, tag: str) -> str:
        """Return the form with a Penn Treebank tag: VB, VBP, VBZ, VBD, VBN or VBG; for those of `be`, see `finite`."""
        base = self.base
        if base == "have" and tag == "VBZ":
            return "has"
        consonant_y = base.endswith("y") and base[-2] not in "aeiou"
        stem = base + base[-1] if base in _DOUBLING else base
        if tag == "VBZ":
            return (
                base[:-1] + "ies"
                if consonant_y
                else base + ("es" if base.endswith(("s", "x", "ch", "sh", "o")) else "s")
            )
        if tag == "VBG":
            return (stem[:-1] if base.endswith("e") and len(base) > 2 and base[-2] != "e" else stem) + "ing"
        if tag in ("VBD", "VBN"):
            if base in _IRREGULAR_VERBS:
                return _IRREGULAR_VERBS[base].split()[tag == "VBN"]
            return base[:-1] + "ied" if consonant_y else stem + ("d" if base.endswith("e") else "ed")
        return base


@dataclass(frozen=True)
class Verb(EnglishVerb):
    """An English verb with the principal parts of its German counterpart; without participle, it has no past."""

    ich: str = ""
    er: str = ""
    plural: str = ""
    participle: str = ""
    auxiliary: str = "haben"
    prefix: str = ""
    particle: str = ""

    def german_present(self, person: str) -> str:
        """Return the finite present form, without a separable prefix."""
        return {"ich": self.ich, "er": self.er, "pl": self.plural}[person]


@dataclass(frozen=True)
class Time:
    """A time expression; `negatable` is false where a negation could be read as denying the time itself."""

    tree: Tree
    german: str
    negatable: bool = True

    @property
    def english(self) -> str:
        """The English words."""
        return " ".join(self.tree.words())


def plural(noun: str) -> str:
    """Return the plural of an English noun."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def _ending(table: dict[str, str], case: str, gender: str) -> str:
    return table[case].split()["mfnp".index(gender)].removeprefix("-")


def definite_article(case: str, gender: str) -> str:
    """Return der, die, das, den or dem; `gender` is m, f, n or p (plural)."""
    return _ending(_DEFINITE, case, gender)


def ein_word(stem: str, case: str, gender: str) -> str:
    """Return `stem` (ein, kein, mein) with its ending."""
    return stem + _ending(_EIN_ENDINGS, case, gender)


def adjective_form(english: str, declension: str, case: str, gender: str) -> str:
    """Return the attributive adjective; `declension` is weak (after der), mixed (after ein, kein, mein) or strong."""
    return ADJECTIVES[english][1] + _ending(_ADJECTIVE_ENDINGS[declension], case, gender)


def _read_nouns() -> dict[str, Noun]:
    nouns: dict[str, Noun] = {}
    for line in _NOUNS.strip().splitlines():
        english, german, german_plural, gender, letters, *adjectives = line.split()
        weak = adjectives[-1] == "*"
        words = tuple(word for word in adjectives if word != "*")
        nouns[english] = Noun(english, german, german_plural, gender, frozenset(letters), words, weak)
    return nouns


def _read_verbs() -> dict[str, Verb]:
    verbs = {}
    for line in _VERBS.strip().splitlines():
        base, ich, er, german_plural, participle, *marks = line.split()
        prefix = next((mark[1:] for mark in marks if mark[0] == "-"), "")
        particle = next((mark[1:] for mark in marks if mark[0] == "+"), "")
        auxiliary = "sein" if "sein" in marks else "haben"
        verbs[base] = Verb(base, ich, er, german_plural, participle.strip("-"), auxiliary, prefix, particle)
    return verbs


def _times(*rows: tuple[str, str], not_negatable: tuple[str, ...] = ()) -> dict[str, Time]:
    trees = ((parse_tree(brackets), german) for brackets, german in rows)
    times = [Time(tree, german, german not in not_negatable) for tree, german in trees]
    return {time.english: time for time in times}


NOUNS = _read_nouns()
VERBS = _read_verbs()
PRONOUNS = {
    "I": Pronoun("I", "me", "ich", "mich", "mir", "ich"),
    "we": Pronoun("we", "us", "wir", "uns", "uns", "pl"),
    "he": Pronoun("he", "him", "er", "ihn", "ihm", "er"),
    "she": Pronoun("she", "her", "sie", "sie", "ihr", "er"),
    "they": Pronoun("they", "them", "sie", "sie", "ihnen", "pl"),
}
# "it" takes the gender of its antecedent; p is the plural.
IT = {
    "m": Pronoun("it", "it", "er", "ihn", "ihm", "er", True),
    "f": Pronoun("it", "it", "sie", "sie", "ihr", "er", True),
    "n": Pronoun("it", "it", "es", "es", "ihm", "er", True),
    "p": Pronoun("they", "them", "sie", "sie", "ihnen", "pl", True),
}
HABITS = _times(
    ("(NP (DT every) (NN day))", "jeden Tag"), ("(NP (DT every) (NN week))", "jede Woche"),
    ("(PP (IN on) (NP (NNPS Sundays)))", "sonntags"), ("(PP (IN in) (NP (NN summer)))", "im Sommer"),
    ("(PP (IN in) (NP (DT the) (NN morning)))", "am Morgen"), ("(NP (NN today))", "heute"),
    not_negatable=("jeden Tag", "jede Woche"),
)  # fmt: skip
RECENT = _times(
    ("(NP (NN yesterday))", "gestern"), ("(NP (DT this) (NN morning))", "heute Morgen"),
    ("(PP (IN on) (NP (NNP Monday)))", "am Montag"), ("(PP (IN in) (NP (DT the) (NN evening)))", "am Abend"),
)  # fmt: skip
REMOTE = _times(("(NP (JJ last) (NN week))", "letzte Woche"), ("(NP (JJ last) (NN year))", "letztes Jahr"))
_AGO = tuple(
    (f"(ADVP (NP (CD {english}) (NNS {unit})) (RB ago))", f"vor {german} {dative}")
    for english, german in NUMBERS.values()
    for unit, dative in (("days", "Tagen"), ("weeks", "Wochen"))
)
AGO = _times(*_AGO, not_negatable=tuple(german for _, german in _AGO))
TIMES = HABITS | RECENT | REMOTE | AGO
