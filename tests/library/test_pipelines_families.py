"""transformers' pipelines take the encoder-only and decoder-only models with our tokenizer, without a complaint."""

import json
import logging

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    pipeline,
)

from vaswani_tx import (
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniEncoderModel,
    VaswaniForCausalLM,
    VaswaniForMaskedLM,
    VaswaniForQuestionAnswering,
    VaswaniForSequenceClassification,
    VaswaniForTokenClassification,
    VaswaniTokenizer,
)

LINES = ["The quick cat sat on the mat.", "A dog, an old one, ran over the hill.", "Anna lives in Berlin now."]
SIZES = {"d_model": 16, "d_ff": 24, "num_heads": 2, "num_hidden_layers": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniTokenizer:
    # Plenty of merges, so that whole words are tokens.
    return VaswaniTokenizer.train(iter(LINES * 5), vocab_size=370, show_progress=False)


@pytest.fixture(autouse=True)
def nothing_is_said(monkeypatch):
    """Fail where a pipeline warns, of a model that it does not support for example."""
    # Older releases' pipelines call `generate` in a way that transformers itself deprecates.
    monkeypatch.setattr("transformers.generation.utils.logger.warning_once", lambda *_: None)
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    # Older releases say these of every model and of every byte-pair tokenizer: what the pipeline itself sets.
    known = ("Both `max_new_tokens`", "Ignoring clean_up_tokenization_spaces")
    messages = [message for message in messages if not message.startswith(known)]
    assert not messages, messages


def make(model_class, tokenizer, **fields):
    torch.manual_seed(0)
    kind = VaswaniDecoderConfig if model_class is VaswaniForCausalLM else VaswaniEncoderConfig
    return model_class(kind(vocab_size=len(tokenizer), **SIZES, **fields)).eval()


@pytest.fixture
def folder(tmp_path, tokenizer):
    """Save a model with the tokenizer, as a user would; pipelines then find classes by themselves."""

    def save(model) -> str:
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def test_fill_mask_sees_the_mask_in_a_text(tokenizer, tmp_path):
    """The ids are those of the sentence with one token masked, as in training, and the best token takes its place."""
    tokenizer = VaswaniTokenizer(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map)
    tokenizer.split_special_tokens = True
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    model = make(VaswaniForMaskedLM, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fill = pipeline("fill-mask", model=str(tmp_path))
    assert type(fill.tokenizer) is VaswaniTokenizer and type(fill.model) is VaswaniForMaskedLM
    for text, masked, place in (
        ("The quick cat sat on the mat.", "The quick <mask> sat on the mat.", " cat"),
        ("A dog, an old one.", "A <mask>, an old one.", " dog"),
        ("The mat", "<mask> mat", " The"),
    ):
        whole = fill.tokenizer(text).input_ids
        word = fill.tokenizer(place.strip(), add_special_tokens=False).input_ids
        start = next(i for i in range(len(whole)) if whole[i : i + len(word)] == word)
        ids = [*whole[:start], fill.tokenizer.mask_token_id, *whole[start + len(word) :]]
        assert fill.tokenizer(masked).input_ids == ids
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, start].softmax(-1).topk(3)
        found = fill(masked, top_k=3)
        assert [entry["token"] for entry in found] == expected.indices.tolist()
        assert [entry["score"] for entry in found] == pytest.approx(expected.values.tolist(), abs=1e-5)
        for entry in found:
            filled = [*ids[:start], entry["token"], *ids[start + 1 :]]
            assert entry["sequence"] == fill.tokenizer.decode(filled, skip_special_tokens=True)
    assert len(fill("<mask> <mask> </s>")) == 2  # what looks like an end is text, as ever
    collator = DataCollatorForLanguageModeling(fill.tokenizer, mlm_probability=0.5, seed=0)
    batch = collator([fill.tokenizer(line) for line in LINES])
    assert (batch["input_ids"] == fill.tokenizer.mask_token_id).any()
    assert torch.isin(batch["labels"], torch.tensor([tokenizer.eos_token_id, tokenizer.pad_token_id])).sum() == 0
    assert AutoModelForMaskedLM.from_pretrained(tmp_path)(**batch).loss.isfinite()


def test_text_classification(tokenizer, folder):
    names = {"id2label": {0: "cat", 1: "dog", 2: "town"}, "label2id": {"cat": 0, "dog": 1, "town": 2}}
    path = folder(make(VaswaniForSequenceClassification, tokenizer, **names))
    classify = pipeline("text-classification", model=path)
    alone = [classify(line, top_k=None) for line in LINES]
    together = classify(LINES, top_k=None, batch_size=3)
    for one, other in zip(alone, together, strict=True):
        assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
        assert {entry["label"] for entry in one} == {"cat", "dog", "town"}
        assert sum(entry["score"] for entry in one) == pytest.approx(1, abs=1e-5)
    pair = classify({"text": LINES[0], "text_pair": LINES[1]})
    assert pair["label"] in names["label2id"]


def test_zero_shot_classification(tokenizer, folder):
    labels = {"id2label": {0: "entailment", 1: "contradiction"}, "label2id": {"entailment": 0, "contradiction": 1}}
    ask = pipeline(
        "zero-shot-classification", model=folder(make(VaswaniForSequenceClassification, tokenizer, **labels))
    )
    answer = ask(LINES[0], candidate_labels=["cat", "hill"])
    assert set(answer["labels"]) == {"cat", "hill"} and sum(answer["scores"]) == pytest.approx(1, abs=1e-5)
    several = ask(LINES, candidate_labels=["cat", "hill", "dog"], multi_label=True)
    assert len(several) == 3 and all(len(entry["scores"]) == 3 for entry in several)


# Of every byte-level tokenizer transformers says that it parts words by their spaces, as it then does.
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification(tokenizer, folder, strategy):
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    table = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    path = folder(make(VaswaniForTokenClassification, tokenizer, **table))
    tag = pipeline("token-classification", model=path, aggregation_strategy=strategy, ignore_labels=[])
    text = "Anna lives in Berlin now, unquestionably."
    found, together = tag(text), tag([text, LINES[0]], batch_size=2)[0]
    key = "entity" if strategy == "none" else "entity_group"
    assert [(entry[key], entry["start"]) for entry in found] == [(entry[key], entry["start"]) for entry in together]
    end = 0
    for entry in found:  # together they are the whole text
        assert entry["start"] == end
        end = entry["end"]
        assert entry["word"].replace("Ġ", " ").strip() == text[entry["start"] : end].strip()
        if strategy in ("first", "average", "max"):
            assert end == len(text) or " " in text[end - 1 : end + 1]
    assert end == len(text)
    words = ["Anna", "lives", "in", "Berlin", "now", ",", "unquestionably", "."]
    starts = [0, 5, 11, 14, 21, 25, 27, 42]
    (given,) = tag([words], is_split_into_words=True)
    assert given[0]["start"] == 0 and given[-1]["end"] == 43
    if strategy in ("first", "average", "max"):
        assert {entry["start"] for entry in given} <= set(starts)


def test_feature_extraction(tokenizer, folder):
    model = make(VaswaniEncoderModel, tokenizer)
    extract = pipeline("feature-extraction", model=folder(model))
    batch = tokenizer(LINES[0], return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
    torch.testing.assert_close(extract(LINES[0], return_tensors=True), expected)
    together = extract(LINES, batch_size=3)
    torch.testing.assert_close(torch.tensor(together[0])[:, : expected.shape[1]], expected)


def test_text_generation(tokenizer, folder):
    write = pipeline("text-generation", model=folder(make(VaswaniForCausalLM, tokenizer)))
    assert type(write.model) is VaswaniForCausalLM
    # The pipeline adds no tokens of its own to a prompt: the end that the tokenizer appends would end it.
    prompt = "The quick cat"
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    expected = write.model.generate(**ids, max_new_tokens=6, do_sample=False)
    found = write(prompt, max_new_tokens=6, do_sample=False, add_special_tokens=False)[0]["generated_text"]
    assert found == tokenizer.decode(expected[0], skip_special_tokens=True) and found.startswith(prompt)
    torch.manual_seed(0)
    several = write(
        [prompt, "A dog"], max_new_tokens=4, do_sample=True, num_return_sequences=2, add_special_tokens=False
    )
    assert [len(entry) for entry in several] == [2, 2]
    tail = write(prompt, max_new_tokens=6, return_full_text=False, add_special_tokens=False)[0]["generated_text"]
    assert not tail.startswith(prompt)


def test_a_chat_template_is_used_and_saved(tokenizer, tmp_path):
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    template = turns + "{% if add_generation_prompt %}bot:{% endif %}"
    own = AutoTokenizer.from_pretrained(_saved(tokenizer, tmp_path / "plain"))
    own.chat_template = template
    make(VaswaniForCausalLM, own).save_pretrained(tmp_path / "chat")
    own.save_pretrained(tmp_path / "chat")
    write = pipeline("text-generation", model=str(tmp_path / "chat"))
    messages = [{"role": "user", "content": "The cat </s> sat"}]
    assert write.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "user: The cat </s> sat\nbot:"
    )
    answer = write(messages, max_new_tokens=4)[0]["generated_text"]
    assert answer[0] == messages[0] and answer[1]["role"] == "assistant"
    ids = write.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.eos_token_id not in ids
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "chat").config.eos_token_id == tokenizer.eos_token_id


def _saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return folder


def test_question_answering_by_hand(tokenizer, folder):
    """transformers 5 has no pipeline for it: the span with the best sum of scores, in the context alone."""
    model = make(VaswaniForQuestionAnswering, tokenizer)
    folder(model)
    batch = tokenizer("Who lives?", LINES[2], return_tensors="pt", return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping")[0]
    batch.pop("token_type_ids", None)
    output = model(**batch)
    context = torch.tensor([number == 1 for number in batch.sequence_ids(0)])
    scores = output.start_logits[0][:, None] + output.end_logits[0]
    scores = scores.masked_fill(~(context[:, None] & context).triu(), -torch.inf)
    start, end = divmod(int(scores.argmax()), scores.shape[1])
    assert start <= end and LINES[2][offsets[start][0] : offsets[end][1]]
    assert json.dumps(offsets.tolist())
