"""The recipes: commented, of the paper's and the published models' sizes, and each started for two real updates."""

import re
import shutil

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState
from transformers import AutoConfig

from tests.helpers import GOLDEN_PAPER, ROOT
from tests.helpers.training_runs import WORDS, records
from vaswani_tx.training import train_parsing, train_translation
from vaswani_tx.training.config.parsing import ParsingSettings
from vaswani_tx.training.config.recipe import parse
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.experiments.sweep_rows import count_parameters, make_config
from vaswani_tx.training.parsing import prepare

RECIPES = {path.stem: path for path in sorted((ROOT / "training" / "recipes").glob("*.yaml"))}
SWEEPS = sorted((ROOT / "training" / "sweeps").glob("*.yaml"))

BODIES = {row["row"]: row["body_without_embedding"] for row in GOLDEN_PAPER["table3_params"]["rows"]}
WMT = [name for name in RECIPES if name.startswith("wmt14")]
PARSING = [name for name in RECIPES if name.endswith("_parsing")]


def parse_arguments(words):
    """Read a recipe with the keys of its command."""
    (path,) = words
    return parse(words, ParsingSettings if path in {str(RECIPES[name]) for name in PARSING} else TranslationSettings)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """60 pairs of made-up words under the names that the recipes use, and one pair to validate on."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS, size=random.integers(2, 9))) for _ in range(60)]
    for side in ("en", "de"):
        shown = lines if side == "en" else [" ".join(reversed(line.split())) for line in lines]
        (folder / f"train.{side}").write_text("\n".join(shown) + "\n", encoding="utf-8")
        (folder / f"val.{side}").write_text("ba be bi\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def treebank(tmp_path_factory):
    """Trees over the sentences of a grammar, kept in git, as the parsing recipes want them."""
    folder = tmp_path_factory.mktemp("treebank") / "data"
    trees = ROOT / "tests" / "golden" / "losses_data"
    words = ["--train", str(trees / "train.mrg"), "--validation", str(trees / "val.mrg"), "--vocab-size", "500"]
    assert prepare.main([*words, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Tokenised data stay out of the user's cache."""
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path / "cache"))


def test_the_recipes_are_those_that_the_issue_names():
    assert set(RECIPES) == {
        "demo_en_de", "iwslt14_de_en", "multi30k_en_de", "multi30k_en_de_cpu", "multi30k_en_de_lstm",
        "grammar_parsing", "wsj_parsing",
        "tatoeba_en_de", "wmt14_en_de_base", "wmt14_en_de_base_one_gpu",
        "wmt14_en_de_big", "wmt14_en_fr_base", "wmt14_en_fr_big",
    }  # fmt: skip


@pytest.mark.parametrize("path", [*RECIPES.values(), *SWEEPS], ids=lambda path: path.name)
def test_a_file_begins_with_its_command_and_its_lines_fit(path):
    text = path.read_text(encoding="utf-8")
    header = text.split("\n\n")[0]
    assert re.search(rf"^# .*(\n#.*)*(training/(recipes|sweeps)/{path.name})", header), "the header lacks the command"
    assert path.stem == "demo_en_de" or max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_has_a_comment_of_its_own(name):
    lines = RECIPES[name].read_text(encoding="utf-8").splitlines()
    keys = re.compile(r"\s*\w+:(\s+(?P<value>[^#]*?))?\s+# (?P<comment>\S.{3,})")
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            assert keys.fullmatch(line), f"{name} line {number} has no comment: {line}"
    values = yaml.safe_load("\n".join(lines))
    assert parse_arguments([str(RECIPES[name])]).output_dir == values["output_dir"] == f"runs/{name}"


@pytest.mark.parametrize("name", WMT)
def test_the_paper_recipes_hold_the_paper_values(name):
    arguments = parse_arguments([str(RECIPES[name])])
    language, size = name.split("_")[2:4]
    vocabulary = {"de": 37000, "fr": 32000}[language]
    config = make_config(arguments)
    assert count_parameters(config) == BODIES[size] + vocabulary * config.d_model
    assert config.dropout == (0.3 if (size, language) == ("big", "de") else 0.1)
    assert arguments.max_steps == {"base": 100_000, "big": 300_000}[size]
    assert arguments.average_last == arguments.keep_last == {"base": 5, "big": 20}[size]
    assert (arguments.save_every, arguments.save_minutes) == (None, 10)
    assert arguments.max_source_tokens * arguments.accumulation_steps == 25_000
    assert arguments.max_target_tokens * arguments.accumulation_steps == 25_000
    assert (arguments.label_smoothing, arguments.smoothing_over, arguments.ema_decay) == (0.1, "vocabulary", None)
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon) == (0.9, 0.98, 1e-9)
    assert (arguments.schedule, arguments.warmup_steps, arguments.lr_factor) == ("noam", 4000, 1.0)
    assert (arguments.weight_decay, arguments.attention_init_gain, arguments.max_grad_norm) == (0.0, 1.0, None)
    assert (arguments.max_length_ratio, arguments.drop_duplicates, arguments.final_beam) == (None, False, 4)
    assert (arguments.source_field, arguments.target_field) == ("en", language)
    assert arguments.dataset_config == {"de": "de-en", "fr": "fr-en"}[language]


def test_the_recipe_for_one_gpu_differs_from_the_paper_s_in_how_it_is_computed():
    one, usual = (vars(parse_arguments([str(RECIPES[f"wmt14_en_de_base{suffix}"])])) for suffix in ("_one_gpu", ""))
    differing = {name for name, value in one.items() if value != usual[name]}
    assert differing == {"output_dir", "max_source_tokens", "max_target_tokens", "accumulation_steps", "compile"}


PUBLISHED = {
    "multi30k_en_de": {
        "learning_rate": 0.005, "warmup_steps": 2000, "schedule": "inverse_sqrt", "max_steps": 8000, "average_last": 10,
        "final_beam": 5, "max_target_tokens": 8192, "accumulation_steps": 1, "tokenizer_vocab_size": 10_000,
        "label_smoothing": 0.1, "smoothing_over": "others", "init_scheme": "fairseq", "adam_beta2": 0.98,
        "d_model": 128, "d_ff": 256, "num_heads": 4, "encoder_layers": 4, "decoder_layers": 4, "dropout": 0.3,
    },
    "iwslt14_de_en": {
        "learning_rate": 5e-4, "warmup_steps": 4000, "schedule": "inverse_sqrt", "final_beam": 5, "weight_decay": 1e-4,
        "max_target_tokens": 4096, "tokenizer_vocab_size": 10_000, "label_smoothing": 0.1, "smoothing_over": "others",
        "source_field": "de", "target_field": "en", "max_grad_norm": None, "accumulation_steps": 1,
        "d_model": 512, "d_ff": 1024, "num_heads": 4, "encoder_layers": 6, "decoder_layers": 6, "dropout": 0.3,
    },
    "multi30k_en_de_cpu": {
        "max_source_tokens": 2048, "max_target_tokens": 2048, "lr_factor": 1.5, "init_scheme": "deepnorm",
        "max_steps": 20_000, "max_minutes": 75, "d_model": 128, "dropout": 0.3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_other_recipes_hold_the_values_of_their_models(name):
    arguments = parse_arguments([str(RECIPES[name])])
    values = vars(make_config(arguments)) | vars(arguments)
    assert make_config(arguments).init_scheme == (arguments.init_scheme or "tensor2tensor")
    assert {key: values[key] for key in PUBLISHED[name]} == PUBLISHED[name]


# What makes two updates cheap: data, vocabulary, budgets and limits. Recipe values decide all else.
SMALL = {
    "train_source": "train.en", "train_target": "train.de", "validation_source": "val.en",
    "validation_target": "val.de", "dataset_config": None, "tokenizer_vocab_size": 300, "max_source_length": 40,
    "max_target_length": 40, "max_source_tokens": 50, "max_target_tokens": 50, "max_steps": 2, "final_beam": 2,
    "tracker": "none", "compile": False,
}  # fmt: skip
# Six layers of the wide models are 0.5 to 2.5 GB a checkpoint: fewer and narrower ones show that the recipe starts, and
# the full size is checked above by its count.
SHALLOW = {"model.encoder_layers": 1, "model.decoder_layers": 1}
CHEAPER = {512: SHALLOW, 1024: SHALLOW | {"model.d_ff": 256}}
SMALL_TREES = {
    "tokenizer": "{data}/tokenizer", "max_source_tokens": 70, "max_source_length": 70, "max_target_tokens": 130,
    "max_target_length": 130, "max_steps": 2, "eval_sentences": 1, "final_beam": 2, "tracker": "none",
}  # fmt: skip


def start(recipe, data, output, **changes):
    arguments = parse_arguments([str(recipe)])
    parsing = isinstance(arguments, ParsingSettings)
    values = (SMALL_TREES if parsing else SMALL) | {"data_dir": data, "output_dir": output} | changes
    if arguments.schedule in ("linear", "cosine"):
        values |= {"decay_steps": arguments.max_steps}
    texts = {key: "null" if value is None else str(value).replace("{data}", str(data)) for key, value in values.items()}
    words = [f"--{key}={text}" for key, text in texts.items()]
    AcceleratorState._reset_state(reset_partial_state=True)
    assert (train_parsing if parsing else train_translation).main([str(recipe), *words]) == 0
    return arguments


# They differ from another only in what does not count here, or are large.
REPEATED = {"wmt14_en_de_base_one_gpu", "wmt14_en_de_big", "wmt14_en_fr_big", "wsj_parsing"}


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.fresh) if name in REPEATED else name for name in RECIPES]
)
def test_every_recipe_starts(name, corpus, treebank, tmp_path):
    output = tmp_path / "run"
    cheaper = CHEAPER.get(make_config(parse_arguments([str(RECIPES[name])])).d_model, {})
    arguments = start(RECIPES[name], treebank if name in PARSING else corpus, output, **cheaper)
    (record,) = records(output, "train")
    assert record["step"] == 2
    assert 0 < record["loss"] < 20
    golden = {"wmt14_en_de_base": "d512_w4000", "wmt14_en_fr_big": "d1024_w4000"}.get(name)
    if golden:
        assert record["learning_rate"] == pytest.approx(dict(GOLDEN_PAPER["noam_lr"][golden])[2], rel=1e-12)
    (final,) = records(output, "averaged")
    assert final["beam"] == 2
    assert ("labelled_f1" in final) == (name in PARSING) != ("bleu" in final)
    trained = AutoConfig.from_pretrained(output / "averaged")
    wanted = make_config(arguments)
    for field in ("d_model", "d_ff", "num_heads", "d_k", "d_v", "dropout", "encoder_layers", "decoder_layers"):
        if hasattr(wanted, field):  # an LSTM has no heads and no feed-forward layers
            assert getattr(trained, field) == cheaper.get(f"model.{field}", getattr(wanted, field)), field
    shutil.rmtree(output)
