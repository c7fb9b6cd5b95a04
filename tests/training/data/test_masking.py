"""Masks of whole words: the right number of them, replaced as they should be, the same for seed, epoch and row."""

import numpy as np
import pytest
import torch

from tests.helpers.language_runs import WORDS
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training.config.language_modeling import MaskedSettings
from vaswani_tx.training.data.language_data import prepare_language_data
from vaswani_tx.training.data.masking import IGNORED_LABEL, INNER, SPECIAL, START, Masker
from vaswani_tx.training.data.packing import BlockMaker
from vaswani_tx.training.data.readers import Chunk
from vaswani_tx.training.errors import MaskingError, SettingsError
from vaswani_tx.training.tasks.language_modeling import MaskedTask


@pytest.fixture(scope="module")
def tokenizer(language):
    return VaswaniTokenizer.from_pretrained(language / "tokenizer")


@pytest.fixture(scope="module")
def row(tokenizer):
    """1000 words in one row, and what its tokens are."""
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS, size=10)) for _ in range(100)]
    maker = BlockMaker(tokenizer, 500, True, ["x"])
    maker.add([Chunk("x", np.arange(100) + 1, lines, lines)])
    blocks = maker.result()
    assert (blocks.words == START).sum() == 1000 and (blocks.words == INNER).sum() > 300
    return blocks.ids, blocks.words


def words_of(kinds):
    return np.cumsum(kinds == START) - 1


def test_whole_words_are_chosen_and_as_many_as_asked_for(tokenizer, row):
    ids, kinds = row
    shares = []
    for epoch in range(20):
        seen, labels = Masker.of(tokenizer)(ids, kinds, epoch, 3)
        chosen = labels != IGNORED_LABEL
        assert (labels[chosen] == ids[chosen]).all() and (seen[~chosen] == ids[~chosen]).all()
        assert not chosen[kinds == SPECIAL].any()
        number = words_of(kinds)
        wanted = np.unique(number[chosen])
        assert chosen[kinds != SPECIAL].tolist() == np.isin(number, wanted)[kinds != SPECIAL].tolist(), "whole words"
        shares.append(len(wanted) / 1000)
    assert set(shares) == {0.15}, "1000 words are masked to the word"
    assert len({tuple(Masker.of(tokenizer).chosen(kinds, epoch, 3)[0]) for epoch in range(20)}) == 20


def test_a_share_that_is_no_whole_number_is_kept_on_average(tokenizer):
    kinds = np.array([START, INNER, START, START, START, SPECIAL] * 2)  # 8 words: 1.2 of them
    counts = [
        len(np.unique(words_of(kinds)[Masker.of(tokenizer).chosen(kinds, 0, number)[0]])) for number in range(4000)
    ]
    assert set(counts) == {1, 2}
    assert np.mean(counts) == pytest.approx(1.2, abs=0.03)
    alone = np.array([START, SPECIAL])
    assert all(Masker.of(tokenizer).chosen(alone, 0, number)[0][0] for number in range(50)), "never nothing to learn"


def test_80_10_10(tokenizer, row):
    ids, kinds = row
    masks = random = same = total = 0
    others = []
    for epoch in range(100):
        seen, labels = Masker.of(tokenizer)(ids, kinds, epoch, 0)
        chosen = labels != IGNORED_LABEL
        masks += int((seen[chosen] == tokenizer.mask_token_id).sum())
        same += int((seen[chosen] == ids[chosen]).sum())
        swapped = chosen & (seen != tokenizer.mask_token_id) & (seen != ids)
        random += int(swapped.sum())
        others += seen[swapped].tolist()
        total += int(chosen.sum())
    # 20,000 tokens or more: three standard deviations of a share are below 0.01.
    assert masks / total == pytest.approx(0.8, abs=0.01)
    assert random / total == pytest.approx(0.1, abs=0.01)
    assert same / total == pytest.approx(0.1, abs=0.01)
    assert set(others) == set(range(5, len(tokenizer))), "any token may come but the five special ones"


def test_a_mask_depends_on_seed_epoch_and_row_alone(tokenizer, row):
    ids, kinds = row
    first = Masker.of(tokenizer, seed=1)(ids, kinds, 2, 3)
    again = Masker.of(tokenizer, seed=1)(ids, kinds, 2, 3)
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    for seed, epoch, number in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert (Masker.of(tokenizer, seed=seed)(ids, kinds, epoch, number)[1] != first[1]).any()


def test_rates_can_be_chosen(tokenizer, row):
    ids, kinds = row
    seen, labels = Masker.of(tokenizer, rate=1.0, as_mask=0.0, as_random=0.0)(ids, kinds, 0, 0)
    assert (seen == ids).all() and ((labels != IGNORED_LABEL) == (kinds != SPECIAL)).all()


def test_a_tokenizer_without_a_mask_is_refused():
    tokenizer = VaswaniTokenizer.train(iter(["da de"] * 3), 262, show_progress=False)
    with pytest.raises(MaskingError, match=r"no mask token.*mask_token="):
        Masker.of(tokenizer)


@pytest.mark.parametrize("keys", [{"mask_rate": 0.0}, {"mask_rate": 1.5}, {"mask_as_mask": 0.9, "mask_as_random": 0.2}])
def test_shares_are_checked(keys):
    with pytest.raises(SettingsError, match="|".join(keys)):
        MaskedSettings(**keys)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_divisor_is_that_of_the_masks_of_the_epoch(language, tokenizer, streaming):
    settings = MaskedSettings(
        data_dir=str(language), train_text=["a.txt"], tokenizer="x", row_length=24, batch_tokens=72, preset="tiny",
        streaming=streaming, stream_buffer=25,
    )  # fmt: skip
    data = prepare_language_data(settings, tokenizer, True)
    task = MaskedTask(Masker.of(tokenizer), data, tokenizer, [], settings, {})
    assert task.in_buffers == streaming
    counts, labels = [], {}
    for epoch in (0, 1, 2, 1):
        counts.append([])
        for batch in task.epoch(epoch):
            inputs = task.collate(batch)
            assert int((inputs["labels"] != -100).sum()) == task.size(batch).items > 0
            assert torch.equal(task.collate(batch)["input_ids"], inputs["input_ids"])
            counts[-1].append(task.predicted(batch).tolist())
            labels |= {(epoch, row): inputs["labels"][number].tolist() for number, row in enumerate(batch.tolist())}
    assert counts[1] == counts[3] != counts[0]
    if not streaming:
        rows = range(len(data.rows))
        assert sum(labels[0, row] != labels[1, row] for row in rows) > len(rows) / 2, "other words in each epoch"
