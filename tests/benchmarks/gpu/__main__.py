"""The command: `python -m tests.benchmarks.gpu [--device cuda] [--only matrix training decoding] [--output FOLDER]`.

Without further options it needs one CUDA GPU and some 20 minutes. `gpu.json` and `gpu.md` in the folder hold what was
measured, also where some parts failed; `--docs` writes the tables into `docs/speed.md`. Exit status: 0, 1 where a part
failed or outputs differ, 2 for wrong options.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.benchmarks import results
from tests.benchmarks.contenders import Unavailable
from tests.benchmarks.gpu import decoding, rates, report, training
from tests.benchmarks.gpu.settings import Settings, describe, tiny
from tests.benchmarks.works import SIZES
from vaswani_tx.training.files import atomic_text

PAGE = Path(__file__).parents[3] / "docs" / "speed.md"
SECTIONS = ("matrix", "training", "decoding")
MINUTES = 20
PART_SECONDS = 1200  # most that a part may take, compilation included


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__.splitlines()[2])
    found.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="where to measure (default: cuda)")
    found.add_argument("--tiny", action="store_true", help="sizes of a test: runs every part in seconds, says nothing")
    found.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="parts to measure")
    found.add_argument("--updates", type=int, help="updates that are timed (default: 200)")
    found.add_argument("--output", type=Path, default=Path("gpu_speed"), help="folder of gpu.json and gpu.md")
    found.add_argument("--docs", action="store_true", help="write the tables into docs/speed.md")
    found.add_argument("--in-process", action="store_true", help="run all parts in this process, not one each")
    found.add_argument("--part", help=argparse.SUPPRESS)
    return found


def measure_part(settings: Settings, part: str) -> dict[str, Any]:
    """Measure one part in this process; a failure is a result too, with its reason in one line."""
    section, _, name = part.partition("/")
    device = torch.device(settings.device)
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "about": lambda: describe(device),
        "matrix": lambda: {"products": _products(settings, device)},
        "training": lambda: training.run(settings, name),
        "decoding": lambda: decoding.run(settings, name),
    }
    try:
        return works[section]()
    except Unavailable as reason:
        return {"failed": str(reason)}
    except Exception as error:  # whatever a kernel, a compiler or another library raises: the other parts still run
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    finally:
        torch._dynamo.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _products(settings: Settings, device: torch.device) -> list[dict[str, Any]]:
    size = SIZES[settings.size]
    shapes = rates.shapes_of(size.d_model, size.d_ff, settings.vocab_size, settings.tokens, settings.square)
    return rates.measure(device, shapes, settings.repeats)


def measure_apart(settings: Settings, part: str) -> dict[str, Any]:
    """Measure one part in a process of its own: what breaks the device's context breaks only that."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.json"
        request = json.dumps({"settings": settings.as_fields(), "output": str(path)})
        command = [sys.executable, "-m", "tests.benchmarks.gpu", "--part", part]
        try:
            done = subprocess.run(
                command, input=request, text=True, timeout=PART_SECONDS, capture_output=True, check=False
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not done within {PART_SECONDS // 60} minutes"}
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"the process ended with status {done.returncode}: {last[:300]}"}


def parts_of(sections: tuple[str, ...]) -> list[str]:
    """Return the parts in their order."""
    names = {"matrix": [""], "training": list(training.VARIANTS), "decoding": list(decoding.DECODERS)}
    return [f"{section}/{name}".rstrip("/") for section in SECTIONS if section in sections for name in names[section]]


def measure(settings: Settings, sections: tuple[str, ...], in_process: bool) -> dict[str, Any]:
    """Measure everything; print a line for each part."""
    one = measure_part if in_process else measure_apart
    found: dict[str, Any] = {"format": 1, "settings": settings.as_fields(), "about": one(settings, "about")}
    if "failed" in found["about"]:
        raise ValueError(f"the device cannot be used: {found['about']['failed']}")
    for part in parts_of(sections):
        section, _, name = part.partition("/")
        result = one(settings, part)
        if name:
            found.setdefault(section, {})[name] = result
        else:
            found[section] = result
        print(f"{part}: {_line(result)}", flush=True)
    return found


def _line(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"failed: {result['failed']}"
    if "tokens_per_second" in result:
        milliseconds = 1000 * result["seconds_per_update"]
        return f"{result['tokens_per_second']:,.0f} tokens/s, {milliseconds:.1f} ms an update"
    if "searches" in result:
        searches = result["searches"].items()
        return ", ".join(f"{name} {one['sentences_per_second']:,.1f} sentences/s" for name, one in searches)
    square = result["products"][-1]
    return ", ".join(f"{kind} {square[kind]:.2f} TFLOP/s" for kind in rates.KINDS)


def _serve_part(part: str) -> None:
    """Measure the part that another process asks for on standard input."""
    request = json.load(sys.stdin)
    result = measure_part(Settings.of_fields(request["settings"]), part)
    Path(request["output"]).write_text(json.dumps(result), encoding="utf-8")


def _failed(found: dict[str, Any]) -> list[str]:
    everything = {"matrix": found.get("matrix", {}), **found.get("training", {}), **found.get("decoding", {})}
    return [name for name, result in everything.items() if "failed" in result]


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser().parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    if options.part:
        _serve_part(options.part)
        return 0
    try:
        settings = tiny(options.device) if options.tiny else Settings(options.device)
        if options.updates is not None:
            if options.updates < 1:
                raise ValueError(f"--updates is {options.updates}: it must be at least 1.")
            settings = Settings.of_fields({**settings.as_fields(), "updates": options.updates})
        if options.docs and (options.tiny or options.device == "cpu" or set(options.only) != set(SECTIONS)):
            raise ValueError("--docs is for the whole set on a GPU: not with --tiny, --device cpu or --only.")
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"torch {torch.__version__} sees no CUDA device: install a CUDA build of torch on a machine with a "
                "GPU (docs/speed.md), or try the command with --device cpu --tiny."
            )
        duration = "within a minute" if options.tiny else f"about {MINUTES} minutes"
        print(f"Measures {', '.join(options.only)} on {options.device}, {duration}; writes {options.output}/gpu.json.")
        found = measure(settings, tuple(options.only), options.in_process)
        text = report.render(found)
        options.output.mkdir(parents=True, exist_ok=True)
        atomic_text(options.output / "gpu.json", json.dumps(found, indent=1) + "\n")
        atomic_text(options.output / "gpu.md", text + "\n")
        print(f"\n{text}\n\nresults: {options.output}/gpu.json, gpu.md")
        if options.docs:
            atomic_text(PAGE, results.into_page(PAGE.read_text(encoding="utf-8"), {report.SECTION: text}))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if _failed(found) or report.differences(found) else 0


if __name__ == "__main__":
    sys.exit(main())
