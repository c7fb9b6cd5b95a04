"""Recipes and flags: parsed, overridden, and refused with the nearest known key."""

import pytest
import yaml

from tests.helpers import ROOT
from vaswani_tx.training.config.parsing import ParsingSettings
from vaswani_tx.training.config.recipe import parse, read_recipe, usage
from vaswani_tx.training.config.schedules import make_schedule
from vaswani_tx.training.config.translation import TranslationSettings, parse_arguments
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.models.architectures import ARCHITECTURES

RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
ENOUGH = ["--output-dir", "out", "--train-source", "a", "--max-steps", "1", "--tokenizer-vocab-size", "500"]


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_parses_and_makes_a_model_and_a_schedule(path):
    arguments = parse([str(path)], ParsingSettings if path.stem.endswith("_parsing") else TranslationSettings)
    arguments.check_for_training()
    kind = ARCHITECTURES[arguments.architecture].config_class
    config = kind.from_preset(arguments.preset, vocab_size=1000, **arguments.model)
    schedule = make_schedule(
        arguments.schedule, config.hidden_size, arguments.warmup_steps, arguments.lr_factor, arguments.learning_rate,
        arguments.decay_steps or arguments.max_steps,
    )  # fmt: skip
    assert 0 < schedule(1) <= schedule(arguments.warmup_steps)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_key_of_a_recipe_is_commented(path):
    bare = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.lstrip().startswith("#") and "#" not in line
    ]
    assert bare == []


def test_the_recipes_are_there():
    assert {"multi30k_en_de.yaml", "wmt14_en_de_base.yaml", "demo_en_de.yaml"} <= {path.name for path in RECIPES}


def test_flags_override_the_recipe(tmp_path):
    recipe = write(tmp_path, "max_steps: 5\nadam_epsilon: 1e-9\nmodel: {dropout: 0.1, d_ff: 64}\ncompile: true\n")
    arguments = parse_arguments(
        [recipe, "--max-steps", "100", "--model.dropout", "0.3", "--warmup_steps=7", "--no-compile", "--overwrite",
         "--save-every", "null", "--gradient-checkpointing", "true"]
    )  # fmt: skip
    assert (arguments.max_steps, arguments.warmup_steps, arguments.adam_epsilon) == (100, 7, 1e-9)
    assert arguments.model == {"dropout": 0.3, "d_ff": 64}
    assert (arguments.compile, arguments.overwrite, arguments.gradient_checkpointing) == (False, True, True)
    assert arguments.save_every is None
    assert parse_arguments(["--recipe", recipe]).max_steps == 5


def test_the_resolved_recipe_reads_back_the_same(tmp_path):
    arguments = parse_arguments([*ENOUGH, "--model.dropout", "0.3", "--save-minutes", "2.5", "--adam-epsilon", "1e-9"])
    path = write(tmp_path, arguments.to_yaml())
    assert TranslationSettings(**read_recipe(path, TranslationSettings)) == arguments
    assert all(yaml.safe_load(line) is None for line in arguments.to_yaml().splitlines() if line.startswith("#"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-step", "3"], "did you mean '--max-steps'"),
        (["--dropout", "3"], "Unknown flag '--dropout'"),
        (["--train.source", "a"], "Unknown flag"),
        (["--max-steps", "many"], "max_steps must be a whole number, got 'many'"),
        (["--max-steps", "1.5"], "max_steps must be a whole number"),
        (["--max-minutes", "nan"], "max_minutes must be a number"),
        (["--max-steps"], "--max-steps needs a value"),
        (["--max-steps", "0"], "max_steps must be greater than 0"),
        (["--precision", "fp8"], "fp32, bf16, fp16"),
        (["--seed", "null"], "seed must not be empty"),
        (["--model", "3"], "model must be a mapping"),
        (["--label-smoothing", "1"], "label_smoothing must be at least 0 and below 1"),
        (["--average-last", "9"], "raise keep_last"),
        (["--max-source-tokens", "100"], "must hold the longest sentence"),
        (["--schedule", "cosine"], "needs learning_rate"),
        (["none.yaml"], "No recipe at 'none.yaml'"),
        (["a.yaml", "b.yaml"], "second recipe"),
    ],
)
def test_wrong_flags_are_named_with_the_fix(argv, message):
    with pytest.raises(SettingsError, match=message):
        parse_arguments(argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_stps: 3", "unknown key 'max_stps': did you mean 'max_steps'"),
        ("max_steps: [3]", "max_steps must be a whole number"),
        ("max_steps: 3\nmax_steps: 4", "given twice"),
        ("- 3", "must be a mapping"),
        ("a: b: c", "not a YAML mapping"),
        ("compile: 1", "compile must be true or false"),
    ],
)
def test_wrong_recipes_are_named_with_the_file(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(SettingsError, match=message) as caught:
        parse_arguments([path])
    assert "recipe.yaml" in str(caught.value)


def test_training_needs_data_an_end_and_a_tokenizer():
    parse_arguments(ENOUGH).check_for_training()
    for flag, message in (("--train-source", "train_source"), ("--max-steps", "no end"), ("--tokenizer", "tokenizer")):
        place = next(i for i, word in enumerate(ENOUGH) if word.startswith(flag))
        with pytest.raises(SettingsError, match=message):
            parse_arguments(ENOUGH[:place] + ENOUGH[place + 2 :]).check_for_training()


def test_usage_lists_every_flag():
    assert "--max-source-tokens" in usage(TranslationSettings)
    assert usage(TranslationSettings).count("\n") + 1 == len(TranslationSettings.__dataclass_fields__)


def test_unknown_model_field_and_preset_name_the_nearest():
    with pytest.raises(SettingsError, match="'dropuot': did you mean 'dropout'"):
        parse_arguments(["--model.dropuot", "0.3"])
    with pytest.raises(SettingsError, match="'tinny': did you mean 'tiny'"):
        parse_arguments(["--preset", "tinny"])
    assert parse_arguments(["--model.hidden_size", "64"]).model == {"hidden_size": 64}


TEXTS = [
    "no",
    "on",
    "2024_01",
    "010",
    "1.10",
    "1:30",
    "0x10",
    "+5",
    "[en].txt",
    "@x",
    "*.en",
    "exp #2",
    "a: b",
    "~",
    "- x",
    "2026-11-28",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("flag", ["--output-dir", "--target-field", "--dataset-config", "--train-source", "--freeze"])
def test_a_flag_of_a_text_key_is_taken_to_the_letter(flag, text):
    found = getattr(parse_arguments([flag, text]), flag[2:].replace("-", "_"))
    assert found == ([text] if flag == "--freeze" else text)
    assert getattr(parse_arguments([f"{flag}={text}"]), flag[2:].replace("-", "_")) == found


def test_null_empties_a_text_key_unless_it_is_quoted():
    assert parse_arguments(["--dataset-config", "null"]).dataset_config is None
    assert parse_arguments(["--dataset-config", "'null'"]).dataset_config == "null"
    assert parse_arguments(["--freeze", "[a, b]"]).freeze == parse_arguments(["--freeze", "a, b"]).freeze == ["a", "b"]


@pytest.mark.parametrize("value", ["no", "2024_01", "1.10", "2026-11-28", "on"])
@pytest.mark.parametrize("key", ["target_field", "dataset_config", "output_dir", "freeze"])
def test_a_recipe_with_a_text_that_yaml_reads_as_something_else_says_quote_it(tmp_path, key, value):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"{key}: {f'[{value}]' if key == 'freeze' else value}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"r\.yaml: {key} holds text, which YAML read as .*quote it"):
        parse_arguments([str(recipe)])
    recipe.write_text(f'{key}: {f"""["{value}"]""" if key == "freeze" else f"""{chr(34)}{value}{chr(34)}"""}\n')
    assert getattr(parse_arguments([str(recipe)]), key) == ([value] if key == "freeze" else value)


def test_the_texts_of_a_corpus_are_not_guessed_at():
    with pytest.raises(
        SettingsError, match=r"corpora, number 1: split holds text, which YAML read as a number .*quote"
    ):
        TranslationSettings(corpora=[{"source": "a", "split": 202401}])
    with pytest.raises(SettingsError, match=r"source_field holds text, which YAML read as true or false"):
        TranslationSettings(corpora=[{"source": ["a", "b"], "source_field": False}])
