"""Translating many sentences: order, batches, limits, loading; with our model, HF MarianMT and a model that echoes."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import vaswani_tx
from tests.helpers.translators import make_model, make_tokenizer, sentences
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.inference.translation import (
    length_batches,
    load_model_and_tokenizer,
    perplexity,
    translate,
    translate_corpus,
)


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model_and_tokenizer(str(folder))


class Echo(torch.nn.Module):
    """Gives every sentence back, and keeps the shapes and keywords of what it was asked."""

    device = torch.device("cpu")
    generation_config = SimpleNamespace(max_new_tokens=None, max_length=None)

    def __init__(self):
        super().__init__()
        self.calls = []

    def generate(self, input_ids, attention_mask, **kwargs):
        assert torch.equal(attention_mask, (input_ids != 0).long())
        assert not self.training
        self.calls.append((tuple(input_ids.shape), kwargs))
        return torch.cat([torch.ones_like(input_ids[:, :1]), input_ids], dim=1)


def test_hypotheses_come_back_in_the_order_of_the_sources():
    texts = sentences([3, 50, 1, 7, 7, 2, 31, 0, 12, 5])
    model = Echo()
    done = translate_corpus(model, make_tokenizer(), texts, batch_tokens=64)
    assert done.texts == texts
    tokens = sum(len(text.split()) + 1 for text in texts)
    assert (done.source_tokens, done.target_tokens) == (tokens, tokens)
    widths = [shape[1] for shape, _ in model.calls]
    assert widths == sorted(widths, reverse=True) and len(widths) > 2
    assert all(rows * width <= 64 for (rows, width), _ in model.calls)


def test_no_sentence_is_no_work():
    assert translate(Echo(), make_tokenizer(), []) == []


def test_length_batches_keep_the_budget_and_every_sentence_once():
    lengths = torch.randint(1, 40, (500,), generator=torch.Generator().manual_seed(3)).tolist() + [1000]
    plan = length_batches(lengths, 128)
    assert sorted(index for batch in plan for index in batch) == list(range(501))
    assert plan[0] == [500], "a sentence longer than the budget goes alone"
    for batch in plan[1:]:
        assert max(lengths[i] for i in batch) * len(batch) <= 128
    assert len(plan) < 1.2 * sum(lengths[:-1]) / 128 + 2, "batches are full"
    with pytest.raises(ValueError, match="batch_tokens is 0"):
        length_batches([1], 0)


def test_tokens_after_the_end_are_not_counted():
    class Fixed(Echo):
        def generate(self, input_ids, attention_mask, **kwargs):
            return torch.tensor([[1, 5, 6, 2, 0, 0], [1, 7, 2, 2, 2, 2], [1, 5, 5, 5, 5, 5]])

    assert translate_corpus(Fixed(), make_tokenizer(), ["w1", "w2", "w3"]).target_tokens == 3 + 2 + 5


def test_length_limit_is_given_only_to_a_model_without_one():
    def asked(settings, **options):
        model = Echo()
        model.generation_config = SimpleNamespace(**{"max_new_tokens": None, "max_length": None} | settings)
        translate(model, make_tokenizer(), ["w1 w2 w3"], **options)
        return model.calls[0][1]

    assert asked({}) == {"max_new_tokens": 4 + 50}
    assert asked({"max_length": 20}, num_beams=2) == {"max_new_tokens": 4 + 50, "num_beams": 2}
    assert asked({"max_length": 512}) == {}
    assert asked({"max_extra_tokens": 50}) == {}
    assert asked({}, max_new_tokens=7) == {"max_new_tokens": 7}


def test_batches_do_not_change_the_translations(loaded):
    model, tokenizer = loaded
    texts = sentences([4, 9, 2, 6, 1, 13])
    alone = [translate(model, tokenizer, [text], max_new_tokens=6, num_beams=2)[0] for text in texts]
    assert len(set(alone)) > 3, "the outputs must differ for this test to see anything"
    for budget in (24, 10_000):
        assert translate(model, tokenizer, texts, batch_tokens=budget, max_new_tokens=6, num_beams=2) == alone


def test_source_of_any_length_is_translated_and_cut_only_on_request(loaded):
    model, tokenizer = loaded
    long = 3000 if isinstance(model, vaswani_tx.VaswaniForConditionalGeneration) else 250
    text = sentences([long])[0]
    done = translate_corpus(model, tokenizer, [text], max_new_tokens=3, num_beams=1)
    assert done.source_tokens == long + 1
    assert 1 <= done.target_tokens <= 3
    cut = translate_corpus(model, tokenizer, [text], max_new_tokens=3, num_beams=1, max_source_length=20)
    assert cut.source_tokens == 20


@pytest.mark.parametrize("training", [True, False])
def test_model_mode_and_random_state_are_left_as_they_were(training):
    model = make_model("vaswani").train(training)
    state = torch.get_rng_state()
    translate(model, make_tokenizer(), ["w1 w2"], max_new_tokens=3, num_beams=1)
    perplexity(model, make_tokenizer(), ["w1 w2"], ["w3"])
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError):
        translate(model, make_tokenizer(), ["w1"], max_new_tokens=-1)
    assert model.training is training


def test_perplexity_is_that_of_each_reference_token(loaded):
    model, tokenizer = loaded
    sources, targets = sentences([4, 9, 1, 6]), sentences([5, 2, 7, 1])
    total, count = 0.0, 0
    for source, target in zip(sources, targets, strict=True):
        labels = tokenizer(target, return_tensors="pt")["input_ids"]
        starts = torch.cat([torch.ones(1, 1, dtype=torch.long), labels[:, :-1]], dim=1)
        with torch.no_grad():
            logits = model(**tokenizer(source, return_tensors="pt"), decoder_input_ids=starts).logits
        picked = logits.log_softmax(-1).gather(-1, labels[..., None])
        total, count = total - picked.sum().item(), count + labels.numel()
    for budget in (1, 16, 10_000):
        found = perplexity(model, tokenizer, sources, targets, batch_tokens=budget)
        assert found["reference_tokens"] == count == 19
        assert found["nll"] == pytest.approx(total / count, rel=1e-5)
        assert found["perplexity"] == pytest.approx(torch.tensor(total / count).exp().item(), rel=1e-4)
    with pytest.raises(ValueError, match="4 sources but 3 targets"):
        perplexity(model, tokenizer, sources, targets[:3])


def copy(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def broken(message):
    return pytest.raises(CheckpointError, match=message)


def test_missing_folder_is_named(tmp_path, monkeypatch):
    with broken("nowhere"):
        load_model_and_tokenizer(str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with broken("no checkpoint folder 'runs/best'"):
        load_model_and_tokenizer("runs/best")
    with broken("'unheard-of'.*no such folder"):
        load_model_and_tokenizer("unheard-of")


def test_truncated_and_incomplete_folders_are_refused(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        cut = copy(folder, tmp_path / f"without-{name}")
        (cut / name).unlink()
        with broken(name):
            load_model_and_tokenizer(str(cut))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        cut = copy(folder, tmp_path / f"half-{name}")
        data = (cut / name).read_bytes()
        (cut / name).write_bytes(data[: len(data) // 2])
        with broken("damaged"):
            load_model_and_tokenizer(str(cut))
    cut = copy(folder, tmp_path / "no-tokenizer")
    for path in cut.glob("token*"):
        path.unlink()
    with broken("the tokenizer .* cannot be loaded"):
        load_model_and_tokenizer(str(cut))


def test_weights_that_lack_a_tensor_are_refused_instead_of_made_up(folder, tmp_path):
    cut = copy(folder, tmp_path / "lacking")
    tensors = load_file(cut / "model.safetensors")
    name = next(name for name in tensors if "decoder.layers.1." in name)
    save_file(
        {key: value for key, value in tensors.items() if key != name}, cut / "model.safetensors", {"format": "pt"}
    )
    with broken(f"lack 1 tensors of .*{name}"):
        load_model_and_tokenizer(str(cut))


def test_tokenizer_that_does_not_fit_is_refused(folder, tmp_path):
    large = copy(folder, tmp_path / "large")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["another", "and another"])
    tokenizer.save_pretrained(large)
    with broken("tokenizer has 42 tokens but .*embeddings for 40.*resize_token_embeddings"):
        load_model_and_tokenizer(str(large))
    other = copy(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"eos_token_id": 5}))
    with broken("eos_token_id is 2 in the tokenizer but 5"):
        load_model_and_tokenizer(str(other))


def test_a_blank_sentence_stays_empty_and_is_not_given_to_the_model():
    model = Echo()
    done = translate_corpus(model, make_tokenizer(), ["", "w1 w2", " \t", "\u00a0", "w3"], batch_tokens=3)
    assert done.texts == ["", "w1 w2", "", "", "w3"] and sum(shape[0] for shape, _ in model.calls) == 2
    assert translate(model, make_tokenizer(), ["", " "]) == ["", ""] and len(model.calls) == 2
