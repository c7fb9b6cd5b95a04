"""Files of torch.save with foreign classes: read as records, or refused; nothing of them runs."""

import argparse
import os
import sys
import types

import pytest
import torch

from vaswani_tx.convert.torch_files import load_plain, settings_of
from vaswani_tx.errors import CheckpointError

RAN = []


@pytest.fixture
def toolkit(monkeypatch):
    """A module `oldkit` with a class, which is there while the file is written and gone when it is read."""
    module = types.ModuleType("oldkit")
    vocabulary = type("Vocabulary", (), {"__module__": "oldkit", "__setstate__": lambda self, state: RAN.append(state)})
    module.Vocabulary = vocabulary
    monkeypatch.setitem(sys.modules, "oldkit", module)
    return vocabulary


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harm-was-done",)


@pytest.mark.parametrize("zipped", [True, False])
def test_listed_classes_are_records_of_what_the_file_says(tmp_path, toolkit, zipped):
    vocabulary = toolkit()
    vocabulary.itos = ["a", "b"]
    content = {"vocab": vocabulary, "opt": argparse.Namespace(heads=4), "weight": torch.ones(2)}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    del sys.modules["oldkit"]
    RAN.clear()
    found = load_plain(tmp_path / "model.pt", ["oldkit."])
    assert found["vocab"].itos == ["a", "b"] and settings_of(found["opt"]) == {"heads": 4}
    assert torch.equal(found["weight"], torch.ones(2)) and not RAN
    with pytest.raises(CheckpointError, match=r"holds oldkit.Vocabulary.*Save it again\."):
        load_plain(tmp_path / "model.pt", ["other."], "Save it again.")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Harmful()}, "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="without running code"):
        load_plain("model.pt", ["fairseq.", "posix."])
    assert not os.path.exists("harm-was-done")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"no file of torch\.save"):
        load_plain(tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_plain(tmp_path / "none.pt")
