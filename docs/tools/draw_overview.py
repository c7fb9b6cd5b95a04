"""Draw the picture at the top of the README from what `make demo` left: attention, and the course of the training.

python docs/tools/draw_overview.py demo_run/model demo_run/run/metrics.jsonl docs/overview.png
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import vaswani_tx  # noqa: F401  registers the classes
from vaswani_tx.training.reporting.plots import read_metrics

SENTENCE = "The old teacher repairs the clock because he needs it."
BLUE, ORANGE = "#1f6fb4", "#c94f1f"


def main(model_folder: str, metrics: str, target: str) -> None:
    """Write the picture."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(model_folder, attn_implementation="eager").eval()
    source = tokenizer(SENTENCE, return_tensors="pt")
    translation = model.generate(**source)
    with torch.no_grad():
        output = model(**source, decoder_input_ids=translation[:, :-1], output_attentions=True)
    # The mean over the heads of the last layer but one, as the pipeline's alignments. [1, H, T, S] -> [T, S]
    weights = output.cross_attentions[-2][0].mean(0)
    records = read_metrics(Path(metrics))
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    place = left.subplots()
    image = place.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    read = [tokenizer.decode(token).strip() for token in source["input_ids"][0]]
    written = [tokenizer.decode(token).strip() for token in translation[0, 1:]]
    place.set_xticks(range(len(read)), read, rotation=55, ha="right", rotation_mode="anchor")
    place.set_yticks(range(len(written)), written)
    place.set_title("Which source tokens each target token attends to", loc="left", fontweight="bold")
    left.colorbar(image, ax=place, shrink=0.7, label="attention, mean of the heads")
    loss, bleu = right.subplots(2, 1, sharex=True)
    loss.plot([one["step"] for one in records["train"]], [one["loss"] for one in records["train"]], color=BLUE)
    loss.set_title("Training loss", loc="left", fontweight="bold")
    loss.set_ylabel("nats a token")
    points = records["validation"]
    bleu.plot([one["step"] for one in points], [one["bleu"] for one in points], color=ORANGE, marker="o")
    bleu.set_title("BLEU of unseen sentences", loc="left", fontweight="bold")
    bleu.set(xlabel="updates", ylim=(0, 105))
    for axes in (loss, bleu):
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
