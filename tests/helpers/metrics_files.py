"""Records of made-up runs, and `metrics.jsonl` files of them."""

import json


def train(step, **changes):
    record = {"event": "train", "step": step, "loss": 9.0 / step, "learning_rate": step * 1e-4, "padding": 0.1}
    return record | {"tokens_per_second": 100.0, "target_tokens": 10 * step, "seconds": 2.0 * step} | changes


def validation(step, **changes):
    scores = {"loss": 5.0 / step, "perplexity": 9.0, "bleu": float(step), "chrf": 2.0 * step, "best": True}
    return {"event": "validation", "step": step, "epoch": 0} | scores | changes


def write(path, records, end=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end, encoding="utf-8")
    return path
