"""What a run was made with: versions, revision, hardware, and no secret."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from vaswani_tx.training.engine import environment
from vaswani_tx.training.engine.environment import gather_environment, git_state, hardware, versions


def git(folder, *words):
    name = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *name, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository with one committed package."""
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "first")
    return package


def test_a_part_is_plain_json_with_all_of_its_entries():
    part = gather_environment(step=7, processes=2, engine="MULTI_CPU", precision="bf16")
    assert json.loads(json.dumps(part, allow_nan=False)) == part
    assert (part["from_step"], part["processes"], part["engine"], part["precision"]) == (7, 2, "MULTI_CPU", "bf16")
    assert datetime.fromisoformat(part["started"]).utcoffset().total_seconds() == 0
    assert part["versions"]["torch"] == torch.__version__
    assert part["hardware"]["cores"] >= part["hardware"]["usable_cores"] >= 1
    assert part["hardware"]["memory_gib"] > 0 and part["hardware"]["cpu"]


def test_no_environment_variable_gets_into_it(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret_word")
    monkeypatch.setenv("WANDB_API_KEY", "another_secret_word")
    assert "secret_word" not in json.dumps(gather_environment())


def test_the_command_line_is_the_one_typed_without_the_interpreter_s_path(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python", "-m", "vaswani_tx.training.train_translation", "--seed"])
    assert gather_environment()["command"] == ["python", "-m", "vaswani_tx.training.train_translation", "--seed"]


def test_every_package_that_can_change_a_number_has_a_version_or_none(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no_such_package_at_all"))
    found = versions()
    assert set(found) == {"python", "vaswani_tx", "torch", "no_such_package_at_all"}
    assert found["no_such_package_at_all"] is None and found["torch"]


def test_the_revision_and_whether_tracked_files_differ(checkout):
    state = git_state(checkout)
    assert len(state["revision"]) == 40 and state["dirty"] is False
    (checkout.parent / "notes.txt").write_text("no part of the code")
    assert git_state(checkout)["dirty"] is False
    (checkout / "__init__.py").write_text("changed = True\n")
    assert git_state(checkout) == {"revision": state["revision"], "dirty": True}


def test_a_copy_inside_somebody_else_s_repository_has_no_revision(checkout):
    other = checkout.parent / "site-packages"
    other.mkdir()
    (other / "__init__.py").write_text("")
    assert git_state(other) is None


def test_outside_a_repository_without_git_and_with_a_slow_git_there_is_no_revision(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").write_text("")
    assert git_state(tmp_path) is None

    def fail(error):
        def run(*_, **options):
            assert options["timeout"] <= 10
            raise error

        return run

    for error in (FileNotFoundError("git"), subprocess.TimeoutExpired("git", 5)):
        monkeypatch.setattr(subprocess, "run", fail(error))
        assert git_state(Path(environment.__file__).parent) is None


def test_a_repository_named_by_the_surroundings_does_not_count(checkout, tmp_path, monkeypatch):
    revision = git_state(checkout)["revision"]
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert git_state(checkout) == {"revision": revision, "dirty": False}


def test_gpus_are_listed_by_name_and_memory(monkeypatch):
    class Properties:
        name, total_memory = "Imagined GPU", 80 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties())
    assert hardware()["gpus"] == [{"name": "Imagined GPU", "memory_gib": 80.0}] * 2
