"""Equal weights for every contender: one seeded state under our names, and where each name is in another model.

A `Place` is a parameter, or some rows of it, of another model; a constant is added where it keeps `weight - 1`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tests.benchmarks.works import Size
from vaswani_tx.layers_vaswani import sinusoids

SHARED = "model.shared.weight"
EPSILON = 1e-5  # of torch's LayerNorm, which MarianMT and x-transformers do not let one choose
POSITIONS = 512


@dataclass(frozen=True)
class Place:
    """Where another model keeps a weight of ours.

    Args:
        parameter: its name there.
        rows: the part of its rows (first, end); None: all.
        minus: what is subtracted from it there.
    """

    parameter: str
    rows: tuple[int, int] | None = None
    minus: float = 0.0


def shapes(size: Size, vocab_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every weight, as `VaswaniForConditionalGeneration` with biases names them."""
    wide, inner = size.d_model, size.d_ff
    yield SHARED, (vocab_size, wide)
    for stack in ("encoder", "decoder"):
        for number in range(size.layers):
            at = f"model.{stack}.layers.{number}"
            for attention in ("self_attn", "cross_attn")[: 1 if stack == "encoder" else 2]:
                for part in "qkvo":
                    yield f"{at}.{attention}.{part}_proj.weight", (wide, wide)
                    yield f"{at}.{attention}.{part}_proj.bias", (wide,)
                yield f"{at}.{attention}_residual.norm.weight", (wide,)
                yield f"{at}.{attention}_residual.norm.bias", (wide,)
            yield f"{at}.feed_forward.fc1.weight", (inner, wide)
            yield f"{at}.feed_forward.fc1.bias", (inner,)
            yield f"{at}.feed_forward.fc2.weight", (wide, inner)
            yield f"{at}.feed_forward.fc2.bias", (wide,)
            yield f"{at}.feed_forward_residual.norm.weight", (wide,)
            yield f"{at}.feed_forward_residual.norm.bias", (wide,)


def seeded_weights(size: Size, vocab_size: int, seed: int, last_gain: float = 1.0) -> dict[str, torch.Tensor]:
    """Return random weights, none of which equals another.

    Biases of attention and of LayerNorm are 0: one contender lacks them.

    Args:
        last_gain: factor on the last LayerNorm of the decoder, so on all logits. Above 1 the best words are well
            ahead of the next ones, and rounding does not decide between them.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes(size, vocab_size):
        if name == SHARED:
            tensor = torch.randn(shape, generator=generator) * size.d_model**-0.5
        elif len(shape) == 2:
            tensor = torch.randn(shape, generator=generator) * (2 / sum(shape)) ** 0.5
        elif "norm.weight" in name:
            tensor = 1 + 0.1 * torch.randn(shape, generator=generator)
        elif "feed_forward.fc" in name:
            tensor = 0.1 * torch.randn(shape, generator=generator)
        else:
            tensor = torch.zeros(shape)
        found[name] = tensor
    found[f"model.decoder.layers.{size.layers - 1}.feed_forward_residual.norm.weight"] *= last_gain
    return found


def table(d_model: int, positions: int = POSITIONS) -> torch.Tensor:
    """Return the paper's sinusoids, [positions, D]."""
    return sinusoids(torch.arange(positions), d_model).float()


def load(model: nn.Module, weights: Mapping[str, torch.Tensor], places: Mapping[str, Place]) -> None:
    """Copy weights to their places.

    Raises:
        ValueError: a parameter that is trained got none: its value would be another in every contender.
    """
    parameters = dict(model.named_parameters())
    filled = set()
    with torch.no_grad():
        for name, place in places.items():
            target = parameters[place.parameter]
            (target if place.rows is None else target[slice(*place.rows)]).copy_(weights[name] - place.minus)
            filled.add(place.parameter)
    left = sorted(name for name, one in parameters.items() if one.requires_grad and name not in filled)
    if left:
        raise ValueError(f"{type(model).__name__} has weights without a value: {', '.join(left[:3])}")


def gradients(model: nn.Module, places: Mapping[str, Place]) -> dict[str, torch.Tensor]:
    """Return the gradient of each weight under our name."""
    parameters = dict(model.named_parameters())
    found = {}
    for name, place in places.items():
        gradient = parameters[place.parameter].grad
        if gradient is not None:
            found[name] = gradient if place.rows is None else gradient[slice(*place.rows)]
    return found


def own_places(weights: Mapping[str, torch.Tensor]) -> dict[str, Place]:
    """Return the places in a model of ours."""
    return {name: Place(name) for name in weights}


_MARIAN = (
    ("self_attn.o_proj", "self_attn.out_proj"),
    ("cross_attn.o_proj", "encoder_attn.out_proj"),
    ("self_attn_residual.norm", "self_attn_layer_norm"),
    ("cross_attn_residual.norm", "encoder_attn_layer_norm"),
    ("feed_forward_residual.norm", "final_layer_norm"),
    ("cross_attn.", "encoder_attn."),
    ("feed_forward.", ""),
)


def marian_places(weights: Mapping[str, torch.Tensor]) -> dict[str, Place]:
    """Return the places in transformers' MarianMTModel."""
    return {name: Place(_renamed(name, _MARIAN)) for name in weights}


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in rules:
        name = name.replace(ours, theirs)
    return name


_TORCH = (
    ("model.shared", "embedding"),
    ("model.", ""),
    ("cross_attn_residual.norm", "norm2"),
    ("self_attn_residual.norm", "norm1"),
    ("cross_attn.", "multihead_attn."),
    ("o_proj", "out_proj"),
    ("feed_forward.fc1", "linear1"),
    ("feed_forward.fc2", "linear2"),
)


def torch_places(weights: Mapping[str, torch.Tensor], d_model: int) -> dict[str, Place]:
    """Return the places in `nn.TransformerEncoder` and `nn.TransformerDecoder`, which join q, k and v."""
    found = {}
    for name in weights:
        theirs = _renamed(name, _TORCH)
        theirs = theirs.replace("feed_forward_residual.norm", "norm2" if "encoder" in name else "norm3")
        rows = None
        for place, part in enumerate(("q_proj.", "k_proj.", "v_proj.")):
            if part in theirs:
                theirs, rows = theirs.replace(part, "in_proj_"), (place * d_model, (place + 1) * d_model)
        found[name] = Place(theirs, rows)
    return found


def x_places(weights: Mapping[str, torch.Tensor]) -> dict[str, Place]:
    """Return the places in x-transformers' XTransformer, whose norms and attentions have no biases.

    Its layers are a flat list of blocks: attention, feed-forward, or in the decoder attention, cross-attention,
    feed-forward. Each is (norms, block, residual); the norm after the block is the second, and keeps `weight - 1`.
    """
    found = {SHARED: Place("encoder.token_emb.emb.weight")}
    for name in weights:
        if name == SHARED or (".bias" in name and "feed_forward.fc" not in name):
            continue
        _, stack, _, number, part, rest = name.split(".", 5)
        blocks = ["self_attn", "feed_forward"] if stack == "encoder" else ["self_attn", "cross_attn", "feed_forward"]
        kind = part.removesuffix("_residual")
        block = int(number) * len(blocks) + blocks.index(kind)
        at = ("encoder." if stack == "encoder" else "decoder.net.") + f"attn_layers.layers.{block}"
        if part != kind:
            found[name] = Place(f"{at}.0.2.gamma", minus=1.0)
        elif kind == "feed_forward":
            inner = {"fc1": "0.0", "fc2": "2"}[rest.split(".")[0]]
            found[name] = Place(f"{at}.1.ff.{inner}.{rest.split('.')[1]}")
        else:
            found[name] = Place(f"{at}.1.to_{'out' if rest[0] == 'o' else rest[0]}.weight")
    return found
