"""Prints the likeliest classes of images: python3 infer.py photo.jpg. Lies beside the model that model.json names.

From Python, with this folder in sys.path: infer.load() gives a Classifier.
"""

import argparse
import json
import pathlib
import sys
from collections import namedtuple
from types import SimpleNamespace

# What lies beside this file, and what pip brings, is imported where it is used: a missing one is said in a sentence

HERE = pathlib.Path(__file__).resolve().parent
MODEL, SETTINGS, LABELS = "model.json", "preprocess.json", "labels.txt"
MOST = 5  # classes that are printed of an image

# prepare: an image file, or a (height, width, 1 or 3) uint8 array -> (1, channels, height, width) float32
# run: that -> (1, classes), the scores of `labels`
Classifier = namedtuple("Classifier", "labels prepare run")


def load():
    """The model of this folder."""
    import preprocess  # beside this file: as in training
    import runtimes
    model = json.loads((HERE / MODEL).read_text(encoding="utf-8"))
    settings = SimpleNamespace(**json.loads((HERE / SETTINGS).read_text(encoding="utf-8")))
    labels = (HERE / LABELS).read_text(encoding="utf-8").splitlines()
    opened = runtimes.RUNTIMES[model["runtime"]].open(str(HERE / model["model"]), model["threads"])
    return Classifier(labels, lambda image: preprocess.network_input(image, settings), runtimes.answers(opened))


def likeliest(scores):
    """[(index, probability)] of the likeliest classes, by softmax."""
    import numpy
    odds = numpy.exp(scores.astype(numpy.float64) - scores.max())
    return [(i, odds[i] / odds.sum()) for i in numpy.argsort(-odds)[:MOST]]


def main():
    parser = argparse.ArgumentParser(description="Prints the likeliest classes of images.")
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
