"""Decoding on one GPU: `generate` of MarianMT and of this project, the fast decoder, CTranslate2.

All have the same weights, in bfloat16, and write targets of one length. The tokens are compared with MarianMT's in
float32, in calls that are not timed.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import decoding_contenders as contenders
from tests.benchmarks.contenders import Unavailable
from tests.benchmarks.gpu.rates import synchronize
from tests.benchmarks.gpu.settings import Settings
from tests.benchmarks.weights import seeded_weights
from tests.benchmarks.worker import DECODING_GAIN
from tests.benchmarks.works import SIZES, DecodingWork, decoding_batches
from tests.helpers.fake_graphs import Recorder
from vaswani_tx import captured_decoding_vaswani as module
from vaswani_tx.export import ctranslate2 as exporter

FIRST = "MarianMT"
DECODERS = {
    FIRST: contenders.Marian,
    "vaswani-tx generate": contenders.Ours,
    "vaswani-tx fast": contenders.OursFast,
    "vaswani-tx fast, captured": contenders.OursFast,
    "CTranslate2": contenders.CTranslate2,
}
# Largest batch whose tokens are compared: in float32 a large one takes long.
COMPARED = 32


@contextlib.contextmanager
def captured(wanted: bool, device: torch.device) -> Iterator[None]:
    """Let the fast decoder replay its step or not; without a GPU its operations are repeated one by one."""
    pays, record = module.pays, module.record_cuda_graph
    if not wanted:
        module.pays = lambda *arguments: False
    elif device.type != "cuda":
        module.pays, module.record_cuda_graph = lambda *arguments: True, Recorder()
    try:
        yield
    finally:
        module.pays, module.record_cuda_graph = pays, record


class Decoder:
    """One contender on a device, for one search."""

    def __init__(self, settings: Settings, name: str, work: DecodingWork, dtype: torch.dtype):
        self.device, self.name = torch.device(settings.device), name
        weights = seeded_weights(SIZES[work.size], work.vocab_size, work.seed, DECODING_GAIN)
        if DECODERS[name] is contenders.CTranslate2:
            self.contender: Any = ctranslate2_on(self.device, work, weights, dtype)
        else:
            self.contender = DECODERS[name](work, weights)
            self.contender.model.to(self.device, dtype)

    def translate(self, batch: dict[str, torch.Tensor]) -> list[list[int]]:
        """Return the tokens of each sentence."""
        with captured("captured" in self.name, self.device):
            if DECODERS[self.name] is contenders.CTranslate2:
                return self.contender.translate(batch)
            return self.contender.translate({key: one.to(self.device) for key, one in batch.items()})


def ctranslate2_on(device: torch.device, work: DecodingWork, weights: Any, dtype: torch.dtype) -> Any:
    """Return CTranslate2 on a device.

    Raises:
        Unavailable: it is not installed, was built without CUDA, or lacks the type.
    """
    try:
        import ctranslate2
    except ImportError as error:
        raise Unavailable(f"CTranslate2 is not there ({error}): pip install ctranslate2") from None
    if device.type == "cuda" and not ctranslate2.get_cuda_device_count():
        raise Unavailable("this CTranslate2 sees no CUDA device")
    kind = "bfloat16" if dtype == torch.bfloat16 and device.type == "cuda" else "float32"
    if kind not in ctranslate2.get_supported_compute_types(device.type):
        raise Unavailable(f"CTranslate2 has no {kind} on this device")
    made = contenders.CTranslate2.__new__(contenders.CTranslate2)
    made.work, made.words = work, contenders._Words(work.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        exporter.write(contenders.loaded_model(work, weights), made.words, Path(folder), quantization="float32")
        made.translator = ctranslate2.Translator(folder, device=device.type, compute_type=kind)
    return made


def run(settings: Settings, name: str) -> dict[str, Any]:
    """Measure one contender in every search.

    Returns:
        `searches`: for each "batch/beams" the median seconds of a call, sentences/s, and what is compared.
    """
    device = torch.device(settings.device)
    found: dict[str, Any] = {}
    for size in settings.decoding_batches:
        for beams in settings.beams:
            work = settings.decoding_work(size, beams)
            batch = decoding_batches(work)[0]
            result: dict[str, Any] = {}
            if size <= COMPARED:
                result["tokens"] = Decoder(settings, name, work, torch.float32).translate(batch)
            decoder = Decoder(settings, name, work, torch.bfloat16)
            result["bf16_tokens"] = decoder.translate(batch)
            times = []
            for _ in range(settings.calls):
                synchronize(device)
                start = time.perf_counter()
                decoder.translate(batch)
                synchronize(device)
                times.append(time.perf_counter() - start)
            seconds = sorted(times)[len(times) // 2]
            result |= {"seconds": seconds, "sentences_per_second": len(batch["input_ids"]) / seconds}
            found[f"{size}/{beams}"] = result
            del decoder
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return {"searches": found}


def agreement(found: dict[str, dict[str, Any]], name: str, search: str, key: str) -> float | None:
    """Return the share of sentences whose tokens are the first contender's, None where one of them has none."""
    sides = [found.get(one, {}).get("searches", {}).get(search, {}).get(key) for one in (FIRST, name)]
    if not all(sides):
        return None
    return sum(one == other for one, other in zip(*sides, strict=True)) / len(sides[0])


def differences(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each search in which a contender's float32 tokens are not the first one's."""
    lines = []
    for name, result in found.items():
        for search in result.get("searches", {}):
            share = agreement(found, name, search, "tokens")
            if share is not None and share < 1:
                size, beams = search.split("/")
                lines.append(f"{name}: batch {size}, {beams} beams: {share:.0%} of the sentences have {FIRST}'s tokens")
    return lines
