"""`VaswaniTokenizer` around pipelines of other kinds: they encode and decode as they say themselves."""

import copy
import pickle

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from tests.helpers.two_vocabularies import ENGLISH, GERMAN
from vaswani_tx import (
    ForbiddenPhrases,
    VaswaniConfig,
    VaswaniTokenizer,
)
from vaswani_tx.explain.tokens import tokens_of
from vaswani_tx.phrases_vaswani import RequiredPhrases, required_phrase_ids
from vaswani_tx.token_texts_vaswani import token_texts

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
NAMED = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
HARD = ["der Hund (gro\u00df) zzz", "", "  two  spaces ", "\n\t", "\u4e2d\u6587 \U0001f469\u200d\U0001f680", "a-b"]
TEXTS = [*ENGLISH, *GERMAN, *HARD]


def trained(backend, trainer, lines=(*ENGLISH * 5, *GERMAN * 5, "der Hund"), **settings):
    backend.train_from_iterator(lines, trainer(special_tokens=SPECIAL, show_progress=False, **settings))
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", backend.token_to_id("</s>"))]
    )
    return backend


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trained(backend, trainers.UnigramTrainer, vocab_size=100, unk_token="<unk>")


def word_piece():
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
    return trained(backend, trainers.WordPieceTrainer, vocab_size=100)


def words():
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return trained(backend, trainers.WordLevelTrainer)


def ended_words():
    backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.WhitespaceSplit(), decoders.BPEDecoder()
    return trained(backend, trainers.BpeTrainer, vocab_size=100, end_of_word_suffix="</w>")


def units():
    """Words in units, as `lo@@ w`, looked up."""
    symbols = [*SPECIAL, "sch@@", "l\u00e4@@", "ft", "Hund", "Hunde", "der", "H@@", "und", "ein", "."]
    backend = Tokenizer(models.WordLevel({symbol: index for index, symbol in enumerate(symbols)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    spaced = decoders.WordPiece(prefix="\ufdd0", cleanup=False)
    backend.decoder = decoders.Sequence([spaced, decoders.Fuse(), decoders.Replace(Regex("@@( |$)"), "")])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return backend


KINDS = (unigram, word_piece, words, ended_words, units)


@pytest.fixture(scope="module", params=KINDS, ids=[kind.__name__ for kind in KINDS])
def backend(request):
    return request.param()


@pytest.fixture
def tokenizer(backend):
    return VaswaniTokenizer(tokenizer_object=backend, split_special_tokens=True, **NAMED)


def test_ids_and_texts_are_those_of_the_pipeline(backend, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    VaswaniConfig().save_pretrained(tmp_path)
    alike = [tokenizer, AutoTokenizer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(tokenizer))]
    for text in TEXTS:
        encoding = backend.encode(text)
        for one in alike:
            found = one(text, return_offsets_mapping=True)
            assert found["input_ids"] == encoding.ids and found["offset_mapping"] == encoding.offsets
            assert one.decode(encoding.ids) == backend.decode(encoding.ids, skip_special_tokens=False)
            assert one.decode(encoding.ids, skip_special_tokens=True) == backend.decode(encoding.ids)
    assert tokenizer.get_vocab() == backend.get_vocab() and len(tokenizer) == backend.get_vocab_size()


def test_no_text_makes_a_control_token(tokenizer):
    for text in ("a </s> b", "</s>", "<pad> <s></s> x", "\uff1c/s\uff1e", " </s> "):
        ids = tokenizer(text)["input_ids"]
        assert not {0, 1, 2} & set(ids[:-1]) and ids[-1] == tokenizer.eos_token_id
        batch = tokenizer([text, "a b c d e f g h"], padding=True)
        assert batch["input_ids"][0][: len(ids)] == ids
        assert tokenizer(text, split_special_tokens=False)["input_ids"].count(2) >= 1
    meant = tokenizer("der </s> Hund", split_special_tokens=False)["input_ids"]
    assert meant.count(tokenizer.eos_token_id) == 2


def test_texts_of_tokens_make_up_the_text(tokenizer):
    texts = token_texts(tokenizer)
    for text in (*ENGLISH, *GERMAN, "der Hund schl\u00e4ft ."):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        written = tokenizer.decode(ids, skip_special_tokens=True)
        if tokenizer.unk_token_id not in ids:
            assert b"".join(texts.of[token] for token in ids).decode().strip() == written.strip()
            assert "".join(token.text for token in tokens_of(tokenizer, ids)).strip() == written.strip()


def test_forbidden_words_are_found_however_they_are_divided(tokenizer):
    scores = torch.zeros(1, len(tokenizer))
    for word in ("hund" if tokenizer.decode(tokenizer("Hund")["input_ids"]).startswith("hund") else "Hund",):
        ids = tokenizer(f"der {word}", add_special_tokens=False)["input_ids"]
        processor = ForbiddenPhrases(tokenizer, [word])
        allowed = [processor(torch.tensor([ids[:end]]), scores)[0, ids[end]] for end in range(1, len(ids))]
        assert allowed[-1] == -torch.inf or -torch.inf in allowed


def test_required_words_count_where_they_are_whole(tokenizer):
    word = "Hund" if tokenizer("Hund")["input_ids"][0] != tokenizer.unk_token_id else "hund"
    [constraint] = required_phrase_ids(tokenizer, [word], whole_words=True)
    phrases = RequiredPhrases([constraint])

    def is_met(text):
        return phrases.is_met(phrases.start(tokenizer(text, add_special_tokens=False)["input_ids"]))

    assert is_met(f"der {word}") and is_met(f"{word} der ein") and not is_met("der ein")


def test_the_mask_is_read_in_the_place_of_a_word(tokenizer):
    assert tokenizer.add_special_tokens({"mask_token": "<mask>"}) == 1
    ids = tokenizer("der <mask> Hund <mask>")["input_ids"]
    assert ids.count(tokenizer.mask_token_id) == 2
    again = VaswaniTokenizer(
        tokenizer_object=tokenizer.backend_tokenizer, mask_token="<mask>", split_special_tokens=True, **NAMED
    )
    assert again("der <mask> Hund <mask>")["input_ids"] == ids


def test_continuations_begin_with_bos_and_keep_their_front(tokenizer):
    causal = tokenizer.for_continuation()
    ids = causal("der Hund", add_special_tokens=False)["input_ids"]
    assert causal("der Hund")["input_ids"] == [causal.bos_token_id, *ids]
    begun = causal.decode([causal.bos_token_id, *ids], skip_special_tokens=True)
    assert begun == tokenizer.decode(ids)
    front = next(end for end in range(1, len(ids)) if causal.decode(ids[:end]).strip() == begun[:3])
    assert causal.decode(ids[front:]).strip() == begun[3:].strip()
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="no token for the beginning"):
        tokenizer.for_continuation()


# Pieces beyond the vocabulary


def test_pieces_beyond_the_dictionary_are_unknown(tmp_path):
    scores = {"<unk>": 0.0, "</s>": -99.0, "<pad>": -99.0, "\u2581a": -1.0, "\u2581": -2.0, "b": -3.0, "bc": -1.0}
    backend = Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    backend.add_special_tokens(["<unk>", "</s>", "<pad>"])
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = VaswaniTokenizer(tokenizer_object=backend, split_special_tokens=True, dictionary_size=6, **special)
    tokenizer.save_pretrained(tmp_path)
    pair = VaswaniTokenizer.pair(tokenizer, tokenizer)
    for one in (tokenizer, VaswaniTokenizer.from_pretrained(tmp_path), copy.deepcopy(tokenizer), pair, pair.target):
        assert one("a bc b")["input_ids"] == [3, 4, 0, 4, 5, 1]
        assert one(["a bc", "a"], padding=True, return_tensors="pt")["input_ids"].tolist() == [
            [3, 4, 0, 1],
            [3, 1, 2, 2],
        ]
        assert (len(one), one.vocab_size, max(one.get_vocab().values())) == (6, 6, 5)
        assert one.convert_tokens_to_ids(["bc", "b"]) == [0, 5]
        with pytest.raises(ValueError, match="'>>de<<' cannot be added: beyond its 6 entries"):
            one.add_tokens([">>de<<"])
    assert pair(text_target="bc")["input_ids"] == tokenizer("bc")["input_ids"]
    with pytest.raises(ValueError, match="needs an `unk_token`"):
        VaswaniTokenizer(tokenizer_object=backend, dictionary_size=6, eos_token="</s>")
