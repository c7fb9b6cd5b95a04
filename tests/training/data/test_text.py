"""Text for language models: documents, blocks, packed rows whose loss is that of the documents one by one."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vaswani_tx import (
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForMaskedLM,
    VaswaniTokenizer,
)
from vaswani_tx.training.config.language_modeling import CausalSettings, MaskedSettings
from vaswani_tx.training.data.language_data import TextStream, prepare_language_data
from vaswani_tx.training.data.masking import SPECIAL, START, Masker
from vaswani_tx.training.data.packing import BlockMaker, collate_rows, make_rows, pack
from vaswani_tx.training.data.readers import Chunk
from vaswani_tx.training.data.text import TextCorpus, text_corpora_of
from vaswani_tx.training.errors import DataError


@pytest.fixture(scope="module")
def tokenizer(language):
    return VaswaniTokenizer.from_pretrained(language / "tokenizer")


def blocks_of(tokenizer, file, masked, length=24):
    maker = BlockMaker(tokenizer, length, masked, [str(file)])
    maker.add(TextCorpus(str(file)).chunks(maker.counts))
    return maker.result()


def text(folder, content, name="x.txt"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Packing is exact


def loss_and_gradients(model, batches, items):
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=items, skip_logits=True).loss
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_packed_rows_have_the_loss_and_the_gradients_of_their_documents(
    language, tokenizer, kind, attention, dtype, tolerance
):
    masked = kind == "masked"
    blocks = blocks_of(tokenizer, language / "a.txt", masked)
    packed, single = make_rows(blocks, 64, (1,)), make_rows(blocks, None, ())
    assert len(packed) < len(single) / 2
    config, model_class = (
        (VaswaniEncoderConfig, VaswaniForMaskedLM) if masked else (VaswaniDecoderConfig, VaswaniForCausalLM)
    )
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_hidden_layers": 2, "dropout": 0.0}
    model = model_class(config(vocab_size=len(tokenizer), **sizes)).to(dtype)
    model.set_attn_implementation(attention)
    masker = Masker.of(tokenizer)
    # The masks of the packed rows' documents, for the same documents one by one.
    seen, of_block = {}, {}
    for row in range(len(packed)):
        pair = masker(packed.ids_of(row), packed.words_of(row), 0, row) if masked else None
        seen[row] = pair
        places = packed._order[packed._block_offsets[row] : packed._block_offsets[row + 1]]
        start = 0
        for block in places if masked else ():
            length = int(blocks.offsets[block + 1] - blocks.offsets[block])
            of_block[int(block)] = tuple(side[start : start + length] for side in pair)
            start += length

    def batches(rows, masks, is_packed):
        for part in np.array_split(np.arange(len(rows)), 5):
            chosen = [masks[int(i)] for i in part] if masked else None
            yield collate_rows(rows, part, tokenizer.pad_token_id, is_packed, masked=chosen)

    items = sum(int((labels != -100).sum()) for _, labels in of_block.values()) or int(packed.predicted.sum())
    loss, gradients = loss_and_gradients(model, batches(packed, seen, True), items)
    expected, wanted = loss_and_gradients(model, batches(single, of_block, False), items)
    assert loss == pytest.approx(expected, rel=0, abs=10 * tolerance)
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=tolerance, msg=name)


def test_the_divisor_is_the_number_of_labels(language, tokenizer):
    rows = make_rows(blocks_of(tokenizer, language / "a.txt", False), 24, (1,))
    for row in range(len(rows)):
        labels = collate_rows(rows, np.array([row]), 0, True)["labels"]
        assert rows.predicted[row] == int((labels[:, 1:] != -100).sum()) == int((labels != -100).sum())


# Blocks


@pytest.mark.parametrize("length", [8, 24, 1000])
def test_every_token_but_the_first_is_predicted_once(language, tokenizer, length):
    blocks = blocks_of(tokenizer, language / "a.txt", False, length)
    rows = make_rows(blocks, None, ())
    lines = (language / "a.txt").read_text(encoding="utf-8").splitlines()
    expected = [[1, *tokenizer(line, add_special_tokens=False).input_ids, 2] for line in lines]
    assert rows.lengths.max() <= length
    found = {number: [1] for number in range(1, len(lines) + 1)}
    for row in range(len(rows)):
        line = int(rows.locate(row).rpartition(" ")[2])
        batch = collate_rows(rows, np.array([row]), 0, True)
        labels = batch["labels"][0]
        assert batch["input_ids"][0, 0] == found[line][-1], "a block begins with the last token of the one before"
        found[line] += labels[labels != -100].tolist()
    assert [found[number] for number in range(1, len(lines) + 1)] == expected


def test_masked_blocks_hold_every_token_once_and_end_with_words(language, tokenizer):
    blocks = blocks_of(tokenizer, language / "a.txt", True, 10)
    lines = (language / "a.txt").read_text(encoding="utf-8").splitlines()
    assert blocks.ids.tolist() == [token for line in lines for token in tokenizer(line).input_ids]
    first = blocks.offsets[:-1]
    assert np.diff(blocks.offsets).max() <= 10
    assert (blocks.words[first] == START).all(), "no word here is as long as a block: none is cut"
    assert (blocks.words[blocks.ids == 2] == SPECIAL).all()


def test_words_are_those_of_the_tokenizer(tokenizer):
    maker = BlockMaker(tokenizer, 64, True, ["x"])
    line = "bade don't  <mask> du. 27"
    maker.add([Chunk("x", np.array([1]), [line], [line])])
    ((ids, kinds),) = maker.blocks(0)
    words = []
    for token, kind in zip(ids, kinds, strict=True):
        if kind == START:
            words.append([])
        if kind != SPECIAL:
            words[-1].append(int(token))
    # A double space leaves one alone; numbers part at every digit; the mask that is there and </s> are no words.
    assert [tokenizer._tokenizer.decode(word) for word in words] == ["bade", "don't", "", "du", ".", "2", "7"]


def test_packing_uses_every_block_once_and_wastes_little():
    lengths = np.random.default_rng(0).integers(3, 30, size=3000)
    order, offsets = pack(lengths, 64, np.random.default_rng([1]))
    assert sorted(order.tolist()) == list(range(3000)) and offsets[0] == 0 and offsets[-1] == 3000
    sizes = np.add.reduceat(lengths[order], offsets[:-1])
    assert sizes.max() <= 64
    assert lengths.sum() / (64 * len(sizes)) > 0.985
    again = pack(lengths, 64, np.random.default_rng([1]))
    assert (again[0] == order).all() and (pack(lengths, 64, np.random.default_rng([2]))[0] != order).any()


# Documents


def documents(path, **options):
    return [
        (int(line), text)
        for chunk in TextCorpus(str(path), **options).chunks()
        for line, text in zip(chunk.lines, chunk.source, strict=True)
    ]


def test_lines_and_paragraphs(tmp_path):
    path = text(tmp_path, "\n \na b\nc\n\n\nd\n\t\ne")
    assert documents(path) == [(3, "a b"), (4, "c"), (7, "d"), (9, "e")]
    assert documents(path, documents="paragraph") == [(3, "a b\nc"), (7, "d"), (9, "e")]
    with pytest.raises(DataError, match=r"x\.txt line 1 holds no text.*empty_lines: drop"):
        documents(path, empty="error")


def test_other_formats_and_a_folder_of_them(tmp_path):
    rows = [{"id": 1, "body": "a b"}, {"id": 2, "body": ""}, {"id": 3, "body": "c"}]
    text(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "x.jsonl")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.parquet"):
        assert documents(tmp_path / name, field="body") == [(1, "a b"), (3, "c")]
    folder = tmp_path / "set"
    folder.mkdir()
    text(folder, "".join(json.dumps(row) + "\n" for row in rows), "train.jsonl")
    assert documents(folder, field="body") == [(1, "a b"), (3, "c")]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.txt", b"fine\nsch\xf6n\n", r"x\.txt, line 2: byte 4 .*UTF-8.* remove the line\.$"),
        ("x.txt", b"", r"x\.txt is an empty file"),
        ("x.txt", b"\n \n", r"x\.txt holds no document with text"),
        ("x.jsonl", b'{"txt": "a"}\n', r"x\.jsonl, line 1: no field 'text'.*'txt'.*Set text_field\."),
        ("x.jsonl", b'{"text": "a"}\n{"text": 3}\n', r"x\.jsonl, line 2: field 'text' holds 3"),
        ("x.jsonl", b"[1]\n", r"line 1: an object with named fields"),
        ("x.parquet", b"PAR1", r"x\.parquet: cannot be read as Parquet"),
    ],
)
def test_errors_name_file_line_and_fix(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        documents(text(tmp_path, content, name))


def test_a_missing_file_is_named(tmp_path):
    text(tmp_path, "a\n", "train.txt")
    with pytest.raises(DataError, match=r"trian\.txt: there is no such file.*Did you mean .*train\.txt"):
        documents(tmp_path / "trian.txt")


# Recipes


def settings_of(language, settings_class=CausalSettings, **changes):
    values = {"data_dir": str(language), "train_text": ["a.txt"], "tokenizer": "x", "row_length": 24}
    return settings_class(**values | {"batch_tokens": 72, "preset": "tiny"} | changes)


def test_relative_names_start_from_data_dir(language):
    (corpus,) = text_corpora_of(settings_of(language))
    assert corpus.files == [str(language / "a.txt")]
    for name, is_set in (
        ("owner/set", True),
        ("owner/set.v2", True),
        ("set", True),
        ("b.txt", False),
        ("d/b.en", False),
    ):
        assert text_corpora_of(settings_of(language, train_text=[name]))[0].from_hub == is_set


def test_weights_repeat_a_corpus(language, tokenizer, tmp_path):
    text(tmp_path, "da de\ndu\n", "b.txt")
    corpora = [{"text": "a.txt"}, {"text": str(tmp_path / "b.txt"), "weight": 3}]
    data = prepare_language_data(settings_of(language, train_text=None, corpora=corpora), tokenizer, False)
    places = [data.rows.locate(int(i)) for batch in data.plan.epoch(0) for i in batch]
    assert sum("b.txt" in place for place in places) == 3 * 1
    assert not any("a.txt" in place and "b.txt" in place for place in places)
    assert data.to_dict()["corpora"][1]["weight"] == 3


def test_what_was_left_out_and_the_waste_are_told(language, tokenizer, tmp_path, caplog):
    text(tmp_path, "da de\n\ndu do\n")
    with caplog.at_level(logging.INFO):
        data = prepare_language_data(settings_of(tmp_path, train_text=["x.txt"]), tokenizer, False)
    assert "2 of 3 documents are left; 1 held no text" in caplog.text and "x.txt line 2" in caplog.text
    assert data.describe() == "2 blocks of 2 documents in 1 rows of 24 (66.7 % empty)"
    assert data.to_dict()["waste"] == pytest.approx(16 / 24)
    data = prepare_language_data(settings_of(tmp_path, train_text=["x.txt"], packing=False), tokenizer, False)
    batch = data.collate(np.arange(2))
    assert set(batch) == {"input_ids", "labels", "attention_mask"} and batch["input_ids"].shape == (2, 4)


# Streams


def test_a_stream_gives_the_same_rows_from_any_piece_on(language, tokenizer):
    settings = settings_of(language, MaskedSettings, streaming=True, stream_buffer=25)

    def contents(first):
        data = prepare_language_data(settings, tokenizer, True)
        found = []
        for number in range(first, 5):
            for batch in data.plan.epoch(number):
                rows = data.rows
                found.append([rows.ids_of(i).tolist() for i in batch])
        return data, found

    data, everything = contents(0)
    assert isinstance(data.plan, TextStream) and [data.plan.passes(k) for k in range(6)] == [0, 0, 0, 1, 1, 1]
    skipped = sum(len(prepare_language_data(settings, tokenizer, True).plan.epoch(k)) for k in (0, 1))
    assert contents(2)[1] == everything[skipped:]
    whole = prepare_language_data(settings_of(language, MaskedSettings), tokenizer, True).rows
    fresh = prepare_language_data(settings, tokenizer, True)
    first_pass = [token for k in range(3) if fresh.plan.epoch(k) for token in fresh.rows.ids.tolist()]
    assert sorted(first_pass) == sorted(whole.ids.tolist())
