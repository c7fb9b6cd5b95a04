"""Layers compiled one by one: few graphs for batches of all shapes, and what the whole model computes."""

import pytest
import torch

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, padding_vaswani
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.engine.compilation import compile_layers
from vaswani_tx.training.engine.run import configure_model


def small_model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "d_model": 32, "d_ff": 48, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2}
    return VaswaniForConditionalGeneration(VaswaniConfig(**sizes, dropout=0.0)).train()


def small_batch(rows, source, target, seed):
    random = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(3, 40, (rows, width), generator=random) for width in (source, target)]
    lengths = [torch.randint(2, width + 1, (rows,), generator=random) for width in (source, target)]
    lengths[0][0], lengths[1][-1] = source, target
    kept = [torch.arange(width) < length[:, None] for width, length in zip((source, target), lengths, strict=True)]
    return {
        "input_ids": tokens[0] * kept[0],
        "attention_mask": kept[0].long(),
        "labels": tokens[1].masked_fill(~kept[1], -100),
    }


# Where two sizes of the first batch happen to be equal, torch takes them for one and compiles again for the next batch.
BATCHES = [(4, 9, 7), (5, 11, 8), (3, 6, 13)]


def losses_and_gradients(model):
    found = []
    for seed, sizes in enumerate(BATCHES, start=1):
        loss = model(**small_batch(*sizes, seed), skip_logits=True, label_smoothing=0.1).loss
        loss.backward()
        found.append(torch.stack([loss.detach(), *(one.grad.norm() for one in model.parameters())]))
        model.zero_grad()
    return torch.stack(found)


@pytest.mark.fresh
@pytest.mark.parametrize("has_kernels", [False, True])
def test_two_graphs_serve_batches_of_all_shapes_without_padding(has_kernels, monkeypatch):
    """An encoder layer's and a decoder layer's; with kernels for rows, as on a GPU, and without."""
    model, graphs, rows = small_model(), [], []
    with padding_vaswani.padding_free(False):
        wanted = losses_and_gradients(model)
    monkeypatch.setattr(padding_vaswani, "has_kernels", lambda device: has_kernels)
    pack = type(model)._pack
    monkeypatch.setattr(type(model), "_pack", lambda *args: rows.append(pack(*args)) or rows[-1])

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compile_layers(model, count)
    found = losses_and_gradients(model)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert len(rows) == len(BATCHES) and None not in rows  # not the padded batch
    assert len(graphs) == 2
    torch._dynamo.reset()


def test_every_layer_is_compiled_in_place(monkeypatch):
    model, calls = small_model(), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: calls.append((type(self), options)))
    names = list(model.state_dict())
    assert compile_layers(model) == 4
    assert [kind.__name__ for kind, _ in calls] == ["VaswaniEncoderLayer"] * 2 + ["VaswaniDecoderLayer"] * 2
    assert all(options == {"dynamic": True, "backend": "inductor"} for _, options in calls)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(("has_gpu", "compiled"), [(True, 4), (False, 1)])
def test_compile_true_means_the_layers_on_a_gpu(has_gpu, compiled, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: calls.append(type(self)))
    configure_model(small_model(), RunSettings(output_dir="x", compile=True))
    assert len(calls) == compiled
