"""Image folders, .npz files and loaders as splits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmprune.data import pixels
from mmprune.data.class_order import find_outputs
from mmprune.data.splits import DataError, DataFacts, LoaderSplit, describe_data, load_data
from mmprune.records import Preprocess

SHARED = Path(__file__).parents[2] / "shared/data"
GREY8 = Preprocess((8, 8), (0.0,), (1.0,))


def write_npz(path: Path, n: int = 40, labels: int = 2, channels: int = 1, change: dict | None = None) -> Path:
    """Image i has the value i everywhere and the label i % labels."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 8, 8, channels))
    np.savez(path, **{"images": images, "labels": np.arange(n) % labels, **(change or {})})
    return path


def write_folder(root: Path, parts: tuple[str, ...], classes: tuple[str, ...] = ("cat", "dog"), n: int = 10,
                 mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> Path:
    """`n` PNGs a class of width 12 and height 10, of the value 10 * class + i."""
    for part in parts:
        for c, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                value = 10 * c + i
                Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(root / part / name / f"{i}.png")
    return root


def named(*classes: str, empty: tuple[str, ...] = (), numbered: bool = False) -> DataFacts:
    return DataFacts(classes, 3, (8, 8), empty, numbered)


def values(split) -> list[int]:
    """The value of each image of write_npz, in the split's order."""
    return [int(v) for images, _ in split.batches(7) for v in (images[:, 0, 0, 0] * 255).round()]


def test_npz_without_parts_is_split_by_seed_into_disjoint_stratified_parts(tmp_path):
    path = write_npz(tmp_path / "d.npz")
    data = load_data(path, GREY8, num_classes=2, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 4, 8)
    assert sorted(values(data.train) + values(data.validation) + values(data.test)) == list(range(40))
    parts = (data.train, data.validation, data.test)
    assert [np.bincount(split.labels).tolist() for split in parts] == [[14, 14], [2, 2], [4, 4]]
    assert "8 of 40 images" in data.notes[0] and "seed 0" in data.notes[0]
    assert values(load_data(path, GREY8, num_classes=2, seed=0).test) == values(data.test)
    assert values(load_data(path, GREY8, num_classes=2, seed=1).test) != values(data.test)


def test_batches_are_normalized_and_keep_labels_with_images(tmp_path):
    data = load_data(write_npz(tmp_path / "d.npz"), Preprocess((8, 8), (0.5,), (0.25,)), num_classes=2, seed=0)
    for images, labels in data.train.batches(5, seed=3):
        assert images.dtype == torch.float32 and images.shape[1:] == (1, 8, 8) and labels.dtype == torch.int64
        value = (images[:, 0, 0, 0] * 0.25 + 0.5) * 255
        assert torch.equal(value.round().long() % 2, labels)


def test_shuffling_depends_on_its_seed_alone_and_leaves_no_single_image(tmp_path):
    data = load_data(write_npz(tmp_path / "d.npz"), GREY8, num_classes=2, seed=0)
    def run(seed):
        return torch.cat([x for x, _ in data.train.batches(9, seed=seed, augment=True)])
    first = run(1)
    torch.manual_seed(99)
    assert torch.equal(first, run(1)) and not torch.equal(first, run(2))
    assert [len(x) for x, _ in data.train.batches(9, seed=1)] == [9, 9, 10]  # 28 images
    assert [len(x) for x, _ in data.train.batches(9)] == [9, 9, 9, 1]


@pytest.mark.parametrize("side", [8, 96])
def test_augmenting_shifts_and_mirrors_within_bounds(tmp_path, side):
    ramp = np.tile(np.arange(side, dtype=np.uint8) * 2 + 1, (20, side, 1))  # (n, H, W): the value tells the column
    np.savez(tmp_path / "d.npz", images=ramp, labels=np.arange(20) % 2)
    data = load_data(tmp_path / "d.npz", Preprocess((side, side), (0.0,), (1.0,)), num_classes=2, seed=0)
    images, _ = next(data.train.batches(14, seed=0, augment=True))
    rows = (images * 255).round()[:, 0, side // 2]
    steps = rows.diff(dim=1)
    reach = 4 if side == 8 else int(0.12 * side)
    assert bool((steps > 1.5).any(1).any()) and bool((steps < -1.5).any(1).any())  # some mirrored, some not
    middle = rows[:, side // 2]
    assert float((middle - side).abs().max()) <= 2 * (reach + 1) and len(set(middle.tolist())) > 2


def test_subset_keeps_the_shares_of_the_classes(tmp_path):
    labels = np.array([0] * 60 + [1] * 20)
    data = load_data(write_npz(tmp_path / "d.npz", n=80, change={"labels": labels}), GREY8, num_classes=2, seed=0)
    part = data.train.subset(16, seed=5)
    assert np.bincount(part.labels).tolist() == [12, 4]
    assert values(part) == values(data.train.subset(16, seed=5)) != values(data.train.subset(16, seed=6))
    assert data.train.subset(10**6, seed=0) is data.train
    assert len(data.train.subset(3, seed=0)) == 3


@pytest.mark.parametrize("names", [("train_images", "train_labels", "test_images", "test_labels"),
                                   ("x_train", "y_train", "x_test", "y_test")])
def test_npz_with_a_test_part_keeps_it_whole(tmp_path, names):
    x = np.zeros((20, 8, 8), np.uint8)
    arrays = (x, np.arange(20)[:, None] % 2, x[:6], np.arange(6) % 2)
    np.savez(tmp_path / "d.npz", **dict(zip(names, arrays, strict=True)))
    data = load_data(tmp_path / "d.npz", GREY8, num_classes=2, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 6)
    assert data.test.labels.tolist() == [0, 1, 0, 1, 0, 1] and data.notes == ()


def test_npz_validation_part_is_taken_as_it_is(tmp_path):
    x, y = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "d.npz", train_images=x, train_labels=y, validation_images=x[:4], validation_labels=y[:4],
             test_images=x[:6], test_labels=y[:6], classes=np.array(["a", "b"]))
    data = load_data(tmp_path / "d.npz", GREY8, num_classes=2, seed=0)
    assert (len(data.train), len(data.validation), len(data.test), data.classes) == (20, 4, 6, ("a", "b"))


@pytest.mark.parametrize(("change", "message"), [
    ({"images": np.zeros((40, 8, 8, 1), np.float32)}, r"uint8.*float32.*0\.\.255"),
    ({"images": np.zeros((40, 3, 8, 8), np.uint8)}, "channels last"),
    ({"images": np.zeros((40, 8), np.uint8)}, r"\(40, 8\)"),
    ({"images": np.zeros((40, 0, 8, 1), np.uint8)}, r"\(40, 0, 8, 1\)"),
    ({"images": np.zeros((40, 8, 8, 4), np.uint8)}, "1 or 3"),
    ({"images": np.zeros((39, 8, 8, 1), np.uint8)}, "39 images and labels 40 labels"),
    ({"labels": np.arange(40) % 3 - 1}, "from -1 to 1"),
    ({"labels": np.arange(40) % 3, "classes": np.array(["a", "b"])}, "from 0 to 2"),
    ({"labels": np.full(40, np.nan)}, "whole numbers"),
    ({"labels": np.zeros(40, int)}, "only one class"),
    ({"labels": np.array([None] * 40)}, "pickled objects are refused"),
    ({"classes": np.array([{}, {}])}, "pickled objects are refused"),
])
def test_npz_errors_say_what_is_wrong(tmp_path, change, message):
    path = write_npz(tmp_path / "d.npz", change=change)
    with pytest.raises(DataError, match=message):
        load_data(path, GREY8, num_classes=2, seed=0)


def test_paths_that_are_no_data(tmp_path):
    with pytest.raises(DataError, match="there is no data at"):
        describe_data(tmp_path / "absent")
    with pytest.raises(DataError, match="neither a folder"):
        describe_data(__file__)
    with pytest.raises(DataError, match="no class folders"):
        describe_data(tmp_path)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="not a complete"):
        describe_data(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", pictures=np.zeros(3))
    with pytest.raises(DataError, match="has the arrays pictures"):
        describe_data(tmp_path / "other.npz")


def test_describing_does_not_decode(tmp_path):
    facts = describe_data(write_npz(tmp_path / "d.npz", labels=4, channels=3))
    assert (facts.classes, facts.channels, facts.size) == (("0", "1", "2", "3"), 3, (8, 8))
    facts = describe_data(write_folder(tmp_path / "f", ("train", "val"), mode="L"))
    assert (facts.classes, facts.channels, facts.size) == (("cat", "dog"), 1, (10, 12))


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_folder_with_a_test_part(tmp_path, test):
    root = write_folder(tmp_path, ("train", test))
    data = load_data(root, Preprocess((6, 6), (0.0,) * 3, (1.0,) * 3), num_classes=2, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 20)
    assert values(data.test) == list(range(20)) and data.test.labels.tolist() == [0] * 10 + [1] * 10
    assert data.notes == (f"the test data is in {test}/",)


def test_folder_with_three_parts_and_folder_with_none(tmp_path):
    data = load_data(write_folder(tmp_path / "a", ("train", "val", "test")), GREY8, num_classes=2, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 20, 20)
    assert "converted to greyscale" in data.notes[-1]
    data = load_data(write_folder(tmp_path / "b", ("",)), GREY8, num_classes=2, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (14, 2, 4)


def test_folder_errors_name_the_place(tmp_path):
    root = write_folder(tmp_path / "a", ("train", "val"), n=3)
    (root / "val/bird").mkdir()
    with pytest.raises(DataError, match="val/bird is not a class of the training data"):
        describe_data(root)
    (root / "val/fish").mkdir()
    with pytest.raises(DataError, match=r"(?s)2 classes are not in the training data.*val/bird\n.*val/fish"):
        describe_data(root)
    (root / "val/bird").rmdir()
    (root / "val/fish").rmdir()
    (root / "train/cat/2.png").write_bytes((root / "train/cat/2.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"train/cat/2\.png cannot be read as an image"):
        load_data(root, GREY8, num_classes=2, seed=0)
    with pytest.raises(DataError, match="only one class"):
        describe_data(write_folder(tmp_path / "b", ("train", "val"), classes=("cat",)))
    with pytest.raises(DataError, match="no train/"):
        describe_data(write_folder(tmp_path / "c", ("val",)))


def test_cache_is_used_again_and_made_again_when_a_file_or_the_size_changes(tmp_path):
    root, cache = write_folder(tmp_path / "a", ("train", "val")), tmp_path / "cache"
    def load(side=6):
        done = []
        preprocess = Preprocess((side, side), (0.0,) * 3, (1.0,) * 3)
        data = load_data(root, preprocess, num_classes=2, seed=0, cache=cache, progress=lambda *x: done.append(x))
        return data, done
    data, done = load()
    assert done[-1] == (40, 40) and isinstance(data.train.images.base, np.memmap)
    again, done = load()
    assert done == [] and values(again.train) == values(data.train) and again.sha256 == data.sha256
    assert not list(cache.glob("*.part"))
    assert load(side=5)[1]
    file = next(cache.iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    assert values(load()[0].train) == values(data.train)
    Image.new("RGB", (12, 10), (200,) * 3).save(root / "val/cat/0.png")
    changed, done = load()
    assert done and values(changed.test)[0] == 200 and changed.sha256 != data.sha256


def test_a_set_too_large_to_keep_is_decoded_batch_by_batch(tmp_path, monkeypatch):
    root = write_folder(tmp_path, ("train", "val"))
    kept = load_data(root, Preprocess((6, 6), (0.0,) * 3, (1.0,) * 3), num_classes=2, seed=0)
    monkeypatch.setattr(pixels, "LIMIT_BYTES", 100)
    lazy = load_data(root, Preprocess((6, 6), (0.0,) * 3, (1.0,) * 3), num_classes=2, seed=0)
    assert isinstance(lazy.train.images, pixels.Lazy)
    for (a, la), (b, lb) in zip(kept.train.batches(4, seed=1), lazy.train.batches(4, seed=1), strict=True):
        assert torch.equal(a, b) and torch.equal(la, lb)


def test_grey_becomes_three_channels(tmp_path):
    colour = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3)
    data = load_data(write_npz(tmp_path / "d.npz"), colour, num_classes=2, seed=0)
    images, _ = next(data.test.batches(3))
    assert images.shape == (3, 3, 8, 8) and torch.equal(images[:, 0], images[:, 2]) and "repeated" in data.notes[0]
    with pytest.raises(DataError, match="1 or 3 channels, not 4"):
        load_data(tmp_path / "d.npz", Preprocess((8, 8), (0.0,) * 4, (1.0,) * 4), num_classes=2, seed=0)


def test_fewer_classes_than_outputs():
    wnids = ("n01440764", "n03445777")  # tench is class 0 of ImageNet, golf ball 574
    found = find_outputs(named(*wnids), 1000)
    assert found.index.tolist() == [0, 574] and "ImageNet" in found.notes[0]
    assert find_outputs(named("3", "7"), 10).index.tolist() == [3, 7]
    assert find_outputs(named("a", "b"), 2).index.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"1000 outputs and the data 2 classes \(cat, dog\).*ImageNet id"):
        find_outputs(named("cat", "dog"), 1000)
    with pytest.raises(DataError, match="1 outputs and the data 2 classes"):
        find_outputs(named("0", "1"), 1)


def test_numbered_folders_sort_as_numbers(tmp_path):
    root = write_folder(tmp_path, ("train", "val"), classes=("0", "2", "10"), n=4)
    data = load_data(root, GREY8, num_classes=11, seed=0)
    assert data.classes == ("0", "2", "10") and sorted(set(data.test.labels.tolist())) == [0, 2, 10]


def test_loader_split_passes_batches_on_and_refuses_others():
    split = LoaderSplit([(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1], dtype=torch.int32))])
    (images, labels), = split.batches(64, seed=1, augment=True)
    assert images.shape == (2, 3, 4, 4) and labels.dtype == torch.int64 and len(split) == 2
    with pytest.raises(DataError, match="float tensor"):
        next(LoaderSplit([(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2))]).batches(2))


def test_cifar10_is_found_whole():
    path = SHARED / "cifar10/cifar10_lossless.npz"
    if not path.is_file():
        pytest.skip("needs the lossless CIFAR-10 beside the checkout")
    facts = describe_data(path)
    assert len(facts.classes) == 10 and (facts.channels, facts.size) == (3, (32, 32)) and "ship" in facts.classes
