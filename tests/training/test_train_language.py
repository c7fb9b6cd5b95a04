"""The commands that train language models: resumed bit by bit, loadable with the Auto classes, usable in pipelines."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline

from tests.helpers import ROOT
from tests.helpers.language_runs import COMMANDS, flags, run
from tests.helpers.processes import run_launched
from tests.helpers.training_runs import records
from vaswani_tx.training.config.language_modeling import CausalSettings, MaskedSettings
from vaswani_tx.training.config.recipe import parse

pytestmark = [pytest.mark.usefixtures("fresh_accelerate"), pytest.mark.timeout(600)]

TASK_SPECS = ("causal", "masked")
RECIPES = {path.parent.name[:-3]: path for path in sorted((ROOT / "training" / "recipes").glob("*_lm/tatoeba_en.yaml"))}


def weights(folder, step):
    place = folder / "checkpoints" / f"step-{step:08d}"
    files = ("model.safetensors", "training_state/optimizer.safetensors")
    return {f"{file}: {name}": tensor for file in files for name, tensor in load_file(place / file).items()}


def assert_same(found, expected, tolerance=0.0):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")


# Updates


@pytest.mark.parametrize("changes", [{}, {"streaming": True, "stream_buffer": 25}, {"packing": False}])
@pytest.mark.parametrize("kind", TASK_SPECS)
def test_a_resumed_run_is_the_same_bit_by_bit(kind, changes, language, tmp_path):
    shared = changes | {"max_steps": 14, "eval_every": 5, "validation_text": "v.txt", "eval_samples": 1}
    whole = run(kind, language, tmp_path / "whole", **shared)
    run(kind, language, tmp_path / "parts", **shared | {"max_steps": 7})
    # In another epoch or piece than it stopped in: all of it, with the masks, must be found again.
    parts = run(kind, language, tmp_path / "parts", **shared)
    assert_same(weights(parts, 14), weights(whole, 14))
    assert records(parts, "train") == records(whole, "train")
    assert records(parts, "train")[-1]["epoch"] > 0


@pytest.mark.parametrize("kind", TASK_SPECS)
def test_accumulated_batches_are_one_large_batch(kind, language, tmp_path):
    shared = {"model.dropout": 0.0, "max_steps": 1, "packing": False, "learning_rate": 0.01, "schedule": "constant",
              "adam_epsilon": 1e-4}  # fmt: skip
    one = run(kind, language, tmp_path / "one", **shared, batch_tokens=100_000)
    many = run(kind, language, tmp_path / "many", **shared, batch_tokens=72, accumulation_steps=100)
    found = [records(folder, "train")[0] for folder in (one, many)]
    assert found[0]["target_tokens"] == found[1]["target_tokens"]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], abs=1e-6)
    assert_same(load_file(many / "checkpoints/step-00000001/model.safetensors"),
                load_file(one / "checkpoints/step-00000001/model.safetensors"), 1e-6)  # fmt: skip


def test_two_processes_make_the_updates_of_one(language, tmp_path):
    shared = {
        "model.dropout": 0.0, "max_steps": 6, "adam_epsilon": 1e-4, "batch_tokens": 48, "validation_text": "v.txt",
        "eval_every": 3, "eval_samples": 1,
    }  # fmt: skip
    words = flags(language, tmp_path / "two", **shared, accumulation_steps=2)
    done = run_launched("cpu.yaml", lambda: COMMANDS["masked"].main(words))
    assert done.returncode == 0, done.errors[-3000:]
    one = run("masked", language, tmp_path / "one", **shared, accumulation_steps=4)
    assert_same(weights(tmp_path / "two", 6), weights(one, 6), 1e-6)
    for event, number in (("train", 6), ("validation", 2)):
        losses = [[record["loss"] for record in records(folder, event)] for folder in (tmp_path / "two", one)]
        assert losses[0] == pytest.approx(losses[1], abs=2e-6) and len(losses[0]) == number


# What comes out


@pytest.fixture(scope="module")
def trained(language, tmp_path_factory):
    """A run of each kind that has learned a little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("trained")
    changes = {
        "validation_text": "v.txt", "eval_every": 50, "max_steps": 50, "row_length": 72, "learning_rate": 0.01,
        "log_every": 10, "schedule": "constant", "model.dropout": 0.0, "save_every": 25, "average_last": 2,
    }  # fmt: skip
    found = {kind: run(kind, language, output / kind, **changes) for kind in TASK_SPECS}
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)
    return found


def test_the_causal_model_loads_scores_and_continues_texts(trained, language):
    folder = trained["causal"]
    assert {path.name for path in folder.iterdir()} >= {"best", "averaged", "samples.jsonl", "data.json", "tokenizer"}
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder / "best"),
        AutoTokenizer.from_pretrained(folder / "best"),
    )
    assert tokenizer("da de").input_ids[0] == tokenizer.bos_token_id
    lines = (language / "v.txt").read_text(encoding="utf-8").splitlines()
    nats = tokens = 0
    with torch.no_grad():
        for line in lines:
            ids = torch.tensor([[*tokenizer(line).input_ids, tokenizer.eos_token_id]])
            log_probs = model(ids).logits[0, :-1].log_softmax(-1)
            nats -= float(log_probs[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum())
            tokens += ids.shape[1] - 1
    best = records(folder, "best")[0]
    assert best["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert best["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    size = (language / "v.txt").stat().st_size
    assert best["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert records(folder, "train")[-1]["loss"] < records(folder, "train")[0]["loss"] - 0.5
    generate = pipeline("text-generation", model=str(folder / "best"))
    (made,) = generate("da de", max_new_tokens=5, do_sample=False)
    assert made["generated_text"].startswith("da de ") and "<" not in made["generated_text"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert samples and all(sample["hypothesis"].startswith(sample["source"]) for sample in samples)


def test_the_masked_model_loads_and_fills(trained, language):
    folder = trained["masked"]
    model = AutoModelForMaskedLM.from_pretrained(folder / "best")
    assert type(model).__name__ == "VaswaniForMaskedLM"
    scores = records(folder, "validation")[-1]
    assert set(scores) >= {"loss", "perplexity", "accuracy"} and 0 <= scores["accuracy"] <= 1
    assert records(folder, "train")[-1]["loss"] < records(folder, "train")[0]["loss"] - 0.5
    fill = pipeline("fill-mask", model=str(folder / "best"))
    found = fill("da <mask> do </s> du", top_k=3)
    assert len(found) == 3 and "</s>" in found[0]["sequence"] and "<mask>" not in found[0]["sequence"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert samples and all("<mask>" in sample["source"] or sample["source"] for sample in samples)
    lines = (language / "v.txt").read_text(encoding="utf-8").splitlines()
    assert {sample["reference"] for sample in samples} <= set(lines)


@pytest.mark.parametrize("kind", TASK_SPECS)
def test_a_run_starts_from_another_model(kind, trained, language, tmp_path):
    changes = {"init_from": trained[kind] / "best", "max_steps": 1, "tokenizer": "null"}
    folder = run(kind, language, tmp_path / "run", **changes)
    assert records(folder, "train")[0]["loss"] < records(trained[kind], "train")[0]["loss"] - 0.3


def test_a_model_of_another_family_is_refused(trained, language, tmp_path, capsys):
    run("causal", language, tmp_path / "run", expect=2, init_from=trained["masked"] / "best")
    assert "a model of type 'vaswani_encoder', not 'vaswani_decoder'" in capsys.readouterr().err


def test_a_tokenizer_is_trained_where_none_is_given(language, tmp_path):
    folder = run("masked", language, tmp_path / "run", tokenizer="null", tokenizer_vocab_size=270, max_steps=1)
    assert AutoTokenizer.from_pretrained(folder / "tokenizer").mask_token == "<mask>"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_text": "null"}, "train_text is empty"),
        ({"row_length": 100}, "raise batch_tokens"),
        ({"train_txt": "x"}, "--train-text"),
        ({"tokenizer": "nowhere"}, "no tokenizer.json in 'nowhere'"),
        ({"train_text": "b.txt"}, r"b\.txt: there is no such file"),
        ({"model.position_embedding": "learned", "model.max_position_embeddings": 10}, "10 learned positions"),
    ],
)
def test_what_cannot_be_used_is_named(changes, message, language, tmp_path, capsys):
    run("causal", language, tmp_path / "run", expect=2, **changes)

    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run" / "checkpoints").exists()


# Recipes


def test_there_is_a_recipe_of_each_kind():
    assert set(RECIPES) == set(TASK_SPECS)


@pytest.mark.parametrize("kind", TASK_SPECS)
def test_every_key_of_a_recipe_has_a_comment_and_the_recipe_starts(kind, language, tmp_path):

    lines = RECIPES[kind].read_text(encoding="utf-8").splitlines()
    keys = re.compile(r"\s*\w+:(\s+(?P<value>[^#]*?))?\s+# (?P<comment>\S.{3,})")
    for number, line in enumerate(lines, start=1):
        assert len(line) <= 120
        if line.strip() and not line.startswith("#"):
            assert keys.fullmatch(line), f"{kind} line {number} has no comment: {line}"
    assert f"recipes/{kind}_lm/tatoeba_en.yaml" in "\n".join(lines).split("\n\n")[0]
    arguments = parse([str(RECIPES[kind])], {"causal": CausalSettings, "masked": MaskedSettings}[kind])
    assert yaml.safe_load("\n".join(lines))["output_dir"] == arguments.output_dir == f"runs/{kind}_tatoeba_en"
    sizes = {"preset": "tiny", "max_steps": 2, "warmup_steps": 1, "data_dir": language, "train_text": "a.txt",
             "validation_text": "v.txt", "tokenizer_vocab_size": 270, "tracker": "none"}  # fmt: skip
    words = [f"--{name}={value}" for name, value in (sizes | {"output_dir": tmp_path / "run"}).items()]
    assert COMMANDS[kind].main([str(RECIPES[kind]), *words]) == 0
    config = json.loads(Path(tmp_path / "run" / "best" / "config.json").read_text(encoding="utf-8"))
    shape = {"d_model": 128, "d_ff": 256, "num_heads": 4, "num_hidden_layers": 4}
    assert {name: config[name] for name in shape} == shape, "that of the translation preset, to share its weights"
