"""Measure a language model on text: perplexity and bits per byte, or the loss and accuracy of masked words.

    python -m vaswani_tx.training.evaluate_language_model --model runs/causal_tatoeba_en/best --text test.en
    python -m vaswani_tx.training.evaluate_language_model --model runs/masked_tatoeba_en/best --text test.en --pseudo

The model is a folder (or a name on the Hub) that `AutoModelForCausalLM` or `AutoModelForMaskedLM` loads: of a run of
ours, or GPT-2 and its like. The text is what a recipe's `validation_text` may be: text files of a document a line
(`--documents paragraph`: up to a blank line), .jsonl, .tsv or .parquet files with `--field`, a data set with `--split`.

A causal model predicts each document from `<s>` on, `</s>` included (`<|endoftext|>` where a tokenizer has nothing
else). The perplexity per token compares models of one vocabulary only. These two compare any models:

- bits per byte: all bits over the bytes of the texts in UTF-8, the end of each document, which `</s>` predicts, being
  one byte, as in a text file;
- perplexity per word: words between white space, the end of each line counted as one word.

A document longer than `--length` (the model's own limit, or 1024) is read in blocks, each of which sees the last
`--context` tokens before it (half of the length) without predicting them again.

A masked model predicts 15 % of the words, always the same ones (`--seed`, `--rate`), 80 % of their tokens masked, 10 %
random, 10 % as they are. `--pseudo` adds the pseudo-log-likelihood (Salazar et al. 2020): each token from all others,
one forward pass for each. `--scores FILE` keeps it text by text.
"""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import vaswani_tx
from vaswani_tx.training.errors import CheckpointError, DataError
from vaswani_tx.training.files import atomic_text

MODELS = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM"}
ENDINGS = {"ForCausalLM": "causal", "LMHeadModel": "causal", "ForMaskedLM": "masked"}
# By their names in torch.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LENGTH = 1024  # of models without a limit of their own


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.evaluate_language_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="folder of a causal or masked language model, or a name on the Hub")
    add("--text", nargs="+", required=True, help="files, or a data set")
    add("--kind", choices=tuple(MODELS), help="what to load the folder as; else what its config.json says")
    add("--documents", choices=("line", "paragraph"), default="line", help="what a document of a text file is (line)")
    add("--field", default="text", help="field or column of the text in other formats (text)")
    add("--split", default="test", help="split of a Hub data set (test)")
    add("--dataset-config", help="configuration of a Hub data set")
    add("--limit", type=_positive, help="read only so many documents, the first ones")
    add("--length", type=_positive, help="longest sequence in tokens; else the model's limit, at most 1024")
    add("--context", type=_positive, help="tokens that a later block of a document sees again; else half the length")
    add("--batch-tokens", type=_positive, default=4096, help="tokens of a batch, padding counted (4096)")
    add("--rate", type=float, default=0.15, help="share of the words to mask (0.15)")
    add("--seed", type=int, default=1, help="chooses them (1)")
    add("--pseudo", action="store_true", help="pseudo-log-likelihood of a masked model")
    add("--scores", type=Path, help="write it for each document, a number a line")
    add("--json", type=Path, help="write every number")
    add("--device", help="cpu, cuda, ... (the accelerator if there is one)")
    add("--dtype", choices=tuple(DTYPES), default="fp32", help="arithmetic of the model (fp32)")
    add("--num-threads", type=_positive, help="CPU threads of PyTorch")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    if options.scores and not options.pseudo:
        parser.error("--scores goes with --pseudo")
    if not 0 < options.rate <= 1:
        parser.error("--rate must be above 0 and at most 1")
    return options


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """The scores that the options ask for; raises ValueError where model, text or numbers cannot be used."""
    import torch
    import transformers

    from vaswani_tx.training.data.masking import Masker
    from vaswani_tx.training.data.text import TextCorpus
    from vaswani_tx.training.inference.language_modeling import (
        causal_scores,
        masked_scores,
        pseudo_log_likelihoods,
        read_documents,
    )

    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    corpus = TextCorpus(
        options.text, split=options.split, config=options.dataset_config, field=options.field,
        documents=options.documents,
    )  # fmt: skip
    texts = read_documents(corpus)[: options.limit]
    kind, model, tokenizer = load(options)
    if options.pseudo and kind != "masked":
        raise ValueError("--pseudo is for masked models: a causal model's likelihood is what is measured anyhow.")
    length = options.length or _limit(model, tokenizer)
    if length < 2:
        raise ValueError(f"--length is {length}: a sequence must hold at least 2 tokens.")
    shared = {"length": length, "batch_tokens": max(options.batch_tokens, length), "progress": not options.quiet}
    result: dict[str, Any] = {"kind": kind, "documents": len(texts)}
    if kind == "causal":
        context = length // 2 if options.context is None else options.context
        if not 1 <= context < length:
            raise ValueError(f"--context is {context}: it must be at least 1 and below --length ({length}).")
        result |= causal_scores(model, tokenizer, texts, context=context, **shared)
    else:
        masker = Masker.of(tokenizer, rate=options.rate, seed=options.seed)
        result |= masked_scores(model, tokenizer, texts, masker, **shared)
        if options.pseudo:
            nats, count = pseudo_log_likelihoods(model, tokenizer, texts, **shared)
            result |= {"pseudo_tokens": count, "pseudo_loss": -sum(nats) / max(count, 1), "pseudo_scores": nats}
            result["pseudo_perplexity"] = math.exp(min(result["pseudo_loss"], 700.0))
    versions = {module.__name__: module.__version__ for module in (vaswani_tx, transformers, torch)}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    return result | {"settings": settings | {"length": length, "model_class": type(model).__name__} | versions}


def load(options: argparse.Namespace) -> tuple[str, Any, Any]:
    """Kind, model and tokenizer; raises CheckpointError naming the folder where they cannot be loaded."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    from vaswani_tx.training.models.loading import load_pretrained

    try:
        config = AutoConfig.from_pretrained(options.model)
        names = config.architectures or [""]
        kind = options.kind or next((kind for end, kind in ENDINGS.items() if names[0].endswith(end)), None)
        if kind is None:
            raise CheckpointError(
                f"'{options.model}' holds a {names[0] or 'model that does not say its class'}: name a causal or masked "
                "language model, or say with --kind what it is to be loaded as."
            )
        auto_class = getattr(transformers, MODELS[kind])
        make = auto_class.from_pretrained
        if Path(options.model).exists():
            make = partial(load_pretrained, auto_class)
        model, found = make(options.model, dtype=getattr(torch, DTYPES[options.dtype]), output_loading_info=True)
        if missing := sorted(found["missing_keys"]):
            # from_pretrained only warns of these and goes on with random numbers in their place.
            raise CheckpointError(
                f"The weights of '{options.model}' lack {len(missing)} tensors of {type(model).__name__}, first "
                f"'{missing[0]}': name a folder of such a model."
            )
        tokenizer = AutoTokenizer.from_pretrained(options.model)
    except CheckpointError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds, all of which end here for the user
        raise CheckpointError(f"'{options.model}' does not load as a language model: {error}") from error
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return kind, model.to(name).eval(), tokenizer


def report(result: dict[str, Any]) -> str:
    """The results as lines for people."""
    from vaswani_tx.training.metrics.scoring import aligned

    tokens = f"{result['documents']:,} documents, {result['tokens']:,} tokens"
    rows = [("loss", f"{result['loss']:.4f} nats a token   ({tokens})")]
    if result["kind"] == "causal":
        rows += [
            ("perplexity", f"{result['perplexity']:.3f} per token"),
            ("", f"{result['word_perplexity']:.3f} per word   ({result['words']:,} words, line ends among them)"),
            ("bits per byte", f"{result['bits_per_byte']:.4f}   ({result['bytes']:,} bytes)"),
        ]
    else:
        rate, seed = result["settings"]["rate"], result["settings"]["seed"]
        rows += [
            (
                "perplexity",
                f"{result['perplexity']:.3f} per masked token   ({100 * rate:g} % of the words, seed {seed})",
            ),
            ("accuracy", f"{100 * result['accuracy']:.2f} % of the masked tokens"),
        ]
    if "pseudo_loss" in result:
        each = f"{result['pseudo_loss']:.4f} nats a token, {result['pseudo_tokens']:,} tokens"
        rows.append(("pseudo-perplexity", f"{result['pseudo_perplexity']:.3f}   ({each})"))
    return "\n".join(aligned(rows))


def main(argv: list[str] | None = None) -> int:
    """Evaluate, write what was asked for, print the scores; 2 with one line on stderr for input that cannot be used."""
    options = parse(argv)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        for path in (options.scores, options.json):
            if path is not None and path.is_dir():
                raise DataError(f"'{path}' is a folder: name a file for the results.")
        result = evaluate(options)
        if options.scores:
            atomic_text(options.scores, "".join(f"{nats:.6f}\n" for nats in result["pseudo_scores"]))
        if options.json:
            atomic_text(options.json, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        print(report(result))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _limit(model: Any, tokenizer: Any) -> int:
    """The longest sequence that the model was made for."""
    own = getattr(model.config, "max_position_embeddings", None) or LENGTH
    return min(LENGTH, own, tokenizer.model_max_length)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
