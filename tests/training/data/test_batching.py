"""The plan of batches: every pair once, within the budgets, equal in every process, little padding."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from vaswani_tx.training.data.batching import BatchPlan, collate_pairs, pair_sides, shard
from vaswani_tx.training.data.parallel import TokenizedPairs
from vaswani_tx.training.errors import BatchError


def sides_of(pairs, *budgets):
    return pair_sides(pairs.source_lengths, pairs.target_lengths, *budgets)


def realistic_lengths(count=20_000, seed=0):
    generator = np.random.default_rng(seed)
    source = np.clip(generator.lognormal(3.0, 0.5, count), 2, 200).astype(int)
    target = np.clip(source * generator.lognormal(0.05, 0.25, count), 2, 200).astype(int)
    return source, target


@pytest.fixture(scope="module")
def lengths():
    return realistic_lengths()


@pytest.fixture(scope="module")
def plan(lengths):
    return BatchPlan(pair_sides(*lengths, 2000, 2500), seed=5)


def same(left, right):
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_every_pair_is_in_one_batch(plan, lengths):
    for epoch in range(3):
        indices = np.concatenate(plan.epoch(epoch))
        assert np.array_equal(np.sort(indices), np.arange(len(lengths[0])))


@pytest.mark.parametrize("options", [{}, {"pad_to_multiple_of": 8}, {"max_rows": 16}])
def test_padded_batches_stay_within_both_budgets(lengths, options):
    plan = BatchPlan(pair_sides(*lengths, 2000, 2500), seed=5, **options)
    multiple = options.get("pad_to_multiple_of", 1)
    full = 0
    for batch in plan.epoch(0):
        width = [-(-side[batch].max() // multiple) * multiple for side in lengths]
        assert len(batch) * width[0] <= 2000 and len(batch) * width[1] <= 2500
        assert len(batch) <= options.get("max_rows", len(batch))
        full += len(batch) * width[0] > 1800 or len(batch) * width[1] > 2250
    assert full > 0.9 * len(plan.epoch(0)) or options.get("max_rows")


def test_no_batch_could_take_the_next_pair(lengths):
    plan = BatchPlan(pair_sides(*lengths, 2000, 2500), seed=5)
    order = plan._sorted(np.random.default_rng(0), *plan.order)
    batches = plan._cut(order)
    assert np.array_equal(np.concatenate(batches), order)
    for batch, following in pairwise(batches):
        longer = np.append(batch, following[0])
        widths = [side[longer].max() * len(longer) for side in lengths]
        assert widths[0] > 2000 or widths[1] > 2500


def test_budget_may_count_own_tokens_only(lengths):
    plan = BatchPlan(pair_sides(*lengths, 2000, 2500), seed=5, count_padding=False)
    batches = plan.epoch(0)
    sums = [[side[batch].sum() for side in lengths] for batch in batches]
    assert all(a <= 2000 and b <= 2500 for a, b in sums)
    assert any(len(batch) * lengths[0][batch].max() > 2000 for batch in batches)
    assert len(batches) < len(BatchPlan(pair_sides(*lengths, 2000, 2500), seed=5).epoch(0))
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(len(lengths[0])))


def test_plan_is_a_function_of_seed_and_epoch(plan, lengths):
    again = BatchPlan(pair_sides(*lengths, 2000, 2500), seed=5)
    again.epoch(7)  # no state is carried from one call to the next
    assert same(again.epoch(3), plan.epoch(3))
    assert not same(plan.epoch(3), plan.epoch(4))
    assert not same(BatchPlan(pair_sides(*lengths, 2000, 2500), seed=6).epoch(3), plan.epoch(3))
    groups = [{frozenset(batch.tolist()) for batch in plan.epoch(epoch)} for epoch in (3, 4)]
    assert len(groups[0] & groups[1]) < 0.2 * len(groups[0]), "equal lengths are mixed again, not only the batches"


def test_batches_come_in_no_order_of_length(plan, lengths):
    means = [lengths[0][batch].mean() for batch in plan.epoch(0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@pytest.mark.parametrize(("count", "budget"), [(10_000, 1000), (20_000, 2000), (50_000, 8000)])
def test_little_is_padding(count, budget):
    lengths = realistic_lengths(count, seed=1)
    plan = BatchPlan(pair_sides(*lengths, budget, budget), seed=1)
    batches = plan.epoch(1)
    waste = plan.padding_waste(batches)
    matrices = [sum(len(batch) * side[batch].max() for batch in batches) for side in lengths]
    own = [side.sum() for side in lengths]
    assert waste.sides[0] == pytest.approx(1 - own[0] / matrices[0])
    assert waste.sides[1] == pytest.approx(1 - own[1] / matrices[1])
    assert waste.total == pytest.approx(1 - sum(own) / sum(matrices))
    assert waste.total < 0.1
    unsorted = np.array_split(np.arange(count), len(batches))
    assert plan.padding_waste(unsorted).total > 0.4
    assert plan.padding_waste([None, *batches]) == waste and plan.padding_waste([None]).total == 0


@pytest.mark.parametrize("count", [1, 7, 8, 9, 37])
def test_processes_share_updates_alike(count):
    batches = [np.array([i]) for i in range(count)]
    updates = []
    for processes, accumulation in ((1, 4), (2, 2), (4, 1)):
        shares = [shard(batches, process, processes, accumulation) for process in range(processes)]
        assert {len(share) for share in shares} == {-(-count // 4) * accumulation}
        steps = len(shares[0]) // accumulation
        groups = [
            [b for share in shares for b in share[step * accumulation : (step + 1) * accumulation]]
            for step in range(steps)
        ]
        updates.append([sorted(int(b[0]) for b in group if b is not None) for group in groups])
        assert sum(b is None for group in groups for b in group) == -count % 4
        assert all(len(group) == 4 for group in groups)
        assert shares[0][0] is not None
    assert updates[0] == updates[1] == updates[2] == [list(range(i, min(i + 4, count))) for i in range(0, count, 4)]


def test_a_pair_over_the_budget_is_named():
    with pytest.raises(BatchError, match=r"Line 12 has 31 target tokens, .*max_target_tokens=30.*max_target_length"):
        BatchPlan(pair_sides([5, 6, 7], [8, 31, 9], 30, 30), locate=[f"Line {n}" for n in (10, 12, 14)].__getitem__)
    with pytest.raises(BatchError, match=r"train.en line 9 has 40 source tokens, .*max_source_tokens=30"):
        BatchPlan(pair_sides([5, 40], [8, 9], 30, 30), locate=lambda index: f"train.en line {[3, 9][index]}")
    with pytest.raises(BatchError, match="Example 1 "):
        BatchPlan(pair_sides([5, 40], [8, 9], 30, 30))
    with pytest.raises(BatchError, match="32 source"):
        BatchPlan(pair_sides([25], [8], 30, 30), pad_to_multiple_of=16)
    assert len(BatchPlan(pair_sides([30, 1], [30, 1], 30, 30)).epoch(0)) == 2, "exactly the budget fits"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (([], []), {}),
        (([1, 2], [1]), {}),
        (([1, 0], [1, 1]), {}),
        (([1], [1]), {"pad_to_multiple_of": 0}),
        (([1], [1]), {"max_rows": 0}),
    ],
)
def test_senseless_plans_are_refused(arguments, options):
    with pytest.raises(BatchError):
        BatchPlan(pair_sides(*arguments, 30, 30), **options)


@pytest.mark.parametrize("arguments", [(2, 2, 1), (-1, 2, 1), (0, 1, 0), (0, 0, 1)])
def test_senseless_shards_are_refused(arguments):
    with pytest.raises(BatchError):
        shard([], *arguments)


def make_pairs():
    sources, targets = [[5, 2], [6, 7, 8, 2], [9, 10, 2]], [[11, 12, 2], [2], [13, 2]]
    sides = []
    for rows in (sources, targets):
        sides += [np.concatenate(rows).astype(np.int32), np.concatenate(([0], np.cumsum([len(row) for row in rows])))]
    return TokenizedPairs(*sides, np.array([1, 2, 4]), np.zeros(3, dtype=np.int32), ["train.en"])


def test_collated_batch():
    batch = collate_pairs(make_pairs(), np.array([2, 0]), pad_token_id=0)
    assert batch["input_ids"].tolist() == [[9, 10, 2], [5, 2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[13, 2, -100], [11, 12, 2]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_collated_batch_of_rounded_size():
    batch = collate_pairs(make_pairs(), np.array([1]), pad_token_id=99, pad_to_multiple_of=8)
    assert batch["input_ids"].tolist() == [[6, 7, 8, 2, 99, 99, 99, 99]]
    assert batch["attention_mask"].sum() == 4
    assert batch["labels"].tolist() == [[2] + [-100] * 7]


def test_plan_of_pairs_names_their_file():
    with pytest.raises(BatchError, match=r"train.en line 2 has 4 source tokens"):
        BatchPlan(sides_of(make_pairs(), 3, 9), locate=make_pairs().locate)
    plan = BatchPlan(sides_of(make_pairs(), 8, 9), seed=3, max_rows=1)
    assert sorted(int(i) for batch in plan.epoch(0) for i in batch) == [0, 1, 2] and len(plan.epoch(0)) == 3
