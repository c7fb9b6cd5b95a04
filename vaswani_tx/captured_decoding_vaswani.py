"""The fast decoder's step, recorded once as a CUDA graph and then replayed: a GPU waits for no launch.

A step of few rows is some 250 small kernels, which a GPU runs faster than Python starts them. A graph starts all of
them at once, but repeats exactly what was recorded: the same memory and the same numbers. So in `CapturedDecoder`

- tokens, position, keys, values, masks and scores are in buffers that are allocated once and never replaced;
- the position is a tensor, keys and values are written at it by index, and attention reads the buffers as a whole
  behind a mask of what is written so far;
- sentences, source lengths and capacities are rounded up, so that few shapes serve all batches; when most sentences
  of a batch are finished, a graph of fewer rows takes over.

A decoder with its graphs is kept with the model for the next batch. Graphs read the weights where they are, so an
optimiser's updates are seen; a model whose weights have moved gets new graphs.

Shapes: B sentences, M beams, R = B * M rows, S source length, C capacity of targets, D d_model, H heads, K d_k, U d_v,
V vocabulary.
"""

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from .fast_decoder_vaswani import FastDecoder, attend

MOST_ROWS = 2048  # above, a step computes for longer than its launches take
MOST_MEMORY = 0.25  # of a device's free memory, for the buffers of a decoder
SOURCE_STEP = 32  # source lengths are rounded up to a multiple
FIRST_CAPACITY = 128  # tokens of a target; doubled where that is not enough
WARM_UPS = 2  # runs before a recording: libraries choose kernels and allocate work spaces
KEPT = 4  # decoders kept for a model

Replay = Callable[[], Any]
Record = Callable[[Callable[[], Any]], Replay]

_idle: "weakref.WeakKeyDictionary[Any, OrderedDict[tuple, CapturedDecoder]]" = weakref.WeakKeyDictionary()


def record_cuda_graph(step: Callable[[], Any]) -> Replay:
    """Record a step on a side stream; return what replays it.

    The step runs twice before it is recorded, and not during that: it must do the same each time.
    """
    current = torch.cuda.current_stream()
    stream = torch.cuda.Stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile: a pinned copy of a data loader, another pipeline.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph.replay


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _multiple(number: int, step: int) -> int:
    return -(-number // step) * step


class CapturedDecoder(FastDecoder):
    """A `FastDecoder` whose step is replayed from a recording.

    Args:
        model, memory, source_mask, num_beams, longest: as for `FastDecoder`.
        record: takes a step and returns what repeats it: a CUDA graph.
    """

    layers: list[Any]
    history: Any  # always there, of one beam too: [B, M, C * M]
    source_mask: Any  # always there: [B, 1, 1, S]
    sentences: int  # in the batch
    size: int  # of the recording in use, at least as many

    def __init__(
        self,
        model: Any,
        memory: torch.Tensor,
        source_mask: torch.Tensor | None,
        num_beams: int,
        longest: int,
        record: Record = record_cuda_graph,
    ):
        self.most_sentences = _power_of_two(len(memory))
        self.source_length = _multiple(memory.shape[1], SOURCE_STEP)
        super().__init__(model, *self._widened(memory, source_mask), num_beams, longest)
        self._record = record
        self._recordings: dict[int, tuple[Replay, tuple[torch.Tensor, torch.Tensor]]] = {}
        device = memory.device
        self._tokens = torch.zeros(self.most_sentences * num_beams, dtype=torch.long, device=device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._own = torch.full((num_beams, num_beams), self._blind, dtype=self.embedding.dtype, device=device)
        self._own.fill_diagonal_(0.0)
        self._allocate(min(_multiple(longest, SOURCE_STEP), FIRST_CAPACITY))
        self._begin(len(memory))

    def load(self, memory: torch.Tensor, source_mask: torch.Tensor | None, longest: int) -> None:
        """Begin with another batch of at most as many sentences and source tokens as the buffers hold."""
        wide, hidden = self._widened(memory, source_mask)
        wide = wide.to(self.embedding.dtype)
        for layer in self.layers:
            held = layer.source_keys, layer.source_values
            layer.read_source(wide)
            for buffer, new in zip(held, (layer.source_keys, layer.source_values), strict=True):
                buffer.copy_(new)
            layer.source_keys, layer.source_values = held
            if layer.fused is not None:  # a copy, and the weights may have changed
                self._refresh(layer)
        self._table.copy_(self._positions())  # learned ones may have changed as well
        self.source_mask.copy_((hidden == 0)[:, None, None].to(self.source_mask.dtype) * self._blind)
        self.longest = longest
        self._begin(len(memory))

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the next token of each hypothesis, [R]; return the last layer's output, [R, D]."""
        return self._replay(tokens)[0]

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the next token of each hypothesis, [R]; return the logits of the one after it, [R, V] in float32.

        The next call overwrites them.
        """
        return self._replay(tokens)[1]

    def _replay(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.length == self.capacity:
            self._grow()
        if self.length >= len(self._table):  # beyond a table of learned positions: an error that says so
            self.encoding.positions(self.embedding[:1][None], self.length)
        rows = self.sentences * self.num_beams
        self._tokens[:rows].copy_(tokens)
        self._position.fill_(self.length)
        if self.size not in self._recordings:
            self._recordings[self.size] = self._recorded(self.size)
        replay, (hidden, scores) = self._recordings[self.size]
        replay()
        self.length += 1
        return hidden[:rows], scores[:rows]

    def _recorded(self, size: int) -> tuple[Replay, tuple[torch.Tensor, torch.Tensor]]:
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        # What is recorded outlives the call, so it must not be of an inference mode that ends with it.
        with torch.inference_mode(False), torch.no_grad():
            replay = self._record(lambda: found.append(self._step(size)))
        return replay, found[-1]

    def follow(self, parents: torch.Tensor) -> None:
        """Let each hypothesis continue the one of the row `parents`, [R], which is of the same sentence."""
        if self.num_beams > 1:
            known = self.history[: self.sentences]
            known.copy_(known.flatten(0, 1).index_select(0, parents).view_as(known))

    def keep(self, sentences: torch.Tensor) -> None:
        """Drop all sentences of the batch but those at `sentences`, [B']."""
        for held in self._of_sentences():
            held[: len(sentences)] = held[: self.sentences].index_select(0, sentences)
        self.sentences = len(sentences)
        # A recording takes as long as some steps: only for much fewer rows, or where there is one already.
        least = _power_of_two(self.sentences)
        known = [size for size in self._recordings if least <= size < self.size]
        if known or 4 * least <= self.size:
            self.size = min(known, default=least)

    # Buffers

    def _widened(self, memory: torch.Tensor, source_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the source with further sentences and padding, up to the size of the buffers."""
        batch, length = memory.shape[:2]
        if source_mask is None:
            source_mask = torch.ones(batch, length, dtype=torch.long, device=memory.device)
        more = self.most_sentences - batch
        memory = F.pad(memory, (0, 0, 0, self.source_length - length, 0, more))
        source_mask = F.pad(source_mask, (0, self.source_length - length))
        return memory, F.pad(source_mask, (0, 0, 0, more), value=1)  # a sentence without a token would see nothing

    def _positions(self) -> torch.Tensor:
        """Return the encoding of each position that there are keys for, [C, D]; learned ones end with their table."""
        positions = self.encoding.positions
        count = min(self.capacity, getattr(positions, "num_embeddings", self.capacity))
        return positions(self.embedding[:1].expand(count, -1)[None], 0).view(count, -1)

    def _allocate(self, capacity: int) -> None:
        """Make the buffers of targets of so many tokens; zeros, since a mask does not hide what is no number."""
        self.capacity, batch, beams = capacity, self.most_sentences, self.num_beams
        first = self.embedding
        for layer in self.layers:
            heads = layer.source_keys.shape[1]
            layer.keys = first.new_zeros((batch, heads, capacity * beams, layer.own.head_dim))
            layer.values = first.new_zeros((batch, heads, capacity * beams, layer.own.value_dim))
        self.history = first.new_full((batch, beams, capacity * beams), self._blind)
        self._table = self._positions()
        self._recordings.clear()

    def _begin(self, sentences: int) -> None:
        self.length, self.sentences = 0, sentences
        self.size = self.most_sentences
        self.history.fill_(self._blind)

    def _grow(self) -> None:
        """Make the buffers of targets twice as large; all is recorded again."""
        held = [(layer.keys, layer.values) for layer in self.layers]
        history, filled = self.history, self.capacity * self.num_beams
        self._allocate(2 * self.capacity)
        for layer, (keys, values) in zip(self.layers, held, strict=True):
            layer.keys[:, :, :filled], layer.values[:, :, :filled] = keys, values
        self.history[:, :, :filled] = history

    def _of_sentences(self) -> Iterator[torch.Tensor]:
        """Yield every buffer that has a row for each sentence."""
        for layer in self.layers:
            yield from (layer.keys, layer.values, layer.source_keys, layer.source_values)
        yield self.history
        yield self.source_mask

    def _refresh(self, layer: Any) -> None:
        parts = (layer.own.q_proj, layer.own.k_proj, layer.own.v_proj)
        weight, bias = layer.fused
        weight.copy_(torch.cat([part.weight for part in parts]))
        if bias is not None:
            bias.copy_(torch.cat([part.bias for part in parts]))

    # What is recorded

    def _step(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a step of the first `size` sentences from buffers alone, the same whenever it is repeated.

        Returns:
            the last layer's output, [R, D], and the logits, [R, V].
        """
        rows = size * self.num_beams
        embedded = F.embedding(self._tokens[:rows], self.embedding)
        x = embedded * self.encoding.scale + self._table.index_select(0, self._position)
        if self.encoding.norm is not None:
            x = self.encoding.norm(x)
        history = self.history[:size]
        # [B, M, C * M] -> [B, M, C, M]: at this position, each beam sees its own entry.
        places = history.view(size, self.num_beams, self.capacity, self.num_beams)
        places.index_copy_(2, self._position, self._own[None, :, None].expand(size, -1, -1, -1).contiguous())
        mask = history[:, None]
        for layer in self.layers:
            x = self._layer(layer, x, size, 0, mask)
        x = x if self.final_norm is None else self.final_norm(x)
        return x, self.head(x)

    def _own_attention(self, layer: Any, x, residual, size: int, _end: int, mask) -> torch.Tensor:
        beams = self.num_beams
        query, key, value = layer.own_projections(x)
        for held, new in ((layer.keys, key), (layer.values, value)):
            # [R, H * K] -> [B, H, 1, M, K], into [B, H, C, M, K]
            new = new.view(size, 1, beams, held.shape[1], -1).permute(0, 3, 1, 2, 4)
            held[:size].view(size, held.shape[1], self.capacity, beams, -1).index_copy_(2, self._position, new)
        query = query.view(size, beams, -1, layer.own.head_dim).transpose(1, 2)
        found = attend(query, layer.keys[:size], layer.values[:size], mask, layer.own.scaling)
        return self._output(layer.own, found, residual)

    def _cross_attention(self, layer: Any, x, residual, size: int, *_) -> torch.Tensor:
        cross = layer.cross
        query = F.linear(x, cross.q_proj.weight, cross.q_proj.bias)
        query = query.view(size, self.num_beams, -1, cross.head_dim).transpose(1, 2)
        keys, values = layer.source_keys[:size], layer.source_values[:size]
        found = attend(query, keys, values, self.source_mask[:size], cross.scaling)
        return self._output(cross, found, residual)


def pays(model: Any, memory: torch.Tensor, num_beams: int, longest: int) -> bool:
    """Return whether a captured decoder is faster here than launching each kernel, and its buffers fit."""
    if memory.device.type != "cuda" or torch.is_autocast_enabled("cuda") or torch.cuda.is_current_stream_capturing():
        return False
    sentences = _power_of_two(len(memory))
    if sentences * num_beams > MOST_ROWS:
        return False
    config = model.config
    width = config.num_heads * (config.d_k + config.d_v) * model.get_decoder().embed_tokens.weight.element_size()
    cells = num_beams * _multiple(longest, SOURCE_STEP) + _multiple(memory.shape[1], SOURCE_STEP)
    free, _ = torch.cuda.mem_get_info(memory.device)
    return sentences * cells * width * len(model.get_decoder().layers) < MOST_MEMORY * free


@contextlib.contextmanager
def decoder_for(
    model: Any,
    memory: torch.Tensor,
    source_mask: torch.Tensor | None,
    num_beams: int,
    longest: int,
    record: Record | None = None,
) -> Iterator[FastDecoder]:
    """Give a decoder for a batch: a captured one where that pays, which is kept for the next batch, else a plain one.

    Args:
        model, memory, source_mask, num_beams, longest: as for `FastDecoder`.
        record: see `CapturedDecoder`; given, the decoder is a captured one wherever it is.
    """
    if record is None and not pays(model, memory, num_beams, longest):
        yield FastDecoder(model, memory, source_mask, num_beams, longest)
        return
    weights = tuple(parameter.data_ptr() for parameter in model.parameters())
    sizes = _power_of_two(len(memory)), _multiple(memory.shape[1], SOURCE_STEP), num_beams
    key = (*sizes, memory.dtype, record, weights)
    kept = _idle.setdefault(model, OrderedDict())
    # Taken out while it is in use: another search meanwhile gets one of its own.
    decoder = kept.pop(key, None)
    # Buffers outlive the call, so they must not be of an inference mode that ends with it.
    with torch.inference_mode(False), torch.no_grad():
        if decoder is None:
            decoder = CapturedDecoder(
                model, memory.clone(), source_mask, num_beams, longest, record or record_cuda_graph
            )
        else:
            decoder.load(memory, source_mask, longest)
    yield decoder
    kept[key] = decoder
    for old in [name for name in kept if name[-1] != weights]:
        del kept[old]
    while len(kept) > KEPT:
        kept.popitem(last=False)


__all__ = ["CapturedDecoder", "decoder_for", "pays", "record_cuda_graph"]
