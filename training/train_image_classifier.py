"""Train an image classifier: the paper's encoder over patches, on scikit-learn's digits, a folder or a Hub data set.

    vaswani-tx train image-classifier image_classifier/digits --output-dir runs/digits
    vaswani-tx train image-classifier --dataset pictures/ --preset tiny --model.image_size 64 \\
        --model.patch_size 8 --schedule cosine --learning-rate 1e-3 --max-epochs 30 --output-dir runs/pictures

`dataset` is `digits` (scikit-learn's, 8 x 8 grey), a folder with a sub-folder of image files for each class (or with
`train/`, `validation/`, `test/` above these), or the name of a data set on the Hub. Columns of images and labels are
found, or given. Splits that the data set lacks are cut from its training split, every class by its share, by
`split_seed`. A recipe is a YAML file, or the name of a ready-made one; every key is also a flag (`--max-steps 100`,
`--model.dropout 0.3`).

The run folder gets what `train translation` writes (`metrics.jsonl`, `checkpoints/`, `best/`, `averaged/`, ...), the
image processor as `processor/`, and `scores.json`: accuracy, macro F1, every class and the confusion matrix on the test
split, which nothing before has looked at. `best/` is a folder for `pipeline("image-classification", model=...)`. The
same command resumes where the run stopped. A command, a recipe or data that cannot be used end with status 2.
"""

import json
import sys
from typing import Any

from vaswani_tx.training.command_line import command, print_status
from vaswani_tx.training.config.images import ImageSettings
from vaswani_tx.training.files import atomic_text


def run(settings: ImageSettings) -> None:
    """Train and score as the settings say; a run that was stopped before its scores only gets these."""
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.training.engine.run import train
    from vaswani_tx.training.tasks.images import prepare

    unscored = _unscored_run(settings)
    if unscored is not None:
        context, task = unscored
    else:
        result = train(settings, prepare)
        context, task = result.context, result.task
    if context.accelerator.is_main_process:
        score_test(context, task)


def _unscored_run(settings: ImageSettings) -> tuple[Any, Any] | None:
    """Return context and task of a run that has all its updates but no scores; None where there is none."""
    import torch
    from accelerate import Accelerator

    from vaswani_tx.training.engine.run import RunContext
    from vaswani_tx.training.engine.run_folder import RunFolder
    from vaswani_tx.training.tasks.images import prepare

    folder = RunFolder(settings.output_dir)
    if not settings.output_dir or settings.overwrite or (folder.path / "scores.json").exists():
        return None
    if not folder.finished.exists() or not folder.is_done(settings):
        return None
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    context = RunContext(settings, accelerator, folder, folder.best if folder.best.is_dir() else None)
    components = prepare(context)
    return context, components.make_task(components.make_model())


def score_test(context: Any, task: Any) -> dict[str, Any] | None:
    """Score the models of a finished run on the test split and write `scores.json`; None without such a split."""
    from vaswani_tx.training.engine.checkpoints import latest_checkpoint
    from vaswani_tx.training.tasks.images import load_model, show_confusion

    folder, names = context.folder, task.data.names
    if not len(task.data.test):
        return None
    models = [path for path in (folder.best, folder.averaged, folder.ema) if path.is_dir()]
    models = models or [latest_checkpoint(folder.checkpoints)]
    scores: dict[str, Any] = {"dataset": context.settings.dataset, "names": names}
    for path in models:
        model = load_model(path).to(context.accelerator.device)
        found = scores[path.name] = task.score_test(model).details
        print_status(
            f"{path.name}: test accuracy {found['accuracy']:.4f}, macro F1 {found['macro_f1']:.4f}, "
            f"loss {found['loss']:.4f} ({found['images']} images)"
        )
    atomic_text(folder.path / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    if len(names) <= 20:
        print_status(show_confusion(scores[models[0].name]["confusion"], names))
    return scores


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command(argv, ImageSettings, __doc__, run)


if __name__ == "__main__":
    sys.exit(main())
