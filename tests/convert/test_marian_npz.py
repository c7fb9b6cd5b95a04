"""Marian's own files: the same logits as a plain reading of its semantics, and refusals with their reasons."""

import json
import struct
import zipfile

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from tests.helpers.marian_reference import DEFAULTS, SSRU, Reference, random_weights, rounded, write_bin, write_npz
from vaswani_tx import VaswaniForConditionalGeneration
from vaswani_tx.cli import main
from vaswani_tx.convert import ConversionError, convert
from vaswani_tx.convert.core import complete_state, empty_model
from vaswani_tx.convert.marian_files import is_weights, read_marian, read_vocabulary
from vaswani_tx.convert.marian_npz import read, recognises

SOURCES = [[5, 6, 7, 8, 0], [9, 3, 0], [4, 4, 22, 11, 15, 2, 1, 0]]
TARGETS = [[3, 4, 5, 6], [7, 12, 1, 1], [0, 22, 3, 9]]
PRENORM = {
    "transformer-preprocess": "n",
    "transformer-postprocess": "da",
    "transformer-postprocess-top": "n",
    "version": "v1.12.0 65bf82f",
}
SEPARATE = {"tied-embeddings-all": False, "tied-embeddings": True, "dim-vocabs": [31, 23]}
CASES = {
    "base": {},
    "ssru": SSRU,
    "relu, separate vocabularies": {**SEPARATE, "transformer-ffn-activation": "relu"},
    "output of its own": {"tied-embeddings-all": False, "dim-vocabs": [31, 23]},
    "shared source and target, output of its own": {"tied-embeddings-all": False, "tied-embeddings-src": True},
    "pre-norm": PRENORM,
    "pre-norm, ssru, no bias": {**PRENORM, **SSRU, "output-omit-bias": True},
    "gelu by swish": {"transformer-ffn-activation": "gelu", "version": "v1.12.2"},
    "gelu": {"transformer-ffn-activation": "gelu", "version": "v1.12.43 7d4a"},
    "normed embeddings, no projection": {"transformer-postprocess-emb": "nd", "transformer-no-projection": True},
    "tied layers": {"transformer-tied-layers": [1, 1, 3], "dec-depth": 3, **SSRU},
    "odd heads": {"transformer-heads": 3, "dim-emb": 18, "transformer-dim-ffn": 7, "enc-depth": 1, "dec-depth": 3},
}


def write_model(folder, changes=None, **kwargs):
    options = {**DEFAULTS, **(changes or {})}
    weights = random_weights(options, **kwargs)
    return write_npz(folder / "model.npz", weights, options), weights, options


def converted(folder, path):
    report = convert(path, folder / "out")
    return VaswaniForConditionalGeneration.from_pretrained(folder / "out").double().eval(), report


def in_memory(path):
    """Return the model of a file without writing it, and what was read."""
    found = read(path)
    model = empty_model(found)
    model.load_state_dict(complete_state(found), assign=True)
    model.tie_weights()
    for module in model.modules():  # tables of positions are no weights
        if hasattr(module, "values") and hasattr(module, "table"):
            module.to_empty(device="cpu")
    return model.double().eval(), found


def padded(rows, pad):
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != pad).long()}


def assert_computes(model, reference):
    """Compare logits of a padded batch and greedy tokens, one by one from a cache."""
    start = model.config.decoder_start_token_id
    batch = padded(SOURCES, start)
    targets = torch.tensor([[start, *row] for row in TARGETS])
    with torch.no_grad():
        found = model(**batch, decoder_input_ids=targets).logits
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        expected = reference.logits(source, target)
        np.testing.assert_allclose(found[row, :, :-1].numpy(), expected, atol=1e-5, rtol=0)
    chances = found.softmax(-1)
    assert chances[..., -1].max() == 0  # the start token is never predicted, and takes nothing from the others
    settings = {"num_beams": 1, "max_new_tokens": 9, "min_new_tokens": 9, "bad_words_ids": None}
    model.generation_config.eos_token_id = None
    generated = model.generate(**batch, **settings)
    assert generated[:, 1:].tolist() == [reference.greedy(source, 9) for source in SOURCES]


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_computes_what_marian_computes(changes, tmp_path):
    path, weights, options = write_model(tmp_path, changes)
    model, found = in_memory(path)
    assert found.used == set(weights) and not found.ignored
    assert model.config.decoder_cell == ("ssru" if options["dec-cell"] == "ssru" else "attention")
    assert_computes(model, Reference(weights, options))


def test_learned_positions(tmp_path):
    path, weights, options = write_model(tmp_path, learned_positions=20)
    model, found = in_memory(path)
    assert model.config.max_position_embeddings == 20 and any("learned" in note for note in found.notes)
    assert_computes(model, Reference(weights, options))


def test_former_layout_of_the_output(tmp_path):
    options = {**DEFAULTS, "tied-embeddings-all": False}
    weights = random_weights(options)
    stored = {("decoder_ff_logit_out_W" if name.endswith("_Wt") else name): value for name, value in weights.items()}
    stored["decoder_ff_logit_out_W"] = stored["decoder_ff_logit_out_W"].T.copy()
    model, _ = in_memory(write_npz(tmp_path / "model.npz", stored, options))
    assert_computes(model, Reference(weights, options))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("changes", [SSRU, {"tied-embeddings-all": False, "dim-vocabs": [31, 23]}])
def test_binary_files(changes, int8, tmp_path):
    options = {**DEFAULTS, **changes}
    weights = random_weights(options)
    path = write_bin(tmp_path / "model.bin", weights, options, int8=int8)
    model, report = in_memory(path)
    reference = Reference(rounded(weights) if int8 else weights, options)
    assert_computes(model, reference)
    assert len(report.ignored) == sum(name.endswith("QuantMultA") for name in read_marian(path).weights) > 0 or not int8
    assert any("8 or 16 bits" in note for note in report.notes) == int8
    if int8:  # the test would notice matrices that are not rounded, or not those of another orientation
        plain = Reference(weights, options).logits(SOURCES[0], TARGETS[0])
        assert np.abs(plain - reference.logits(SOURCES[0], TARGETS[0])).max() > 1e-3


REFUSED = [
    ({"type": "s2s"}, "type 's2s'"),
    ({"transformer-decoder-autoreg": "average-attention"}, "'average-attention' cannot be converted"),
    ({"transformer-decoder-autoreg": "rnn", "dec-cell": "gru"}, "dec-cell='gru'"),
    ({**SSRU, "layer-normalization": True}, "layer-normalization"),
    ({"transformer-postprocess": "dhn"}, "highway gates"),
    ({"transformer-postprocess": "dar"}, "RMSNorm"),
    ({"transformer-postprocess": "dna"}, "post-norm"),
    ({"transformer-preprocess": "n"}, "post-norm"),
    ({**PRENORM, "version": "v1.9.56"}, "neither keys nor values"),
    ({**PRENORM, "version": None}, "neither keys nor values"),
    ({"transformer-postprocess-top": "dan"}, "transformer-postprocess-top='dan'"),
    ({"transformer-ffn-depth": 3}, "transformer-ffn-depth=3"),
    ({"transformer-ffn-activation": "tanh"}, "'tanh'"),
    ({"transformer-ffn-activation": "gelu", "version": ""}, "does not say its version"),
    ({"transformer-decoder-dim-ffn": 12}, "transformer-decoder-dim-ffn=12"),
    ({"transformer-rnn-projection": True}, "no output projection"),
    ({"transformer-tied-layers": [1]}, "does not name a layer for each"),
    ({"dim-vocabs": [23, 23, 23]}, "one source and one target"),
    ({"lemma-dim-emb": 4}, "no factors"),
    ({"right-left": True}, "from right to left"),
    ({"ulr": True}, "universal embeddings"),
    ({"input-types": ["class", "sequence"]}, "'class'"),
    ({"dim-emb": "wide"}, "dim-emb is 'wide'"),
    ({"transformer-heads": 5}, "make no model"),
    ({"enc-depth": 3}, "no weight 'encoder_l3_self_Wq'"),
    ({"enc-depth": 1}, "have no place in the converted model: encoder_l2"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_converted_exactly_is_refused(changes, message, tmp_path):
    weights = random_weights(DEFAULTS)
    path = write_npz(tmp_path / "model.npz", weights, {**DEFAULTS, **changes})
    with pytest.raises(ConversionError, match=message):
        in_memory(path)


def damaged(kind, path, weights):
    """Write a damaged file of that kind."""
    if kind == "pickled":
        np.savez(path, **weights, **{"special:model.yml": np.array([{"a": 1}], dtype=object)})
    elif kind == "no settings":
        write_npz(path, weights, None)
    elif kind == "no archive":
        path.write_bytes(b"weights")
    elif kind == "settings are no YAML":
        np.savez(path, **weights, **{"special:model.yml": np.frombuffer(b"a: [\0", np.int8)})
    elif kind == "cut":
        content = write_npz(path, weights, DEFAULTS).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "integers":
        write_npz(path, {**weights, "Wemb": np.ones((23, 16), np.int64)}, DEFAULTS)
    elif kind == "not finite":
        write_npz(path, {**weights, "Wemb": np.full((23, 16), np.nan, np.float32)}, DEFAULTS)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickled", "is refused: it holds Python objects"),
        ("no settings", "has no special:model.yml"),
        ("no archive", "is damaged, or no archive of numpy"),
        ("settings are no YAML", "special:model.yml is damaged"),
        ("cut", "is damaged, or no archive of numpy"),
        ("integers", "'Wemb' is of type int64"),
        ("not finite", "not finite"),
    ],
)
def test_damaged_archives(kind, message, tmp_path):
    path = tmp_path / "model.npz"
    damaged(kind, path, random_weights(DEFAULTS))
    with pytest.raises(ConversionError, match=message):
        in_memory(path)


def test_damaged_binary_files(tmp_path):
    path = write_bin(tmp_path / "model.bin", random_weights(DEFAULTS), DEFAULTS, int8=True)
    whole = path.read_bytes()
    names = whole.index(b"Wemb\0")
    # (where, what is written there), or where the file is cut
    for change, message in [
        ((0, struct.pack("<Q", 3)), "begins with other bytes"),
        ((0, struct.pack("<Q", 2)), "is encrypted"),
        ((8, struct.pack("<Q", 2**60)), "begins with other bytes"),
        ((16 + 8, struct.pack("<Q", 0x1801)), r"packed for one kind of processor \(packed8avx2\)"),
        ((16 + 8, struct.pack("<Q", 0x77)), "unknown type, 0x77"),
        ((16 + 16, struct.pack("<Q", 99)), "99 dimensions"),
        ((16 + 24, struct.pack("<Q", 8)), "too few"),
        ((names, b"\xff\xfe"), "the name of a tensor is no text"),
        (len(whole) - 3, "before all of its tensors"),
        (100, "before all of its tensors"),
        (7, "before all of its tensors"),
    ]:
        content = bytearray(whole)
        if isinstance(change, int):
            content = content[:change]
        else:
            content[change[0] : change[0] + len(change[1])] = change[1]
        path.write_bytes(bytes(content))
        with pytest.raises(ConversionError, match=message):
            read_marian(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(ConversionError, match="bytes behind its last tensor"):
        read_marian(path)


def test_recognised_by_contents(tmp_path):
    path, weights, options = write_model(tmp_path)
    assert recognises(path) and recognises(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    np.savez(other / "arrays.npz", a=np.zeros(3))
    (other / "lex.bin").write_bytes(b"\1\0\0\0\0\0\0\0" + bytes(100))
    (other / "torn.npz").write_bytes(b"PK")
    assert not recognises(other) and not is_weights(other / "torn.npz")
    write_bin(other / "a.bin", weights, options)
    write_bin(other / "b.bin", weights, options)
    with pytest.raises(ConversionError, match=r"several models \(a\.bin, b\.bin\)"):
        read(other)
    (other / "decoder.yml").write_text(yaml.safe_dump({"models": ["/trained/b.bin"]}))
    assert read(other).config.vocab_size == 24


def write_words(path, size, **kwargs):
    words = {"</s>": 0, "<unk>": 1, **{f"w{index}": index for index in range(2, size)}}
    path.write_text(yaml.safe_dump(words, **kwargs))


def test_vocabularies_of_words_and_settings_of_translation(tmp_path):
    write_model(tmp_path, {**SEPARATE})
    write_words(tmp_path / "vocab.src.yml", 31)
    write_words(tmp_path / "vocab.trg.yml", 23)
    settings = {"vocabs": ["/gone/vocab.src.yml", "vocab.trg.yml"], "beam-size": 6, "normalize": 0.6, "word-penalty": 1}
    (tmp_path / "model.npz.decoder.yml").write_text(yaml.safe_dump({**settings, "shortlist": ["lex.bin", False]}))
    model, report = converted(tmp_path, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w30 w2 what w3").input_ids == [30, 2, 1, 3, 0]
    assert tokenizer(text_target="w22 w30").input_ids == [22, 1, 0]
    assert tokenizer.decode([22, 3, 0], skip_special_tokens=True) == "w22 w3"
    assert tokenizer.pad_token_id == 23 and tokenizer.source.pad_token_id == 31
    assert tokenizer(["w2 w3", "w2"], padding=True).input_ids[1] == [2, 0, 31]
    assert (model.generation_config.num_beams, model.generation_config.length_penalty) == (6, 0.6)
    assert model.generation_config.bad_words_ids == [[23], [1]]
    text = "\n".join(report.notes)
    assert "word-penalty=1.0" in text and "shortlist" in text and "vocabulary is of words" in text
    batch = tokenizer(["w5 w6 w7", "w3"], return_tensors="pt", padding=True)
    beams = model.generate(**batch, max_new_tokens=6)
    assert beams.shape[0] == 2 and not {1, 23} & set(beams[:, 1:].flatten().tolist()) - {23}


def field(number, content):
    """Return one field of a protocol buffer: bytes, a number, or a float32."""
    if isinstance(content, bytes):
        return bytes([number << 3 | 2, len(content)]) + content
    if isinstance(content, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", content)
    return bytes([number << 3, content])


def write_pieces(path, texts):
    """Write a unigram model of SentencePiece as Marian trains it: `</s>`, `<unk>`, then pieces."""
    pieces = [("</s>", 0.0, 3), ("<unk>", 0.0, 2), *((text, -1.0 - index, 1) for index, text in enumerate(texts))]
    content = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces
    )
    path.write_bytes(content + field(2, field(3, 1)) + field(3, field(1, b"identity")))


def test_sentencepiece_beside_the_model(tmp_path):
    write_model(tmp_path, SSRU)
    write_pieces(tmp_path / "vocab.enpt.spm", ["▁a", "▁dog", "s", "▁", "d", "o", "g", "a"])
    tokenizer = read(tmp_path).tokenizer
    assert tokenizer("a dogs dog x").input_ids == [2, 3, 4, 3, 5, 1, 0]
    assert tokenizer.decode([2, 3, 4, 0, 23], skip_special_tokens=True) == "a dogs"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (23, 0, 1)
    write_pieces(tmp_path / "vocab.enpt.spm", [f"▁w{index}" for index in range(30)])
    with pytest.raises(ConversionError, match="has 32 entries, but the model's embedding 23 rows"):
        read(tmp_path)
    write_pieces(tmp_path / "vocab.enpt.spm", ["▁a"])
    (tmp_path / "vocab.enpt.spm").rename(tmp_path / "trgvocab.enja.spm")
    write_pieces(tmp_path / "srcvocab.enja.spm", ["▁b"])
    tokenizer = read(tmp_path).tokenizer
    assert tokenizer("b").input_ids == [2, 0] and tokenizer(text_target="b a").input_ids == [1, 2, 0]


@pytest.mark.parametrize("text", ["beam-size: many", "beam-size: 0", "normalize: .nan", "normalize: [1]", "a: ["])
def test_wrong_settings_of_translation(text, tmp_path):
    path, *_ = write_model(tmp_path)
    (tmp_path / "model.npz.decoder.yml").write_text(text)
    with pytest.raises(ConversionError, match=r"is damaged, or no YAML|not a number from"):
        read(path)


def test_words_as_yaml_json_and_lines(tmp_path):
    words = {"</s>": 0, "<unk>": 1, "null": 2, "12": 3, "yes": 4, '"': 5, "😀": 6, ": x": 7}
    for name, text in (
        ("a.yml", yaml.safe_dump(words, allow_unicode=True)),
        ("b.json", json.dumps(words)),
        ("c.txt", "\n".join(words) + "\n"),
        ("d.yml", yaml.safe_dump({"eos": 0, "UNK": 1, **{word: i for word, i in words.items() if i > 1}})),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_vocabulary(tmp_path / name) == words
    for text, message in (
        ("a: 1\nb: 1\n", "two words one id"),
        ("a: b\n", "no table of words and ids"),
        ("- a\n", "no table of words and ids"),
        ("'</s>': 0\na: 1\n", "has no '<unk>'"),
        ("'</s>': 0\n'<unk>': -1\n", "negative id"),
    ):
        (tmp_path / "e.yml").write_text(text)
        with pytest.raises(ConversionError, match=message):
            read_vocabulary(tmp_path / "e.yml")
    (tmp_path / "f.txt").write_text("</s>\n<unk>\na\na\n")
    with pytest.raises(ConversionError, match="holds a word twice"):
        read_vocabulary(tmp_path / "f.txt")


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
    write_model(tmp_path)
    write_words(tmp_path / "vocab.yml", 40)  # Marian cuts it to the model's size
    assert read(tmp_path).tokenizer("w22 w23").input_ids == [22, 1, 0]
    (tmp_path / "vocab.yml").rename(tmp_path / "vocab.a.yml")
    write_words(tmp_path / "vocab.b.yml", 23)
    with pytest.raises(ConversionError, match="several vocabularies"):
        read(tmp_path)
    (tmp_path / "decoder.yml").write_text("vocabs: [vocab.b.yml, vocab.c.yml]")
    with pytest.raises(ConversionError, match=r"has no 'vocab\.c\.yml'"):
        read(tmp_path)


def test_the_command_reports_and_fails_in_a_line(tmp_path, capsys):
    path, *_ = write_model(tmp_path, SSRU)
    assert main(["convert", str(path), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "marian (Marian v1.12.0" in printed and "Marian is a program of its own" in printed
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.npy", b"no array")
    assert main(["convert", str(path), str(tmp_path / "again")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "again").exists()
