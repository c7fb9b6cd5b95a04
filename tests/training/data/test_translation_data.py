"""The training data of a recipe in one call: in memory, from the cache, by weights, as a stream."""

import json
import logging

import numpy as np
import pytest

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.batching import BatchPlan, WeightedPlan, pair_sides
from vaswani_tx.training.data.parallel import load_parallel, tokenize_parallel
from vaswani_tx.training.data.streaming import PairStream
from vaswani_tx.training.data.translation_data import prepare_training_data
from vaswani_tx.training.errors import DataError


def sides_of(pairs, *budgets):
    return pair_sides(pairs.source_lengths, pairs.target_lengths, *budgets)


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(["dog cat mouse", "Hund Katze Maus"] * 3), vocab_size=280, show_progress=False)


@pytest.fixture
def recipe(tmp_path):
    """A recipe with a cache of its own; `recipe(key=value)` gives it with other keys."""
    for name, size in (("a", 60), ("b", 20)):
        for side, word in (("en", "dog"), ("de", "Hund")):
            lines = [f"{name} {(word + ' ') * (i % 4 + 1)}{i}" for i in range(size)]
            (tmp_path / f"{name}.{side}").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def make(**values):
        both = {"source": "a.en", "target": "a.de"}, {"source": "b.en", "target": "b.de", "weight": 1.5}
        given = {"output_dir": "out", "data_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache"), "seed": 7,
                 "max_source_tokens": 256, "max_target_tokens": 300, "corpora": list(both)} | values  # fmt: skip
        return TranslationSettings(**given)

    return make


ONE = {"corpora": None, "train_source": "a.en", "train_target": "a.de"}


def test_one_corpus_gives_the_plan_and_batches_of_the_plain_functions(recipe, tokenizer, tmp_path):
    pairs = tokenize_parallel(load_parallel(tmp_path / "a.en", tmp_path / "a.de"), tokenizer, 256, 256)
    plan = BatchPlan(sides_of(pairs, 256, 300), seed=7, pad_to_multiple_of=4)
    for _ in ("made", "reused"):
        data = prepare_training_data(recipe(**ONE), tokenizer, pad_to_multiple_of=4)
        assert type(data.plan) is BatchPlan and data.describe() == "60 pairs"
        for one, other in zip(data.plan.epoch(3), plan.epoch(3), strict=True):
            assert np.array_equal(one, other)
        batch = data.collate(plan.epoch(0)[0])
        assert batch["input_ids"].shape[1] % 4 == batch["labels"].shape[1] % 4 == 0
        i = plan.epoch(0)[0][0]
        assert batch["input_ids"][0].tolist()[: pairs.source_lengths[i]] == pairs.source_ids(i).tolist()


def test_weights_make_another_plan_and_are_reported(recipe, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        data = prepare_training_data(recipe(), tokenizer)
    assert isinstance(data.plan, WeightedPlan) and len(np.concatenate(data.plan.epoch(0))) == 90
    assert "b.en: 20 pairs, weight 1.5: 30 or 33.3 % of an epoch" in caplog.text
    content = json.loads(json.dumps(data.to_dict()))
    assert [entry["share"] for entry in content["corpora"]] == pytest.approx([2 / 3, 1 / 3])
    assert content["counts"]["kept"] == 80 and content["filters"]["min_length"] == 1
    assert content["token_cache"] == data.cache_folder
    equal = [{"source": f"{name}.en", "target": f"{name}.de"} for name in "ab"]
    plain = prepare_training_data(recipe(corpora=equal), tokenizer)
    assert type(plain.plan) is BatchPlan and plain.cache_folder == data.cache_folder
    assert [entry["share"] for entry in plain.to_dict()["corpora"]] == [0.75, 0.25]


def test_the_cache_can_be_left_out(recipe, tokenizer, tmp_path):
    data = prepare_training_data(recipe(token_cache=False), tokenizer)
    assert data.cache_folder is None and not (tmp_path / "cache").exists() and len(data.pairs) == 80


def test_a_stream_is_read_in_buffers_and_collated_from_the_current_one(recipe, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        data = prepare_training_data(recipe(streaming=True, stream_buffer=25), tokenizer)
    assert isinstance(data.plan, PairStream) and data.pairs is data.plan.examples and data.describe() == "a stream"
    assert "b.en: weight 1.5, 60.0 % of the stream" in caplog.text
    for epoch in (0, 1, 4):
        for batch in data.plan.epoch(epoch):
            labels = data.collate(batch)["labels"]
            for row, index in zip(labels, batch, strict=True):
                ids = row[row >= 0].tolist()
                file, line = data.pairs.locate(index).split(" line ")
                text = f"{file[-4]} {'Hund ' * ((int(line) - 1) % 4 + 1)}{int(line) - 1}"
                assert tokenizer.decode(ids, skip_special_tokens=True) == text
                assert len(ids) == data.pairs.target_lengths[index]
    content = data.to_dict()
    assert content["streaming"] and content["counts"]["read"] == 75
    assert [entry["share"] for entry in content["corpora"]] == [0.4, 0.6]


def test_quiet_processes_log_nothing(recipe, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        for changes in ({}, {"min_length": 4}, {"streaming": True}):
            prepare_training_data(recipe(**changes), tokenizer, quiet=True).plan.epoch(0)
    assert not [record for record in caplog.records if record.name.startswith("vaswani_tx")]


def test_filters_of_the_recipe_are_used(recipe, tokenizer):
    for streaming in (False, True):
        with pytest.raises(DataError, match=r"Most, 60, were pairs under 200 tokens. Lower min_length"):
            prepare_training_data(recipe(**ONE, min_length=200, streaming=streaming), tokenizer).plan.epoch(0)
