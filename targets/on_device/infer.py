"""Prints the most probable classes of images: python3 infer.py photo.jpg. It lies beside the model named in model.json.

From Python, with this folder in sys.path: infer.load() returns a Classifier.
"""

import argparse
import json
import pathlib
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Callable, List, NamedTuple, Tuple, Union

# Neighbouring modules and pip packages are imported where they are used, to report a missing one in one sentence
if TYPE_CHECKING:
    import numpy

HERE = pathlib.Path(__file__).resolve().parent
MODEL, SETTINGS, LABELS = "model.json", "preprocess.json", "labels.txt"
MOST = 5  # classes printed per image


class Classifier(NamedTuple):
    """The model of a folder."""

    labels: List[str]
    # an image file, or a (height, width, 1 or 3) uint8 array -> (1, channels, height, width) float32
    prepare: Callable[[Union[str, pathlib.Path, "numpy.ndarray"]], "numpy.ndarray"]
    run: Callable[["numpy.ndarray"], "numpy.ndarray"]  # that -> (1, classes), the scores of `labels`


def load() -> Classifier:
    """The model of this folder."""
    import preprocess  # beside this file: the same as in training
    import runtimes
    model = json.loads((HERE / MODEL).read_text(encoding="utf-8"))
    settings = SimpleNamespace(**json.loads((HERE / SETTINGS).read_text(encoding="utf-8")))
    labels = (HERE / LABELS).read_text(encoding="utf-8").splitlines()
    opened = runtimes.RUNTIMES[model["runtime"]].open(str(HERE / model["model"]), model["threads"])
    return Classifier(labels, lambda image: preprocess.network_input(image, settings), runtimes.answers(opened))


def likeliest(scores: "numpy.ndarray") -> List[Tuple[int, float]]:
    """[(index, probability)] of the most probable classes, by softmax."""
    import numpy
    odds = numpy.exp(scores.astype(numpy.float64) - scores.max())
    return [(i, odds[i] / odds.sum()) for i in numpy.argsort(-odds)[:MOST]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the most probable classes of images.")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image file, such as photo.jpg")
    images = parser.parse_args().images
    try:
        classifier = load()
    except ModuleNotFoundError as err:
        packages = json.loads((HERE / MODEL).read_text(encoding="utf-8"))["packages"]
        sys.exit("infer.py: {}; it needs {}: pip install {}".format(err, ", ".join(packages), " ".join(packages)))
    failed = False
    for image in images:
        try:
            x = classifier.prepare(image)
        except ValueError as err:
            print("infer.py: {}".format(err), file=sys.stderr)
            failed = True
            continue
        if len(images) > 1:
            print(image)
        for i, probability in likeliest(classifier.run(x)[0]):
            print("{:7.2%}  {}".format(probability, classifier.labels[i]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
