"""Class orders: those of torchvision and timm, files of names, labels that are numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets
from torchvision.datasets.folder import find_classes

from mmprune.data.class_order import find_outputs
from mmprune.data.splits import DataError, DataFacts, describe_data, load_data
from mmprune.records import Preprocess

GREY = Preprocess((4, 4), (0.0,), (1.0,))
NAMES = ("0", "1", "2", "10", "11", "100")
MIXED = ("ant", "Bee", "cat_2", "cat_10", "cat_1b", "Zoo", "zebra 3", "été")


def named(*classes: str, empty: tuple[str, ...] = (), numbered: bool = False) -> DataFacts:
    return DataFacts(classes, 1, (4, 4), empty, numbered)


def folders(root: Path, names: tuple[str, ...], count: int = 10) -> Path:
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (4, 4), k).save(root / name / f"{i}.png")
    return root


def write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize("names", [NAMES, MIXED, ("d", "c"), ("08", "1", "2"), ("a10", "a9", "A1"), ("x-1", "x-1.5")])
def test_the_orders_are_torchvisions_and_timms_own(tmp_path, names):
    root = folders(tmp_path, names, count=2)
    facts = describe_data(root)
    trained = {"torchvision": find_classes(str(root))[1], "timm": find_images_and_targets(str(root))[1]}
    for order, theirs in trained.items():
        ours = find_outputs(facts, len(names), order)
        assert dict(zip(facts.classes, ours.index.tolist(), strict=True)) == theirs and ours.order == order


def test_auto_keeps_numbers_as_numbers_and_names_as_strings_and_tells_the_other_order():
    found = find_outputs(named(*NAMES), 6)
    assert (found.order, found.index.tolist()) == ("timm", [0, 1, 2, 3, 4, 5])
    assert {k: v.tolist() for k, v in found.others.items()} == {"torchvision": [0, 1, 5, 2, 4, 3]}
    found = find_outputs(named("Bee", "Zoo", "ant"), 3)
    assert found.order == "torchvision" and found.others["timm"].tolist() == [1, 2, 0]
    assert not find_outputs(named("cat", "dog"), 2).others and not find_outputs(named("08", "09", "10"), 3).others


def test_labels_and_classes_follow_the_order(tmp_path):
    root = folders(tmp_path, NAMES)
    for order, first in (("timm", "0 1 2 10 11 100"), ("torchvision", "0 1 10 100 11 2")):
        data = load_data(root, GREY, num_classes=6, seed=0, class_order=order)
        assert data.classes == tuple(first.split())
        for images, labels in data.train.batches(64):
            values = (images[:, 0, 0, 0] * 255).round().long().tolist()  # positions in NAMES
            assert [data.classes[i] for i in labels] == [NAMES[v] for v in values]


def test_a_part_of_numbered_classes_has_orders_too():
    found = find_outputs(named("0", "3", "10"), 12)
    assert found.index.tolist() == [0, 3, 10] and found.others["torchvision"].tolist() == [0, 5, 2]
    assert "output with its number" in found.notes[0]
    assert find_outputs(named("00", "03", "10"), 12).index.tolist() == [0, 3, 10]


LIST = ["dog", "bird", "cat"]


@pytest.mark.parametrize(("name", "content"), [
    ("a.txt", "dog\nbird\ncat\n\n"), ("a.txt", "\ufeffdog\r\nbird\r\ncat"), ("a.json", LIST),
    ("a.json", {"bird": 1, "cat": 2, "dog": 0}), ("a.json", {"0": "dog", "2": "cat", "1": "bird"}),
    ("a.json", {"class_to_idx": {"bird": 1, "cat": 2, "dog": 0}, "epoch": 3}),
    ("a.map", {"bird": 1, "cat": 2, "dog": 0}),
    ("a.json", {"id2label": {"0": "dog", "2": "cat", "1": "bird"}}), ("a.json", {"bird": "1", "cat": "2", "dog": "0"}),
])
def test_files_of_names(tmp_path, name, content):
    found = find_outputs(named("bird", "cat", "dog"), 3, write(tmp_path / name, content))
    assert found.index.tolist() == [1, 2, 0] and found.notes == () and found.order.endswith(name)


def test_a_file_may_name_more_than_the_data_has(tmp_path):
    path = write(tmp_path / "a.txt", "dog\nbird\ncat\nfish")
    found = find_outputs(named("bird", "cat", "cow", empty=("cow",)), 4, path)
    assert found.index.tolist() == [1, 2, -1] and "2 of the names" in found.notes[0] and "dog, fish" in found.notes[0]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.txt", "dog\nbird", "names 2 classes \\(dog, bird, ...\\) and the model has 3 outputs; write one name per"),
    ("a.txt", "dog\nbird\ncow", r"(?s)does not name 1 of the data's 3 classes \(names in .* lacks: cow\):\n  cat"),
    ("a.txt", "dog\n\ncat", "(?s)no name for 1 of 3 classes.*line 2"),
    ("a.txt", "dog\ncat\ndog", "the name dog more than once"),
    ("a.json", '{"dog": 0, "cat": 1, "dog": 2}', "the key dog more than once"),
    ("a.json", {"bird": 1, "cat": 1, "dog": 0}, "the number 1 more than once"),
    ("a.json", {"bird": 1, "cat": 2, "dog": 3}, "must be 0 to 2; it has 3"),
    ("a.json", {"bird": 0.5, "cat": 2, "dog": 3}, "has a form that --class-order does not accept"),
    ("a.json", {"bird": True, "cat": False, "dog": 3}, "has a form that --class-order does not accept"),
    ("a.json", {"0": "1", "1": "0", "2": "2"}, "is ambiguous"),
    ("a.json", "{dog", "is not valid JSON"),
    ("a.json", "7", "has a form that --class-order does not accept"),
])
def test_files_that_do_not_fit(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        find_outputs(named("bird", "cat", "dog"), 3, write(tmp_path / name, content))


def test_words_and_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"no class order called 'torchvison'.*did you mean 'torchvision'"):
        find_outputs(named("a", "b"), 2, "torchvison")
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04\xff")
    with pytest.raises(DataError, match="is not a text file"):
        find_outputs(named("a", "b"), 2, str(tmp_path / "a.pkl"))


def test_a_class_without_images_has_an_output_only_where_there_is_one(tmp_path):
    root = folders(tmp_path, ("bird", "cat", "dog"))
    for file in (root / "bird").iterdir():
        file.unlink()
    facts = describe_data(root)
    assert facts.classes == ("bird", "cat", "dog") and facts.empty == ("bird",)
    data = load_data(root, GREY, num_classes=3, seed=0)
    assert set(data.train.labels) == {1, 2} and data.classes == ("bird", "cat", "dog")
    assert any("no images for 1 of 3 classes (bird)" in n for n in data.notes)
    data = load_data(root, GREY, num_classes=2, seed=0)
    assert set(data.train.labels) == {0, 1} and data.classes == ("cat", "dog")
    assert any("the classes without images (bird) have none" in n for n in data.notes)
    for file in (root / "dog").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"only one class with images \(cat\)"):
        describe_data(root)


def npz(path: Path, labels: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(path, images=np.zeros((len(labels), 4, 4, 1), np.uint8), labels=labels, **more)
    return path


def test_labels_of_an_npz_stand_for_themselves_or_are_said_to_be_renumbered(tmp_path):
    path = npz(tmp_path / "a.npz", np.arange(60) % 3 + 1)  # 1, 2, 3
    assert describe_data(path).classes == ("1", "2", "3")
    data = load_data(path, GREY, num_classes=3, seed=0)
    assert set(data.train.labels) == {0, 1, 2} and "3 different numbers from 1 to 3" in data.notes[0]
    data = load_data(path, GREY, num_classes=4, seed=0)
    assert set(data.train.labels) == {1, 2, 3} and "4 outputs and the data 3 classes" in data.notes[0]
    path = npz(tmp_path / "b.npz", np.array([0, 1000, 2000])[np.arange(60) % 3])
    data = load_data(path, GREY, num_classes=3, seed=0)
    assert data.classes == ("0", "1000", "2000") and "from 0 to 2000" in data.notes[0]
    assert set(load_data(path, GREY, num_classes=2001, seed=0).test.labels) == {0, 1000, 2000}
    path = npz(tmp_path / "c.npz", np.arange(60) % 12)  # numbers are never sorted as strings
    assert not find_outputs(describe_data(path), 12).others
    assert load_data(path, GREY, num_classes=12, seed=0).notes[0].startswith("no test data")


def test_classes_of_an_npz_without_images_are_said(tmp_path):
    path = npz(tmp_path / "a.npz", np.arange(60) % 3, classes=np.array(["a", "b", "c", "d", "d"]))
    data = load_data(path, GREY, num_classes=5, seed=0)
    assert data.classes == ("a", "b", "c", "d", "d") and "no train images for 2 of 5 classes (d, d)" in data.notes[0]
    with pytest.raises(DataError, match="some have the same name"):
        load_data(path, GREY, num_classes=5, seed=0, class_order="torchvision")
    with pytest.raises(DataError, match=r"only one class with images \(1\)"):
        describe_data(npz(tmp_path / "c.npz", np.ones(60, int), classes=np.array(["a", "b"])))
    path = npz(tmp_path / "b.npz", np.arange(60) % 3, test_images=np.zeros((2, 4, 4, 1), np.uint8),
               test_labels=np.array([0, 7]))
    with pytest.raises(DataError, match=r"test_labels has 1 classes that are not in the training data \(7\)"):
        load_data(path, GREY, num_classes=3, seed=0)


def test_names_of_an_npz_may_be_bytes(tmp_path):
    pixels = np.zeros((30, 4, 4), np.uint8)
    names = np.array([b"ant", "b\u00e4r".encode()])
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(30) % 2, classes=names)
    assert describe_data(tmp_path / "a.npz").classes == ("ant", "b\u00e4r")
