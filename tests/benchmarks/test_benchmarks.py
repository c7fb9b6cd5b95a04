"""The benchmark itself at minute sizes: what it compares, when it fails, what it computes of times, what it writes."""

import json
from dataclasses import replace

import pytest
import torch

from tests.benchmarks import __main__ as command
from tests.benchmarks import measuring, plots, results, standard, startup
from tests.benchmarks.contenders import CONTENDERS, load_factory, parse_contender
from tests.benchmarks.decoding_contenders import Ours as OurDecoder
from tests.benchmarks.harness import Benchmark, ContenderFailed, OutputsDiffer, Worker, compare_training
from tests.benchmarks.training_contenders import Ours
from tests.benchmarks.worker import Server
from tests.benchmarks.works import (
    CorpusWork,
    DecodingWork,
    TrainingWork,
    as_fields,
    check_batch,
    fill,
    practice_lengths,
    training_batches,
    training_lengths,
    work_from,
)
from tests.helpers import translators

HERE = "tests.benchmarks.test_benchmarks"
MINUTE = {"size": "minute", "vocab_size": 60, "rounds": 1}
TRAINING = TrainingWork("minute", **MINUTE, tokens=130, contenders=("marian", "ours"))
DECODING = DecodingWork("search", **MINUTE, batch=3, sentences=3, beams=4, new_tokens=4)


class WithoutSmoothing(Ours):
    """A contender that computes another loss."""

    def loss(self, batch):
        return self.model(**{k: batch[k] for k in ("input_ids", "attention_mask", "labels")}).loss


class WithoutUpdate(Ours):
    """A contender that saves the optimiser's time."""

    def update(self):
        self.optimizer.zero_grad()


class WithoutAttentionMask(OurDecoder):
    """A contender that reads padding."""

    def translate(self, batch):
        return super().translate({"input_ids": batch["input_ids"]})


class Sleepy(Ours):
    """A contender that raises."""

    def loss(self, batch):
        raise MemoryError("not enough of it")


class InProcess:
    """A worker without a process."""

    def __init__(self, name, threads):
        self.name, self.server = name, Server()

    def send(self, command, **fields):
        self.answer = getattr(self.server, command)(**fields)

    def receive(self):
        return self.answer

    def ask(self, command, **fields):
        self.send(command, **fields)
        return self.receive()

    def close(self):
        pass


@pytest.fixture(autouse=True)
def _without_collecting(request, monkeypatch):
    """Leave Python's collector alone, which takes a second where all tests' modules are loaded."""
    if not request.node.get_closest_marker("fresh"):
        monkeypatch.setattr(measuring, "settle", lambda: None)


def run(work, *chosen, **further):
    addresses = {name.replace("_", "-"): f"{HERE}:{value}" for name, value in further.items()}
    with Benchmark(1, addresses, frozenset(chosen) | set(addresses), make_worker=InProcess) as benchmark:
        return benchmark.run(work)


TRAINERS = ("marian", "marian-trainer", "ours", "ours-plain", "ours-logits", "torch.nn")


def test_all_trainers_compute_the_same():
    entry = run(replace(TRAINING, contenders=TRAINERS, rounds=2))
    assert set(entry["contenders"]) == set(TRAINERS) and not entry["skipped"]
    for record in entry["contenders"].values():
        assert len(record["wall"]) == len(record["cpu"]) == 2 and min(record["wall"]) > 0
        assert record["real_tokens"] > 100 and 0.5 < record["fill"] <= 1 and record["total_memory"] > 0


@pytest.mark.fresh
def test_x_transformers_computes_the_same():
    pytest.importorskip("x_transformers")
    assert "x-transformers" in run(replace(TRAINING, contenders=("marian", "x-transformers")))["contenders"]


def test_all_decoders_write_the_same_tokens():
    entry = run(replace(DECODING, sentences=5, contenders=standard.SEARCHERS))
    assert {"marian", "ours", "ours-fast"} <= set(entry["contenders"])
    assert entry["contenders"]["marian"]["tokens"] == 20
    if "ctranslate2-int8" in entry["contenders"]:
        assert 0 <= entry["contenders"]["ctranslate2-int8"]["agreement"] <= 1


@pytest.mark.parametrize(
    "contenders",
    [("marian", "ours", "ours-fast"), pytest.param(("marian", *standard.SEARCHERS[3:]), marks=pytest.mark.fresh)],
)
def test_all_write_the_same_text(contenders, tmp_path):
    translators.make_model("vaswani").save_pretrained(tmp_path)
    translators.make_tokenizer().save_pretrained(tmp_path)
    source = tmp_path / "source.txt"
    source.write_text("w1 w2 w3\nw7\n\nw9 w8 w7 w6\n")
    work = CorpusWork("text", str(tmp_path), str(source), batch=2, lines=4, longest=5, contenders=contenders, rounds=1)
    entry = run(work)
    assert list(entry["contenders"]) == list(contenders) and entry["contenders"]["marian"]["tokens"] == 4


@pytest.mark.parametrize(
    "work, factory, reason",
    [
        (
            TRAINING,
            "WithoutSmoothing",
            r"minute: wrong computes something else than marian: loss 4\.\d+ instead of 4\.",
        ),
        (TRAINING, "WithoutUpdate", "loss after an update"),
        (DECODING, "WithoutAttentionMask", r"outputs differ, first in sentence \d from place \d"),
    ],
)
def test_a_contender_that_computes_something_else_is_refused(work, factory, reason):
    with pytest.raises(OutputsDiffer, match=reason):
        run(work, wrong=factory)


def test_gradients_are_compared_one_by_one():
    norms = {"a": 1.0, "b": 2.0, "key.bias": 1e-9}
    one = {"loss": 5.0, "gradient_norms": norms, "loss_after_update": 4.9}
    assert compare_training(one, {**one, "gradient_norms": norms | {"key.bias": 1e-7}}) == []
    assert "gradient norm" in compare_training(one, {**one, "gradient_norms": norms | {"b": 2.001}})[0]
    swapped = compare_training(one, {**one, "gradient_norms": {"a": 2.0, "b": 1.0, "key.bias": 1e-9}})
    assert swapped == ["norm of the gradient of a 2 instead of 1"]
    # One that lacks a weight is not compared after the update, which moves it.
    fewer = {**one, "gradient_norms": {"a": 1.0, "b": 2.0}, "loss_after_update": 4.0}
    assert compare_training(one, fewer) == []
    assert compare_training(one, {**one, "loss": float("nan")})
    assert "none of the first one's weights" in compare_training(one, {**one, "gradient_norms": {}})[0]


def test_a_contender_can_be_added_and_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(standard, "training", lambda: [TRAINING])
    monkeypatch.setattr(command, "Benchmark", lambda *given: Benchmark(*given, make_worker=InProcess))
    arguments = ["--only", "training", "--rounds", "1", "--output", str(tmp_path / "found.json")]
    mine = ["--contender", "mine=tests.benchmarks.training_contenders:OursWithLogits"]
    assert command.main([*arguments, *mine, "--contenders", "mine"]) == 0
    found = results.read(tmp_path / "found.json")["entries"]["minute"]
    assert list(found["contenders"]) == ["marian", "mine"] and len(found["contenders"]["mine"]["wall"]) == 1
    assert "mine" in capsys.readouterr().out and found["machine"]["versions"]["torch"] == torch.__version__


def test_nothing_is_written_where_outputs_differ(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(standard, "training", lambda: [TRAINING])
    monkeypatch.setattr(command, "Benchmark", lambda *given: Benchmark(*given, make_worker=InProcess))
    path = tmp_path / "found.json"
    wrong = ["--contender", f"mine={HERE}:WithoutSmoothing", "--only", "training", "--output", str(path)]
    assert command.main(wrong) == 1 and not path.exists()
    message = capsys.readouterr().err
    assert "mine computes something else than marian: loss" in message and "Nothing was written" in message


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--contender", "mine"], ["NAME=module:factory"]),
        (["--contender", "mine=nowhere:Factory", "--only", "training"], ["'nowhere'", "'nowhere:Factory'"]),
        (["--contender", "mine=json:Factory", "--only", "training"], ["'json'", "'Factory'"]),
        (["--contender", "mine=json:__name__", "--only", "training"], ["cannot be called", "'__name__'"]),
        (["--contender", "mine=json:dumps"], ["--only"]),
        (["--contenders", "ours,nobody"], ["'nobody'", "marian"]),
        (["--works", "nothing-like-this"], ["'nothing-like-this'", "--list"]),
        (["--only", "corpus"], ["--model", "--source"]),
        (["--model", "m"], ["--model", "--source"]),
        (["--quick", "--docs"], ["--docs", "--quick"]),
        (["--lengths", "fill", "--only", "training", "--list"], []),
    ],
)
def test_wrong_options_are_named(arguments, words, capsys):
    status = command.main(arguments)
    message = capsys.readouterr().err
    assert status == (2 if words else 0) and all(word in message for word in words), message


def test_addresses():
    assert parse_contender("mine=a.b:C") == ("mine", "a.b:C")
    for kind in CONTENDERS.values():
        for address in kind.values():
            assert load_factory(address).__doc__
    with pytest.raises(ValueError, match=r"'json\.nothing' of the contender 'json.nothing:C' cannot be imported"):
        load_factory("json.nothing:C")


def test_ratios_are_of_the_same_round():
    assert results.ratios([2.0, 6.0], [1.0, 2.0]) == [2.0, 3.0]
    assert results.spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def entry_of(name, kind="training", **contenders):
    records = {
        contender.replace("_", "-"): {
            "wall": wall, "cpu": wall, "step_memory": 100 << 20, "total_memory": 300 << 20, "real_tokens": 900,
            "fill": 0.9,
        }
        for contender, wall in contenders.items()
    }  # fmt: skip
    work = as_fields(TRAINING) | {"name": name, "kind": kind}
    about = {
        "processor": "A processor", "cores": 2, "threads": 1, "instructions": ["avx2"], "versions": {"torch": "2.13"},
        "date": "2026-11-28",
    }  # fmt: skip
    return {
        "work": work,
        "about": f"work {name}",
        "contenders": records,
        "skipped": {"x": "it is not there"},
        "machine": about,
    }


def test_tables():
    entries = {
        # Not in the order of the file, but of the work: MarianMT is the first.
        "b": entry_of("b", ours=[2.0, 1.1, 15.0], marian=[3.0, 3.3, 30.0]) | {"order": 2},
        "a": entry_of("a", marian=[1.0, 1.0], ours_plain=[0.5, 0.5]) | {"order": 1},
        "curve-fill-1": entry_of("curve-fill-1", marian=[1.0]),
    }
    text = results.render({"entries": entries})["training"]
    lines = text.splitlines()
    assert lines[0] == "| work | HF MarianMT | vaswani-tx | vaswani-tx, padded |"
    assert lines[2:4] == ["| work a | 1.00 |  | 2.00 |", "| work b | 1.00 | **2.00** |  |"]
    assert "| | vaswani-tx | 2 | 2.00 (1.50-3.00) | 2.00 | 450 | 100 MB (1.00) | 300 MB | fill 0.90 |" in text.replace(
        "|  |", "| |"
    )
    assert "not measured: it is not there" in text and "curve" not in text
    assert "A processor, 2 cores, one thread" in results.render({"entries": entries})["machine"]
    begin, end = results.markers("training")
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    assert results.into_page(page, {"training": "new"}) == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match="benchmark decoding: begin"):
        results.into_page(page, {"decoding": "new"})


def test_results_of_other_works_stay(tmp_path):
    path = tmp_path / "some" / "found.json"
    results.merge(path, {"a": {"x": 1}})
    assert results.merge(path, {"b": {"x": 2}})["entries"] == {"a": {"x": 1}, "b": {"x": 2}}
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"found\.json.*no file of results"):
        results.merge(path, {})


@pytest.mark.fresh  # loading matplotlib takes longer than all others here
def test_curves_are_drawn(tmp_path):
    entries = {}
    for share in (0.5, 1.0):
        entry = entry_of(f"curve-fill-{share}", marian=[1.0], ours=[share])
        for record in entry["contenders"].values():
            record["fill"] = share
        entries[entry["work"]["name"]] = entry
    (path,) = plots.draw({"entries": entries}, tmp_path)
    assert f"({plots.FILL})" in plots.section([path])["curves"] and not plots.section([])
    assert path.name == plots.FILL and path.read_text().startswith("<?xml")


def test_batches():
    for batching in ("bucketed", "random"):
        work = TrainingWork("w", vocab_size=500, lengths="wmt", tokens=700, batches=3, batching=batching)
        batches = training_batches(work)
        assert len(batches) == 3 and all(batch["input_ids"].numel() <= 700 for batch in batches)
        assert (fill(batches) > 0.85) == (batching == "bucketed")
    batch = check_batch(work)
    assert (batch["attention_mask"] == 0).any() and (batch["labels"] == -100).any()
    assert (batch["labels"] == 2).sum() == len(batch["labels"])
    for share in (1.0, 0.65, 0.35):
        assert fill(training_batches(TrainingWork("f", lengths=f"fill:{share}", tokens=4096))) == pytest.approx(
            share, abs=0.05
        )
    practice = TrainingWork("p", tokens=700, batches=2, practice=8)
    own, theirs = training_lengths(practice), practice_lengths(practice)
    assert sorted(n for batch in own for n in batch[0]) == sorted(n for batch in theirs for n in batch[0])
    assert len(theirs[0][0]) == 8


def test_lengths_of_files(tmp_path):
    for name, line in (("a", "One dog, two cats.\n"), ("b", "Ein Hund\n")):
        (tmp_path / name).write_text(line * 3)
    source, target = training_lengths(TrainingWork("w", lengths=f"files:{tmp_path / 'a'}:{tmp_path / 'b'}"))[0]
    assert set(source) == {7} and set(target) == {3}
    (tmp_path / "b").write_text("Ein Hund\n")
    with pytest.raises(ValueError, match=r"has 3 lines and .* has 1"):
        training_lengths(TrainingWork("w", lengths=f"files:{tmp_path / 'a'}:{tmp_path / 'b'}"))
    with pytest.raises(ValueError, match="'short'"):
        training_lengths(TrainingWork("w", lengths="short"))


def test_works_travel_as_json():
    for work in (*standard.training(), *standard.curves(), *standard.decoding(), CorpusWork("c", "m", "s")):
        assert work_from(json.loads(json.dumps(as_fields(work)))) == work
    names = [work.name for work in (*standard.training(), *standard.curves(), *standard.decoding())]
    assert len(set(names)) == len(names)


@pytest.mark.fresh
def test_contenders_in_processes(tmp_path, monkeypatch):
    refused = pytest.raises(ContenderFailed, match=r"raises: MemoryError: not enough of it\n")
    with Benchmark(1, {"raises": f"{HERE}:Sleepy"}) as benchmark, refused:
        benchmark.run(TRAINING)
    with Benchmark(1, rounds=1) as benchmark:
        entry = benchmark.run(TRAINING)
        assert entry["contenders"]["ours"]["total_memory"] > entry["contenders"]["ours"]["step_memory"] > 0
    worker = Worker("ours", 1)
    worker._process.kill()
    with pytest.raises(ContenderFailed, match="its process"):
        worker.ask("compare")
    worker.close()


@pytest.mark.fresh
def test_start_up():
    entry = startup.measure(None, None, 1, rounds=1)
    for name, record in entry["contenders"].items():
        assert len(record["wall"]) == 1 and record["cpu"][0] > 0
        assert ("first" in record and len(record["first"]) == 1) == ("translate" in name)
    assert "--help" in results.startup_table({"startup": entry})
    with pytest.raises(RuntimeError, match="translate nowhere"):
        startup.run_process(["translate", "nowhere"], "", 1)
