"""Tiny random models, and searches of our own for `generate` to be compared with: all hypotheses, and plain beams."""

import copy

import pytest
import torch
from transformers import LogitsProcessor, MarianConfig, MarianMTModel

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.generation_vaswani import VaswaniGenerationMixin

START, END, PAD = 1, 2, 0
SCORED = {"output_scores": True, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for each other take far longer than these models do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class PaperMarian(VaswaniGenerationMixin, MarianMTModel):
    """Another project's model with our mixin: without the mixin it is transformers itself, the reference."""


def spread(model, std=0.3):
    """Give a random model predictions that differ from token to token and from context to context."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, std)
    return model.eval()


def tiny_model(seed, vocab_size=6, end_bias=1.0, **fields):
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, **fields}
    config = VaswaniConfig(vocab_size=vocab_size, lm_head_bias=True, **sizes)
    model = spread(VaswaniForConditionalGeneration(config))
    model.lm_head.bias.data[END] = end_bias  # 1: searches end at many lengths
    return model


def marian_pair(seed):
    config = MarianConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128,
        pad_token_id=PAD, bos_token_id=START, eos_token_id=END, decoder_start_token_id=START, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    plain = spread(MarianMTModel(config))
    ours = PaperMarian(copy.deepcopy(config)).eval()
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def random_batch(seed, lengths, vocab_size):
    """Return padded sources that end in </s>, with their mask."""
    random = torch.Generator().manual_seed(seed)
    sources = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(sources, lengths, strict=True):
        row[: length - 1] = torch.randint(3, vocab_size, (length - 1,), generator=random)
        row[length - 1] = END
    return {
        "input_ids": sources,
        "attention_mask": (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long(),
    }


def gnmt(length, alpha):
    return ((5 + length) / 6) ** alpha


def next_log_probs(model, source, targets):
    """Return [n, V], the log-probabilities after each of `targets` (lists of one length), computed without a cache."""
    inputs = torch.tensor([[START, *target] for target in targets])
    with torch.no_grad():
        logits = model(input_ids=source.expand(len(targets), -1), decoder_input_ids=inputs, use_cache=False).logits
    return logits[:, -1].double().log_softmax(-1)


def every_hypothesis(model, source, limit, alpha, prefix=()):
    """Return (score, tokens) of all complete targets of at most `limit` tokens, best first."""
    others = [token for token in range(model.config.vocab_size) if token != END]
    log_prob = {tuple(prefix): 0.0}
    hypotheses = []
    for length in range(len(prefix) + 1, limit + 1):
        rows = next_log_probs(model, source, list(log_prob))
        hypotheses += [
            ((total + rows[i, END].item()) / gnmt(length, alpha), (*tokens, END))
            for i, (tokens, total) in enumerate(log_prob.items())
        ]
        log_prob = {
            (*tokens, token): total + rows[i, token].item()
            for i, (tokens, total) in enumerate(log_prob.items())
            for token in others
        }
    return sorted(hypotheses, reverse=True)


def plain_beam_search(model, source, limit, alpha, num_beams, stop_when_full=False, prefix=()):
    """A beam search without batch, cache or bound: it runs to the limit. Return (score, tokens), best first."""
    running, finished = [(0.0, tuple(prefix))], []
    for length in range(len(prefix) + 1, limit + 1):
        rows = next_log_probs(model, source, [tokens for _, tokens in running])
        candidates = sorted(
            (
                (total + rows[i, token].item(), (*tokens, token))
                for i, (total, tokens) in enumerate(running)
                for token in (range(model.config.vocab_size) if length < limit else [END])
            ),
            reverse=True,
        )[: 2 * num_beams]
        complete = [
            (total / gnmt(length, alpha), tokens) for total, tokens in candidates[:num_beams] if tokens[-1] == END
        ]
        finished = sorted(finished + complete, reverse=True)[:num_beams]
        running = [candidate for candidate in candidates if candidate[1][-1] != END][:num_beams]
        if stop_when_full and len(finished) == num_beams:
            break
    return finished


def translate(model, batch, **settings):
    """Return `generate`'s answer as one list of (score, tokens without start and padding) for each sentence."""
    if "generation_config" in settings:  # keywords beside a configuration are deprecated
        settings["generation_config"] = config = copy.deepcopy(settings["generation_config"])
        config.output_scores = config.return_dict_in_generate = True
        output = model.generate(**batch, **settings)
    else:
        output = model.generate(**batch, **SCORED, **settings)
    rows = []
    for score, row in zip(output.sequences_scores.tolist(), output.sequences.tolist(), strict=True):
        tokens = row[1:]
        rows.append((score, tuple(tokens[: tokens.index(END) + 1] if END in tokens else tokens)))
    count = len(rows) // len(batch["input_ids"])
    return [rows[i : i + count] for i in range(0, len(rows), count)]


def assert_same_hypotheses(found, expected):
    assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=2e-5)


def count_decoder_steps(model, batch, **settings):
    steps = []
    hook = model.get_decoder().register_forward_hook(lambda *_: steps.append(1))
    model.generate(**batch, **settings)
    hook.remove()
    return len(steps)


class Reluctant(LogitsProcessor):
    """Makes </s> so improbable that a target ends only where it must."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, END] -= 50
        return scores
