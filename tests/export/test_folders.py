"""Exported folders: whole or absent, never over something else; the cache; the commands and pipelines that use them."""

import importlib
import re
from unittest import mock

import pytest
from transformers import pipeline

from tests.helpers.cli_runs import LINES, TEXT, command
from vaswani_tx import engines
from vaswani_tx.errors import ExportError
from vaswani_tx.export import export


def test_a_folder_is_replaced_only_where_it_holds_an_export(saved, tmp_path):
    out = tmp_path / "out"
    export(saved(), out, "ctranslate2")
    with pytest.raises(ExportError, match="--overwrite"):
        export(saved(), out, "ctranslate2")
    export(saved(), out, "ctranslate2", overwrite=True)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("all of it")
    with pytest.raises(ExportError, match="holds no export"):
        export(saved(), other, "ctranslate2", overwrite=True)
    assert [path.name for path in other.iterdir()] == ["chapter.txt"]


def test_nothing_is_left_of_a_failed_export(saved, tmp_path):
    from vaswani_tx.export import ctranslate2

    broken = mock.patch.object(ctranslate2, "save_words", side_effect=OSError("disk full"))
    with broken, pytest.raises(ExportError, match="disk full"):
        export(saved(), tmp_path / "out", "ctranslate2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "ctranslate"}, "did you mean"),
        ({"format": "ctranslate2", "quantization": "int4"}, "int4"),
        ({"format": "marian", "positions": 9}, "no option positions"),
    ],
)
def test_wrong_options_are_named(saved, tmp_path, options, said):
    with pytest.raises(ExportError, match=said):
        export(saved(), tmp_path / "out", **options)


def test_a_missing_package_says_what_to_install(saved, tmp_path):
    real = importlib.import_module

    def missing(name, *args):
        if name == "ctranslate2":
            raise ImportError("No module named 'ctranslate2'")
        return real(name, *args)

    without = mock.patch("vaswani_tx.export.folders.importlib.import_module", missing)
    with without, pytest.raises(ExportError, match=re.escape("pip install 'vaswani-tx[export]'")):
        export(saved(), tmp_path / "out", "ctranslate2")


def test_the_cache_is_written_once_and_knows_weights_and_options(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path))
    first = engines.exported(saved(), "ctranslate2")
    with mock.patch("vaswani_tx.engines.cache.export", side_effect=AssertionError("exported again")):
        assert engines.exported(saved(), "ctranslate2") == first
    folders = {first, engines.exported(saved(), "ctranslate2", quantization="int8")}
    folders.add(engines.exported(saved(final_layer_norm=True), "ctranslate2"))
    assert len(folders) == 3 and all(folder.parent == tmp_path / "engines" for folder in folders)


def test_two_processes_may_export_at_once(saved, tmp_path, monkeypatch):
    from vaswani_tx.engines import cache

    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path))
    real = cache.export

    def late(*args, **kwargs):
        real(*args, **kwargs)  # the other process, which was first
        return real(*args, **kwargs)

    monkeypatch.setattr(cache, "export", late)
    assert (engines.exported(saved(), "ctranslate2") / "model.bin").exists()
    assert len(list((tmp_path / "engines").iterdir())) == 1


def test_commands(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path / "cache"))
    model, out = str(saved()), str(tmp_path / "out")
    done = command("export", model, out, "--format", "ctranslate2", "--verify")
    assert done.status == 0 and done.out.count("equal: ") == 3
    assert command("export", model, out, "--format", "ctranslate2").status == 2
    plain = command("translate", model, stdin=TEXT).out
    for arguments in ([model], [out]):
        assert command("translate", *arguments, "--engine", "ctranslate2", stdin=TEXT).out == plain
    refused = command("translate", out, "--engine", "ctranslate2", "--prefix", "Ein", stdin=TEXT)
    assert refused.status == 2 and "--prefix is not available with --engine ctranslate2" in refused.err
    assert "--engine onnx does not run" in command("translate", out, "--engine", "onnx", stdin=TEXT).err


def test_pipelines(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path))
    plain = pipeline("translation", model=str(saved()))
    fast = pipeline("translation", model=str(saved()), engine="ctranslate2")
    wanted, found = (pipe(LINES, return_scores=True) for pipe in (plain, fast))
    assert [one["translation_text"] for one in found] == [one["translation_text"] for one in wanted]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted], abs=1e-4)
    with pytest.raises(ValueError, match="alignments"):
        fast(LINES[:1], return_alignments=True)


def test_evaluation(saved, tmp_path, monkeypatch):
    from vaswani_tx.training import evaluate_translation

    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path))
    (tmp_path / "a").write_text(TEXT)
    outputs = []
    for engine in ([], ["--engine", "ctranslate2"]):
        output = tmp_path / "b"
        arguments = ["--model", str(saved()), "--source", str(tmp_path / "a"), "--target", str(tmp_path / "a")]
        assert evaluate_translation.main([*arguments, "--output", str(output), "--quiet", *engine]) == 0
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1] != ""
