"""Ready-made recipes, sweeps, ladders and configurations of accelerate are found by name; a user's own file wins."""

import json
from pathlib import Path

import pytest

from tests.helpers import ROOT
from vaswani_tx.training import scaling, sweep
from vaswani_tx.training.config import shipped
from vaswani_tx.training.config.language_modeling import MaskedSettings
from vaswani_tx.training.config.recipe import parse, read_recipe
from vaswani_tx.training.config.shipped import find_shipped
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.errors import SettingsError, SweepError
from vaswani_tx.training.experiments.sweep import launch_words
from vaswani_tx.training.experiments.sweep_rows import read_sweep

TRAINING = ROOT / "training"
FOLDERS = {"recipes": 10, "sweeps": 1, "ladders": 1, "accelerate_configs": 5}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Outside any checkout, where no path of the package exists."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_found_by_its_name_and_its_path_in_the_repository(folder):
    files = sorted((TRAINING / folder).rglob("*.yaml"))
    assert len(files) >= FOLDERS[folder]
    for file in files:
        name = file.relative_to(TRAINING / folder).as_posix()
        for given in (name, name.removesuffix(".yaml"), f"{folder}/{name}", f"training/{folder}/{name}"):
            found = find_shipped(given, folder)
            assert found.samefile(file) and found.is_relative_to(shipped.PACKAGE), given


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "demo_en_de.yml",
        "sweeps/table3",
        "../recipes/demo_en_de",
        "training/demo_en_de/x",
        "",
        ".",
    ],
)
def test_other_names_stay_the_paths_that_they_are(name):
    assert find_shipped(name, "recipes") == Path(name)


def test_an_absolute_path_is_only_itself(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    assert find_shipped(tmp_path / "mine", "recipes") == tmp_path / "mine"


def test_recipe_by_name():
    named = parse(["multi30k_en_de", "--seed", "5"], TranslationSettings)
    assert named == parse([str(TRAINING / "recipes" / "multi30k_en_de.yaml"), "--seed", "5"], TranslationSettings)
    assert named.seed == 5 and named.train_source == "train.en"
    assert parse(["masked_lm/tatoeba_en"], MaskedSettings).train_text


@pytest.mark.parametrize("name", ["multi30k_en_de", "multi30k_en_de.yaml", "recipes/multi30k_en_de.yaml"])
def test_an_existing_file_of_that_name_wins(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("seed: 77\n")
    assert read_recipe(name, TranslationSettings) == {"seed": 77}


def test_a_folder_of_that_name_is_not_in_the_way(tmp_path):
    (tmp_path / "multi30k_en_de").mkdir()
    assert read_recipe("multi30k_en_de", TranslationSettings)["train_source"] == "train.en"


def test_errors_name_the_nearest_and_list_all():
    with pytest.raises(SettingsError) as error:
        read_recipe("training/recipes/multi30k_en_ed.yaml", TranslationSettings)
    assert "No recipe at 'training/recipes/multi30k_en_ed.yaml'. Did you mean 'multi30k_en_de'?" in str(error.value)
    assert "In training/recipes: causal_lm/tatoeba_en.yaml, " in str(error.value)
    with pytest.raises(SweepError, match=r"'tabel3'; it comes first\. Did you mean 'table3'\? In training/sweeps: t"):
        read_sweep("tabel3")
    with pytest.raises(SweepError, match=r"--launch: .* 'dpp'\. Did you mean 'ddp'\? In training/accelerate_con"):
        launch_words("dpp --num_processes 2")


def test_ladder_that_is_not_there_lists_all(capsys):
    assert scaling.main(["tatoeba", "--output-dir", "out"]) == 2
    assert (
        "There is no ladder at 'tatoeba'. Did you mean 'tatoeba_en'? In training/ladders: t" in capsys.readouterr().err
    )


def test_sweep_by_name_with_a_recipe_by_name(tmp_path, capsys):
    assert read_sweep("table3", output_dir="out").recipe == read_sweep("sweeps/table3.yaml", output_dir="out").recipe
    rows = {"one": {"set": {"seed": 3}}}
    common = {"max_steps": 5, "data_dir": "data"}
    (tmp_path / "mine.yaml").write_text(json.dumps({"recipe": "multi30k_en_de", "set": common, "rows": rows}))
    assert sweep.main(["mine.yaml", "--output-dir", "out", "--dry-run", "--launch", "ddp --num_processes 2"]) == 0
    printed = capsys.readouterr().out
    assert f"--config_file {shipped.PACKAGE / 'accelerate_configs' / 'ddp.yaml'} --num_processes 2 -m" in printed
    assert "recipes/multi30k_en_de.yaml" in printed
    (tmp_path / "multi30k_en_de").write_text("seed: 9\nbeam: 1\n")
    assert sweep.main(["mine.yaml", "--output-dir", "out", "--dry-run"]) == 2
    assert "unknown key 'beam'" in capsys.readouterr().err, "a file beside the sweep wins"


def test_launcher_without_a_configuration():
    assert launch_words(None) == []
    assert launch_words("--num_processes 2") == ["-m", "accelerate.commands.launch", "--num_processes", "2"]
