"""Which files of a folder are images, and that what is left out is counted; folders of splits by their names."""

import os
from pathlib import Path

import pytest
from PIL import Image

from exporters.int8.calibration import left_out, read_images
from mmprune.data.image_files import SUFFIXES, find_images, notes_of
from mmprune.data.image_sets import fingerprint
from mmprune.data.split_folders import split_of
from mmprune.data.splits import DataError, DataSet, describe_data, load_data
from mmprune.records import Preprocess

GREY = Preprocess((4, 4), (0.0,), (1.0,))


def image(path: Path, value: int = 9, format: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path, format)


def fill(root: Path, *parts: str, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10) -> Path:
    for part in parts:
        for name in classes:
            for i in range(count):
                image(root / part / name / f"{i}.png", i)
    return root


def load(root: Path, classes: int = 2) -> DataSet:
    return load_data(root, GREY, num_classes=classes, seed=0)


@pytest.mark.parametrize(("parts", "sizes"), [
    (("Train", "Val"), (18, 2, 20)), (("training", "testing"), (18, 2, 20)), (("TRAIN", "valid"), (18, 2, 20)),
    (("trn", "tst", "dev"), (20, 20, 20)), (("Training Set", "test_set"), (18, 2, 20)),
    (("train_images", "ValidationData"), (18, 2, 20)), (("train", "Test", "Validation"), (20, 20, 20)),
    (("train-data", "eval"), (18, 2, 20)), (("train",), (14, 2, 4)),
])
def test_splits_are_known_by_any_usual_name(tmp_path, parts, sizes):
    data = load(fill(tmp_path, *parts))
    assert data.classes == ("cat", "dog") and (len(data.train), len(data.validation), len(data.test)) == sizes
    assert all(any(f"data is in {part}/" in note for note in data.notes) for part in parts[1:])


def test_names_that_are_no_splits():
    words = ("trains", "cat", "tester", "valley", "device", "contest", "10", "", "set", "pretrain", "train-station")
    assert [split_of(name) for name in words] == [None] * len(words)


@pytest.mark.parametrize(("parts", "message"), [
    (("val",), "has val/ but no train/"), (("Testing", "Valid"), "has Testing/ but no train/"),
    (("train", "val", "valid"), "val/ and valid/, which are all validation data"),
    (("train", "Train"), "Train/ and train/, which are all train data"),
    (("seg_train/seg_train", "seg_test/seg_test"), "(?s)2 class folders without images.*seg_test.*seg_train.*CLASS"),
    (("fold1", "fold2"), r"(?s)without images, holding only folders.*fold1 \(it holds cat, dog\)"),
    (("photos/train", "photos/val"), r"(?s)1 class folder without images.*photos \(it holds train, val\)"),
    (("train/train", "train/val"), "(?s)2 class folders without images, holding only folders.*train/train"),
])
def test_layouts_that_would_make_classes_of_splits_are_refused(tmp_path, parts, message):
    with pytest.raises(DataError, match=message):
        describe_data(fill(tmp_path, *parts))


def test_folders_called_like_splits_that_hold_images(tmp_path):
    vehicles = fill(tmp_path / "a", "", classes=("bus", "car", "train"))
    assert load(vehicles, 3).classes == ("bus", "car", "train")
    assert any("a/train is used as a class" in note for note in load(vehicles, 3).notes)
    (vehicles / "Test").mkdir()
    assert load(vehicles, 3).classes == ("bus", "car", "train")
    assert "Test is not used: it has no images" in load(vehicles, 3).notes[0]
    contest = fill(tmp_path / "b", "train", "val")  # test images without labels, as contests have them
    image(contest / "test/1.png")
    (contest / "tests").mkdir()
    (contest / "annotations").mkdir()
    image(contest / "cover.png")
    data = load(contest)
    assert (len(data.train), len(data.test)) == (18, 20) and data.notes[-1] == "the test data is in val/"
    assert data.notes[0].endswith("tests is not used: it has no images") and "1 image in" in data.notes[1]
    assert data.notes[2].endswith("has splits: annotations/, 1 image")
    for part in ("train", "val"):
        image(tmp_path / "c" / part / "1.png")
    with pytest.raises(DataError, match=r"c/train has no class folders \(it holds images\)"):
        describe_data(tmp_path / "c")


def test_what_is_left_out_is_counted_by_its_reason(tmp_path):
    root = fill(tmp_path, "train", "val")
    plain = fingerprint(root)
    for name in ("cat/.ipynb_checkpoints/0.png", "cat/__MACOSX/0.png", "dog/@eaDir/0.png", "dog/.AppleDouble/0.png",
                 "dog/._0.png", "cover.png", "__MACOSX/0.png"):
        image(root / "train" / name)
    assert fingerprint(root) != plain  # the cover
    (root / "train/cover.png").rename(tmp_path / "train/cover.txt")
    assert fingerprint(root) == plain
    image(root / "train/cover.png")
    for name in ("cat/a.heic", "cat/b.HEIC", "cat/c.cr2", "cat/notes.txt", "dog/without", "dog/Thumbs.db",
                 "dog/.DS_Store"):
        (root / "train" / name).write_bytes(b"x")
    for name, goal in (("dog/gone.png", "/nowhere"), ("dog/self", "self"), ("dog/up", ".."), ("dog/top", "../..")):
        os.symlink(goal, root / "train" / name)
    data = load(root)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 20)
    said = "\n".join(data.notes)
    for words in ("3 files left out of",
                  "Pillow cannot read this format here; save them as PNG or JPEG (2 .heic, 1 .cr2)",
                  "not an image by the file name (2 .txt, 1 no suffix)", "hidden (1 ._ of macOS)",
                  "5 files left out of", "(2 __MACOSX", "1 .ipynb_checkpoints", "1 @eaDir", "1 .AppleDouble",
                  "broken links", "links to a folder that contains them (1 top, 1 up)",
                  "images beside the class folders (1 .png)"):
        assert words in said, words


def test_links_are_followed_once(tmp_path):
    far = fill(tmp_path / "far", "t", "v")
    root = tmp_path / "data"
    root.mkdir()
    os.symlink(far / "t", root / "train")
    os.symlink(far / "v", root / "Test")
    assert len(load(root).train) == 18
    before = fingerprint(root)
    image(far / "t/cat/0.png", 77)
    assert fingerprint(root) != before
    flat = fill(tmp_path / "flat", "")
    os.symlink(far / "t/cat", flat / "cat/more")
    assert len(find_images(flat / "cat").files) == 20
    (flat / "dog/a").mkdir()
    os.symlink(flat / "cat", flat / "dog/a/cat")
    os.symlink(flat / "dog", flat / "cat/dog")  # each in the other
    assert len(find_images(flat / "dog").files) == 30 and len(find_images(flat / "cat").files) == 30


def test_every_suffix_that_is_read_can_be_read(tmp_path):
    assert {".jpg", ".png", ".webp", ".tif"} <= set(SUFFIXES)
    formats = {".jpe": "JPEG", ".jfif": "JPEG", ".pnm": "PPM", ".pbm": "PPM"}
    for suffix in SUFFIXES:
        image(tmp_path / "cat" / f"1{suffix.upper()}", format=formats.get(suffix))
        image(tmp_path / "dog" / f"1{suffix}", format=formats.get(suffix))
    assert len(load(tmp_path).train.images) == 2 * len(SUFFIXES)


def test_calibration_images_are_found_by_the_same_rule(tmp_path):
    for name in ("a/1.png", ".hidden/2.png", "__MACOSX/3.png", "._1.png"):
        image(tmp_path / name)
    (tmp_path / "b.heic").write_bytes(b"x")
    assert read_images(tmp_path, GREY).shape == (1, 1, 4, 4)
    assert left_out(tmp_path) == notes_of(tmp_path, find_images(tmp_path).left_out) != ()
    (tmp_path / "a/1.png").unlink()
    with pytest.raises(DataError, match=r"(?s)no calibration images.*1 \.heic"):
        read_images(tmp_path, GREY)


def test_all_images_that_cannot_be_read_are_told_of_at_once(tmp_path):
    root = fill(tmp_path, "", count=20)
    whole = (root / "cat/19.png").read_bytes()
    for i in range(14):
        (root / "dog" / f"{i}.png").write_bytes((b"", b"no image", whole[:45])[i % 3])
    with pytest.raises(DataError) as err:
        load(root)
    lines = str(err.value).splitlines()
    assert lines[0].startswith("14 of 40 images cannot be read") and len(lines) == 12 and lines[-1] == "  and 4 more"
    assert all("dog/" in line for line in lines[1:11])
    assert describe_data(root).classes == ("cat", "dog")  # the first image of dog is one of them
    for i in range(1, 14):
        (root / "dog" / f"{i}.png").write_bytes(whole)
    with pytest.raises(DataError, match=r"dog/0\.png cannot be read as an image"):
        load(root)


def test_images_read_when_they_are_asked_for_are_told_of_together(tmp_path, monkeypatch):
    from mmprune.data import pixels

    monkeypatch.setattr(pixels, "LIMIT_BYTES", 1)
    root = fill(tmp_path, "train", "val")
    for i in range(3):
        (root / "val/cat" / f"{i}.png").write_bytes(b"")
    test = load(root).test
    with pytest.raises(DataError, match=r"(?s)3 of 20 images cannot be read.*cat/0\.png.*cat/1\.png.*cat/2\.png"):
        list(test.batches(10))


def test_test_data_that_is_the_training_data_by_another_name_is_told(tmp_path):
    data = fill(tmp_path / "a", "train")
    (data / "val").symlink_to(data / "train", target_is_directory=True)
    assert len([note for note in load(data, 2).notes if "every accuracy is on training images" in note]) == 1
    assert not any("training images" in note for note in load(fill(tmp_path / "b", "train", "val"), 2).notes)
