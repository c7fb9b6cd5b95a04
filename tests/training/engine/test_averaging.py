"""Averages of weights: the mean of checkpoints, in float32, as a folder that loads; and the moving average."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.training_runs import make_loop
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.training import average_checkpoints as command
from vaswani_tx.training.engine.averaging import average_checkpoints, save_average
from vaswani_tx.training.engine.task import Validation
from vaswani_tx.training.errors import CheckpointError

SMALL = {"vocab_size": 40, "d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}


def save_models(folder, count, **fields):
    models = []
    for number in range(count):
        torch.manual_seed(number)
        models.append(VaswaniForConditionalGeneration(VaswaniConfig(**(SMALL | fields))))
        models[-1].save_pretrained(folder / f"step-{number + 1:08d}")
    return models, [folder / f"step-{number + 1:08d}" for number in range(count)]


def test_the_average_is_the_mean_and_loads(tmp_path):
    models, folders = save_models(tmp_path, 3)
    (folders[-1] / "training_state").mkdir()
    save_average(folders, tmp_path / "averaged")
    loaded = VaswaniForConditionalGeneration.from_pretrained(tmp_path / "averaged")
    for name, tensor in loaded.state_dict().items():
        mean = torch.stack([model.state_dict()[name] for model in models]).double().mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=1e-7)
    assert not (tmp_path / "averaged" / "training_state").exists()


def test_half_precision_is_summed_in_float32(tmp_path):
    values = [torch.full((2,), value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0, 1.0)]
    for number, value in enumerate(values):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.json").write_text("{}")
        save_file({"weight": value}, tmp_path / str(number) / "model.safetensors")
    average = average_checkpoints(tmp_path / str(number) for number in range(4))["weight"]
    # In bfloat16 256 + 1 is 256 again, and the mean would be 64.
    assert average.dtype == torch.bfloat16
    assert average.tolist() == [torch.tensor(259 / 4, dtype=torch.bfloat16).item()] * 2


def test_different_models_are_not_averaged(tmp_path):
    _, first = save_models(tmp_path / "a", 1)
    _, second = save_models(tmp_path / "b", 1, d_ff=48)
    with pytest.raises(CheckpointError, match=r"not checkpoints of one model.*\[48\]"):
        save_average(first + second, tmp_path / "averaged")
    assert not (tmp_path / "averaged").exists()
    with pytest.raises(CheckpointError, match="nothing to average"):
        average_checkpoints([])


def test_a_truncated_checkpoint_is_named(tmp_path):
    _, folders = save_models(tmp_path, 2)
    weights = folders[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"step-00000002.model\.safetensors' is damaged.*step-00000001"):
        average_checkpoints(folders)


def test_the_command_takes_a_run_folder_or_chosen_ones(tmp_path, capsys):
    _, folders = save_models(tmp_path / "run" / "checkpoints", 3)
    output = str(tmp_path / "averaged")
    assert command.main([str(tmp_path / "run"), "--last", "2", "--output", output]) == 0
    assert "step-00000002, step-00000003" in capsys.readouterr().out
    last_two = load_file(tmp_path / "averaged" / "model.safetensors")
    for name, tensor in average_checkpoints(folders[1:]).items():
        assert torch.equal(last_two[name], tensor)
    assert command.main([str(folders[0]), str(folders[2]), "--output", output]) == 2
    assert "exists already" in capsys.readouterr().err
    assert command.main([str(folders[0]), str(folders[2]), "--output", output, "--overwrite"]) == 0
    assert command.main([str(tmp_path / "run"), "--last", "4", "--output", output, "--overwrite"]) == 2
    assert "3 checkpoints" in capsys.readouterr().err


# The moving average


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_moving_average_is_that_of_its_definition(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(20)], max_steps=6, save_every=1, keep_last=9, ema_decay=0.4)
    average = {name: parameter.detach().double() for name, parameter in loop.model.named_parameters()}
    loop.run()
    # The warm-up gives 2/11, 3/12, 4/13, 5/14, and from update 5 on, where it would be 6/15, the decay holds.
    for step, decay in enumerate((2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4), start=1):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        weights, kept = load_file(folder / "model.safetensors"), load_file(folder / "training_state/ema.safetensors")
        assert kept.keys() == average.keys()
        for name, tensor in kept.items():
            average[name] = decay * average[name] + (1 - decay) * weights[name].double()
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor.double(), average[name], rtol=0, atol=1e-7)


@pytest.mark.usefixtures("fresh_accelerate")
def test_averaged_weights_are_validated_and_kept_as_best_and_training_does_not_notice(reversal, tmp_path):
    seen = []

    def validate(model, final, distributed):
        seen.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        return Validation({"loss": 1.0 / len(seen), "perplexity": 1.0})

    plain = make_loop(reversal, tmp_path / "plain", [range(20)], max_steps=4, dropout=0.1)
    plain.run()
    loop = make_loop(reversal, tmp_path / "run", [range(20)], max_steps=4, dropout=0.1, eval_every=2, ema_decay=0.9)
    loop.task.validation, loop.task.validate = ([], []), validate
    loop.run()
    average = load_file(tmp_path / "run" / "checkpoints" / "step-00000004" / "training_state" / "ema.safetensors")
    best = load_file(tmp_path / "run" / "best" / "model.safetensors")
    for name, parameter in loop.model.named_parameters():
        assert torch.equal(parameter, plain.model.get_parameter(name)), name
        assert not torch.equal(parameter, average[name]), name
        assert torch.equal(seen[-1][name], average[name]), name
        assert torch.equal(best[name], average[name]), name
    assert len(seen) == 2


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_models_own_weights_come_back_after_a_failed_validation(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(20)], ema_decay=0.9)
    loop.run()
    before = {name: parameter.detach().clone() for name, parameter in loop.model.named_parameters()}
    with pytest.raises(ZeroDivisionError), loop.average.in_place():
        raise ZeroDivisionError
    for name, parameter in loop.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_checkpoint_without_an_average_or_with_another_models_is_refused(reversal, tmp_path):
    make_loop(reversal, tmp_path, [range(20)], max_steps=1).run()
    point = tmp_path / "checkpoints" / "step-00000001"
    loop = make_loop(reversal, tmp_path, [range(20)], ema_decay=0.9)
    with pytest.raises(CheckpointError, match="written without ema_decay"):
        loop.checkpoints.load(point)
    with pytest.raises(CheckpointError, match="another model"):
        loop.average.load({"weight": torch.ones(2)})
