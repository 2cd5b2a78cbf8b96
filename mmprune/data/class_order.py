"""Class orders: which output of the model belongs to which class of the data.

The numbers of the classes were assigned by the program that trained the model. torchvision's ImageFolder sorts the
folder names as strings (0, 1, 10, 11, 2); timm's reader sorts naturally and ignores case (class_2, class_10; ant, Bee).
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
    """Sorted as timm does; names with the same key (1 and 01), whose order timm does not define, as strings."""
    try:
        return sorted(sorted(names), key=natural_key)
    except ValueError:  # a name of such digits as "²", which timm cannot read either
        return sorted(names)


ORDERS: dict[str, Callable[[Sequence[str]], list[str]]] = {"torchvision": sorted, "timm": _naturally}


@dataclass(frozen=True)
class Outputs:
    """The model's output for each class of the data, and in which other orders they may have been trained."""

    order: str  # "torchvision", "timm", the path of a file of names, "labels", "numbers" or "ImageNet ids"
    index: np.ndarray  # (classes,) int64; -1: no output, because the class has no images
    others: dict[str, np.ndarray] = field(default_factory=dict)  # the other possible orders that differ from `index`
    notes: tuple[str, ...] = ()


def find_outputs(facts: DataFacts, num_classes: int, order: str = AUTO) -> Outputs:
    """The model's output for each class of the data; `order` is auto, torchvision, timm or the path of a file of names.

    auto  labels are used as they are, where the data has labels; class folders are sorted by number (timm's order)
          where all names are numbers, else in torchvision's order; `others` holds the other order
    DataError where the classes do not fit the model's outputs or the file; ValueError for an unknown order.
    """
    if order not in (AUTO, *ORDERS):
        return _from_file(facts, num_classes, order)
    names, notes = _names_to_sort(facts, num_classes)
    if not names or (facts.numbered and order == AUTO):
        more = () if order == AUTO else (f"--class-order {order} has no effect: the classes are already numbered",)
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
    """(the names of all outputs, notes) if the names could be sorted in more than one order; else no names."""
    filled = [name for name in facts.classes if name not in facts.empty]
    if len(facts.classes) == num_classes:
        idle = f"the model also has an output for each class without images ({', '.join(facts.empty)})"
        return list(facts.classes), _say_labels(facts) + ((idle,) if facts.empty else ())
    if len(filled) == num_classes:
        gone = ", ".join(facts.empty)
        return filled, (f"the model has {num_classes} outputs, so the classes without images ({gone}) have none",)
    numbers = [str(i) for i in range(num_classes)]
    if not facts.numbered and set(facts.classes) <= set(numbers):
        return numbers, (f"{_few(facts, num_classes)}: each class is matched to the output with its number",)
    return [], ()


def _numbered(facts: DataFacts, num_classes: int) -> Outputs:
    """Labels as they are; if there are fewer classes than outputs, matched by ImageNet id or by number."""
    classes, few = facts.classes, _few(facts, num_classes)
    if len(classes) == num_classes:
        return Outputs("labels", np.arange(num_classes))
    known = list(ImageNetInfo().label_names()) if num_classes == IMAGENET_CLASSES else []
    if set(classes) <= set(known):
        notes = (f"{few}: each class is matched to its ImageNet id",)
        return Outputs("ImageNet ids", _places(classes, known), notes=notes)
    if all(map(_is_number, classes)) and max(map(int, classes)) < num_classes:
        index = np.array([int(name) for name in classes], np.int64)
        return Outputs("numbers", index, notes=(f"{few}: each class is matched to the output with its number",))
    raise DataError(f"{few}; use weights with {len(classes)} outputs (train such a head first), name the classes by "
                    "ImageNet id (n01440764) or by output number (0, 1, ...), or give --class-order a file with the "
                    f"names of all {num_classes}")


def _few(facts: DataFacts, num_classes: int) -> str:
    shown = ", ".join(facts.classes[:3]) + (", ..." if len(facts.classes) > 3 else "")
    return f"the model has {num_classes} outputs and the data {len(facts.classes)} classes ({shown})"


def _say_labels(facts: DataFacts) -> tuple[str, ...]:
    """A note where the labels are not 0, 1, 2 ... but there are as many of them as the model has outputs."""
    n = len(facts.classes)
    if not facts.numbered or not all(map(_is_number, facts.classes)) or facts.classes == tuple(map(str, range(n))):
        return ()
    low, high = facts.classes[0], facts.classes[-1]
    return (f"the labels are {n} different numbers from {low} to {high}; in ascending order they are matched to the "
            f"model's outputs 0 to {n - 1}. If they are output numbers, pass --num-classes {int(high) + 1} or more",)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _places(classes: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The position of each class among the names; -1 if it is not among them."""
    place = {name: i for i, name in enumerate(names)}
    return np.array([place.get(name, -1) for name in classes], np.int64)


def _from_file(facts: DataFacts, num_classes: int, order: str) -> Outputs:
    path = Path(order)
    if not path.is_file():
        pick("class order", order, (AUTO, *ORDERS), also="or a file of names")
    names = [same_name(name) for name in read_names(path)]
    if len(names) != num_classes:
        raise DataError(f"{path} names {len(names)} classes ({', '.join(names[:2])}, ...) and the model has "
                        f"{num_classes} outputs; write one name per output, one per line and nothing else")
    index = _places([same_name(name) for name in facts.classes], names)
    lacking = [name for name, i in zip(facts.classes, index, strict=True) if i < 0 and name not in facts.empty]
    idle = sorted(set(names) - set(map(same_name, facts.classes)))
    if lacking:
        there = f" (names in the file that the data lacks: {', '.join(idle[:5])})" if idle else ""
        raise DataError(f"{path} does not name {len(lacking)} of the data's {len(facts.classes)} classes{there}:\n"
                        f"{listed(lacking)}")
    shown = ", ".join(idle[:5]) + (", ..." if len(idle) > 5 else "")
    notes = (f"{len(idle)} of the names in {path} are not classes of the data ({shown})",) if idle else ()
    return Outputs(str(path), index, notes=notes)
