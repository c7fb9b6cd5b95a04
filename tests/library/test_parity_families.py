"""One-stack models against independent ones with the same weights: logits, losses and gradients.

GPT and GPT-2, BERT's layers, and `torch.nn.TransformerEncoder` compute what ours do with the switches set as in them.
"""

import copy
import math

import pytest
import torch
from transformers import BertConfig, GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel
from transformers.models.bert.modeling_bert import BertEncoder

from vaswani_tx import (
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniEncoderModel,
    VaswaniForCausalLM,
    VaswaniForMaskedLM,
)

VOCABULARY, WIDTH, INNER, HEADS, LAYERS, POSITIONS = 61, 24, 40, 4, 3, 32
SIZES = {
    "vocab_size": VOCABULARY, "d_model": WIDTH, "d_ff": INNER, "num_heads": HEADS, "num_hidden_layers": LAYERS,
    "max_position_embeddings": POSITIONS, "dropout": 0.0, "attention_bias": True,
}  # fmt: skip
GPT = {"position_embedding": "learned", "scale_embedding": False, "activation_function": "gelu_new"}
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])


@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(5)


@torch.no_grad()
def shaken(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Move biases and gains too away from 0 and 1."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval().to(dtype)


def make_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


# Ours -> theirs. GPT and GPT-2 hold query, key and value in one matrix, written as inputs times outputs.
GPT_NAMES = {
    "self_attn.o_proj": "attn.c_proj", "self_attn_residual.norm": "ln_1", "feed_forward.fc1": "mlp.c_fc",
    "feed_forward.fc2": "mlp.c_proj", "feed_forward_residual.norm": "ln_2",
}  # fmt: skip
STEMS = {
    "openai-gpt": {"embed_tokens": "tokens_embed", "positional_encoding.positions": "positions_embed"},
    "gpt2": {"embed_tokens": "wte", "positional_encoding.positions": "wpe", "final_norm": "ln_f"},
}


def in_gpt_layout(values: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Our weights, or their gradients, under GPT's names and in its layout."""
    result = {}
    for name, value in values.items():
        name = name.removeprefix("model.")
        if not name.startswith("layers."):
            stem, _, leaf = name.rpartition(".")
            if stem != "lm_head":
                result[f"transformer.{STEMS[kind][stem]}.{leaf}"] = value
            continue
        _, number, rest = name.split(".", 2)
        stem, _, leaf = rest.rpartition(".")
        if stem in ("self_attn.k_proj", "self_attn.v_proj"):
            continue
        if stem == "self_attn.q_proj":
            parts = [values[f"model.layers.{number}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            stem, value = "attn.c_attn", torch.cat(parts)
        else:
            stem = GPT_NAMES[stem]
        # theirs is written as inputs times outputs
        value = value.T if leaf == "weight" and "ln" not in stem else value
        result[f"transformer.h.{number}.{stem}.{leaf}"] = value
    return result


def make_gpt(kind: str, dtype: torch.dtype):
    """Our model, and theirs with its weights."""
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS, "vocab_size": VOCABULARY}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if kind == "gpt2":
        fields = {"norm_order": "pre", "final_layer_norm": True, "layer_norm_eps": 1e-5}
        theirs = GPT2LMHeadModel(GPT2Config(**sizes, **still, n_inner=INNER))
    else:
        fields = {"layer_norm_eps": 1e-5, "d_ff": 4 * WIDTH}  # its inner width is fixed
        theirs = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes, **still, afn="gelu"))
    ours = shaken(VaswaniForCausalLM(VaswaniDecoderConfig(**{**SIZES, **GPT, **fields})), dtype)
    theirs = theirs.eval().to(dtype)
    report = theirs.load_state_dict(in_gpt_layout(ours.state_dict(), kind), strict=False)
    assert not report.unexpected_keys
    assert all(key == "lm_head.weight" or key.endswith("attn.bias") for key in report.missing_keys), report.missing_keys
    theirs.tie_weights()
    return ours, theirs


@pytest.mark.parametrize("kind", STEMS)
@DTYPES
def test_equals_gpt(kind, dtype, tolerance):
    (ours, theirs), batch = make_gpt(kind, dtype), make_batch()
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output, expected = ours(**batch), theirs(**batch)
    tokens = batch["attention_mask"].bool()
    torch.testing.assert_close(output.logits[tokens], expected.logits[tokens], atol=tolerance, rtol=0)
    # its own loss is rounded to float32 in any type
    torch.testing.assert_close(output.loss.float(), expected.loss, atol=1e-5, rtol=0)
    logits, labels = expected.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(output.loss, loss, atol=tolerance, rtol=0)
    output.loss.backward()
    loss.backward()
    gradients = in_gpt_layout({name: parameter.grad for name, parameter in ours.named_parameters()}, kind)
    compared = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert gradients.keys() == compared.keys()
    for name, gradient in compared.items():
        torch.testing.assert_close(gradients[name], gradient, atol=tolerance, rtol=0)
    hidden = theirs.transformer(**{name: batch[name] for name in ("input_ids", "attention_mask")}).last_hidden_state
    found = ours.model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(found[tokens], hidden[tokens], atol=tolerance, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
@pytest.mark.parametrize("kind", STEMS)
def test_gpt_writes_the_same(kind, settings):
    ours, theirs = make_gpt(kind, torch.float64)
    prompt = torch.randint(3, VOCABULARY, (2, 4))
    for end in (7, None):
        for model in (ours, theirs):
            model.generation_config.eos_token_id = end
        expected = theirs.generate(prompt, max_new_tokens=8, pad_token_id=0, **settings)
        assert torch.equal(ours.generate(prompt, max_new_tokens=8, pad_token_id=0, **settings), expected)


BERT_NAMES = {
    "self_attn.q_proj": "attention.self.query", "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value", "self_attn.o_proj": "attention.output.dense",
    "self_attn_residual.norm": "attention.output.LayerNorm", "feed_forward.fc1": "intermediate.dense",
    "feed_forward.fc2": "output.dense", "feed_forward_residual.norm": "output.LayerNorm",
}  # fmt: skip


def bert_name(name: str) -> str:
    _, number, rest = name.split(".", 2)
    stem, _, leaf = rest.rpartition(".")
    return f"layer.{number}.{BERT_NAMES[stem]}.{leaf}"


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@DTYPES
def test_equals_berts_layers(dtype, tolerance, implementation):
    fields = {"activation_function": "gelu", "layer_norm_eps": 1e-12, "attn_implementation": implementation}
    ours = shaken(VaswaniEncoderModel(VaswaniEncoderConfig(**SIZES, **fields)), dtype)
    theirs = BertEncoder(
        BertConfig(
            hidden_size=WIDTH, intermediate_size=INNER, num_attention_heads=HEADS, num_hidden_layers=LAYERS,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation=implementation,
        )
    ).to(dtype)  # fmt: skip
    weights = {bert_name(name): value for name, value in ours.state_dict().items() if name.startswith("layers.")}
    theirs.load_state_dict(weights)
    batch = make_batch()
    tokens = batch["attention_mask"].bool()
    entered = []
    ours.layers[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].detach()))
    output = ours(**batch).last_hidden_state
    hidden = entered[0].requires_grad_()
    blocked = torch.zeros(3, 1, 9, 9, dtype=dtype)
    blocked.masked_fill_(~tokens[:, None, None, :], torch.finfo(dtype).min)
    expected = theirs(hidden, attention_mask=blocked).last_hidden_state
    torch.testing.assert_close(output[tokens], expected[tokens], atol=tolerance, rtol=0)
    for states in (output, expected):
        (states[tokens] * torch.arange(WIDTH)).sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.layers.named_parameters(prefix="layers"):
        theirs_gradient = gradients.pop(bert_name(name)).grad
        scale = max(1.0, theirs_gradient.abs().max().item())
        torch.testing.assert_close(parameter.grad / scale, theirs_gradient / scale, atol=tolerance, rtol=0)
    assert not gradients, "a parameter of BERT's was not compared"


@pytest.mark.parametrize("norm_order", ["post", "pre"])
@DTYPES
def test_equals_torch_encoder(dtype, tolerance, norm_order):
    fields = {"norm_order": norm_order, "final_layer_norm": norm_order == "pre", "layer_norm_eps": 1e-5}
    ours = shaken(VaswaniForMaskedLM(VaswaniEncoderConfig(**SIZES, **fields)), dtype)
    stack = ours.model
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, INNER, dropout=0.0, batch_first=True, norm_first=norm_order == "pre", layer_norm_eps=1e-5
    )
    norm = copy.deepcopy(stack.final_norm)
    theirs = torch.nn.TransformerEncoder(layer, LAYERS, norm=norm, enable_nested_tensor=False).to(dtype)
    with torch.no_grad():
        for mine, other in zip(stack.layers, theirs.layers, strict=True):
            attention = mine.self_attn
            projections = [attention.q_proj, attention.k_proj, attention.v_proj]
            other.self_attn.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
            other.self_attn.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
            other.self_attn.out_proj.load_state_dict(attention.o_proj.state_dict())
            other.linear1.load_state_dict(mine.feed_forward.fc1.state_dict())
            other.linear2.load_state_dict(mine.feed_forward.fc2.state_dict())
            other.norm1.load_state_dict(mine.self_attn_residual.norm.state_dict())
            other.norm2.load_state_dict(mine.feed_forward_residual.norm.state_dict())
    batch = make_batch()
    tokens = batch["attention_mask"].bool()
    labels = batch["input_ids"].masked_fill(~tokens, -100)
    embedding = stack.embed_tokens.weight.detach().clone().requires_grad_()
    table = torch.tensor(  # section 3.5, entry by entry
        [
            [(math.cos if i % 2 else math.sin)(p / 10000 ** ((i - i % 2) / WIDTH)) for i in range(WIDTH)]
            for p in range(9)
        ],
        dtype=dtype,
    )
    hidden = theirs(embedding[batch["input_ids"]] * math.sqrt(WIDTH) + table, src_key_padding_mask=~tokens)
    expected = torch.nn.functional.cross_entropy((hidden @ embedding.T).flatten(0, 1), labels.flatten())
    output = ours(**batch, labels=labels)
    torch.testing.assert_close(output.loss, expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(output.logits[tokens], (hidden @ embedding.T)[tokens], atol=tolerance, rtol=0)
    output.loss.backward()
    expected.backward()
    torch.testing.assert_close(stack.embed_tokens.weight.grad, embedding.grad, atol=tolerance, rtol=0)
    for mine, other in zip(stack.layers, theirs.layers, strict=True):
        found = torch.cat([getattr(mine.self_attn, f"{part}_proj").weight.grad for part in "qkv"])
        torch.testing.assert_close(found, other.self_attn.in_proj_weight.grad, atol=tolerance, rtol=0)
        torch.testing.assert_close(mine.feed_forward.fc1.weight.grad, other.linear1.weight.grad, atol=tolerance, rtol=0)
        torch.testing.assert_close(
            mine.feed_forward_residual.norm.weight.grad, other.norm2.weight.grad, atol=tolerance, rtol=0
        )
