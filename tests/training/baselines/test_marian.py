"""MarianMT trained by transformers' Seq2SeqTrainer on a recipe's batches: what a comparison with it rests on."""

import json

import numpy as np
import pytest
from transformers import AutoModelForSeq2SeqLM

from tests.helpers.training_runs import flags
from vaswani_tx import VaswaniConfig, VaswaniTokenizer
from vaswani_tx.training.baselines import marian
from vaswani_tx.training.config.translation import parse_arguments
from vaswani_tx.training.data.batching import BatchPlan, pair_sides
from vaswani_tx.training.data.parallel import load_parallel, tokenize_parallel
from vaswani_tx.training.errors import SettingsError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def sides_of(pairs, *budgets):
    return pair_sides(pairs.source_lengths, pairs.target_lengths, *budgets)


@pytest.fixture
def seen(monkeypatch):
    """The batches that reach the collator, as sets of target lengths' sums."""
    batches = []
    collate = marian.collate_pairs

    def remember(pairs, indices, *rest):
        batches.append(sorted(int(index) for index in indices))
        return collate(pairs, indices, *rest)

    monkeypatch.setattr(marian, "collate_pairs", remember)
    return batches


def plan_of(data):
    tokenizer = VaswaniTokenizer.from_pretrained(data / "tokenizer")
    pairs = tokenize_parallel(load_parallel(data / "a.src", data / "a.tgt"), tokenizer, 20, 20, disable_progress=True)
    return pairs, BatchPlan(sides_of(pairs, 60, 60), seed=1)


def test_the_trainer_sees_the_plans_batches_in_their_order_over_epochs(reversal, tmp_path, seen):
    pairs, plan = plan_of(reversal)
    planned = [sorted(batch.tolist()) for epoch in range(2) for batch in plan.epoch(epoch)]
    steps = len(plan.epoch(0)) + 3
    changes = {"max_steps": steps, "save_every": 5, "average_last": 2}
    assert marian.main(flags(reversal, tmp_path / "run", **changes)) == 0
    assert seen[:steps] == planned[:steps]
    done = json.loads((tmp_path / "run" / "finished.json").read_text())
    tokens = sum(int(pairs.target_lengths[np.array(batch)].sum()) for batch in planned[:steps])
    assert (done["step"], done["target_tokens"]) == (steps, tokens) and done["seconds"] > 0
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "averaged")
    assert (type(model).__name__, model.config.d_model) == ("MarianMTModel", 16)


def test_a_stopped_run_resumes_with_the_same_batches(reversal, tmp_path, seen):
    changes = {"save_every": 3, "average_last": 0}
    assert marian.main(flags(reversal, tmp_path / "whole", max_steps=6, **changes)) == 0
    whole = seen[:6]
    seen.clear()
    assert marian.main(flags(reversal, tmp_path / "parts", max_steps=3, decay_steps=6, **changes)) == 0
    before = json.loads((tmp_path / "parts" / "clock.json").read_text())["seconds"]
    assert marian.main(flags(reversal, tmp_path / "parts", max_steps=6, **changes)) == 0
    assert [batch for batch in seen if batch in whole[3:]][-3:] == whole[3:]
    assert json.loads((tmp_path / "parts" / "clock.json").read_text())["seconds"] > before


@pytest.mark.parametrize("field", [{"d_k": 8}, {"norm_order": "pre"}, {"position_embedding": "learned"}])
def test_what_marian_has_not_is_refused(field):
    config = VaswaniConfig(vocab_size=300, d_model=16, num_heads=4, d_ff=32, **field)
    with pytest.raises(SettingsError, match=next(iter(field)).partition("_k")[0]):
        marian.marian_config(config)


def test_keys_without_a_like_in_the_trainer_are_refused(reversal, tmp_path):
    arguments = parse_arguments(flags(reversal, tmp_path / "run", ema_decay=0.9))
    with pytest.raises(SettingsError, match="ema_decay"):
        marian.train(arguments)
    assert not (tmp_path / "run").exists()


def test_two_vocabularies_give_marian_two_embeddings(reversal, tmp_path):
    changes = {"tokenizer": "null", "source_vocab_size": 265, "tokenizer_vocab_size": 270, "max_steps": 1}
    assert marian.main(flags(reversal, tmp_path / "run", save_every=1, average_last=1, **changes)) == 0
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "averaged")
    tokenizer = VaswaniTokenizer.from_pretrained(tmp_path / "run" / "averaged")
    shapes = [tuple(stack.embed_tokens.weight.shape) for stack in (model.model.encoder, model.model.decoder)]
    assert shapes == [(len(tokenizer.source), 16), (len(tokenizer.target), 16)]
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight
