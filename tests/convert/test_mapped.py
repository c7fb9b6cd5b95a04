"""Checkpoints by key maps: the converted model is torch's own module, to the logit and to the token."""

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from vaswani_tx import VaswaniForCausalLM, VaswaniForConditionalGeneration
from vaswani_tx.convert import ConversionError, convert
from vaswani_tx.convert.mapped import read
from vaswani_tx.modeling_vaswani_encoder import VaswaniForTokenClassification

MASK = {"dtype": torch.bool}


class Embedded(nn.Module):
    """Embedding times sqrt(d_model), with the names of PyTorch's tutorial."""

    def __init__(self, size, width, scale=True):
        super().__init__()
        self.embedding = nn.Embedding(size, width)
        self.scale = math.sqrt(width) if scale else 1.0

    def forward(self, ids):
        return self.embedding(ids) * self.scale


class Sinusoids(nn.Module):
    """Sinusoids as the tutorials compute them, in float32, as a buffer [L, 1, D]."""

    def __init__(self, width, rows=40, name="pos_embedding", shift=0, halves=False):
        super().__init__()
        rates = torch.exp(-torch.arange(0, width, 2) * math.log(10000) / width)
        angles = (torch.arange(rows) + shift).reshape(rows, 1) * rates
        table = torch.zeros(rows, width)
        if halves:
            table[:, : width // 2], table[:, width // 2 :] = angles.sin(), angles.cos()
        else:
            table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
        self.name = name
        self.register_buffer(name, table.unsqueeze(1))

    def forward(self, x):
        return x + getattr(self, self.name)[: x.shape[1], 0]


class Translator(nn.Module):
    """The tutorial's Seq2SeqTransformer, batches first."""

    def __init__(self, width=12, heads=3, layers=(2, 1), inner=20, sizes=(11, 14), halves=False, **settings):
        super().__init__()
        with warnings.catch_warnings():  # of a faster way that torch does not take with such sizes
            warnings.simplefilter("ignore")
            self.transformer = nn.Transformer(width, heads, *layers, inner, batch_first=True, **settings)
        self.transformer.encoder.enable_nested_tensor = self.transformer.encoder.use_nested_tensor = False
        self.generator = nn.Linear(width, sizes[1])
        self.src_tok_emb, self.tgt_tok_emb = Embedded(sizes[0], width), Embedded(sizes[1], width)
        self.positional_encoding = Sinusoids(width, halves=halves)

    def forward(self, source, target, hidden=None):
        causal = torch.ones(target.shape[1], target.shape[1], **MASK).triu(1)
        states = self.transformer(
            self.positional_encoding(self.src_tok_emb(source)),
            self.positional_encoding(self.tgt_tok_emb(target)),
            tgt_mask=causal,
            src_key_padding_mask=hidden,
            memory_key_padding_mask=hidden,
        )
        return self.generator(states)


def shaken(module, seed=0):
    """Give every weight, norms and biases too, random values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return module.eval()


def write_map(folder: Path, text: str) -> Path:
    path = folder / "map.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def saved(folder: Path, module: nn.Module, name="model.pt") -> Path:
    torch.save(module.state_dict(), folder / name)
    return folder / name


def greedy(original, source, steps):
    tokens = torch.full((len(source), 1), 2)
    for _ in range(steps):
        tokens = torch.cat((tokens, original(source, tokens)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return tokens


SIZES = [
    {},
    {"norm_first": True, "width": 10, "heads": 5, "inner": 7},
    {"activation": "gelu", "layers": (1, 3), "layer_norm_eps": 1e-3},
    {"bias": False, "heads": 1},
    {"halves": True, "sizes": (14, 14), "width": 16, "heads": 4},
]


@pytest.mark.parametrize("settings", SIZES, ids=lambda settings: "-".join(settings) or "defaults")
def test_nn_transformer(tmp_path, settings):
    """Post and pre norm, both activations, odd heads, no biases, sines before cosines: logits and greedy tokens."""
    original = shaken(Translator(**settings))
    order = "pre" if settings.get("norm_first") else "post"
    layout = "halves" if settings.get("halves") else "interleaved"
    path = write_map(
        tmp_path,
        "extends: pytorch-translation\n"
        f"config: {{num_heads: {settings.get('heads', 3)}, norm_order: {order}, "
        f"activation_function: {settings.get('activation', 'relu')}, "
        f"layer_norm_eps: {settings.get('layer_norm_eps', 1e-5)}}}\n"
        f"positions: {{layout: {layout}}}\n",
    )
    report = convert(saved(tmp_path, original), tmp_path / "out", map=path)
    assert report.check is not None and report.check.deciding < 1e-5
    model = VaswaniForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    assert (
        model.config.final_layer_norm
        and model.config.source_vocab_size == original.src_tok_emb.embedding.weight.shape[0]
    )
    source = torch.randint(4, 11, (3, 7), generator=torch.Generator().manual_seed(1))
    hidden = torch.zeros(3, 7, dtype=torch.bool)
    hidden[1, 4:] = True
    target = torch.randint(4, 14, (3, 5), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = original(source, target, hidden)
        ours = model(input_ids=source, attention_mask=(~hidden).long(), decoder_input_ids=target).logits
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        tokens = model.generate(source, num_beams=1, max_new_tokens=6, eos_token_id=None, do_sample=False)
        assert tokens.tolist() == greedy(original, source, 6).tolist()


def test_own_names_and_wrapped_file(tmp_path):
    """Weights under keys of a training checkpoint, with prefixes, around a transformer under other names."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.core = nn.Transformer(8, 2, 1, 1, 9, batch_first=True)
            self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
            self.places = nn.Parameter(torch.randn(1, 12, 8))

    original = shaken(Own())
    state = {f"module.{name}": tensor for name, tensor in original.state_dict().items()}
    torch.save({"epoch": 3, "net": {"weights": state}, "optimizer": {}}, tmp_path / "last.ckpt")
    path = write_map(
        tmp_path,
        """
extends: torch-transformer
weights: {under: net.weights, strip: module.}
names: {transformer: "core.", output: head}
rows:
  "embed.weight": model.shared.weight
  "{source_embedding}.weight": null
  "{target_embedding}.weight": null
positions: {kind: learned, table: places}
config: {num_heads: 2, scale_embedding: false}
tokens: {pad: null, bos: 1, eos: 2}
""",
    )
    convert(tmp_path, tmp_path / "out", map=path)
    model = VaswaniForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    assert model.config.source_vocab_size is None and model.config.max_position_embeddings == 12
    source, target = torch.tensor([[3, 4, 5, 8]]), torch.tensor([[1, 7, 6]])
    with torch.no_grad():
        embedded = [original.embed(ids) + original.places[:, : ids.shape[1]] for ids in (source, target)]
        theirs = original.head(original.core(*embedded, tgt_mask=torch.ones(3, 3, **MASK).triu(1)))
        torch.testing.assert_close(
            model(input_ids=source, decoder_input_ids=target).logits, theirs, atol=1e-5, rtol=1e-5
        )


class Encoder(nn.Module):
    """A tagger or language model on nn.TransformerEncoder, with the names of the tutorials."""

    def __init__(self, names, size=10, width=12, out=10, norm=False, scale=True, **settings):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 3, 17, batch_first=True, **settings)
        final = nn.LayerNorm(width) if norm else None
        self.names = names
        setattr(self, names["stack"], nn.TransformerEncoder(layer, 2, final, enable_nested_tensor=False))
        setattr(self, names["embedding"], nn.Embedding(size, width))
        setattr(self, names["output"], nn.Linear(width, out))
        self.pos_encoder = Sinusoids(width, name="pe")
        self.scale = math.sqrt(width) if scale else 1.0

    def forward(self, ids, causal=False):
        stack, embedding, output = (getattr(self, self.names[name]) for name in ("stack", "embedding", "output"))
        mask = torch.ones(ids.shape[1], ids.shape[1], **MASK).triu(1) if causal else None
        return output(stack(self.pos_encoder(embedding(ids) * self.scale), mask=mask))


def test_tagger(tmp_path):
    """A tagger of nn.TransformerEncoder: labels, attended padding, vocabulary of characters."""
    names = {"stack": "transformer_encoder", "embedding": "embedding", "output": "decoder"}
    original = shaken(Encoder(names, out=4, scale=False))
    (tmp_path / "chars.json").write_text(
        json.dumps({"PAD": 0, "UNK": 1, **{c: i for i, c in enumerate("abcdefgh", 2)}})
    )
    (tmp_path / "tags.txt").write_text("O\nB-X\nI-X\nE\n")
    path = write_map(
        tmp_path,
        """
extends: torch-encoder
family: encoder
head: token-classification
names: {encoder: transformer_encoder., embedding: embedding}
rows: {decoder.weight: classifier.weight, decoder.bias: classifier.bias}
positions: {kind: sinusoidal, table: pos_encoder.pe}
config: {num_heads: 3, scale_embedding: false}
tokens: {pad: PAD, unk: UNK}
labels: tags.txt
tokenizer: {kind: characters, lowercase: true, vocabulary: chars.json, padding: attended, max_length: 6}
""",
    )
    report = convert(saved(tmp_path, original), tmp_path / "out", map=path)
    assert report.check.deciding < 1e-5
    model = VaswaniForTokenClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(["ABx", "hhgfedcba"], padding="max_length", truncation=True, return_tensors="pt")
    assert list(batch) == ["input_ids"]
    assert batch["input_ids"].tolist() == [[2, 3, 1, 0, 0, 0], [9, 9, 8, 7, 6, 5]]
    assert model.config.id2label == {0: "O", 1: "B-X", 2: "I-X", 3: "E"}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, original(batch["input_ids"]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("ready", "names", "norm"),
    [
        ("pytorch-word-language-model", {"stack": "encoder", "embedding": "input_emb", "output": "decoder"}, True),
        (
            "pytorch-language-model",
            {"stack": "transformer_encoder", "embedding": "embedding", "output": "linear"},
            False,
        ),
    ],
)
def test_language_models_of_tutorials(tmp_path, ready, names, norm):
    original = shaken(Encoder(names, norm=norm))
    path = write_map(
        tmp_path, f"extends: {ready}\nconfig: {{num_heads: 3}}\ntokens: {{pad: null, bos: null, eos: null}}\n"
    )
    report = convert(saved(tmp_path, original), tmp_path / "out", map=path)
    assert report.check.deciding < 1e-5 and report.check.equal == report.check.tokens
    model = VaswaniForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, original(ids, causal=True), atol=1e-5, rtol=1e-5)
        tokens = ids
        for _ in range(5):
            tokens = torch.cat((tokens, original(tokens, causal=True)[:, -1].argmax(-1, keepdim=True)), dim=1)
        assert model.generate(ids, max_new_tokens=5, do_sample=False).tolist() == tokens.tolist()


def renamed(state, pairs):
    """Return a state dict with parts of its names replaced, one after another."""
    found = {}
    for name, tensor in state.items():
        for theirs, other in pairs:
            name = name.replace(theirs, other)
        found[name] = tensor
    return found


def test_nanogpt(tmp_path):
    """nanoGPT's names around what torch's encoder computes with norms first and a causal mask."""
    layer = nn.TransformerEncoderLayer(12, 3, 48, batch_first=True, norm_first=True, activation="gelu")
    stack = shaken(nn.TransformerEncoder(layer, 2, nn.LayerNorm(12), enable_nested_tensor=False))
    words, places = torch.randn(9, 12), torch.randn(8, 12)
    pairs = [
        ("layers.", "transformer.h."), ("self_attn.in_proj_", "attn.c_attn."), ("self_attn.out_proj", "attn.c_proj"),
        ("norm1", "ln_1"), ("norm2", "ln_2"), ("linear1", "mlp.c_fc"), ("linear2", "mlp.c_proj"),
    ]  # fmt: skip
    state = renamed(stack.state_dict(), pairs)
    state = {name.replace("norm.", "transformer.ln_f.", 1) if name.startswith("norm.") else name: tensor
             for name, tensor in state.items()}  # fmt: skip
    state |= {"transformer.wte.weight": words, "transformer.wpe.weight": places, "lm_head.weight": words}
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    torch.save(
        {"model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}, "iter_num": 7}, tmp_path / "ckpt.pt"
    )
    path = write_map(tmp_path, "extends: nanogpt\nconfig: {num_heads: 3}\ntokens: {pad: null, bos: null, eos: null}\n")
    report = convert(tmp_path / "ckpt.pt", tmp_path / "out", map=path)
    assert (
        report.check is None
        and "original=" in report.unchecked
        and list(report.ignored) == ["transformer.h.0.attn.bias"]
    )
    model = VaswaniForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert model.config.tie_word_embeddings
    ids = torch.tensor([[3, 1, 4, 1, 5, 8]])
    with torch.no_grad():
        states = stack(words[ids] + places[:6], mask=torch.ones(6, 6, **MASK).triu(1))
        torch.testing.assert_close(model(input_ids=ids).logits, states @ words.T, atol=1e-5, rtol=1e-5)


def test_heads_of_their_own(tmp_path):
    """Heads that are modules of their own are joined; biases that only some projections have are zeros elsewhere."""
    width, heads = 12, 3
    layer = nn.TransformerEncoderLayer(width, heads, 20, batch_first=True, norm_first=True)
    stack = shaken(nn.TransformerEncoder(layer, 1, nn.LayerNorm(width), enable_nested_tensor=False))
    with torch.no_grad():
        stack.layers[0].self_attn.in_proj_bias.zero_()
    words, places, out = torch.randn(9, width), torch.randn(8, width), nn.Linear(width, 9)
    state = {"token_embedding_table.weight": words, "position_embedding_table.weight": places}
    pairs = [("self_attn.out_proj", "sa.proj"), ("linear1", "ffwd.net.0"), ("linear2", "ffwd.net.2"),
             ("norm1", "ln1"), ("norm2", "ln2"), ("layers.", "blocks."), ("norm.", "ln_f.")]  # fmt: skip
    state |= {name: tensor for name, tensor in renamed(stack.state_dict(), pairs).items() if "in_proj" not in name}
    for kind, part in zip(("query", "key", "value"), stack.layers[0].self_attn.in_proj_weight.chunk(3), strict=True):
        for head, rows in enumerate(part.chunk(heads)):
            state[f"blocks.0.sa.heads.{head}.{kind}.weight"] = rows.detach()
            state[f"blocks.0.sa.heads.{head}.tril"] = torch.ones(8, 8).tril()
    state |= {f"lm_head.{name}": tensor for name, tensor in out.state_dict().items()}
    torch.save(state, tmp_path / "gpt.pt")
    path = write_map(
        tmp_path, "extends: karpathy-lecture\nconfig: {num_heads: 3}\ntokens: {pad: null, bos: null, eos: null}\n"
    )
    report = convert(tmp_path / "gpt.pt", tmp_path / "out", map=path)
    assert "zeros: model.layers.*.self_attn.k_proj.bias" in str(report)
    model = VaswaniForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[3, 1, 4, 1, 5, 8]])
    with torch.no_grad():
        theirs = out(stack(words[ids] + places[:6], mask=torch.ones(6, 6, **MASK).triu(1)))
        torch.testing.assert_close(model(input_ids=ids).logits, theirs, atol=1e-5, rtol=1e-5)


# Names of Ben Trevett's model and of the Annotated Transformer, by those of nn.Transformer.
TREVETT = [
    ("transformer.", ""), ("self_attn.out_proj", "self_attention.fc_o"),
    ("multihead_attn.out_proj", "encoder_attention.fc_o"), ("linear", "positionwise_feedforward.fc_"),
    ("src_tok_emb.embedding", "encoder.tok_embedding"), ("tgt_tok_emb.embedding", "decoder.tok_embedding"),
    ("generator", "decoder.fc_out"),
]  # fmt: skip
ANNOTATED = [
    ("transformer.", ""), ("self_attn.out_proj", "self_attn.linears.3"),
    ("multihead_attn.out_proj", "src_attn.linears.3"), ("linear1.", "feed_forward.w_1."),
    ("linear2.", "feed_forward.w_2."), ("norm1", "sublayer.0.norm"), ("norm2", "sublayer.1.norm"),
    ("norm3", "sublayer.2.norm"), ("src_tok_emb.embedding", "src_embed.0.lut"),
    ("tgt_tok_emb.embedding", "tgt_embed.0.lut"), ("generator", "generator.proj"),
]  # fmt: skip


def unfused(state, pairs, attention):
    """Return a state dict with queries, keys and values apart, and other names."""
    found = {}
    for name, tensor in state.items():
        if "in_proj_" not in name:
            found |= renamed({name: tensor}, pairs)
            continue
        module, part = name.removeprefix("transformer.").split(".in_proj_")
        for index, piece in enumerate(tensor.chunk(3)):
            found[f"{attention(module, index)}.{part}"] = piece
    return found


def norms_of_trevett(name):
    last = "norm3" if name.startswith("decoder") else "norm2"
    name = name.replace(last, "ff_layer_norm").replace("norm1", "self_attn_layer_norm")
    return name.replace("norm2", "enc_attn_layer_norm")


def test_trevett(tmp_path):
    """Post-norm without stack norms and with learned positions, whose original is nn.Transformer here."""
    original = Translator()
    original.transformer.encoder.norm = original.transformer.decoder.norm = None
    original = shaken(original)
    original.positional_encoding.pos_embedding = torch.randn(40, 1, 12)
    kinds = {"self_attn": "self_attention", "multihead_attn": "encoder_attention"}

    def attention(module, index):
        layer, kind = module.rsplit(".", 1)
        return f"{layer}.{kinds[kind]}.fc_{'qkv'[index]}"

    state = {
        norms_of_trevett(name): tensor for name, tensor in unfused(original.state_dict(), TREVETT, attention).items()
    }
    table = state.pop("positional_encoding.pos_embedding")[:, 0]
    state |= {"encoder.pos_embedding.weight": table, "decoder.pos_embedding.weight": table.clone()}
    torch.save(state, tmp_path / "tut6-model.pt")
    path = write_map(tmp_path, "extends: trevett-attention\nconfig: {num_heads: 3}\n")

    def logits(batch):
        return original(batch["input_ids"], batch["decoder_input_ids"], batch["attention_mask"] == 0)

    converted = read(tmp_path / "tut6-model.pt", map=path, original=logits)
    assert converted.config.position_embedding == "learned" and not converted.config.final_layer_norm
    report = convert(tmp_path / "tut6-model.pt", tmp_path / "out", map=path, original=logits)
    assert report.check.difference < 1e-5 and report.check.equal == report.check.tokens


def test_annotated_transformer(tmp_path):
    """Its layout is converted where the norms are LayerNorm, and refused with the reason where they are its own."""
    original = shaken(Translator(norm_first=True))

    def attention(module, index):
        return f"{module.replace('multihead_attn', 'src_attn')}.linears.{index}"

    state = unfused(original.state_dict(), ANNOTATED, attention)
    table = state.pop("positional_encoding.pos_embedding")
    state |= {"src_embed.1.pe": table.transpose(0, 1), "tgt_embed.1.pe": table.transpose(0, 1).clone()}
    torch.save(state, tmp_path / "model.pt")
    path = write_map(tmp_path, "extends: annotated-transformer\nconfig: {num_heads: 3}\ntokens: {pad: 2}\n")

    def logits(batch):
        return original(batch["input_ids"], batch["decoder_input_ids"], batch["attention_mask"] == 0)

    report = convert(tmp_path / "model.pt", tmp_path / "out", map=path, original=logits)
    assert report.check.difference < 1e-5
    own = {
        name.replace("norm.weight", "norm.a_2").replace("norm.bias", "norm.b_2"): each for name, each in state.items()
    }
    torch.save(own, tmp_path / "own.pt")
    with pytest.raises(ConversionError, match=r"annotated-transformer\.yaml, line \d+.*norm\.a_2.*std \+ eps"):
        convert(tmp_path / "own.pt", tmp_path / "refused", map=path)
    assert not (tmp_path / "refused").exists()
