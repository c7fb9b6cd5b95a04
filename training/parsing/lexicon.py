"""The words of the parsing example's grammar: nouns and verbs by what they go with, which is what decides attachments.

Many forms are noun and verb alike (`report`, `watch`, `saw`, `fish`), and `that` has three tags.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """The five forms of an English verb."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str

    def form(self, tag: str) -> str:
        """The form with a Penn Treebank tag: VB, VBP, VBZ, VBD, VBN, VBG."""
        return {"VBZ": self.third, "VBD": self.past, "VBN": self.participle, "VBG": self.gerund}.get(tag, self.base)


def _list(words: str) -> list[str]:
    return words.split()


def plural(noun: str) -> str:
    """The plural of a noun."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def verb(base: str) -> Verb:
    """The forms of a verb, from the table of irregular ones or by rule."""
    vowel_before = base[-2] in "aeiou"
    if base.endswith(("s", "x", "ch", "sh", "o")):
        third = base + "es"
    else:
        third = base[:-1] + "ies" if base.endswith("y") and not vowel_before else base + "s"
    stem = base + base[-1] if base in _DOUBLING else base
    gerund = stem[:-1] + "ing" if base.endswith("e") and not base.endswith("ee") else stem + "ing"
    if base in _IRREGULAR:
        past, participle = _IRREGULAR[base]
    else:
        past = stem + "d" if base.endswith("e") else stem + "ed"
        if base.endswith("y") and not vowel_before:
            past = base[:-1] + "ied"
        participle = past
    return Verb(base, third, past, participle, gerund)


_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "fish": "fish", "sheep": "sheep", "mouse": "mice",
    "knife": "knives", "wife": "wives", "thief": "thieves", "scarf": "scarves", "wolf": "wolves",
}  # fmt: skip
_DOUBLING = {"stop", "drop", "plan", "admit", "hit", "cut", "put", "run", "sit", "win", "begin", "forget"}
_IRREGULAR = {
    "see": ("saw", "seen"), "hit": ("hit", "hit"), "cut": ("cut", "cut"), "eat": ("ate", "eaten"),
    "find": ("found", "found"), "buy": ("bought", "bought"), "sell": ("sold", "sold"), "send": ("sent", "sent"),
    "give": ("gave", "given"), "tell": ("told", "told"), "say": ("said", "said"), "think": ("thought", "thought"),
    "know": ("knew", "known"), "put": ("put", "put"), "leave": ("left", "left"), "sleep": ("slept", "slept"),
    "run": ("ran", "run"), "sit": ("sat", "sat"), "stand": ("stood", "stood"), "go": ("went", "gone"),
    "come": ("came", "come"), "fly": ("flew", "flown"), "write": ("wrote", "written"), "read": ("read", "read"),
    "take": ("took", "taken"), "bring": ("brought", "brought"), "make": ("made", "made"), "break": ("broke", "broken"),
    "draw": ("drew", "drawn"), "lose": ("lost", "lost"), "win": ("won", "won"), "hear": ("heard", "heard"),
    "show": ("showed", "shown"), "hold": ("held", "held"), "catch": ("caught", "caught"), "meet": ("met", "met"),
    "drive": ("drove", "driven"), "fall": ("fell", "fallen"), "teach": ("taught", "taught"), "keep": ("kept", "kept"),
    "forget": ("forgot", "forgotten"), "begin": ("began", "begun"), "throw": ("threw", "thrown"),
    "hide": ("hid", "hidden"), "lend": ("lent", "lent"), "pay": ("paid", "paid"), "feel": ("felt", "felt"),
}  # fmt: skip

# Nouns by class.
NOUNS = {
    "person": _list("man woman child boy girl teacher student doctor nurse farmer baker painter judge lawyer thief "
    "cook guard king queen soldier sailor pilot neighbor friend guest tourist reporter singer driver officer"),
    "animal": _list("dog cat horse cow bird mouse sheep fox wolf bear fish duck"),
    "tool": _list("hammer knife key telescope camera saw rope axe brush spoon stick needle microscope pen"),
    "feature": _list("hat beard scarf coat tail mustache uniform tattoo limp wig accent handbag"),
    "thing": _list("book letter box table chair car boat watch lamp picture door window cake bottle basket fence wall "
    "ball bell clock coin drum flag mirror painting map gift stone wheel"),
    "place": _list("garden house kitchen park school church market station forest village bridge river hill castle "
    "museum library office harbor field street tower barn hotel island"),
    "idea": _list("report claim plan story idea rumor fact promise answer question decision theory warning"),
    "event": _list("meeting party war concert wedding trial game lunch dinner storm election strike"),
    "relation": _list("owner roof end price color wife captain mayor author member rest center edge"),
    "month": _list("January February March April May June July August September October November December"),
    "day": _list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "material": _list("stone brick glass silver paper iron leather silk apple garden kitchen police winter school"),
}  # fmt: skip
FIRST_NAMES = _list(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Nick Olga Paul Rosa Sam Tina Victor Walter Zoe"
)
LAST_NAMES = _list("Adams Baker Cooper Davis Evans Fisher Green Hill King Lopez Miller Novak Parker Stone Turner Young")
CITIES = _list("Paris London Rome Boston Vienna Oslo Madrid Cairo Tokyo Lima Dublin Geneva Prague Athens")
COMPANIES = _list("Acme Globex Initech Hooli Umbra Norwind Sunfield Bluestone")

ADJECTIVES = {
    "person": _list("old young tall happy angry tired rich poor famous brave clever lonely quiet strange"),
    "animal": _list("small big black brown wild hungry white lazy fast"),
    "other": _list("old new small big red green heavy broken expensive cheap beautiful empty large strange famous"),
    "idea": _list("new strange false true secret official recent early final simple"),
}
DEGREES = _list("very quite rather too extremely surprisingly")
MANNER = _list("quickly slowly quietly carefully suddenly often rarely happily secretly again")
OPENERS = _list("However Fortunately Yesterday Finally Meanwhile Suddenly Later")
NUMBERS = _list("two three four five six ten twelve twenty fifty hundred")

# Verbs by what they take. A tool-verb draws `with`-phrases to itself, the others leave them to their object.
VERBS = {
    "tool": _list("cut hit open break fix paint clean draw catch"),
    "see": _list("see watch hear notice admire meet remember like love hate know find"),
    "move": _list("put leave hide keep throw drop carry place"),
    "trade": _list("buy sell steal lose win make"),
    "go": _list("go walk run come fly travel drive return"),
    "stay": _list("sleep sit stand wait sing play work smile fish cook dance"),
    "give": _list("give send show lend sell bring throw teach"),
    "say": _list("say think know believe hear report claim admit forget hope"),
    "control": _list("tell ask want force teach allow order"),
    "want": _list("want try plan hope forget begin promise refuse"),
    "made": _list("write paint draw make steal break find lose"),
}  # fmt: skip
PARTICLES = (
    ("pick", "up"), ("turn", "off"), ("turn", "on"), ("throw", "away"), ("take", "off"), ("put", "down"),
    ("bring", "back"), ("give", "up"), ("clean", "up"), ("write", "down"),
)  # fmt: skip
MODALS = _list("will can must should may could would might")
SUBORDINATORS = _list("because although if when while before after since")
PLACE_PREPOSITIONS = _list("in near behind at by on under")
PATH_PREPOSITIONS = _list("to from into through across")
