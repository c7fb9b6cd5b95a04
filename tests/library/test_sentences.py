"""Cutting text into sentences by rule, and putting it together again."""

import pytest

from vaswani_tx.sentences_vaswani import join_sentences, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith left at 5 p.m. and slept. He woke.", ["Dr. Smith left at 5 p.m. and slept.", "He woke."]),
        ("Am 3. Mai kam er. Z.B. heute?", ["Am 3. Mai kam er.", "Z.B. heute?"]),
        ('"Go!" he said. (Yes.) "No."', ['"Go!" he said.', "(Yes.)", '"No."']),
        ("你好。我很好！真的？「是。」", ["你好。", "我很好！", "真的？", "「是。」"]),
        ("नमस्ते। आप कैसे हैं?", ["नमस्ते।", "आप कैसे हैं?"]),
        ("one line\nanother\n\n  J. R. Smith. End", ["one line", "another", "J. R. Smith.", "End"]),
        ("It costs 3.50 now. In 1945. Then?! So…", ["It costs 3.50 now.", "In 1945.", "Then?!", "So…"]),
        ("no stop at all", ["no stop at all"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_text_is_cut_into_sentences_and_nothing_is_lost(text, sentences):
    found = split_sentences(text)
    assert [sentence.text for sentence in found] == sentences
    before = text[: len(text) - len(text.lstrip())] if found else text
    joined, starts = join_sentences(sentences, found, before)
    if "。" not in text:
        assert joined == text
    assert all(joined[start:].startswith(sentence) for start, sentence in zip(starts, sentences, strict=True))
    assert all(text[found_.start :].startswith(found_.text) for found_ in found)


def test_cutting_a_long_text_takes_time_in_proportion_to_it():
    assert len(split_sentences("He came. She left! " * 20000)) == 40000


def test_sentences_of_a_script_without_spaces_are_parted_in_one_with_them():
    assert (
        join_sentences(["Hello.", "I am fine!", "好。"], split_sentences("你好。我很好！好。"))[0]
        == "Hello. I am fine! 好。"
    )
