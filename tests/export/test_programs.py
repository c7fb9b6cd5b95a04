"""Exports by `torch.export`: ONNX files and .pt2 programs, equal to the models at sizes unlike those of tracing."""

import pytest
import torch

from tests.helpers.cli_runs import LINES
from vaswani_tx.engines import load_engine
from vaswani_tx.export import export
from vaswani_tx.export.folders import batch_of
from vaswani_tx.loading import load_translator

pytestmark = pytest.mark.fresh


def test_onnx_of_an_encoder_decoder(saved, tmp_path, run_readme):
    report = export(saved(), tmp_path / "out", "onnx", verify=LINES[:3])
    assert report.passed, str(report)
    parts = ("encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged")
    assert {f"onnx/{part}.onnx" for part in parts} <= set(report.files)
    engine, words = load_engine(tmp_path / "out", "onnx")
    model, _ = load_translator(saved())
    batch = batch_of(words, LINES)
    for options in ({"num_beams": 3, "num_return_sequences": 2}, {"num_beams": 1, "repetition_penalty": 1.3}):
        with torch.no_grad():
            assert engine.generate(**batch, **options).tolist() == model.generate(**batch, **options).tolist()
    assert run_readme(tmp_path / "out").endswith("\n")


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_onnx_of_other_kinds(saved, tmp_path, kind):
    report = export(saved(kind), tmp_path / "out", "onnx", verify=LINES[:3])
    assert report.passed and report.comparisons, str(report)


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_programs_of_torch(saved, tmp_path, run_readme, kind):
    report = export(saved(kind), tmp_path / "out", "torch", verify=LINES[:3])
    assert report.passed and report.comparisons, str(report)
    if kind == "encoder-decoder":
        assert run_readme(tmp_path / "out").endswith("\n")
