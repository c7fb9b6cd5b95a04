"""Tokenizers that come along with models of transformers: the same ids and texts as the original classes."""

import json

from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    FSMTConfig,
    FSMTForConditionalGeneration,
    FSMTTokenizer,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OpenAIGPTTokenizer,
)

from tests.helpers.foreign_models import ENGLISH, WORDS, sentences
from vaswani_tx.convert import convert

SMALL = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def merges_of(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return units with `</w>` at the ends of words, and merges that make the first three letters of words."""
    letters = sorted(set("".join(words)))
    units = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = list(dict.fromkeys((word[0], word[1]) for word in words))
    merges += list(dict.fromkeys((word[:2], word[2]) for word in words if len(word) > 3))
    merges += list(dict.fromkeys((word[-2], word[-1] + "</w>") for word in words if len(word) > 4))
    return list(dict.fromkeys([*units, *("".join(pair) for pair in merges)])), merges


def test_fsmt_of_two_vocabularies_on_text_that_is_split_into_words(tmp_path):
    source = tmp_path / "from"
    units, merges = merges_of(ENGLISH + WORDS)
    sides = {"src": units[:-1], "tgt": units[::-1]}
    tables = {
        side: {text: index for index, text in enumerate(["<s>", "<pad>", "</s>", "<unk>", *texts])}
        for side, texts in sides.items()
    }
    sizes = {f"{side}_vocab_size": len(table) for side, table in tables.items()}
    FSMTForConditionalGeneration(FSMTConfig(**SMALL, **HEADS, **sizes)).save_pretrained(source)
    for side, table in tables.items():
        (source / f"vocab-{side}.json").write_text(json.dumps(table), encoding="utf-8")
    (source / "merges.txt").write_text("".join(f"{left} {right} 7\n" for left, right in merges), encoding="utf-8")
    report = convert(source, tmp_path / "out", verify=False)
    assert any("Moses has split" in note for note in report.notes)
    original = FSMTTokenizer.from_pretrained(source, langs=["en", "de"])
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours.has_target and (len(ours.source), len(ours.target)) == (len(tables["src"]), len(tables["tgt"]))
    for text in [*sentences(ENGLISH, 40), "the xyz dog", "日本 dog", ""]:
        text = text.replace(".", "")
        tokens = [token for word in text.split() for token in original.bpe(word).split(" ")]
        ids = [tables["src"].get(token, tables["src"]["<unk>"]) for token in tokens]
        assert ours(text)["input_ids"] == [*ids, 2], text
    for text in (sentence.replace(".", "").replace("Ü", "ü") for sentence in sentences(WORDS, 40)):
        ids = ours(text_target=text)["input_ids"]
        if tables["tgt"]["<unk>"] not in ids:
            assert ours.decode(ids, skip_special_tokens=True) == text


def test_gpt(tmp_path):
    source = tmp_path / "from"
    units, merges = merges_of(ENGLISH)
    table = {text: index for index, text in enumerate(["<unk>", ".</w>", *units])}
    fields = {"vocab_size": len(table), "n_positions": 30, "n_embd": 8, "n_layer": 1, "n_head": 2}
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(**fields)).save_pretrained(source)
    original = OpenAIGPTTokenizer(vocab=table, merges=merges)
    original.save_pretrained(source)
    convert(source, tmp_path / "out", verify=False)
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in [*sentences(ENGLISH, 40), "The Dog, xyz", ""]:
        ids = original(text)["input_ids"]
        assert ours(text)["input_ids"] == ids and ours.decode(ids) == original.decode(ids), text


def test_bert(tmp_path):
    source = tmp_path / "from"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "dog",
        "##s",
        "hous",
        "##e",
        "##es",
        ".",
        "run",
        "ein",
    ]
    fields = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), **fields)).save_pretrained(source)
    original = BertTokenizer(vocab={text: index for index, text in enumerate(words)})
    original.save_pretrained(source)
    convert(source, tmp_path / "out", verify=False)
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours.mask_token_id == 4 and ours.cls_token_id == 2 and ours.pad_token_id == 0
    for text in ["The dogs run.", "houses of dogs", "a [MASK] runs", "the dog [MASK] .", ""]:
        assert ours(text)["input_ids"] == original(text)["input_ids"], text
        ids = original(text)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=True) == original.decode(ids, skip_special_tokens=True)
    assert ours("the dog", "ein dog")["input_ids"] == original("the dog", "ein dog")["input_ids"]
