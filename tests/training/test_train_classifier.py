"""The commands that train classifiers and classify, from end to end, on tasks that a few updates learn."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

from tests.helpers import ROOT
from tests.helpers.processes import run_child
from tests.helpers.training_runs import CLOCKS
from vaswani_tx import VaswaniEncoderConfig, VaswaniForMaskedLM, VaswaniTokenizer
from vaswani_tx.training import classify, train_classifier
from vaswani_tx.training.config.classification import TASKS, ClassifierSettings
from vaswani_tx.training.config.recipe import parse
from vaswani_tx.training.data.labelled import read_examples
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.inference.classification import predict
from vaswani_tx.training.inference.classifier import Classifier
from vaswani_tx.training.metrics.registry import MAIN_METRICS, metrics_for
from vaswani_tx.training.models.bert import with_first_token
from vaswani_tx.training.tasks import classification

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

COLOURS, THINGS = ["red", "blue", "green"], ["car", "hat", "cat", "dog"]
SMALL = {"d_model": 32, "d_ff": 48, "num_heads": 2, "num_hidden_layers": 1, "dropout": 0.0}


def colour_rows(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        first, second = random.choice(COLOURS, size=2)
        one, other = random.choice(THINGS, size=2, replace=False)
        yield first, one, second, other


def make_files(folder):
    files = {name: [] for name in ("classification", "multi_label", "regression", "pairs", "question_answering")}
    conll = []
    for first, one, second, other in colour_rows(120):
        text = f"a {first} {one} and a {second} {other}"
        files["classification"].append({"text": text, "label": first})
        files["multi_label"].append({"text": text, "label": sorted({first, second})})
        files["regression"].append({"text": text, "label": 10.0 + COLOURS.index(first)})
        files["pairs"].append({"text": one, "text_b": f"a {first} {one if first != 'red' else other}", "label": first})
        answer = {"text": [first], "answer_start": [text.index(first)]}
        files["question_answering"].append({"question": "first?", "context": text, "answers": answer})
        tags = ["O", f"B-{first.upper()}", f"I-{first.upper()}", "O", "O", "B-OTHER", "I-OTHER"]
        conll.append("".join(f"{word}\t{tag}\n" for word, tag in zip(text.split(), tags, strict=True)))
    for name, rows in files.items():
        for part, chosen in (("train", rows[:96]), ("val", rows[96:])):
            lines = "".join(json.dumps(row) + "\n" for row in chosen)
            (folder / f"{name}.{part}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "tagging.train.conll").write_text("\n".join(conll[:96]), encoding="utf-8")
    (folder / "tagging.val.conll").write_text("\n".join(conll[96:]), encoding="utf-8")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    make_files(folder)
    lines = [" ".join(row) for row in colour_rows(40)] * 2 + ["a and first?"] * 5
    VaswaniTokenizer.train(iter(lines), vocab_size=300, show_progress=False).save_pretrained(folder / "tokenizer")
    return folder


def flags(data, output, task, **changes):
    ending = "conll" if task == "tagging" else "jsonl"
    values = {
        "task": task, "data_dir": data, "train_file": f"{task}.train.{ending}",
        "validation_file": f"{task}.val.{ending}", "tokenizer": data / "tokenizer", "preset": "tiny",
        "output_dir": output, "max_length": 40, "stride": 4, "max_tokens": 2000, "max_steps": 40, "warmup_steps": 5,
        "learning_rate": 1e-2, "log_every": 5, "eval_every": "null", "save_every": "null", "tracker": "none",
        "batch_size": 16,
    }  # fmt: skip
    values |= {f"model.{name}": value for name, value in SMALL.items()} | changes
    return [word for name, value in values.items() if value is not ... for word in (f"--{name}", str(value))]


def run(data, output, task="classification", expect=0, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train_classifier.main(flags(data, output, task, **changes)) == expect
    return Path(output)


def scores(folder, name="best"):
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))[name]


def records(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in record.items() if name not in CLOCKS} for record in found]


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """One finished run of each task that later tests look at."""
    made = {}
    for task in ("classification", "tagging", "question_answering"):
        made[task] = run(data, tmp_path_factory.mktemp("runs") / task, task, max_steps=60)
    return made


# The tasks


def test_single_labels_are_learned(trained):
    found = scores(trained["classification"])
    assert found["accuracy"] == found["f1"] == found["matthews"] == 1.0 and found["examples"] == 24
    table = np.array(found["confusion"]["rows_true_columns_predicted"])
    assert table.sum() == np.trace(table) == 24 and found["confusion"]["names"] == sorted(COLOURS)
    config = json.loads((trained["classification"] / "best" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "blue", "1": "green", "2": "red"}
    assert config["problem_type"] == "single_label_classification"
    samples = (trained["classification"] / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(samples) == 8 and json.loads(samples[0]).keys() == {"text", "reference", "prediction"}
    content = json.loads((trained["classification"] / "data.json").read_text(encoding="utf-8"))
    assert content["train"]["examples"] == 96 and content["labels"] == sorted(COLOURS)


def test_several_labels_and_numbers_are_learned(data, tmp_path, capsys):
    several = run(data, tmp_path / "a", "multi_label", max_steps=80)
    assert scores(several)["f1"] > 0.95 and scores(several)["exact_match"] > 0.8
    numbers = run(data, tmp_path / "b", "regression", max_steps=80)
    found = scores(numbers)
    # The last bias begins at the mean of the labels: without that, 40 updates do not get from 0 to 11.
    assert found["mean_squared_error"] < 0.1 and found["spearman"] > 0.85 and found["pearson"] > 0.9
    assert found["loss"] == pytest.approx(found["mean_squared_error"], rel=1e-4)
    assert "Spearman correlation" in capsys.readouterr().err


def test_pairs_of_texts(data, tmp_path):
    files = {"train_file": "pairs.train.jsonl", "validation_file": "pairs.val.jsonl", "pair_field": "text_b"}
    assert scores(run(data, tmp_path / "a", max_steps=50, **files))["accuracy"] == 1.0


def test_tags_are_learned_and_scored_as_spans(trained):
    found = scores(trained["tagging"])
    assert found["f1_of"] == "spans" and found["f1"] > 0.95 and found["accuracy"] > 0.95
    assert set(found["spans"]) == {"OTHER", *map(str.upper, COLOURS)}
    assert sum(entry["count"] for entry in found["spans"].values()) == 48


def test_answers_are_found(trained):
    found = scores(trained["question_answering"])
    assert found["exact_match"] > 0.9 and found["f1"] > 0.9


@pytest.mark.parametrize("task", ["classification", "tagging", "question_answering"])
def test_bert_of_equal_size_sees_the_same_batches(data, tmp_path, task):
    options = {"decay_steps": 6, "log_every": 1}
    ours = run(data, tmp_path / "ours", task, max_steps=3, **options | {"warmup_steps": 1})
    theirs = run(data, tmp_path / "bert", task, max_steps=2, architecture="bert", **options | {"warmup_steps": 1})
    # It resumes where it stopped, and still puts one first token before a text.
    run(data, tmp_path / "bert", task, max_steps=3, architecture="bert", **options | {"warmup_steps": 1})
    mine, other = ([r for r in records(folder) if r["event"] == "train"] for folder in (ours, theirs))
    assert [r["target_tokens"] for r in mine] == [r["target_tokens"] for r in other]
    config = json.loads((theirs / "best" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "bert" and config["architectures"][0].startswith("BertFor")
    ids = AutoTokenizer.from_pretrained(theirs / "best")("a red car", "x")["input_ids"]
    plain = AutoTokenizer.from_pretrained(data / "tokenizer")("a red car", "x")["input_ids"]
    assert ids == ([1, *plain] if task == "classification" else plain)


def test_the_first_token_does_not_change_the_plan(data):
    plans = []
    for architecture in ("vaswani", "bert"):
        options = {"architecture": architecture, "batch_size": None, "max_tokens": 100, "max_length": 40}
        arguments = ClassifierSettings(train_file=str(data / "pairs.train.jsonl"), pair_field="text_b", **options)
        examples = classification.load_examples(arguments, arguments.train_file, "train")
        tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
        if architecture == "bert":
            with_first_token(tokenizer)
        spec = classification.make_task_spec(arguments, examples, None)
        found = classification.make_task(arguments, spec, tokenizer, examples, None)
        plans.append([batch.tolist() for batch in found.plan.epoch(0)])
        assert found.spec.max_length == 40 + (architecture == "bert")
    assert plans[0] == plans[1]


def test_bert_learns_and_predicts(data, tmp_path):
    folder = run(data, tmp_path / "a", architecture="bert", max_steps=150, learning_rate=5e-3)
    assert scores(folder)["accuracy"] > 0.9
    assert Classifier.load(folder / "best").texts(["a red car and a blue hat"])[0]["label"] == "red"


# The machinery


def test_a_stopped_run_resumes_as_if_it_had_not(data, tmp_path):
    options = {"save_every": 3, "eval_every": 3, "decay_steps": 8, "model.dropout": 0.1, "log_every": 1}
    whole = run(data, tmp_path / "whole", "tagging", max_steps=8, **options)
    run(data, tmp_path / "parts", "tagging", max_steps=5, **options)
    parts = run(data, tmp_path / "parts", "tagging", max_steps=8, **options)
    one, other = (
        load_file(folder / "checkpoints" / "step-00000008" / "model.safetensors") for folder in (whole, parts)
    )
    assert all(one[name].equal(other[name]) for name in one)
    final = [[r for r in records(folder) if r["step"] == 8 and r["event"] != "validation"] for folder in (whole, parts)]
    assert final[0] == final[1]


def test_accumulation_gives_the_gradient_of_the_whole_window(data, tmp_path):
    one = run(data, tmp_path / "a", "tagging", max_steps=1, batch_size=96, warmup_steps=0, schedule="constant")
    many = run(data, tmp_path / "b", "tagging", max_steps=1, batch_size=8, accumulation_steps=12, warmup_steps=0,
               schedule="constant")  # fmt: skip
    losses = [next(r["loss"] for r in records(folder) if r["event"] == "train") for folder in (one, many)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_validation_does_not_depend_on_batches(data, trained):
    classifier = Classifier.load(trained["question_answering"] / "best")
    fields = ClassifierSettings().fields()
    examples = read_examples(str(data / "question_answering.val.jsonl"), "question_answering", fields)
    classifier.kind.max_length, classifier.kind.stride = 9, 3
    rows = classifier.kind.rows(examples, classifier.tokenizer)
    assert len(rows) > len(examples)
    one, loss = predict(classifier.model, classifier.kind, rows, batch_tokens=20, with_loss=True)
    all_at_once, other = predict(classifier.model, classifier.kind, rows, batch_tokens=10**6, with_loss=True)
    assert [p["answer"] for p in one] == [p["answer"] for p in all_at_once]
    assert loss == pytest.approx(other, rel=1e-5) and not classifier.model.training


def test_the_validation_loss_is_a_mean_over_labels(data, trained):
    classifier = Classifier.load(trained["tagging"] / "best")
    examples = read_examples(str(data / "tagging.val.conll"), "tagging", ClassifierSettings().fields())
    rows = classifier.kind.rows(examples, classifier.tokenizer)
    expected = classifier.model(**rows.collate(range(len(rows)))).loss.detach()
    assert predict(classifier.model, classifier.kind, rows, with_loss=True)[1] == pytest.approx(float(expected))
    assert scores(trained["tagging"])["loss"] == pytest.approx(float(expected), rel=1e-4)


@pytest.fixture(scope="session")
def masked(data, tmp_path_factory):
    """A masked language model that has learned nothing yet, with its tokenizer."""
    folder = tmp_path_factory.mktemp("masked")
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    torch.manual_seed(5)
    sizes = SMALL | {"num_hidden_layers": 2, "lm_head_bias": True}
    VaswaniForMaskedLM(VaswaniEncoderConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


FROM_FOLDER = {"tokenizer": "null", **{f"model.{name}": ... for name in SMALL}}


def test_a_pretrained_encoder_is_taken_over(data, masked, tmp_path, caplog):
    with caplog.at_level("INFO", logger="vaswani_tx.training.tasks.classification"):
        folder = run(data, tmp_path / "a", max_steps=1, warmup_steps=0, schedule="constant", learning_rate=1e-7,
                     init_from=masked, **FROM_FOLDER)  # fmt: skip
    assert "classifier.bias and classifier.weight are new" in caplog.text and "lm_head.bias" in caplog.text
    before, after = load_file(masked / "model.safetensors"), load_file(folder / "best" / "model.safetensors")
    shared = [name for name in before if name.startswith("model.")]
    assert len(shared) == len(after) - 2
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in shared)


def test_frozen_and_slower_parts(data, masked, tmp_path):
    options = {"max_steps": 2, "warmup_steps": 0, "schedule": "constant", "init_from": masked, **FROM_FOLDER}
    folder = run(data, tmp_path / "a", freeze="model.embed_tokens,model.layers.0", **options)
    slow = run(data, tmp_path / "b", layer_lr_decay=0.01, learning_rate=1e-3, **options)
    before = load_file(masked / "model.safetensors")
    frozen, slower = (load_file(path / "best" / "model.safetensors") for path in (folder, slow))
    for name in (name for name in before if name.startswith("model.")):
        still = name.startswith(("model.embed_tokens", "model.layers.0."))
        assert before[name].equal(frozen[name]) == still, name
    names = [f"model.layers.{layer}.feed_forward.fc1.weight" for layer in (1, 0)]
    moved = [(slower[name] - before[name]).abs().max() for name in names]
    assert moved[0] > 50 * moved[1] > 0


def test_the_last_layer_is_kept_for_the_same_labels_only(data, trained, tmp_path, caplog):
    options = {"max_steps": 1, "warmup_steps": 0, "schedule": "constant", "learning_rate": 1e-7, **FROM_FOLDER}
    best = trained["classification"] / "best"
    with caplog.at_level("INFO", logger="vaswani_tx.training.tasks.classification"):
        same = run(data, tmp_path / "a", init_from=best, **options)
        assert "none is new" in caplog.text
        assert scores(same)["accuracy"] == 1.0
        # As many labels, but others.
        text = (data / "classification.train.jsonl").read_text(encoding="utf-8").replace('"label": "', '"label": "x')
        (tmp_path / "other.jsonl").write_text(text, encoding="utf-8")
        files = {"train_file": tmp_path / "other.jsonl", "validation_file": "null", "data_dir": "null"}
        caplog.clear()
        other = run(data, tmp_path / "b", init_from=best, **options, **files)
    assert "classifier.bias and classifier.weight are new" in caplog.text
    former = load_file(best / "model.safetensors")["classifier.weight"]
    now = load_file(other / "checkpoints" / "step-00000001" / "model.safetensors")["classifier.weight"]
    assert not torch.allclose(former, now, atol=1e-2)


def test_a_vocabulary_is_trained_on_the_texts(data, tmp_path):
    folder = run(data, tmp_path / "a", "question_answering", tokenizer="null", tokenizer_vocab_size=290, max_steps=1,
                 warmup_steps=0, schedule="constant")  # fmt: skip
    assert "Ġred" in AutoTokenizer.from_pretrained(folder / "best").get_vocab()


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_file": "absent.jsonl"}, "no such file"),
        ({"text_field": "txt"}, "classification.train.jsonl, line 1: no field 'txt'.*Did you mean 'text'"),
        ({"validation_file": "multi_label.val.jsonl"}, "multi_label.val.jsonl, line 1: field 'label' must hold"),
        ({"labels": "red,blue"}, "label 'green' is not one of `labels`'s 2"),
        ({"best_by": "bleu"}, "has no score 'bleu'; there is accuracy, f1"),
        ({"max_tokens": 10}, "below max_length"),
        ({"warmup_steps": 100}, "beyond warmup_steps"),
        ({"tokenizer": "null"}, "No tokenizer"),
        ({"tokenizer": "absent", "tokenizer_vocab_size": 300}, "no tokenizer.json in 'absent'"),
        ({"init_from": "absent"}, "no checkpoint folder 'absent'"),
        ({"model.d_modle": 3}, "did you mean 'd_model'"),
        ({"model.vocab_size": 20}, "model.vocab_size is 20 but the tokenizer has"),
        ({"model.position_embedding": "learned", "model.max_position_embeddings": 20}, "20 learned positions"),
        ({"architecture": "bert", "init_from": "x"}, "leave init_from out"),
        ({"task": "regression", "label_smoothing": 0.1}, "no meaning for task: regression"),
        ({"task": "tagging", "pair_field": "x"}, "pair_field has no meaning"),
        ({"task": "question_answering", "stride": 38}, "leaves no tokens of max_length"),
    ],
)
def test_wrong_recipes_and_data_end_with_a_message(data, tmp_path, capsys, changes, message):
    output = run(data, tmp_path / "out", expect=2, **changes)
    printed = capsys.readouterr().err.replace("\n", " ")
    assert re.search(message, printed), printed
    assert not (output / "checkpoints").exists()


def test_only_encoders_are_taken_over(data, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "vaswani"}', encoding="utf-8")
    run(data, tmp_path / "out", expect=2, init_from=tmp_path)
    assert "holds a model of type 'vaswani'" in capsys.readouterr().err


def test_help_is_a_manual(capsys):
    assert train_classifier.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "question_answering  SQuAD" in printed and "--layer-lr-decay" in printed and "--pair-field" in printed


@pytest.mark.parametrize("recipe", sorted((ROOT / "training/recipes/classifier").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_parses_and_explains_every_key(recipe):
    arguments = parse([str(recipe)], ClassifierSettings)
    arguments.check_for_training()
    for line in recipe.read_text(encoding="utf-8").splitlines():
        assert not line or line.startswith("#") or "  # " in line, line
    assert not Path(arguments.train_file).is_absolute()


@pytest.mark.parametrize("task", TASKS)
def test_the_usual_score_is_one_of_the_task(task):
    settings = ClassifierSettings(task=task)
    assert settings.best_by == MAIN_METRICS[task] and settings.best_by in metrics_for(task)
    with pytest.raises(SettingsError, match="best_by"):
        ClassifierSettings(task=task, best_by="nonsense")


# Prediction


def test_predictions_equal_the_validation(data, trained, tmp_path, capsys):
    for task, ending in (("classification", "jsonl"), ("tagging", "conll"), ("question_answering", "jsonl")):
        predicted, found = tmp_path / f"{task}.jsonl", tmp_path / f"{task}.json"
        words = ["--model", trained[task] / "best", "--input", data / f"{task}.val.{ending}", "--output", predicted]
        assert classify.main([str(word) for word in [*words, "--scores", found, "--device", "cpu"]]) == 0
        validation, now = scores(trained[task]), json.loads(found.read_text(encoding="utf-8"))
        for name in set(metrics_for(task)) - {"loss"}:
            assert validation.get(name) == now.get(name), name
        assert len(predicted.read_text(encoding="utf-8").splitlines()) == 24
    assert "exact_match" in capsys.readouterr().out
    row = json.loads((tmp_path / "tagging.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert len(row["tokens"]) == len(row["tags"]) == len(row["scores"]) == 7 and row["spans"][0]["first"] == 1


@pytest.mark.parametrize("way", ["-", "file"])
def test_standard_input_is_read_as_files_are(trained, tmp_path, capsys, monkeypatch, way):
    content = "\ufeffa red car\r\n\n10\u00a0000 \u2028b\n \nend".encode()
    (tmp_path / "a.txt").write_bytes(content)

    def classified(task, data):
        # A locale without letters; what is read and printed is UTF-8 all the same.
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "ascii"))
        words = ["--model", str(trained[task] / "best"), "--lines"]
        status = classify.main([*words, "--input", "-" if way == "-" else str(tmp_path / "a.txt")])
        printed = capsys.readouterr()
        return status, [json.loads(line) for line in printed.out.split("\n")[:-1]], printed.err

    status, rows, _ = classified("classification", content)
    assert status == 0 and [row["text"] for row in rows] == ["a red car", "", "10\u00a0000 \u2028b", " ", "end"]
    assert [row["label"] is None for row in rows] == [False, True, False, True, False]
    status, rows, _ = classified("tagging", content)
    assert [row["tokens"] for row in rows] == [["a", "red", "car"], [], ["10\u00a0000", "\u2028b"], [], ["end"]]
    assert [len(row["tags"]) for row in rows] == [3, 0, 2, 0, 1] and rows[1]["spans"] == []
    (tmp_path / "a.txt").write_bytes(b"good\nb\xffd\n")
    status, _, error = classified("classification", b"good\nb\xffd\n")
    name = "stdin" if way == "-" else "a.txt"
    assert status == 2 and f"{name}, line 2: byte 2 of the line (0xff) is not valid UTF-8. Convert the" in error


def test_rows_without_text_have_no_label_and_scores_need_all(trained, tmp_path, capsys):
    rows = [{"text": "a red car"}, {"text": None}, {"text": ""}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model", str(trained["classification"] / "best"), "--input", str(tmp_path / "a.jsonl")]
    assert classify.main(words) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] is None for row in found] == [False, True, True] and found[2]["text"] == ""
    assert classify.main([*words, "--scores", str(tmp_path / "scores.json")]) == 2


def test_lines_of_text_and_the_functions(trained, tmp_path, capsys, monkeypatch):
    model = str(trained["classification"] / "best")
    (tmp_path / "a.txt").write_text("a red car and a blue hat\na blue dog and a red cat\n", encoding="utf-8")
    assert classify.main(["--model", model, "--input", str(tmp_path / "a.txt")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == ["red", "blue"] and rows[0]["score"] > 0.5
    assert sum(rows[0]["scores"].values()) == pytest.approx(1.0, abs=1e-4)
    found = Classifier.load(trained["tagging"] / "best").tag([["a", "green", "car", "and", "a", "red", "hat"]])[0]
    assert found["tags"][:3] == ["O", "B-GREEN", "I-GREEN"] and found["spans"][0]["text"] == "green car"
    context = "a green car and a red hat"
    answer = Classifier.load(trained["question_answering"] / "best").answer("first?", context)
    assert answer["answer"] == "green" and context[answer["start"] :].startswith("green") and answer["score"] > 0.5
    assert classify.main(["--model", model, "--input", str(tmp_path / "a.txt"), "--scores", str(tmp_path / "s")]) == 2
    assert "hold no labels" in capsys.readouterr().err
    assert classify.main(["--model", str(tmp_path), "--input", "x"]) == 2
    assert "has no config.json" in capsys.readouterr().err


@pytest.mark.slow
def test_pipelines_in_another_process(trained):
    texts, tags, answers = (str(trained[task] / "best") for task in ("classification", "tagging", "question_answering"))

    def work():
        found = {"text": pipeline("text-classification", model=texts)("a red car and a blue hat")}
        tag = pipeline("token-classification", model=tags, aggregation_strategy="first")
        found["tags"] = tag("a green car and a red hat")
        tokenizer = AutoTokenizer.from_pretrained(answers)
        model = AutoModelForQuestionAnswering.from_pretrained(answers)
        inputs = tokenizer("first?", "a green car and a red hat", return_tensors="pt")
        outputs = model(**inputs)
        span = inputs["input_ids"][0, outputs.start_logits.argmax() : outputs.end_logits.argmax() + 1]
        found["answer"] = tokenizer.decode(span).strip()
        print(json.dumps(found, default=float))

    done = run_child(work)
    assert done.returncode == 0, done.errors
    found = json.loads(done.output.splitlines()[-1])
    assert found["text"][0]["label"] == "red"
    # By their positions: the pipeline's own `word` loses the spaces in front of byte-level tokens.
    text = "a green car and a red hat"
    groups = [(entry["entity_group"], text[entry["start"] : entry["end"]].strip()) for entry in found["tags"]]
    assert groups == [("GREEN", "green car"), ("OTHER", "red hat")]
    assert found["answer"] == "green"
