"""The LSTM encoder-decoder against plain loops over single cells, its state in `generate`, and its training."""

import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoModelForSeq2SeqLM

from tests.helpers import ROOT
from tests.helpers.generation_references import END, START, plain_beam_search, random_batch, spread, translate
from tests.helpers.training_runs import flags, records, run
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniGenerationConfig
from vaswani_tx.training import train_translation
from vaswani_tx.training.config.translation import SettingsError, parse_arguments
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.inference.translation import load_model_and_tokenizer
from vaswani_tx.training.inference.translation import translate as translate_texts
from vaswani_tx.training.models.architectures import ARCHITECTURES
from vaswani_tx.training.models.lstm import LSTM_PRESETS, LstmForConditionalGeneration, LstmSeq2SeqConfig
from vaswani_tx.training.models.lstm_layers import SCORES, LstmCache, LstmEncoderStack, SourceAttention

SIZES = {"d_model": 6, "hidden_size": 8, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}
VARIANTS = [(score, feeding) for score in SCORES for feeding in (False, True)]
variants = pytest.mark.parametrize("attention, input_feeding", VARIANTS)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1]])


def make(seed=0, vocab_size=11, **fields):
    torch.manual_seed(seed)
    return LstmForConditionalGeneration(LstmSeq2SeqConfig(vocab_size=vocab_size, **(SIZES | fields)))


def searcher(seed, **fields):
    """A model whose predictions differ from context to context."""
    model = spread(make(seed, vocab_size=7, lm_head_bias=True, **fields), std=0.6)
    model.lm_head.bias.data[END] = 0.5
    return model


def cells(lstm, layer=0):
    """The cell of one layer of torch.nn.LSTM, with its weights."""
    cell = nn.LSTMCell(getattr(lstm, f"weight_ih_l{layer}").shape[1], lstm.hidden_size).to(lstm.weight_ih_l0.dtype)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(lstm, f"{name}_l{layer}"))
    return cell


def read(cell, inputs):
    """A cell over the inputs [L, E] of one sentence, from zeros: all outputs."""
    state, outputs = None, []
    for row in inputs:
        state = cell(row[None], state)
        outputs.append(state[0][0])
    return outputs


def plain_encoder(stack, embedded, mask):
    """Each sentence alone, token after token, in both directions."""
    memories, finals = torch.zeros(*mask.shape, 2 * stack.forwards[0].hidden_size), []
    memories, rows = memories.to(embedded.dtype), []
    for embeddings, kept in zip(embedded, mask.bool(), strict=True):
        states, last = embeddings[kept], []
        for ahead, behind in zip(stack.forwards, stack.backwards, strict=True):
            right = read(cells(ahead), states)
            left = read(cells(behind), states.flip(0))
            last.append(torch.cat([right[-1], left[-1]]))
            states = torch.stack([torch.cat(pair) for pair in zip(right, left[::-1], strict=True)])
        rows.append(states)
        finals.append(torch.stack(last))
    for row, (states, kept) in enumerate(zip(rows, mask.bool(), strict=True)):
        memories = memories.index_put((torch.tensor(row), kept.nonzero()[:, 0]), states)
    return memories, torch.stack(finals)


# Layers


def test_the_encoder_equals_cells_in_a_loop_forward_and_backward():
    torch.manual_seed(0)
    stack = LstmEncoderStack(6, 8, 2, 0.0).double()
    embedded = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    found, wanted = stack(embedded, MASK), plain_encoder(stack, embedded, MASK)
    weights = [torch.randn_like(value) for value in found]
    gradients = []
    for values in (found, wanted):
        for value, other in zip(values, found, strict=True):
            torch.testing.assert_close(value, other)
        loss = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, [embedded, *stack.parameters()]))
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other)


def test_the_encoder_equals_torchs_bidirectional_lstm_over_packed_sequences():
    torch.manual_seed(1)
    stack, lengths = LstmEncoderStack(6, 8, 1, 0.0), torch.tensor([5, 2, 4])
    reference = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
    for name, parameter in stack.forwards[0].named_parameters():
        getattr(reference, name).data.copy_(parameter)
        getattr(reference, name + "_reverse").data.copy_(getattr(stack.backwards[0], name))
    embedded = torch.randn(3, 5, 6)
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    outputs, (hidden, _) = reference(packed)
    memory, finals = stack(embedded, (torch.arange(5) < lengths[:, None]).long())
    torch.testing.assert_close(memory, pad_packed_sequence(outputs, batch_first=True)[0])
    torch.testing.assert_close(finals[:, 0], torch.cat(list(hidden), dim=-1))


@pytest.mark.parametrize("score", ["general", "dot", "additive"])
def test_attention_equals_its_formula(score):
    torch.manual_seed(2)
    attention = SourceAttention(8, score)
    query, memory = torch.randn(4, 3, 8), torch.randn(4, 5, 8)
    if score == "dot":
        scores = torch.einsum("btw,bsw->bts", query, memory)
    elif score == "general":
        scores = torch.einsum("btw,wv,bsv->bts", query, attention.key.weight, memory)
    else:
        q, k = attention.query.weight, attention.key.weight
        sums = torch.einsum("btw,vw->btv", query, q)[:, :, None] + torch.einsum("bsw,vw->bsv", memory, k)[:, None]
        scores = torch.einsum("btsv,v->bts", sums.tanh(), attention.weigh.weight[0])
    exponents = scores.exp() * MASK[:, None]
    wanted = exponents / exponents.sum(-1, keepdim=True)
    context, weights = attention(query, attention.keys(memory), memory, MASK)
    torch.testing.assert_close(weights, wanted)
    torch.testing.assert_close(context, torch.einsum("bts,bsw->btw", wanted, memory))


@variants
def test_the_decoder_equals_cells_in_a_loop(attention, input_feeding):
    model = make(3, attention=attention, input_feeding=input_feeding).eval()
    decoder, cache = model.decoder, LstmCache()
    embedded, memory, finals = torch.randn(4, 3, 6), torch.randn(4, 5, 8), torch.randn(4, 2, 8)
    decoder.initialize(cache, finals)
    outputs, _ = decoder(embedded, memory, MASK, cache)
    layers = [cells(decoder.lstm, layer) for layer in range(2)]
    states = [(finals[:, layer], decoder.first_cell[layer](finals[:, layer])) for layer in range(2)]
    fed = torch.zeros(4, 6)
    for position in range(3):
        value = torch.cat([embedded[:, position], fed], -1) if input_feeding else embedded[:, position]
        for number, cell in enumerate(layers):
            states[number] = cell(value, states[number])
            value = states[number][0]
        if attention != "none":
            keys = decoder.attention.keys(memory)
            context, _ = decoder.attention(value[:, None], keys, memory, MASK)
            value = torch.cat([context[:, 0], value], -1)
        fed = torch.tanh(value @ decoder.combine.weight.T)
        torch.testing.assert_close(outputs[:, position], fed)
    assert cache.get_seq_length() == 3


# Model


@variants
def test_padding_changes_nothing_at_any_position(attention, input_feeding):
    model = make(4, attention=attention, input_feeding=input_feeding).eval()
    source, labels = torch.randint(3, 11, (1, 4)), torch.randint(3, 11, (1, 3))
    alone = model(input_ids=source, labels=labels)
    kept = torch.tensor([[0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0, 1]])
    for junk in (0, 9):
        padded = torch.full((3, 7), junk)
        padded[kept.bool()] = source.repeat(3, 1).flatten()
        target = torch.cat([labels.repeat(3, 1), torch.full((3, 2), -100)], dim=1)
        together = model(input_ids=padded, attention_mask=kept, labels=target)
        torch.testing.assert_close(together.logits[:, :3], alone.logits.repeat(3, 1, 1))
        torch.testing.assert_close(together.loss, alone.loss)
        assert not together.encoder_last_hidden_state[~kept.bool()].any()


@pytest.mark.parametrize("input_feeding", [False, True])
def test_gradients_equal_differences_in_float64(input_feeding):
    model = make(5, attention="general", input_feeding=input_feeding).double()
    embeds = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[3, 4], [5, -100]])
    chosen = [
        model.decoder.combine.weight,
        model.decoder.first_cell[0].bias,
        model.encoder.stack.backwards[1].bias_ih_l0,
    ]

    def loss(embeds, *parameters):
        return model(inputs_embeds=embeds, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]), labels=labels).loss

    assert torch.autograd.gradcheck(loss, (embeds, *chosen), atol=1e-6)


def test_the_loss_is_exact_over_parts_of_a_batch_and_without_logits():
    model = make(6).double().eval()
    batch = random_batch(0, [4, 5, 3, 5], 11)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    options = {"label_smoothing": 0.1}
    whole = model(**batch, labels=labels, **options)
    target = torch.full((4, 5, 11), 0.1 / 11, dtype=torch.float64)
    target.scatter_add_(2, labels.clamp(min=0)[..., None], torch.full((4, 5, 1), 0.9, dtype=torch.float64))
    each = -(target * whole.logits.log_softmax(-1)).sum(-1)[labels != -100]
    torch.testing.assert_close(whole.loss, each.mean())
    wanted = torch.autograd.grad(whole.loss, list(model.parameters()))
    model.zero_grad()
    for rows in ([0, 2], [1, 3]):
        part = {name: value[rows] for name, value in batch.items()} | {"labels": labels[rows]}
        out = model(**part, num_items_in_batch=len(each), skip_logits=True, **options)
        assert out.logits is None and out.past_key_values is None
        out.loss.backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_initial_weights_are_those_of_good_practice():
    model = make(7, hidden_size=16)
    lstm = model.decoder.lstm
    for block in lstm.weight_hh_l1.detach().view(4, 16, 16):
        torch.testing.assert_close(block @ block.T, torch.eye(16), atol=1e-5, rtol=0)
    assert lstm.bias_ih_l0.view(4, 16).tolist() == [[0.0] * 16, [1.0] * 16, [0.0] * 16, [0.0] * 16]
    assert not lstm.bias_hh_l0.any()
    assert make(7).encoder.embed_tokens.weight.std().item() == pytest.approx(6**-0.5, rel=0.3)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_by_the_auto_class(tmp_path, tied):
    model = make(8, tie_word_embeddings=tied, attention="additive").eval()
    model.generation_config.gnmt_alpha = 0.9
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is LstmForConditionalGeneration and loaded.config.attention == "additive"
    assert isinstance(loaded.generation_config, VaswaniGenerationConfig) and loaded.generation_config.gnmt_alpha == 0.9
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    loaded.resize_token_embeddings(13)
    assert loaded(input_ids=torch.tensor([[12]]), decoder_input_ids=torch.tensor([[12]])).logits.shape == (1, 1, 13)


def test_attentions_are_returned_where_asked_for():
    model = make(9).eval()
    source = torch.randint(3, 11, (4, 5))
    out = model(input_ids=source, attention_mask=MASK, decoder_input_ids=source[:, :2], output_attentions=True)
    (weights,) = out.cross_attentions
    assert weights.shape == (4, 1, 2, 5) and not weights[(MASK == 0)[:, None, None].expand_as(weights)].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 1, 2))


@pytest.mark.parametrize("preset", LSTM_PRESETS)
def test_presets_have_the_transformers_number_of_parameters(preset):
    for vocab_size in (8000, 32000):
        with torch.device("meta"):
            ours = VaswaniForConditionalGeneration(VaswaniConfig.from_preset(preset, vocab_size=vocab_size))
            other = LstmForConditionalGeneration(LstmSeq2SeqConfig.from_preset(preset, vocab_size=vocab_size))
        assert other.num_parameters() == pytest.approx(ours.num_parameters(), rel=0.004)


WRONG_FIELDS = [
    ({"hidden_size": 7}, "must be even"),
    ({"attention": "multi"}, "general, dot, additive, none"),
    ({"dropout": 1.0}, "below 1"),
    ({"decoder_layers": 0}, "decoder_layers"),
]


@pytest.mark.parametrize("fields, message", WRONG_FIELDS)
def test_wrong_fields_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        LstmSeq2SeqConfig(**fields)


def test_wrong_inputs_are_refused():
    model, source = make(), torch.tensor([[3, 4]])
    with pytest.raises(ValueError, match="nothing to decode"):
        model(input_ids=source)
    with pytest.raises(ValueError, match="on the right"):
        model(input_ids=source, decoder_input_ids=source, decoder_attention_mask=torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="final_states"):
        model(encoder_outputs=(torch.zeros(1, 2, 8),), decoder_input_ids=source)


# Generation


@variants
def test_the_state_gives_what_recomputing_gives(attention, input_feeding):
    model = searcher(10, attention=attention, input_feeding=input_feeding)
    batch = random_batch(3, [4, 6, 2], 7)
    ways = [{"num_beams": 1}, {"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 3}]
    ways += [{"num_beams": 1, "do_sample": True}, {"num_beams": 2, "do_sample": True, "top_k": 4}]
    for way in ways:
        found = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            found.append(model.generate(**batch, max_new_tokens=7, use_cache=use_cache, **way).tolist())
        assert found[0] == found[1], way


@pytest.mark.parametrize("alpha, beams", [(0.6, 4), (1.0, 3)])
def test_beam_search_equals_a_plain_one_over_the_recomputed_model(alpha, beams):
    for seed in range(4):
        model = searcher(20 + seed, input_feeding=bool(seed % 2))
        batch = random_batch(seed, [3, 5], 7)
        settings = {"num_beams": beams, "num_return_sequences": beams, "gnmt_alpha": alpha, "max_extra_tokens": 2}
        found = translate(model, batch, early_stopping="never", **settings)
        for rows, source, mask in zip(found, batch["input_ids"], batch["attention_mask"], strict=True):
            wanted = plain_beam_search(model, source[mask.bool()][None], int(mask.sum()) + 2, alpha, beams)
            assert [tokens for _, tokens in rows] == [tokens for _, tokens in wanted]
            assert [score for score, _ in rows] == pytest.approx([score for score, _ in wanted], abs=2e-5)


def test_a_target_prefix_and_the_papers_limit_are_kept():
    model = searcher(30)
    model.lm_head.bias.data[END] = -50.0
    batch = random_batch(1, [4, 2], 7)
    rows = model.generate(**batch, num_beams=2, max_extra_tokens=3).tolist()
    # </s> comes only where nothing else may: source length + 3 tokens after the start.
    assert [row.index(END) for row in rows] == [7, 5]
    prefix = torch.tensor([[START, 4, 5], [START, 3, 3]])
    rows = model.generate(**batch, decoder_input_ids=prefix, num_beams=3, max_new_tokens=2)
    assert torch.equal(rows[:, :3], prefix) and rows.shape[1] == 5


def test_the_state_is_reordered_repeated_and_never_taken_back():
    cache = LstmCache()
    assert (cache.get_seq_length(), cache.is_initialized, cache.get_max_length()) == (0, False, -1)
    cache.reorder_cache(torch.tensor([0]))  # nothing yet, as before the first position
    cache.hidden, cache.cell = torch.arange(6.0).view(2, 3, 1), -torch.arange(6.0).view(2, 3, 1)
    cache.fed = torch.arange(3.0)[:, None]
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    assert cache.hidden.flatten().tolist() == [2, 2, 0, 0, 5, 5, 3, 3]
    assert cache.cell.flatten().tolist() == [-2, -2, 0, 0, -5, -5, -3, -3]
    assert cache.fed.flatten().tolist() == [2, 2, 0, 0]
    cache.crop(0)
    with pytest.raises(ValueError, match="cannot go back"):
        cache.crop(-1)
    cache.reset()
    assert cache.fed is None and not cache.is_initialized
    with pytest.raises(ValueError, match="cache_implementation"):
        make().generate(torch.tensor([[3]]), cache_implementation="static", max_new_tokens=2)


# Training by the same command


LSTM = {"architecture": "lstm", "model.hidden_size": 16, "model.d_model": 16}
OURS_ONLY = ("model.d_ff", "model.num_heads")


def lstm_flags(data, output, **changes):
    """The shared flags without the Transformer's own fields."""
    words = flags(data, output, **(LSTM | {"max_grad_norm": 5.0} | changes))
    pairs = [(words[i], words[i + 1]) for i in range(0, len(words), 2)]
    return [word for pair in pairs if pair[0].removeprefix("--") not in OURS_ONLY for word in pair]


def train_lstm(data, output, expect=0, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train_translation.main(lstm_flags(data, output, **changes)) == expect
    return output


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_loop_trains_it_and_a_stopped_run_resumes_exactly(reversal, tmp_path):
    changes = {"save_every": 3, "keep_last": 2, "average_last": 2, "schedule": "constant", "learning_rate": 0.01}
    changes |= {"validation_source": "v.src", "validation_target": "v.tgt", "final_beam": 2}
    whole = train_lstm(reversal, tmp_path / "whole", **changes)
    parts = train_lstm(reversal, tmp_path / "parts", **(changes | {"max_steps": 3}))
    train_lstm(reversal, parts, **changes)
    step = "checkpoints/step-00000006/model.safetensors"
    assert (whole / step).read_bytes() == (parts / step).read_bytes()
    losses = [record["loss"] for record in records(whole, "train")]
    assert losses[-1] < losses[0]
    (scored,) = records(whole, "averaged")
    assert scored["beam"] == 2 and scored["loss"] > 0
    model, tokenizer = load_model_and_tokenizer(str(whole / "averaged"))
    assert type(model) is LstmForConditionalGeneration and model.config.hidden_size == 16
    assert len(translate_texts(model, tokenizer, ["ba be", "bi"], num_beams=2)) == 2


@pytest.mark.usefixtures("fresh_accelerate")
def test_folders_of_the_other_kind_are_refused(reversal, tmp_path, capsys):
    ours = run(reversal, tmp_path / "ours", max_steps=1, save_every=1)
    checkpoint = ours / "checkpoints" / "step-00000001"
    train_lstm(reversal, tmp_path / "lstm", expect=2, init_from=checkpoint)
    assert "holds a model of type 'vaswani', not 'lstm_seq2seq'" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="architecture"):
        ARCHITECTURES["lstm"].load(checkpoint)


@pytest.mark.parametrize(
    "words, message",
    [(["--preset", "big"], "preset"), (["--model.num_heads", "2"], "LstmSeq2SeqConfig has no field 'num_heads'"),
     (["--attention-init-gain", "0.5"], "attention_init_gain does nothing"),
     (["--init-scheme", "small"], "init_scheme does nothing"), (["--compile"], "compile does nothing"),
     (["--architecture", "gru"], "architecture")],
)  # fmt: skip
def test_keys_that_an_lstm_has_not_are_refused(words, message):
    with pytest.raises(SettingsError, match=message):
        parse_arguments(["--architecture", "lstm", *words])


def test_the_recipe_differs_from_the_transformers_only_where_an_lstm_must():
    recipes = ROOT / "training" / "recipes"
    other = vars(parse_arguments([str(recipes / "multi30k_en_de_cpu.yaml")]))
    own = vars(parse_arguments([str(recipes / "multi30k_en_de_lstm.yaml")]))
    assert {name for name in own if own[name] != other[name]} == {
        "output_dir", "architecture", "model", "init_scheme", "schedule", "learning_rate", "lr_factor",
        "warmup_steps", "max_grad_norm",
    }  # fmt: skip
    assert own["model"]["dropout"] == other["model"]["dropout"]


@pytest.mark.fresh
def test_a_command_that_translates_knows_its_folders(tmp_path):
    make().save_pretrained(tmp_path)
    code = (
        "import sys, vaswani_tx.training.inference.translation; from transformers import AutoConfig; "
        "print(AutoConfig.from_pretrained(sys.argv[1]).model_type)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.strip() == "lstm_seq2seq", found.stderr
