"""What the dense model makes of a few hundred training images, asked before hours are spent on making it sparse.

From its answers follow the class order that it was trained with, and a warning where it does no better than guessing.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from mmprune.data.class_order import Outputs
from mmprune.data.splits import LoaderSplit, Split
from mmprune.records import Preprocess

SAMPLE = 256
EVERY = 2  # other ways to feed the model are tried on every second image
BATCH = 32
SURE = 0.01  # how often chance alone may decide for a class order
FEWEST = 30  # images by which accuracy's standard error says something
NEAR = 0.15  # of the way from guessing to all right: a model that was trained for this data is far beyond it
GAIN, FOUND = 0.1, 0.5  # a finding is at least so much better, and so good
CAUSES = ("Fine-tuning would start from nothing. Likely causes: classes in another order than in training "
          "(--class-order), other mean and std (--mean, --std), another crop or size, channels in the order BGR, "
          "weights of something else, a classifier that was never trained.")

Change = Callable[[Tensor], Tensor]


def choose_order(model: nn.Module, train: Split, outputs: Outputs, device: str = "cpu") -> tuple[Outputs, str]:
    """The order, of `outputs` and its others, with which the model is right most often, and a note on it.

    train  labelled by `outputs`; only images of classes that the orders place differently are asked about
    """
    orders = {outputs.order: outputs.index, **outputs.others}
    places = np.stack(list(orders.values()))
    differing = (places != outputs.index).any(axis=0)
    here = np.isin(train.labels, outputs.index[differing])
    sample = replace(train, index=train.index[here], labels=train.labels[here]).subset(SAMPLE, seed=0)
    answers = ask(model, sample, device)
    classes = _inverse(outputs.index)[sample.labels]
    right = {word: index[classes] == answers for word, index in orders.items()}
    best = max(orders, key=lambda word: int(right[word].sum()))  # the first, which is the usual one, of equal ones
    best_first = sorted(orders, key=best.__ne__)
    shares = (f"of {len(sample)} training images of the classes that the orders number differently the dense model has "
              f"right: {', '.join(f'{word} {_share(right[word])}' for word in best_first)}")
    way_out = f"if the weights were trained with another, say --class-order ({', '.join(orders)} or a file)"
    if _is_near_chance(right[best], orders[best][classes], answers):
        best = outputs.order
        note = f"class order {best}, but the dense model cannot tell, it is near guessing: {shares}; {way_out}"
    elif all(_odds(right[best], right[word]) < SURE for word in best_first[1:]):
        note = f"class order {best}: {shares}; --class-order says another"
    else:
        note = f"class order {best}, but it is too close to call: {shares}; {way_out}"
    return Outputs(best, orders[best], notes=outputs.notes), note


def examine(model: nn.Module, train: Split, outputs: Outputs, classes: Sequence[str],
            device: str = "cpu") -> tuple[str, ...]:
    """Warnings where the model hardly knows the training data, or would know it much better if fed otherwise."""
    sample = _balanced(train)
    answers = ask(model, sample, device)
    right = answers == sample.labels
    near = _is_near_chance(right, sample.labels, answers)
    found = []
    if right.mean() <= 1 - GAIN:  # else nothing can be much better
        words, best = _reordered(sample.labels, answers, outputs, classes)
        tried = [(words, best[::EVERY])]
        few = replace(sample, index=sample.index[::EVERY], labels=sample.labels[::EVERY])
        tried += [(words, ask(model, few, device, change) == few.labels) for words, change in _trials(train.preprocess)]
        words, best = max(tried, key=lambda one: int(one[1].sum()))
        found = [f"{words} it is right on {_share(best)}."] if _is_much_better(best, right[::EVERY]) else []
    wrong = f"the dense model is right on {_share(right)} of {len(sample)} training images"
    not_finite = int((answers < 0).sum())
    if not_finite:
        wrong += f", and on {not_finite} it gives numbers that are not finite"
    if near:
        return (" ".join([f"{wrong}: hardly better than guessing. {CAUSES}", *found]),)
    return (" ".join([f"{wrong}.", *found]),) if found or not_finite else ()


def near_guessing(model: nn.Module, split: LoaderSplit, device: str = "cpu") -> tuple[str, ...]:
    """A warning where the model hardly knows the first few hundred images of a loader."""
    model.to(device).eval()
    labels, answers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for images, targets in split.batches(BATCH):
        labels.append(targets.numpy())
        answers.append(_answers(model, images, device))
        if sum(map(len, labels)) >= SAMPLE:
            break
    model.cpu()
    here, given = np.concatenate(labels), np.concatenate(answers)
    right = here == given
    if not _is_near_chance(right, here, given):
        return ()
    return (f"the dense model is right on {_share(right)} of {len(right)} validation images: hardly better than "
            "guessing. Fine-tuning would start from nothing. Likely causes: labels in another order than in training, "
            "images normalized otherwise, weights of something else, a classifier that was never trained.",)


def _balanced(train: Split) -> Split:
    """About SAMPLE images, of each class as many: of a rare one a few hundred drawn at random may have none."""
    random = np.random.default_rng(0)
    classes = np.unique(train.labels)
    most = -(-SAMPLE // len(classes))
    chosen = np.concatenate([random.permutation(np.flatnonzero(train.labels == c))[:most] for c in classes])
    chosen = np.sort(random.permutation(chosen)[:SAMPLE])
    return replace(train, index=train.index[chosen], labels=train.labels[chosen])


@torch.no_grad()
def ask(model: nn.Module, split: Split, device: str, change: Change = lambda x: x) -> np.ndarray:
    """(n,) the output with the largest logit for each image, changed before; -1 where a logit is not finite."""
    model.to(device).eval()
    answers = [np.empty(0, np.int64)]
    for images, _ in split.batches(BATCH):
        answers.append(_answers(model, change(images), device))
    return np.concatenate(answers)


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor, device: str) -> np.ndarray:
    logits = model(images.to(device)).cpu()
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1).numpy()


def _inverse(index: np.ndarray) -> np.ndarray:
    """The class of each output; -1 for an output of no class."""
    classes = np.full(int(index.max()) + 1, -1)
    classes[index[index >= 0]] = np.flatnonzero(index >= 0)
    return classes


def _share(right: np.ndarray) -> str:
    return f"{right.mean() if len(right) else 0:.1%}"


def _odds(a: np.ndarray, b: np.ndarray) -> float:
    """How likely `a` is ahead of `b` by chance as far as it is: the sign test on images that only one has right."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    return sum(math.comb(n, k) for k in range(only_a, n + 1)) / 2**n


def _is_much_better(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a.mean() >= FOUND and a.mean() - b.mean() >= GAIN and _odds(a, b) < SURE / 10)


def _is_near_chance(right: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> bool:
    """Whether the answers agree with the labels hardly more often than shuffled answers would.

    Those would in a fraction c = sum over classes of (share of labels) * (share of answers): naming the commonest class
    every time is no better than chance, however common it is. Near: (accuracy - c) / (1 - c) < NEAR (Cohen's kappa) and
    accuracy < 3 c, since of a hundred classes a tenth is far from guessing; or, of images enough to tell, accuracy
    within two standard errors of c.
    """
    n = len(right)
    named = Counter(answers.tolist())
    chance = sum(count / n * named[label] / n for label, count in Counter(labels.tolist()).items())
    above = right.mean() - chance
    unsure = 2 * math.sqrt(chance * (1 - chance) / n) if n >= FEWEST else 0.0
    return bool(above < max(unsure, min(NEAR * (1 - chance), 2 * chance)))


def _reordered(labels: np.ndarray, answers: np.ndarray, outputs: Outputs,
               classes: Sequence[str]) -> tuple[str, np.ndarray]:
    """In which order of classes the answers would be right, in words, and on which images they would then be.

    Which number stands for which class is learned on one half of the images and judged on the other.
    """
    halves = (slice(0, None, 2), slice(1, None, 2))
    consistent = np.zeros(len(labels), bool)
    for learned, judged in (halves, halves[::-1]):
        meaning = _pair(labels[learned], answers[learned])
        consistent[judged] = [meaning.get(label) == answer
                              for label, answer in zip(labels[judged].tolist(), answers[judged].tolist(), strict=True)]
    names = _inverse(outputs.index)
    pairs = sorted(_pair(labels, answers).items())
    words = [f"{classes[names[label]]} is output {answer}" for label, answer in pairs if label != answer]
    shown = ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
    return f"With the classes in the order of its answers ({shown}: --class-order takes a file of names)", consistent


def _pair(labels: np.ndarray, answers: np.ndarray) -> dict[int, int]:
    """One answer for each label, the commonest pairs first."""
    pairs: dict[int, int] = {}
    for (label, answer), _ in Counter(zip(labels.tolist(), answers.tolist(), strict=True)).most_common():
        if label not in pairs and answer not in pairs.values() and answer >= 0:
            pairs[label] = answer
    return pairs


def _trials(preprocess: Preprocess) -> list[tuple[str, Change]]:
    """Other ways to feed the model, in words and as a function of normalized images."""
    mean, std = _column(preprocess.mean), _column(preprocess.std)
    trials: list[tuple[str, Change]] = []
    if len(preprocess.mean) == 3:
        trials.append(("With the channels in the order BGR (convert the images, or the inputs of the first layer's "
                       "weights)", lambda x: ((x * std + mean).flip(1) - mean) / std))
    for words, m, s in _scales(len(mean)):
        trials.append((words, partial(_rescaled, mean - m, std, s)))
    return trials


def _rescaled(shift: Tensor, std: Tensor, new_std: Tensor, images: Tensor) -> Tensor:
    return (images * std + shift) / new_std


def _scales(channels: int) -> list[tuple[str, Tensor, Tensor]]:
    """Usual means and standard deviations: [0, 1], [-1, 1], [0, 255] and ImageNet's; as options, and as tensors."""
    known: list[tuple[Sequence[float], Sequence[float]]] = [
        ((0.0,), (1.0,)), ((0.5,), (0.5,)), ((0.0,), (1 / 255,)), (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
    return [(f"With --mean {_numbers(m)} --std {_numbers(s)}", _column(m), _column(s))
            for m, s in known if len(m) in (1, channels)]


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{v:.3g}" for v in values)
