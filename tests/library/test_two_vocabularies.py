"""A vocabulary each for source and target, behind one tokenizer."""

import copy
import io
import json
import pickle
import threading

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    MarianTokenizer,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from tests.helpers.two_vocabularies import ENGLISH, GERMAN, model_of, separate_tokenizers, with_other_ids
from vaswani_tx import TranslationPipeline, VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.convert.sentencepiece import read_sentencepiece, sentencepiece_tokenizer
from vaswani_tx.errors import CheckpointError
from vaswani_tx.loading import check_vocabulary
from vaswani_tx.token_texts_vaswani import source_of, target_of, token_texts

HOSTILE = [
    "", " ", "  two  spaces ", "a </s> b <pad> <unk>", "\ufdd0 mark", "\u00e9 e\u0301 \U0001f469\u200d\U0001f680",
    "\u4e2d\u6587",
    "tabs\tand\nlines\r\n", "\x00\x7f\ufeff", ">>de<< Hund", "\u2581dog \u0120dog", "\ud7ff\ue000\U0010ffff", "a" * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def sides():
    return separate_tokenizers()


@pytest.fixture(scope="module")
def pair(sides):
    return VaswaniTokenizer.pair(*sides)


@pytest.fixture
def folder(pair, tmp_path):
    pair.save_pretrained(tmp_path)
    return tmp_path


def everything_of(tokenizer):
    """What a tokenizer of two vocabularies answers."""
    batch = tokenizer(ENGLISH, text_target=GERMAN, padding=True)
    sizes = (len(tokenizer), tokenizer.vocab_size, len(tokenizer.target), tokenizer.model_max_length)
    ids = (tokenizer.pad_token_id, tokenizer.source.pad_token_id, tokenizer.all_special_ids)
    texts = tokenizer.batch_decode(batch["labels"], skip_special_tokens=True)
    return dict(batch), sizes, ids, texts, tokenizer.get_vocab(), tokenizer.special_tokens_map


def test_ids_of_each_side_are_those_of_its_tokenizer(sides, pair, folder):
    source, target = sides
    files = [Tokenizer.from_file(str(folder / name)) for name in ("tokenizer.json", "target_tokenizer.json")]
    for pipeline in files:
        pipeline.encode_special_tokens = True
    for text in [*ENGLISH, *GERMAN, *HOSTILE]:
        ids, labels = pair(text)["input_ids"], pair(text_target=text)["input_ids"]
        assert ids == source(text)["input_ids"] == files[0].encode(text).ids
        assert labels == target(text)["input_ids"] == files[1].encode(text).ids
        assert pair(text, text_target=text).data == {**source(text), "labels": labels}
        assert pair.decode(labels, skip_special_tokens=True) == text
        assert pair.decode(ids, skip_special_tokens=True, use_source_tokenizer=True) == text
        assert pair.target.tokenize(text) == pair.convert_ids_to_tokens(labels, skip_special_tokens=True)
        assert pair.tokenize(text) == pair.source.tokenize(text) == source.tokenize(text)
        assert pair.convert_tokens_to_ids(pair.tokenize(text)) == ids[:-1]
    assert pair(ENGLISH).data == source(ENGLISH).data and pair.encode("a dog") == source.encode("a dog")
    offsets = pair(ENGLISH[0], return_offsets_mapping=True)["offset_mapping"]
    assert offsets == source(ENGLISH[0], return_offsets_mapping=True)["offset_mapping"]


def test_one_vocabulary_is_its_own_source_and_target(sides):
    source = sides[0]
    assert source.source is source and source.target is source and not source.has_target
    assert source_of(source) is source and target_of(source) is source
    assert source(text_target="a dog")["input_ids"] == source("a dog")["input_ids"]


def test_ids_that_models_and_labels_get_are_the_targets(sides, pair):
    source, target = sides
    assert source.pad_token_id != target.pad_token_id
    for name in ("pad_token_id", "eos_token_id", "bos_token_id", "unk_token_id"):
        assert getattr(pair, name) == getattr(target, name)
        assert getattr(pair.source, name) == getattr(source, name)
    batch = pair(ENGLISH, text_target=GERMAN, padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == source(ENGLISH, padding=True)["input_ids"]
    assert batch["labels"].tolist() == target(GERMAN, padding=True)["input_ids"]
    rows = [pair(text) for text in ENGLISH]
    assert pair.pad(rows)["input_ids"] == source(ENGLISH, padding=True)["input_ids"]
    assert pair.all_special_ids == target.all_special_ids
    assert (len(pair), pair.get_vocab()) == (len(source), source.get_vocab())
    assert token_texts(pair) is token_texts(pair.target)


def test_settings_of_the_pair_hold_for_both_sides(sides):
    pair = VaswaniTokenizer.pair(*sides)
    pair.padding_side, pair.truncation_side, pair.model_max_length = "left", "left", 4
    batch = pair(ENGLISH[0], text_target=GERMAN[0], truncation=True)
    assert len(batch["input_ids"]) == len(batch["labels"]) == 4
    assert batch["labels"] == [*sides[1](GERMAN[0])["input_ids"][-4:]]
    assert pair(text_target=["a", GERMAN[0]], padding=True)["input_ids"][0][0] == pair.pad_token_id
    batch = pair(ENGLISH[0], text_target=GERMAN[0], truncation=True, max_length=3, max_target_length=2)
    assert (len(batch["input_ids"]), len(batch["labels"])) == (3, 2)


def test_transformers_switches_choose_the_side(sides, pair):
    pair = copy.deepcopy(pair)
    pair._switch_to_target_mode()
    assert pair.encode("der Hund") == sides[1].encode("der Hund")
    assert pair.convert_tokens_to_ids("\u0120Hund") == sides[1].convert_tokens_to_ids("\u0120Hund")
    pair._switch_to_input_mode()
    assert pair.encode("der Hund") == sides[0].encode("der Hund")
    pair._switch_to_target_mode()
    assert pair("der Hund")["input_ids"] == sides[0]("der Hund")["input_ids"]  # a call is of the source again


def test_threads_do_not_mix_the_sides(sides, pair):
    wrong = []

    def work():
        for _ in range(60):
            batch = pair(ENGLISH, text_target=GERMAN)
            if batch["input_ids"] != expected["input_ids"] or batch["labels"] != expected["labels"]:
                wrong.append(batch)

    expected = {"input_ids": sides[0](ENGLISH)["input_ids"], "labels": sides[1](GERMAN)["input_ids"]}
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_added_tokens_belong_to_a_side(sides, tmp_path):
    pair = VaswaniTokenizer.pair(*sides)
    assert pair.add_tokens([">>de<<"]) == 1 and pair.target.add_tokens(["<br>", "<hr>"]) == 2
    assert (len(pair), len(pair.source), len(pair.target)) == (len(sides[0]) + 1, len(sides[0]) + 1, len(sides[1]) + 2)
    assert pair(">>de<< a dog")["input_ids"][0] == len(sides[0])
    pair.save_pretrained(tmp_path)
    loaded = VaswaniTokenizer.from_pretrained(tmp_path)
    text = "der <br> Hund"
    assert loaded(text_target=text)["input_ids"] == pair(text_target=text)["input_ids"]
    assert loaded.decode(loaded(text_target=text)["input_ids"], skip_special_tokens=True) == text
    assert len(loaded.target) == len(pair.target) and len(loaded) == len(pair)
    assert len(sides[0]) == sides[0].vocab_size  # the tokenizers that were given are not changed


def test_copies_and_saved_folders_answer_alike(pair, folder, tmp_path):
    expected = everything_of(pair)
    loaded = VaswaniTokenizer.from_pretrained(folder)
    assert loaded.has_target and type(loaded.target) is type(loaded)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    for name in ("tokenizer.json", "target_tokenizer.json", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    VaswaniConfig().save_pretrained(folder)
    copies = [loaded, AutoTokenizer.from_pretrained(folder), pickle.loads(pickle.dumps(pair)), copy.deepcopy(pair)]
    for other in copies:
        assert everything_of(other) == expected
        other.source.add_tokens(["<new>"])  # the source is the pair's own pipeline in every copy
        assert len(other) == len(pair) + 1


def test_a_folder_lacks_neither_side(pair, sides, folder):
    (folder / "target_tokenizer.json").rename(folder / "elsewhere.json")
    with pytest.raises(ValueError, match=r"target_tokenizer\.json is missing: copy the folder again"):
        VaswaniTokenizer.from_pretrained(folder)
    (folder / "elsewhere.json").rename(folder / "target_tokenizer.json")
    sides[0].save_pretrained(folder)  # a file of the former tokenizer is no part of the new one
    assert not VaswaniTokenizer.from_pretrained(folder).has_target


def test_wrong_sides_are_refused(pair, sides):
    with pytest.raises(ValueError, match="The source has two vocabularies"):
        VaswaniTokenizer.pair(pair, sides[1])
    with pytest.raises(ValueError, match="The target is str"):
        VaswaniTokenizer.pair(sides[0], "German")
    with pytest.raises(ValueError, match=r"its `\.source` or its `\.target`"):
        pair.for_continuation()
    assert pair.target.for_continuation().decode(sides[1]("der Hund")["input_ids"][:-1]) == " der Hund"
    with pytest.raises(ValueError, match="`source_vocab_size` is 12"):
        VaswaniTokenizer.train_pair(ENGLISH, GERMAN, source_vocab_size=12)


def test_two_vocabularies_are_trained_as_each_alone():
    settings = {"show_progress": False, "min_frequency": 1}
    pair = VaswaniTokenizer.train_pair(iter(ENGLISH), iter(GERMAN), source_vocab_size=270, vocab_size=280, **settings)
    alone = (
        VaswaniTokenizer.train(iter(ENGLISH), 270, **settings),
        VaswaniTokenizer.train(iter(GERMAN), 280, **settings),
    )
    assert pair.get_vocab() == alone[0].get_vocab() and pair.target.get_vocab() == alone[1].get_vocab()


# Models


@pytest.fixture(scope="module")
def model(pair):
    return model_of(pair)


def test_a_pipeline_reads_the_source_and_writes_the_target(pair, sides, model):
    pipe = TranslationPipeline(model=model, tokenizer=pair, device="cpu")
    source, target = sides
    records = pipe(ENGLISH, return_tensors=True, return_text=True, return_alignments=True, batch_size=3)
    for text, record in zip(ENGLISH, records, strict=True):
        ids = model.generate(**source([text], return_tensors="pt"))[0]
        written = record["translation_token_ids"]
        assert torch.equal(written, ids[: len(written)])
        assert record["translation_text"] == target.decode(ids, skip_special_tokens=True) != ""
        kept = [token for token in ids[1:].tolist() if token not in target.all_special_ids]
        assert [link["target_token"] for link in record["alignment"]] == target.convert_ids_to_tokens(kept)
        for link in record["alignment"]:
            assert link["source_token"] == source.tokenize(text)[link["source_index"]]
            span = text[slice(*link["source_span"])]
            assert span == link["source_token"].removeprefix("\u0120")


def test_phrases_and_stops_are_of_the_target(pair, sides, model):
    pipe = TranslationPipeline(model=model, tokenizer=pair, device="cpu")
    [record] = pipe(ENGLISH[0], required=["schl\u00e4ft"], num_beams=4, return_alignments="words")
    assert "schl\u00e4ft" in record["translation_text"]
    [begun] = pipe(ENGLISH[0], forced_prefix="Eine Katze")
    assert begun["translation_text"].startswith("Eine Katze")
    best = pipe(ENGLISH[0], num_beams=4, num_return_sequences=3, return_scores=True)
    assert len({one["translation_text"] for one in best}) == 3
    [free] = pipe(ENGLISH[0])
    word = max(free["translation_text"].split(), key=len)
    assert word not in pipe(ENGLISH[0], bad_words=[word])[0]["translation_text"]
    [free] = pipe(ENGLISH[0], num_beams=1)
    word = max(free["translation_text"].split(), key=len)
    [stopped] = pipe(ENGLISH[0], stop_strings=[word], num_beams=1)
    assert stopped["translation_text"] == free["translation_text"].partition(word)[0] + word
    inputs = pair([ENGLISH[0]], return_tensors="pt")
    ids = model.generate(**inputs, stop_strings=[word], tokenizer=pair, num_beams=1)
    assert pair.batch_decode(ids, skip_special_tokens=True) == [stopped["translation_text"]]


def test_the_trainer_takes_both_sides(pair, sides, model, tmp_path):
    model = copy.deepcopy(model).train()
    rows = [dict(pair(text, text_target=label)) for text, label in zip(ENGLISH, GERMAN, strict=True)]
    batch = DataCollatorForSeq2Seq(pair, model=model)([dict(row) for row in rows])
    assert batch["input_ids"].tolist() == sides[0](ENGLISH, padding=True)["input_ids"]
    padded = torch.where(batch["labels"] < 0, pair.pad_token_id, batch["labels"])
    assert padded.tolist() == sides[1](GERMAN, padding=True)["input_ids"]
    options = Seq2SeqTrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[], predict_with_generate=True,
        use_cpu=True, save_strategy="no", disable_tqdm=True, generation_max_length=9,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(pair, model=model)
    trainer = Seq2SeqTrainer(model, options, collator, rows, rows, processing_class=pair)
    trainer.train()
    assert model.config.pad_token_id == sides[1].pad_token_id and model.config.eos_token_id == sides[1].eos_token_id
    written = trainer.predict(rows).predictions
    assert (written[:, 1:] != -100).all() and written.max() < len(pair.target)


def test_sizes_of_both_sides_are_checked(pair, model):
    check_vocabulary(model, pair)
    for name, side in (("source_vocab_size", "source"), ("vocab_size", "target")):
        config = VaswaniConfig(**{**model.config.to_dict(), name: getattr(model.config, name) - 1})
        method = "resize_source_token_embeddings" if side == "source" else "resize_token_embeddings"
        with pytest.raises(CheckpointError, match=rf"tokenizer's {side} has \d+ tokens but .*{method}\("):
            check_vocabulary(VaswaniForConditionalGeneration(config), pair)
    with pytest.raises(CheckpointError, match="tokenizer's source has 330 tokens"):
        check_vocabulary(model, pair.target)
    target = with_other_ids(pair.target, "<pad>", "<unk>")
    other = VaswaniTokenizer.pair(pair.source, target)  # the special ids of the model are those of its target
    with pytest.raises(CheckpointError, match=r"pad_token_id is .* in the tokenizer"):
        check_vocabulary(model, other)


def test_the_saved_configuration_says_what_the_target_is(folder, sides):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["target"]["pad_token"] == sides[1].pad_token and settings["target"]["split_special_tokens"] is True
    assert settings["tokenizer_class"] == "VaswaniTokenizer"


# MarianTokenizer, whose interface this is


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A MarianTokenizer of two vocabularies, which lack a few pieces of their models, and its folder."""
    folder = tmp_path_factory.mktemp("marian")
    for name, lines, size in (("source", ENGLISH, 60), ("target", GERMAN, 70)):
        content = io.BytesIO()
        settings = {"vocab_size": size, "bos_id": -1, "eos_id": 1, "hard_vocab_limit": False, "minloglevel": 3}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines * 20), model_writer=content, **settings)
        (folder / f"{name}.spm").write_bytes(content.getvalue())
        model = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
        pieces = [model.id_to_piece(number) for number in range(2, model.get_piece_size() - 3)]
        vocabulary = {text: number for number, text in enumerate(["</s>", "<unk>", "<pad>", *reversed(pieces)])}
        (folder / f"{name}.json").write_text(json.dumps(vocabulary))
    paths = [str(folder / name) for name in ("source.spm", "target.spm", "source.json", "target.json")]
    return MarianTokenizer(*paths, separate_vocabs=True), folder


def test_it_answers_as_marian_tokenizer_does(marian):
    theirs, folder = marian
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    sides = [
        sentencepiece_tokenizer(
            read_sentencepiece(folder / f"{name}.spm"), json.loads((folder / f"{name}.json").read_text()), special,
            front_tags=True, strip=True,
        )
        for name in ("source", "target")
    ]  # fmt: skip
    ours = VaswaniTokenizer.pair(*sides)
    texts = [*ENGLISH, *GERMAN, "", "  two  spaces ", "\ufb01ne \u00bd \uff21", "zzz \u4e2d\u6587", ">>de<< The cat"]
    batches = [dict(one(texts, text_target=texts, padding=True)) for one in (theirs, ours)]
    for name, rows in batches[0].items():
        for text, row, other in zip(texts, rows, batches[1][name], strict=True):
            assert row == other, (name, text)
    assert theirs(text_target=texts)["input_ids"] == ours(text_target=texts)["input_ids"]
    assert (len(ours), ours.vocab_size, ours.get_vocab()) == (len(theirs), theirs.vocab_size, theirs.get_vocab())
    assert ours.pad_token_id == theirs.pad_token_id and ours.eos_token_id == theirs.eos_token_id
    labels = batches[0]["labels"]
    for row in labels:
        assert ours.decode(row, skip_special_tokens=True) == theirs.decode(row, skip_special_tokens=True)
        assert ours.convert_ids_to_tokens(row) == theirs.convert_ids_to_tokens(row)
    assert ours.batch_decode(labels, skip_special_tokens=True) == theirs.batch_decode(labels, skip_special_tokens=True)
    for one in (theirs, ours):
        one._switch_to_target_mode()
    assert ours.convert_tokens_to_ids(["\u2581D", "ei", "x"]) == theirs.convert_tokens_to_ids(["\u2581D", "ei", "x"])
    assert ours.encode("Das alte Haus.") == theirs.encode("Das alte Haus.")
