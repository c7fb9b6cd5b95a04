"""A small encoder-decoder learns to align under strong dropout with the preset's own initial weights."""

import pytest
import torch
from torch import nn

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.training.config.schedules import make_schedule
from vaswani_tx.training.engine.optimizer import PaperAdam, set_learning_rate

WORDS, START, END, UPDATES = 30, 1, 2, 300


def pairs(generator, rows):
    """Return random sentences of 5 to 9 words and their translations, word by word: nothing but the source helps."""
    length = int(torch.randint(5, 10, (1,), generator=generator))
    words = torch.randint(3, 3 + WORDS, (rows, length), generator=generator)
    end = torch.full((rows, 1), END)
    return {"input_ids": torch.cat((words, end), 1), "labels": torch.cat((words + WORDS, end), 1)}


def train(**fields):
    """Return the validation loss (nats a token) and the mean cosine of two encoder positions after 300 updates."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 3 + 2 * WORDS, "d_model": 64, "d_ff": 128, "dropout": 0.3}
    model = VaswaniForConditionalGeneration(VaswaniConfig.from_preset("tiny", **sizes, **fields)).train()
    optimizer = PaperAdam().build(model.parameters())
    rate = make_schedule("linear", 64, 60, 1.0, 0.003, UPDATES)
    generator = torch.Generator().manual_seed(1)
    for update in range(1, UPDATES + 1):
        set_learning_rate(optimizer, rate(update))
        model(**pairs(generator, 24), label_smoothing=0.1).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    batch = pairs(torch.Generator().manual_seed(2), 64)
    with torch.no_grad():
        outputs = model(**batch)
    states = nn.functional.normalize(outputs.encoder_last_hidden_state, dim=-1)  # [B, S, D]
    length = states.shape[1]
    cosines = (states @ states.transpose(1, 2)).sum(dim=(1, 2)) - length
    return outputs.loss.item(), cosines.mean().item() / (length * (length - 1))


@pytest.mark.fresh
def test_a_tiny_model_under_dropout_aligns_within_300_updates():
    loss, cosine = train()
    assert loss < 1.6 and cosine < 0.3


@pytest.mark.fresh
def test_with_the_papers_initial_weights_it_does_not():
    loss, cosine = train(init_scheme="tensor2tensor")
    assert loss > 2.3 and cosine > 0.8  # the encoder's positions are all but one vector
