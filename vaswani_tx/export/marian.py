"""MarianMT of transformers: a folder that plain transformers loads, without this package.

MarianMT has the paper's layers with biases, and sinusoids whose channels are all sines, then all cosines, where ours
alternate: the same numbers in another order. So the channels of the residual stream are put into that order in every
weight, and nothing else changes but zeros in the place of biases that the model does not have.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, MarianConfig, MarianMTModel

from vaswani_tx.errors import ExportError
from vaswani_tx.export.folders import Comparison, batch_of, kind_of, refuse_fields, write_json
from vaswani_tx.loading import read_object
from vaswani_tx.token_texts_vaswani import source_of, target_of

EPSILON = 1e-5  # of torch's LayerNorm, which MarianMT does not set
LOGITS_BOUND = 1e-3
LONGEST = 512
BATCH = 16
# Ours in a layer -> MarianMT's. The last word says what the channels are: rows, columns, or a vector.
_SELF = (
    ("self_attn.q_proj", "self_attn.q_proj", "columns"),
    ("self_attn.k_proj", "self_attn.k_proj", "columns"),
    ("self_attn.v_proj", "self_attn.v_proj", "columns"),
    ("self_attn.o_proj", "self_attn.out_proj", "rows"),
    ("self_attn_residual.norm", "self_attn_layer_norm", "rows"),
    ("feed_forward.fc1", "fc1", "columns"),
    ("feed_forward.fc2", "fc2", "rows"),
    ("feed_forward_residual.norm", "final_layer_norm", "rows"),
)
_CROSS = (
    ("cross_attn.q_proj", "encoder_attn.q_proj", "columns"),
    ("cross_attn.k_proj", "encoder_attn.k_proj", "columns"),
    ("cross_attn.v_proj", "encoder_attn.v_proj", "columns"),
    ("cross_attn.o_proj", "encoder_attn.out_proj", "rows"),
    ("cross_attn_residual.norm", "encoder_attn_layer_norm", "rows"),
)


def check(config: Any) -> None:
    """Raise ExportError, with all reasons, where MarianMT has no place for what a configuration says."""
    kind_of(config)
    needed = {
        "norm_order": "post",
        "final_layer_norm": False,
        "position_embedding": "sinusoidal",
        "position_frequencies": "paper",
        "position_offset": 0,
        "embedding_norm": False,
        "decoder_cell": "attention",
    }
    wrong = [
        f"{name}={getattr(config, name)!r}, and it has {value!r} only"
        for name, value in needed.items()
        if getattr(config, name, value) != value
    ]
    if not config.num_heads * config.d_k == config.num_heads * config.d_v == config.d_model:
        wrong.append(f"d_k={config.d_k} and d_v={config.d_v}, and it has d_model / num_heads only")
    if isinstance(config.eos_token_id, list):
        wrong.append(f"eos_token_id={config.eos_token_id}, and it has one")
    refuse_fields(config, "MarianMT", wrong)


def write(model: Any, tokenizer: Any, folder: Path) -> list[str]:
    """Write model.safetensors, config.json, generation_config.json and the tokenizer; return notes."""
    check(model.config)
    marian = to_marian(model)
    marian.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    own = model.generation_config
    generation_of(own, marian.config).save_pretrained(folder)
    save_plain_tokenizer(tokenizer, folder)
    notes = []
    if getattr(own, "gnmt_alpha", None):
        notes.append("transformers ranks beams by log P / length; the GNMT penalty of the paper is not in it")
    if getattr(own, "max_extra_tokens", None) is not None:
        notes.append(f"the limit of source + {own.max_extra_tokens} tokens became max_length={LONGEST}")
    if model.config.layer_norm_eps != EPSILON:
        notes.append(f"LayerNorm adds {EPSILON:g} to variances there, and {model.config.layer_norm_eps:g} in the model")
    rows = marian.config.max_position_embeddings
    notes.append(f"the table of sinusoids ends at position {rows}")
    return notes


def generation_of(own: GenerationConfig, config: MarianConfig) -> GenerationConfig:
    """Return a model's settings of generation for transformers, without those that only this package has."""
    settings = own.to_diff_dict()
    alpha, extra = settings.pop("gnmt_alpha", None), settings.pop("max_extra_tokens", None)
    settings.pop("transformers_version", None)
    if alpha:
        settings["length_penalty"] = 1.0
    if extra is not None or (own.max_length is None and own.max_new_tokens is None):
        settings["max_length"] = LONGEST
    settings["decoder_start_token_id"] = config.decoder_start_token_id
    return GenerationConfig.from_dict(settings)


def to_marian(model: Any) -> MarianMTModel:
    """Return a model of transformers that computes the same."""
    config = model.config
    separate = getattr(config, "source_vocab_size", None) is not None
    start = model.generation_config.decoder_start_token_id
    marian = MarianMTModel(
        MarianConfig(
            vocab_size=config.source_vocab_size if separate else config.vocab_size,
            decoder_vocab_size=config.vocab_size,
            share_encoder_decoder_embeddings=not separate,
            tie_word_embeddings=config.tie_word_embeddings,
            max_position_embeddings=max(config.max_position_embeddings, LONGEST),
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_ffn_dim=config.d_ff,
            decoder_ffn_dim=config.d_ff,
            encoder_attention_heads=config.num_heads,
            decoder_attention_heads=config.num_heads,
            d_model=config.d_model,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            activation_dropout=config.activation_dropout,
            activation_function=config.activation_function,
            scale_embedding=config.scale_embedding,
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            forced_eos_token_id=None,
            decoder_start_token_id=config.decoder_start_token_id if start is None else start,
        )
    )
    state = marian_state(model)
    present = marian.state_dict()
    missing = {name for name in present if "embed_positions" not in name} - set(state)
    missing -= {"model.shared.weight"} if separate else set()
    unknown = set(state) - set(present)
    if missing or unknown:
        raise ExportError(
            f"this version of transformers names the weights of MarianMT otherwise: {sorted(missing | unknown)[:3]}."
        )
    marian.load_state_dict(state, strict=False)
    marian.tie_weights()
    return marian.eval()


def channel_order(d_model: int) -> torch.Tensor:
    """Return the channel of ours at each place of MarianMT's: all that hold sines, then all that hold cosines."""
    return torch.cat((torch.arange(0, d_model, 2), torch.arange(1, d_model, 2)))


def marian_state(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights under MarianMT's names, channels in its order."""
    config, order = model.config, channel_order(model.config.d_model)
    stacks = {"encoder": model.model.encoder, "decoder": model.model.decoder}
    state: dict[str, torch.Tensor] = {}
    for name, stack in stacks.items():
        state[f"model.{name}.embed_tokens.weight"] = stack.embed_tokens.weight.detach()[:, order]
        for number, layer in enumerate(stack.layers):
            for ours, theirs, channels in (*_SELF, *(_CROSS if name == "decoder" else ())):
                module = layer.get_submodule(ours)
                weight = module.weight.detach()
                bias = torch.zeros(weight.shape[0]) if module.bias is None else module.bias.detach()
                if channels == "rows":
                    weight, bias = weight[order], bias[order]
                else:
                    weight = weight[:, order]
                state[f"model.{name}.layers.{number}.{theirs}.weight"] = weight
                state[f"model.{name}.layers.{number}.{theirs}.bias"] = bias
    if getattr(config, "source_vocab_size", None) is None:
        state["model.shared.weight"] = state["model.encoder.embed_tokens.weight"]
    state["lm_head.weight"] = model.lm_head.weight.detach()[:, order]
    bias = model.lm_head.bias
    state["final_logits_bias"] = (torch.zeros(config.vocab_size) if bias is None else bias.detach())[None]
    return {name: tensor.clone() for name, tensor in state.items()}


def save_plain_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer so that AutoTokenizer loads it without this package: its pipeline under transformers' class.

    Of two vocabularies the target's is in the folder `target_tokenizer`, loaded by itself.
    """
    source, target = source_of(tokenizer), target_of(tokenizer)
    for one, place in ((source, folder), (target, folder / "target_tokenizer")):
        if one is target and target is source and place != folder:
            continue
        one.save_pretrained(place)
        path = place / "tokenizer_config.json"
        settings = {**read_object(path), "tokenizer_class": "PreTrainedTokenizerFast"}
        for name in ("auto_map", "add_bos_token", "add_eos_token"):
            settings.pop(name, None)  # the pipeline writes them itself
        write_json(path, settings)


def verify(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> list[Comparison]:
    """Compare logits, then greedy and beam search, of the folder as transformers loads it."""
    marian = MarianMTModel.from_pretrained(folder).eval()
    gaps, tokens = [], {1: 0, 4: 0}
    for first in range(0, len(sentences), BATCH):
        batch = batch_of(tokenizer, sentences[first : first + BATCH])
        rows = marian.config.max_position_embeddings
        if (longest := batch["input_ids"].shape[1]) > rows:
            raise ExportError(f"a sentence to compare has {longest} tokens, and MarianMT has {rows} positions: cut it.")
        limit = {"max_new_tokens": min(longest + 50, rows - 1)}
        with torch.no_grad():
            for beams in tokens:
                options = {"num_beams": beams, "length_penalty": 1.0, "early_stopping": True, **limit}
                wanted = model.generate(**batch, **options)
                found = marian.generate(**batch, **options)
                width = max(wanted.shape[1], found.shape[1])
                padding = marian.config.pad_token_id or 0
                wanted, found = (
                    torch.nn.functional.pad(one, (0, width - one.shape[1]), value=padding) for one in (wanted, found)
                )
                tokens[beams] += int((wanted == found).all(dim=1).sum())
            both = [one(**batch, decoder_input_ids=wanted[:, :-1]).logits for one in (model, marian)]
        gaps += (both[0] - both[1]).abs().amax(dim=(1, 2)).tolist()
    near = sum(gap <= LOGITS_BOUND for gap in gaps)
    return [
        Comparison("logits of whole targets", len(gaps), near, max(gaps), LOGITS_BOUND),
        Comparison("translations, greedy, token by token", len(gaps), tokens[1]),
        Comparison("translations, beam 4, log P / length, token by token", len(gaps), tokens[4]),
    ]
