"""Tokenizers from codes of byte pairs and a dictionary, against the plain procedure of subword-nmt."""

import random
from itertools import pairwise

import pytest
from transformers import AutoTokenizer

from vaswani_tx.convert.subword_bpe import SpecialSymbols, dictionary_tokenizer, read_codes
from vaswani_tx.errors import CheckpointError

MERGES = [
    "l o",
    "lo w",
    "e r</w>",
    "w e",
    "n e",
    "ne w",
    "low er</w>",
    "s t</w>",
    "e st</w>",
    "w </w>",
    "d </w>",
    "o l",
]
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "low@@", "lower", "new@@", "est", "e@@", "r", "s@@", "t", "new", "w", "l@@",
           "o@@", "n@@", "ne@@", "d", "o", "x@@", "er"]  # fmt: skip
UNKNOWN = 3


def units(word: str, merges: list[tuple[str, str]], version: str) -> list[str]:
    """Divide a word: merge the best pair, everywhere from the left, until there is none."""
    if len(word) == 1:
        return [word]
    parts = [*word, "</w>"] if version == "0.1" else [*word[:-1], word[-1] + "</w>"]
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        merged, index = [], 0
        while index < len(parts):
            both = tuple(parts[index : index + 2]) == best
            merged.append("".join(best) if both else parts[index])
            index += 2 if both else 1
        parts = merged
    parts = parts[:-1] if parts[-1] == "</w>" else [*parts[:-1], parts[-1].removesuffix("</w>")]
    return [f"{part}@@" for part in parts[:-1]] + parts[-1:]


def write_codes(path, version, merges=MERGES):
    head = {"0.1": [], "0.2": ["#version: 0.2"], "fastBPE": []}[version]
    lines = [f"{merge} 17" for merge in merges] if version == "fastBPE" else merges
    path.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("version", ["0.1", "0.2", "fastBPE"])
def test_ids_are_those_of_the_plain_procedure(tmp_path, version):
    codes = read_codes(write_codes(tmp_path / "codes", version))
    dictionary_tokenizer(SYMBOLS, codes).save_pretrained(tmp_path / "words")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "words")
    assert len(tokenizer) == len(SYMBOLS) and set(tokenizer.get_vocab().values()) == set(range(len(SYMBOLS)))
    draw, merges = random.Random(0), [tuple(merge.split(" ")) for merge in MERGES]
    words = ["".join(draw.choices("lowernstdxyé", k=draw.randint(1, 9))) for _ in range(400)]
    words += ["lower", "low", "newest", "lowlow", "new", "<unk>", "</s>"]
    places = {symbol: index for index, symbol in enumerate(SYMBOLS)}
    differ = []
    for word in words:
        found = units(word, merges, "0.1" if version == "0.1" else "0.2")
        wanted = [places.get(unit, UNKNOWN) for unit in found] + [places["</s>"]]
        if tokenizer(word).input_ids != wanted:
            differ.append((word, found, tokenizer(word).input_ids))
    assert not differ
    together = [index for word in words for index in tokenizer(word).input_ids[:-1]]
    assert tokenizer(" ".join(words) + "  ").input_ids == [*together, places["</s>"]]


def test_units_are_joined_and_unknown_ones_are_words(tmp_path):
    tokenizer = dictionary_tokenizer(SYMBOLS, read_codes(write_codes(tmp_path / "codes", "0.2")))
    text = "lower new d"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert tokenizer.decode([UNKNOWN, 5]) == "<unk> lower"
    assert tokenizer.decode([12, 4]) == "new low"


def test_without_codes_texts_are_in_units_already():
    tokenizer = dictionary_tokenizer(SYMBOLS)
    ids = tokenizer("low@@ er new zzz").input_ids
    assert ids == [4, 21, 12, UNKNOWN, 2]
    assert tokenizer.decode(ids[:3]) == "lower new" and tokenizer.decode([12, 4]) == "new low"


def test_a_language_models_texts_begin_with_a_symbol(tmp_path):
    special = SpecialSymbols(bos="</s>")
    tokenizer = dictionary_tokenizer(SYMBOLS, special=special, begins=True)
    assert tokenizer("new").input_ids == [2, 12] and tokenizer.padding_side == "left"
    assert tokenizer.decode([12, 5]) == "new lower"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#version: 0.3\na b\n", r"line 1: .* is not 0.1 or 0.2"),
        ("#version: 0.2\na b\na b c\n", r"line 3: 'a b c' is no pair"),
        ("the 17\nof\n", r"line 2: 'of' is no pair"),
        ("", "no merges"),
    ],
)
def test_wrong_codes_are_refused_with_their_line(tmp_path, text, message):
    (tmp_path / "codes").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_codes(tmp_path / "codes")


def test_dictionaries_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"'new' twice, as ids 4 and 6"):
        dictionary_tokenizer([*SYMBOLS[:4], "new", "low", "new"])
    with pytest.raises(CheckpointError, match=r"lacks '</s>'"):
        dictionary_tokenizer(["<s>", "<pad>", "<unk>", "new"])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_codes(tmp_path / "none")
