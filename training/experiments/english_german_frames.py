"""What makes sense in the demonstration language: who does what to whom, where, when and for what reason."""

from dataclasses import dataclass, field

from vaswani_tx.training.experiments.english_german_lexicon import HUMANS, words

# How often each determiner (letters as in english_german_lexicon.DETERMINERS) is drawn in each role.
SUBJECT = {"t": 30, "a": 12, "m": 14, "T": 14, "M": 6, "n": 15, "N": 6}
OBJECT = {"t": 20, "a": 24, "m": 10, "T": 9, "M": 5, "b": 14, "n": 12, "N": 6, "s": 36}
INDIRECT = {"t": 24, "a": 14, "m": 14, "T": 14, "M": 8, "n": 12, "N": 6}
KEIN = {"a": 60, "b": 40, "s": 60}  # objects that carry a negation
PLACE = {"t": 55, "a": 25, "m": 20}

ADULTS = words("man father brother teacher student woman mother sister daughter")
CHILDREN = ("boy", "child", "girl")
PETS = ("dog", "cat")
ANIMALS = (*PETS, "horse", "bird")
OUTDOORS = ("garden", "park", "forest", "city", "village")
INDOORS = ("kitchen", "school", "office", "hotel", "house")
# The largest numbers of some nouns; and a passing mood is rarer beside a noun than a lasting quality.
FEW = {"house": 4, "brother": 4, "sister": 4, "daughter": 4}
MOODS = ("tired", "sick", "happy")
KIN = ("father", "mother", "brother", "sister", "daughter")


@dataclass(frozen=True)
class Frame:
    """What suits a verb: subjects, objects, a phrase with a preposition, times; `weight` is how often it is drawn."""

    verb: str
    subjects: tuple[str, ...] = HUMANS
    accusative: tuple[str, ...] = ()
    dative: tuple[str, ...] = ()
    phrases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    phrase_rate: float = 0.3
    habits: tuple[str, ...] = ()
    habit_needs_new_object: bool = False
    remote: bool = True
    singular_subject: bool = False
    present_rate: float = 0.55
    largest_number: int = 12
    object_determiners: str = "tamTMbnNs"
    weight: float = 1.0


_GOODS = words("table chair lamp bag clock book house car picture bicycle")
_DAILY = ("every day", "on Sundays", "in the morning")

FRAMES = (
    Frame("buy", ADULTS, words("apple cake egg newspaper flower book"), phrases={"for": HUMANS},
          habits=("every week", "every day", "on Sundays"), habit_needs_new_object=True, remote=False,
          object_determiners="taTbnN"),
    Frame("buy", ADULTS, (*_GOODS, "ball", "shirt", "dog", "horse"), phrases={"for": HUMANS}, largest_number=6,
          present_rate=0.45, object_determiners="taTbnN", weight=1.6),
    Frame("sell", ADULTS, (*_GOODS, "horse", "shirt"), largest_number=6, present_rate=0.45, object_determiners="taTbnN",
          weight=1.2),
    Frame("see", HUMANS, (*HUMANS, *ANIMALS), phrases={"in": OUTDOORS}, habits=("every day", "today"), weight=1.2),
    Frame("look", HUMANS, words("key ball bag letter newspaper book dog cat bird"),
          phrases={"in": words("garden house school park kitchen office")}, habits=("today",), remote=False,
          largest_number=4, weight=1.2),
    Frame("find", HUMANS, words("key ball bag letter newspaper book dog cat picture bird"),
          phrases={"in": words("garden house school park kitchen office forest")}, largest_number=6, present_rate=0.5,
          weight=1.2),
    Frame("read", HUMANS, words("book newspaper letter"), phrases={"in": words("garden park kitchen office hotel")},
          habits=_DAILY, habit_needs_new_object=True, remote=False, singular_subject=True, largest_number=4,
          weight=1.2),
    Frame("eat", HUMANS, words("apple cake egg"), phrases={"in": words("garden park kitchen office hotel")},
          habits=_DAILY, habit_needs_new_object=True, remote=False, largest_number=5, object_determiners="taTbnN",
          weight=1.2),
    Frame("drink", ADULTS, words("coffee milk water"), phrases={"in": words("garden kitchen office hotel")},
          habits=_DAILY, habit_needs_new_object=True, remote=False, weight=1.2),
    Frame("drink", CHILDREN, words("milk water"), phrases={"in": words("garden kitchen school")}, habits=_DAILY,
          habit_needs_new_object=True, remote=False, weight=0.6),
    Frame("repair", (*ADULTS, "boy", "girl"), words("car bicycle clock lamp table chair"),
          phrases={"in": ("garden",)}, phrase_rate=0.15, habits=("today",), largest_number=6, weight=1.2),
    Frame("wash", HUMANS, words("car shirt dog horse"), habits=("every week", "on Sundays", "today"), remote=False,
          largest_number=4, object_determiners="tmTMnN", weight=1.2),
    Frame("need", (*ADULTS, "boy", "girl"), words("key bag lamp table chair bicycle car book clock shirt ball"),
          habits=("today",), remote=False, largest_number=6, present_rate=0.7, weight=1.2),
    Frame("like", HUMANS, (*_GOODS, *ANIMALS, *HUMANS, "shirt", "ball"), present_rate=1.0, object_determiners="tmTMN",
          weight=0.9),
    Frame("visit", HUMANS, HUMANS, phrases={"in": ("city", "village", "hotel", "office")}, phrase_rate=0.2,
          habits=("every week", "on Sundays", "in summer", "today"), largest_number=4, weight=1.2),
    Frame("invite", HUMANS, HUMANS, habits=("today", "on Sundays", "in summer"), largest_number=6, weight=1.2),
    Frame("call", HUMANS, HUMANS, habits=("every day", "on Sundays", "in the morning", "today"), largest_number=4,
          weight=1.2),
    Frame("help", HUMANS, dative=HUMANS, phrases={"in": ("kitchen", "garden", "office", "school", "house")},
          habits=(*_DAILY, "today"), weight=1.4),
    Frame("thank", HUMANS, dative=HUMANS, remote=False, present_rate=0.45, weight=0.8),
    Frame("give", HUMANS, words("apple cake egg ball book flower letter key newspaper picture"), HUMANS,
          remote=False, largest_number=6, present_rate=0.5, weight=2.0),
    Frame("show", HUMANS, words("picture book letter car house dog horse bicycle clock bird"), HUMANS, remote=False,
          largest_number=6, present_rate=0.5, weight=1.8),
    Frame("sleep", HUMANS, phrases={"in": ("garden", "house", "hotel")}, phrase_rate=0.8,
          habits=("today", "in summer", "in the morning"), remote=False, weight=0.7),
    Frame("sleep", ANIMALS[:3], phrases={"in": ("garden", "house", "forest", "village")}, phrase_rate=0.8,
          habits=("in summer", "in the morning"), remote=False, weight=0.4),
    Frame("work", ADULTS, phrases={"in": ("office", "garden", "school", "city", "hotel", "kitchen", "village")},
          phrase_rate=0.85, habits=("every day", "on Sundays", "in summer", "today", "in the morning"), weight=1.4),
    Frame("play", (*CHILDREN, *PETS), phrases={"in": ("garden", "park", "house", "school", "village")},
          phrase_rate=0.85, habits=("every day", "on Sundays", "in summer", "today"), weight=0.7),
    Frame("play", HUMANS, phrases={"with": (*CHILDREN, *PETS, "daughter", "brother", "sister", "ball")},
          phrase_rate=1.0, habits=("every day", "on Sundays", "in summer", "today"), remote=False, weight=1.6),
    Frame("go", HUMANS, phrases={"into": (*OUTDOORS, *INDOORS)}, phrase_rate=1.0, habits=_DAILY, remote=False,
          weight=1.4),
    Frame("drive", ADULTS, phrases={"into": ("city", "village", "forest")}, phrase_rate=1.0,
          habits=("every week", "on Sundays", "in summer", "today"), weight=1.2),
    Frame("stay", (*HUMANS, *PETS), phrases={"in": (*INDOORS, "garden", "city", "village")}, phrase_rate=1.0,
          habits=("on Sundays", "in summer", "today"), weight=1.2),
    Frame("arrive", HUMANS, phrases={"in": ("city", "village")}, phrase_rate=0.7, habits=("today",),
          present_rate=0.6, weight=1.7),
)  # fmt: skip

# A pronoun beside its antecedent. (verb, negated, conjunction, properties): "buy it because it is cheap".
PROPERTY_LINKS = (
    ("buy", False, "because", "cheap beautiful new young"),
    ("buy", False, "although", "expensive old"),
    ("buy", True, "because", "expensive old"),
    ("buy", True, "although", "cheap beautiful new"),
    ("sell", False, "because", "old big small"),
    ("sell", False, "although", "new beautiful"),
    ("sell", True, "because", "new beautiful"),
    ("sell", True, "although", "old"),
    ("repair", False, "because", "expensive beautiful"),
    ("repair", False, "although", "old cheap"),
    ("repair", True, "because", "old cheap"),
    ("drink", True, "because", "cold hot"),
    ("drink", False, "although", "cold hot"),
    ("like", False, "because", "beautiful new small young"),
    ("like", False, "although", "old small big"),
    ("like", True, "although", "beautiful new expensive"),
    ("like", True, "because", "old big"),
    ("show", False, "because", "new beautiful expensive"),
    ("buy", False, "if", "cheap beautiful new"),
    ("buy", True, "if", "expensive old"),
    ("sell", False, "if", "old expensive"),
    ("drink", True, "if", "cold hot"),
)
# Degrees of these adjectives: "too" fits what speaks against a thing.
TOO = frozenset(("expensive", "old", "big", "small", "cold", "hot"))

# (verb, negated, conjunction, second verb, second negated): "look for the key because I need it".
TOOLS_LINKS = (
    ("look", False, "because", "need", False),
    ("buy", False, "because", "need", False),
    ("buy", False, "because", "like", False),
    ("buy", False, "although", "need", True),
    ("sell", False, "because", "need", True),
    ("sell", False, "although", "need", False),
    ("sell", True, "because", "need", False),
    ("sell", True, "because", "like", False),
    ("sell", False, "because", "like", True),
    ("repair", False, "because", "need", False),
    ("repair", True, "although", "need", False),
)

# (verb, negated, conjunctions): what someone does or does not do when tired or sick.
STATE_LINKS = (
    ("stay", False, "because if"),
    ("sleep", False, "because"),
    ("work", True, "because if"),
    ("go", True, "because if"),
    ("drive", True, "because if"),
    ("play", True, "because if"),
    ("work", False, "although"),
    ("go", False, "although"),
    ("drive", False, "although"),
    ("help", False, "although"),
    ("wash", False, "although"),
    ("visit", False, "although"),
    ("play", False, "although"),
)

# What makes one tired, what makes one happy, and what one is thanked for.
ACCOMPLISHMENTS = {"tired": ("work", "repair", "wash", "help", "play", "drive"), "happy": ("find", "buy", "sell")}
FAVOURS = ("repair", "wash", "find", "buy", "help")

# (verb, negated, conjunctions): what one does because or if somebody else is sick.
DEED_LINKS = (
    ("stay", False, "because if"),
    ("work", True, "because if"),
    ("drive", True, "because if"),
    ("go", True, "because if"),
    ("work", False, "although"),
    ("drive", False, "although"),
)
