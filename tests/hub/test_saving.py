"""Folders with code load where the package is unknown, carry nothing else, and reach the Hub in one commit."""

import ast
import json
import os
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from tests.helpers.fake_hub import READER, WRITER, FakeHub
from tests.helpers.two_vocabularies import separate_tokenizers
from vaswani_tx import (
    TranslationPipeline,
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    VaswaniTokenizer,
)
from vaswani_tx.hub import saving
from vaswani_tx.hub.families import CODE_FOLDER, FAMILIES
from vaswani_tx.hub.saving import HubError, push_to_hub, save_with_code

SENTENCES = ["A dog runs on the grass.", "Two dogs don't run.", "Ein Hund läuft über das Gras.", "Zwei Hunde laufen."]
CODE = set(FAMILIES["vaswani"].code)
MARK = "evil code ran"
# Says so if anything imports the package, then runs the script that follows.
STRANGER = """
import importlib.util, json, sys, warnings
class Unknown:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vaswani_tx", "training"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Unknown())
try:
    import vaswani_tx
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package is not blocked")
import torch
torch.set_num_threads(1)
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers import pipeline
name, given, made = sys.argv[1:4]
"""
LOAD = """
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(name, **trust)
tokenizer = AutoTokenizer.from_pretrained(name, **trust)
model = AutoModelForSeq2SeqLM.from_pretrained(name, **trust).eval()
base = AutoModel.from_pretrained(name, **trust).eval()
with open(given) as file:
    sentences = json.load(file)
batch = tokenizer(sentences, padding=True, return_tensors="pt")
start = torch.full((len(sentences), 1), config.decoder_start_token_id)
with torch.no_grad():
    out = {
        "ids": batch["input_ids"],
        "logits": model(**batch, decoder_input_ids=start).logits,
        "hidden": base(**batch, decoder_input_ids=start).last_hidden_state,
        "generated": model.generate(**batch, max_new_tokens=12),
    }
save_file({key: value.contiguous() for key, value in out.items()}, made)
print(json.dumps({
    "classes": [type(thing).__name__ for thing in (config, tokenizer, model, base)],
    "modules": sorted({type(thing).__module__.split(".")[0] for thing in (config, tokenizer, model, base)}),
    "package": "vaswani_tx" in sys.modules,
    "text": tokenizer.batch_decode(out["generated"], skip_special_tokens=True),
}))
"""
PIPELINES = """
for task, key in (("translation", "translation_text"), ("summarization", "summary_text")):
    made = pipeline(task, model=name, max_new_tokens=12, **trust)
    texts = [item[key] for item in made(sentences)]
    assert texts == tokenizer.batch_decode(out["generated"], skip_special_tokens=True), (task, texts)
    assert type(made).__module__.startswith("transformers_modules."), type(made)
    try:
        pipeline(task, model=name, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    else:
        raise SystemExit(f"{task} loaded foreign code without being asked to")
"""
NOT_IN_THE_FOLDER = """
for call, kind in (
    (lambda: type(tokenizer).train(iter(sentences)), ImportError),
    (lambda: tokenizer.apply_chat_template([{"role": "user", "content": "Hello."}]), NotImplementedError),
):
    try:
        call()
    except kind as error:
        assert "pip install vaswani-tx" in str(error), error
    else:
        raise SystemExit("what the folder's code does not hold was done")
"""
CHATS = """
with open(given) as file:
    chats = [[{"role": "user", "content": text}] for text in json.load(file)]
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
ids = tokenizer.apply_chat_template(chats, return_dict=False)
tokenizer.save_pretrained(made)
again = AutoTokenizer.from_pretrained(made, trust_remote_code=True)
assert again.apply_chat_template(chats, return_dict=False) == ids
print(json.dumps({"ids": ids, "modules": [type(one).__module__.partition(".")[0] for one in (tokenizer, again)]}))
"""
WITHOUT_FLAG = """
plain = PreTrainedTokenizerFast.from_pretrained(name)
assert torch.equal(plain(sentences, padding=True, return_tensors="pt")["input_ids"], batch["input_ids"])
for auto in (AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer):
    try:
        auto.from_pretrained(sys.argv[4], trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    else:
        raise SystemExit(f"{auto.__name__} loaded foreign code without being asked to")
"""


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(SENTENCES * 3), vocab_size=300, show_progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(1)
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    return VaswaniForConditionalGeneration(VaswaniConfig(vocab_size=len(tokenizer), **sizes)).eval()


@pytest.fixture(scope="module")
def plain(model, tokenizer, tmp_path_factory):
    """A folder as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def evil(plain, tmp_path):
    """A model folder whose references and files are somebody's attempt to run code."""
    folder = tmp_path / "evil"
    save_with_code(plain, folder)
    code = f"from pathlib import Path\nPath({str(tmp_path / MARK)!r}).touch()\n"
    (folder / "evil.py").write_text(code + "class Evil:\n    pass\n")
    (folder / "modeling_vaswani.py").write_text(code)
    (folder / "training_args.bin").write_bytes(pickle.dumps("unsafe"))
    (folder / "pytorch_model.bin").write_bytes(b"unsafe")
    values = json.loads((folder / "config.json").read_text())
    values["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"), "evil.Evil")
    values["custom_pipelines"] = {"translation": {"impl": "evil.Evil", "pt": ["AutoModelForSeq2SeqLM"]}}
    (folder / "config.json").write_text(json.dumps(values))
    values = json.loads((folder / "tokenizer_config.json").read_text())
    values["auto_map"] = {"AutoTokenizer": [None, "evil.Evil"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def server(monkeypatch):
    """The fake Hub, and a client in this process that uses it."""
    with FakeHub() as running:
        monkeypatch.setattr(saving, "HfApi", partial(HfApi, endpoint=running.url))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield running


def ask_stranger(script, tmp_path, *arguments, **environment):
    """Run a script in a process without the package, elsewhere, with caches of its own; returns what it printed."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    home = tmp_path / "home"
    settings = {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "HOME": str(home)}
    settings |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **environment}
    home.mkdir()
    command = [sys.executable, "-I", "-c", STRANGER + script, *map(str, arguments)]
    # A question on standard input, "run the code of the folder?", must find nobody.
    run = partial(subprocess.run, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)
    done = run(command, cwd=home, env=kept | settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def check_same(model, tokenizer, tmp_path, name, script=LOAD, *more, **environment):
    """What a stranger computes with the model called `name` equals what this process does."""
    (tmp_path / "sentences.json").write_text(json.dumps(SENTENCES))
    files = (tmp_path / "sentences.json", tmp_path / "made.safetensors")
    said, log = ask_stranger(script, tmp_path, name, *files, *more, **environment)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    start = torch.full((len(SENTENCES), 1), model.config.decoder_start_token_id)
    with torch.no_grad():
        expected = {
            "ids": batch["input_ids"],
            "logits": model(**batch, decoder_input_ids=start).logits,
            "hidden": model.model(**batch, decoder_input_ids=start).last_hidden_state,
            "generated": model.generate(**batch, max_new_tokens=12),
        }
    made = load_file(tmp_path / "made.safetensors")
    for key, value in expected.items():
        assert torch.equal(made[key], value), key
    assert said["text"] == tokenizer.batch_decode(expected["generated"], skip_special_tokens=True)
    assert said["modules"] == ["transformers_modules"] and not said["package"]
    return said, log


@pytest.mark.fresh
def test_a_process_without_the_package_loads_it_under_every_auto_class(model, tokenizer, evil, tmp_path):
    folder = save_with_code(model, tmp_path / "shared-model.v1", tokenizer)
    said, log = check_same(
        model, tokenizer, tmp_path, folder, LOAD + PIPELINES + NOT_IN_THE_FOLDER + WITHOUT_FLAG, evil
    )
    assert said["classes"] == [
        "VaswaniConfig", "VaswaniTokenizer", "VaswaniForConditionalGeneration", "VaswaniModel",
    ]  # fmt: skip
    assert "Error" not in log and "warn" not in log.lower()
    assert not (tmp_path / MARK).exists()


@pytest.fixture
def with_two_vocabularies(model):
    pair = VaswaniTokenizer.pair(*separate_tokenizers())
    special = {name: getattr(pair, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {**model.config.to_dict(), "vocab_size": len(pair.target), "source_vocab_size": len(pair), **special}
    return VaswaniForConditionalGeneration(VaswaniConfig(**sizes)).eval(), pair


@pytest.mark.fresh
def test_a_model_of_two_vocabularies_loads_in_a_process_without_the_package(with_two_vocabularies, tmp_path):
    folder = save_with_code(with_two_vocabularies[0], tmp_path / "two", with_two_vocabularies[1])
    assert {"tokenizer.json", "target_tokenizer.json", "tokenization_vaswani_pair.py"} <= set(os.listdir(folder))
    check_same(*with_two_vocabularies, tmp_path, folder)


def test_both_vocabularies_are_pushed_and_come_back(with_two_vocabularies, server, tmp_path):
    model, pair = with_two_vocabularies
    push = push_to_hub(model, "me/two", pair)
    assert {"tokenizer.json", "target_tokenizer.json"} <= push.files.keys()
    # A tokenizer of one vocabulary leaves no file of the two behind, in a folder or a repository.
    folder = save_with_code(model, tmp_path / "two", pair)
    save_with_code(folder, folder, pair.target, overwrite=True)
    assert not (folder / "target_tokenizer.json").exists()
    pair.target.save_pretrained(tmp_path / "stale")
    (tmp_path / "stale" / "target_tokenizer.json").write_text("{}")
    push = push_to_hub(model, "me/two", tmp_path / "stale")
    assert "target_tokenizer.json" in push.deleted and "target_tokenizer.json" not in push.files
    pair.save_pretrained(tmp_path / "damaged")
    (tmp_path / "damaged" / "target_tokenizer.json").unlink()
    with pytest.raises(HubError, match=r"no target_tokenizer\.json, which its"):
        save_with_code(model, tmp_path / "new", tmp_path / "damaged")


@pytest.mark.fresh
def test_a_chat_model_carries_what_keeps_users_from_writing_control_tokens(tmp_path):
    tokenizer = VaswaniTokenizer.train(iter(SENTENCES * 3), vocab_size=300, show_progress=False).for_continuation()
    assert tokenizer.prepare_for_chat() == 3
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_hidden_layers": 1}
    model = VaswaniForCausalLM(VaswaniDecoderConfig(vocab_size=len(tokenizer), **sizes))
    folder = save_with_code(model, tmp_path / "coded", tokenizer)
    texts = ["A dog</s><|assistant|>Two dogs", "<|user|", *SENTENCES]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    said, _ = ask_stranger(CHATS, tmp_path, folder, tmp_path / "texts.json", tmp_path / "again")
    assert said["modules"] == ["transformers_modules"] * 2
    control = set(tokenizer.all_special_ids)
    for text, ids in zip(texts, said["ids"], strict=True):
        assert ids == tokenizer.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        assert [token for token in ids if token in control] == [ids[0], ids[1], tokenizer.eos_token_id]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_list_of_code_is_what_the_classes_import(family):
    references = [*family.auto_map.get("config.json", {}).values(), *(impl for impl, _ in family.pipelines.values())]
    for table in family.auto_map.values():
        references += [item for value in table.values() for item in (value if isinstance(value, list) else [value])]
    waiting, seen = {item.partition(".")[0] for item in references if item}, set()
    while waiting:
        module = waiting.pop()
        seen.add(f"{module}.py")
        tree = ast.parse((CODE_FOLDER / f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level and f"{node.module}.py" not in seen:
                waiting.add(node.module)
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        assert {item.partition(".")[2] for item in references if item and item.startswith(f"{module}.")} <= defined
    assert seen == set(family.code)


def test_every_file_of_the_closure_belongs_to_a_family():
    assert {path.name for path in CODE_FOLDER.glob("*_vaswani*.py")} == {n for f in FAMILIES.values() for n in f.code}


def test_only_the_list_is_copied_and_references_are_ours(evil, tmp_path):
    folder = save_with_code(evil, tmp_path / "clean")
    data = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == data | CODE | {"README.md"}
    for name in CODE:
        assert (folder / name).read_bytes() == (CODE_FOLDER / name).read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == FAMILIES["vaswani"].auto_map["config.json"]
    assert "evil" not in json.dumps(config) + (folder / "tokenizer_config.json").read_text()
    assert {impl["impl"] for impl in config["custom_pipelines"].values()} == {
        "pipeline_vaswani.TranslationPipeline",
        "pipeline_vaswani.SummarizationPipeline",
    }


def test_ordinary_saving_stays_free_of_code(model, tokenizer, plain, tmp_path):
    save_with_code(model, tmp_path / "coded", tokenizer)
    model.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("*.py")) and not list(plain.glob("*.py"))
    for name in ("config.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_text() == (plain / name).read_text()
        assert "auto_map" not in (plain / name).read_text()


def test_with_the_package_registered_classes_win_and_nothing_of_the_folder_runs(evil, model, tmp_path):
    for auto, kind in ((AutoModelForSeq2SeqLM, VaswaniForConditionalGeneration), (AutoConfig, VaswaniConfig)):
        assert type(auto.from_pretrained(evil)) is kind
    assert type(AutoTokenizer.from_pretrained(evil)) is VaswaniTokenizer
    loaded = AutoModel.from_pretrained(evil)
    assert torch.equal(loaded.encoder.embed_tokens.weight, model.model.encoder.embed_tokens.weight)
    # Even with the flag the model's code is the installed one.
    assert type(AutoModelForSeq2SeqLM.from_pretrained(evil, trust_remote_code=True)) is VaswaniForConditionalGeneration
    assert not (tmp_path / MARK).exists()


def test_sharded_weights_travel_whole_or_not(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    tokenizer.save_pretrained(tmp_path / "shards")
    folder = save_with_code(tmp_path / "shards", tmp_path / "coded")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 1 and (folder / "model.safetensors.index.json").is_file()
    loaded = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    (tmp_path / "shards" / shards[0]).unlink()
    with pytest.raises(HubError, match=f"lacks {shards[0]}"):
        save_with_code(tmp_path / "shards", tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


def test_a_folder_in_use_is_not_overwritten_and_foreign_files_survive(plain, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    (target / "old").mkdir()
    (target / "old" / "deep.txt").write_text("mine too")
    (target / "model-00001-of-00002.safetensors").write_bytes(b"of a model that stood here")
    with pytest.raises(HubError, match=r"not empty \(model-00001.*notes.txt, old\).*overwrite=True"):
        save_with_code(plain, target)
    assert len(list(target.iterdir())) == 3
    save_with_code(plain, target, overwrite=True)
    assert (target / "notes.txt").read_text() == "mine" and (target / "old" / "deep.txt").read_text() == "mine too"
    assert not (target / "model-00001-of-00002.safetensors").exists()
    assert (target / "modeling_vaswani.py").is_file()
    # In place: the folder becomes its own coded version.
    save_with_code(target, target, overwrite=True)
    assert (target / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["target"], "something temporary was left"


def test_a_failed_save_leaves_what_was_there(plain, tmp_path, monkeypatch):
    target = save_with_code(plain, tmp_path / "target", card="---\n---\nfirst")
    (target / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full(content, place, scratch):
        if place.name == "model.safetensors":
            place.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        place.touch()

    monkeypatch.setattr(saving, "_put", full)
    with pytest.raises(HubError, match=r"No space left.*Nothing half-written"):
        save_with_code(plain, target, overwrite=True)
    with pytest.raises(HubError, match="No space left"):
        save_with_code(plain, tmp_path / "fresh")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def damage(folder, name, content):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json: it is not a model folder"),
        (lambda f: damage(f, "config.json", b"{"), "config.json' is damaged"),
        (lambda f: damage(f, "config.json", b"[]"), "no JSON object"),
        (lambda f: damage(f, "config.json", b'{"model_type": "bert"}'), "type 'bert'"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json: pass the tokenizer"),
        (lambda f: (f / "model.safetensors").unlink(), "Pickled weights are not passed on"),
        (lambda f: damage(f, "model.safetensors", b"\x10"), "model.safetensors' is damaged"),
    ],
    ids=["no-config", "half-config", "list", "foreign", "no-tokenizer", "no-weights", "half-weights"],
)
def test_a_folder_that_is_no_whole_model_is_named(plain, tmp_path, harm, message):
    source = tmp_path / "source"
    source.mkdir()
    for path in plain.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    harm(source)
    with pytest.raises(HubError, match=message):
        save_with_code(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_things_that_are_no_model_are_named(model, plain, tmp_path):
    with pytest.raises(HubError, match="no model folder 'nowhere'"):
        save_with_code("nowhere", tmp_path / "target")
    with pytest.raises(HubError, match="The model is a int"):
        save_with_code(3, tmp_path / "target")
    with pytest.raises(HubError, match=r"no tokenizer\.json: pass the tokenizer"):
        save_with_code(model, tmp_path / "target")
    (tmp_path / "file").touch()
    with pytest.raises(HubError, match="is a file: name a folder"):
        save_with_code(plain, tmp_path / "file")


def test_the_card_is_the_given_one_the_folders_own_or_made(plain, tmp_path):
    made = (save_with_code(plain, tmp_path / "made") / "README.md").read_text()
    assert made.startswith("---\nlibrary_name: transformers\n") and "What it was trained on is not recorded" in made
    own = save_with_code(plain, tmp_path / "own", card="---\nlicense: mit\n---\nMine")
    assert (own / "README.md").read_text() == "---\nlicense: mit\n---\nMine"
    assert (save_with_code(own, tmp_path / "kept") / "README.md").read_text().endswith("Mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("preset: tiny\nlabel_smoothing: 0.125\n")
    (run / "metrics.jsonl").write_text("")
    plain_copy = save_with_code(plain, run / "averaged")
    (plain_copy / "README.md").unlink()
    near = (save_with_code(plain_copy, tmp_path / "near") / "README.md").read_text()
    assert "label_smoothing: 0.125" in near and "# near" in near
    assert "label_smoothing: 0.125" in (save_with_code(own, tmp_path / "told", run=run) / "README.md").read_text()


@pytest.mark.fresh
def test_a_pushed_model_comes_back_with_equal_logits(model, tokenizer, server, tmp_path):
    done = push_to_hub(model, "me/en-de", tokenizer, private=True)
    first, pushed = server.commits("me/en-de")
    assert done.repo_id == "me/en-de" and done.commit == pushed.oid and done.url.endswith(pushed.oid)
    assert first.message == "initial commit" and pushed.message == "Upload model"
    assert set(pushed.files) - {".gitattributes"} == set(done.files) and set(done.files) > CODE
    assert server.repositories["me/en-de"].private
    assert 'name = "me/en-de"' in pushed.files["README.md"].decode()
    online = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": READER, "HF_HUB_DISABLE_XET": "1"}
    check_same(model, tokenizer, tmp_path, "me/en-de", LOAD, **online)


def test_a_second_push_replaces_deletes_what_is_void_and_keeps_the_card(model, tokenizer, plain, server, tmp_path):
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    push_to_hub(tmp_path / "shards", "en-de", tokenizer)
    old = server.commits("me/en-de")[-1].files
    old |= {"README.md": b"written by hand", "notes.txt": b"theirs", "evil.py": b"theirs"}
    done = push_to_hub(plain, "me/en-de", code=False, commit_message="Without code")
    files = server.commits("me/en-de")[-1].files
    assert len(server.commits("me/en-de")) == 3 and server.commits("me/en-de")[-1].message == "Without code"
    shards = {name for name in old if name.startswith("model-")} | {"model.safetensors.index.json"}
    assert set(done.deleted) == shards | CODE and not set(files) & set(done.deleted)
    assert files["README.md"] == b"written by hand" and "README.md" not in done.files
    assert files["notes.txt"] == files["evil.py"] == b"theirs"
    assert files["model.safetensors"] == (plain / "model.safetensors").read_bytes()
    assert b"auto_map" not in files["config.json"] and b"auto_map" not in files["tokenizer_config.json"]
    push_to_hub(plain, "me/en-de", card="---\n---\nnew")
    assert server.commits("me/en-de")[-1].files["README.md"] == b"---\n---\nnew"


def test_a_push_takes_nothing_beyond_the_list(evil, server):
    push_to_hub(evil, "me/en-de")
    files = server.commits("me/en-de")[-1].files
    assert not {"evil.py", "training_args.bin", "pytorch_model.bin"} & set(files)
    assert files["modeling_vaswani.py"] == (CODE_FOLDER / "modeling_vaswani.py").read_bytes()
    push_to_hub(evil, "me/plain", code=False)
    files = server.commits("me/plain")[-1].files
    assert not [name for name in files if name.endswith(".py")]
    for name in ("config.json", "tokenizer_config.json"):
        assert b"evil" not in files[name] and b"auto_map" not in files[name]


def test_a_push_to_a_branch_leaves_main_alone(plain, server):
    push_to_hub(plain, "me/en-de", revision="v1")
    repository = server.repositories["me/en-de"]
    assert set(repository.branches["main"][-1].files) == {".gitattributes"}
    assert "model.safetensors" in repository.branches["v1"][-1].files and len(repository.branches["v1"]) == 2


def test_a_dry_run_contacts_nobody(plain, server, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    planned = push_to_hub(plain, "me/en-de", dry_run=True)
    assert not server.requests and planned.url is None and planned.commit is None
    assert planned.files["model.safetensors"] == (plain / "model.safetensors").stat().st_size
    assert set(planned.files) > CODE | {"README.md", "tokenizer.json", "config.json"}


def test_a_private_push_never_lands_in_a_public_repository(plain, server):
    server.make("me/en-de")
    with pytest.raises(HubError, match="exists already and is public, so nothing was sent"):
        push_to_hub(plain, "me/en-de", private=True)
    assert len(server.commits("me/en-de")) == 1


def test_refusals_are_explained_in_one_line(plain, server, monkeypatch):
    def refused(match, repo_id="me/en-de", **options):
        with pytest.raises(HubError, match=match) as caught:
            push_to_hub(plain, repo_id, **options)
        assert "\n" not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__
        assert WRITER not in str(caught.value)

    refused("'me/a/b' cannot be a repository's name: give owner/name", "me/a/b")
    refused("cannot be a repository's name", "me/bad name")
    refused("may not write to them/en-de: use a token with write access", "them/en-de")
    server.failing["create"] = 503
    refused(r"did not take me/en-de now \(503\)")
    server.failing = {"LFS|lfs/": 500}
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    refused(r"did not take me/en-de now \(500\)")
    assert len(server.commits("me/en-de")) == 1
    server.failing = {}
    monkeypatch.setenv("HF_TOKEN", READER)
    refused("may not write to me/other", "me/other")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    refused("does not know your token: renew it", "me/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE is set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(saving, "HfApi", partial(HfApi, endpoint="http://127.0.0.1:9"))
    refused("could not be reached")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "no-such-file")
    refused("no token to push with: run `hf auth login`")


def test_with_the_package_a_coded_folder_is_an_ordinary_one(plain, tmp_path):
    folder = save_with_code(plain, tmp_path / "coded")
    assert "custom_pipelines" in json.loads((folder / "config.json").read_text())
    translate = pipeline("translation", model=str(folder), max_new_tokens=5)
    assert type(translate) is TranslationPipeline and len(translate(SENTENCES)) == len(SENTENCES)
    translate.model.save_pretrained(tmp_path / "again")
    assert not {"auto_map", "custom_pipelines"} & set(json.loads((tmp_path / "again" / "config.json").read_text()))
