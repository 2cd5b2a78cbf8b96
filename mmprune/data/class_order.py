"""Class orders: which output of the model stands for which class of the data.

A head that was trained elsewhere knows its classes by the trainer's numbers. torchvision's ImageFolder sorts the names
of the folders as strings (0, 1, 10, 11, 2), timm's reader naturally, whatever the case (class_2, class_10; ant, Bee).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo
from timm.utils import natural_key

from mmprune.choices import pick
from mmprune.data.class_names import read_names, same_name
from mmprune.data.image_files import DataError, listed
from mmprune.data.image_sets import DataFacts

AUTO = "auto"
IMAGENET_CLASSES = 1000


def _naturally(names: Sequence[str]) -> list[str]:
    """As timm does, but that names with the same key (1 and 01) are in no order of timm's."""
    try:
        return sorted(sorted(names), key=natural_key)
    except ValueError:  # a name of such digits as "²", which timm cannot read either
        return sorted(names)


ORDERS: dict[str, Callable[[Sequence[str]], list[str]]] = {"torchvision": sorted, "timm": _naturally}


@dataclass(frozen=True)
class Outputs:
    """The model's output for each class of the data, and in which other orders they may have been trained."""

    order: str  # "torchvision", "timm", a file's path, or what else it follows
    index: np.ndarray  # (classes,) int64; -1: none, the class has no images
    others: dict[str, np.ndarray] = field(default_factory=dict)  # those that differ from `index`
    notes: tuple[str, ...] = ()


def find_outputs(facts: DataFacts, num_classes: int, order: str = AUTO) -> Outputs:
    """The outputs of the classes of the data; `order` is auto, torchvision, timm or the path of a file of names.

    auto  labels as they are, where the data has labels; folders by number (timm's order) where all of them are numbers,
          else torchvision's order; `others` has the other one
    DataError where the classes do not fit the model's outputs or the file; ValueError for an unknown order.
    """
    if order not in (AUTO, *ORDERS):
        return _from_file(facts, num_classes, order)
    names, notes = _names_to_sort(facts, num_classes)
    if not names or (facts.numbered and order == AUTO):
        more = () if order == AUTO else (f"--class-order {order} changes nothing: the classes have numbers",)
        by_number = _numbered(facts, num_classes)
        return replace(by_number, notes=notes + by_number.notes + more)
    if len(set(names)) < len(names):
        raise DataError(f"--class-order {order} cannot sort the classes: some have the same name")
    by = {word: _places(facts.classes, rule(names)) for word, rule in ORDERS.items()}
    if order != AUTO:
        return Outputs(order, by[order], notes=notes)
    usual = "timm" if all(map(_is_number, names)) else "torchvision"
    others = {word: index for word, index in by.items() if not np.array_equal(index, by[usual])}
    return Outputs(usual, by[usual], others, notes)


def _names_to_sort(facts: DataFacts, num_classes: int) -> tuple[list[str], tuple[str, ...]]:
    """(the names of all outputs, notes) where only their order is open; no names where it is not."""
    filled = [name for name in facts.classes if name not in facts.empty]
    if len(facts.classes) == num_classes:
        idle = f"the model has an output for classes without images all the same ({', '.join(facts.empty)})"
        return list(facts.classes), _say_labels(facts) + ((idle,) if facts.empty else ())
    if len(filled) == num_classes:
        gone = ", ".join(facts.empty)
        return filled, (f"the model has {num_classes} outputs: none is for the classes without images ({gone})",)
    numbers = [str(i) for i in range(num_classes)]
    if not facts.numbered and set(facts.classes) <= set(numbers):
        return numbers, (f"{_few(facts, num_classes)}: each is the output of its number",)
    return [], ()


def _numbered(facts: DataFacts, num_classes: int) -> Outputs:
    """Labels as they are; fewer classes than outputs by ImageNet id or by number."""
    classes, few = facts.classes, _few(facts, num_classes)
    if len(classes) == num_classes:
        return Outputs("labels", np.arange(num_classes))
    known = list(ImageNetInfo().label_names()) if num_classes == IMAGENET_CLASSES else []
    if set(classes) <= set(known):
        notes = (f"{few}: each is the ImageNet class of its name",)
        return Outputs("ImageNet ids", _places(classes, known), notes=notes)
    if all(map(_is_number, classes)) and max(map(int, classes)) < num_classes:
        index = np.array([int(name) for name in classes], np.int64)
        return Outputs("numbers", index, notes=(f"{few}: each is the output of its number",))
    raise DataError(f"{few}; use weights with {len(classes)} outputs (train such a head first), name the classes by "
                    "ImageNet id (n01440764) or by output number (0, 1, ...), or give --class-order a file with the "
                    f"names of all {num_classes}")


def _few(facts: DataFacts, num_classes: int) -> str:
    shown = ", ".join(facts.classes[:3]) + (", ..." if len(facts.classes) > 3 else "")
    return f"the model has {num_classes} outputs and the data {len(facts.classes)} classes ({shown})"


def _say_labels(facts: DataFacts) -> tuple[str, ...]:
    """A note where labels are not 0, 1, 2 ... and still as many as the model has outputs."""
    n = len(facts.classes)
    if not facts.numbered or not all(map(_is_number, facts.classes)) or facts.classes == tuple(map(str, range(n))):
        return ()
    low, high = facts.classes[0], facts.classes[-1]
    return (f"the labels are {n} numbers from {low} to {high}: they are taken as the model's outputs 0 to {n - 1}, in "
            f"that order; where they are numbers of outputs, say --num-classes {int(high) + 1} or more",)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _places(classes: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Where each class stands among the names; -1: nowhere."""
    place = {name: i for i, name in enumerate(names)}
    return np.array([place.get(name, -1) for name in classes], np.int64)


def _from_file(facts: DataFacts, num_classes: int, order: str) -> Outputs:
    path = Path(order)
    if not path.is_file():
        pick("class order", order, (AUTO, *ORDERS), also="or a file of names")
    names = [same_name(name) for name in read_names(path)]
    if len(names) != num_classes:
        raise DataError(f"{path} names {len(names)} classes ({', '.join(names[:2])}, ...) and the model has "
                        f"{num_classes} outputs; name each output, one a line and nothing else in the file")
    index = _places([same_name(name) for name in facts.classes], names)
    lacking = [name for name, i in zip(facts.classes, index, strict=True) if i < 0 and name not in facts.empty]
    idle = sorted(set(names) - set(map(same_name, facts.classes)))
    if lacking:
        there = f"; it has, and the data has not: {', '.join(idle[:5])}" if idle else ""
        raise DataError(f"{path} does not name {len(lacking)} of the data's {len(facts.classes)} classes{there}:\n"
                        f"{listed(lacking)}")
    shown = ", ".join(idle[:5]) + (", ..." if len(idle) > 5 else "")
    notes = (f"{len(idle)} of the names in {path} are no class of the data ({shown})",) if idle else ()
    return Outputs(str(path), index, notes=notes)
