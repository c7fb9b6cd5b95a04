"""Trackers: names that survive a stop, flat configurations, resumed curves, and the message on a missing one."""

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType

from tests.helpers.training_runs import records, run
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.engine.trackers import (
    check_tracker,
    flat_config,
    start_tracker,
    tracker_identity,
    tracker_options,
)
from vaswani_tx.training.errors import TrackerError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class Service(ModuleType):
    """A fake of wandb or trackio: the part of their interface that Accelerate uses."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.started, self.logged, self.settings, self.ended = [], [], {}, 0
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.settings.update(values))

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, values, step=None):
        self.logged.append((step, values))

    def finish(self):
        self.ended += 1


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    """An installed service without a network."""
    module = Service(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    # Accelerate looks for the packages once, when it is imported.
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType(request.param)])
    monkeypatch.delenv(f"{request.param.upper()}_PROJECT", raising=False)
    return module


# Whole runs


def test_a_resumed_run_continues_its_curve_of_a_service(service, reversal, tmp_path):
    options = {"tracker": service.__name__, "validation_source": "v.src", "validation_target": "v.tgt"}
    output = run(reversal, tmp_path / "my run", max_steps=4, save_every=4, final_beam=1, **options)
    run(reversal, output, max_steps=6, save_every=4, final_beam=1, **options)
    first, second = service.started
    assert first == second and first["project"] == "vaswani_tx" and first["resume"] == "allow"
    kept = json.loads((output / "tracker.json").read_text())[service.__name__]
    if service.__name__ == "wandb":
        assert (first["id"], first["name"], first["dir"]) == (kept["id"], "my run", str(output))
    else:
        assert first["name"] == f"my-run-{kept['id']}"
    logged = {(step, name): value for step, values in service.logged for name, value in values.items()}
    for record in records(output):
        assert logged[record["step"], f"{record['event']}/loss"] == record["loss"]
    assert service.settings["model.d_model"] == 16 and service.settings["max_steps"] == 6
    assert service.ended == 2


def test_an_overwritten_run_gets_a_curve_of_its_own(service, reversal, tmp_path):
    output = run(reversal, tmp_path / "run", max_steps=2, tracker=service.__name__)
    run(reversal, output, max_steps=2, tracker=service.__name__, overwrite=True)
    key = "id" if service.__name__ == "wandb" else "name"
    assert service.started[0][key] != service.started[1][key]


def test_tensorboard_forgets_what_a_resumed_run_repeats(reversal, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"tracker": "tensorboard", "log_every": 1, "save_every": 2, "keep_last": 9}
    output = run(reversal, tmp_path / "run", max_steps=4, **options)
    run(reversal, output, max_steps=5, **options, resume=output / "checkpoints" / "step-00000002")
    curves = EventAccumulator(str(output / "tensorboard"))
    curves.Reload()
    points = [(event.step, event.value) for event in curves.Scalars("train/loss")]
    assert [step for step, _ in points] == [1, 2, 3, 4, 5]
    assert [value for _, value in points] == pytest.approx([r["loss"] for r in records(output, "train")])


def test_a_service_that_is_not_installed_stops_before_a_folder_is_made(reversal, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run(reversal, tmp_path / "run", expect=2, tracker="wandb")
    assert "`pip install wandb`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_the_run_continues_with_metrics_only(reversal, tmp_path, monkeypatch):
    monkeypatch.setattr("vaswani_tx.training.engine.run.find_spec", lambda name: None)
    output = run(reversal, tmp_path / "run", max_steps=2, tracker="tensorboard")
    assert len(records(output, "train")) == 1 and not (output / "tensorboard").exists()


# Pieces


def test_known_trackers_need_no_check_or_their_package(monkeypatch):
    check_tracker("none")
    check_tracker("tensorboard")
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(TrackerError, match=f"{name} is not installed.*pip install {name}"):
            check_tracker(name)
        monkeypatch.setitem(sys.modules, name, Service(name))
        check_tracker(name)


def test_a_service_that_refuses_is_reported_with_a_fix(tmp_path):
    def refuse(*_, **__):
        raise RuntimeError("no API key")

    arguments = TranslationSettings(output_dir=str(tmp_path), tracker="wandb")
    with pytest.raises(TrackerError, match=r"wandb did not start \(no API key\).*WANDB_MODE=offline"):
        start_tracker(SimpleNamespace(init_trackers=refuse), arguments, None)


def test_identities_are_kept_for_each_service_and_only_while_the_run_continues(tmp_path):
    path = tmp_path / "tracker.json"
    first = tracker_identity(path, "wandb", "run", resumed=False)
    other = tracker_identity(path, "trackio", "run", resumed=True)
    assert tracker_identity(path, "wandb", "run", resumed=True) == first
    assert tracker_identity(path, "trackio", "run", resumed=True) == other
    assert tracker_identity(path, "wandb", "run", resumed=False)["id"] != first["id"]


def test_the_surroundings_may_name_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "translation")
    assert tracker_identity(tmp_path / "tracker.json", "wandb", "run", resumed=False)["project"] == "translation"


@pytest.mark.parametrize("name", ["a b/c<d>", "../..", "ü", ""])
def test_a_name_for_trackio_is_fit_for_files(tmp_path, name):
    made = tracker_identity(tmp_path / "tracker.json", "trackio", name, resumed=False)["name"]
    assert all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in made) and len(made) > 8
    assert tracker_options("trackio", {"name": made, "id": "x"}, tmp_path) == {"name": made, "resume": "allow"}


@pytest.mark.parametrize("text", ["{", "[]", '{"wandb": {"id": "a"}}', '{"wandb": 3}'])
def test_a_damaged_identity_is_named(tmp_path, text):
    (tmp_path / "tracker.json").write_text(text)
    with pytest.raises(TrackerError, match=r"tracker\.json' is damaged .* delete it"):
        tracker_identity(tmp_path / "tracker.json", "wandb", "run", resumed=True)


def test_nested_values_become_single_ones():
    values = {"seed": 1, "model": {"dropout": 0.1, "deep": {"a": None}}, "corpora": [{"weight": 2}, {"weight": 3}]}
    assert flat_config(values | {"flags": (True, "x"), "odd": {1}}) == {
        "seed": 1, "model.dropout": 0.1, "model.deep.a": None, "corpora.0.weight": 2, "corpora.1.weight": 3,
        "flags.0": True, "flags.1": "x", "odd": "{1}",
    }  # fmt: skip
