"""What a command imports before its first answer: help and wrong usage nothing that takes long, translating little."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.cli_runs import command, environment, save_model
from vaswani_tx import light_imports
from vaswani_tx.cli.arguments import parse
from vaswani_tx.cli.training import COMMANDS
from vaswani_tx.model_size import NoValuesWithoutMemory

SLOW = (
    "torch", "transformers", "numpy", "huggingface_hub", "tokenizers", "accelerate", "datasets", "scipy",
    "sklearn", "pandas", "pyarrow", "matplotlib", "sacrebleu", "PIL",
)  # fmt: skip
# Of torch and transformers what only training, compiling, exporting, or several devices need; and other packages.
NOT_TO_TRANSLATE = (
    "sympy", "torch._dynamo.eval_frame", "torch._inductor", "torch.distributed.tensor", "torch.distributed.checkpoint",
    "torch.utils.tensorboard", "torch.onnx._internal.exporter", "scipy", "sklearn", "pandas", "pyarrow", "datasets",
    "matplotlib", "sacrebleu", "evaluate", "peft", "onnx", "onnxruntime", "ctranslate2", "tensorboard", "torchvision",
    "transformers.trainer", "vaswani_tx.training",
)  # fmt: skip
HELP = """
import contextlib, io, json, sys
from vaswani_tx.cli import main

lines, slow = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found = []
for words in lines:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code or 0
    found.append([words, status, [name for name in slow if name in sys.modules]])
print(json.dumps(found))
"""


def python(program, *words, **changes):
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment(**changes), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_help_and_wrong_usage_import_neither_torch_nor_transformers():
    own = ("translate", "score", "explain", "info", "push", "convert", "export", "run")
    right = [["--help"], ["--version"], *([verb, "--help"] for verb in own)]
    for verb, found in COMMANDS.items():
        right += [[verb, kind, "--help"] for kind in found] if isinstance(found, dict) else [[verb, "--help"]]
    wrong = [[], ["translat"], ["translate"], ["translate", "M", "--beam"], ["score", "M"], ["train"], ["train", "x"]]
    wrong += [["evaluate", "--model", "M"], ["train", "translation", "--max-stepz", "3"]]
    found = python(HELP, json.dumps(right + wrong), json.dumps(SLOW))
    assert [words for words, _, slow in found if slow] == []
    assert [words for words, status, _ in found if status != 0] == wrong
    assert {status for words, status, _ in found if words in wrong} == {2}


TRANSLATE = """
import json, sys
from vaswani_tx.cli import main

words, heavy = json.loads(sys.argv[1]), json.loads(sys.argv[2])
sys.argv = ["vaswani-tx", *words]
status = main()
found = [name for name in heavy if sys.modules.get(name) is not None]

import torch
import scipy.optimize
from transformers import AutoModelForSeq2SeqLM
import torch.distributed

model = AutoModelForSeq2SeqLM.from_pretrained(words[1]).eval()
batch = {"input_ids": torch.tensor([[5, 6, 7, 2]]), "decoder_input_ids": torch.tensor([[1, 8, 9]])}
with torch.no_grad():
    plain = model(**batch).logits
    compiled = torch.compile(model, backend="eager", fullgraph=True)(**batch).logits
hook = next(finder for finder in sys.meta_path if getattr(finder, "awaited", "") == "torch._dynamo")
marks = hook._action.__self__.marks
distributed = torch.distributed.is_available() == hasattr(torch._C, "_c10d_init")
print(json.dumps([status, found, torch.equal(plain, compiled), distributed, len(marks), torch._dynamo.__file__]))
"""


@pytest.mark.fresh
def test_translating_leaves_out_what_it_never_uses_and_the_same_comes_out(tmp_path):
    folder, texts = save_model(tmp_path / "model"), tmp_path / "a.en"
    texts.write_text("A dog runs.\nA cat sleeps in the house.\n", encoding="utf-8")
    words = ["translate", str(folder), "--input", str(texts), "--output", str(tmp_path / "a.de")]
    status, found, is_equal, is_whole, marks, file = python(TRANSLATE, json.dumps(words), json.dumps(NOT_TO_TRANSLATE))
    assert (status, found) == (0, [])
    # Afterwards all of it is there: the compiler with its marks, scipy, several processes.
    assert is_equal and is_whole and marks == 0 and Path(file).name == "__init__.py"
    plain = command("translate", folder, "--input", texts)
    assert plain.out == (tmp_path / "a.de").read_text(encoding="utf-8")


def test_nothing_is_left_out_where_a_process_does_other_things_too(monkeypatch):
    monkeypatch.setattr(light_imports, "_left_out", None)  # would fail
    light_imports.import_transformers()
    monkeypatch.setattr(light_imports._Process, "is_ours", True)
    light_imports.import_transformers()  # torch is imported already
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("WORLD_SIZE", "2")
    light_imports.import_transformers()
    assert "torch" not in sys.modules
    assert parse(["info", "M"], "0").verb == "info"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A deferred compiler in the place of a small package, which notes what it is told."""
    package = tmp_path / "deferred_compiler"
    package.mkdir()
    (package / "__init__.py").write_text(
        "calls = []\n"
        "def allow_in_graph(f): calls.append(('graph', f)); return f\n"
        "def assume_constant_result(f): calls.append(('constant', f)); return f\n"
        "def disable(f, recursive=True): calls.append(('hidden', recursive)); return lambda *a: ('hidden', f(*a))\n"
    )
    (package / "masks.py").write_text("class Mask:\n    value = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name, value in (("COMPILER", package.name), ("MASKS", f"{package.name}.masks"), ("MASK_CLASS", "Mask")):
        monkeypatch.setattr(light_imports, name, value)
    deferred = light_imports.DeferredCompiler()
    deferred.enter()
    yield deferred
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]


def test_marks_wait_for_the_import_of_the_compiler(compiler):
    import deferred_compiler

    assert deferred_compiler is compiler
    first, second = (lambda: 1), (lambda: 2)
    assert compiler.allow_in_graph(first) is first and compiler.assume_constant_result(second) is second
    hidden = compiler.disable(recursive=False)(lambda value: value + 1)
    assert hidden(1) == 2 and not hasattr(deferred_compiler, "__wrapped__")
    assert sys.modules["deferred_compiler"] is compiler  # nothing has asked for the compiler itself
    calls = deferred_compiler.calls
    assert sorted(name for name, _ in calls) == ["constant", "graph"] and {f for _, f in calls} == {first, second}
    assert sys.modules["deferred_compiler"] is not compiler and compiler.marks == []
    assert hidden(1) == ("hidden", 2) and hidden(2) == ("hidden", 3) and calls[2:] == [("hidden", False)]


def test_a_module_of_the_compiler_brings_the_compiler(compiler):
    from deferred_compiler.masks import Mask

    assert sys.modules["deferred_compiler"] is compiler
    assert Mask().value == 5 and type(Mask()).__name__ == "Mask"  # the first call imports it
    import deferred_compiler

    assert deferred_compiler is not compiler and deferred_compiler.masks.Mask.value == 5


def test_tensors_without_memory_are_not_initialised_and_others_are():
    with torch.device("meta"), NoValuesWithoutMemory():
        layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Embedding(4, 3))
        torch.nn.init.xavier_uniform_(layer[0].weight)
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}
    torch.manual_seed(3)
    expected = torch.nn.Linear(3, 2).weight
    torch.manual_seed(3)
    with NoValuesWithoutMemory():
        assert torch.equal(torch.nn.Linear(3, 2).weight, expected)
        made = torch.empty_like(torch.empty(2, 3, dtype=torch.float64, device="meta"), device="cpu")
        turned = torch.empty_like(torch.empty(2, 3, device="meta").t(), device="cpu")
    assert made.shape == (2, 3) and made.dtype == torch.float64 and made.device.type == "cpu"
    assert turned.stride() == (1, 3)
