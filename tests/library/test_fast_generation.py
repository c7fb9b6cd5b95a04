"""`fast_generate` against `generate`: tokens, lengths, scores and beams, for models and settings; what it leaves."""

import random

import pytest
import torch
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from tests.helpers.generation_references import PaperMarian, marian_pair, random_batch, tiny_model
from vaswani_tx import TranslationPipeline, VaswaniConfig, VaswaniForConditionalGeneration, fast_generate
from vaswani_tx import fast_decoder_vaswani as decoding
from vaswani_tx import fast_generation_vaswani as entry
from vaswani_tx.fast_generation_vaswani import search_of, supports
from vaswani_tx.fast_scores_vaswani import best_of
from vaswani_tx.search_vaswani import recorded_search

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def left(monkeypatch):
    """Count the calls that are left to the model's own search."""
    calls = []
    own = entry._own_search
    monkeypatch.setattr(entry, "_own_search", lambda *given: calls.append(given) or own(*given))
    return calls


def searched(model, batch, **settings):
    """Return all that a call of `generate` finds: sequences, lengths, scores and beams."""
    torch.manual_seed(5)
    with recorded_search(model) as record:
        output = model.generate(**batch, **settings)
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    return sequences, record.lengths_of(sequences), record.scores, getattr(output, "beam_indices", None)


def assert_same(model, batch, tolerance=1e-5, **settings):
    """Compare the two searches of a model; return the sequences."""
    expected = searched(model, batch, **settings)
    found = searched(model, batch, custom_generate=fast_generate, **settings)
    assert found[0].tolist() == expected[0].tolist()
    assert found[0].dtype == expected[0].dtype
    assert found[1] == expected[1]
    assert (found[2] is None) == (expected[2] is None)
    if expected[2] is not None:
        torch.testing.assert_close(found[2], expected[2], atol=tolerance, rtol=tolerance)
    if expected[3] is not None:
        assert found[3].tolist() == expected[3].tolist()
    return found[0]


def random_model(seed):
    """Return a small model with random fields and weights, and a batch for it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    config = VaswaniConfig(
        vocab_size=draw.choice((17, 60, 2500)), d_model=16, d_ff=32, num_heads=draw.choice((2, 4)),
        d_k=draw.choice((4, 8)), d_v=draw.choice((4, 8)), encoder_layers=1, decoder_layers=draw.choice((1, 2)),
        norm_order=draw.choice(("pre", "post")), final_layer_norm=draw.random() < 0.5,
        embedding_norm=draw.random() < 0.5, attention_bias=draw.random() < 0.5, lm_head_bias=True,
        activation_function=draw.choice(("relu", "gelu", "swish")), max_position_embeddings=64,
        position_embedding=draw.choice(("sinusoidal", "learned")), pad_token_id=draw.choice((0, 3)),
        source_vocab_size=draw.choice((None, 50)), tie_word_embeddings=draw.random() < 0.5,
    )  # fmt: skip
    model = VaswaniForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3) if weight.dim() > 1 else weight.add_(torch.randn_like(weight), alpha=0.1)
    model.lm_head.bias.data[2] += draw.choice((0.0, 1.0))
    rows, length = draw.choice((1, 3, 9)), draw.choice((3, 8))
    batch = {"input_ids": torch.randint(4, 16, (rows, length)), "attention_mask": torch.ones(rows, length).long()}
    for row in range(rows):
        batch["attention_mask"][row, draw.randint(1, length) :] = 0
    return draw, model, batch


OPTIONS = [
    {"gnmt_alpha": 2.0}, {"length_penalty": 1.0}, {"length_penalty": -1.0}, {"early_stopping": True},
    {"early_stopping": "never"}, {"max_extra_tokens": 2}, {"max_new_tokens": 7}, {"min_length": 4},
    {"min_new_tokens": 3}, {"eos_token_id": [2, 7]}, {"forced_bos_token_id": 5}, {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2}, {"suppress_tokens": [4, 6]}, {"begin_suppress_tokens": [2]},
    {"bad_words_ids": [[5], [6, 7]]}, {"return_dict_in_generate": True}, {"remove_invalid_values": True},
    {"exponential_decay_length_penalty": (2, 1.2)}, {"renormalize_logits": True},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_models_and_settings_at_random_find_what_generate_finds(number, left):
    draw, model, batch = random_model(number)
    for beams in (1, 4):
        settings = {**OPTIONS[number], **draw.choice(OPTIONS), "num_beams": beams}
        if beams > 1:
            settings["num_return_sequences"] = draw.randint(1, beams)
        if {"length_penalty", "gnmt_alpha"} <= settings.keys():
            settings.pop("gnmt_alpha")
        if {"max_new_tokens", "max_extra_tokens"} <= settings.keys():
            settings.pop("max_extra_tokens")
        settings.setdefault("max_new_tokens", 14)
        if draw.random() < 0.3:
            start = torch.ones(len(batch["input_ids"]), 1, dtype=torch.long)
            settings["decoder_input_ids"] = torch.cat((start, torch.randint(4, 12, (len(start), 2))), 1)
        assert_same(model, batch, **settings)
    assert not left


@pytest.mark.parametrize("rows", [1, 3, 20, 60])
def test_products_by_blocks_are_products(rows):
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(rows, 512), torch.randn(384, 512), torch.randn(384)
    residual = torch.randn(rows, 384)
    assert (decoding._block_of(x, weight) > 0) == (rows > 2)
    for given in ((None, None), (bias, None), (None, residual), (bias, residual)):
        expected = nn.functional.linear(x.double(), weight.double())
        expected = expected + sum(part.double() for part in given if part is not None)
        found = decoding.project(x, weight, *given)
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    head = nn.Linear(512, 900)
    for _ in range(2):
        torch.testing.assert_close(decoding.OutputProjection(head)(x), head(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [2048, 2100, 1000])
def test_the_best_of_a_row_are_found_in_blocks(size):
    torch.manual_seed(size)
    scores = torch.randn(6, size)
    scores[0, -1], scores[1, 0] = 9.0, 9.0
    scores[2, 1:] = -torch.inf
    for count in (1, 8):
        values, places = best_of(scores, count)
        assert values.tolist() == scores.topk(count).values.tolist()
        assert scores.gather(1, places).tolist() == values.tolist()


def test_blocks_in_every_product_of_a_model_find_the_same(monkeypatch, left):
    monkeypatch.setattr(decoding, "SMALLEST", 1)
    monkeypatch.setattr(decoding, "BLOCKS", (8, 4))
    monkeypatch.setattr(decoding, "FUSED_BYTES", 0)
    for seed in (3, 8):
        _, model, batch = random_model(seed)
        for beams in (1, 3, 4):
            assert_same(model, batch, num_beams=beams, max_new_tokens=9)
    assert not left


def test_float64_scores_agree_to_what_generate_keeps(left):
    model = tiny_model(1).double()
    assert_same(model, random_batch(1, [5, 3, 1], 6), tolerance=1e-6, num_beams=4, max_new_tokens=9)
    assert not left


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_give_each_token_nearly_the_best_score(dtype, left):
    model = tiny_model(2, vocab_size=30).to(dtype)
    batch = random_batch(2, [5, 3], 30)
    found = model.generate(**batch, custom_generate=fast_generate, num_beams=1, max_new_tokens=8)
    with torch.no_grad():
        logits = model(**batch, decoder_input_ids=found).logits.float()
    for row, sequence in zip(logits, found, strict=True):
        for place, token in enumerate(sequence[1:].tolist()):
            if sequence[place] == 2:
                break
            assert row[place].max() - row[place, token] < 0.1
    assert not left


def test_long_targets_outgrow_the_first_buffers(left):
    model = tiny_model(4, end_bias=-9.0)
    found = assert_same(model, random_batch(4, [5, 2, 4], 6), num_beams=3, max_new_tokens=75)
    assert found.shape[1] > 2 * decoding.FIRST_CAPACITY
    assert not left


def test_sentences_leave_when_they_are_settled(monkeypatch):
    model = tiny_model(5, vocab_size=12)
    batch = random_batch(5, [9, 7, 5, 3, 2, 1], 12)
    sizes = []
    hidden = decoding.FastDecoder.hidden
    monkeypatch.setattr(
        decoding.FastDecoder, "hidden", lambda self, tokens: sizes.append(len(tokens)) or hidden(self, tokens)
    )
    for beams in (1, 4):
        sizes.clear()
        assert_same(model, batch, num_beams=beams, max_extra_tokens=6)
        assert sizes[0] == 6 * beams and sizes[-1] < sizes[0] and sizes == sorted(sizes, reverse=True)


class ByRow(LogitsProcessor):
    """Rules out another token in each row of the batch."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[torch.arange(len(scores)), torch.arange(len(scores)) % scores.shape[1]] = -torch.inf
        return scores


class EndsAtSeven(StoppingCriteria):
    """Ends a target with token 7."""

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == 7


@pytest.mark.parametrize("beams", [1, 4])
def test_processors_and_criteria_of_a_user_see_the_whole_batch(beams, left):
    model = tiny_model(6, vocab_size=12)
    batch = random_batch(6, [9, 7, 5, 3], 12)
    assert_same(model, batch, num_beams=beams, logits_processor=LogitsProcessorList([ByRow()]), max_new_tokens=9)
    assert_same(model, batch, num_beams=beams, stopping_criteria=StoppingCriteriaList([EndsAtSeven()]))
    assert not left


@pytest.mark.parametrize("count", [1, 3])
def test_sampling_draws_the_same_tokens(count, left):
    model = tiny_model(7, vocab_size=12)
    batch = random_batch(7, [6, 3, 5], 12)
    assert_same(model, batch, do_sample=True, num_return_sequences=count, top_k=5, temperature=0.7)
    assert not left


def test_a_sentence_is_translated_alike_in_any_batch():
    model = tiny_model(8, vocab_size=40)
    batch = random_batch(8, [9, 7, 5, 3, 2, 8, 4, 6, 1, 9], 40)
    settings = {"num_beams": 4, "custom_generate": fast_generate, "max_extra_tokens": 8}
    together = model.generate(**batch, **settings)
    for row, (ids, mask) in enumerate(zip(*batch.values(), strict=True)):
        alone = model.generate(input_ids=ids[None, mask == 1], **settings)[0]
        assert alone.tolist() == together[row, : len(alone)].tolist()
        assert not together[row, len(alone) :].any()


def test_a_changed_weight_is_always_seen():
    model, batch = tiny_model(9, vocab_size=12), random_batch(9, [6, 3], 12)
    settings = {"num_beams": 4, "max_new_tokens": 8}
    before = assert_same(model, batch, **settings)
    names = set(model.state_dict())
    model.model.decoder.layers[0].self_attn.q_proj.weight.data.mul_(-3)
    model.model.decoder.layers[0].feed_forward.fc1.weight.data.mul_(-1)
    model.lm_head.weight.data[3:].mul_(-1)
    edited = assert_same(model, batch, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    assert_same(model, batch, **settings)
    model.load_state_dict(tiny_model(9, vocab_size=12).state_dict())
    assert assert_same(model, batch, **settings).tolist() == before.tolist() != edited.tolist()
    assert_same(model.double(), batch, **settings)
    assert set(model.state_dict()) == names


def hooked(model):
    model.model.decoder.layers[0].cross_attn.o_proj.register_forward_hook(lambda module, given, found: -found)


def replaced(model):
    layer = model.model.decoder.layers[0].feed_forward
    layer.fc1 = type("Adapter", (nn.Linear,), {"forward": lambda self, x: -nn.Linear.forward(self, x)})(16, 32)


def patched(model):
    layer = model.model.decoder.layers[0]
    layer.feed_forward.forward = lambda x: -x


def in_training(model):
    model.train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5


@pytest.mark.parametrize("change", [hooked, replaced, patched, in_training])
def test_a_changed_model_is_left_to_its_own_search(change, left):
    model, batch = tiny_model(10, vocab_size=12), random_batch(10, [6, 3], 12)
    change(model)
    assert_same(model, batch, num_beams=3, max_new_tokens=8)
    assert len(left) == 1


class Streamer:
    """Keeps what is streamed to it."""

    def __init__(self):
        self.tokens = []

    def put(self, tokens):
        self.tokens += tokens.flatten().tolist()

    def end(self):
        self.tokens.append("end")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"output_scores": True, "return_dict_in_generate": True},
        {"output_attentions": True, "return_dict_in_generate": True},
        {"num_beams": 4, "force_words_ids": [[5, 6]]},
        {"num_beams": 4, "do_sample": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"num_beams": 40},
    ],
)
def test_other_settings_are_left_to_the_models_own_search(settings, left):
    model, batch = tiny_model(11, vocab_size=60), random_batch(11, [6, 3], 60)
    settings = {"num_beams": 1, "max_new_tokens": 6, **settings}
    torch.manual_seed(1)
    expected = model.generate(**batch, **settings)
    torch.manual_seed(1)
    found = model.generate(**batch, custom_generate=fast_generate, **settings)
    assert len(left) == 1
    if not isinstance(expected, torch.Tensor):
        assert set(found) == set(expected)
        expected, found = expected.sequences, found.sequences
    assert found.tolist() == expected.tolist()


def test_a_streamer_a_recurrence_and_other_models_are_left_too(left):
    streamer = Streamer()
    batch = random_batch(12, [4], 12)
    made = tiny_model(12, vocab_size=12).generate(**batch, streamer=streamer, custom_generate=fast_generate)
    assert streamer.tokens == [*made[0].tolist(), "end"]
    assert_same(tiny_model(12, vocab_size=12, decoder_cell="ssru"), batch, num_beams=2)
    marian = marian_pair(1)[1]
    assert isinstance(marian, PaperMarian) and not supports(marian)
    assert_same(marian, random_batch(1, [5, 2], 20), num_beams=3, max_new_tokens=7)
    assert len(left) == 3


def test_a_subclass_keeps_its_own_search_and_forward(left):
    class Louder(VaswaniForConditionalGeneration):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = -output.logits
            return output

    model = tiny_model(13, vocab_size=12)
    other = Louder(model.config).eval()
    other.load_state_dict(model.state_dict())
    assert_same(other, random_batch(13, [4, 2], 12), num_beams=2, max_new_tokens=6)
    assert len(left) == 1


def test_a_dictionary_holds_the_scores_and_beams_of_a_search():
    model, batch = tiny_model(14, vocab_size=12), random_batch(14, [6, 3], 12)
    settings = {"num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True, "max_new_tokens": 8}
    expected = model.generate(**batch, output_scores=True, **settings)
    found = model.generate(**batch, custom_generate=fast_generate, **settings)
    assert type(found) is type(expected)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)
    assert found.beam_indices.tolist() == expected.beam_indices.tolist()


def test_who_asks_for_another_search_gets_it():
    model = tiny_model(15)
    assert search_of(None, model, {"num_beams": 2}) == {"custom_generate": fast_generate}
    assert search_of("transformers", model, {}) == {}
    assert search_of(None, model, {"custom_generate": print}) == search_of(None, model, {"streamer": print}) == {}
    assert search_of(None, nn.Linear(1, 1), {}) == {}
    assert TranslationPipeline.__init__.__kwdefaults__["engine"] is None
