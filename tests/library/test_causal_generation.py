"""`VaswaniForCausalLM.generate`: the defaults and the searches of transformers, the paper's ranking where asked for."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation.configuration_utils import CompileConfig

from tests.helpers.generation_references import END, PAD, SCORED, assert_same_hypotheses, gnmt, spread
from vaswani_tx import VaswaniDecoderConfig, VaswaniForCausalLM, VaswaniGenerationConfig, constrained_beam_search
from vaswani_tx.constraints_vaswani import ConstraintError

QUIET = {"pad_token_id": PAD}


def tiny_model(seed=0, vocab_size=40, end_bias=1.0, **fields) -> VaswaniForCausalLM:
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_hidden_layers": 2, "lm_head_bias": True}
    model = spread(VaswaniForCausalLM(VaswaniDecoderConfig(vocab_size=vocab_size, **sizes, **fields)))
    model.lm_head.bias.data[END] = end_bias
    return model


def prompts(rows=3, length=5, vocab_size=40, seed=1) -> torch.Tensor:
    return torch.randint(3, vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def log_probs_after(model, texts) -> torch.Tensor:
    """Return [n, V] after each of `texts` (lists of one length), computed without a cache."""
    with torch.no_grad():
        return model(input_ids=torch.tensor(texts), use_cache=False).logits[:, -1].double().log_softmax(-1)


def continued(model, prompt: list[int], steps: int) -> list[int]:
    """Greedy search, one whole pass a token."""
    text = list(prompt)
    for _ in range(steps):
        text.append(int(log_probs_after(model, [text])[0].argmax()))
        if text[-1] == END:
            break
    return text[len(prompt) :]


def every_continuation(model, prompt: list[int], limit: int, divisor) -> list[tuple[float, tuple[int, ...]]]:
    """Return (score, tokens) of all that ends within `limit` tokens or is cut there, best first."""
    running, found = {(): 0.0}, []
    for length in range(1, limit + 1):
        rows = log_probs_after(model, [[*prompt, *tokens] for tokens in running])
        following = {}
        for row, (tokens, total) in zip(rows.tolist(), running.items(), strict=True):
            for token, value in enumerate(row):
                if token == END or length == limit:
                    found.append(((total + value) / divisor(length), (*tokens, token)))
                else:
                    following[(*tokens, token)] = total + value
        running = following
    return sorted(found, reverse=True)


def searched(model, prompt: torch.Tensor, **settings):
    output = model.generate(prompt, **SCORED, **QUIET, **settings)
    rows = []
    for score, row in zip(
        output.sequences_scores.tolist(), output.sequences[:, prompt.shape[1] :].tolist(), strict=True
    ):
        rows.append((score, tuple(row[: row.index(END) + 1] if END in row else row)))
    return rows


def test_a_new_model_has_the_defaults_of_transformers(tmp_path):
    model = tiny_model()
    plain = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2))
    own, theirs = model.generation_config, plain.generation_config
    for name in GenerationConfig._get_default_generation_params():
        assert getattr(own, name) == getattr(theirs, name), name
    assert own.gnmt_alpha is None and own.max_extra_tokens is None
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert "num_beams" not in saved and "max_length" not in saved
    assert (saved["pad_token_id"], saved["bos_token_id"], saved["eos_token_id"]) == (0, 1, 2)
    for gone in ((), ("generation_config.json",)):
        for name in gone:
            (tmp_path / name).unlink()
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        prompt = prompts(1)
        assert torch.equal(loaded.generate(prompt, max_new_tokens=9), model.generate(prompt, max_new_tokens=9))
        assert loaded.generation_config.num_beams is None and loaded.generation_config.gnmt_alpha is None


def test_entries_of_our_own_are_kept(tmp_path):
    model = tiny_model()
    model.generation_config.update(num_beams=3, gnmt_alpha=0.6, max_new_tokens=7)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (loaded.generation_config.num_beams, loaded.generation_config.gnmt_alpha) == (3, 0.6)
    assert torch.equal(
        loaded.generate(prompts()), tiny_model().generate(prompts(), num_beams=3, gnmt_alpha=0.6, max_new_tokens=7)
    )


def test_plain_generate_is_greedy_search():
    model, prompt = tiny_model(), prompts()
    found = model.generate(prompt, max_new_tokens=8)
    for row, text in zip(found.tolist(), prompt.tolist(), strict=True):
        expected = continued(model, text, 8)
        assert row[5 : 5 + len(expected)] == expected and not any(row[5 + len(expected) :])


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_without_a_limit_it_ends_where_transformers_ends():
    model = tiny_model(end_bias=-50)
    plain = spread(GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, eos_token_id=None)))
    assert model.generate(prompts()).shape == plain.generate(prompts(), pad_token_id=0).shape
    config = VaswaniGenerationConfig(pad_token_id=0)  # of a model with an encoder: there is no source to count from
    assert model.generate(prompts(), generation_config=config).shape == plain.generate(prompts(), pad_token_id=0).shape


@pytest.mark.parametrize(
    ("settings", "divisor"),
    [({"length_penalty": 0.7}, lambda n: n**0.7), ({"gnmt_alpha": 0.9}, lambda n: gnmt(n, 0.9))],
)
@pytest.mark.parametrize("seed", range(3))
def test_beam_search_as_wide_as_the_space_finds_the_best_of_all(seed, settings, divisor):
    model, prompt = tiny_model(seed, vocab_size=6), prompts(1, 3, 6)
    expected = every_continuation(model, prompt[0].tolist(), 3, divisor)[:4]
    found = searched(model, prompt, num_beams=130, num_return_sequences=4, max_new_tokens=3, **settings)
    assert_same_hypotheses(found, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 3, "gnmt_alpha": 0.6},
        {"num_beams": 4, "force_words_ids": [[7, 8]]},
        {"cache_implementation": "static", "disable_compile": True},
        {"num_beams": 3, "cache_implementation": "static", "disable_compile": True},
        {"use_cache": False},
        {"prefill_chunk_size": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("position_embedding", ["sinusoidal", "learned"])
def test_a_left_padded_batch_equals_its_texts_one_by_one(settings, position_embedding):
    model, texts = tiny_model(position_embedding=position_embedding).double(), prompts()
    lengths = (5, 2, 4)
    ids, mask = torch.full((3, 5), PAD), torch.zeros(3, 5, dtype=torch.long)
    for number, length in enumerate(lengths):
        ids[number, 5 - length :], mask[number, 5 - length :] = texts[number, :length], 1
    together = model.generate(ids, attention_mask=mask, max_new_tokens=7, **settings)[:, 5:].tolist()
    for number, length in enumerate(lengths):
        alone = model.generate(texts[number : number + 1, :length], max_new_tokens=7, **settings)[0, length:].tolist()
        # transformers' beam search takes a padding id of 0 for none and fills up with the end instead
        assert together[number][: len(alone)] == alone and set(together[number][len(alone) :]) <= {PAD, END}


@pytest.mark.fresh
def test_static_cache_compiles():
    model, prompt = tiny_model(), prompts()
    settings = CompileConfig(fullgraph=True, backend="eager", mode=None)
    settings._compile_all_devices = True
    found = model.generate(prompt, cache_implementation="static", max_new_tokens=6, compile_config=settings)
    assert torch.equal(found, model.generate(prompt, max_new_tokens=6))


def test_sampling_follows_the_models_distribution():
    model, prompt = tiny_model(vocab_size=8), prompts(1, 4, 8)
    torch.manual_seed(0)
    sample = {"do_sample": True, "top_k": 0, "num_return_sequences": 4000, "max_new_tokens": 1}
    drawn = model.generate(prompt, **sample)[:, -1].bincount(minlength=8) / 4000
    torch.testing.assert_close(drawn.double(), log_probs_after(model, prompt.tolist())[0].exp(), atol=0.03, rtol=0)
    best = model.generate(prompt, **{**sample, "top_k": 1})[:, -1]
    assert (best == log_probs_after(model, prompt.tolist())[0].argmax()).all()
    assert model.generate(prompt, do_sample=True, num_beams=3, max_new_tokens=5, gnmt_alpha=0.6).shape[0] == 1


@pytest.mark.parametrize("settings", [{"assistant_model": "another"}, {"prompt_lookup_num_tokens": 3}], ids=str)
def test_guessed_tokens_change_nothing(settings, monkeypatch):
    # It calls the assistant in a way that transformers itself deprecates.
    monkeypatch.setattr("transformers.generation.utils.logger.warning_once", lambda *_: None)
    model, prompt = tiny_model(end_bias=-5).double(), prompts(1)
    prompt = torch.cat((prompt, prompt), dim=1)  # something to look up
    if "assistant_model" in settings:
        settings = {"assistant_model": tiny_model(4).double()}
    expected = model.generate(prompt, max_new_tokens=12)
    assert torch.equal(model.generate(prompt, max_new_tokens=12, **settings), expected)


def test_a_cache_continues_where_it_ended():
    model, prompt = tiny_model(end_bias=-50).double(), prompts()
    whole = model.generate(prompt, max_new_tokens=6)
    first = model.generate(
        prompt, max_new_tokens=3, past_key_values=DynamicCache(config=model.config), return_dict_in_generate=True
    )
    second = model.generate(first.sequences, max_new_tokens=3, past_key_values=first.past_key_values)
    assert torch.equal(second, whole)


def test_embeddings_and_nothing_at_all_as_a_prompt():
    model, prompt = tiny_model(), prompts()
    expected = model.generate(prompt, max_new_tokens=6)
    embeds = model.get_input_embeddings()(prompt)
    assert torch.equal(model.generate(inputs_embeds=embeds, max_new_tokens=6), expected[:, 5:])
    both = model.generate(prompt, inputs_embeds=embeds, max_new_tokens=6)
    assert torch.equal(both, expected)
    start = model.generate(torch.ones(1, 1, dtype=torch.long), max_new_tokens=6)
    assert torch.equal(model.generate(max_new_tokens=6), start)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("use_cache", [True, False])
def test_what_a_search_records(num_beams, use_cache):
    model, prompt = tiny_model(end_bias=-50), prompts(2)
    output = model.generate(
        prompt, max_new_tokens=3, num_beams=num_beams, use_cache=use_cache, return_dict_in_generate=True,
        output_scores=True, output_logits=True, output_attentions=True, output_hidden_states=True,
    )  # fmt: skip
    assert type(output).__name__ == ("GenerateBeamDecoderOnlyOutput" if num_beams > 1 else "GenerateDecoderOnlyOutput")
    assert len(output.scores) == len(output.logits) == len(output.attentions) == len(output.hidden_states) == 3
    for step, (attentions, states) in enumerate(zip(output.attentions, output.hidden_states, strict=True)):
        queries = 1 if use_cache and step else 5 + step
        assert [tuple(a.shape) for a in attentions] == [(2 * num_beams, 2, queries, 5 + step)] * 2
        assert [tuple(h.shape) for h in states] == [(2 * num_beams, queries, 16)] * 3
    transitions = model.compute_transition_scores(
        output.sequences, output.scores, getattr(output, "beam_indices", None), normalize_logits=num_beams == 1
    )
    if num_beams > 1:
        torch.testing.assert_close(transitions.sum(dim=1) / 3, output.sequences_scores)
    assert transitions.shape == (2, 3)


@pytest.mark.parametrize("seed", range(3))
def test_required_phrases_are_found_and_are_the_best_that_hold_them(seed):
    model, prompt = tiny_model(seed, vocab_size=6), prompts(1, 3, 6)
    phrase = [4, 3]
    holds = lambda tokens: any(list(tokens[i : i + 2]) == phrase for i in range(len(tokens)))  # noqa: E731
    possible = [found for found in every_continuation(model, prompt[0].tolist(), 4, float) if holds(found[1])]
    settings = {"num_beams": 400, "max_new_tokens": 4, "force_words_ids": [phrase]}
    found = searched(model, prompt, num_return_sequences=3, **settings)
    assert_same_hypotheses(found, possible[:3])
    whole = model.generate(prompt, return_dict_in_generate=True, **settings)
    assert type(whole).__name__ == "GenerateBeamDecoderOnlyOutput"
    custom = model.generate(
        prompt, num_beams=400, max_new_tokens=4, custom_generate=constrained_beam_search, required_ids=[[phrase]]
    )
    assert tuple(custom[0, 3:].tolist())[: len(possible[0][1])] == possible[0][1]


def test_what_is_impossible_is_an_error_with_its_reason():
    model, prompt = tiny_model(), prompts()
    with pytest.raises(ValueError, match=r"max_extra_tokens=50 counts from .* source.*give max_new_tokens"):
        model.generate(prompt, max_extra_tokens=50)
    with pytest.raises(ConstraintError, match="force_words_ids need beam search"):
        model.generate(prompt, force_words_ids=[[7]], max_new_tokens=4)
    with pytest.raises(ConstraintError, match="need 3 tokens"):
        model.generate(prompt, force_words_ids=[[7, 8, 9]], num_beams=4, max_new_tokens=2)
    with pytest.raises(ValueError, match="two rankings"):
        model.generate(prompt, num_beams=2, gnmt_alpha=0.6, length_penalty=1.0, max_new_tokens=2)
