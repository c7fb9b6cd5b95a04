"""A demonstration for a laptop without network: corpus, tokenizer, model, score, translations, attention.

    make demo
    python -m vaswani_tx.training.demo --output-dir demo_run

It writes an English-German corpus from a grammar (20,000 pairs; no test sentence is seen in training), trains on it for
about three minutes on two cores, translates the test split with the paper's beam search, loads the saved model in a new
process through the Auto classes, draws two pictures, and writes the page that explains the model. OUTPUT_DIR then holds
`data/`, `run/` (the training run), `model/` (the model), `translations.tsv`, `scores.json`, `training_curve.png`,
`cross_attention.png`, `explain.html`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vaswani_tx import explain
from vaswani_tx.limits import SEED, whole
from vaswani_tx.text_files import use_utf8
from vaswani_tx.training.command_line import make_parser, print_status
from vaswani_tx.training.experiments.english_german_grammar import Pair, generate_corpus, split_corpus
from vaswani_tx.training.files import atomic_folder, atomic_text
from vaswani_tx.training.inference.translation import load_model_and_tokenizer, translate
from vaswani_tx.training.metrics.scoring import aligned, score_rows, score_translations
from vaswani_tx.training.reporting.plots import draw_attention, draw_training_curve, read_metrics
from vaswani_tx.training.train_translation import main as train_translation

RECIPE = Path(__file__).parent / "recipes" / "demo_en_de.yaml"
SHOWN = 12
# Run by a new interpreter: what a user of the saved folder would write.
RELOAD = """
import sys
import vaswani_tx
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for sentence in sys.argv[2:]:
    output = model.generate(**tokenizer(sentence, return_tensors="pt"))
    print(tokenizer.decode(output[0], skip_special_tokens=True))
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python -m vaswani_tx.training.demo")
    parser.add_argument("--output-dir", type=Path, default=Path("demo_run"), help="replaced if it is a demo's folder")
    parser.add_argument(
        "--pairs", type=whole(), default=20000, help="size of the corpus, 1,000 to test and 500 to validate"
    )
    parser.add_argument("--max-steps", type=whole(), help="updates; the recipe's number if absent")
    parser.add_argument("--seed", type=SEED, default=2017, help="of the corpus and its split")
    return parser.parse_args(argv)


def prepare(folder: Path) -> None:
    """Make an empty output folder; files of another program are never deleted.

    Raises ValueError if the folder holds anything but an earlier demonstration.
    """
    mark = folder / "data"
    if folder.exists() and any(folder.iterdir()):
        if not (mark / "grammar.json").is_file():
            raise ValueError(f"'{folder}' is not empty and not an earlier demonstration's: give another --output-dir")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def write_corpus(folder: Path, size: int, seed: int) -> dict[str, list[Pair]]:
    """Generate the corpus, write its three parts as line-aligned text files and return them."""
    pairs = generate_corpus(size, seed)
    held_out = min(1000, size // 5)
    parts = dict(zip(("train", "val", "test"), split_corpus(pairs, held_out // 2, held_out, seed), strict=True))
    with atomic_folder(folder) as place:
        for name, part in parts.items():
            (place / f"{name}.en").write_text("".join(pair.source + "\n" for pair in part), encoding="utf-8")
            (place / f"{name}.de").write_text("".join(pair.target + "\n" for pair in part), encoding="utf-8")
        counts = {name: len(part) for name, part in parts.items()}
        (place / "grammar.json").write_text(json.dumps({"seed": seed, "pairs": counts}) + "\n", encoding="utf-8")
    return parts


def score(test: Sequence[Pair], hypotheses: Sequence[str]) -> dict[str, Any]:
    """Return BLEU, chrF and exact match on the test split, and exact match among the sentences with each phenomenon."""
    scores: dict[str, Any] = score_translations(hypotheses, [pair.target for pair in test])
    groups: dict[str, list[bool]] = {}
    for pair, hypothesis in zip(test, hypotheses, strict=True):
        for phenomenon in pair.phenomena:
            groups.setdefault(phenomenon, []).append(hypothesis == pair.target)
    scores["phenomena"] = {
        name: {"sentences": len(right), "exact_match": sum(right) / len(right)}
        for name, right in sorted(groups.items())
    }
    return scores


def report(scores: dict[str, Any]) -> str:
    """Return the scores as text."""
    lines = [
        *aligned(score_rows(scores)),
        "exact match by phenomenon:",
    ]
    for name, group in scores["phenomena"].items():
        lines.append(f"  {name:<28} {100 * group['exact_match']:5.1f} %  of {group['sentences']}")
    return "\n".join(lines)


def reload_elsewhere(folder: Path, sentences: Sequence[str]) -> list[str]:
    """Translate `sentences` in a new process that loads `folder` through the Auto classes.

    Raises RuntimeError with that process's message if it fails.
    """
    result = subprocess.run(
        [sys.executable, "-c", RELOAD, str(folder), *sentences], capture_output=True, text=True, encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"the saved model did not load in a new process:\n{result.stderr}")
    return result.stdout.removesuffix("\n").split("\n")


@torch.no_grad()
def draw_cross_attention(folder: Path, sentence: str, path: Path) -> None:
    """Translate `sentence` and draw the last decoder layer's attention to the source, head by head."""
    model, tokenizer = load_model_and_tokenizer(str(folder), attn_implementation="eager")
    source = tokenizer(sentence, return_tensors="pt")
    translation = model.generate(**source)
    output = model(**source, decoder_input_ids=translation[:, :-1], output_attentions=True)
    tokens = [tokenizer.decode(token) for token in source["input_ids"][0]]
    predicted = [tokenizer.decode(token) for token in translation[0, 1:]]
    text = tokenizer.decode(translation[0], skip_special_tokens=True)
    draw_attention(output.cross_attentions[-1][0].numpy(), tokens, predicted, path, f"{sentence}\n{text}")


def choose_model(run: Path) -> Path:
    """Return the averaged or the best checkpoint of a finished run, whichever has the higher validation BLEU."""
    events = read_metrics(run / "metrics.jsonl")
    scores = {name: events[name][-1]["bleu"] for name in ("best", "averaged") if name in events}
    return run / max(scores, key=scores.get)


def demonstrate(options: argparse.Namespace) -> None:
    """Run all the stages."""
    began = time.monotonic()

    def stage(text: str) -> None:
        print(f"\n== {text}   [{time.monotonic() - began:.0f} s]", flush=True)

    folder = options.output_dir
    prepare(folder)
    stage(f"a corpus of {options.pairs:,} sentence pairs from a grammar")
    parts = write_corpus(folder / "data", options.pairs, options.seed)
    test = parts["test"]
    print(", ".join(f"{name} {len(part):,}" for name, part in parts.items()), "pairs, for example")
    for pair in parts["train"][:3]:
        print(f"  {pair.source}\n  {pair.target}")

    stage("training: tokenizer, then model")
    flags = ["--data-dir", str(folder / "data"), "--output-dir", str(folder / "run")]
    flags += ["--max-steps", str(options.max_steps)] if options.max_steps else []
    if status := train_translation([str(RECIPE), *flags]):
        raise SystemExit(status)
    with atomic_folder(folder / "model") as place:
        shutil.copytree(choose_model(folder / "run"), place, dirs_exist_ok=True)

    stage(f"translating the {len(test):,} test sentences, none of which was seen in training")
    model, tokenizer = load_model_and_tokenizer(str(folder / "model"))
    hypotheses = translate(model, tokenizer, [pair.source for pair in test], progress=True)
    scores = score(test, hypotheses)
    print(report(scores))
    for pair, hypothesis in list(zip(test, hypotheses, strict=True))[:SHOWN]:
        mark = "" if hypothesis == pair.target else f"   (the grammar says: {pair.target})"
        print(f"  {pair.source}\n    {hypothesis}{mark}")
    rows = zip(test, hypotheses, strict=True)
    table = "".join(f"{pair.source}\t{pair.target}\t{hypothesis}\n" for pair, hypothesis in rows)
    atomic_text(folder / "translations.tsv", "source\treference\thypothesis\n" + table)

    stage("the saved model in a new process, through the Auto classes")
    sentences = [pair.source for pair in test[:5]]
    elsewhere = reload_elsewhere(folder / "model", sentences)
    if elsewhere != hypotheses[:5]:
        raise RuntimeError(f"the reloaded model translates differently: {elsewhere} instead of {hypotheses[:5]}")
    print(f"{len(elsewhere)} sentences, the same translations")

    stage("pictures, and a page to open in a browser")
    draw_training_curve(folder / "run" / "metrics.jsonl", folder / "training_curve.png", "demo: loss, BLEU, rate")
    with_pronoun = [pair for pair in test if {"it_subject", "it_object"} & set(pair.phenomena)]
    pair = max(with_pronoun or test, key=lambda pair: (len(pair.phenomena), -len(pair.source), pair.source))
    draw_cross_attention(folder / "model", pair.source, folder / "cross_attention.png")
    page = explain.page(model, tokenizer, pair.source, name="the demo's model", run=folder / "run")
    page.save(folder / "explain.html")
    scores["seconds"] = round(time.monotonic() - began, 1)
    atomic_text(folder / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    written = ("training_curve.png", "cross_attention.png", "explain.html", "translations.tsv", "scores.json", "model")
    for name in written:
        print(f"  {folder / name}")
    stage(f"done: BLEU {scores['bleu']:.2f}, exact match {100 * scores['exact_match']:.1f} %")


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    use_utf8()
    try:
        demonstrate(parse(argv))
    except (ValueError, OSError, RuntimeError) as error:
        print_status(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
