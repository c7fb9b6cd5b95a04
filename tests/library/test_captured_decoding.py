"""The decoder that replays its step, on a fake graph that repeats operations on the same memory, against `generate`."""

import contextlib
import copy
import gc
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.fake_graphs import FakeGraph, Recorder
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, fast_generate
from vaswani_tx import captured_decoding_vaswani as captured
from vaswani_tx.captured_decoding_vaswani import CapturedDecoder, decoder_for, record_cuda_graph
from vaswani_tx.fast_decoder_vaswani import FastDecoder


def small_model(**fields):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "d_model": 16, "d_ff": 24, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    return VaswaniForConditionalGeneration(VaswaniConfig(**sizes, **{"max_position_embeddings": 256, **fields})).eval()


def small_batch(sentences=3, length=7, seed=1):
    ids = torch.randint(3, 50, (sentences, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1:2, length - 2 :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def encoded(model, batch):
    with torch.no_grad():
        return model.get_encoder()(**batch).last_hidden_state, batch["attention_mask"]


@pytest.fixture
def recorder(monkeypatch):
    """Let `fast_generate` decode by recordings on a CPU."""
    found = Recorder()
    monkeypatch.setattr(captured, "pays", lambda *arguments: True)
    monkeypatch.setattr(captured, "record_cuda_graph", found)
    return found


FIELDS = {
    "paper": {},
    "others": {
        "norm_order": "pre", "embedding_norm": True, "final_layer_norm": True, "position_embedding": "learned",
        "scale_embedding": False, "d_k": 8, "d_v": 12, "attention_bias": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("fields", FIELDS)
def test_every_step_is_that_of_the_fast_decoder(fields, beams, monkeypatch):
    monkeypatch.setattr(captured, "FIRST_CAPACITY", 8)
    model, recorder = small_model(**FIELDS[fields]), Recorder()
    source = encoded(model, small_batch(sentences=5))
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        plain = FastDecoder(model, *source, beams, 80)
        ours = CapturedDecoder(model, *source, beams, 80, recorder)
        sentences = 5
        for step in range(12):  # beyond the first capacity
            tokens = torch.randint(3, 50, (sentences * beams,), generator=random)
            torch.testing.assert_close(ours.scores(tokens), plain.scores(tokens), atol=1e-5, rtol=1e-5)
            others = torch.randint(0, beams, (sentences, beams), generator=random)
            parents = (torch.arange(sentences)[:, None] * beams + others).flatten()
            for decoder in (plain, ours):
                decoder.follow(parents)
            if step in (3, 6):
                kept = torch.tensor([0, 2, 4] if step == 3 else [1])
                sentences = len(kept)
                for decoder in (plain, ours):
                    decoder.keep(kept)
    # 5 sentences in 8 rows; 3 are no reason to record again, 1 is; then the larger buffers.
    assert [graph.replays for graph in recorder.graphs] == [7, 1, 4]


def test_a_replay_reads_and_writes_only_what_it_was_recorded_with():
    model, recorder = small_model(), Recorder()
    memory, mask = encoded(model, small_batch())
    with torch.no_grad():
        decoder = CapturedDecoder(model, memory, mask, 2, 20, recorder)
        decoder.scores(torch.zeros(6, dtype=torch.long))
        held = [decoder._tokens, decoder._position, decoder._own, decoder._table, *decoder._of_sentences()]
        held += [decoder._recordings[4][1][1], *(tensor for layer in decoder.layers for tensor in layer.fused or ())]
        addresses = [tensor.data_ptr() for tensor in held if tensor is not None]
        decoder.follow(torch.tensor([1, 0, 2, 3, 5, 5]))
        decoder.keep(torch.tensor([0, 2]))
        decoder.scores(torch.zeros(4, dtype=torch.long))
        decoder.load(*encoded(model, small_batch(sentences=2, length=5)), 20)
        decoder.scores(torch.zeros(4, dtype=torch.long))
        held[4 : -1 - len([t for layer in decoder.layers for t in layer.fused or ()])] = decoder._of_sentences()
    assert [tensor.data_ptr() for tensor in held if tensor is not None] == addresses
    assert recorder.graphs[0].replays == 3


def test_a_fake_graph_bakes_in_what_a_real_one_would():
    buffer, place = torch.zeros(4), torch.zeros(1, dtype=torch.long)
    graph, number = FakeGraph(), 1
    with graph:
        buffer.index_fill_(0, place, 1.0)
        doubled = buffer * 2 + number
    for place_now, number in ((2, 50), (3, 60)):  # noqa: B007
        place.fill_(place_now)
        graph.replay()
    assert doubled.tolist() == [3.0, 1.0, 3.0, 3.0]
    with pytest.raises(RuntimeError, match="waits for the device"), FakeGraph():
        buffer.sum().item()


SEARCHES = {
    "greedy": {"num_beams": 1, "do_sample": False},
    "paper": {},
    "beam": {"num_beams": 3, "length_penalty": 1.0, "num_return_sequences": 2},
}


@pytest.mark.parametrize("search", SEARCHES)
def test_tokens_are_those_of_generate(search, recorder):
    model = small_model()
    for seed in (1, 2):
        batch, options = small_batch(sentences=4, length=6 + seed, seed=seed), {"max_extra_tokens": 9}
        options |= SEARCHES[search]
        wanted = model.generate(**batch, **options)
        assert torch.equal(model.generate(**batch, **options, custom_generate=fast_generate), wanted)
    sizes = [graph.replays for graph in recorder.graphs]
    assert sum(sizes) >= 2 * 5
    assert len(sizes) <= 3  # the second batch has the recordings of the first one


def test_changed_weights_are_seen(recorder):
    model, batch = small_model(position_embedding="learned"), small_batch()
    options = {"num_beams": 2, "max_new_tokens": 8, "custom_generate": fast_generate}
    before = model.generate(**batch, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        positions = model.get_decoder().positional_encoding.positions.weight
        positions.add_(5 * torch.randn_like(positions))
    after = model.generate(**batch, **options)
    assert torch.equal(after, model.generate(**batch, **{**options, "custom_generate": None}))
    assert not torch.equal(after, before)
    assert len(recorder.graphs) == 1
    recorded = len(recorder.graphs)
    model.double()  # other memory
    found = model.generate(**batch, **options)
    assert torch.equal(found, model.generate(**batch, **{**options, "custom_generate": None}))
    assert len(recorder.graphs) == recorded + 1
    assert len(captured._idle[model]) == 1


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_with_and_without_inference_mode(order, recorder):
    model, batch = small_model(), small_batch()
    wanted = model.generate(**batch, max_new_tokens=5)
    for is_inference in order:
        with torch.inference_mode() if is_inference else contextlib.nullcontext():
            found = model.generate(**batch, max_new_tokens=5, custom_generate=fast_generate)
        assert torch.equal(found, wanted)
    assert len(recorder.graphs) == 1


def test_a_decoder_in_use_is_not_given_twice_and_few_are_kept(recorder):
    model = small_model()
    source = encoded(model, small_batch())
    with decoder_for(model, *source, 1, 20) as first, decoder_for(model, *source, 1, 20) as second:
        assert first is not second
    with decoder_for(model, *source, 1, 20) as again:
        assert again in (first, second)
    with pytest.raises(KeyError), decoder_for(model, *source, 1, 20):
        raise KeyError("a search that fails")
    for sentences in (1, 2, 4, 8, 16):
        with decoder_for(model, *encoded(model, small_batch(sentences)), 1, 20):
            pass
    assert len(captured._idle[model]) == captured.KEPT
    count = len(captured._idle)
    del first, second, again, model
    gc.collect()
    assert len(captured._idle) == count - 1


def test_a_model_with_recordings_can_be_copied(recorder):
    model, batch = small_model(), small_batch()
    wanted = model.generate(**batch, max_new_tokens=5, custom_generate=fast_generate)
    assert torch.equal(copy.deepcopy(model).generate(**batch, max_new_tokens=5), wanted)


def test_learned_positions_end_with_their_table(recorder):
    model = small_model(position_embedding="learned", max_position_embeddings=10)
    with torch.no_grad(), decoder_for(model, *encoded(model, small_batch()), 1, 40) as decoder:
        for _ in range(10):
            decoder.scores(torch.zeros(3, dtype=torch.long))
        with pytest.raises(ValueError, match="max_position_embeddings=10"):
            decoder.scores(torch.zeros(3, dtype=torch.long))


def test_it_pays_on_a_gpu_for_few_rows(monkeypatch):
    model = small_model()
    memory = SimpleNamespace(device=torch.device("cuda", 0), shape=(4, 7, 16), __len__=None)

    class Memory:
        device, shape = torch.device("cuda", 0), (4, 7, 16)

        def __len__(self):
            return self.shape[0]

    memory, free = Memory(), [1 << 30]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], free[0]))
    assert captured.pays(model, memory, 4, 60)
    free[0] = 1 << 16
    assert not captured.pays(model, memory, 4, 60)
    free[0] = 1 << 40
    memory.shape = (1000, 7, 16)
    assert not captured.pays(model, memory, 4, 60)
    memory.shape = (4, 7, 16)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind=None: True)
    assert not captured.pays(model, memory, 4, 60)
    assert not captured.pays(model, torch.zeros(4, 7, 16), 4, 60)


def test_on_a_cpu_it_is_the_fast_decoder():
    model = small_model()
    with decoder_for(model, *encoded(model, small_batch()), 2, 20) as decoder:
        assert type(decoder) is FastDecoder


def test_calls_of_cuda(monkeypatch):
    """The order of what CUDA asks for: warmed up on a side stream that waits, then recorded on it, the other waits."""
    events = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            events.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            events.append("replay")

    @contextlib.contextmanager
    def within(name):
        events.append(f"enter {name}")
        yield
        events.append(f"leave {name}")

    def graph(made, *, stream, capture_error_mode):
        assert (stream.name, capture_error_mode) == ("side", "thread_local")
        return within("graph")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: within(stream.name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    record_cuda_graph(lambda: events.append("step"))()
    assert events == [
        "side waits for main", "enter side", "step", "step", "leave side", "main waits for side",
        "enter graph", "step", "leave graph", "replay",
    ]  # fmt: skip
