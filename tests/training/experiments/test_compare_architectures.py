"""The measurements of Transformer against LSTM: equal sizes, exact gradients, equal time and updates, the command."""

import json

import pytest
import torch
from matplotlib.image import imread

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training.compare_architectures import main
from vaswani_tx.training.errors import MeasurementError, MetricsError
from vaswani_tx.training.experiments import architecture_measurements as measurements
from vaswani_tx.training.experiments import architecture_runs
from vaswani_tx.training.experiments.architecture_measurements import CONTENDERS, make_contender, random_tokens
from vaswani_tx.training.experiments.architecture_runs import compare_runs, read_run, read_test, run_table

VOCABULARY = 60


@pytest.fixture(scope="module")
def contenders():
    """One model of each name, of the smallest preset, in float64 and without dropout."""
    return {name: make_contender(name, "tiny", VOCABULARY, seed=1).double().eval() for name in CONTENDERS}


# Equal sizes


def test_all_contenders_have_the_transformers_number_of_parameters(contenders):
    sizes = {name: model.num_parameters() for name, model in contenders.items()}
    assert sizes["Transformer"] == measurements.size_of("vaswani", "tiny", {"vocab_size": VOCABULARY})
    for size in sizes.values():
        assert size == pytest.approx(sizes["Transformer"], rel=0.01)
    widths = {model.config.hidden_size for name, model in contenders.items() if name != "Transformer"}
    assert len(widths) == 3 and all(width % 2 == 0 for width in widths)
    assert contenders["LSTM, input feeding"].config.input_feeding
    assert contenders["LSTM, no attention"].config.attention == "none"


def test_the_width_is_the_nearest_of_all_even_ones():
    fields = {"vocab_size": VOCABULARY, "attention": "dot"}
    sizes = {width: measurements.size_of("lstm", "tiny", fields | {"hidden_size": width}) for width in range(2, 40, 2)}
    for wanted in (sizes[2], sizes[10] + 1, sizes[20] - 5, (sizes[30] + sizes[32]) // 2 + 1):
        assert measurements.matching_width("tiny", wanted, fields) == min(
            sizes, key=lambda width: abs(sizes[width] - wanted)
        )
    with pytest.raises(MeasurementError, match="as few as 100"):
        measurements.matching_width("tiny", 100, fields)


def test_random_tokens_are_repeatable_and_no_special_ones():
    tokens = random_tokens(3, 50, VOCABULARY, seed=4)
    assert torch.equal(tokens, random_tokens(3, 50, VOCABULARY, seed=4)) and tokens.shape == (3, 50)
    assert int(tokens.min()) >= 4 and int(tokens.max()) < VOCABULARY
    assert not torch.equal(tokens, random_tokens(3, 50, VOCABULARY, seed=5))


# Speed


def test_rounds_are_interleaved_warmed_up_and_summed_up_by_their_median(contenders, monkeypatch):
    models = {name: contenders[name] for name in ("Transformer", "LSTM")}
    order, round_times = [], iter([9.0, 9.0, 4.0, 1.0, 3.0, 2.0, 40.0])

    def fake(model, batch, wait):
        rows, length = batch["input_ids"].shape
        if not order or len(order) % 4 == 0:
            fake.now = next(round_times)
        order.append((model.config.model_type, rows, length))
        assert batch["labels"].shape == (rows, length) and batch["attention_mask"].all()
        return fake.now * length

    monkeypatch.setattr(measurements, "_time_step", fake)
    result = measurements.measure_speed(models, [4, 8], 16, 5, torch.device("cpu"))
    one = [("vaswani", 4, 4), ("lstm_seq2seq", 4, 4), ("vaswani", 2, 8), ("lstm_seq2seq", 2, 8)]
    assert order == one * 7
    for place, length in enumerate((4, 8)):
        step = result["models"]["LSTM"]["steps"][place]
        # Of 4, 1, 3, 2 and 40 times the length: the two rounds of 9 were the warm-up.
        assert (step["seconds"], step["seconds_low"], step["seconds_high"]) == (3 * length, 2 * length, 4 * length)
        assert step["seconds_least"] == length
        assert step["steps_per_second"] == 1 / (3 * length)
        assert step["target_tokens_per_second"] == pytest.approx(16 / (3 * length))
    assert result["rows"] == [4, 2] and result["models"]["LSTM"]["parameters"] == models["LSTM"].num_parameters()
    with pytest.raises(MeasurementError, match="--lengths 17"):
        measurements.measure_speed(models, [17], 16, 1, torch.device("cpu"))


def test_a_timed_step_is_the_loops_forward_and_backward_pass_with_dropout():
    model = make_contender("LSTM", "tiny", VOCABULARY, seed=1).train()
    seen = {}

    def look(module, args, kwargs, output):
        output.loss.register_hook(lambda gradient: seen.update(kwargs, gradient=float(gradient)))

    model.register_forward_hook(look, with_kwargs=True)
    tokens = random_tokens(2, 3, VOCABULARY, seed=1)
    assert measurements._time_step(model, {"input_ids": tokens, "labels": tokens}, lambda: None) > 0
    assert (seen["gradient"], seen["label_smoothing"], seen["skip_logits"], model.training) == (1.0, 0.1, True, True)
    assert all(parameter.grad is None for parameter in model.parameters())


# Gradients


@pytest.mark.parametrize("name", CONTENDERS)
def test_gradients_are_those_of_each_sentence_and_token_alone(contenders, name):
    model, length = contenders[name].eval(), 5
    source, target = random_tokens(2, length, VOCABULARY, 1), random_tokens(2, length, VOCABULARY, 2)
    found = measurements.target_gradients(model, source, target, [1, 3, 5])
    states = measurements.encoder_gradients(model, source, [2, 5], seed=3)
    assert found.shape == (3, 2, length) and states.shape == (2, 2, length)
    direction = torch.randn(states_width(model), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    table = model.get_input_embeddings().weight.detach()
    for row in range(2):

        def losses(embeds, row=row):
            out = model(inputs_embeds=embeds, labels=target[row : row + 1])
            return torch.nn.functional.cross_entropy(out.logits[0], target[row], reduction="none")

        def projected(embeds):
            return model.get_encoder()(inputs_embeds=embeds).last_hidden_state[0] @ direction / direction.norm()

        embeds = table[source[row : row + 1]]
        for own, function, where in ((found, losses, [0, 2, 4]), (states, projected, [1, 4])):
            jacobian = torch.autograd.functional.jacobian(function, embeds)[:, 0]  # [T, S, E]
            torch.testing.assert_close(own[:, row], jacobian.norm(dim=-1)[where])


def states_width(model):
    return getattr(model.config, "hidden_size", model.config.d_model)


def test_what_the_measurement_is_for_shows_at_once():
    makers = {name: lambda seed, name=name: make_contender(name, "tiny", VOCABULARY, seed) for name in CONTENDERS}
    result = measurements.measure_gradients(makers, length=64, rows=2, seeds=1)
    assert result["distances"][0] == 1 and result["distances"][-1] == 64
    left = {(kind, name): model[kind]["norm"][-1] / model[kind]["norm"][1] for name, model in result["models"].items()
            for kind in ("encoder", "target")}  # fmt: skip
    # Recurrence forgets; attention, in either model, leads straight to the first token.
    assert left["encoder", "LSTM"] < 0.2 < left["encoder", "Transformer"]
    assert left["target", "LSTM, no attention"] < 1e-3 < left["target", "LSTM"] < left["target", "Transformer"]
    for model in result["models"].values():
        for kind in ("encoder", "target"):
            assert all(
                low <= mid <= high
                for low, mid, high in zip(*(model[kind][k] for k in ("low", "norm", "high")), strict=True)
            )
    assert [row[0] for row in measurements.gradient_table(result)][1] == "encoder: Transformer"


@pytest.mark.parametrize("length, wanted", [(1, [1]), (4, [1, 2, 3, 4])])
def test_distances_of_short_sentences_are_all_of_them(length, wanted):
    assert measurements.distances(length) == wanted
    assert measurements.distances(1000)[-1] == 1000 and len(measurements.distances(1000)) == 12


# Runs


def record(step, tokens, speed, **changes):
    return {"event": "train", "step": step, "loss": 1.0, "target_tokens": tokens, "tokens_per_second": speed} | changes


def write_run(folder, records):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return folder


def course(speed, scores, every=100):
    """A run of 600 tokens an update, validated every so many updates."""
    records = []
    for number, (bleu, loss) in enumerate(scores, start=1):
        step = number * every
        records.append(record(step, 600 * step, speed, seconds=1e6))
        records.append({"event": "validation", "step": step, "loss": loss, "bleu": bleu, "validation_seconds": 1e6})
    return records


def test_time_is_that_of_training_alone_and_a_resume_is_bridged():
    steps, minutes = architecture_runs.training_clock(
        [record(10, 600, 10.0), record(20, 1200, 0.0), record(30, 2400, 20.0)]
    )
    assert steps == [0, 10, 20, 30] and minutes == pytest.approx([0, 1, 2, 3])
    assert architecture_runs.training_clock([record(10, 600, 0.0)])[1] == [0, 0]


def test_runs_are_compared_at_equal_time_and_at_equal_updates(tmp_path):
    # 600 tokens an update: 100 updates take 10 minutes at 100 tokens a second, 5 at 200.
    slow = course(100.0, [(10.0, 3.0), (20.0, 2.0), (30.0, 1.5)])
    fast = course(200.0, [(8.0, 3.5), (None, 2.8), (24.0, 2.2), (25.0, 2.1)])
    slow.append({"event": "averaged", "step": 300, "bleu": 33.0, "loss": 1.4})
    runs = {name: read_run(write_run(tmp_path / name, records)) for name, records in (("slow", slow), ("fast", fast))}
    assert runs["slow"]["curve"]["minutes"] == pytest.approx([10, 20, 30])
    assert runs["fast"]["curve"]["minutes"] == pytest.approx([5, 10, 15, 20])
    result = compare_runs(runs, {"slow": {"bleu": 31.0}})
    assert (result["equal_updates"], result["equal_minutes"], result["common_bleu"]) == (300, pytest.approx(20), 25.0)
    at = {name: (run["at_equal_updates"]["bleu"], run["at_equal_time"]["bleu"]) for name, run in result["runs"].items()}
    assert at == {"slow": (30.0, 20.0), "fast": (24.0, 25.0)}
    assert result["runs"]["slow"]["minutes_to_common_bleu"] == pytest.approx(30)
    assert result["runs"]["fast"]["minutes_to_common_bleu"] == pytest.approx(20)
    assert result["runs"]["fast"]["curve"]["bleu"] == [8.0, None, 24.0, 25.0]
    assert result["runs"]["slow"]["updates_per_second"] == pytest.approx(300 / 1800)
    json.dumps(result, allow_nan=False)
    table = {row[0]: row[1:] for row in run_table(result)}
    assert table["bleu after 300 updates"] == ["30.00", "24.00"] and table["loss after 20.0 minutes"] == [
        "2.0000",
        "2.1000",
    ]
    assert table["averaged, final beam: BLEU"] == ["33.00", "-"] and table["test set: BLEU"] == ["31.00", "-"]
    assert table["parameters"] == ["-", "-"]


def test_a_run_without_translations_or_before_its_first_validation():
    def run(updates, minutes, bleu, loss):
        curve = {"updates": [updates], "minutes": [minutes], "bleu": [bleu], "loss": [loss]}
        totals = {"parameters": None, "updates": updates, "minutes": minutes, "target_tokens": 0, "final": {}}
        return totals | {"curve": curve}

    result = compare_runs({"late": run(500, 50.0, None, 1.0), "early": run(10, 1.0, 3.0, 2.0)})
    assert result["runs"]["late"]["at_equal_time"] is None and result["runs"]["late"]["minutes_to_common_bleu"] is None
    assert "-" in {row[0]: row for row in run_table(result)}["bleu after 10 updates"]


def test_folders_and_files_that_cannot_be_compared_are_refused(tmp_path):
    with pytest.raises(MeasurementError, match="no record of training with validations"):
        read_run(write_run(tmp_path / "a", [record(1, 2, 3.0)]))
    with pytest.raises(MetricsError, match="cannot be read"):
        read_run(tmp_path / "b")
    (tmp_path / "scores.json").write_text('{"bleu": 1.0}', encoding="utf-8")
    with pytest.raises(MeasurementError, match="vaswani-tx evaluate --json"):
        read_test(tmp_path / "scores.json")
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_test(tmp_path / "none.json")


# The command


def small(output, *words):
    sizes = "--vocab-size 60 --lengths 2 4 --batch-tokens 8 --rounds 1 --gradient-length 4 --gradient-rows 2 --seeds 1"
    return ["--output", str(output), "--quiet", *sizes.split(), *words]


@pytest.mark.fresh
def test_the_command_draws_prints_and_keeps_other_parts(tmp_path, capsys, reversal):
    output, words = tmp_path / "out", []
    for name, speed in (("old", 100.0), ("new", 200.0)):
        words += ["--run", f"{name}={write_run(tmp_path / name, course(speed, [(1.0, 3.0), (2.0, 2.0)]))}"]
    assert main(small(output, *words)) == 0
    printed = capsys.readouterr().out
    assert "Training steps a second" in printed and "target: LSTM" in printed and "minutes to BLEU 2.00" in printed
    for name in ("speed", "gradients", "runs"):
        assert imread(output / f"{name}.png").std() > 0.01
    first = json.loads((output / "results.json").read_text())
    assert first["speed"]["threads"] >= 1 and first["speed"]["lengths"] == [2, 4]
    folder = tmp_path / "trained"
    tokenizer = VaswaniTokenizer.from_pretrained(reversal / "tokenizer")
    tokenizer.save_pretrained(folder)
    make_contender("LSTM", "tiny", len(tokenizer), seed=1).save_pretrained(folder)
    more = ["--parts", "gradients", "--models", "Transformer", "--checkpoint", f"trained={folder}"]
    more += ["--text", str(reversal / "a.src"), str(reversal / "a.tgt")]
    assert main(small(output, *more)) == 0
    second = json.loads((output / "results.json").read_text())
    assert second["speed"] == first["speed"] and second["runs"] == first["runs"]
    assert list(second["gradients"]["models"]) == ["Transformer", "trained"]
    assert second["gradients"]["tokens_of_trained_models"] == "text"
    assert "Training steps" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--parts", "runs"], "at least one --run"),
        (["--run", "nameless"], "write NAME=PLACE"),
        (["--run", "a=x", "--run", "a=y"], "given twice"),
        (["--test", "a=x.json"], "there is no --run of that name"),
        (["--text", "a", "b"], "--text is for trained models"),
        (["--checkpoint", "LSTM=x"], "choose another"),
        (["--checkpoint", "mine=nowhere"], "no checkpoint folder"),
        (["--run", "a=nowhere"], "cannot be read"),
    ],
)
def test_flags_that_cannot_be_used_end_with_status_2_before_anything_is_measured(tmp_path, capsys, words, message):
    assert main(small(tmp_path / "out", *words)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_text_that_is_too_short_or_a_foreign_results_file_is_named(tmp_path, capsys, reversal):
    folder = tmp_path / "trained"
    make_contender("LSTM", "tiny", VOCABULARY, seed=1).save_pretrained(folder)
    words = ["--parts", "gradients", "--models", "LSTM", "--checkpoint", f"mine={folder}", "--text"]
    words += [str(reversal / "v.src")] * 2
    assert main(small(tmp_path, *words)) == 2
    assert "has no tokenizer.json" in capsys.readouterr().err
    VaswaniTokenizer.from_pretrained(reversal / "tokenizer").save_pretrained(folder)
    assert main(small(tmp_path, *words)) == 2
    assert "tokens but 8 are needed" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("[]", encoding="utf-8")
    assert main(small(tmp_path, "--parts", "speed")) == 2
    assert "choose another --output" in capsys.readouterr().err
