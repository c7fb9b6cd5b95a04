"""R-Drop, SimCut and distillation: the published formulas, equal updates however divided, exact resumption, errors."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from tests.helpers.training_runs import SMALL, make_loop, records, run
from tests.helpers.two_vocabularies import separate_tokenizers, with_other_ids
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.errors import SettingsError, TrainingError
from vaswani_tx.training.tasks import objectives
from vaswani_tx.training.tasks.objectives import Objective

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

RDROP, SIMCUT = {"rdrop_weight": 5.0}, {"simcut_weight": 3.0, "simcut_cutoff": 0.3}
TEACHER = {"distillation_weight": 0.7, "distillation_temperature": 2.0}
KINDS = {"rdrop": RDROP, "simcut": SIMCUT, "teacher": TEACHER, "rdrop_and_teacher": RDROP | TEACHER}


@pytest.fixture(scope="module")
def teacher(reversal, tmp_path_factory):
    """A folder with a larger model of the same vocabulary, and its tokenizer."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    tokenizer = VaswaniTokenizer.from_pretrained(reversal / "tokenizer")
    torch.manual_seed(3)
    sizes = SMALL | {"d_model": 24, "encoder_layers": 2}
    model = VaswaniForConditionalGeneration(VaswaniConfig(vocab_size=len(tokenizer), dropout=0.3, **sizes))
    with torch.no_grad():
        model.model.shared.weight.mul_(3)  # sure of itself, unlike the student
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings_of(kind, teacher):
    values = dict(KINDS[kind])
    return values | ({"teacher": str(teacher)} if "teacher" in kind else {})


# Formulas


def random_model(separate, dropout=0.3, **changes):
    torch.manual_seed(1)
    sizes = SMALL | changes | {"vocab_size": 30, "dropout": dropout, "source_vocab_size": 20 if separate else None}
    model = VaswaniForConditionalGeneration(VaswaniConfig(**sizes)).double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch():
    torch.manual_seed(2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    labels = torch.randint(4, 30, (3, 6))
    labels[0, 4:] = labels[2, 1:] = -100
    return {"input_ids": torch.randint(4, 20, (3, 5)) * mask, "attention_mask": mask, "labels": labels}


def kl(p, q, temperature=1.0):
    p, q = (each.div(temperature).softmax(-1) for each in (p, q))
    return (p * (p.log() - q.log())).sum()


def published(model, inputs, kind, known, items):
    """The loss of the papers, from the logits of both passes, and the cross entropy alone."""
    ids, mask, labels = inputs.values()
    start = model.prepare_decoder_input_ids_from_labels(labels)
    if kind == "simcut":
        sides = []
        for stack, tokens, kept in ((model.model.encoder, ids, mask.sum(1) - 1), (model.model.decoder, start, 0)):
            keep = torch.rand(tokens.shape) >= 0.3
            keep[torch.arange(3), kept] = True
            rows = stack.embed_tokens.weight[tokens]
            sides.append(torch.cat((rows, torch.where(keep[..., None], rows, 0.0))))
        twice = {"inputs_embeds": sides[0], "decoder_inputs_embeds": sides[1]}
    else:
        copies = 2 if kind.startswith("rdrop") else 1
        twice = {"input_ids": ids.repeat(copies, 1), "decoder_input_ids": start.repeat(copies, 1)}
    rows = len(twice.get("input_ids", twice.get("inputs_embeds")))
    logits = model(**twice, attention_mask=mask.repeat(rows // 3, 1)).logits.unflatten(0, (-1, 3))
    logits = logits[:, labels != -100]
    count = 2 if kind.startswith("rdrop") else 1
    entropies = [
        functional.cross_entropy(each, labels[labels != -100], label_smoothing=0.1, reduction="sum")
        for each in logits[:count]
    ]
    total, entropy = sum(entropies), sum(entropies) / count
    if known is not None:
        total = 0.3 * total + 0.7 * 4 * sum(kl(known, each, 2.0) for each in logits[:count])
    if kind == "simcut":
        total = total + 3 * kl(logits[0], logits[1])
    elif count == 2:
        total = total + 5 * (kl(logits[0], logits[1]) + kl(logits[1], logits[0])) / 2
    return total / items, entropy / items


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["shared", "separate", "checkpointing", "pre_norm_bias"])
def test_loss_and_gradients_are_the_published_ones(kind, variant):
    fields = {"norm_order": "pre", "final_layer_norm": True, "lm_head_bias": True} if variant.startswith("pre") else {}
    model = random_model(variant == "separate", **fields)
    if variant == "checkpointing":
        # transformers 5.23 has renamed it.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    inputs, known, teacher = batch(), None, None
    if "teacher" in kind:
        teacher = random_model(variant == "separate", d_model=24).eval()
        known = teacher(**inputs).logits[inputs["labels"] != -100].detach()
    values = {"tokenizer_vocab_size": 30, "train_source": "a", **KINDS[kind]}
    objective = Objective(TranslationSettings(**values), teacher)
    objective.attach(model)
    torch.manual_seed(5)
    expected, entropy = published(model, inputs, kind, known, items=7.0)
    torch.manual_seed(5)
    options = {"label_smoothing": 0.1, "skip_logits": True, "use_cache": False}
    output = model(**inputs, num_items_in_batch=7.0, objective=objective, **options)
    torch.testing.assert_close(output.loss, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(output.parts[0], entropy, atol=1e-12, rtol=1e-12)
    assert objective.terms == {"rdrop_and_teacher": ("rdrop", "distillation"), "teacher": ("distillation",)}.get(
        kind, (kind,)
    )
    assert len(output.parts) == 1 + len(objective.terms)
    assert (output.parts > 0.01).all()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = (torch.autograd.grad(each, parameters) for each in (output.loss, expected))
    for name, found, wanted in zip(names, *gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=1e-9, msg=name)
    if teacher is not None:
        assert not any(each.grad is not None for each in teacher.parameters())


def test_a_call_without_the_objective_is_the_model_s_own():
    model, inputs = random_model(False, dropout=0.0), batch()
    before = model(**inputs, label_smoothing=0.1)
    Objective(TranslationSettings(tokenizer_vocab_size=30, train_source="a", **SIMCUT), None).attach(model)
    after = model(**inputs, label_smoothing=0.1)
    assert torch.equal(before.loss, after.loss)
    assert torch.equal(before.logits, after.logits)


def test_the_ends_that_are_never_cut_and_how_often_others_are(monkeypatch):
    model, inputs = random_model(False), batch()
    objective = Objective(TranslationSettings(tokenizer_vocab_size=30, train_source="a", **SIMCUT), None)
    start = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    monkeypatch.setattr(objectives, "chosen_to_cut", lambda tokens, probability: torch.ones_like(tokens).bool())
    cut = objective._cut_inputs(model, inputs["input_ids"], inputs["attention_mask"], start)
    assert cut["inputs_embeds"][3:].abs().sum(-1).nonzero().tolist() == [[0, 4], [1, 2], [2, 1]]
    assert cut["decoder_inputs_embeds"][3:].abs().sum(-1).nonzero().tolist() == [[0, 0], [1, 0], [2, 0]]
    monkeypatch.undo()
    torch.manual_seed(0)
    assert objectives.chosen_to_cut(torch.zeros(100, 100), 0.3).double().mean().item() == pytest.approx(0.3, abs=0.02)


# Updates


def deterministic(monkeypatch):
    """Make the second pass differ from the first by the tokens alone, not by chance."""
    monkeypatch.setattr(objectives, "chosen_to_cut", lambda tokens, probability: tokens % 3 == 0)
    plain = Objective._states

    def states(self, *args):
        found = plain(self, *args)
        return torch.cat((found[:1], 1.5 * found[1:])) if self.cutoff is None else found

    monkeypatch.setattr(Objective, "_states", states)


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_and_four_of_different_sizes_make_the_same_update(kind, reversal, teacher, tmp_path, monkeypatch):
    deterministic(monkeypatch)
    whole = list(range(40))
    parts = [whole[:3], whole[3:20], whole[20:21], whole[21:]]
    changes = settings_of(kind, teacher) | {"adam_epsilon": 1e-4}
    one = make_loop(reversal, tmp_path / "one", [whole], **changes)
    start = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    one.run()
    four = make_loop(reversal, tmp_path / "four", parts, accumulation_steps=4, **changes)
    four.run()
    for name, tensor in one.model.state_dict().items():
        assert not torch.equal(tensor, start[name]), name
        torch.testing.assert_close(four.model.state_dict()[name], tensor, rtol=0, atol=1e-6, msg=name)
    first, second = (records(tmp_path / name, "train") for name in ("one", "four"))
    for name in ("loss", *one.task.terms):
        assert [each[name] for each in first] == pytest.approx([each[name] for each in second], abs=2e-6)
        assert all(each[name] > 1e-4 for each in first)


def test_the_logged_loss_is_the_cross_entropy_and_the_term_has_its_name(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(10)], max_steps=1, **SIMCUT)
    inputs = loop.task.collate(np.arange(10))
    with torch.no_grad():
        expected = loop.model(**inputs, label_smoothing=0.1).loss.item()
    loop.run()
    (record,) = records(tmp_path, "train")
    assert record["loss"] == pytest.approx(expected, rel=1e-6)
    assert record["simcut"] > 0
    assert list(record).index("simcut") == list(record).index("loss") + 1


def test_a_term_that_is_not_finite_stops_the_run(reversal, tmp_path, monkeypatch):
    loop = make_loop(reversal, tmp_path, [range(5)], **SIMCUT)
    compute = Objective.compute

    def spoiled(self, *args, **kwargs):
        output = compute(self, *args, **kwargs)
        output.parts[1] = float("nan")
        return output

    monkeypatch.setattr(Objective, "compute", spoiled)
    with pytest.raises(TrainingError, match="became nan at step 1"):
        loop.run()


# The command


@pytest.mark.fresh
@pytest.mark.parametrize("kind", ["rdrop", "simcut", "teacher"])
def test_resume_is_exact(kind, reversal, teacher, tmp_path):
    options = settings_of(kind, teacher) | {"max_steps": 5, "log_every": 2, "save_every": 5, "average_last": 0}
    options |= {"accumulation_steps": 2, "model.dropout": 0.3}
    whole = run(reversal, tmp_path / "whole", **options)
    pieces = tmp_path / "pieces"
    for limit in (3, 5):
        run(reversal, pieces, **(options | {"max_steps": limit}))
    last = "checkpoints/step-00000005/"
    for name in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/rng.json"):
        assert (whole / last / name).read_bytes() == (pieces / last / name).read_bytes(), name
    assert records(whole) == records(pieces)
    plain = run(reversal, tmp_path / "plain", max_steps=1, average_last=0)
    saved = load_file(plain / "checkpoints/step-00000001/model.safetensors")
    assert load_file(whole / last / "model.safetensors").keys() == saved.keys()


@pytest.mark.fresh
def test_bfloat16_checkpointing_and_clipping_train(reversal, teacher, tmp_path):
    options = {"precision": "bf16", "gradient_checkpointing": "true", "max_grad_norm": 1.0, "max_steps": 30}
    output = run(reversal, tmp_path, log_every=10, **options, **RDROP, **TEACHER, teacher=teacher)
    found = records(output, "train")
    assert found[-1]["loss"] < found[0]["loss"] - 0.3
    assert all(np.isfinite([each["rdrop"], each["distillation"]]).all() for each in found)


def test_a_teacher_may_move_but_not_change(reversal, teacher, tmp_path, capsys):
    options = {"max_steps": 1, "average_last": 0, "distillation_weight": 0.7}
    first = tmp_path / "first"
    first.symlink_to(teacher)
    output = run(reversal, tmp_path / "run", **options, teacher=first)
    first.unlink()
    run(reversal, output, expect=2, **(options | {"max_steps": 2}), teacher=first)
    assert f"teacher: There is no checkpoint folder '{first}'" in capsys.readouterr().err
    other = run(reversal, tmp_path / "other", max_steps=1, average_last=0) / "checkpoints/step-00000001"
    run(reversal, output, expect=2, **(options | {"max_steps": 2}), teacher=other)
    assert "teacher: '" in (error := capsys.readouterr().err)
    assert "was trained with another one" in error
    run(reversal, output, **(options | {"max_steps": 2}), teacher=teacher)


WRONG = {
    "rdrop_weight must be at least 0, got -1": {"rdrop_weight": -1},
    "simcut_weight must be at least 0, got -0.5": {"simcut_weight": -0.5},
    "simcut_cutoff must be at least 0 and below 1, got 1.0": {"simcut_weight": 1, "simcut_cutoff": 1},
    "simcut_cutoff must be at least 0 and below 1, got -0.1": {"simcut_cutoff": -0.1},
    "rdrop_weight and simcut_weight are both set": {"rdrop_weight": 1, "simcut_weight": 1},
    "distillation_temperature must be greater than 0, got 0": {"distillation_temperature": 0},
    "distillation_weight must be at most 1, got 1.5": {"distillation_weight": 1.5},
    "teacher is set, but distillation_weight is 0": {"teacher": "x", "distillation_weight": 0},
    "compile: true does not know the loss of simcut_weight": {"simcut_weight": 1, "compile": "true"},
    "teacher: There is no checkpoint folder 'nowhere'": {"teacher": "nowhere"},
    "model.vocab_size to": {"model.vocab_size": 300},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_work_is_one_line_before_anything_is_written(message, reversal, teacher, tmp_path, capsys):
    changes = WRONG[message]
    if "model.vocab_size" in changes:
        changes = changes | {"teacher": teacher}
    run(reversal, tmp_path / "run", expect=2, **changes)
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["rdrop_weight", "simcut_weight", "teacher"])
def test_an_lstm_is_trained_without(name):
    with pytest.raises(SettingsError, match=f"{name} does nothing for architecture: lstm"):
        TranslationSettings(architecture="lstm", preset="tiny", **{name: "x" if name == "teacher" else 1.0})


def test_a_teacher_of_another_vocabulary_is_told_by_what_differs():
    ours, german = separate_tokenizers()
    check = objectives.check_tokens
    with pytest.raises(SettingsError, match=r"'x' has 3\d\d tokens, that of this run 3\d\d: take the teacher's"):
        check(german, ours, "x")
    with pytest.raises(SettingsError, match="the vocabulary of 'x' has '<s>' as token 0, that of this run '<unk>'"):
        check(with_other_ids(ours, "<unk>", "<s>"), ours, "x")
    pair = VaswaniTokenizer.pair(ours, german)
    with pytest.raises(SettingsError, match="'x' has two vocabularies, this run one vocabulary"):
        check(pair, ours, "x")
    with pytest.raises(SettingsError, match="the target's vocabulary of 'x' has"):
        check(VaswaniTokenizer.pair(ours, ours), pair, "x")
    check(pair, VaswaniTokenizer.pair(*separate_tokenizers()), "x")


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"teacher: there is no tokenizer.json in", lambda folder: (folder / "tokenizer.json").unlink()),
        (r"teacher: .*model.safetensors' is damaged", lambda folder: cut_short(folder / "model.safetensors")),
        (r"teacher: '.*' holds a model of type 'bert'", lambda folder: retype(folder / "config.json")),
    ],
)
def test_a_folder_that_is_no_teacher_is_named(message, change, reversal, teacher, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in teacher.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    settings = TranslationSettings(tokenizer_vocab_size=30, train_source="a", teacher=str(folder))
    with pytest.raises(SettingsError, match=message):
        objectives.load_teacher(settings, VaswaniTokenizer.from_pretrained(reversal / "tokenizer"))


def test_a_teacher_is_in_evaluation_mode_without_gradients(reversal, teacher):
    settings = TranslationSettings(tokenizer_vocab_size=30, train_source="a", teacher=str(teacher))
    model = objectives.load_teacher(settings, VaswaniTokenizer.from_pretrained(reversal / "tokenizer"))
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def cut_short(path):
    path.write_bytes(path.read_bytes()[:500])


def retype(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "bert"}))
