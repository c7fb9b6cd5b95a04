"""Attention over rows without padding against a plain loop over sequences, and the calls of kernels that need a GPU."""

import logging
from itertools import pairwise

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from vaswani_tx import varlen_attention_vaswani as varlen
from vaswani_tx.varlen_attention_vaswani import SequenceLimits, varlen_attention, why_not

HEADS, HEAD_DIM, VALUE_DIM = 2, 16, 24
OWN, OTHER = [5, 1, 8], [4, 9, 2]


def plain(query, key, value, lengths, key_lengths, is_causal, scaling):
    """Attend one sequence and one head after another."""
    outputs, row, key_row = [], 0, 0
    for length, key_length in zip(lengths, key_lengths, strict=True):
        q, k, v = query[row : row + length], key[key_row : key_row + key_length], value[key_row : key_row + key_length]
        heads = []
        for h in range(query.shape[1]):
            scores = q[:, h] @ k[:, h].T * scaling
            if is_causal:
                scores = scores + torch.full_like(scores, -torch.inf).triu(1)
            heads.append(scores.softmax(-1) @ v[:, h])
        outputs.append(torch.stack(heads, dim=1))
        row, key_row = row + length, key_row + key_length
    return torch.cat(outputs)


def rows(lengths, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(lengths), HEADS, width, generator=generator, requires_grad=True)


def limits_of(lengths, key_lengths, spare=0):
    query = torch.tensor(lengths)
    key = query if key_lengths is lengths else torch.tensor(key_lengths)
    return SequenceLimits.of_lengths(query, key, max(lengths) + spare, max(key_lengths) + spare)


CASES = {"self": (OWN, False), "causal": (OWN, True), "cross": (OTHER, False)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["padded", "nested", pytest.param("flex", marks=pytest.mark.fresh), None])
def test_equals_a_plain_loop(method, case, monkeypatch):
    key_lengths, is_causal = CASES[case]
    if method == "nested" and is_causal:
        pytest.skip("torch has nested tensors for causal attention on GPUs only")
    value_dim = HEAD_DIM if method == "nested" else VALUE_DIM
    inputs = rows(OWN, HEAD_DIM, 1), rows(key_lengths, HEAD_DIM, 2), rows(key_lengths, value_dim, 3)
    wanted = plain(*inputs, OWN, key_lengths, is_causal, 0.3)
    limits = limits_of(OWN, key_lengths, spare=3)  # a padded batch's width is more than the longest
    if method == "flex":  # torch has no backward pass of it on a CPU
        monkeypatch.setattr(varlen, "BLOCK", 4)
        inputs = [x.detach() for x in inputs]
    found = varlen_attention(*inputs, limits, is_causal=is_causal, scaling=0.3, method=method)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    if method != "flex":
        given = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(4))
        for ours, theirs in zip(*(torch.autograd.grad(x, inputs, given) for x in (found, wanted)), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_sequence_without_keys_gets_zeros():
    query, key, value = (rows(lengths, HEAD_DIM, i) for i, lengths in enumerate(([2, 3], [4, 0], [4, 0])))
    found = varlen_attention(query, key, value, limits_of([2, 3], [4, 0]))
    assert not found[2:].any()
    assert found[:2].any()
    found.sum().backward()
    assert torch.isfinite(query.grad).all()


def test_default_scaling_is_the_paper_s():
    inputs = rows(OWN, HEAD_DIM, 1), rows(OWN, HEAD_DIM, 2), rows(OWN, HEAD_DIM, 3)
    found = varlen_attention(*inputs, limits_of(OWN, OWN))
    torch.testing.assert_close(found, plain(*inputs, OWN, OWN, False, HEAD_DIM**-0.5))


@pytest.mark.parametrize("method", ["padded", "nested"])
def test_dropout_is_applied_and_keeps_the_mean(method):
    torch.manual_seed(0)
    inputs = [x.detach() for x in (rows(OWN, HEAD_DIM, 1), rows(OWN, HEAD_DIM, 2), rows(OWN, HEAD_DIM, 3))]
    wanted = varlen_attention(*inputs, limits_of(OWN, OWN), method=method)
    draws = torch.stack([varlen_attention(*inputs, limits_of(OWN, OWN), dropout=0.5, method=method) for _ in range(30)])
    assert draws.std(dim=0).min() > 0
    assert (draws.mean(dim=0) - wanted).abs().mean() < 0.2


@pytest.mark.parametrize("is_causal", [False, True])
def test_blocks_are_those_that_all_pairs_give(is_causal, monkeypatch):
    monkeypatch.setattr(varlen, "BLOCK", 4)
    key_lengths = OWN if is_causal else OTHER
    limits = limits_of(OWN, key_lengths)
    found = varlen.sequence_blocks(limits, sum(OWN), sum(key_lengths), is_causal)

    def number(lengths):
        return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))

    def sees(b, h, i, j):
        same = number(OWN)[i] == number(key_lengths)[j]
        return same & (i >= j) if is_causal else same

    wanted = create_block_mask(sees, None, None, sum(OWN), sum(key_lengths), device="cpu", BLOCK_SIZE=4)
    full, part = wanted.full_kv_num_blocks, wanted.kv_num_blocks
    assert torch.equal(found.kv_num_blocks, full + part)
    every = found.to_dense()
    assert torch.equal(every, wanted.to_dense())


class Recorder:
    """A kernel that notes its arguments and answers by the padded method."""

    def __init__(self, monkeypatch, capability=(9, 0)):
        self.calls = []
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    def check_rows(self, lengths, key_lengths, width):
        """Check what all flash kernels ask of [rows, H, K] tensors and limits."""
        query, key, value, starts, key_starts = self.calls[-1][:5]
        for x, n in ((query, sum(lengths)), (key, sum(key_lengths)), (value, sum(key_lengths))):
            assert x.shape == (n, HEADS, width)
            assert x.dtype == torch.bfloat16
            assert x.stride(-1) == 1
        for bounds, own in ((starts, lengths), (key_starts, key_lengths)):
            assert bounds.dtype == torch.int32
            assert bounds.is_contiguous()
            assert [b - a for a, b in pairwise(bounds.tolist())] == own

    def answer(self, query, key, value, limits, is_causal, scale):
        return varlen.METHODS["padded"](query, key, value, limits, is_causal, scale, 0.0)


@pytest.mark.parametrize("case", CASES)
def test_arguments_of_torch_s_kernel(case, monkeypatch):
    key_lengths, is_causal = CASES[case]
    recorder = Recorder(monkeypatch)

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
        recorder.calls.append((query, key, value, cu_seq_q, cu_seq_k))
        assert (max_q, max_k) == (max(OWN) + 3, max(key_lengths) + 3)
        assert isinstance(max_q, int)
        assert window_size == ((-1, 0) if is_causal else (-1, -1))
        limits = SequenceLimits(cu_seq_q, cu_seq_k, max_q, max_k)
        return recorder.answer(query, key, value, limits, window_size == (-1, 0), scale)

    monkeypatch.setattr(varlen, "_varlen_function", lambda: kernel)
    inputs = [
        x.detach().bfloat16() for x in (rows(OWN, 12, 1), rows(key_lengths, 12, 2), rows(key_lengths, VALUE_DIM, 3))
    ]
    limits = limits_of(OWN, key_lengths, spare=3)
    found = varlen_attention(*inputs, limits, is_causal=is_causal, scaling=0.3, method="torch_varlen")
    recorder.check_rows(OWN, key_lengths, VALUE_DIM)  # the wider of both, a multiple of 8
    wanted = plain(*(x.float() for x in inputs), OWN, key_lengths, is_causal, 0.3)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found.float(), wanted, atol=3e-2, rtol=3e-2)


def test_torch_s_kernel_has_the_arguments_that_we_give():
    query = torch.empty(14, HEADS, 16, dtype=torch.bfloat16, device="meta")
    limits = limits_of(OWN, OWN)
    assert varlen._varlen_function() is not None
    found = varlen_attention(query, query, query, limits, is_causal=True, method="torch_varlen")
    assert found.shape == query.shape


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
@pytest.mark.parametrize("case", CASES)
def test_arguments_of_the_flash_library(case, name, monkeypatch):
    """Through transformers' own function, whose imported kernel is replaced."""
    from transformers import modeling_flash_attention_utils as flash

    key_lengths, is_causal = CASES[case]
    recorder = Recorder(monkeypatch)

    def kernel(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
               causal=False):  # fmt: skip
        recorder.calls.append((q, k, v, cu_seqlens_q, cu_seqlens_k))
        assert (max_seqlen_q, max_seqlen_k, dropout_p) == (max(OWN), max(key_lengths), 0.25)
        limits = SequenceLimits(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return recorder.answer(q, k, v, limits, causal, softmax_scale)

    asked = []

    def lazily(implementation, *args, **kwargs):
        asked.append(implementation)
        process = flash._lazy_define_process_function(kernel)
        return (kernel, kernel, kernel, None, None), (process, process)

    monkeypatch.setattr(flash, "lazy_import_flash_attention", lazily)
    inputs = [x.detach().bfloat16() for x in (rows(OWN, 16, 1), rows(key_lengths, 16, 2), rows(key_lengths, 8, 3))]
    limits = limits_of(OWN, key_lengths)
    found = varlen_attention(*inputs, limits, is_causal=is_causal, scaling=0.3, dropout=0.25, method=name)
    assert asked == [name]
    recorder.check_rows(OWN, key_lengths, 16)
    wanted = plain(*(x.float() for x in inputs), OWN, key_lengths, is_causal, 0.3)
    torch.testing.assert_close(found.float(), wanted, atol=3e-2, rtol=3e-2)


CUDA = "cuda:0"


def test_reasons(monkeypatch):
    Recorder(monkeypatch)
    monkeypatch.setattr(varlen, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(varlen, "is_flash_attn_3_available", lambda: True)
    half = (CUDA, torch.bfloat16, 64, 64)

    def usable(*arguments, **options):
        return [name for name in varlen.METHODS if why_not(name, *arguments, **options) is None]

    everything = list(varlen.METHODS)
    assert usable(*half) == everything
    assert usable("cpu", torch.bfloat16, 64, 64) == ["padded"]
    assert usable(*half, has_dropout=True) == ["flash_attention_2", "nested", "padded"]
    assert usable(*half, is_compiling=True) == [name for name in everything if name != "nested"]
    assert usable(CUDA, torch.float32, 64, 64) == ["nested", "flex", "padded"]
    assert usable(CUDA, torch.bfloat16, 512, 64) == ["nested", "flex", "padded"]
    assert why_not("torch_varlen", CUDA, torch.float32, 64, 64) == "float32, and it takes bfloat16 and float16"
    Recorder(monkeypatch, capability=(8, 0))
    assert why_not("flash_attention_3", *half) == "compute capability 8.0 below 9.0"
    Recorder(monkeypatch, capability=(7, 5))
    assert usable(*half) == ["nested", "flex", "padded"]
    monkeypatch.setattr(varlen, "is_flash_attn_2_available", lambda: False)
    assert why_not("flash_attention_2", *half) == "not installed"
    monkeypatch.setattr(varlen, "_varlen_function", lambda: None)
    assert why_not("torch_varlen", *half) == "not in this torch"


def choose_on_cpu(monkeypatch, methods, **options):
    """Choose among methods as if there were nothing against any; they are tried on the CPU."""
    monkeypatch.setattr(varlen, "why_not", lambda *args: None)
    monkeypatch.setattr(varlen, "METHODS", {**methods, "padded": varlen._padded})
    return varlen._choose("cpu", torch.float32, 16, 16, **options)


def test_a_method_that_raises_or_differs_is_left_out(monkeypatch, caplog):
    def raises(*args):
        raise RuntimeError("no kernel image\nis available")

    def differs(query, key, value, *args):
        return varlen._padded(query, key, value, *args) * 1.01

    def differs_backward(query, key, value, *args):
        return varlen._padded(query, key.detach() + 0 * key, value, *args)

    def no_number(*args):
        return varlen._padded(*args) * torch.nan

    broken = {"raises": raises, "differs": differs, "backward": differs_backward, "nan": no_number}
    with caplog.at_level(logging.WARNING):
        assert choose_on_cpu(monkeypatch, {**broken, "nested": varlen._nested}) == "nested"
    lines = [record.getMessage() for record in caplog.records]
    assert "RuntimeError: no kernel image is available" in lines[0]
    assert "output is 1.0e-02 from the padded one's" in lines[1]
    assert "dk is" in lines[2]
    assert "output is nan" in lines[3]
    assert len(lines) == 4


@pytest.mark.parametrize("is_causal", [False, True])
def test_trying_changes_no_random_state_and_works_without_gradients(is_causal, monkeypatch):
    before = torch.get_rng_state()
    with torch.inference_mode():
        kernel = varlen._nested if not is_causal else lambda *arguments: varlen._padded(*arguments)
        assert choose_on_cpu(monkeypatch, {"kernel": kernel}, is_causal=is_causal) == "kernel"
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_method_is_an_error():
    inputs = [rows(OWN, HEAD_DIM, i) for i in range(3)]
    with pytest.raises(ValueError, match="no attention method 'flash': choose one of flash_attention_3, torch_varlen"):
        varlen_attention(*inputs, limits_of(OWN, OWN), method="flash")


@pytest.mark.fresh
def test_compiles_into_one_graph():
    """Lengths vary from batch to batch: one dynamic graph serves all."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    width = HEADS * 16
    unchanged = torch.nn.Linear(width, width, bias=False)
    unchanged.weight.data = torch.eye(width)

    def attend(query, key, value, limits):  # as in the model, where a linear layer makes the heads' width a constant
        heads = (unchanged(x).view(-1, HEADS, 16) for x in (query, key, value))
        return varlen_attention(*heads, limits, is_causal=True)

    compiled = torch.compile(attend, backend=count, fullgraph=True, dynamic=True)
    for lengths in ([5, 1, 8], [3, 4, 6], [9, 2, 7, 4]):
        inputs = [x.detach() for x in (rows(lengths, 16, i) for i in range(3))]
        found = compiled(*(x.flatten(1) for x in inputs), limits_of(lengths, lengths))
        torch.testing.assert_close(found, plain(*inputs, lengths, lengths, True, 0.25), atol=1e-5, rtol=1e-5)
    assert len(graphs) == 1
    torch._dynamo.reset()
