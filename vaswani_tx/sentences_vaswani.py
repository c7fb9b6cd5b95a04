"""Sentences: a text is cut into them by rule and joined again; nothing of it is lost."""

import re
from dataclasses import dataclass

# Marks that end a sentence even without a space after them, and those that need one.
FULL_STOPS = "。！？｡।॥။។۔؟᙮"
MARKS = ".!?…"
CLOSERS = "\"'”’»«›)]}」』）】"
OPENERS = "\"'“‘„«»‹›([{「『（【¿¡—–-"
# Written with a full stop and seldom at the end of a sentence, in lower case without it.
ABBREVIATIONS = (
    "mr mrs ms dr prof sr jr st rev hon gen col lt sgt capt gov pres sen rep messrs mme mlle vs approx dept est fig "
    "figs eq sec ch vol no nos pp ed eds cf al ca resp inc ltd bros art nr bzw usw ggf evtl vgl bspw sog inkl exkl "
    "zzgl hr hrn fr frl str abs aufl bd bearb geb gest hrsg jh jhd mio mrd tel tsd u.a z.b d.h i.d.r o.ä v.a z.t "
    "e.g i.e a.m p.m u.s env etc.) av adj adv mgr mons sig sra ud uds"
)
KNOWN = frozenset(ABBREVIATIONS.split())
# A number or a month's day before its stop ("am 3. Mai"), a single letter ("J. Smith"), letters with stops ("U.S.").
ORDINAL, INITIALS = re.compile(r"\d{1,4}$"), re.compile(r"(?:^|[\s.(])[^\W\d_]$")
CLOSING = rf"[{re.escape(CLOSERS)}]*"
BOUNDARY = re.compile(rf"[{FULL_STOPS}]+{CLOSING}|[{re.escape(MARKS)}]+{CLOSING}(?=\s)|\n")
SPACE = re.compile(r"\s*")
WORD_BEFORE = re.compile(r"[^\s(\[{\"'“‘„«»‹›]*$")


@dataclass(frozen=True)
class Sentence:
    """One sentence, where it begins in the text, and the space between it and the next one."""

    text: str
    start: int
    gap: str


def split_sentences(text: str) -> list[Sentence]:
    """Cut `text` into sentences: `text` is the space before the first one, then each one with its gap.

    A sentence ends at a line break, at a full stop of a script without spaces, and at a stop, question or exclamation
    mark (with the quotes and brackets that close there) before a space and something that is not in lower case. A stop
    after an abbreviation, an initial or a number of up to four digits does not end one.
    """
    sentences, start = [], len(text) - len(text.lstrip())
    for mark in BOUNDARY.finditer(text):
        end = mark.start() if mark[0] == "\n" else mark.end()
        if mark.end() <= start or not _ends(text, mark):
            continue
        body = text[start:end].rstrip()
        if not body:
            continue
        following = start + len(body)
        rest = _after_space(text, following)
        sentences.append(Sentence(body, start, text[following:rest]))
        start = rest
    if start < len(text):
        body = text[start:].rstrip()
        sentences.append(Sentence(body, start, text[start + len(body) :]))
    return sentences


def _after_space(text: str, position: int) -> int:
    space = SPACE.match(text, position)
    return space.end() if space else position


def _ends(text: str, mark: re.Match) -> bool:
    if mark[0] == "\n" or mark[0][0] in FULL_STOPS:
        return True
    following = _after_space(text, mark.end())
    after = text[following : following + 20].lstrip(OPENERS)[:1]
    if after.islower():
        return False
    stop = mark[0].rstrip(CLOSERS)
    if stop != ".":
        return True
    before = text[max(mark.start() - 40, 0) : mark.start()]
    found = WORD_BEFORE.search(before)
    word = found[0] if found else ""
    if mark[0] == "." and (word.lower() in KNOWN or ORDINAL.search(word)):
        # "in 1945." ends before a capital where there is a year; "am 3. Mai" and "No. 5" do not.
        return bool(re.fullmatch(r"\d{4}", word))
    return not (mark[0] == "." and INITIALS.search(before[-3:]))


def join_sentences(translations: list[str], sentences: list[Sentence], before: str = "") -> tuple[str, list[int]]:
    """Put the translations in the places of their sentences, with the gaps of the source.

    Return the text and where each translation begins in it. Sentences that follow each other without a space are
    separated by one, unless the translation ends in a full stop that needs none.
    """
    text, starts = before, []
    for number, (translation, sentence) in enumerate(zip(translations, sentences, strict=True)):
        starts.append(len(text))
        wants_space = not sentence.gap and translation.rstrip(CLOSERS)[-1:] not in FULL_STOPS
        text += translation + (" " if wants_space and number < len(sentences) - 1 else sentence.gap)
    return text, starts


__all__ = ["Sentence", "join_sentences", "split_sentences"]
