"""Which folders of a data set hold the training, validation and test data, recognized by their usual names."""

import re
from dataclasses import dataclass
from pathlib import Path

from mmprune.data.image_files import DataError, count_of, find_images, folders_in

WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("val", "vali", "valid", "validate", "validation", "validating", "dev", "devel", "development",
                   "eval", "evaluation"),
    "test": ("test", "tests", "testing", "tst", "holdout"),
}
# as in training_set, TestImages, "Validation data"
_NAME = re.compile(r"([a-z]+?)[\s_.-]*(?:(?:data)?set|data|images?|imgs?|split|folder)?")
LAYOUT = ("put images into DATA/CLASS/, or into DATA/train/CLASS/ with DATA/val/CLASS/ or DATA/test/CLASS/ beside it "
          "(training, valid, validation, testing and similar names work too, in upper or lower case)")


@dataclass(frozen=True)
class Splits:
    """The folder of each split that holds its class folders: always "train", and "validation" and "test" if present."""

    folders: dict[str, Path]
    notes: tuple[str, ...]
    unused: tuple[Path, ...] = ()  # folders that are neither splits nor classes


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for, or None."""
    match = _NAME.fullmatch(name.casefold().strip())
    return next((kind for kind, words in WORDS.items() if match and match[1] in words), None)


def find_splits(path: Path) -> Splits:
    """The splits of a data set; a folder without a training folder is itself the training data.

    A folder with the name of a split is a split if it holds folders. If it holds images directly it is a class (a data
    set of vehicles may have the class "train"), unless there are other splits: then its images have no labels and are
    left out.
    """
    folders = folders_in(path)
    kinds = {folder: split_of(folder.name) for folder in folders}
    splits = [folder for folder in folders if kinds[folder] and folders_in(folder)]
    flat = [folder for folder in folders if kinds[folder] and folder not in splits and find_images(folder, False).files]
    void = [folder for folder in folders if kinds[folder] and folder not in (*splits, *flat)]
    notes = tuple(f"{folder} is not used: it has no images" for folder in void)
    if not splits and len(folders) > len(flat) + len(void):
        taken = tuple(f"{folder} is used as a class, because it holds images and not class folders" for folder in flat)
        return Splits({"train": path}, notes + taken, tuple(void))
    if not splits and not folders:
        return Splits({"train": path}, ())  # read_folder reports what is missing
    _check(path, [f for f in folders if kinds[f] == "train"], splits, flat)
    by_kind = {kind: [f for f in splits if kinds[f] == kind] for kind in WORDS}
    for kind, several in by_kind.items():
        if len(several) > 1:
            names = " and ".join(f"{f.name}/" for f in several)
            raise DataError(f"{path} has {names}, which are all {kind} data by their names; keep only one of them")
    found = {kind: some[0] for kind, some in by_kind.items() if some}
    notes += tuple(f"{folder} is the same folder as {found['train']}, so every accuracy is on training images; "
                   "put other images there, or remove it so that part of the training data is set apart"
                   for kind, folder in found.items() if kind != "train" and folder.samefile(found["train"]))
    return Splits(*_with_test(found, notes + _not_read(folders, splits, flat, void)))


def _check(path: Path, named_train: list[Path], splits: list[Path], flat: list[Path]) -> None:
    """DataError if no folder holds class folders with training data."""
    if any(folder in splits for folder in named_train):
        return
    if named_train:
        inside = "images" if named_train[0] in flat else "nothing"
        raise DataError(f"{named_train[0]} has no class folders (it holds {inside}); put the images of each class into "
                        f"{named_train[0]}/<class>/")
    held = next(iter([*splits, *flat]), path)
    raise DataError(f"{path} has {held.name}/ but no train/; put the training images into {path}/train/<class>/")


def _not_read(folders: list[Path], splits: list[Path], flat: list[Path], void: list[Path]) -> tuple[str, ...]:
    """Notes on what lies beside the splits and is not read."""
    notes = tuple(f"{count_of(len(find_images(f, False).files), 'image')} in {f} left out: without class folders they "
                  "have no labels" for f in flat)
    others = [f"{f.name}/" for f in folders if f not in (*splits, *flat, *void)]
    if beside := len(find_images(folders[0].parent, False).files):
        others.append(count_of(beside, "image"))
    return notes + ((f"not read, because {folders[0].parent} has splits: {', '.join(others)}",) if others else ())


def _with_test(found: dict[str, Path], notes: tuple[str, ...]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """If there is only one kind of held-out data, it is the test data."""
    if "test" not in found and "validation" in found:
        found = {**found, "test": found["validation"]}
        del found["validation"]
    kinds: tuple[str, ...] = ("test", "validation")
    said = tuple(f"the {kind} data is in {found[kind].name}/" for kind in kinds if kind in found)
    return {kind: found[kind] for kind in ("train", *kinds) if kind in found}, notes + said
