"""Make labelled data from plain text, so that taggers and classifiers can be tried on any text.

    python -m vaswani_tx.training.data.labelled_corpora punctuation --text train.en --output tags/train.conll --join 3
    python -m vaswani_tx.training.data.labelled_corpora source --text subtitles=a.en news=b.en --words 6 \\
        --output source --validation 500 --test 500

`punctuation`: words without capitals and marks, each tagged with what was removed, `CAP`, `UPPER`, `COMMA`, `PERIOD`,
`QUESTION`, `EXCLAMATION`, a capital and a mark together as `CAP+COMMA`, nothing as `O`. A tagger of these restores what
the output of speech recognition lacks. `--join 3` puts up to three sentences of the text into one example, whose ends
have to be found.

`first-sentence`: paragraphs of at least two sentences, the first one as the summary of the rest, as
`{"document": ..., "summary": ...}` lines for `vaswani-tx train summarization`:

    python -m vaswani_tx.training.data.labelled_corpora first-sentence --text manual.en --output summaries/train.jsonl

`source`: excerpts of a few words, without capitals, marks and digits, labelled with their text. Equally many of each
text; no excerpt is in two of the files `train.tsv`, `validation.tsv` and `test.tsv`.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vaswani_tx.limits import SEED, whole
from vaswani_tx.sentences_vaswani import split_sentences
from vaswani_tx.text_files import use_utf8
from vaswani_tx.training.command_line import exit_status
from vaswani_tx.training.data.lines import read_lines, words_of
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_text

MARKS = {",": "COMMA", ".": "PERIOD", "?": "QUESTION", "!": "EXCLAMATION", ";": "COMMA", ":": "COMMA"}
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def punctuation(text: str) -> list[tuple[str, str]]:
    """Return the words of a text in lower case, each with its tag."""
    found = []
    for piece in words_of(text):
        matches = list(_WORD.finditer(piece))
        for match in matches:
            word, rest = match[0], piece[match.end() :]
            last = match is matches[-1]
            mark = next((MARKS[letter] for letter in rest if letter in MARKS), None) if last else None
            found.append((word.lower().replace("’", "'"), "+".join(filter(None, (_case(word), mark))) or "O"))
        if not matches and found and (mark := next((MARKS[letter] for letter in piece if letter in MARKS), None)):
            # In tokenised text a mark is a separate word: it belongs to the word before.
            word, tag = found[-1]
            if not tag.endswith(tuple(MARKS.values())):
                found[-1] = (word, mark if tag == "O" else f"{tag}+{mark}")
    return found


def _case(word: str) -> str | None:
    letters = "".join(filter(str.isalpha, word))
    if len(letters) > 1 and letters.isupper():
        return "UPPER"
    return "CAP" if letters[:1].isupper() else None


def joined(lines: Sequence[str], most: int, seed: int) -> Iterator[str]:
    """Yield from one to `most` consecutive lines as one text, at random."""
    random = np.random.default_rng(seed)
    start = 0
    while start < len(lines):
        stop = start + int(random.integers(1, most + 1))
        yield " ".join(lines[start:stop])
        start = stop


def pieces(lines: Sequence[str], words: int, count: int, seed: int) -> list[str]:
    """Return at most `count` different excerpts of `words` words in lower case, each from another line."""
    random = np.random.default_rng(seed)
    found: dict[str, None] = {}
    for index in random.permutation(len(lines)):
        own = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", lines[index].lower())
        if len(own) >= words:
            start = int(random.integers(0, len(own) - words + 1))
            found[" ".join(own[start : start + words])] = None
        if len(found) == count:
            break
    return list(found)


def lines_with_text(path: str, limit: int | None = None) -> list[str]:
    """Return the lines of a text file that hold text, at most so many."""
    lines = [line for line in read_lines(path) if line.strip()][:limit]
    if not lines:
        raise DataError(f"{path}: there is no text in it; give a file with text.")
    return lines


def make_punctuation(options: argparse.Namespace) -> None:
    """Write one CoNLL file."""
    blocks, words = [], 0
    for path in options.text:
        for text in joined(lines_with_text(path, options.limit), options.join, options.seed):
            if tagged := punctuation(text):
                blocks.append("".join(f"{word}\t{tag}\n" for word, tag in tagged))
                words += len(tagged)
    atomic_text(options.output, "\n".join(blocks))
    print(f"{options.output}: {len(blocks):,} examples, {words:,} words")


def first_sentences(lines: Sequence[str], words: int) -> Iterator[tuple[str, str]]:
    """Yield the rest and the first sentence of each line that has both, each of at least so many words.

    Lines that repeat an earlier pair are left out.
    """
    seen = set()
    for line in lines:
        sentences = [sentence.text for sentence in split_sentences(line)]
        pair = " ".join(sentences[1:]), sentences[0] if sentences else ""
        if min(len(words_of(text)) for text in pair) >= words and pair not in seen:
            seen.add(pair)
            yield pair


def make_first_sentence(options: argparse.Namespace) -> None:
    """Write one JSONL file."""
    lines = [line for path in options.text for line in lines_with_text(path)]
    pairs = list(first_sentences(lines, options.words))
    if not pairs:
        raise DataError(f"{options.text[0]}: no line has two sentences of {options.words} words: lower --words.")
    rows = (json.dumps({"document": rest, "summary": first}, ensure_ascii=False) + "\n" for rest, first in pairs)
    atomic_text(options.output, "".join(rows))
    print(f"{options.output}: {len(pairs):,} examples of {len(lines):,} paragraphs")


def make_source(options: argparse.Namespace) -> None:
    """Write three TSV files."""
    texts = {}
    for entry in options.text:
        name, equals, path = entry.partition("=")
        if not equals or not name or name in texts:
            raise DataError(f"--text {entry!r}: give each text a unique name, such as news=FILE.")
        texts[name] = pieces(lines_with_text(path), options.words, options.most, options.seed)
    if len(texts) < 2:
        raise DataError("--text: give at least two texts.")
    seen: dict[str, str] = {}
    for name, found in texts.items():
        for piece in found:
            # An excerpt of several texts does not identify one.
            seen[piece] = "" if piece in seen else name
    kept = {name: [piece for piece in found if seen[piece] == name] for name, found in texts.items()}
    count = min(map(len, kept.values()))
    held = options.validation + options.test
    if count <= held:
        least = min(kept, key=lambda name: len(kept[name]))
        raise DataError(
            f"{least}: {count} pieces of {options.words} words, too few to keep {held} from training; give more "
            "text, or lower --validation and --test."
        )
    bounds = {"test": (0, options.test), "validation": (options.test, held), "train": (held, count)}
    random = np.random.default_rng(options.seed)
    for part, (start, stop) in bounds.items():
        rows = [f"{piece}\t{name}\n" for name, found in kept.items() for piece in found[start:stop]]
        if rows:
            lines = "".join(rows[i] for i in random.permutation(len(rows)))
            atomic_text(options.output / f"{part}.tsv", f"text\tlabel\n{lines}")
            print(f"{options.output / part}.tsv: {len(rows):,} examples")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line as a namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.data.labelled_corpora", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    tags = commands.add_parser("punctuation", help="words to tag with the capitals and marks that were removed")
    tags.add_argument("--text", nargs="+", required=True, help="text files, a sentence a line")
    tags.add_argument("--join", type=whole(), default=3, help="most sentences of an example (3)")
    tags.add_argument("--limit", type=whole(), help="lines read of each file; all if absent")
    tags.add_argument("--output", type=Path, required=True, help="CoNLL file to write")
    first = commands.add_parser("first-sentence", help="documents to shorten, from paragraphs")
    first.add_argument("--text", nargs="+", required=True, help="text files, a paragraph a line")
    first.add_argument("--words", type=whole(), default=4, help="fewest words of a summary and of a document (4)")
    first.add_argument("--output", type=Path, required=True, help="JSONL file to write")
    source = commands.add_parser("source", help="excerpts labelled with the text that they come from")
    source.add_argument("--text", nargs="+", required=True, metavar="NAME=FILE", help="texts to distinguish")
    source.add_argument("--words", type=whole(), default=6, help="words of an excerpt (6)")
    source.add_argument("--most", type=whole(), default=10_000, help="excerpts of each text at most (10000)")
    source.add_argument("--validation", type=whole(0), default=500, help="excerpts of each text to validate on (500)")
    source.add_argument("--test", type=whole(0), default=500, help="excerpts of each text to test on (500)")
    source.add_argument("--output", type=Path, required=True, help="folder to write")
    for one in (tags, source):
        one.add_argument("--seed", type=SEED, default=1, help="decides what is chosen and joined (1)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    use_utf8()
    makers = {"punctuation": make_punctuation, "first-sentence": make_first_sentence, "source": make_source}
    return exit_status(lambda: makers[options.command](options))


if __name__ == "__main__":
    sys.exit(main())
