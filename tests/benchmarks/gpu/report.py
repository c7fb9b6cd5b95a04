"""Tables of what was measured on a GPU, for the terminal and for `docs/speed.md`."""

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.gpu import decoding, training
from tests.benchmarks.gpu.settings import PAPER_UPDATES
from tests.benchmarks.results import rounded, table

SECTION = "gpu"
FORMULA = (
    "Operations an update, from real tokens, three times the forward pass: 2 m k n a product; of N layers a stack, a "
    "source token N (12 D² + 4 D F), a target token N (12 D² + 4 D F) + 2 D V, a pair of s and t tokens "
    "N D (4 s² + 2 t (t + 1) + 4 s t); embeddings, norms, softmax and optimiser count nothing. Utilisation is of the "
    "rate of the square product in the same arithmetic (bfloat16 or float32)."
)


def square_rate(found: Mapping[str, Any], precision: str) -> float | None:
    """Return the TFLOP/s of the large square product."""
    for row in found.get("matrix", {}).get("products", []):
        if row["product"] == "square":
            return row[precision]
    return None


def render(found: Mapping[str, Any]) -> str:
    """Return the section of the page as Markdown."""
    about = found["about"]
    memory = "" if about["memory_gib"] is None else f", {about['memory_gib']} GiB"
    versions = ", ".join(f"{name} {one}" for name, one in about["versions"].items() if one)
    parts = [
        f"{about['device']}{memory}; {versions}; {about['date']}.",
        *([] if found["settings"]["size"] == "base" else ["Sizes of a test: these numbers mean nothing."]),
        "### Matrix rate",
        _rates(found),
        "### Training on one GPU",
        _training(found),
        FORMULA,
        "### Decoding on one GPU",
        _decoding(found),
        *_differences(found),
    ]
    return "\n\n".join(part for part in parts if part)


def _rates(found: Mapping[str, Any]) -> str:
    result = found.get("matrix", {"failed": "not asked for"})
    if "failed" in result:
        return f"Not measured: {result['failed']}"
    rows = []
    for row in result["products"]:
        sizes = " × ".join(f"{row[side]:,}" for side in "mkn")
        rows.append([row["product"], sizes, *(rounded(row[kind]) for kind in ("bf16", "tf32", "fp32"))])
    return table(rows, ["product, TFLOP/s", "m × k × n", "bf16", "tf32", "fp32"])


def _training(found: Mapping[str, Any]) -> str:
    results = found.get("training", {})
    if not results:
        return "Not measured."
    peer = results.get("MarianMT bf16", {}).get("tokens_per_second")
    rows, failures = [], []
    for name, one in results.items():
        if "failed" in one:
            failures.append(f"{name}: {one['failed']}")
            continue
        rate = square_rate(found, one["precision"])
        memory = one["peak_memory_gib"]
        rows.append(
            [
                name, f"{one['tokens_per_second']:,.0f}",
                rounded(one["tokens_per_second"] / peer) if peer else "",
                f"{1000 * one['seconds_per_update']:.1f}",
                f"{one['flops_per_second'] / rate / 1e12:.1%}" if rate else "",
                f"{one['seconds_per_update'] * PAPER_UPDATES / 60:,.0f}",
                f"{memory:.1f}" if memory is not None else "", one["attention"] or "padded",
            ]
        )  # fmt: skip
    heads = [
        "training", "tokens/s", "× MarianMT", "ms an update", "utilisation", f"minutes for {PAPER_UPDATES:,} updates",
        "peak GiB", "attention",
    ]  # fmt: skip
    return "\n\n".join([table(rows, heads), *(f"Not measured: {line}" for line in failures)])


def _decoding(found: Mapping[str, Any]) -> str:
    results = found.get("decoding", {})
    measured = {name: one["searches"] for name, one in results.items() if "searches" in one}
    searches = list(next(iter(measured.values()), {}))
    if not searches:
        return "\n\n".join(["Not measured.", *(f"{name}: {one['failed']}" for name, one in results.items())])
    first = measured.get(decoding.FIRST, {})
    rows = []
    for name, own in measured.items():
        cells = []
        for search in searches:
            one = own[search]
            ratio = f" ({rounded(first[search]['seconds'] / one['seconds'])})" if search in first else ""
            cells.append(f"{one['sentences_per_second']:,.1f}{ratio}")
        rows.append([name, *cells])
    heads = ["sentences/s (× MarianMT)"]
    for search in searches:
        size, beams = search.split("/")
        heads.append(f"batch {size}, {'greedy' if beams == '1' else f'beam {beams}'}")
    lines = [f"Not measured: {name}: {one['failed']}" for name, one in results.items() if "failed" in one]
    shares = []
    for name in measured:
        found_shares = [decoding.agreement(results, name, search, "bf16_tokens") for search in searches]
        known = [share for share in found_shares if share is not None]
        if name != decoding.FIRST and known:
            shares.append(f"{name} {min(known):.0%}")
    if shares:
        lines.append(f"In bfloat16 at least this share of sentences has MarianMT's tokens: {', '.join(shares)}.")
    return "\n\n".join([table(rows, heads), *lines])


def _differences(found: Mapping[str, Any]) -> list[str]:
    lines = differences(found)
    return ["Outputs that differ:\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []


def differences(found: Mapping[str, Any]) -> list[str]:
    """Return a line for each output that is not what it is compared with."""
    return training.differences(found.get("training", {})) + decoding.differences(found.get("decoding", {}))
