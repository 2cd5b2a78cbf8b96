"""What the dense model says of its own data: the class order it was trained with, and whether it knows anything."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TOYS, fails, mmprune
from PIL import Image
from toys import Nearest, shades

from mmprune.data.class_order import find_outputs
from mmprune.data.splits import DataFacts, LoaderSplit, Split
from mmprune.finetune import accuracy
from mmprune.models.dense_check import choose_order, examine, near_guessing
from mmprune.models.named import Named
from mmprune.models.source import open_source
from mmprune.records import Preprocess

GREY = Preprocess((4, 4), (0.0,), (1.0,))
COLOUR = Preprocess((4, 4), (0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
SHADES = tuple(map(str, range(12)))
AS_STRINGS = sorted(SHADES)


def split(pixels: np.ndarray, labels: np.ndarray, preprocess: Preprocess = GREY) -> Split:
    """Pixels (n, C) as images that are the same everywhere."""
    images = np.broadcast_to(pixels.astype(np.uint8)[:, None, None], (len(pixels), 4, 4, pixels.shape[1]))
    return Split(images, np.arange(len(pixels)), labels.astype(np.int64), preprocess)


def greys(labels: np.ndarray) -> Split:
    return split(20 * labels[:, None], labels)


def facts(classes: tuple[str, ...], numbered: bool = True) -> DataFacts:
    return DataFacts(classes, 1, (4, 4), numbered=numbered)


def write_shades(root: Path, count: int = 20) -> Path:
    """Folders 0 .. 11; an image of folder k is 20 k everywhere."""
    for k in range(12):
        (root / str(k)).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (4, 4), 20 * k).save(root / str(k) / f"{i}.png")
    return root


def trained(order: list[str], path: Path) -> Path:
    """Weights of shades() as if they had been trained on folders in this order."""
    state = shades().state_dict()
    torch.save({k: v[[int(name) for name in order]] for k, v in state.items()}, path)
    return path


def named(data: Path, weights: Path | None, class_order: str = "auto") -> Named:
    from mmprune.models.named import ModelOptions

    return Named(f"{TOYS}:shades", weights, data, ModelOptions(mean=(0.0,), std=(1.0,)), 0, class_order)


@pytest.mark.parametrize(("order", "word"), [(AS_STRINGS, "torchvision"), (list(SHADES), "timm")])
def test_training_images_decide_for_the_order_of_the_weights(tmp_path, order, word):
    found = open_source(named(write_shades(tmp_path / "data"), trained(order, tmp_path / "a.pth")))
    assert found.source.data.class_order == word and found.warnings == ()
    assert found.source.data.labels == found.source.data.classes == tuple(order)
    assert any(f"class order {word}" in n and f"{word} 100.0%" in n and "0.0%" in n for n in found.notes)
    baseline = found.make_baseline()
    assert accuracy(baseline.model, baseline.test) == accuracy(baseline.model, baseline.validation) == 1.0


def test_an_order_of_the_users_is_taken_and_where_it_is_wrong_a_warning_comes(tmp_path):
    data, weights = write_shades(tmp_path / "data"), trained(AS_STRINGS, tmp_path / "a.pth")
    found = open_source(named(data, weights, "timm"))
    (warning,) = found.warnings
    assert "hardly better than guessing" in warning and "--class-order" in warning and "BGR" in warning
    assert "2 is output 4" in warning and "correct on 100.0%" in warning
    (tmp_path / "names.txt").write_text("\n".join(AS_STRINGS))
    found = open_source(named(data, weights, str(tmp_path / "names.txt")))
    assert found.warnings == () and found.source.data.labels == tuple(AS_STRINGS)


def test_nothing_is_asked_where_nothing_was_learned(tmp_path):
    data = write_shades(tmp_path / "data", count=5)
    found = open_source(Named("resnet18", None, data))
    assert found.warnings == () and not any("class order" in n for n in found.notes)
    assert found.source.data.labels == tuple(SHADES)


def test_the_warning_comes_loud_before_anything_is_made(tmp_path):
    data, weights = write_shades(tmp_path / "data", count=5), trained(AS_STRINGS, tmp_path / "a.pth")

    def stopped(*more: str) -> str:
        """What is said up to the making of the family, where a folder with other things in it ends it."""
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "thesis.txt").write_text("years of work")
        done = mmprune("build", "--target", "x86", "--model", f"{TOYS}:shades", "--weights", weights, "--data", data,
                       "--std", "1", "--formats", "onnx", "--out", tmp_path / "out", *more)
        assert done.code == 2 and "is not empty and holds no family" in done.stderr
        return done.stderr

    assert "\nWARNING: the dense model is correct on" in stopped("--mean", "0", "--class-order", "timm")
    assert "WARNING" not in (said := stopped("--mean", "0")) and "note: class order torchvision" in said
    assert "\nWARNING: the dense model is correct on" in stopped("--mean", "0.9")
    fails(2, "no class order called 'tim'", "build", "--target", "x86", "--model", f"{TOYS}:shades",
          "--weights", weights, "--data", data, "--class-order", "tim")


def test_too_few_images_are_too_close_to_call():
    found = find_outputs(facts(SHADES, numbered=False), 12)
    few = greys(np.array([0, 1, 2, 3, 4]))  # 2, 3 and 4 differ: right with one order, wrong with the other
    outputs, note = choose_order(shades(), few, found)
    assert outputs.order == "timm" and "too close to call" in note and "--class-order (timm, torchvision" in note
    outputs, note = choose_order(shades(), greys(np.arange(120) % 12), found)
    assert outputs.order == "timm" and "too close" not in note


def test_a_model_that_knows_nothing_decides_for_no_order():
    found = find_outputs(facts(SHADES, numbered=False), 12)
    model = shades()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.eye(12)[4])  # always 4: all images of one class are right, with either order
    outputs, note = choose_order(model, greys(np.arange(240) % 12), found)
    assert outputs.order == "timm" and "near guessing" in note


def warnings_of(model: torch.nn.Module, data: Split, count: int) -> tuple[str, ...]:
    classes = tuple(map(str, range(count)))
    return examine(model, data, find_outputs(facts(classes), count), classes)


def test_near_chance_is_told_from_knowing_also_on_few_images_and_uneven_classes():
    two = Nearest([[0.0], [20 / 255]])
    labels = np.arange(200) % 2
    assert warnings_of(two, greys(labels), 2) == ()
    noise = np.random.default_rng(0).permutation(labels)
    assert "hardly better than guessing" in warnings_of(two, split(20 * noise[:, None], labels), 2)[0]
    uneven = (np.arange(200) % 20 == 0).astype(int)  # 5 % are of class 1
    wrong = uneven.copy()
    wrong[1] = 1
    assert warnings_of(two, split(20 * wrong[:, None], uneven), 2) == ()
    always = np.zeros(200, int)  # right on 95 %, on 128 of the 138 that are asked about, and blind
    assert "correct on 92.8%" in warnings_of(two, split(20 * always[:, None], uneven), 2)[0]
    ten = np.arange(10) % 2
    mistaken = ten.copy()
    mistaken[0] = 1
    assert warnings_of(two, split(20 * mistaken[:, None], ten), 2) == ()


COLOURS = np.array([[200, 0, 0], [200, 100, 0], [0, 0, 200]])


def test_channels_in_the_order_bgr_and_another_mean_are_found():
    model = Nearest((torch.tensor(COLOURS / 255, dtype=torch.float32) - torch.tensor([0.2, 0.3, 0.4])).div(
        torch.tensor([0.5, 0.6, 0.7])).tolist())
    labels = np.arange(90) % 3
    assert warnings_of(model, split(COLOURS[labels], labels, COLOUR), 3) == ()
    (warning,) = warnings_of(model, split(COLOURS[labels][:, ::-1], labels, COLOUR), 3)
    assert "With the channels in BGR order" in warning and "correct on 100.0%" in warning
    unscaled = Preprocess((4, 4), (0.9,), (0.01,))
    (warning,) = warnings_of(shades(), split(20 * (np.arange(240) % 12)[:, None], np.arange(240) % 12, unscaled), 12)
    assert "With --mean 0 --std 1 it is correct on 100.0%" in warning


def test_numbers_that_are_not_finite_are_said():
    model = shades()
    with torch.no_grad():
        model.fc.bias[3] = torch.nan
    (warning,) = warnings_of(model, greys(np.arange(120) % 12), 12)
    assert "correct on 0.0%" in warning and "on 120 its outputs are not finite" in warning


def test_a_model_that_knows_a_rare_class_or_a_tenth_of_a_hundred_is_not_called_a_guess():
    two = Nearest([[0.0], [20 / 255]])
    rare = (np.arange(800) < 4).astype(int)
    assert warnings_of(two, split(20 * rare[:, None], rare), 2) == ()
    hundred = Nearest(np.arange(100)[:, None].tolist())
    labels = np.arange(1000) % 100
    answers = np.where(labels < 12, labels, 99)
    said = warnings_of(hundred, split(answers[:, None], labels, Preprocess((4, 4), (0.0,), (1 / 255,))), 100)
    assert not any("hardly better than guessing" in warning for warning in said)


@pytest.mark.parametrize("sort", [True, False])
def test_a_loader_that_yields_one_class_after_another_tells_good_models_from_bad_ones(sort):
    labels = np.arange(3600) * 7 % 12
    labels = np.sort(labels) if sort else labels
    mistaken = np.where(np.arange(3600) % 10 == 0, (labels + 1) % 12, labels)
    good, moved = (LoaderSplit(list(split(20 * seen[:, None], labels).batches(32)))
                   for seen in (mistaken, (labels + 1) % 12))
    assert near_guessing(shades(), good) == ()
    (warning,) = near_guessing(shades(), moved)
    assert "is correct on 0.0% of 256 validation images: hardly better" in warning
    always = shades()
    torch.nn.init.zeros_(always.fc.weight)
    assert "hardly better" in near_guessing(always, good)[0]
