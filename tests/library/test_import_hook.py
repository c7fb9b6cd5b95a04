"""Registration with transformers happens at its import, in every order of imports, and `import vaswani_tx` is light."""

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

import vaswani_tx
from tests.helpers import ROOT
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.import_hook import HOOK, ImportHook

OWN = r"hooked_package\.\w+"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Write modules into a folder of `sys.path`; all of them, and the hooks, are gone afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))

    def write(**sources):
        (tmp_path / "hooked_package").mkdir(exist_ok=True)
        (tmp_path / "hooked_package" / "__init__.py").touch()
        for name, source in sources.items():
            (tmp_path / f"{name.replace('__', '/')}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    yield write
    for name in [name for name in sys.modules if name.startswith("hooked_") or name == "awaited_module"]:
        del sys.modules[name]


def make_hook(calls):
    """Return a hook whose function notes what the awaited module holds by then."""
    return ImportHook("awaited_module", OWN, lambda: calls.append(sys.modules["awaited_module"].VALUE))


def test_the_function_is_called_right_after_the_import_and_not_before(packages):
    packages(awaited_module="VALUE = 1\n")
    calls = []
    hook = make_hook(calls)
    hook.install()
    hook.install()
    assert calls == [] and sys.meta_path.count(hook) == 1
    assert importlib.util.find_spec("awaited_module").loader.get_filename().endswith("awaited_module.py")
    assert calls == []  # who only asks whether a module is there does not import it
    module = importlib.import_module("awaited_module")
    assert calls == [1]
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert inspect.getsource(module) == "VALUE = 1\n"
    importlib.import_module("awaited_module")
    assert calls == [1]
    importlib.reload(module)
    assert calls == [1, 1]


def test_an_imported_module_is_not_waited_for(packages):
    packages(awaited_module="VALUE = 2\n")
    importlib.import_module("awaited_module")
    calls = []
    make_hook(calls).install()
    assert calls == [2]


def test_a_failed_or_absent_import_is_none(packages):
    calls = []
    make_hook(calls).install()
    with pytest.raises(ModuleNotFoundError, match="awaited_module"):
        importlib.import_module("awaited_module")
    packages(awaited_module="raise RuntimeError('broken')\n")
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module("awaited_module")
    assert calls == [] and "awaited_module" not in sys.modules
    packages(awaited_module="VALUE = 'fixed'\n")
    importlib.import_module("awaited_module")
    assert calls == ["fixed"]


def test_the_function_waits_for_the_end_of_the_module_that_imports_the_awaited_one(packages):
    packages(
        awaited_module="VALUE = 3\n",
        hooked_package__first="import awaited_module\nfrom hooked_package import second\nNAME = second.NAME\n",
        hooked_package__second="import awaited_module\nNAME = 'second'\n",
    )
    found = []
    hook = ImportHook("awaited_module", OWN, lambda: found.append(importlib.import_module("hooked_package.first").NAME))
    hook.install()
    importlib.import_module("hooked_package.first")
    assert found and set(found) == {"second"}


def test_an_import_that_another_thread_began_before_the_hook_is_waited_for(packages):
    packages(
        awaited_module="""
            import hooked_events
            hooked_events.begun.set()
            hooked_events.continued.wait(20)
            VALUE = 4
        """,
        hooked_events="import threading\nbegun, continued = threading.Event(), threading.Event()\n",
    )
    events = importlib.import_module("hooked_events")
    calls = []
    importing = threading.Thread(target=importlib.import_module, args=("awaited_module",))
    importing.start()
    assert events.begun.wait(20)
    installing = threading.Thread(target=make_hook(calls).install)
    installing.start()
    installing.join(0.2)
    assert installing.is_alive() and calls == []
    events.continued.set()
    installing.join(20)
    importing.join(20)
    assert calls == [4]


def test_threads_that_import_at_once(packages):
    names = [f"m{number}" for number in range(6)]
    packages(
        awaited_module="import time\ntime.sleep(0.05)\nVALUE = 5\n",
        **{f"hooked_package__{name}": "import awaited_module, time\ntime.sleep(0.02)\nNAME = 1\n" for name in names},
    )
    calls, errors = [], []

    def act():
        calls.append([importlib.import_module(f"hooked_package.{name}").NAME for name in names])

    hook = ImportHook("awaited_module", OWN, act)
    hook.install()

    def work(number):
        try:
            importlib.import_module("awaited_module" if number % 2 else f"hooked_package.{names[number // 2]}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors and calls


def test_a_thread_that_waited_finds_the_names_of_a_module_that_replaces_itself(packages):
    packages(
        awaited_module="""
            import sys, types
            import hooked_events
            hooked_events.begun.set()
            hooked_events.continued.wait(20)
            sys.modules[__name__] = types.SimpleNamespace(VALUE=6, __spec__=__spec__)
        """,
        hooked_events="import threading\nbegun, continued = threading.Event(), threading.Event()\n",
    )
    events = importlib.import_module("hooked_events")
    calls, found = [], {}
    make_hook(calls).install()
    importing = threading.Thread(target=importlib.import_module, args=("awaited_module",))
    importing.start()
    assert events.begun.wait(20)
    waiting = threading.Thread(target=exec, args=("from awaited_module import VALUE", found))
    waiting.start()
    waiting.join(0.2)
    events.continued.set()
    waiting.join(20)
    importing.join(20)
    assert calls == [6] and found["VALUE"] == 6


# The package itself


def test_the_public_names_are_those_that_type_checkers_see():
    source = (ROOT / "vaswani_tx" / "__init__.py").read_text(encoding="utf-8")
    block = source[source.index("if TYPE_CHECKING:") : source.index("def __getattr__")]
    pairs = re.findall(r"from \.([\w.]+) import (\([^)]*\)|[^\n]*)", block)
    seen = {module: tuple(re.findall(r"\w+", names)) for module, names in pairs}
    assert seen == vaswani_tx._MODULES
    assert sorted(vaswani_tx.__all__) == sorted([*vaswani_tx._MODULE_OF, "__version__"])
    assert set(vaswani_tx.__all__) <= set(dir(vaswani_tx))
    for name in vaswani_tx.__all__:
        assert getattr(vaswani_tx, name) is not None
    assert vaswani_tx.modeling_vaswani.VaswaniModel is vaswani_tx.VaswaniModel
    with pytest.raises(AttributeError, match="no attribute 'VaswaniModell'"):
        _ = vaswani_tx.VaswaniModell
    with pytest.raises(ImportError, match="VaswaniModell"):
        from vaswani_tx import VaswaniModell  # noqa: F401


def test_reloading_the_package_changes_nothing():
    before, finders = vaswani_tx.VaswaniModel, list(sys.meta_path)
    importlib.reload(vaswani_tx)
    assert vaswani_tx.VaswaniModel is before and sys.meta_path == finders and HOOK in finders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model of 320 tokens."""
    place = tmp_path_factory.mktemp("saved")
    tokenizer = VaswaniTokenizer.train(iter(["A dog runs.", "Ein Hund rennt."] * 3), vocab_size=320)
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_ff": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    VaswaniForConditionalGeneration(VaswaniConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


USE = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
found = [AutoModelForSeq2SeqLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)]
found.append(pipeline("translation", model=FOLDER))
names = [type(each).__name__ for each in found]
assert names == ["VaswaniForConditionalGeneration", "VaswaniTokenizer", "TranslationPipeline"], names
assert type(found[0]).__module__ == "vaswani_tx.modeling_vaswani"
"""
# peft, datasets and accelerate import transformers in the middle of their own import.
PACKAGE_FIRST = """
import sys
import threading
import vaswani_tx

assert not {"torch", "transformers", "numpy", "huggingface_hub"} & set(sys.modules)
errors = []


def work(statement):
    try:
        exec(statement, {})
    except BaseException as error:
        errors.append(error)


statements = [
    "from transformers import AutoModel", "from vaswani_tx import VaswaniModel", "import peft", "import datasets",
    "import vaswani_tx.loss_vaswani", "from vaswani_tx import save_with_code", "import accelerate",
]
threads = [threading.Thread(target=work, args=(statement,)) for statement in statements]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not errors, errors
"""
# A pickle names the module of its class: the new process begins with the import of that one.
TRANSFORMERS_FIRST = """
import multiprocessing


def describe(config):
    from transformers import AutoModelForSeq2SeqLM
    return type(config).__name__, type(AutoModelForSeq2SeqLM.from_pretrained(FOLDER)).__name__


if __name__ == "__main__":
    import transformers
    import vaswani_tx

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(describe, (vaswani_tx.VaswaniConfig.from_pretrained(FOLDER),))
    assert found == ("VaswaniConfig", "VaswaniForConditionalGeneration"), found
"""


@pytest.mark.fresh
def test_saved_models_load_where_the_package_comes_first_and_threads_import_the_rest(folder, tmp_path):
    run_program(tmp_path, folder, PACKAGE_FIRST + USE)


@pytest.mark.fresh
def test_saved_models_load_where_transformers_comes_first_and_in_a_spawned_process(folder, tmp_path):
    run_program(tmp_path, folder, TRANSFORMERS_FIRST + textwrap.indent(USE, "    "))


def run_program(tmp_path, folder, program):
    (tmp_path / "program.py").write_text(f"FOLDER = {str(folder)!r}\n{program}", encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], env=os.environ | {"PYTHONPATH": path}, capture_output=True,
        text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
