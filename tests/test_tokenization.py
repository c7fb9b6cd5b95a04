"""The tokenizer: lossless, the same ids wherever it is loaded, and clear errors in training."""

import inspect
import json
import logging
import random
import shutil
import subprocess
import sys

import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from vaswani_tx.tokenization_vaswani import MINIMAL_VOCAB_SIZE, VaswaniTokenizer

ENGLISH = [
    "A dog runs on the green grass.",
    "Two dogs don't run on grass in 2017.",
    "The old man reads a book to the child.",
    "A child reads the old book, and the dog sleeps.",
]
GERMAN = [
    "Ein Hund läuft über das grüne Gras.",
    "Zwei Hunde laufen 2017 nicht über Gras.",
    "Der alte Mann liest dem Kind ein Buch vor.",
    "Ein Kind liest das alte Buch, und der Hund schläft.",
]
SENTENCES = (ENGLISH + GERMAN) * 3
HARD = [
    "",
    " ",
    "   ",
    "foo",
    " foo",
    "  foo  bar   ",
    "tab\tand\t\ttabs\t",
    "line\nbreak\r\nand\rreturn\n",
    "nul\x00 bell\x07 escape\x1b delete\x7f",
    "\u2581meta\u2581space",
    "\u0301 lone mark, e\u0301 and \u00e9 stay different",
    "family 👩‍👩‍👧‍👦 flag 🇩🇪 tone 👍🏽 keycap 1️⃣",
    "\u2028line separator\u0085next line\u000cform feed\u00a0hard space\u3000wide",
    "\ufeffmark \ufffe \uffff \U0010ffff \ue000",
    "日本語とไทยและ हिन्दी اَلْعَرَبِيَّةُ",
    "ﬁ ligature, Å angstrom, ½ Ⅷ ٣",
    "don't l’homme 'quoted' rock'n'roll",
    "Ġ Ċ â are bytes of other tokenizers",
    "a </s> b",
    "</s>",
    "<s>x<pad>",
    "<unk><unk> </s></s>",
    " </s>",
]


def random_texts(count, seed=0):
    generator = random.Random(seed)
    tricky = " \t\r\n\x00\u2581\u00a0\u2028\x85\x0c\u200d\u0301</s>"

    def character():
        kind = generator.random()
        if kind < 0.4:
            return chr(generator.randrange(0x80))
        if kind < 0.6:
            return generator.choice(tricky)
        code = generator.randrange(0x110000 - 0x800)
        return chr(code if code < 0xD800 else code + 0x800)

    return ["".join(character() for _ in range(generator.randrange(30))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(SENTENCES), vocab_size=380, show_progress=False)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    tokenizer.save_pretrained(path)
    return path


def test_special_tokens_come_first_then_every_byte(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<unk>"]
    ids = [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "unk")]
    assert ids == [0, 1, 2, 3]
    assert len(tokenizer) == 380
    assert all(len(token) == 1 for token in tokenizer.convert_ids_to_tokens(list(range(4, MINIMAL_VOCAB_SIZE))))


@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_hard_text_survives(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[-1] == 2 and not set(ids[:-1]) & {0, 1, 2, 3}
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_random_text_survives(tokenizer):
    texts = random_texts(3000)
    encoded = tokenizer(texts).input_ids
    assert tokenizer.batch_decode(encoded, skip_special_tokens=True) == texts
    assert not any(set(ids[:-1]) & {0, 1, 2, 3} for ids in encoded)


def test_first_word_is_the_token_of_the_middle(tokenizer):
    first = tokenizer("dog", add_special_tokens=False).input_ids
    assert tokenizer("a dog", add_special_tokens=False).input_ids[-len(first) :] == first
    assert tokenizer(" dog").input_ids != tokenizer("dog").input_ids


def test_pieces_never_join_kinds(tokenizer):
    tokens = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(" Don't l’an 1,250€ (now)  !\n")
    assert [token for token, _ in tokens] == [
        "ĠDon't", "ĠlâĢĻan", "Ġ1", ",", "2", "5", "0", "âĤ¬", "Ġ(", "now", ")", "Ġ", "Ġ!", "Ċ",
    ]  # fmt: skip


def test_batches_pad_right_and_have_two_inputs(tokenizer):
    batch = tokenizer(["A dog", "The old man reads a book"], padding=True, return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch["input_ids"][0, -1] == 0 and batch["attention_mask"][0].tolist()[-1] == 0
    assert batch["attention_mask"].sum(1).tolist() == [
        len(tokenizer(x).input_ids) for x in ("A dog", "The old man reads a book")
    ]


def test_targets_and_options_of_a_call(tokenizer):
    both = tokenizer("A dog", text_target="Ein Hund")
    assert both["labels"] == tokenizer("Ein Hund").input_ids and both["labels"][-1] == 2
    assert tokenizer("A dog", add_special_tokens=False).input_ids == tokenizer("A dog").input_ids[:-1]
    cut = tokenizer("The old man reads a book", truncation=True, max_length=4).input_ids
    assert len(cut) == 4 and cut[-1] == 2
    assert tokenizer("A dog", "The child").input_ids == tokenizer("A dog").input_ids + tokenizer("The child").input_ids
    assert tokenizer("a </s> b", split_special_tokens=False).input_ids.count(2) == 2
    assert tokenizer("a </s> b").input_ids.count(2) == 1, "the option of one call must not stay"


def test_model_max_length_is_free_and_settable(folder, tmp_path):
    assert VaswaniTokenizer.from_pretrained(folder).model_max_length > 10**9
    limited = VaswaniTokenizer.train(iter(SENTENCES), 300, show_progress=False, model_max_length=7)
    limited.save_pretrained(tmp_path)
    assert VaswaniTokenizer.from_pretrained(tmp_path).model_max_length == 7


@pytest.mark.parametrize("loader", [VaswaniTokenizer, AutoTokenizer, PreTrainedTokenizerFast])
def test_reloaded_tokenizers_agree(tokenizer, folder, loader):
    texts = HARD + SENTENCES + random_texts(500, seed=1)
    loaded = loader.from_pretrained(folder)
    expected = tokenizer(texts).input_ids
    assert loaded(texts).input_ids == expected
    assert loaded.batch_decode(expected, skip_special_tokens=True) == texts
    assert loaded.all_special_ids == tokenizer.all_special_ids and len(loaded) == len(tokenizer)
    assert loaded.padding_side == "right"


def test_tokenizer_json_alone_is_enough(tokenizer, folder, tmp_path):
    shutil.copy(folder / "tokenizer.json", tmp_path)
    raw, alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), VaswaniTokenizer.from_pretrained(tmp_path)
    assert alone(HARD).input_ids == tokenizer(HARD).input_ids
    assert (alone.pad_token_id, alone.bos_token_id, alone.eos_token_id, alone.unk_token_id) == (0, 1, 2, 3)
    assert len(alone) == len(tokenizer)
    raw.encode_special_tokens = True  # the one setting that the file cannot hold
    for text, ids in zip(HARD, tokenizer(HARD).input_ids, strict=True):
        assert raw.encode(text).ids == ids
        assert raw.decode(ids) == text


def test_loads_without_this_package(folder, tokenizer):
    code = (
        "import sys, json; sys.modules['vaswani_tx'] = None\n"
        "from transformers import AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(json.dumps([type(t).__name__, t(json.loads(sys.argv[2])).input_ids]))"
    )
    texts = [text for text in HARD if "\x00" not in text and "\ufffe" not in text]
    command = [sys.executable, "-c", code, str(folder), json.dumps(texts)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kind, ids = json.loads(output)
    assert kind != "VaswaniTokenizer" and ids == tokenizer(texts).input_ids


def test_auto_tokenizer_gives_our_class(folder, tmp_path):
    class DummyConfig(PreTrainedConfig):
        model_type = "vaswani_tokenizer_test"

    AutoConfig.register(DummyConfig.model_type, DummyConfig)
    AutoTokenizer.register(DummyConfig, tokenizer_class=VaswaniTokenizer)
    shutil.copytree(folder, tmp_path / "model")
    DummyConfig().save_pretrained(tmp_path / "model")
    assert type(AutoTokenizer.from_pretrained(tmp_path / "model")) is VaswaniTokenizer
    assert type(AutoTokenizer.from_pretrained(folder)) is VaswaniTokenizer


def test_a_second_save_is_the_same(folder, tmp_path):
    VaswaniTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    names = {path.name for path in folder.iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json"}, "no code in an ordinary save"


# Training


def write(path, lines, encoding="utf-8"):
    path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    return path


def test_files_iterators_and_lists_give_one_vocabulary(tokenizer, tmp_path):
    files = [write(tmp_path / "a.en", ENGLISH * 3), str(write(tmp_path / "a.de", GERMAN * 3))]
    expected = VaswaniTokenizer.train(
        iter(ENGLISH * 3 + GERMAN * 3), 380, show_progress=False
    ).backend_tokenizer.to_str()
    for corpus in (files, [ENGLISH * 3, GERMAN * 3], ([x] for x in ENGLISH * 3 + GERMAN * 3)):
        assert VaswaniTokenizer.train(corpus, 380, show_progress=False).backend_tokenizer.to_str() == expected
    assert VaswaniTokenizer.train(iter(SENTENCES), 380, show_progress=False)("Ein Hund") == tokenizer("Ein Hund")


def test_training_is_deterministic_across_processes(tmp_path):
    file = str(write(tmp_path / "a.en", SENTENCES + ENGLISH))
    # The module alone: importing the package with its models would take longer than the test.
    code = (
        "import sys, importlib.util as u\nspec = u.spec_from_file_location('alone', sys.argv[3])\n"
        "module = u.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "module.VaswaniTokenizer.train(sys.argv[1], 370, show_progress=False).backend_tokenizer.save(sys.argv[2])"
    )
    module = inspect.getsourcefile(VaswaniTokenizer)
    subprocess.run([sys.executable, "-c", code, file, str(tmp_path / "other.json"), module], check=True)
    VaswaniTokenizer.train(file, 370, show_progress=False).backend_tokenizer.save(str(tmp_path / "own.json"))
    assert (tmp_path / "own.json").read_bytes() == (tmp_path / "other.json").read_bytes()


def test_lines_end_at_newline_only(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes(b"\xef\xbb\xbfab\xe2\x80\xa8ab\r\n\r\n   \nab\xe2\x80\xa8ab")
    tokenizer = VaswaniTokenizer.train(file, 300, show_progress=False)
    learned = set(tokenizer.get_vocab())
    assert "Ġab" in learned, "the byte order mark must not stand before the first word"
    assert not any("Ċ" in token or "č" in token for token in learned if len(token) > 1)
    assert any("âĢ¨" in token for token in learned), "U+2028 is inside the line"


def test_small_corpus_warns_with_the_numbers(caplog):
    with caplog.at_level(logging.WARNING):
        tokenizer = VaswaniTokenizer.train(iter(["hello hello world"]), 1000, show_progress=False)
    assert len(tokenizer) < 300
    assert f"{len(tokenizer)} entries instead of the 1000" in caplog.text


def test_training_errors_name_the_place_and_the_mend(tmp_path):
    latin = write(tmp_path / "latin.de", ["gut", "schön"], encoding="latin-1")
    blank = write(tmp_path / "blank.de", ["", "  "])
    cases = [
        ([], "empty list"),
        ([tmp_path / "absent.en"], r"absent.en.*not a file"),
        (["just a sentence"], r"iter\(sentences\)"),
        (latin, r"latin.de, line 2: byte 4 .*0xf6.*UTF-8"),
        (blank, r"blank.de held no line with text"),
        (iter([]), "No text to train on"),
        (iter(["fine", 7]), r"Item 2 .*7 \(int\)"),
        (iter(["half \ud83d pair"]), r"Item 1 .*surrogate"),
        (5, "int: pass a list of paths"),
    ]
    for corpus, message in cases:
        with pytest.raises(ValueError, match=message):
            VaswaniTokenizer.train(corpus, 300, show_progress=False)


@pytest.mark.parametrize(
    "option", [{"vocab_size": 259}, {"vocab_size": 300.0}, {"vocab_size": True}, {"min_frequency": 0}]
)
def test_sizes_are_checked(option):
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` is .*at least"):
        VaswaniTokenizer.train(iter(SENTENCES), **option, show_progress=False)


def test_smallest_vocabulary_is_bytes_only():
    tokenizer = VaswaniTokenizer.train(iter(SENTENCES), MINIMAL_VOCAB_SIZE, show_progress=False)
    assert len(tokenizer) == MINIMAL_VOCAB_SIZE
    assert len(tokenizer("äb").input_ids) == 1 + 3 + 1
