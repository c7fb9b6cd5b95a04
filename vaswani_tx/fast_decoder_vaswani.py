"""The decoder, one token at a time, for many hypotheses at once: what a search calls instead of the model.

It computes what `VaswaniDecoder` and the output projection compute, from the model's own weights at every step:

- keys and values of the encoder's output are computed once for each sentence, and its beams attend to them together;
- keys and values of the target are written into buffers, and never copied where beams change places: a mask tells which
  of the entries at each position belong to the history of which beam;
- products of few rows with a large matrix are computed as a batch of products with its blocks, which the CPU's
  libraries do up to twice as fast (`project`). Nothing is packed or kept for that, so a weight that changed between two
  calls is always seen.

A step has fixed shapes but for the length of the target: with `self.length` as a tensor and the buffers read in full
behind the mask it can be captured as a graph.

Shapes: B sentences, M beams, R = B * M rows, T target length so far, S source length, D d_model, H heads, K d_k, U d_v,
V vocabulary, N outputs of a product.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Rows up to which a product reads the weights once and is as fast as can be, and up to which the rows come first.
FEW_ROWS, SOME_ROWS = 2, 8
MANY_ROWS = 48  # from here on the output layer is one product: to turn what blocks write costs more than they save
BLOCKS = (128, 64)  # rows of the matrix in a block
AT_ONCE = 8  # blocks of the output layer that are computed at once
SMALLEST = 1 << 16  # entries of a matrix from which blocks pay
FUSED_BYTES = 8 << 20  # most memory for copies of weights that are joined for one product
FIRST_CAPACITY = 32


def _block_of(x: torch.Tensor, weight: torch.Tensor) -> int:
    """Return how many rows of the matrix a block holds, 0 for one product with the whole."""
    if x.device.type != "cpu" or x.shape[0] <= FEW_ROWS or weight.numel() < SMALLEST:
        return 0
    if x.dtype not in (torch.float32, torch.float64):
        return 0
    return next((block for block in BLOCKS if weight.shape[0] % block == 0), 0)


def project(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute `x W^T + bias + residual` for x [R, D], W [N, D], bias [N], residual [R, N]: [R, N], of any strides."""
    block = _block_of(x, weight)
    if not block:
        if residual is None:
            return F.linear(x, weight, bias)
        found = torch.addmm(residual, x, weight.t())
        return found if bias is None else found.add_(bias)
    rows, size = x.shape[0], weight.shape[0]
    blocks = weight.view(-1, block, weight.shape[1])  # [N, D] -> [n, N / n, D]
    if residual is not None and bias is not None:
        residual = residual + bias
    if rows <= SOME_ROWS:
        first, second = x.expand(len(blocks), -1, -1), blocks.transpose(1, 2)
        order = (1, 0, 2)  # [n, R, N / n] -> [R, n, N / n]
    else:
        first, second = blocks, x.t().expand(len(blocks), -1, -1)
        order = (2, 0, 1)  # [n, N / n, R] -> [R, n, N / n]
    added = residual if residual is not None else bias
    if added is None:
        found = torch.bmm(first, second)
    else:
        added = added.expand(rows, size).view(rows, len(blocks), block)
        added = added.permute(1, 0, 2) if rows <= SOME_ROWS else added.permute(1, 2, 0)
        found = torch.baddbmm(added, first, second)
    return found.permute(order).reshape(rows, size) if rows <= SOME_ROWS else found.view(size, rows).t()


class _Buffers:
    """Memory that is allocated once for results of a size, and used again at every step."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """Return a tensor of this shape: the start of the buffer of that name."""
        size = 1
        for length in shape:
            size *= length
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = like.new_empty(size)
        return held[:size].view(shape)


class OutputProjection:
    """The projection to the vocabulary, [R, D] -> [R, V] in float32, into a buffer: a call overwrites the last result.

    Args:
        head: the output layer.
    """

    def __init__(self, head: nn.Linear):
        self.weight, self.bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
        self._buffers = _Buffers()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows, size = x.shape[0], self.weight.shape[0]
        block = BLOCKS[0]
        whole = size - size % block
        if not _block_of(x, self.weight[:whole]):
            return F.linear(x, self.weight, self.bias).float()
        scores = self._buffers.get("scores", (rows, size), x)
        if rows > MANY_ROWS:
            torch.mm(x, self.weight.t(), out=scores)
            return (scores if self.bias is None else scores.add_(self.bias)).float()
        blocks = self.weight[:whole].view(-1, block, self.weight.shape[1])
        if rows <= SOME_ROWS:
            parts = self._buffers.get("parts", (len(blocks), rows, block), x)
            torch.bmm(x.expand(len(blocks), -1, -1), blocks.transpose(1, 2), out=parts)
            scores[:, :whole].view(rows, len(blocks), block).copy_(parts.transpose(0, 1))
        else:
            # A few blocks at a time: what is written transposed is then still in the cache when it is turned.
            count = max(AT_ONCE, 2 * torch.get_num_threads())
            for start in range(0, len(blocks), count):
                some = blocks[start : start + count]
                parts = self._buffers.get("parts", (len(some), block, rows), x)
                torch.bmm(some, x.t().expand(len(some), -1, -1), out=parts)
                begin, end = start * block, (start + len(some)) * block
                scores[:, begin:end].copy_(parts.view(end - begin, rows).t())
        if whole < size:
            torch.mm(x, self.weight[whole:].t(), out=scores[:, whole:])
        if self.bias is not None:
            scores.add_(self.bias)
        return scores.float()


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Compute attention of section 3.2.1.

    Args:
        query: [B, H, M, K].
        keys: [B, H, L, K].
        values: [B, H, L, U].
        mask: additive, [B, 1, 1 or M, L]; None where every query sees all.
        scaling: factor on the scores.

    Returns:
        [B, H, M, U].
    """
    if query.device.type != "cpu" or query.dtype not in (torch.float32, torch.float64):
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
    batch, heads, beams, _ = query.shape
    length = keys.shape[2]
    queries, keys, values = query.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
    nothing = queries.new_empty(1, 1, 1).expand(batch * heads, beams, length)
    scores = torch.baddbmm(nothing, queries, keys.transpose(1, 2), beta=0, alpha=scaling)
    if mask is not None:
        scores.view(batch, heads, beams, length).add_(mask)
    weights = torch.softmax(scores, dim=-1)
    return torch.bmm(weights, values).view(batch, heads, beams, -1)


class _Layer:
    """Weights of one decoder layer, and its keys and values."""

    keys: torch.Tensor  # [B, H, capacity * M, K]: the M entries of a position side by side
    values: torch.Tensor  # [B, H, capacity * M, U]
    source_keys: torch.Tensor  # [B, H, S, K]
    source_values: torch.Tensor  # [B, H, S, U]

    def __init__(self, layer: Any, fuses: bool):
        self.pre_norm = layer.pre_norm
        self.own, self.cross, self.network = layer.self_attn, layer.cross_attn, layer.feed_forward
        norms = (layer.self_attn_residual, layer.cross_attn_residual, layer.feed_forward_residual)
        self.norms = [residual.norm for residual in norms]
        self.is_relu = isinstance(self.network.activation, nn.ReLU)
        projections = (self.own.q_proj, self.own.k_proj, self.own.v_proj)
        self.sizes = [projection.weight.shape[0] for projection in projections]
        self.fused: tuple[torch.Tensor, torch.Tensor | None] | None = None
        if fuses:
            biases = [projection.bias for projection in projections]
            weight = torch.cat([projection.weight for projection in projections])
            self.fused = weight, None if biases[0] is None else torch.cat(biases)

    def read_source(self, memory: torch.Tensor) -> None:
        """Compute keys and values of the encoder's output [B, S, D]."""
        cross, (batch, length) = self.cross, memory.shape[:2]
        self.source_keys = cross.k_proj(memory).view(batch, length, -1, cross.head_dim).transpose(1, 2).contiguous()
        self.source_values = cross.v_proj(memory).view(batch, length, -1, cross.value_dim).transpose(1, 2).contiguous()

    def own_projections(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return queries, keys and values of [R, D], each [R, H * size]."""
        if self.fused is not None:
            return list(project(x, *self.fused).split(self.sizes, dim=-1))
        parts = (self.own.q_proj, self.own.k_proj, self.own.v_proj)
        return [project(x, part.weight, part.bias) for part in parts]


class FastDecoder:
    """Decodes all hypotheses of a batch by one token a call.

    Args:
        model: a `VaswaniForConditionalGeneration` in evaluation mode, of the paper's cell.
        memory: [B, S, D], the encoder's output.
        source_mask: [B, S], 0 at padding; None without padding.
        num_beams: M, hypotheses of a sentence; they see the same source.
        longest: most tokens of a target.
    """

    def __init__(
        self, model: Any, memory: torch.Tensor, source_mask: torch.Tensor | None, num_beams: int, longest: int
    ):
        decoder = model.get_decoder()
        self.num_beams, self.longest, self.length = num_beams, longest, 0
        self.embedding, self.encoding, self.final_norm = (
            decoder.embed_tokens.weight,
            decoder.positional_encoding,
            decoder.final_norm,
        )
        projections = [getattr(layer.self_attn, f"{name}_proj") for layer in decoder.layers for name in "qkv"]
        size = sum(part.weight.numel() * part.weight.element_size() for part in projections)
        self.layers = [_Layer(layer, fuses=size <= FUSED_BYTES) for layer in decoder.layers]
        self.head = OutputProjection(model.lm_head)
        dtype = self.embedding.dtype
        memory = memory.to(dtype)
        for layer in self.layers:
            layer.read_source(memory)
        self.source_mask = None
        if source_mask is not None:
            hidden = torch.zeros(source_mask.shape, dtype=dtype, device=memory.device)
            self.source_mask = hidden.masked_fill_(source_mask == 0, torch.finfo(dtype).min)[:, None, None]
        self.capacity = min(longest, FIRST_CAPACITY)
        self._blind = torch.finfo(dtype).min
        # Which entries of the keys belong to a beam's history, [B, M, capacity * M].
        self.history = None
        if num_beams > 1:
            self.history = memory.new_full((len(memory), num_beams, self.capacity * num_beams), self._blind)
            own = memory.new_full((num_beams, num_beams), self._blind)
            self._own = own.fill_diagonal_(0.0)
        for layer in self.layers:
            shape = (len(memory), layer.source_keys.shape[1], self.capacity * num_beams)
            layer.keys = memory.new_empty((*shape, layer.own.head_dim))
            layer.values = memory.new_empty((*shape, layer.own.value_dim))

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the next token of each hypothesis, [R]; return the last layer's output, [R, D]."""
        if self.length == self.capacity:
            self._grow()
        embedded = F.embedding(tokens, self.embedding)
        positions = self.encoding.positions(embedded[:, None], self.length)
        x = (
            torch.add(positions, embedded, alpha=self.encoding.scale)
            if self.encoding.scale != 1
            else embedded + positions
        )
        if self.encoding.norm is not None:
            x = self.encoding.norm(x)
        start, end = self.length * self.num_beams, (self.length + 1) * self.num_beams
        mask = None
        if self.history is not None:
            self.history[:, :, start:end] = self._own
            mask = self.history[:, None, :, :end]
        for layer in self.layers:
            x = self._layer(layer, x, start, end, mask)
        self.length += 1
        return x if self.final_norm is None else self.final_norm(x)

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the next token of each hypothesis, [R]; return the logits of the one after it, [R, V] in float32.

        The next call overwrites them.
        """
        return self.head(self.hidden(tokens))

    def _layer(self, layer: _Layer, x: torch.Tensor, start: int, end: int, mask: torch.Tensor | None) -> torch.Tensor:
        pre = layer.pre_norm
        for norm, block in zip(layer.norms, (self._own_attention, self._cross_attention, self._network), strict=True):
            x = block(layer, norm(x), x, start, end, mask) if pre else norm(block(layer, x, x, start, end, mask))
        return x

    def _own_attention(self, layer: _Layer, x, residual, start: int, end: int, mask) -> torch.Tensor:
        own, beams = layer.own, self.num_beams
        query, key, value = layer.own_projections(x)
        batch = x.shape[0] // beams
        layer.keys[:, :, start:end] = key.view(batch, beams, -1, own.head_dim).transpose(1, 2)
        layer.values[:, :, start:end] = value.view(batch, beams, -1, own.value_dim).transpose(1, 2)
        query = query.view(batch, beams, -1, own.head_dim).transpose(1, 2)
        found = attend(query, layer.keys[:, :, :end], layer.values[:, :, :end], mask, own.scaling)
        return self._output(own, found, residual)

    def _cross_attention(self, layer: _Layer, x, residual, *_) -> torch.Tensor:
        cross, beams = layer.cross, self.num_beams
        query = project(x, cross.q_proj.weight, cross.q_proj.bias)
        query = query.view(x.shape[0] // beams, beams, -1, cross.head_dim).transpose(1, 2)
        found = attend(query, layer.source_keys, layer.source_values, self.source_mask, cross.scaling)
        return self._output(cross, found, residual)

    def _output(self, attention: Any, found: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        joined = found.transpose(1, 2).reshape(residual.shape[0], -1)  # [B, H, M, U] -> [R, H * U]
        return project(joined, attention.o_proj.weight, attention.o_proj.bias, residual)

    def _network(self, layer: _Layer, x, residual, *_) -> torch.Tensor:
        first, second = layer.network.fc1, layer.network.fc2
        inner = project(x, first.weight, first.bias)
        inner = inner.relu_() if layer.is_relu else layer.network.activation(inner)
        return project(inner, second.weight, second.bias, residual)

    def follow(self, parents: torch.Tensor) -> None:
        """Let each hypothesis continue the one of the row `parents`, [R], which is of the same sentence."""
        if self.history is None:
            return
        end = self.length * self.num_beams
        known = self.history.flatten(0, 1)[:, :end]
        self.history[:, :, :end] = known.index_select(0, parents).view(-1, self.num_beams, end)

    def keep(self, sentences: torch.Tensor) -> None:
        """Drop all sentences of the batch but those at `sentences`, [B']."""
        end = self.length * self.num_beams
        for layer in self.layers:
            layer.keys = self._kept(layer.keys, sentences, end)
            layer.values = self._kept(layer.values, sentences, end)
            layer.source_keys = layer.source_keys.index_select(0, sentences)
            layer.source_values = layer.source_values.index_select(0, sentences)
        if self.history is not None:
            self.history = self.history.index_select(0, sentences)
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, sentences)

    def _kept(self, held: torch.Tensor, sentences: torch.Tensor, end: int) -> torch.Tensor:
        kept = held.new_empty((len(sentences), *held.shape[1:]))
        kept[:, :, :end] = held[:, :, :end].index_select(0, sentences)
        return kept

    def _grow(self) -> None:
        """Make the buffers of keys and values larger."""
        capacity = min(self.longest, 2 * self.capacity)
        added = (capacity - self.capacity) * self.num_beams
        for layer in self.layers:
            layer.keys = F.pad(layer.keys, (0, 0, 0, added))
            layer.values = F.pad(layer.values, (0, 0, 0, added))
        if self.history is not None:
            self.history = F.pad(self.history, (0, added), value=self._blind)
        self.capacity = capacity


__all__ = ["FastDecoder", "OutputProjection", "attend", "project"]
