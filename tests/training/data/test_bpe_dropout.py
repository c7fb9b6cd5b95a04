"""BPE-dropout: the paper's algorithm word by word, the same draws whoever makes them, batches of an epoch's lengths."""

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.helpers.training_runs import flags, run
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training import train_translation
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.bpe_dropout import BpeDropout, Merges
from vaswani_tx.training.data.translation_data import prepare_training_data
from vaswani_tx.training.data.whole_words import add_whole_words
from vaswani_tx.training.errors import DataError

MASK = (1 << 64) - 1
SYLLABLES = ["ba", "be", "bi", "bo", "bu", "dda", "dde", "di", "lo", "lu", "ü", "ß", "'", "1", "2", ". ", "  ", "日本"]


def texts(count, seed):
    random = np.random.default_rng(seed)
    return ["x" + "".join(random.choice([*SYLLABLES, " ", " "], size=random.integers(1, 14))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(texts(300, 0)), vocab_size=420, show_progress=False)


@pytest.fixture
def recipe(tmp_path):
    """A recipe of 50 pairs; `recipe(key=value)` gives it with other keys."""
    for number, side in enumerate(("src", "tgt"), start=1):
        (tmp_path / f"a.{side}").write_text("\n".join(texts(50, number)) + "\n", encoding="utf-8")

    def make(**values):
        given = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache"), "seed": 7, "bpe_dropout": 0.3,
                 "max_source_tokens": 300, "max_target_tokens": 260} | values  # fmt: skip
        if "corpora" not in given:
            given |= {"train_source": "a.src", "train_target": "a.tgt"}
        return TranslationSettings(**given)

    return make


# The reference: Python's whole numbers, one word at a time.


def mix(value):
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def fold(*numbers):
    key = 0
    for number in numbers:
        key = mix(key + (number + 1) * 0x9E3779B97F4A7C15 & MASK)
    return key


def split_plainly(word, ranks, rate, key):
    """Algorithm 1 of the paper: of the possible merges each is left out with probability `rate`, at every step."""
    symbols, step = list(word), 0
    while True:
        kept = []
        for place, pair in enumerate(pairwise(symbols)):
            number = mix(key + ((step << 32) + place + 1) * 0x9E3779B97F4A7C15 & MASK) >> 11
            if pair in ranks and not number / 2**53 < rate:
                kept.append((ranks[pair], place))
        if not kept:
            return symbols
        _, place = min(kept)
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
        step += 1


@cache
def ranks_of(tokenizer):
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return {tuple(pair): rank for rank, pair in enumerate(merges)}


def expected(tokenizer, text, rate, *numbers):
    """The ids of a text by the reference; `numbers` are seed, epoch, side and example."""
    backend, ranks = tokenizer.backend_tokenizer, ranks_of(tokenizer)
    words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
    tokens = [t for i, (word, _) in enumerate(words) for t in split_plainly(word, ranks, rate, fold(*numbers, i))]
    return [*tokenizer.convert_tokens_to_ids(tokens), tokenizer.eos_token_id]


def ids_of(pairs, side):
    return [getattr(pairs, f"{side}_ids")(i).tolist() for i in range(len(pairs))]


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_every_word_is_split_as_the_papers_algorithm_does(recipe, tokenizer, rate):
    data = prepare_training_data(recipe(bpe_dropout=rate), tokenizer)
    data.plan.epoch(3)
    pairs, changed = data.pairs, 0
    for number, side in enumerate(("source", "target")):
        for i, text in enumerate(texts(50, number + 1)):
            found = getattr(pairs, f"{side}_ids")(i).tolist()
            assert found == expected(tokenizer, text, rate, 7, 3, number, i), (side, i)
            assert tokenizer.decode(found, skip_special_tokens=True) == text
            changed += found != tokenizer(text)["input_ids"]
    assert changed > 60 if rate > 0.5 else changed > 10


def test_zero_gives_the_tokenizers_own_tokens_and_one_gives_bytes(recipe, tokenizer):
    data = prepare_training_data(recipe(), tokenizer)
    plain = replace(data.dropout, rate=0.0).pairs_of(data.all_pairs, 1)
    for side in ("source", "target"):
        assert ids_of(plain, side) == ids_of(data.all_pairs, side)
    limits = dict.fromkeys(("source", "target"), 10_000)
    whole = replace(data.dropout, rate=1.0, limits=limits).pairs_of(data.all_pairs, 1)
    for i, text in enumerate(texts(50, 1)):
        # One space in front, and each byte a token.
        assert len(whole.source_ids(i)) == len(f" {text}".encode()) + 1
        assert tokenizer.decode(whole.source_ids(i), skip_special_tokens=True) == text


def test_an_epoch_is_the_same_whoever_makes_it_and_others_differ(recipe, tokenizer, monkeypatch):
    one = prepare_training_data(recipe(), tokenizer)
    monkeypatch.setattr("vaswani_tx.training.data.bpe_dropout.CHUNK", 29)
    other = prepare_training_data(recipe(token_cache=False), tokenizer)
    assert one.cache_folder and other.cache_folder is None
    first = [ids_of(one.pairs, "source")]
    for epoch in (2, 1, 2):
        batches = one.plan.epoch(epoch)
        for a, b in zip(batches, other.plan.epoch(epoch), strict=True):
            assert np.array_equal(a, b)
        for side in ("source", "target"):
            assert ids_of(one.pairs, side) == ids_of(other.pairs, side)
        first.append(ids_of(one.pairs, "source"))
    assert first[1] == first[3] and first[0] != first[1] != first[2]
    again = prepare_training_data(recipe(seed=8), tokenizer)
    assert ids_of(again.pairs, "source") != first[0]
    assert one.fixed_pairs is one.all_pairs and one.to_dict()["bpe_dropout"]["sides"] == ["source", "target"]


def test_batches_are_cut_by_the_epochs_lengths_and_stay_within_the_budgets(recipe, tokenizer):
    limits = {"max_source_length": 21, "max_target_length": 300, "max_source_tokens": 22, "max_target_tokens": 300}
    data = prepare_training_data(recipe(bpe_dropout=1.0, **limits), tokenizer, pad_to_multiple_of=4)
    kept = 0
    for epoch in (0, 5):
        batches = data.plan.epoch(epoch)
        assert sorted(np.concatenate(batches)) == list(range(len(data.all_pairs)))
        for batch in batches:
            inputs = data.collate(batch)
            assert inputs["input_ids"].numel() <= 22 and inputs["labels"].numel() <= 300
        for i in range(len(data.pairs)):
            assert data.pairs.locate(i) == data.all_pairs.locate(i)
            if len(data.pairs.source_ids(i)) == len(data.all_pairs.source_ids(i)):
                kept += 1
    assert kept > 4, "an example that would be over its limit keeps its plain tokens"
    assert data.plan.padding_waste(batches).total < 0.5


def test_one_side_alone_weights_and_streams(recipe, tokenizer):
    data = prepare_training_data(recipe(bpe_dropout_sides="target"), tokenizer)
    assert ids_of(data.pairs, "source") == ids_of(data.all_pairs, "source")
    assert ids_of(data.pairs, "target") != ids_of(data.all_pairs, "target")
    corpora = [{"source": "a.src", "target": "a.tgt", "weight": 2.5}]
    data = prepare_training_data(recipe(corpora=corpora), tokenizer)
    data.plan.epoch(1)
    assert len(data.pairs) == len(data.plan) == 125 and data.to_dict()["corpora"][0]["pairs_of_an_epoch"] == 125
    lines, sources = data.pairs.lines.tolist(), ids_of(data.pairs, "source")
    copies = [sources[i] == sources[i + 1] for i in range(124) if lines[i] == lines[i + 1]]
    assert len(copies) == 75 and sum(copies) < 40, "copies of a pair are split each in its own way"
    streams = [prepare_training_data(recipe(streaming=True, stream_buffer=20), tokenizer) for _ in range(2)]
    for order, stream in zip(((0, 1, 3), (3, 0, 1)), streams, strict=True):
        found = {}
        for buffer in order:
            stream.plan.epoch(buffer)
            found[buffer] = ids_of(stream.pairs, "source")
        stream.found = found
    assert streams[0].found == streams[1].found
    lines = stream.pairs.lines
    assert found[1][0] == expected(tokenizer, texts(50, 1)[lines[0] - 1], 0.3, 7, 1, 0, 0)


def test_two_vocabularies_are_split_by_their_own_merges(recipe, tokenizer):
    other = VaswaniTokenizer.train(iter(texts(100, 5)), vocab_size=300, show_progress=False)
    data = prepare_training_data(recipe(source_vocab_size=420), VaswaniTokenizer.pair(tokenizer, other))
    for side, own, number in (("source", tokenizer, 0), ("target", other, 1)):
        text = texts(50, number + 1)[11]
        assert ids_of(data.pairs, side)[11] == expected(own, text, 0.3, 7, 0, number, 11)


def test_whole_words_and_added_tokens_stay_whole(recipe, tokenizer, tmp_path):
    made = add_whole_words(tokenizer, ["(ba", "lo"])
    made.add_tokens([">>de<<"])
    (tmp_path / "w.src").write_text(">>de<< (ba lo lo lolo\n", encoding="utf-8")
    corpora = [{"source": "w.src", "target": "w.src"}]
    data = prepare_training_data(recipe(bpe_dropout=1.0, corpora=corpora), made)
    tokens = made.convert_ids_to_tokens(data.pairs.source_ids(0).tolist())
    assert tokens == [">>de<<", "Ġ(ba", "Ġlo", "Ġlo", "Ġ", "l", "o", "l", "o", "</s>"]


def test_what_has_no_merges_is_refused_and_so_is_a_pipeline_that_does_more(recipe, tokenizer):
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(texts(50, 0), trainer)
    with pytest.raises(DataError, match="bpe_dropout: the source's vocabulary is Unigram, which has no merges"):
        prepare_training_data(recipe(), VaswaniTokenizer(tokenizer_object=backend))
    merges = Merges(tokenizer)
    merges._ranks, merges._results[:-1] = merges.none - 1 - merges._ranks, merges._results[:-1][::-1].copy()
    made = BpeDropout(0.1, 1, {"source": merges}, {"source": 99})
    with pytest.raises(DataError, match=r"other tokens than its merges do, as in .*a\.src line 1:"):
        made.check(prepare_training_data(recipe(), tokenizer).all_pairs)


@pytest.mark.fresh
def test_a_run_that_was_stopped_resumes_bit_for_bit(reversal, tmp_path, fresh_accelerate):
    options = {"bpe_dropout": 0.4, "max_steps": 9, "accumulation_steps": 2, "average_last": 1,
               "max_source_tokens": 120, "max_target_tokens": 120, "cache_dir": tmp_path / "cache"}  # fmt: skip
    whole = run(reversal, tmp_path / "whole", **options)
    run(reversal, tmp_path / "parts", **{**options, "max_steps": 5})
    parts = run(reversal, tmp_path / "parts", **options)
    name = "checkpoints/step-00000009/model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_rate_that_is_none_is_an_error(reversal, tmp_path, capsys):
    assert train_translation.main(flags(reversal, tmp_path / "run", bpe_dropout=1.5)) == 2
    assert "bpe_dropout must be from 0 to 1, got 1.5." in capsys.readouterr().err
