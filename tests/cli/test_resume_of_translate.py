"""`vaswani-tx translate --output`: killed at any moment it resumes to the same bytes, and many processes share it."""

import io
import json
import os
import signal

import pytest

from tests.helpers.cli_runs import TEXT, command, refused, save_model
from tests.helpers.processes import run_child, run_launched
from vaswani_tx import cli
from vaswani_tx.cli import resume as cli_resume
from vaswani_tx.cli import translate as cli_translate
from vaswani_tx.cli.common import CliError
from vaswani_tx.cli.lines import blocks, groups
from vaswani_tx.cli.resume import PartialOutput

# Eleven lines in blocks of two, answered briefly: what is written when, not what, is looked at.
DATA = (TEXT + "\n" + TEXT).splitlines(keepends=True)[:11]
SIZE = ["--buffer-size", 2, "--max-length", 4]


def killed_at_the_third_block(words):
    """Run the command; kill this process when the third block is about to be translated."""
    translate, calls = cli_translate.Translator.__call__, []

    def until_killed(self, block):
        calls.append(block)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return translate(self, block)

    cli_translate.Translator.__call__ = until_killed
    return cli.main(words)


def noting_blocks(words):
    """Run the command; note which blocks this process translates."""
    translate = cli_translate.Translator.__call__

    def noted(self, block):
        with open("rank" + os.environ["RANK"], "a") as file:
            print(block.first, file=file)
        return translate(self, block)

    cli_translate.Translator.__call__ = noted
    return cli.main(words)


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "a.en").write_text("".join(DATA), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The bytes of a run that nothing disturbs."""
    place = tmp_path_factory.mktemp("whole")
    (place / "a.en").write_text("".join(DATA), encoding="utf-8")
    assert command("translate", folder, "-i", place / "a.en", "-o", place / "a.de", *SIZE).status == 0
    made = (place / "a.de").read_bytes()
    assert len(set(made.splitlines()[:7])) > 4  # equal lines would hide that one is missing or twice there
    return made


def words(folder, place, *more):
    return ["translate", folder, "--input", place / "a.en", "--output", place / "a.de", *SIZE, *more]


def names(place):
    return sorted(path.name for path in place.iterdir())


def stop_at(monkeypatch, number, error):
    """Raise `error` in the place of the translation of a block."""
    translate, calls = cli_translate.Translator.__call__, []

    def until(self, block):
        calls.append(block)
        if len(calls) == number:
            raise error
        return translate(self, block)

    monkeypatch.setattr(cli_translate.Translator, "__call__", until)
    return calls


def half_done(folder, place, monkeypatch, *more):
    with monkeypatch.context() as patch:
        stop_at(patch, 3, KeyboardInterrupt())
        done = command(*words(folder, place, *more))
    assert done.status == 130 and "4 lines are done and kept" in done.err
    assert names(place) == ["a.de.part", "a.de.part.json", "a.en"]


def test_a_killed_process_is_gone_on_with_where_it_stopped(folder, place, whole, monkeypatch):
    given = list(map(str, words(folder, place)))
    killed = run_child(lambda: killed_at_the_third_block(given))
    assert killed.returncode == -signal.SIGKILL and killed.errors == ""
    assert names(place) == ["a.de.part", "a.de.part.json", "a.en"]
    assert (place / "a.de.part").read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])
    calls = stop_at(monkeypatch, 99, None)
    done = command(*words(folder, place))
    assert done.status == 0 and "resuming after line 4" in done.err
    assert [block.first for block in calls] == [5, 7, 9, 11]  # nothing is translated twice
    assert (place / "a.de").read_bytes() == whole
    assert names(place) == ["a.de", "a.en"]


@pytest.mark.parametrize("moment", ["write", "fsync", "dump", "replace"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_killed_between_text_and_state(folder, place, whole, monkeypatch, moment, call):
    """What is written without its state is thrown away; what has its state is there."""
    counts = {"write": 0}

    def kill(owner, name):
        real = getattr(owner, name)

        def until(*values, **options):
            if armed(values):
                counts["write"] += 1
                if counts["write"] == call:
                    raise Killed
            return real(*values, **options)

        return until

    def armed(values):
        return moment != "replace" or str(values[0]).endswith("part.json")

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(PartialOutput, "write", kill(PartialOutput, "write"))
        elif moment == "dump":
            patch.setattr(cli_resume.json, "dump", kill(cli_resume.json, "dump"))
        elif moment == "fsync":
            patch.setattr(cli_resume.os, "fsync", kill(cli_resume.os, "fsync"))
        else:
            patch.setattr(cli_resume.Path, "replace", kill(cli_resume.Path, "replace"))
        patch.setattr(PartialOutput, "close", lambda self: self._file and self._file.close())
        with pytest.raises(Killed):
            command(*words(folder, place))
    assert not (place / "a.de").exists()
    again = command(*words(folder, place))
    assert again.status == 0, again.err
    assert (place / "a.de").read_bytes() == whole and names(place) == ["a.de", "a.en"]


def test_killed_after_the_output_has_its_name(folder, place, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cli_resume.Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            command(*words(folder, place))
    assert names(place) == ["a.de", "a.de.part.json", "a.en"]
    assert command(*words(folder, place)).status == 0
    assert (place / "a.de").read_bytes() == whole and names(place) == ["a.de", "a.en"]


def test_standard_input_given_again_is_gone_on_with_too(folder, place, whole, monkeypatch):
    given = ["translate", folder, "--output", place / "a.de", *SIZE]
    with monkeypatch.context() as patch:
        stop_at(patch, 2, KeyboardInterrupt())
        assert command(*given, stdin="".join(DATA)).status == 130
    refused(command(*given, stdin="other\n" * 9), "first 2 lines of stdin", "--restart")
    done = command(*given, stdin="".join(DATA))
    assert done.status == 0 and "after line 2" in done.err and (place / "a.de").read_bytes() == whole


def test_other_settings_models_and_inputs_are_refused(folder, place, whole, monkeypatch):
    half_done(folder, place, monkeypatch)
    part = (place / "a.de.part").read_bytes()
    refused(command(*words(folder, place, "--beams", 2)), "beams was None and is 2", "--restart")
    refused(command(*words(folder, place, "--forbid", "dog")), "forbid was None and is ['dog']")
    other = save_model(place / "other", seed=5)
    refused(command(*words(other, place)), "model was")
    text = (place / "a.en").read_text(encoding="utf-8")
    (place / "a.en").write_text("A" + text, encoding="utf-8")
    refused(command(*words(folder, place)), "first 4 lines of", "a.en", "--restart")
    (place / "a.en").write_text(text[:20], encoding="utf-8")
    refused(command(*words(folder, place)), "first 4 lines of")
    assert (place / "a.de.part").read_bytes() == part  # a refusal destroys nothing
    # Lines that were not reached yet may be corrected.
    (place / "a.en").write_text(text + "The dog sleeps.\n", encoding="utf-8")
    assert command(*words(folder, place, "-q")).err == ""
    made = (place / "a.de").read_bytes()
    assert made.startswith(whole) and made.count(b"\n") == 12


def test_started_again_on_request_and_damage_is_named(folder, place, whole, monkeypatch):
    half_done(folder, place, monkeypatch)
    (place / "a.de.part.json").write_text("{")
    refused(command(*words(folder, place)), "a.de.part.json' is damaged", "--restart")
    (place / "a.de.part.json").unlink()
    refused(command(*words(folder, place)), "is in the way", "--restart")
    assert (place / "a.de.part").exists()
    assert command(*words(folder, place, "--restart")).status == 0
    assert (place / "a.de").read_bytes() == whole
    (place / "a.de").unlink()
    half_done(folder, place, monkeypatch)
    state = json.loads((place / "a.de.part.json").read_text(encoding="utf-8"))
    (place / "a.de.part").write_bytes(b"x")
    refused(command(*words(folder, place)), "is shorter than")
    (place / "a.de.part.json").write_text(json.dumps(state | {"lines": "4"}))
    refused(command(*words(folder, place)), "is damaged")


def test_two_commands_do_not_write_one_file(folder, place, monkeypatch):
    pytest.importorskip("fcntl")
    translate = cli_translate.Translator.__call__
    said = []

    def while_another_starts(self, block):
        if not said:
            said.append(None)
            said.append(command(*words(folder, place)))
        return translate(self, block)

    monkeypatch.setattr(cli_translate.Translator, "__call__", while_another_starts)
    assert command(*words(folder, place)).status == 0
    refused(said[1], "another command is writing")
    assert (place / "a.de").read_bytes().count(b"\n") == 11


def test_a_line_that_is_no_text_can_be_corrected_afterwards(folder, place, whole):
    (place / "a.en").write_bytes("".join(DATA).encode().replace(b"sleeps", b"\xffleeps", 1))
    refused(command(*words(folder, place)), "line 4: byte 9")
    assert (place / "a.de.part").read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])
    (place / "a.en").write_text("".join(DATA), encoding="utf-8")
    assert command(*words(folder, place)).status == 0
    assert (place / "a.de").read_bytes() == whole


def test_nothing_is_left_where_nothing_was_done_and_a_full_disk_is_named(folder, place, whole, monkeypatch):
    (place / "a.de").write_text("what stood here before")
    with monkeypatch.context() as patch:
        stop_at(patch, 1, KeyboardInterrupt())
        assert command(*words(folder, place)).status == 130
    assert names(place) == ["a.de", "a.en"] and (place / "a.de").read_text() == "what stood here before"
    written = []

    def full(number):
        written.append(number)
        if len(written) > 5:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cli_resume.os, "fsync", full)
        refused(command(*words(folder, place)), "No space left on device", "repeat the command", status=1)
    assert command(*words(folder, place)).status == 0
    assert (place / "a.de").read_bytes() == whole


@pytest.mark.distributed
def test_two_processes_share_the_lines_and_go_on_where_one_stopped(folder, place, whole, monkeypatch):
    half_done(folder, place, monkeypatch)
    given = list(map(str, words(folder, place)))
    done = run_launched("cpu.yaml", lambda: noting_blocks(given), folder=place)
    assert done.returncode == 0, done.errors[-3000:]
    assert done.errors.count("resuming after line 4") == 1
    assert (place / "a.de").read_bytes() == whole
    assert names(place) == ["a.de", "a.en", "rank0", "rank1"]
    firsts = [[int(line) for line in (place / name).read_text().split()] for name in ("rank0", "rank1")]
    assert firsts == [[5, 9], [7, 11]]  # each block once, by one of the two


def test_lines_before_one_that_is_no_text_are_shared_too():
    taken = blocks(io.BytesIO(b"a\nb\nc\n\xff\n"), "x", 1, at_once=False)
    rounds, found = groups(taken, 2), []
    with pytest.raises(CliError, match="line 4"):
        for group in rounds:
            found.append([block.texts for block in group])
    assert found == [[["a"], ["b"]], [["c"]]]


def test_several_processes_need_files(folder, place, monkeypatch):
    several = cli_translate.models.ProcessContext(cli_translate.torch.device("cpu"), 0, 2)
    monkeypatch.setattr(cli_translate.models, "process_context", lambda *_: several)
    refused(command("translate", folder, stdin="a\n"), "several processes need --input and --output")
    refused(command("translate", folder, "--input", place / "a.en", stdin="a\n"), "several processes need")
