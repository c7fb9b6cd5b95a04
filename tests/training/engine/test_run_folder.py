"""The run folder: what is kept, what goes, and the list of what its parts were made with."""

import json

import pytest

from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import RunError


def arguments(folder, **changes):
    values = {"output_dir": str(folder), "train_source": "a", "tokenizer_vocab_size": 300, "max_steps": 3}
    return TranslationSettings(**(values | changes))


def checkpoint(folder, step):
    path = folder / "checkpoints" / f"step-{step:08d}"
    path.mkdir(parents=True)
    return path


def parts(folder):
    return json.loads((folder / "environment.json").read_text(encoding="utf-8"))["parts"]


def test_each_resumed_part_is_appended(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None, {"from_step": 0, "cpu": "Prozessor ü"})
    assert folder.parts() == [{"from_step": 0, "cpu": "Prozessor ü"}]
    point = checkpoint(folder.path, 2)
    folder.create(arguments(folder.path), point, {"from_step": 2})
    assert [part["from_step"] for part in parts(folder.path)] == [0, 2]


def test_a_run_that_begins_again_begins_a_new_list(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None, {"from_step": 0, "number": 1})
    folder.create(arguments(folder.path, overwrite=True), None, {"from_step": 0, "number": 2})
    assert [part["number"] for part in parts(folder.path)] == [2]


def test_overwriting_deletes_all_that_belongs_to_the_run_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None, {})
    for name in ("data.json", "tracker.json", "samples.jsonl", "finished.json", "metrics.jsonl", "notes.txt"):
        (folder.path / name).write_text("{}")
    for name in ("tensorboard", "wandb", "best"):
        (folder.path / name).mkdir()
    folder.create(arguments(folder.path, overwrite=True), None, {})
    assert sorted(path.name for path in folder.path.iterdir()) == ["environment.json", "notes.txt", "recipe.yaml"]


@pytest.mark.parametrize("text", ['{"parts": [', '{"parts": 3}', "[]", '{"parts": [1]}', "{}"])
def test_a_damaged_list_stops_a_resume_before_anything_is_deleted(tmp_path, text):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None, {})
    first, later = checkpoint(folder.path, 2), checkpoint(folder.path, 4)
    folder.environment.write_text(text)
    with pytest.raises(RunError, match=r"environment\.json' is damaged .* restore or delete it to continue"):
        folder.create(arguments(folder.path), first, {})
    assert later.is_dir() and folder.environment.read_text() == text


def test_a_run_of_an_older_version_resumes_and_gets_its_list(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None)
    assert not folder.environment.exists()
    folder.create(arguments(folder.path), checkpoint(folder.path, 2), {"from_step": 2})
    assert parts(folder.path) == [{"from_step": 2}]


def test_going_back_deletes_the_later_checkpoints(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None)
    first, later = checkpoint(folder.path, 2), checkpoint(folder.path, 4)
    folder.create(arguments(folder.path), first)
    assert first.is_dir() and not later.exists()


@pytest.mark.parametrize(
    "text", ["null", "[" * 5000, '{"reason": "tired"}', '{"reason": 3}', "", '{"reason": "max_steps"}']
)
def test_a_damaged_note_of_the_end_is_named(tmp_path, text):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None)
    folder.finished.write_text(text)
    with pytest.raises(RunError, match=r"finished\.json' is damaged"):
        folder.is_done(arguments(folder.path))


def test_a_finished_run_resumes_only_with_a_higher_limit(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None)
    folder.finish(3, "max_steps", arguments(folder.path))
    assert json.loads(folder.finished.read_text()) == {"step": 3, "reason": "max_steps", "max_steps": 3}
    with pytest.raises(RunError, match=r"is finished .* raise max_steps"):
        folder.resume_point(arguments(folder.path))
    assert folder.resume_point(arguments(folder.path, max_steps=9)) is None


def test_a_different_run_is_refused_by_the_key_that_differs(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(arguments(folder.path), None)
    with pytest.raises(RunError, match="seed was 1 and is now 2"):
        folder.resume_point(arguments(folder.path, seed=2))
