"""Floating-point operations of a model, counted from real tokens: what must be computed, not what padding adds.

A product of [m, k] and [k, n] counts 2 m k n. In a forward pass, with D d_model, F d_ff, V vocabulary and N layers in
each stack:

    a source token           N (8 D^2 + 4 D F), and N 4 D^2 as keys and values of cross-attention
    a target token           N (12 D^2 + 4 D F) + 2 D V
    a source of s tokens     N 4 s^2 D
    a target of t tokens     N 2 t (t + 1) D, of which only what the causal mask leaves, and N 4 s t D

The backward pass counts twice the forward one. Embeddings, norms, softmax, dropout and optimiser count nothing.
"""

from collections.abc import Iterable

from tests.benchmarks.works import Size


def forward(size: Size, vocab_size: int, pairs: Iterable[tuple[int, int]]) -> float:
    """Return the operations of a forward pass over pairs of source and target lengths."""
    wide, inner, layers = size.d_model, size.d_ff, size.layers
    total = 0.0
    for source, target in pairs:
        total += source * layers * (12 * wide**2 + 4 * wide * inner)
        total += target * (layers * (12 * wide**2 + 4 * wide * inner) + 2 * wide * vocab_size)
        total += layers * wide * (4 * source**2 + 2 * target * (target + 1) + 4 * source * target)
    return total


def training(size: Size, vocab_size: int, pairs: Iterable[tuple[int, int]]) -> float:
    """Return the operations of an update: the forward pass, and twice as much backward."""
    return 3 * forward(size, vocab_size, pairs)
