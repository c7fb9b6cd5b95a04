"""Tokens added to a vocabulary: found where they are written, and no space of the text is lost or comes to it."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.library.test_tokenization import HARD, SENTENCES, random_texts
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.tokenization_vaswani import MASK_TOKEN
from vaswani_tx.tokenization_vaswani_chat import CHAT_TOKENS, TEMPLATE_WITHOUT_SPACES

PLACES = (
    "{} A dog", "A dog {}", "A {} dog", "A{}dog", "({})", "{}", "{}{}", "{} {}", " {} a", "  {}  a ", "{}. {}, \n{}\n",
    "a\ufdd0{}\ufdd0 b", "{}\ufdd0x{} \ufdd0", "\ufdd0 {}\ufdd0", "{}  A  dog  {}", "Hund{}läuft",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    return VaswaniTokenizer.train(iter(SENTENCES), vocab_size=380, show_progress=False)


@pytest.fixture
def tokenizer(trained, tmp_path):
    trained.save_pretrained(tmp_path / "trained")
    return VaswaniTokenizer.from_pretrained(tmp_path / "trained")


def former(trained, folder, **changes):
    """Save a tokenizer as it was saved when its pipeline put a space in front of each part of a text."""
    pipeline = json.loads(trained.backend_tokenizer.to_str())
    pipeline["normalizer"] = json.loads(normalizers.Prepend(" ").__getstate__())
    del pipeline["pre_tokenizer"]["pretokenizers"][:2]
    trained.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(pipeline), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **changes}), encoding="utf-8")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def inner(tokenizer, text):
    """Return the ids of a text in the middle of another."""
    return tokenizer(f".{text}", add_special_tokens=False).input_ids[len(tokenizer(".").input_ids) - 1 :]


@pytest.mark.parametrize("content", [">>de<<", "<num>", "größe", " spaced", "日本", "x"])
@pytest.mark.parametrize("flags", [{}, {"normalized": False}, {"normalized": True}, {"special": True}], ids=str)
def test_text_with_added_tokens_survives(tokenizer, tmp_path, content, flags):
    tokenizer.add_tokens([AddedToken(content, **flags)])
    tokenizer.save_pretrained(tmp_path)
    loaded = [loader.from_pretrained(tmp_path) for loader in (AutoTokenizer, PreTrainedTokenizerFast)]
    for place in PLACES:
        text = place.format(*[content] * 3)
        ids = tokenizer(text, split_special_tokens=False).input_ids
        assert ids.count(tokenizer.convert_tokens_to_ids(content)) == text.count(content)
        assert tokenizer.decode(ids[:-1]) == text
        assert [one(text, split_special_tokens=False).input_ids for one in loaded] == [ids, ids]
        assert loaded[0].decode(ids[:-1]) == text
        # The decoder of tokenizers takes a leading space, and reads letters beyond ASCII as bytes.
        assert loaded[1].decode(ids[:-1]) == text or content in ("größe", " spaced")


def test_the_space_in_front_is_in_front_of_the_text_only(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": [">>de<<"]})
    expected = {
        ">>de<< A dog.": [380, *inner(tokenizer, " A dog.")],
        ">>de<<dog": [380, *inner(tokenizer, "dog")],
        "(>>de<<) A": [*tokenizer("(").input_ids[:-1], 380, *inner(tokenizer, ") A")],
        "A >>de<< dog": [*tokenizer("A ").input_ids[:-1], 380, *inner(tokenizer, " dog")],
    }
    assert inner(tokenizer, " A dog.") == tokenizer("A dog.").input_ids[:-1]
    for text, ids in expected.items():
        assert tokenizer(text, split_special_tokens=False).input_ids == [*ids, 2]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.removeprefix(">>de<< ").replace(">>de<<", "")
    pair = tokenizer(">>de<< A", "dog", split_special_tokens=False)
    assert pair.input_ids == [380, *tokenizer("A").input_ids, *tokenizer("dog").input_ids]


def test_special_tokens_in_text_are_text_by_default(trained, tokenizer, tmp_path):
    tokenizer.add_special_tokens({"additional_special_tokens": [">>de<<"]})
    tokenizer.save_pretrained(tmp_path)
    for loader in (VaswaniTokenizer, PreTrainedTokenizerFast):
        loaded = loader.from_pretrained(tmp_path)
        for place in PLACES:
            text = place.format(*[">>de<<"] * 3)
            assert loaded(text).input_ids == trained(text).input_ids
            assert loaded.decode(loaded(text).input_ids[:-1]) == text


@pytest.mark.parametrize(("side", "taken"), [("lstrip", r" {}"), ("rstrip", r"{} ")])
def test_a_token_that_takes_the_spaces_beside_it_takes_no_others(tokenizer, side, taken):
    tokenizer.add_tokens([AddedToken("<cut>", **{side: True})])
    for place in PLACES[:8]:
        text = place.format("<cut>", "<cut>")
        ids = tokenizer(text).input_ids
        assert ids.count(380) == text.count("<cut>")
        assert tokenizer.decode(ids[:-1]) == text.replace(taken.format("<cut>"), "<cut>")


def test_masks_and_continuations_have_added_tokens_too(tokenizer, tmp_path):
    tokenizer.add_tokens(["<num>"])
    tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    text = "<mask> dog <mask> <num> (<num>) <mask>, (<mask>)"
    ids = tokenizer(text).input_ids
    assert ids.count(381) == 3 and ids.count(380) == 2 and tokenizer.decode(ids[:-1]) == text
    later = tokenizer.for_continuation()
    for place in PLACES:
        text = place.format(*["<num>"] * 3)
        ids = later(text).input_ids
        assert later.decode(ids, skip_special_tokens=True) == text
        assert "".join(later.decode(part, skip_special_tokens=True) for part in (ids[:2], ids[2:])) == text


def test_chats_have_added_tokens_too(tokenizer, tmp_path):
    tokenizer.add_tokens(["<num>"])
    tokenizer.prepare_for_chat()
    tokenizer.save_pretrained(tmp_path)
    chat = [{"role": "user", "content": "<num> dog"}, {"role": "assistant", "content": "(<num>) </s><|user|>"}]
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = one.apply_chat_template(chat, return_dict=False)
        assert ids.count(380) == 2 and ids.count(2) == 2
        assert one.decode(ids) == one.apply_chat_template(chat, tokenize=False)
        empty = one.apply_chat_template([{"role": "user", "content": ""}], return_dict=False)
        assert one.convert_ids_to_tokens(empty) == ["<s>", "<|user|>", "</s>"]


# Tokenizers of the former pipeline


@pytest.mark.parametrize("loader", [VaswaniTokenizer, AutoTokenizer, PreTrainedTokenizerFast])
def test_a_former_tokenizer_gives_its_ids(trained, tmp_path, loader):
    raw = former(trained, tmp_path)
    raw.encode_special_tokens = True
    loaded = loader.from_pretrained(tmp_path)
    for text in HARD + SENTENCES[:8] + random_texts(500, seed=2):
        expected = raw.encode(text)
        found = loaded(text, return_offsets_mapping=True)
        assert found.input_ids == expected.ids and found.offset_mapping == expected.offsets
        assert loaded.decode(found.input_ids, skip_special_tokens=True) == text


def test_a_former_tokenizer_can_be_given_tokens(trained, tmp_path):
    former(trained, tmp_path)
    for options in ({}, {"extra_special_tokens": [">>de<<"]}):
        tokenizer = VaswaniTokenizer.from_pretrained(tmp_path, **options)
        tokenizer.add_special_tokens({"extra_special_tokens": [">>de<<"]})
        ids = tokenizer(">>de<< A dog", split_special_tokens=False).input_ids
        assert ids == [380, *tokenizer("A dog").input_ids]


def test_a_former_tokenizer_with_added_tokens_keeps_their_ids(trained, tmp_path):
    tokenizer = VaswaniTokenizer.train(
        iter(SENTENCES), 390, show_progress=False, control_tokens=("<num>", *CHAT_TOKENS), mask_token=MASK_TOKEN
    )
    raw = former(tokenizer, tmp_path)
    loaded = VaswaniTokenizer.from_pretrained(tmp_path)
    for text in ("<num> A dog", "A dog <num>, (<num>) dog", "A <mask> dog <|user|>x"):
        assert loaded(text, split_special_tokens=False).input_ids == raw.encode(text).ids
    # Its chat template leaves the spaces to the pipeline.
    assert loaded.prepare_for_chat() == 0 and loaded.chat_template == TEMPLATE_WITHOUT_SPACES
    chat = [{"role": "user", "content": "A dog"}, {"role": "assistant", "content": "</s> dog"}]
    dog, text = (tokenizer(words, add_special_tokens=False).input_ids for words in ("A dog", "</s> dog"))
    user, assistant = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    assert loaded.apply_chat_template(chat, return_dict=False) == [1, user, *dog, 2, assistant, *text, 2]


def test_a_former_tokenizer_with_a_mask_gives_its_ids(tmp_path):
    tokenizer = VaswaniTokenizer.train(iter(SENTENCES), 381, show_progress=False, mask_token=MASK_TOKEN)
    raw = former(tokenizer, tmp_path)
    raw.encode_special_tokens = True
    loaded = VaswaniTokenizer.from_pretrained(tmp_path)
    assert not isinstance(loaded.backend_tokenizer.normalizer, normalizers.Prepend)
    assert isinstance(loaded.backend_tokenizer.pre_tokenizer, pre_tokenizers.Sequence)
    for text in [*HARD, *(place.format(*["<mask>"] * 3) for place in PLACES)]:
        assert loaded(text).input_ids == raw.encode(text).ids
