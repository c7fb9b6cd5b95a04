"""What a linear model makes of the same images: scikit-learn's logistic regression on the pixels, the same splits.

    python -m vaswani_tx.training.baselines.linear_images training/recipes/image_classifier/digits.yaml

Takes a recipe of `train_image_classifier` and reads its keys of data, size and channels; pixels are normalised alike.
The penalty is chosen on the validation split among powers of ten.
"""

import sys

import numpy as np

from vaswani_tx.training.command_line import command, print_status
from vaswani_tx.training.config.images import ImageSettings
from vaswani_tx.training.data.image_batches import Pixels
from vaswani_tx.training.data.images import Images, load_images
from vaswani_tx.training.engine.run import RunContext
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import ImageDataError
from vaswani_tx.training.tasks.images import macro_f1, make_processor

PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)


def run(arguments: ImageSettings) -> dict[str, float]:
    """Fits and scores as the recipe says; returns the test split's accuracy and macro F1, from 0 to 1."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ImageDataError("The linear baseline is scikit-learn's: pip install scikit-learn.") from None
    arguments.check_data()
    data = load_images(arguments)
    if not len(data.validation) or not len(data.test):
        raise ImageDataError("The baseline needs a validation and a test split: set their shares above 0.")
    processor = make_processor(RunContext(arguments, None, RunFolder(""), None), data)
    train, validation, test = (_rows(part, processor) for part in (data.train, data.validation, data.test))
    found = []
    for penalty in PENALTIES:
        model = LogisticRegression(C=1 / penalty, max_iter=5000).fit(train, data.train.labels)
        found.append((float((model.predict(validation) == data.validation.labels).mean()), penalty, model))
    accuracy, penalty, model = max(found, key=lambda entry: entry[:2])
    confusion = np.zeros((len(data.names), len(data.names)), dtype=np.int64)
    np.add.at(confusion, (data.test.labels, model.predict(test)), 1)
    scores = {"accuracy": float(np.trace(confusion) / confusion.sum()), "macro_f1": macro_f1(confusion)}
    print_status(f"logistic regression, penalty {penalty}: validation accuracy {accuracy:.4f}, test accuracy "
        f"{scores['accuracy']:.4f}, macro F1 {scores['macro_f1']:.4f} ({confusion.sum()} images)")  # fmt: skip
    return scores


def _rows(part: Images, processor) -> np.ndarray:
    """The images of a split as rows of numbers, [N, C * height * width]."""
    pixels = Pixels(part, processor, 0)
    return pixels.tensor(pixels.bytes(np.arange(len(pixels)))).flatten(1).numpy()


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return command(argv, ImageSettings, __doc__, run)


if __name__ == "__main__":
    sys.exit(main())
