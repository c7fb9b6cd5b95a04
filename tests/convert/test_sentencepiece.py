"""SentencePiece models as pipelines: the ids and texts of the package that made them, and of MarianTokenizer."""

import random

import pytest
import sentencepiece
from transformers import AutoTokenizer, MarianTokenizer

from tests.helpers.foreign_models import ENGLISH, WORDS, marian_folder, sentencepiece_model, sentences
from vaswani_tx.convert import ConversionError, convert
from vaswani_tx.convert.sentencepiece import read_sentencepiece, sentencepiece_backend, sentencepiece_tokenizer

OPTIONS = {
    "plain": {},
    "identity": {"normalization_rule_name": "identity"},
    "lower case": {"normalization_rule_name": "nmt_nfkc_cf"},
    "bytes": {"byte_fallback": True, "vocab_size": 400},
    "no prefix": {"add_dummy_prefix": False},
    "spaces kept": {"remove_extra_whitespaces": False},
    "pieces over spaces": {"split_by_whitespace": False},
    "control": {"control_symbols": ("<a>", "<b>"), "pad_id": 3},
}
ODD = [
    "", " ", "  a  big   dog ", "the dog\tand\u00a0cat", "▁the ▁", "Ａ ① ﬁ ½", "e\u0301 a\u0308",
    "</s> <unk> <s> <a>", "§</s>",
    "<0x41>", "日本 dog", "dog日本", "THE DOG", "a" * 40, "👍🏽", "“the” … – dog", "dog\r\nhouse", "\u200bdog",
]  # fmt: skip


def texts() -> list[str]:
    """Return sentences of both languages, strange lines, and words of random letters."""
    draw = random.Random(1)
    letters = "".join(sorted(set("".join(ENGLISH + WORDS)))) + "ÉÑø€ "
    noise = ["".join(draw.choice(letters) for _ in range(20)) for _ in range(100)]
    return [*sentences(ENGLISH, 80), *sentences(WORDS, 80), *ODD, *noise]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_ids_and_texts_are_the_packages(tmp_path, kind, options):
    content = sentencepiece_model(kind, **options)
    (tmp_path / "m.model").write_bytes(content)
    original = sentencepiece.SentencePieceProcessor(model_proto=content)
    backend, size = sentencepiece_backend(read_sentencepiece(tmp_path / "m.model"))
    assert size is None and backend.get_vocab_size() == len(original)
    for text in texts():
        ids = original.encode(text)
        assert backend.encode(text).ids == ids, text
        if original.unk_id() not in ids:
            assert backend.decode(ids, skip_special_tokens=False) == original.decode(ids), text


def test_user_defined_pieces_are_kept_whole(tmp_path):
    content = sentencepiece_model("unigram", user_defined_symbols=("<sep>", "@@"))
    (tmp_path / "m.model").write_bytes(content)
    original = sentencepiece.SentencePieceProcessor(model_proto=content)
    backend, _ = sentencepiece_backend(read_sentencepiece(tmp_path / "m.model"))
    for text in ("the<sep>dog", "@@the@@ @@@", "<sep><sep> <sep"):
        assert backend.encode(text).ids == original.encode(text), text


def test_ids_of_a_vocabulary_and_pieces_that_it_lacks(tmp_path):
    content = sentencepiece_model("unigram")
    (tmp_path / "m.model").write_bytes(content)
    model, original = (
        read_sentencepiece(tmp_path / "m.model"),
        sentencepiece.SentencePieceProcessor(model_proto=content),
    )
    pieces = [text for text, _, _ in model.pieces[3:]]
    random.Random(0).shuffle(pieces)
    kept, lost = pieces[: len(pieces) // 2], pieces[len(pieces) // 2 :]
    ids = {text: index for index, text in enumerate(["<pad>", "</s>", *kept, "other", "<unk>"])}
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = sentencepiece_tokenizer(model, ids, special)
    assert len(tokenizer) == len(ids)
    for text in sentences(ENGLISH, 60):
        wanted = [ids.get(piece, ids["<unk>"]) for piece in original.encode(text, out_type=str)]
        assert tokenizer(text)["input_ids"] == [*wanted, 1]
    assert lost and tokenizer("other")["input_ids"].count(ids["other"]) == 0
    tokenizer.save_pretrained(tmp_path / "folder")
    again = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert again("the big dog")["input_ids"] == tokenizer("the big dog")["input_ids"]
    with pytest.raises(ConversionError, match="no '<unk>'"):
        sentencepiece_backend(model, {"a": 0})
    with pytest.raises(ConversionError, match="a number of its own"):
        sentencepiece_backend(model, {"<unk>": 0, "a": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "char"}, "its pieces are characters"),
        ({"treat_whitespace_as_suffix": True}, "spaces are part of the word before"),
        ({"model_type": "bpe", "user_defined_symbols": ("@@",)}, "user-defined or unused pieces"),
    ],
)
def test_models_without_an_equal_are_refused(tmp_path, options, message):
    options = dict(options)
    (tmp_path / "m.model").write_bytes(sentencepiece_model(options.pop("model_type", "unigram"), **options))
    with pytest.raises(ConversionError, match=message):
        read_sentencepiece(tmp_path / "m.model")


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab"])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "m.model").write_bytes(content)
    with pytest.raises(ConversionError, match=r"m\.model' is damaged"):
        read_sentencepiece(tmp_path / "m.model")
    with pytest.raises(ConversionError, match="cannot be read"):
        read_sentencepiece(tmp_path / "none.model")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("separate", [False, True])
def test_tokenizer_of_marian_gives_its_ids_and_texts(tmp_path, kind, separate):
    tags = () if separate else (">>deu<<", ">>fra<<")
    folder = marian_folder(tmp_path / "from", kind, separate, tags)
    convert(folder, tmp_path / "out", verify=False)
    original, ours = MarianTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours.has_target and len(ours) == len(original) and ours.model_max_length == 512
    tagged = [">>deu<< the dog", ">>xyz<< the dog", ">>xyz<<", ">>deu<<", "1 >> 0 << 2"]
    # MarianTokenizer reads special tokens written in a text; here they are text.
    lines = [text for text in [*texts(), *tagged] if "<s>" not in text and "</s>" not in text]
    for text in lines:
        source, target = original(text)["input_ids"], original(text_target=text)["input_ids"]
        assert ours(text)["input_ids"] == source, text
        assert ours(text_target=text)["input_ids"] == target, text
        assert ours.decode(target, skip_special_tokens=True) == original.decode(target, skip_special_tokens=True)
    everything = [[index] for index in range(3, len(ours.target))]
    assert ours.batch_decode(everything) == [text.removesuffix(" ") for text in original.batch_decode(everything)]
