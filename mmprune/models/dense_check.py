"""Checks the dense model on a few hundred training images, before hours are spent on making it sparse.

Its predictions show with which class order it was trained, and give a warning if they are no better than guessing.
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

from mmprune.chance import is_near_chance
from mmprune.data.class_order import Outputs
from mmprune.data.splits import LoaderSplit, Split
from mmprune.records import Preprocess

SAMPLE = 256
EVERY = 2  # other kinds of preprocessing are tried on every second image
BATCH = 32
SURE = 0.01  # largest probability that a class order was chosen by chance
GAIN, FOUND = 0.1, 0.5  # a finding must be better by GAIN and reach at least the accuracy FOUND
CAUSES = ("Fine-tuning would start from scratch. Likely causes: another class order than in training "
          "(--class-order), another mean and std (--mean, --std), another crop or size, channels in BGR order, "
          "the weights of another model, or an untrained classifier.")

Change = Callable[[Tensor], Tensor]


def choose_order(model: nn.Module, train: Split, outputs: Outputs, device: str = "cpu") -> tuple[Outputs, str]:
    """Of `outputs` and its other orders, the one with which the model is most often correct, and a note on it.

    train  labelled by `outputs`; only images of classes whose place differs between the orders are used
    """
    orders = {outputs.order: outputs.index, **outputs.others}
    places = np.stack(list(orders.values()))
    differing = (places != outputs.index).any(axis=0)
    here = np.isin(train.labels, outputs.index[differing])
    sample = replace(train, index=train.index[here], labels=train.labels[here]).subset(SAMPLE, seed=0)
    answers = ask(model, sample, device)
    classes = _inverse(outputs.index)[sample.labels]
    right = {word: index[classes] == answers for word, index in orders.items()}
    best = max(orders, key=lambda word: int(right[word].sum()))  # of equal ones the first, which is the usual order
    best_first = sorted(orders, key=best.__ne__)
    shares = (f"accuracy of the dense model on {len(sample)} training images of the classes that the orders number "
              f"differently: {', '.join(f'{word} {_share(right[word])}' for word in best_first)}")
    way_out = f"if the weights were trained with another order, pass --class-order ({', '.join(orders)} or a file)"
    if _is_near_chance(right[best], orders[best][classes], answers):
        best = outputs.order
        note = f"class order {best}, but this is uncertain, since the dense model is near guessing: {shares}; {way_out}"
    elif all(_odds(right[best], right[word]) < SURE for word in best_first[1:]):
        note = f"class order {best}: {shares}; --class-order sets another"
    else:
        note = f"class order {best}, but it is too close to call: {shares}; {way_out}"
    return Outputs(best, orders[best], notes=outputs.notes), note


def examine(model: nn.Module, train: Split, outputs: Outputs, classes: Sequence[str],
            device: str = "cpu") -> tuple[str, ...]:
    """Warnings if the training accuracy is near guessing, or much better with other preprocessing or class order."""
    sample = _balanced(train)
    answers = ask(model, sample, device)
    right = answers == sample.labels
    near = _is_near_chance(right, sample.labels, answers)
    found = []
    if right.mean() <= 1 - GAIN:  # otherwise no other way can be much better
        words, best = _reordered(sample.labels, answers, outputs, classes)
        tried = [(words, best[::EVERY])]
        few = replace(sample, index=sample.index[::EVERY], labels=sample.labels[::EVERY])
        tried += [(words, ask(model, few, device, change) == few.labels) for words, change in _trials(train.preprocess)]
        words, best = max(tried, key=lambda one: int(one[1].sum()))
        found = [f"{words} it is correct on {_share(best)}."] if _is_much_better(best, right[::EVERY]) else []
    wrong = f"the dense model is correct on {_share(right)} of {len(sample)} training images"
    not_finite = int((answers < 0).sum())
    if not_finite:
        wrong += f", and on {not_finite} its outputs are not finite"
    if near:
        return (" ".join([f"{wrong}: hardly better than guessing. {CAUSES}", *found]),)
    return (" ".join([f"{wrong}.", *found]),) if found or not_finite else ()


def near_guessing(model: nn.Module, split: LoaderSplit, device: str = "cpu") -> tuple[str, ...]:
    """A warning if the model's accuracy on a few hundred images of a loader is near guessing.

    The first images are used, but at most half of SAMPLE of one class: a loader that does not shuffle often yields one
    class after another, and on images of one class a good model is no better than one that always names that class.
    """
    model.to(device).eval()
    labels, answers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    seen: Counter[int] = Counter()
    for images, targets in split.batches(BATCH):
        if chosen := _rare(targets, seen):
            labels.append(targets[chosen].numpy())
            answers.append(_answers(model, images[chosen], device))
        if seen.total() >= SAMPLE:
            break
    model.cpu()
    here, given = np.concatenate(labels), np.concatenate(answers)
    right = here == given
    if not _is_near_chance(right, here, given):
        return ()
    return (f"the dense model is correct on {_share(right)} of {len(right)} validation images: hardly better than "
            "guessing. Fine-tuning would start from scratch. Likely causes: labels in another order than in training, "
            "another normalization, the weights of another model, or an untrained classifier.",)


def _rare(labels: Tensor, seen: Counter[int]) -> list[int]:
    """The positions of labels whose class was seen less than SAMPLE // 2 times, and counts them as seen."""
    chosen = []
    for i, label in enumerate(labels.tolist()):
        if seen[label] < SAMPLE // 2:
            seen[label] += 1
            chosen.append(i)
    return chosen


def _balanced(train: Split) -> Split:
    """About SAMPLE images, equally many per class: a random sample may contain no image of a rare class."""
    random = np.random.default_rng(0)
    classes = np.unique(train.labels)
    most = -(-SAMPLE // len(classes))
    chosen = np.concatenate([random.permutation(np.flatnonzero(train.labels == c))[:most] for c in classes])
    chosen = np.sort(random.permutation(chosen)[:SAMPLE])
    return replace(train, index=train.index[chosen], labels=train.labels[chosen])


@torch.no_grad()
def ask(model: nn.Module, split: Split, device: str, change: Change = lambda x: x) -> np.ndarray:
    """(n,) the index of the largest logit for each image after `change`; -1 where a logit is not finite."""
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
    """The class of each output; -1 for an output without a class."""
    classes = np.full(int(index.max()) + 1, -1)
    classes[index[index >= 0]] = np.flatnonzero(index >= 0)
    return classes


def _share(right: np.ndarray) -> str:
    return f"{right.mean() if len(right) else 0:.1%}"


def _odds(a: np.ndarray, b: np.ndarray) -> float:
    """The probability that `a` leads `b` this far by chance: a sign test on images where only one is correct."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    odds: float = sum(math.comb(n, k) for k in range(only_a, n + 1)) / 2**n
    return odds


def _is_much_better(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a.mean() >= FOUND and a.mean() - b.mean() >= GAIN and _odds(a, b) < SURE / 10)


def _is_near_chance(right: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> bool:
    """Whether the predictions agree with the labels hardly more often than shuffled predictions would.

    Shuffled predictions are correct with probability c = sum over classes of (share of labels) * (share of
    predictions), so always predicting the most frequent class is no better than chance; see is_near_chance.
    """
    n = len(right)
    named = Counter(answers.tolist())
    chance = sum(count / n * named[label] / n for label, count in Counter(labels.tolist()).items())
    return is_near_chance(float(right.mean()), chance, n)


def _reordered(labels: np.ndarray, answers: np.ndarray, outputs: Outputs,
               classes: Sequence[str]) -> tuple[str, np.ndarray]:
    """(the class order that would make the predictions correct, in words; on which images they are then correct).

    The class of each output is determined on one half of the images and verified on the other half.
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
    return f"With the classes in the order of its outputs ({shown}: give --class-order a file of names)", consistent


def _pair(labels: np.ndarray, answers: np.ndarray) -> dict[int, int]:
    """One output for each label, matched greedily from the most frequent pair."""
    pairs: dict[int, int] = {}
    for (label, answer), _ in Counter(zip(labels.tolist(), answers.tolist(), strict=True)).most_common():
        if label not in pairs and answer not in pairs.values() and answer >= 0:
            pairs[label] = answer
    return pairs


def _trials(preprocess: Preprocess) -> list[tuple[str, Change]]:
    """Other kinds of preprocessing, in words and as a function of normalized images."""
    mean, std = _column(preprocess.mean), _column(preprocess.std)
    trials: list[tuple[str, Change]] = []
    if len(preprocess.mean) == 3:
        trials.append(("With the channels in BGR order (convert the images, or the input channels of the first layer's "
                       "weights)", lambda x: ((x * std + mean).flip(1) - mean) / std))
    for words, m, s in _scales(len(mean)):
        trials.append((words, partial(_rescaled, mean - m, std, s)))
    return trials


def _rescaled(shift: Tensor, std: Tensor, new_std: Tensor, images: Tensor) -> Tensor:
    return (images * std + shift) / new_std


def _scales(channels: int) -> list[tuple[str, Tensor, Tensor]]:
    """Usual means and standard deviations ([0, 1], [-1, 1], [0, 255] and ImageNet's), as options and as tensors."""
    known: list[tuple[Sequence[float], Sequence[float]]] = [
        ((0.0,), (1.0,)), ((0.5,), (0.5,)), ((0.0,), (1 / 255,)), (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
    return [(f"With --mean {_numbers(m)} --std {_numbers(s)}", _column(m), _column(s))
            for m, s in known if len(m) in (1, channels)]


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{v:.3g}" for v in values)
