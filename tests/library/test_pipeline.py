"""The translation and summarisation pipelines, by name, with all that a call may ask for, and from a folder only."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    TextStreamer,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

import vaswani_tx
from vaswani_tx import (
    SummarizationPipeline,
    TranslationPipeline,
    VaswaniConfig,
    VaswaniForConditionalGeneration,
    VaswaniTokenizer,
)
from vaswani_tx.pipeline_vaswani_parts import plan_batches

AUTO = "AutoModelForSeq2SeqLM"
LINES = [
    "A dog runs on the green grass.",
    "Two men talk.",
    "A woman reads the old book to a child.",
    "The dog sleeps.",
    "Ein Hund läuft über das grüne Gras.",
    "Zwei Männer reden.",
    "Eine Frau liest dem Kind das alte Buch vor.",
]
LIBRARY = Path(vaswani_tx.__file__).parent


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(LINES * 3), vocab_size=320, show_progress=False)


def spread(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 3}
    config = VaswaniConfig(vocab_size=len(tokenizer), lm_head_bias=True, tie_word_embeddings=False, **sizes)
    model = spread(VaswaniForConditionalGeneration(config), seed=1)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 1)
        model.lm_head.bias[: tokenizer.vocab_size - 60] -= 4  # words rather than bytes
        model.lm_head.bias[tokenizer.eos_token_id] = 2.0
    model.generation_config.max_extra_tokens = 8
    model.generation_config.no_repeat_ngram_size = 2  # a random model repeats one token otherwise
    return model


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(model, tokenizer):
    return TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu")


def alone(model, tokenizer, text, **settings):
    """What `generate` itself gives for one text."""
    ids = model.generate(**tokenizer([text], return_tensors="pt"), **settings)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


# Input and output


@pytest.fixture(scope="module")
def expected(model, tokenizer):
    """What `generate` itself gives for every line alone."""
    texts = [alone(model, tokenizer, text)[0] for text in LINES]
    assert len(set(texts)) > 3  # a model that answers the same to everything would prove nothing
    return texts


def test_string_list_and_iterable_have_the_shapes_of_transformers_4(pipe, expected):
    assert pipe(LINES[0]) == [{"translation_text": expected[0]}]
    assert pipe(LINES) == [{"translation_text": text} for text in expected]
    assert pipe(tuple(LINES)) == pipe(LINES)
    answers = pipe(line for line in LINES)
    assert iter(answers) is answers
    assert list(answers) == [[{"translation_text": text}] for text in expected]
    assert pipe([]) == []


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 1}, {"batch_size": 3}, {"batch_tokens": 30}, {"batch_size": 2, "window": 3}, {"batch_tokens": 1}],
)
def test_batches_change_neither_the_answers_nor_their_order(pipe, expected, settings):
    assert [record["translation_text"] for record in pipe(LINES, **settings)] == expected
    streamed = pipe(iter(LINES), **settings)
    assert [record["translation_text"] for [record] in streamed] == expected


def test_batches_hold_neighbours_in_length_within_both_limits():
    lengths = [3, 9, 4, 8, 1, 9]
    assert plan_batches(lengths, 2, None) == [[1, 5], [3, 2], [0, 4]]
    assert plan_batches(lengths, None, 18) == [[1, 5], [3, 2], [0, 4]]
    assert plan_batches(lengths, None, 5) == [[1], [5], [3], [2], [0], [4]]
    assert plan_batches([1] * 7, 3, 2) == [[0, 1], [2, 3], [4, 5], [6]]


def test_a_data_set_column_is_read(pipe):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"en": LINES})
    expected = pipe(LINES)
    assert pipe(data["en"]) == expected
    assert [record for [record] in pipe(KeyDataset(data, "en"), batch_size=2)] == expected
    assert [record for [record] in pipe(data.to_iterable_dataset()["en"])] == expected


def test_an_iterable_is_read_no_further_than_its_window(pipe):
    read = []

    def endless():
        while True:
            read.append(LINES[len(read) % len(LINES)])
            yield read[-1]

    answers = pipe(endless())
    next(answers), next(answers)
    assert len(read) == 2
    answers = pipe(endless(), batch_size=2, window=5)
    next(answers)
    assert len(read) == 2 + 5


def test_blank_text_stays_empty_without_a_call_of_the_model(pipe, monkeypatch):
    expected = pipe(LINES[0])
    assert pipe(["", LINES[0], " \n"]) == [{"translation_text": ""}, *expected, {"translation_text": ""}]
    monkeypatch.setattr(pipe.model, "generate", None)
    assert pipe("") == [{"translation_text": ""}]
    assert pipe(["  "], return_scores=True, return_alignments=True) == [
        {"translation_text": "", "score": 0.0, "alignment": []}
    ]
    assert len(pipe("", num_return_sequences=3)) == 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "NoneType"),
        (3, "int"),
        (b"text", "bytes"),
        ({"text": "a"}, "dict"),
        (["a", None], r"input 2 is None \(NoneType\)"),
        ([["a"]], r"input 1 is \['a'\] \(list\)"),
    ],
)
def test_input_that_is_not_text_is_refused(pipe, inputs, message):
    with pytest.raises(ValueError, match=message):
        pipe(inputs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_tokens": 2.5}, "batch_tokens"),
        ({"return_alignments": "phrases"}, "'tokens' or 'words'"),
        ({"return_alignments": True, "alignment_layer": 3}, "give 0 to 2"),
        ({"split_sentences": True, "forced_prefix": "Ein"}, "one sentence"),
        ({"split_sentences": True, "required": ["Hund"]}, "one sentence"),
        ({"required": "Hund"}, "list of words"),
        ({"required": [""]}, "at least one character"),
        ({"src_lang": "en"}, "no languages"),
        ({"streamer": object(), "split_sentences": True}, "single string"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
)
def test_settings_that_do_not_fit_are_refused(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        pipe(LINES[0], **settings)


# What may be asked for


def test_n_best_come_with_the_scores_that_the_search_gave_them(pipe, model, tokenizer):
    for extra in ({}, {"length_penalty": 2.0}, {"gnmt_alpha": 1.5}):
        settings = {"num_beams": 4, "num_return_sequences": 3, **extra}
        output = model.generate(
            **tokenizer([LINES[0]], return_tensors="pt"), **settings, output_scores=True, return_dict_in_generate=True
        )
        records = pipe([LINES[1], LINES[0]], return_scores=True, **settings)[1]
        assert [r["translation_text"] for r in records] == tokenizer.batch_decode(
            output.sequences, skip_special_tokens=True
        )
        assert [r["score"] for r in records] == pytest.approx(output.sequences_scores.tolist(), abs=1e-4)


def test_score_of_one_beam_is_the_log_probability_over_the_penalty(pipe, model, tokenizer):
    batch = tokenizer([LINES[0]], return_tensors="pt")
    output = model.generate(**batch, num_beams=1, output_logits=True, return_dict_in_generate=True)
    rows = torch.cat(output.logits).log_softmax(-1)
    steps = rows.gather(1, output.sequences[0, 1:, None])
    score = pipe(LINES[0], num_beams=1, return_scores=True)[0]["score"]
    assert score == pytest.approx(float(steps.sum()) / ((5 + len(steps)) / 6) ** 0.6, abs=1e-4)


def test_tensors_and_text(pipe, tokenizer):
    [record] = pipe(LINES[0], return_tensors=True)
    assert set(record) == {"translation_token_ids"}
    [both] = pipe([LINES[0], LINES[2]], return_tensors=True, return_text=True)[:1]
    assert torch.equal(both["translation_token_ids"], record["translation_token_ids"])
    assert tokenizer.decode(record["translation_token_ids"], skip_special_tokens=True) == both["translation_text"]
    assert tokenizer.pad_token_id not in record["translation_token_ids"].tolist()


def test_generation_arguments_of_the_constructor_and_of_the_call(model, tokenizer):
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu", num_beams=1, max_new_tokens=3)
    assert pipe(LINES[0])[0]["translation_text"] == alone(model, tokenizer, LINES[0], num_beams=1, max_new_tokens=3)[0]
    longer = alone(model, tokenizer, LINES[0], num_beams=1, max_new_tokens=6)[0]
    assert pipe(LINES[0], max_new_tokens=6)[0]["translation_text"] == longer
    config = GenerationConfig(max_new_tokens=6, num_beams=1, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1)
    plain = TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    assert plain(LINES[0], generation_config=config)[0]["translation_text"] == longer
    assert config.num_return_sequences is None or config.num_return_sequences == 1


def test_streamer_shows_the_text_as_it_grows(pipe, tokenizer, capsys):
    [record] = pipe(LINES[0], streamer=TextStreamer(tokenizer, skip_special_tokens=True), num_beams=1)
    assert capsys.readouterr().out.rstrip("\n") == record["translation_text"].rstrip("\n")


def test_truncation_cuts_the_source(pipe, tokenizer, model):
    cut = tokenizer(LINES[2], truncation=True, max_length=5)["input_ids"]
    short = tokenizer.batch_decode(model.generate(input_ids=torch.tensor([cut])), skip_special_tokens=True)
    tokenizer.model_max_length, before = 5, tokenizer.model_max_length
    try:
        assert pipe(LINES[2], truncation=True)[0]["translation_text"] == short[0]
    finally:
        tokenizer.model_max_length = before


def test_training_mode_is_left_as_it_was(pipe, model):
    expected = pipe(LINES[0])
    model.train()
    assert pipe(LINES[0]) == expected
    assert model.training
    model.eval()


def test_constraints_hold(pipe):
    [record] = pipe(LINES[0], required=["Katze", ["Haus", "Hund"]], num_beams=6, return_scores=True)
    assert "Katze" in record["translation_text"]
    assert "Haus" in record["translation_text"] or "Hund" in record["translation_text"]
    wanted = {LINES[1]: ["reden"]}
    free, bound = pipe(LINES[:2], required=lambda text: wanted.get(text))
    assert "reden" in bound["translation_text"]
    assert free == pipe(LINES[0])[0]
    [begun] = pipe(LINES[0], forced_prefix="Eine Frau", return_scores=True)
    assert begun["translation_text"].startswith("Eine Frau")
    word = next(word for word in begun["translation_text"].split() if word.isalpha() and word not in ("Eine", "Frau"))
    assert word not in pipe(LINES[0], bad_words=[word])[0]["translation_text"].split()


# Long text and alignments


def test_long_text_is_translated_sentence_by_sentence(pipe):
    parts = [record["translation_text"] for record in pipe(LINES[:3])]
    text = f"  {LINES[0]} {LINES[1]}\n\n{LINES[2]}\n"
    [record] = pipe(text, split_sentences=True, return_scores=True, return_alignments="words")
    assert record["translation_text"] == f"  {parts[0]} {parts[1]}\n\n{parts[2]}\n"
    scores = [one["score"] for one in pipe(LINES[:3], return_scores=True)]
    assert record["score"] == pytest.approx(sum(scores), abs=1e-4)
    for link in record["alignment"]:
        assert record["translation_text"][slice(*link["target_span"])] == link["target"]
        assert text[slice(*link["source_span"])] == link["source"]
    assert len(pipe([text, LINES[0]], split_sentences=True, num_return_sequences=2)[0]) == 2
    assert pipe(["", text], split_sentences=True)[0] == {"translation_text": ""}


def test_alignment_is_where_the_attention_is(pipe, model, tokenizer):
    for layer in range(3):
        [record] = pipe(LINES[2], return_alignments=True, alignment_layer=layer, return_tensors=True, return_text=True)
        ids = record["translation_token_ids"][None]
        batch = tokenizer([LINES[2]], return_tensors="pt")
        outputs = model(**batch, decoder_input_ids=ids[:, :-1], output_attentions=True)
        weights = outputs.cross_attentions[layer][0].mean(0)[:, :-1]  # [T, S], without the </s> of the source
        links = record["alignment"]
        kept = [place for place, token in enumerate(ids[0, 1:].tolist()) if token not in tokenizer.all_special_ids]
        assert [link["source_index"] for link in links] == weights.argmax(-1)[kept].tolist()
        assert [link["weight"] for link in links] == pytest.approx(weights.max(-1).values[kept].tolist(), abs=1e-5)
        for link in links:
            text = tokenizer.decode([batch["input_ids"][0, link["source_index"]].item()])
            assert LINES[2][slice(*link["source_span"])].strip() == text.strip()
        covered = "".join(record["translation_text"][slice(*link["target_span"])] for link in links)
        assert covered.replace(" ", "") == record["translation_text"].replace(" ", "")
    assert (
        pipe(LINES[2], return_alignments=True)[0]["alignment"]
        == pipe([LINES[0], LINES[2]], return_alignments=True, alignment_layer=1)[1]["alignment"]
    )


def test_pipelines_are_found_by_name(folder):
    expected = TranslationPipeline(
        model=VaswaniForConditionalGeneration.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )(LINES[0])
    for task in ("translation", "translation_en_to_de"):
        found = pipeline(task, model=str(folder), device="cpu")
        assert type(found) is TranslationPipeline
        assert found(LINES[0]) == expected
    summary = pipeline("summarization", model=str(folder), device="cpu")
    assert type(summary) is SummarizationPipeline
    assert summary([LINES[0]]) == [{"summary_text": expected[0]["translation_text"]}]


@pytest.mark.parametrize("task", ["translation", "translation_en_to_de", "summarization"])
def test_a_task_without_a_model_asks_for_one(task):
    with pytest.raises(ValueError, match=r"has no default model: .*model=\.\.\."):
        pipeline(task)


def test_other_removed_and_unknown_tasks_are_still_refused():
    for task in ("text2text-generation", "translate", "translation_en"):
        with pytest.raises(KeyError, match=task):
            transformers.pipelines.check_task(task)


@pytest.mark.fresh
def test_a_task_that_transformers_knows_is_left_alone():
    code = """
import transformers
from transformers import AutoModelForSeq2SeqLM, TextClassificationPipeline, pipelines
class Theirs(TextClassificationPipeline): pass
getattr(pipelines, "REMOVED_TASKS", {}).pop("translation", None)
pipelines.PIPELINE_REGISTRY.register_pipeline("translation", Theirs, pt_model=AutoModelForSeq2SeqLM)
aliases = pipelines.PIPELINE_REGISTRY.task_aliases
import vaswani_tx
assert pipelines.check_task("translation")[1]["impl"] is Theirs
assert pipelines.PIPELINE_REGISTRY.task_aliases is aliases
assert pipelines.check_task("summarization")[1]["impl"] is vaswani_tx.SummarizationPipeline
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_ordinary_save_of_a_pipeline_carries_no_code(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


def test_feature_extraction_works_without_a_complaint(folder, caplog):
    features = pipeline("feature-extraction", model=str(folder), device="cpu")
    assert torch.tensor(features(LINES[0])).shape[-1] == 16
    assert "not supported" not in caplog.text


def test_models_that_are_no_encoder_decoders_are_refused(tokenizer):
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=len(tokenizer))
    with pytest.raises(ValueError, match="AutoModelForSeq2SeqLM"):
        TranslationPipeline(model=transformers.GPT2LMHeadModel(config), tokenizer=tokenizer, device="cpu")


@pytest.fixture(scope="module")
def words():
    """A plain tokenizer, such as those of other projects."""
    ours = VaswaniTokenizer.train(iter(LINES * 3), vocab_size=300, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=ours.backend_tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def bart(tokenizer):
    return BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=300, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_bos_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip


def t5(tokenizer):
    params = {
        "translation_en_to_de": {"prefix": "Zwei Hunde: ", "num_beams": 2, "max_length": 9},
        "summarization": {"prefix": "The: ", "max_length": 7, "early_stopping": True, "num_beams": 3},
    }
    return T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, task_specific_params=params,
    )  # fmt: skip


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_bart_by_name_with_scores_alignments_and_constraints(words, tmp_path):
    bart_model = spread(BartForConditionalGeneration(bart(words)))
    folder = saved(tmp_path, bart_model, words)
    settings = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 12}
    pipe = pipeline("summarization", model=folder, device="cpu", **settings)
    batch = words([LINES[0]], return_tensors="pt", return_token_type_ids=False)
    output = pipe.model.generate(**batch, **settings, output_scores=True, return_dict_in_generate=True)
    records = pipe(LINES[:2], return_scores=True, return_alignments=True)[0]
    assert [r["summary_text"] for r in records] == words.batch_decode(output.sequences, skip_special_tokens=True)
    assert [r["score"] for r in records] == pytest.approx(output.sequences_scores.tolist(), abs=1e-4)
    assert all(LINES[0][slice(*link["source_span"])] for link in records[0]["alignment"])
    assert pipe.model.config._attn_implementation == "sdpa"
    [[bound, _]] = pipe(LINES[:1], required=["Hund"])
    assert "Hund" in bound["summary_text"]


def test_t5_takes_the_prefix_and_the_settings_of_its_task(words, tmp_path):
    model = spread(T5ForConditionalGeneration(t5(words)))
    folder = saved(tmp_path, model, words)
    pipe = pipeline("translation_en_to_de", model=folder, device="cpu")
    expected = alone(model, words, "Zwei Hunde: " + LINES[0], num_beams=2, max_length=9)
    assert pipe(LINES[0])[0]["translation_text"] == expected[0]
    assert pipeline("translation", model=folder, device="cpu")(LINES[0], src_lang="en", tgt_lang="de") == pipe(LINES[0])
    summary = pipeline("summarization", model=folder, device="cpu")
    expected = alone(model, words, "The: " + LINES[0], num_beams=3, max_length=7, early_stopping=True)
    assert summary(LINES[0])[0]["summary_text"] == expected[0]
    shorter = alone(model, words, "The: " + LINES[0], num_beams=3, max_new_tokens=4, early_stopping=True)
    assert summary(LINES[0], max_new_tokens=4)[0]["summary_text"] == shorter[0]
    [record] = pipe(LINES[0], return_alignments=True)
    for link in record["alignment"] or [None]:  # the prefix is no part of the text
        token = words.decode([words.convert_tokens_to_ids(link["source_token"])])
        assert LINES[0][slice(*link["source_span"])] == token.strip()
    plain = pipeline("translation", model=folder, device="cpu")(LINES[0], return_tensors=True)
    assert len(plain[0]["translation_token_ids"]) > 21  # where `generate` would cut


def many_languages():
    letters = sorted({c for line in LINES for c in line if c != " "} | {"▁"})
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters])}
    tokenizer = NllbTokenizer(vocab=vocab, merges=[], extra_special_tokens=["eng_Latn", "deu_Latn", "fra_Latn"])
    config = M2M100Config(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=300, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return spread(M2M100ForConditionalGeneration(config)), tokenizer


def test_languages_are_given_in_the_call_the_constructor_or_the_name():
    model, tokenizer = many_languages()
    settings = {"num_beams": 2, "max_new_tokens": 8}
    target = tokenizer.convert_tokens_to_ids("deu_Latn")
    tokenizer.src_lang = "fra_Latn"
    expected = alone(model, tokenizer, LINES[0], forced_bos_token_id=target, **settings)[0]
    tokenizer.src_lang = "eng_Latn"
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu", **settings)
    [record] = pipe([LINES[0]], src_lang="fra_Latn", tgt_lang="deu_Latn", return_tensors=True, return_text=True)
    assert record["translation_text"] == expected
    assert record["translation_token_ids"][1] == target
    assert tokenizer.src_lang == "eng_Latn"  # as it was
    named = pipeline("translation_fra_Latn_to_deu_Latn", model=model, tokenizer=tokenizer, device="cpu", **settings)
    assert named(LINES[0])[0]["translation_text"] == expected
    built = TranslationPipeline(
        model=model, tokenizer=tokenizer, device="cpu", src_lang="fra_Latn", tgt_lang="deu_Latn"
    )
    assert built(LINES[0], **settings)[0]["translation_text"] == expected
    output = model.generate(
        **tokenizer([LINES[0]], return_tensors="pt"), forced_bos_token_id=target, **settings,
        output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    [scored] = pipe(LINES[0], src_lang="eng_Latn", tgt_lang="deu_Latn", return_scores=True)
    assert scored["score"] == pytest.approx(output.sequences_scores.item(), abs=1e-4)
    languages = {"src_lang": "fra_Latn", "tgt_lang": "deu_Latn"}
    [begun] = pipe(LINES[0], forced_prefix="Ein", return_tensors=True, return_text=True, **languages)
    assert begun["translation_token_ids"][1] == target
    assert begun["translation_text"].startswith("Ein")
    [bound] = pipe(LINES[0], required=["Hu"], **languages)
    assert "Hu" in bound["translation_text"]


def test_a_language_that_is_missing_or_unknown_is_named():
    model, tokenizer = many_languages()
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu", max_new_tokens=4)
    with pytest.raises(ValueError, match="give `src_lang` and `tgt_lang`"):
        pipe(LINES[0])
    for languages in ({"src_lang": "xx", "tgt_lang": "deu_Latn"}, {"src_lang": "eng_Latn", "tgt_lang": "xx"}):
        with pytest.raises(ValueError, match="knows no language 'xx'"):
            pipe(LINES[0], **languages)
    assert pipe(LINES[0], forced_bos_token_id=tokenizer.convert_tokens_to_ids("fra_Latn"))


@pytest.mark.parametrize("kind", ["marian", "m2m100"])
def test_tokenizers_made_with_sentencepiece(kind, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus, prefix = tmp_path / "corpus.txt", tmp_path / "spm"
    corpus.write_text("\n".join(LINES * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(prefix), vocab_size=60, model_type="bpe", minloglevel=2
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    listed = [pieces.id_to_piece(i) for i in range(3, len(pieces))]
    if kind == "marian":
        vocab = {token: i for i, token in enumerate(["</s>", "<unk>", *listed, "<pad>"])}
        (tmp_path / "vocab.json").write_text(json.dumps(vocab))
        tokenizer = transformers.MarianTokenizer(f"{prefix}.model", f"{prefix}.model", str(tmp_path / "vocab.json"))
        config = transformers.MarianConfig(
            vocab_size=len(vocab), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=300,
            pad_token_id=vocab["<pad>"], eos_token_id=0, decoder_start_token_id=vocab["<pad>"],
            forced_eos_token_id=0, bos_token_id=None,
        )  # fmt: skip
        model, languages = spread(transformers.MarianMTModel(config)), {}
    else:
        vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *listed])}
        (tmp_path / "vocab.json").write_text(json.dumps(vocab))
        tokenizer = transformers.M2M100Tokenizer(
            str(tmp_path / "vocab.json"), f"{prefix}.model", src_lang="en", tgt_lang="de"
        )
        model, _ = many_languages()
        model.resize_token_embeddings(len(tokenizer) + 108, mean_resizing=False)  # it does not count its languages
        model, languages = spread(model), {"src_lang": "fr", "tgt_lang": "de"}
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu", num_beams=2, max_new_tokens=8)
    forced = {"forced_bos_token_id": tokenizer.get_lang_id("de")} if languages else {}
    if languages:
        tokenizer.src_lang = "fr"
    expected = [alone(model, tokenizer, line, num_beams=2, max_new_tokens=8, **forced)[0] for line in LINES[:3]]
    assert [r["translation_text"] for r in pipe(LINES[:3], **languages)] == expected
    [record] = pipe(LINES[0], return_alignments=True, required=["Hund"], max_new_tokens=20, **languages)
    assert "Hund" in record["translation_text"]
    assert all("source_span" not in link for link in record["alignment"])  # it does not know where its tokens are
    if not tokenizer.is_fast:
        with pytest.raises(ValueError, match="fast tokenizer"):
            pipe(LINES[0], return_alignments="words", **languages)


@pytest.mark.fresh
def test_a_folder_with_the_code_works_where_the_package_is_unknown(folder, model, tokenizer, tmp_path):
    carried = tmp_path / "carried"
    shutil.copytree(folder, carried)
    for file in LIBRARY.glob("*_vaswani*.py"):
        shutil.copy(file, carried)
    config = json.loads((carried / "config.json").read_text())
    auto_map = {"AutoConfig": "configuration_vaswani.VaswaniConfig"}
    config["auto_map"] = auto_map | {AUTO: "modeling_vaswani.VaswaniForConditionalGeneration"}
    names, auto = {"translation": "TranslationPipeline", "summarization": "SummarizationPipeline"}, {"pt": [AUTO]}
    config["custom_pipelines"] = {task: auto | {"impl": f"pipeline_vaswani.{name}"} for task, name in names.items()}
    (carried / "config.json").write_text(json.dumps(config))
    own, auto_map = (
        carried / "tokenizer_config.json",
        {"AutoTokenizer": [None, "tokenization_vaswani.VaswaniTokenizer"]},
    )
    own.write_text(json.dumps(json.loads(own.read_text()) | {"auto_map": auto_map}))
    code = """
import json, sys
sys.modules["vaswani_tx"] = None
from transformers import pipeline
settings = {"model": sys.argv[1], "trust_remote_code": True, "device": "cpu"}
pipe = pipeline("translation", **settings)
answers = pipe(json.loads(sys.argv[2]), num_beams=4, return_scores=True)
bound = pipe(json.loads(sys.argv[2])[:1], required=["Hund"])
summary = pipeline("summarization", **settings)(json.loads(sys.argv[2])[:1])
print(json.dumps([type(pipe).__module__, answers, bound, summary]))
"""
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(carried), json.dumps(LINES)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    module, answers, bound, summary = json.loads(done.stdout.splitlines()[-1])
    assert module.startswith("transformers_modules.")
    expected = TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu")(LINES, return_scores=True)
    assert [r["translation_text"] for r in answers] == [r["translation_text"] for r in expected]
    assert [r["score"] for r in answers] == pytest.approx([r["score"] for r in expected], abs=1e-4)
    assert "Hund" in bound[0]["translation_text"]
    assert summary == [{"summary_text": expected[0]["translation_text"]}]
