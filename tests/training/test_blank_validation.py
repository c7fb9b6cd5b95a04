"""Validation sets with empty lines: they are scored as they are, or dropped with those of the training data."""

import pytest

from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.tasks.translation import load_validation


def settings(folder, **values):
    return TranslationSettings(
        output_dir="out", data_dir=str(folder), train_source="a", train_target="b", validation_source="v.en",
        validation_target="v.de", **values,
    )  # fmt: skip


@pytest.mark.parametrize("empty, expected", [
    ("error", (["a", "", "c"], ["A", "B", ""])), ("drop", (["a"], ["A"])),
])  # fmt: skip
def test_empty_lines_of_a_validation_set(tmp_path, empty, expected):
    (tmp_path / "v.en").write_text("a\n\nc\n", encoding="utf-8")
    (tmp_path / "v.de").write_text("A\nB\n\n", encoding="utf-8")
    assert load_validation(settings(tmp_path, empty_lines=empty)) == expected
    (tmp_path / "v.de").write_text("A\nB\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"v\.en has 3 lines but .*v\.de has 2"):
        load_validation(settings(tmp_path, empty_lines=empty))
