"""Training a parser: settings, the scores of a validation, gold trees that do not fit, and runs of before."""

import json
import shutil
from types import SimpleNamespace
from typing import get_type_hints

import pytest
import yaml
from accelerate.state import AcceleratorState

from tests.helpers import ROOT
from tests.helpers.training_runs import SMALL, records
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training import train_parsing, train_translation
from vaswani_tx.training.config.parsing import TREE_METRICS, ParsingSettings
from vaswani_tx.training.config.recipe import parse
from vaswani_tx.training.errors import DataError, SettingsError, TreeError
from vaswani_tx.training.metrics.registry import PARSING, metrics_for
from vaswani_tx.training.parsing import prepare
from vaswani_tx.training.parsing.linear import LEAVES, linearise
from vaswani_tx.training.parsing.trees import parse_tree, read_trees, write_trees
from vaswani_tx.training.tasks import parsing, translation

pytest_plugins = ["tests.helpers.training_runs"]

TREES = ROOT / "tests" / "golden" / "losses_data"
FILES = {"validation_source": "validation.words", "validation_target": "validation.trees"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    words = ["--train", str(TREES / "train.mrg"), "--validation", str(TREES / "val.mrg"), "--vocab-size", "500"]
    assert prepare.main([*words, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Tokenised data stay out of the user's cache."""
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path / "cache"))


def settings(**changes):
    return ParsingSettings(**({"output_dir": "out", "tokenizer": "tokenizer"} | changes))


# Settings


def test_the_defaults_are_what_prepare_writes_and_the_paper_decodes_with(data):
    found = settings(data_dir=str(data))
    for name in ("train_source", "train_target", *FILES, "validation_trees"):
        assert (data / getattr(found, name)).is_file(), name
    assert (found.best_by, found.final_beam, found.eval_beam) == ("labelled_f1", 21, 1)
    assert tuple(found.metrics) == TREE_METRICS == tuple(parsing.SUMMARY_KEYS)
    assert set(get_type_hints(ParsingSettings)["leaves"].__args__) == {"auto", *LEAVES}
    assert all(
        metric.higher_is_better == (name not in ("loss", "perplexity")) for name, metric in metrics_for(PARSING).items()
    )


def test_corpora_take_the_place_of_the_default_files():
    found = settings(corpora=[{"source": "a.words", "target": "a.trees"}])
    assert (found.train_source, found.train_target) == ("", None)
    with pytest.raises(SettingsError, match="both set"):
        settings(corpora=[{"source": "a.words", "target": "a.trees"}], train_source="mine.words")


def test_metrics_of_texts_are_ignored_and_others_unknown():
    assert parse(["--metrics", "bleu,complete_match,chrf", "--best-by", "loss"], ParsingSettings).metrics == [
        "complete_match"
    ]
    assert tuple(parse(["--metrics", "bleu"], ParsingSettings).metrics) == TREE_METRICS
    with pytest.raises(SettingsError, match="best_by must be one of loss, perplexity, labelled_f1"):
        parse(["--best-by", "bleu"], ParsingSettings)
    with pytest.raises(SettingsError, match="labelled_f1 is not among the scores"):
        settings(metrics=["complete_match"])


def test_brackets_cannot_be_scored_without_trees():
    with pytest.raises(SettingsError, match=r"validation_trees is empty: name the trees .* or set eval_sentences to 0"):
        settings(validation_trees=None)
    assert settings(validation_trees=None, eval_sentences=0) and settings(validation_trees=None, validation_source=None)


# Validation

GOLD = "(S (NP (DT The) (NN man)) (VP (VBD saw) (NP (DT a) (NN dog)) (PP (IN with) (NP (DT a) (NN hat)))) (. .))"
LOW = "(S (NP XX XX )NP (VP XX (NP (NP XX XX )NP (PP XX (NP XX XX )NP )PP )NP )VP XX"


def task_for(data, monkeypatch, outputs, seen=None, **changes):
    """A task whose model writes `outputs`, for as many gold trees: the first is GOLD."""
    gold = [parse_tree(GOLD), *list(read_trees(data / "validation.mrg"))[: len(outputs) - 1]]

    def translate(model, tokenizer, sources, **options):
        (seen if seen is not None else {}).update(options, sources=sources)
        return [outputs[texts.index(source)] for source in sources]

    texts = [parsing.sentence(tree) for tree in gold]
    monkeypatch.setattr(translation, "translate", translate)
    monkeypatch.setattr(translation, "perplexity", lambda *args, **kwargs: {"nll": 0.5, "perplexity": 1.65})
    tokenizer = VaswaniTokenizer.from_pretrained(data / "tokenizer")
    targets = [linearise(tree) for tree in gold]
    plan = SimpleNamespace(plan=None)
    return gold, parsing.ParsingTask(plan, tokenizer, (texts, targets), settings(**changes), {}, gold=gold)


def test_a_validation_scores_brackets_as_evalb_does(data, monkeypatch):
    seen = {}
    first = next(read_trees(data / "validation.mrg"))
    _, task = task_for(data, monkeypatch, [LOW, linearise(first)], seen)
    found = task.validate(None, final=False, distributed=False)
    # LOW has one bracket, an NP, beyond the five of GOLD, and lacks the last closing symbol.
    right = len(list(first.constituents()))
    wanted = {"labelled_recall": 100.0, "labelled_precision": 100 * (6 + right) / (7 + right), "complete_match": 50.0}
    assert {name: found.scores[name] for name in wanted} == pytest.approx(wanted)
    assert found.scores["labelled_f1"] == pytest.approx(200 / (1 + 100 / wanted["labelled_precision"]))
    assert (found.scores["loss"], found.scores["perplexity"]) == (0.5, 1.65)
    assert (found.scores["malformed"], found.scores["beam"], found.scores["sentences"]) == (1, 1, 2)
    assert not [name for name in found.scores if "bleu" in name or "signature" in name]
    assert (seen["num_beams"], seen["gnmt_alpha"], seen["max_extra_tokens"], seen["do_sample"]) == (1, 0.3, 300, False)
    line = task.describe(found.scores)
    assert line.startswith(f"loss 0.5000, perplexity 1.65, labelled F1 {found.scores['labelled_f1']:.2f}, labelled pre")
    assert line.endswith("complete match 50.00 (beam 1, 2 sentences, 1 malformed)")
    assert task.metrics["labelled_f1"].higher_is_better and found.samples[0]["hypothesis"] == LOW
    assert task.validate(None, final=True, distributed=False).scores["beam"] == seen["num_beams"] == 21


def test_the_recipe_chooses_scores_and_sentences(data, monkeypatch):
    third = list(read_trees(data / "validation.mrg"))[1]
    outputs = ["", "", linearise(third), ""]
    _, task = task_for(data, monkeypatch, outputs, metrics=["labelled_f1"], eval_sentences=2)
    scores = task.validate(None, final=False, distributed=False).scores
    # The first and the third of four: of the first only the root is found, one of its six brackets.
    right = len(list(third.constituents()))
    recall = (1 + right) / (6 + right)
    assert scores["labelled_f1"] == pytest.approx(200 * recall / (1 + recall)) and "complete_match" not in scores
    assert (scores["sentences"], scores["malformed"]) == (2, 1)
    _, task = task_for(data, monkeypatch, outputs, eval_sentences=0)
    scores = task.validate(None, final=False, distributed=False).scores
    assert set(scores) == {"loss", "perplexity", "validation_seconds"}
    assert task.describe(scores) == "loss 0.5000, perplexity 1.65"


def test_the_symbols_of_words_are_the_tokenizers_or_the_recipes(data, monkeypatch):
    output = linearise(parse_tree(GOLD), "tags").replace("NN )NP )PP", "JJ )NP )PP")
    _, task = task_for(data, monkeypatch, [output])
    assert task.leaves == "XX"
    assert task.validate(None, final=False, distributed=False).scores["labelled_f1"] < 100
    _, task = task_for(data, monkeypatch, [output], leaves="tags")
    assert task.validate(None, final=False, distributed=False).scores["labelled_f1"] == 100


# Gold trees


def test_gold_trees_are_those_of_the_sentences(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    found = settings(data_dir=str(tmp_path / "data"))
    gold = list(read_trees(data / "validation.mrg"))
    assert parsing.load_gold(found, translation.load_validation(found)) == gold
    file = tmp_path / "data" / "validation.mrg"
    raw = write_trees(gold, pretty=True).replace("(NP ", "(NP-SBJ ")
    file.write_text(f"( {raw.strip()} )" if len(gold) == 1 else raw, encoding="utf-8")
    assert parsing.load_gold(found, translation.load_validation(found)) == gold, "function tags are removed"
    file.write_text(write_trees(gold[:-1]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"validation_trees: {file} holds 9 trees for 10 sentences; name the trees"):
        parsing.load_gold(found, translation.load_validation(found))
    file.write_text(write_trees([*gold[:2], gold[3], gold[2], *gold[4:]]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"tree 3 of {file} is over '.*', but sentence 3 of validation.words is '"):
        parsing.load_gold(found, translation.load_validation(found))
    file.write_text("(S (A a)\n", encoding="utf-8")
    with pytest.raises(TreeError, match=rf"{file}, line 1: "):
        parsing.load_gold(found, translation.load_validation(found))
    file.unlink()
    with pytest.raises(TreeError, match=rf"{file}: there is no such file"):
        parsing.load_gold(found, translation.load_validation(found))
    for changes in ({"eval_sentences": 0}, {"validation_source": None}):
        found = settings(data_dir=str(tmp_path / "data"), **changes)
        assert parsing.load_gold(found, translation.load_validation(found)) is None


# The command


def words(data, output, **changes):
    values = {
        "output_dir": output, "data_dir": data, "tokenizer": data / "tokenizer", "preset": "tiny", "tracker": "none",
        "train_source": "train.words", "train_target": "train.trees", **FILES, "max_source_length": 70,
        "max_target_length": 130, "max_source_tokens": 300, "max_target_tokens": 300, "warmup_steps": 4,
        "log_every": 1, "eval_every": 2, "save_every": 2, "model.dropout": 0.1,
    }  # fmt: skip
    values |= {f"model.{name}": value for name, value in SMALL.items()}
    return [word for name, value in (values | changes).items() for word in (f"--{name}", str(value))]


def run(command, data, output, expect=0, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)
    assert command.main(words(data, output, **changes)) == expect
    return output


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_of_the_translation_command_resumes_exactly(data, tmp_path, capsys):
    """The same updates in one parsing run, and in a translation run of before that a parsing run resumes."""
    options = {"final_beam": 1, "eval_sentences": 2}
    whole = run(train_parsing, data, tmp_path / "whole", max_steps=4, **options)
    pieces = tmp_path / "pieces"
    run(train_translation, data, pieces, max_steps=2, final_beam=1, eval_sentences=0, best_by="loss")
    assert yaml.safe_load((pieces / "recipe.yaml").read_text())["metrics"] == ["bleu", "chrf"]
    run(train_parsing, data, pieces, max_steps=4, leaves="XX", validation_trees=data / "validation.mrg", **options)
    last = "checkpoints/step-00000004/"
    for name in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/rng.json"):
        assert (whole / last / name).read_bytes() == (pieces / last / name).read_bytes(), name
    assert records(whole, "train") == records(pieces, "train")
    # The checkpoint is older than the validation of its update, which is therefore done again.
    assert [record["step"] for record in records(whole, "validation")] == [2, 4]
    assert records(whole, "validation") == records(pieces, "validation")
    (final,) = records(whole, "best")
    assert {"labelled_f1", "labelled_precision", "labelled_recall", "complete_match", "malformed"} <= set(final)
    sample = json.loads((whole / "samples.jsonl").read_text().splitlines()[0])
    assert sample["reference"] in (data / "validation.trees").read_text()
    assert "labelled F1" in capsys.readouterr().err


@pytest.mark.usefixtures("fresh_accelerate")
def test_wrong_gold_trees_are_refused_before_anything_is_written(data, tmp_path, capsys):
    trees = tmp_path / "few.mrg"
    trees.write_text(GOLD, encoding="utf-8")
    run(train_parsing, data, tmp_path / "run", expect=2, max_steps=2, validation_trees=trees)
    assert f"error: validation_trees: {trees} holds 1 trees for 10 sentences" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
