"""Words of the demonstration language and their German inflection.

Everything that a speaker has to know by heart is here: gender, plural, participle, auxiliary, the stem of an adjective,
and which adjectives suit a noun. `demo_syntax` holds the rules that put the words together.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """An English noun and its German counterpart; `gender` is m, f or n, `weak` means -(e)n in the oblique singular."""

    english: str
    english_plural: str
    german: str
    german_plural: str
    gender: str
    determiners: frozenset[str]
    adjectives: tuple[str, ...]
    weak: bool = False
    human: bool = False

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
    that takes up a thing or an animal named in the same sentence.
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
class Verb:
    """A verb with its English (base, third person, past) and German (ich, er, plural, participle) principal parts."""

    base: str
    third: str
    past: str
    ich: str
    er: str
    plural: str
    participle: str
    auxiliary: str = "haben"
    prefix: str = ""
    particle: str = ""

    def german_present(self, person: str) -> str:
        """Return the finite present form, without a separable prefix."""
        return {"ich": self.ich, "er": self.er, "pl": self.plural}[person]


@dataclass(frozen=True)
class Time:
    """A time expression; `negatable` is false where a negation could be read as denying the time itself."""

    english: str
    german: str
    negatable: bool = True


# Determiners that a noun allows, by letter; capitals are plural, s is the bare singular of a mass noun.
DETERMINERS = {
    "t": ("the", False), "a": ("a", False), "m": ("my", False), "T": ("the", True), "M": ("my", True),
    "b": ("bare", True), "n": ("number", True), "N": ("the number", True), "s": ("bare", False),
}  # fmt: skip


def words(text: str) -> tuple[str, ...]:
    """Return the words of a line."""
    return tuple(text.split())


HUMANS = words("man father brother teacher boy student woman mother sister daughter child girl")
# English, plural, German, plural, gender, determiners, adjectives; a weak noun is marked by a final asterisk
_NOUN_TABLE = """
man      men       Mann      Männer     m  taTnN    old young friendly tired sick happy
father   fathers   Vater     Väter      m  tmT      old friendly tired sick happy
brother  brothers  Bruder    Brüder     m  tmMTN    young friendly tired sick happy
teacher  teachers  Lehrer    Lehrer     m  tamTnN   old young friendly tired sick happy
boy      boys      Junge     Jungen     m  taTnN    small friendly tired sick happy  *
student  students  Student   Studenten  m  taTnN    young friendly tired sick happy  *
woman    women     Frau      Frauen     f  taTnN    old young friendly tired sick happy
mother   mothers   Mutter    Mütter     f  tmT      old friendly tired sick happy
sister   sisters   Schwester Schwestern f  tmMTN    young friendly tired sick happy
daughter daughters Tochter   Töchter    f  tmMTN    small young friendly tired sick happy
child    children  Kind      Kinder     n  tamMTnN  small friendly tired sick happy
girl     girls     Mädchen   Mädchen    n  taTnN    small friendly tired sick happy
dog      dogs      Hund      Hunde      m  tamMTbnN old young small big friendly tired sick
cat      cats      Katze     Katzen     f  tamMTbnN old young small big beautiful tired sick
horse    horses    Pferd     Pferde     n  tamMTbnN old young small big beautiful tired sick
bird     birds     Vogel     Vögel      m  taTbnN   young small big beautiful tired sick
apple    apples    Apfel     Äpfel      m  taTbnN   small big red beautiful
cake     cakes     Kuchen    Kuchen     m  taTbnN   small big beautiful expensive
egg      eggs      Ei        Eier       n  taTbnN   small big cold
ball     balls     Ball      Bälle      m  tamTbnN  old new small big red
letter   letters   Brief     Briefe     m  taTbnN   old new
key      keys      Schlüssel Schlüssel  m  tamMTbnN old new small big
table    tables    Tisch     Tische     m  tamTbnN  old new small big beautiful expensive cheap
chair    chairs    Stuhl     Stühle     m  tamMTbnN old new small beautiful expensive cheap
lamp     lamps     Lampe     Lampen     f  tamTbnN  old new small big beautiful red expensive cheap
bag      bags      Tasche    Taschen    f  tamMTbnN old new small big beautiful red expensive cheap
newspaper newspapers Zeitung Zeitungen  f  taTbnN   old new
clock    clocks    Uhr       Uhren      f  tamTbnN  old new small big beautiful expensive cheap
flower   flowers   Blume     Blumen     f  taTbnN   small beautiful red
book     books     Buch      Bücher     n  tamMTbnN old new beautiful expensive cheap
car      cars      Auto      Autos      n  tamTbnN  old new small big beautiful red expensive cheap
house    houses    Haus      Häuser     n  tamTbnN  old new small big beautiful expensive
picture  pictures  Bild      Bilder     n  tamMTbnN old new small big beautiful expensive cheap
bicycle  bicycles  Fahrrad   Fahrräder  n  tamTbnN  old new small beautiful red expensive cheap
shirt    shirts    Hemd      Hemden     n  tamMTbnN old new small beautiful red expensive cheap
coffee   -         Kaffee    -          m  ts       cold hot
milk     -         Milch     -          f  ts       cold hot
water    -         Wasser    -          n  ts       cold hot
garden   -         Garten    -          m  tam      old small big beautiful
park     -         Park      -          m  ta       small big beautiful
forest   -         Wald      -          m  ta       old small big
kitchen  -         Küche     -          f  tm       old new small big beautiful
city     -         Stadt     -          f  ta       old small big beautiful
school   -         Schule    -          f  t        old new small big
office   -         Büro      -          n  tam      old new small big
village  -         Dorf      -          n  ta       old small beautiful
hotel    -         Hotel     -          n  ta       old new small big beautiful expensive
"""

# English base, third, past; German ich, er, plural, participle; then sein, a separable prefix (-ein), a particle (+for)
_VERB_TABLE = """
buy    buys    bought   kaufe     kauft     kaufen     gekauft
sell   sells   sold     verkaufe  verkauft  verkaufen  verkauft
see    sees    saw      sehe      sieht     sehen      gesehen
look   looks   looked   suche     sucht     suchen     gesucht     +for
find   finds   found    finde     findet    finden     gefunden
read   reads   read     lese      liest     lesen      gelesen
eat    eats    ate      esse      isst      essen      gegessen
drink  drinks  drank    trinke    trinkt    trinken    getrunken
repair repairs repaired repariere repariert reparieren repariert
wash   washes  washed   wasche    wäscht    waschen    gewaschen
need   needs   needed   brauche   braucht   brauchen   gebraucht
like   likes   -        mag       mag       mögen      -
visit  visits  visited  besuche   besucht   besuchen   besucht
invite invites invited  lade      lädt      laden      eingeladen  -ein
call   calls   called   rufe      ruft      rufen      angerufen   -an
help   helps   helped   helfe     hilft     helfen     geholfen
thank  thanks  thanked  danke     dankt     danken     gedankt
give   gives   gave     gebe      gibt      geben      gegeben
show   shows   showed   zeige     zeigt     zeigen     gezeigt
sleep  sleeps  slept    schlafe   schläft   schlafen   geschlafen
work   works   worked   arbeite   arbeitet  arbeiten   gearbeitet
play   plays   played   spiele    spielt    spielen    gespielt
go     goes    went     gehe      geht      gehen      gegangen    sein
drive  drives  drove    fahre     fährt     fahren     gefahren    sein
stay   stays   stayed   bleibe    bleibt    bleiben    geblieben   sein
arrive arrives arrived  komme     kommt     kommen     angekommen  sein -an
say    says    -        sage      sagt      sagen      -
know   knows   -        weiß      weiß      wissen     -
believe believes -      glaube    glaubt    glauben    -
hope   hopes   -        hoffe     hofft     hoffen     -
"""

# English -> (German predicative form, German stem before an ending)
ADJECTIVES = {
    "old": ("alt", "alt"), "new": ("neu", "neu"), "young": ("jung", "jung"), "small": ("klein", "klein"),
    "big": ("groß", "groß"), "beautiful": ("schön", "schön"), "red": ("rot", "rot"), "expensive": ("teuer", "teur"),
    "cheap": ("billig", "billig"), "friendly": ("freundlich", "freundlich"), "tired": ("müde", "müd"),
    "sick": ("krank", "krank"), "happy": ("glücklich", "glücklich"), "cold": ("kalt", "kalt"), "hot": ("heiß", "heiß"),
}  # fmt: skip
# Pairs that would contradict one another in "the A noun is B".
OPPOSITES = frozenset(
    frozenset(pair)
    for pair in (("old", "new"), ("old", "young"), ("small", "big"), ("expensive", "cheap"), ("cold", "hot"),
                 ("tired", "happy"), ("sick", "happy"))
)  # fmt: skip
DEGREES = {"": "", "very": "sehr", "too": "zu"}

NUMBERS = {
    2: ("two", "zwei"), 3: ("three", "drei"), 4: ("four", "vier"), 5: ("five", "fünf"), 6: ("six", "sechs"),
    7: ("seven", "sieben"), 8: ("eight", "acht"), 9: ("nine", "neun"), 10: ("ten", "zehn"), 11: ("eleven", "elf"),
    12: ("twelve", "zwölf"),
}  # fmt: skip

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

HABITS = {
    key: Time(key, german, negatable)
    for key, german, negatable in (
        ("every day", "jeden Tag", False), ("every week", "jede Woche", False), ("on Sundays", "sonntags", True),
        ("in summer", "im Sommer", True), ("in the morning", "am Morgen", True), ("today", "heute", True))
}  # fmt: skip
RECENT = {
    key: Time(key, german)
    for key, german in (("yesterday", "gestern"), ("this morning", "heute Morgen"), ("on Monday", "am Montag"),
                        ("in the evening", "am Abend"))
}  # fmt: skip
REMOTE = {key: Time(key, german) for key, german in (("last week", "letzte Woche"), ("last year", "letztes Jahr"))}
AGO = {
    f"{english} {unit} ago": Time(f"{english} {unit} ago", f"vor {german} {dative}", False)
    for english, german in NUMBERS.values()
    for unit, dative in (("days", "Tagen"), ("weeks", "Wochen"))
}

# Endings for masculine, feminine, neuter and plural.
_DEFINITE = {
    "nominative": ("der", "die", "das", "die"),
    "accusative": ("den", "die", "das", "die"),
    "dative": ("dem", "der", "dem", "den"),
}
_EIN_ENDINGS = {
    "nominative": ("", "e", "", "e"),
    "accusative": ("en", "e", "", "e"),
    "dative": ("em", "er", "em", "en"),
}
_WEAK = {"nominative": ("e", "e", "e", "en"), "accusative": ("en", "e", "e", "en"), "dative": ("en",) * 4}
_MIXED = {"nominative": ("er", "e", "es", "en"), "accusative": ("en", "e", "es", "en"), "dative": ("en",) * 4}
_STRONG = {
    "nominative": ("er", "e", "es", "e"),
    "accusative": ("en", "e", "es", "e"),
    "dative": ("em", "er", "em", "en"),
}


def definite_article(case: str, gender: str) -> str:
    """Return der, die, das, den or dem; `gender` is m, f, n or p (plural)."""
    return _DEFINITE[case]["mfnp".index(gender)]


def ein_word(stem: str, case: str, gender: str) -> str:
    """Return `stem` (ein, kein, mein) with its ending."""
    return stem + _EIN_ENDINGS[case]["mfnp".index(gender)]


def adjective_form(english: str, declension: str, case: str, gender: str) -> str:
    """Return the attributive adjective; `declension` is weak (after der), mixed (after ein, kein, mein) or strong."""
    endings = {"weak": _WEAK, "mixed": _MIXED, "strong": _STRONG}[declension]
    return ADJECTIVES[english][1] + endings[case]["mfnp".index(gender)]


def _read_nouns() -> dict[str, Noun]:
    nouns: dict[str, Noun] = {}
    for line in _NOUN_TABLE.strip().splitlines():
        english, plural, german, german_plural, gender, letters, *adjectives = line.split()
        weak = adjectives[-1] == "*"
        adjectives = tuple(word for word in adjectives if word != "*")
        nouns[english] = Noun(
            english, plural, german, german_plural, gender, frozenset(letters), adjectives, weak, english in HUMANS
        )
    return nouns


def _read_verbs() -> dict[str, Verb]:
    verbs = {}
    for line in _VERB_TABLE.strip().splitlines():
        parts = line.split()
        marks = parts[7:]
        prefix = next((mark[1:] for mark in marks if mark[0] == "-"), "")
        particle = next((mark[1:] for mark in marks if mark[0] == "+"), "")
        verbs[parts[0]] = Verb(*parts[:7], "sein" if "sein" in marks else "haben", prefix, particle)
    verbs["be"] = Verb("be", "is", "was", "bin", "ist", "sind", "gewesen", "sein")
    return verbs


NOUNS = _read_nouns()
VERBS = _read_verbs()
