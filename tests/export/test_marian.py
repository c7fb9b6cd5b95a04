"""Export to MarianMT: plain transformers loads it and computes the same."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig

from tests.export.conftest import tiny
from tests.helpers.cli_runs import LINES
from tests.helpers.two_vocabularies import model_of, separate_tokenizers
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.convert import convert
from vaswani_tx.errors import ExportError
from vaswani_tx.export import export

PLAIN = """
import sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
words = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1])
print(type(model).__name__, "vaswani_tx" in sys.modules, words(sys.argv[2:])["input_ids"])
"""


@pytest.mark.parametrize(
    "fields",
    [{"layer_norm_eps": 1e-5}, {"layer_norm_eps": 1e-5, "attention_bias": True, "lm_head_bias": True,
                                "activation_function": "silu", "tie_word_embeddings": False}],
)  # fmt: skip
def test_logits_and_translations_are_equal(saved, tmp_path, fields):
    report = export(saved(**fields), tmp_path / "out", "marian", verify=LINES)
    assert report.passed, str(report)
    assert report.comparisons[0].largest < 1e-4


def test_settings_of_generation_are_kept_and_the_table_of_positions_suffices(words, tmp_path):
    model = tiny(words, layer_norm_eps=1e-5, max_position_embeddings=8)
    own = {"max_length": 20, "num_beams": 3, "forced_eos_token_id": 2, "bad_words_ids": [[0]], "pad_token_id": 0}
    own |= {"decoder_start_token_id": 1, "eos_token_id": 2, "renormalize_logits": True}
    model.generation_config = GenerationConfig.from_dict(own)
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    report = export(tmp_path / "model", tmp_path / "out", "marian", verify=LINES)
    assert report.passed, str(report)
    found = GenerationConfig.from_pretrained(tmp_path / "out").to_diff_dict()
    assert {name: found.get(name) for name in own} == own


def test_two_vocabularies(tmp_path):
    pair = VaswaniTokenizer.pair(*separate_tokenizers())
    model = model_of(pair)
    model.save_pretrained(tmp_path / "model")
    pair.save_pretrained(tmp_path / "model")
    report = export(tmp_path / "model", tmp_path / "out", "marian", verify=["A small dog.", "The cat sleeps."])
    assert report.comparisons[0].passed, str(report)
    assert "target_tokenizer/tokenizer.json" in report.files
    convert(tmp_path / "out", tmp_path / "back")
    back, before = load_file(tmp_path / "back" / "model.safetensors"), load_file(tmp_path / "model/model.safetensors")
    assert all(torch.equal(tensor, back[name]) for name, tensor in before.items())
    texts, words = ["A small dog.", "Der kleine Hund"], AutoTokenizer.from_pretrained(tmp_path / "back")
    assert words(texts, text_target=texts).data == pair(texts, text_target=texts).data


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"norm_order": "pre"}, "norm_order"), ({"position_embedding": "learned"}, "position_embedding"),
     ({"d_k": 4, "d_v": 4}, "d_k"), ({"embedding_norm": True}, "embedding_norm")],
)  # fmt: skip
def test_what_cannot_be_held_is_refused(saved, tmp_path, fields, said):
    with pytest.raises(ExportError, match=said):
        export(saved(**fields), tmp_path / "out", "marian")
    assert not (tmp_path / "out").exists()


@pytest.mark.fresh
def test_a_python_without_this_package_loads_it(saved, tmp_path, words):
    export(saved(layer_norm_eps=1e-5), tmp_path / "out", "marian")
    texts = [LINES[0], "a </s> b", "  two  spaces"]
    command = [sys.executable, "-c", PLAIN, str(tmp_path / "out"), *texts]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == f"MarianMTModel False {words(texts)['input_ids']}"


@pytest.mark.fresh
def test_the_program_of_the_readme_runs(saved, tmp_path, run_readme):
    export(saved(layer_norm_eps=1e-5), tmp_path / "out", "marian")
    assert run_readme(tmp_path / "out").strip()
