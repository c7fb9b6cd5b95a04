"""Wrong input of every kind: one line that names file and field, status 2, in every command alike."""

import copy
import inspect
import json
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MarianConfig, MarianMTModel, T5Config, T5ForConditionalGeneration

from tests.helpers.cli_runs import LINES, command
from tests.helpers.training_runs import fresh_accelerate as fresh_accelerate
from vaswani_tx import (
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    limits,
    model_size,
)
from vaswani_tx.loading import check_generation, load_model, load_translator, read_config
from vaswani_tx.training import command_line, train_translation
from vaswani_tx.training.config.recipe import parse, read_recipe
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.errors import CheckpointError, SettingsError
from vaswani_tx.training.models.architectures import ARCHITECTURES

NESTED = "[" * 5000 + "]" * 5000
HUGE = "1" + "0" * 30


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Line-aligned text of three sentences."""
    place = tmp_path_factory.mktemp("pair")
    for side, lines in (("en", LINES[:3]), ("de", LINES[4:])):
        (place / f"a.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return place / "a.en", place / "a.de"


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the model, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


def words_of(verb, model, pair, tmp_path):
    """The command line of a verb that reads a model."""
    text = ["--source", pair[0], "--target", pair[1]]
    train = ["train", "translation", "--train-source", pair[0], "--train-target", pair[1], "--max-steps", 1]
    train += ["--tracker", "none", "--no-token-cache", "--average-last", 1, "--output-dir", tmp_path / "run"]
    return {
        "translate": ["translate", model],
        "score": ["score", model, *text],
        "info": ["info", model],
        "evaluate": ["evaluate", "--model", model, *text, "--quiet"],
        "push": ["push", model, "me/tiny", "--dry-run"],
        "init_from": [*train, "--init-from", model],
        "encoder_from": [*train, "--encoder-from", model],
    }[verb]


def refused(done, *said):
    """The last line of a command that ended with status 2; it must hold every text of `said`."""
    last = done.err.splitlines()[-1]
    assert done.status == 2 and "Traceback" not in done.err, done.err
    assert "error: " in last and "internal" not in last, last
    assert all(text in last for text in said), last


def write(name, text):
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def change(name, **fields):
    def damage(folder):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | fields))

    return damage


def change_weights(edit):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return damage


def wrong_header(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + data[8:])


# Numbers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["translate", "M", "--beams", "99999999999"], "--beams: must be at most 1,000, got 99999999999"),
        (["translate", "M", "--beams", "-3"], "--beams: must be at least 1, got -3"),
        (["translate", "M", "--beams", "2.5"], "--beams: must be a whole number, not '2.5'"),
        (["translate", "M", "--max-length", "1000000000"], "--max-length: must be at most 131,072"),
        (["translate", "M", "--length-penalty", "1e308"], "--length-penalty: must be at most 100"),
        (["translate", "M", "--length-penalty", "nan"], "--length-penalty: must be a number, not nan"),
        (["translate", "M", "--gnmt-alpha", "inf"], "--gnmt-alpha: must be a number, not inf"),
        (["translate", "M", "--num-threads", "100000"], "this machine has"),
        (["translate", "M", "--buffer-size", HUGE], "--buffer-size: must be at most 2,147,483,647"),
        (["score", "M", "--source", "a", "--target", "b", "--max-tokens", "9" * 5000], "--max-tokens: must be a"),
        (["evaluate", "--model", "M", "--source", "a", "--beam", HUGE], "--beam: must be at most 1,000"),
        (["evaluate", "--model", "M", "--source", "a", "--alpha", "wide"], "--alpha: must be a number, not 'wide'"),
        (["evaluate", "--model", "M", "--source", "a", "--bootstrap", HUGE], "--bootstrap: must be at most 100,000"),
        (["evaluate", "language-model", "--model", "M", "--text", "a", "--seed", "-1"], "--seed: must be at least 0"),
        (["classify", "M", "a", "--stride", HUGE], "--stride: must be at most"),
        (["average", "M", "--output", "o", "--last", "two"], "--last: must be a whole number"),
        (["train", "tokenizer", "--source", "a", "--output", "o", "--vocab-size", "1000000000"], "most 10,000,000"),
        (["compare", "--target", "a", "--hypotheses", "b", "c", "--samples", "0"], "--samples: must be at least 1"),
    ],
)
def test_numbers_of_flags_have_bounds(words, said):
    done = command(*words)
    assert done.status == 2 and said in done.err.splitlines()[-1], done.err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_source_tokens", "1e30", "max_source_tokens must be at most 2,147,483,647"),
        ("max_source_tokens", HUGE, "max_source_tokens must be at most 2,147,483,647"),
        ("max_target_tokens", "9" * 400, "max_target_tokens must be at most"),
        ("lr_factor", "1e308", r"lr_factor must be at most 1e\+12"),
        ("num_threads", "100000", "num_threads must be at most .* this machine has"),
        ("seed", "-1", "seed must be at least 0"),
        ("final_beam", "1000000", "final_beam must be at most 1,000"),
        ("eval_sentences", "-3", "eval_sentences must be at least 0"),
        ("tokenizer_vocab_size", "1000000000", "tokenizer_vocab_size must be at most 10,000,000"),
        ("model.num_heads", "2.5", "model: .*num_heads"),
        ("model.d_model", "wide", "model: .*d_model"),
        ("model.vocab_size", "many", "model: .*vocab_size"),
        ("model.d_model", HUGE, "model: .*d_model must be at most 2,147,483,647"),
        ("model.d_model", "2147483646", "model: .*num_heads=8 does not divide"),
        ("model.encoder_layers", HUGE, "model: .*encoder_layers must be at most"),
        ("seed", "[1", "--seed: '\\[1' cannot be read"),
    ],
)
def test_numbers_of_recipes_have_bounds(key, value, said):
    with pytest.raises(SettingsError, match=said) as found:
        parse([f"--{key}", value], TranslationSettings)
    assert len(str(found.value)) < 400 and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("? [1, 2]\n: 3\n", "a key cannot be a list or mapping (line 1)"),
        ("seed: !!int wide\n", "a value is not what it is written as"),
        ("when: 2024-13-45\n", "a value is not what it is written as"),
        ("seed: " + "9" * 5000, "a value is not what it is written as"),
        ("a: &a [*a]\n", "unknown key 'a'"),
        ("model: [&a [1,1,1,1],*a,*a,*a,*a]\n", "model must be a mapping"),
        ("max_steps: 1\0\n", "not a YAML mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("- 1\n", "must be a mapping"),
    ],
)
def test_recipes_that_are_no_recipes(tmp_path, text, said):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as found:
        read_recipe(path, TranslationSettings)
    line = str(found.value)
    assert said in line and ("wrong.yaml" in line or "model" in line) and "\n" not in line and len(line) < 600


def test_a_recipe_that_is_nested_too_deeply(tmp_path):
    path = tmp_path / "deep.yaml"
    path.write_text("model: " + "[" * 150 + "]" * 150)
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 200)  # the usual thousand takes PyYAML seconds to reach
        with pytest.raises(SettingsError, match=r"deep.yaml is not a YAML mapping: it is nested too deeply"):
            read_recipe(path, TranslationSettings)
    finally:
        sys.setrecursionlimit(limit)


def test_a_name_that_no_file_can_have_is_refused():
    for name in ("a\0b", "a" * 5000):
        refused(command("train", "translation", name), "cannot be read")
        refused(command("info", name), "cannot be the name of a model")


def test_a_value_of_a_message_is_short():
    assert limits.shown(10**100) == "a number of more than 60 digits"
    assert limits.shown("a\n" * 100).count("\n") == 0 and len(limits.shown("a" * 1000)) < 70
    level = [1] * 10
    for _ in range(50):
        level = [level] * 10  # 10**50 numbers, written out
    assert len(limits.shown(level)) < 70


# The size of a model


MANY = {"encoder_layers": 5, "decoder_layers": 3, "d_model": 8, "d_ff": 4, "num_heads": 2, "vocab_size": 20}
MARIAN = {"d_model": 8, "encoder_ffn_dim": 4, "decoder_ffn_dim": 4, "encoder_attention_heads": 2, "vocab_size": 60000}


@pytest.mark.parametrize(
    ("config", "model_class"),
    [
        (VaswaniConfig(**MANY), VaswaniForConditionalGeneration),
        (VaswaniDecoderConfig(num_hidden_layers=6, d_model=8, d_ff=4, num_heads=2), VaswaniForCausalLM),
        (T5Config(num_layers=3, num_decoder_layers=4, d_model=8, d_ff=4, num_heads=2), T5ForConditionalGeneration),
        (MarianConfig(encoder_layers=5, decoder_layers=2, decoder_attention_heads=2, **MARIAN), MarianMTModel),
    ],
)
def test_the_size_of_many_layers_is_that_of_the_model(monkeypatch, config, model_class):
    monkeypatch.setattr(model_size, "FEW_LAYERS", 4)
    found = model_size.model_size(config, model_class)
    with torch.device("meta"):
        model = model_class(config)
    assert found.parameters == sum(p.numel() for p in model.parameters()) == model.num_parameters()
    assert found.values == found.parameters + sum(b.numel() for b in model.buffers())
    assert found.modules == len(list(model.modules()))


def test_a_model_that_the_memory_cannot_hold_is_not_built(monkeypatch, tmp_path):
    config = VaswaniConfig(d_model=100_000, d_ff=400_000)
    with pytest.raises(ValueError, match=r"1,683,712,000,000 parameters and needs 6,735\.7 GB .*this machine has"):
        model_size.check_memory(config, VaswaniForConditionalGeneration, "it")
    small = VaswaniConfig(**MANY)
    needed = model_size.check_memory(small, VaswaniForConditionalGeneration, "it").bytes()
    monkeypatch.setattr(model_size, "machine_memory", lambda: 2 * needed)
    model_size.check_memory(small, VaswaniForConditionalGeneration, "it", copies=2)
    with pytest.raises(ValueError, match="to be trained"):
        model_size.check_memory(small, VaswaniForConditionalGeneration, "it", copies=3)
    with pytest.raises(SettingsError, match=r"the model of this recipe has .* by `preset` and `model`"):
        ARCHITECTURES["vaswani"].make("base", MANY, copies=4)
    monkeypatch.setattr(model_size, "machine_memory", lambda: None)  # a system that does not tell
    assert model_size.check_memory(small, VaswaniForConditionalGeneration, "it", copies=10**6).bytes() == needed


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("verb", ["translate", "score", "evaluate", "init_from"])
def test_a_folder_of_a_hundred_million_layers(damaged, pair, tmp_path, verb):
    change("config.json", encoder_layers=10**8)(damaged)
    refused(command(*words_of(verb, damaged, pair, tmp_path)), "config.json of", "parameters and needs", "GB")


def test_info_of_a_hundred_million_layers(damaged):
    before = json.loads(command("info", damaged, "--json").out)["parameters"]
    change("config.json", encoder_layers=2 * 10**8)(damaged)
    found = json.loads(command("info", damaged, "--json").out)
    layer = 4 * 16 * 16 + 2 * 16 * 32 + 32 + 16 + 2 * 2 * 16  # attention, feed-forward, two normalisations
    assert found["parameters"]["total"] == before["total"] + (2 * 10**8 - 2) * layer
    assert "numbers are there of the" in found["tensors"]["problems"][0]


# Model folders

FOLDERS = {
    "config list": (write("config.json", "[1, 2]"), "config.json' holds no JSON object"),
    "config null": (write("config.json", "null"), "config.json' holds no JSON object"),
    "config deep": (write("config.json", f'{{"model_type": {NESTED}}}'), "config.json' is nested too deeply"),
    "config cut": (write("config.json", '{"model_type": "vas'), "config.json' is damaged"),
    "config text": (change("config.json", d_model="wide"), "d_model"),
    "config half": (change("config.json", num_heads=2.5), "num_heads"),
    "config kind": (change("config.json", model_type=["x"]), ""),
    "config names": (change("config.json", architectures=3), "architectures must be a list"),
    "config shape": (change("config.json", d_ff=48), "do not fit its config.json"),
    "generation list": (write("generation_config.json", "[1]"), "generation_config.json' holds no JSON object"),
    "generation deep": (write("generation_config.json", NESTED), "generation_config.json' is nested too deeply"),
    "generation start": (change("generation_config.json", decoder_start_token_id=9999), "decoder_start_token_id must"),
    "weights gone": (lambda m: (m / "model.safetensors").unlink(), "has no weights"),
    "weights cut": (write("model.safetensors", b"\0" * 7), "model.safetensors' is damaged"),
    "weights header": (wrong_header, "model.safetensors' is damaged"),
    "weights lack one": (change_weights(lambda t: t.pop("lm_head.bias")), "lack 1 tensors"),
    "tokenizer deep": (write("tokenizer.json", NESTED), "tokenizer.json' is nested too deeply"),
    "tokenizer list": (write("tokenizer_config.json", "[]"), "tokenizer_config.json' holds no JSON object"),
    "tokenizer other": (write("tokenizer.json", '{"model": {"type": "X"}}'), "the tokenizer"),
    "tokenizer length": (change("tokenizer_config.json", model_max_length="x"), "model_max_length"),
}
# What `info` reports as a finding, and publishing leaves to the loader.
NOT_OF_INFO = {name for name in FOLDERS if name.startswith(("generation", "tokenizer"))} | {
    "config shape", "weights gone", "weights lack one",
}  # fmt: skip


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("verb", ["translate", "evaluate", "init_from"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_damaged_folders_in_every_command(damaged, pair, tmp_path, kind, verb):
    damage, said = FOLDERS[kind]
    damage(damaged)
    found = command(*words_of(verb, damaged, pair, tmp_path))
    refused(found, said, "damaged")
    assert ".." not in found.err and ": Copy" not in found.err  # the fix is one clause of the sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", sorted(FOLDERS.keys() - NOT_OF_INFO))
def test_damaged_folders_in_info(damaged, pair, tmp_path, kind):
    damage, said = FOLDERS[kind]
    damage(damaged)
    refused(command("info", damaged), said, "damaged")


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("verb", ["score", "push", "encoder_from"])
@pytest.mark.parametrize("kind", ["config list", "config deep", "config half", "generation deep", "weights cut"])
def test_damaged_folders_in_further_commands(damaged, pair, tmp_path, kind, verb):
    damage, said = FOLDERS[kind]
    damage(damaged)
    refused(command(*words_of(verb, damaged, pair, tmp_path)), said, "damaged")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_beams", -3, "num_beams must be at least 1, got -3"),
        ("num_beams", "four", "num_beams must be a whole number"),
        ("num_beams", 10**12, "num_beams must be at most 1,000"),
        ("length_penalty", 1e308, "length_penalty must be at most 100"),
        ("max_length", 10**9, "max_length must be at most 131,072"),
        ("max_extra_tokens", "x", "max_extra_tokens must be a whole number"),
        ("do_sample", "x", "do_sample must be true or false"),
        ("bad_words_ids", [3], "bad_words_ids cannot be"),
        ("exponential_decay_length_penalty", 3, "exponential_decay_length_penalty cannot be 3"),
        ("eos_token_id", [1, "x"], "eos_token_id must be an id"),
        ("forced_bos_token_id", 9999, "forced_bos_token_id must be an id of the vocabulary, 0 to 319, not 9999"),
    ],
)
def test_generation_settings(loaded, monkeypatch, field, value, said):
    model, _ = loaded
    monkeypatch.setattr(model, "generation_config", copy.deepcopy(model.generation_config))
    check_generation(model, "M")
    setattr(model.generation_config, field, value)
    with pytest.raises(CheckpointError, match=f"generation_config.json of 'M': .*{said}"):
        check_generation(model, "M")


@pytest.mark.parametrize(("field", "value"), [("num_beams", -3), ("num_beams", "four"), ("gnmt_alpha", "x")])
def test_generation_settings_of_a_folder(damaged, field, value):
    change("generation_config.json", **{field: value})(damaged)
    with pytest.raises(CheckpointError, match=field):
        load_translator(damaged)


def test_fields_that_replace_those_of_a_folder_are_checked(folder):
    with pytest.raises(CheckpointError, match="num_heads"):
        read_config(folder, num_heads="wide")
    with pytest.raises(CheckpointError, match=r"do not fit its config.json: .*\[32\] in the file but \[64\]"):
        load_model(VaswaniForConditionalGeneration, folder, d_ff=64)
    assert load_model(VaswaniForConditionalGeneration, folder, dropout=0.25).config.dropout == 0.25


# What nobody foresaw


def test_an_internal_error_of_training_is_one_line(monkeypatch, capsys):
    def fail(error):
        def work(_):
            raise error

        monkeypatch.setattr(train_translation, "train", work)
        status = train_translation.main(words)
        return status, capsys.readouterr().err

    words = ["--preset", "tiny"]
    monkeypatch.setenv("VASWANI_TX_DEBUG", "")
    line = "internal error: KeyError: 'x'; run again with --debug for the traceback; please report it.\n"
    assert fail(KeyError("x")) == (1, line)
    status, text = fail(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert status == 1 and text.startswith("error: the memory is not enough") and text.count("\n") == 1
    words = ["--preset", "tiny", "--debug"]
    status, text = fail(KeyError("x"))
    assert status == 1 and "Traceback" in text and text.endswith("internal error: KeyError: 'x'; please report it.\n")
    parser = command_line.make_parser("", "x")
    assert vars(parser.parse_args(["--debug"])) == {} and "VASWANI_TX_DEBUG" in parser.format_help()
