"""The same image gives the same bits in training, calibration, evaluation and where the model is deployed."""

import itertools
import json
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config
from toys import planted

from exporters.int8.calibration import read_images
from mmprune.data import pixels
from mmprune.data.image_sets import Part, read_folder
from mmprune.data.preprocess import CROP_MODES, RESAMPLING, fit, fit_array, network_input, normalize, resized_size
from mmprune.data.splits import Split, load_data
from mmprune.models.named import ModelOptions, Named
from mmprune.models.source import open_source
from mmprune.records import Preprocess
from targets.deploy import PROGRAMS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENETTE = Path(__file__).parents[2] / "shared/data/imagenette-small/val"
RNG = np.random.default_rng(0)


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def colour(width: int, height: int) -> Image.Image:
    return Image.fromarray(noise(width, height))


def deep(width: int, height: int) -> np.ndarray:
    return RNG.integers(0, 65536, (height, width), dtype=np.uint16)


def turned(orientation: int, **how) -> dict:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif, **how}


def odd_images() -> dict[str, tuple[Image.Image, dict]]:
    """File name -> an image and how to save it."""
    palette = colour(30, 20).quantize(64)
    frames = [colour(30, 20) for _ in range(3)]
    images = {
        "grey.png": (colour(30, 20).convert("L"), {}),
        "alpha.png": (Image.fromarray(noise(30, 20, 4)), {}),
        "grey_alpha.png": (Image.fromarray(noise(30, 20, 2)), {}),
        "palette.png": (palette, {"transparency": bytes(range(0, 256, 4))}),
        "palette.gif": (palette, {"transparency": 3}),
        "black_or_white.png": (colour(30, 20).convert("1"), {}),
        "cmyk.jpg": (colour(30, 20).convert("CMYK"), {}),
        "sixteen.png": (Image.fromarray(deep(30, 20)), {}),
        "sixteen.tif": (Image.fromarray(deep(30, 20)), {}),
        "big_endian.tif": (Image.frombytes("I;16B", (30, 20), deep(30, 20).astype(">u2").tobytes()), {}),
        "moving.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "moving.png": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "lossy.webp": (colour(30, 20), {}),
        "dot.png": (colour(1, 1), {}),
        "line.png": (colour(400, 1), {}),
        "mast.png": (colour(1, 400), {}),
        "exact.png": (colour(12, 16), {}),
        "exact_but_turned.png": (colour(16, 12), turned(6)),
    }
    return images | {f"turned{o}.jpg": (colour(30, 20), turned(o, quality=95)) for o in range(2, 9)}


def deployed(folder: Path, preprocess: Preprocess, files: list[Path], python: tuple[str, ...] = ()) -> list[np.ndarray]:
    """What the deployed program would feed its network for these files, in a process that has no mmprune."""
    folder.mkdir()
    for path in PROGRAMS:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.json").write_text('{"runtime": "null", "model": "labels.txt", "threads": 1}')
    (folder / "labels.txt").write_text("only\n")
    (folder / "preprocess.json").write_text(json.dumps(asdict(preprocess)))
    program = (f"import sys; sys.path.insert(0, {str(folder)!r}); import numpy, infer; prepare = infer.load().prepare\n"
               f"numpy.savez('inputs.npz', *[prepare(f) for f in {list(map(str, files))!r}])\n"
               "assert 'mmprune' not in sys.modules and 'torch' not in sys.modules")
    subprocess.run([sys.executable, *python, "-c", program], cwd=folder, check=True)
    with np.load(folder / "inputs.npz") as made:
        return [made[key] for key in made.files]


@pytest.mark.parametrize(("channels", "rule"), [
    (3, {"crop_pct": 0.9}), (3, {"crop_mode": "border"}), (1, {"crop_pct": 0.875, "interpolation": "lanczos"}),
    (1, {"crop_mode": "squash", "interpolation": "bilinear"}), (3, {"crop_all": True, "crop_pct": 0.5}),
    (1, {"crop_pct": 1.15, "interpolation": "nearest"})])
def test_odd_images_give_the_same_bits_everywhere(tmp_path, channels, rule):
    p = Preprocess((16, 12), MEAN[:channels], STD[:channels], **rule)
    for name in ("one", "two"):
        (tmp_path / "photos/train" / name).mkdir(parents=True)
    files = []
    for file, (image, how) in odd_images().items():
        files.append(tmp_path / "photos/train/one" / file)
        image.save(files[-1], **how)
    Image.new("L", (20, 30), 7).save(tmp_path / "photos/train/two/plain.png")
    (tmp_path / "photos/test").symlink_to(tmp_path / "photos/train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test = load_data(tmp_path / "photos", p, num_classes=2, seed=0, cache=tmp_path / "cache").test
    files = [Path(f) for f in read_folder(tmp_path / "photos").train.images]  # in the order of the split
    evaluated = np.concatenate([images.numpy() for images, _ in test.batches(5)])
    calibrated = read_images(tmp_path / "photos/train", p)  # sorted in the same way
    for x, y, z, file in zip(evaluated, calibrated, deployed(tmp_path / "d", p, files), files, strict=True):
        assert x.tobytes() == y.tobytes() == z[0].tobytes(), file.name


def test_sixteen_bits_are_scaled_and_thirty_two_refused(tmp_path):
    p = Preprocess((4, 5), (0.0,), (1.0,), crop_pct=0.5)
    values = deep(5, 4)
    expected = (values >> 8).astype(np.uint8)
    big = Image.frombytes("I;16B", (5, 4), values.astype(">u2").tobytes())
    (tmp_path / "a.pgm").write_bytes(b"P5 5 4 65535\n" + values.astype(">u2").tobytes())  # comes as mode I
    for image in (Image.fromarray(values), big, Image.open(tmp_path / "a.pgm")):
        assert np.array_equal(fit(image, p)[..., 0], expected), image.mode
    assert np.array_equal(fit(Image.fromarray(values), Preprocess((4, 5), MEAN, STD)), np.stack([expected] * 3, -1))
    for whole in (values.astype(np.int32), values.astype(np.float32)):
        with pytest.raises(ValueError, match="32-bit"):
            fit(Image.fromarray(whole), p)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once_and_the_header_tells_the_upright_size(tmp_path, file_format):
    image, p = colour(9, 6), Preprocess((6, 9), MEAN, STD)
    how = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(file_format, {})
    for orientation in range(1, 9):
        root = tmp_path / str(orientation)
        for name in ("a", "b"):
            (root / name).mkdir(parents=True)
            image.save(root / name / f"0.{file_format.lower()}", file_format, **turned(orientation, **how))
        tagged = image.copy()
        tagged.getexif()[0x0112] = orientation
        upright = ImageOps.exif_transpose(tagged)
        assert read_folder(root).facts.size == (upright.height, upright.width)
        if file_format != "JPEG":
            with Image.open(root / "a" / f"0.{file_format.lower()}") as opened:
                assert np.array_equal(fit(opened, p), fit(upright, p))


def test_normalization_is_torchs_to_the_bit():
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, 1)
    choices = [(MEAN, STD), ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1 / 255,) * 3),
               *(tuple(map(tuple, RNG.uniform(0.01, 1, (2, 3)).tolist())) for _ in range(50))]
    for mean, std in choices:
        m, s = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
        theirs = (torch.from_numpy(every).float() / 255).sub_(m).div_(s).numpy()
        ours = normalize(every.transpose(0, 2, 3, 1).transpose(0, 3, 1, 2), Preprocess((16, 16), mean, std))
        assert ours.dtype == np.float32 and ours.flags.c_contiguous and ours.tobytes() == theirs.tobytes()


SIZES = ((1, 1), (3, 90), (90, 3), (64, 90), (56, 56), (64, 64), (65, 64), (57, 41), (32, 24), (200, 7))


@pytest.mark.parametrize("size", [(56, 56), (24, 32), (64, 20), (7, 5)], ids=str)
@pytest.mark.parametrize("mode", CROP_MODES)
def test_pixels_are_those_of_timms_evaluation_to_the_bit(size, mode):
    images = [colour(*s) for s in SIZES]
    for crop, interpolation in itertools.product((0.875, 1.0, 0.887, 1.15), RESAMPLING):
        theirs = create_transform((3, *size), interpolation=interpolation, crop_pct=crop, crop_mode=mode, mean=MEAN,
                                  std=STD)
        p = Preprocess(size, MEAN, STD, interpolation, crop, mode, crop_all=True)
        for image in images:
            if mode == "border" and 0 in (round(s * min(size) / max(image.size) / crop) for s in image.size):
                continue  # timm asks Pillow for a side of 0 pixels
            assert theirs(image).numpy().tobytes() == network_input(np.asarray(image), p).tobytes(), image.size


def test_published_models_see_photos_as_timm_shows_them():
    """One model for each crop mode, interpolation and side of 1 that crop_pct is on, of all that timm describes."""
    if not IMAGENETTE.is_dir():
        pytest.skip("needs imagenette-small beside the checkout")
    found = {}
    for model in timm.list_models(pretrained=True):
        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict())
        if max(config["input_size"]) < 500:
            found.setdefault((config["crop_mode"], config["interpolation"], np.sign(config["crop_pct"] - 1)), config)
    assert {mode for mode, *_ in found} <= set(CROP_MODES) and len(found) >= 5
    photo = Image.open(min(IMAGENETTE.glob("*/*"))).convert("RGB")
    for config in found.values():
        p = Preprocess(config["input_size"][1:], config["mean"], config["std"], config["interpolation"],
                       config["crop_pct"], config["crop_mode"], crop_all=True)
        for image in (photo, photo.crop((0, 0, 200, 150)), photo.resize((500, 375))):
            theirs = create_transform(**config)(image)
            assert theirs.numpy().tobytes() == network_input(np.asarray(image), p).tobytes(), config


def test_images_of_the_models_size_are_taken_as_they_are_unless_all_are_cropped(tmp_path):
    exact = noise(12, 16)
    p = Preprocess((16, 12), MEAN, STD, crop_pct=0.5)
    for mode in CROP_MODES:
        keep, crop = (Preprocess((16, 12), MEAN, STD, crop_pct=0.5, crop_mode=mode, crop_all=a) for a in (False, True))
        assert np.array_equal(fit_array(exact, keep), exact)
        assert not np.array_equal(fit_array(exact, crop), exact)
        array, file = (Part(x, np.zeros(1, np.int64)) for x in (exact[None], (tmp_path / "exact.png",)))
        Image.fromarray(exact).save(tmp_path / "exact.png")
        for rule in (keep, crop):  # arrays, files, in memory or not
            made = [pixels.prepare([part], rule, None, None)[0][np.arange(1)][0] for part in (array, file)]
            assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], fit_array(exact, rule))
    assert resized_size((16, 12), p) == (16, 12) and resized_size((16, 13), p) == (32, 26)


def hits(model: torch.nn.Module, split: Split) -> float:
    return float(np.mean(np.concatenate([(model(x).argmax(1) == y).numpy() for x, y in split.batches(16)])))


@pytest.mark.parametrize("crop_all", [None, False, True])
@pytest.mark.parametrize("kind", ["ring.npz", "ring"])
def test_the_reported_accuracy_is_the_deployed_one(tmp_path, kind, crop_all):
    model, _, arrays, labels = planted(tmp_path)
    opened = open_source(Named(model, None, tmp_path / kind, ModelOptions(crop_all=crop_all)))
    baseline = opened.make_baseline()
    p = opened.make_baseline.preprocess
    reported = hits(baseline.model, baseline.test)
    kept = kind == "ring.npz" if crop_all is None else not crop_all
    assert p.crop_all is not kept and (reported == 1.0 if kept else reported < 0.8)
    [note] = [n for n in opened.notes if "already have the model's size, 8x8" in n]
    assert ("used unchanged, as is" if kept else "--no-crop-all they") in note
    files = [tmp_path / "ring/test" / str(label) / f"{40 + i}.png" for i, label in enumerate(labels)]
    inputs = torch.from_numpy(np.concatenate(deployed(tmp_path / "d", p, files)))
    assert float((baseline.model(inputs).argmax(1).numpy() == labels).mean()) == reported
    for source in (tmp_path / "ring.npz", tmp_path / "ring/train"):
        seen = {x.tobytes() for x in read_images(source, p)}
        splits = (baseline.train, baseline.validation)
        trained = [x for split in splits for images, _ in split.batches(9) for x in images]
        assert seen == {x.numpy().tobytes() for x in trained}
    assert network_input(arrays[0], p).tobytes() == inputs[0].numpy().tobytes()  # an array, as a camera gives


def test_the_cache_knows_every_rule_that_changes_pixels(tmp_path):
    part = Part((tmp_path / "a.png",), np.zeros(1, np.int64))
    colour(9, 9).save(tmp_path / "a.png")
    rules = [{}, {"crop_pct": 0.9}, {"crop_mode": "squash"}, {"crop_mode": "border"}, {"interpolation": "box"},
             {"crop_all": True}, {"crop_mode": "border", "mean": (0.1,) * 3}]
    keys = [pixels._key([part], Preprocess(**{"image_size": (8, 8), "mean": MEAN, "std": STD, **r})) for r in rules]
    assert len(set(keys)) == len(rules)
    assert pixels._key([part], Preprocess((8, 8), STD, MEAN)) == keys[0]


def test_a_picture_of_extreme_shape_is_not_resized_whole():
    """10000 x 1 pixels at 224 px would be 2.2 million pixels wide: 1.5 GB."""
    values = np.repeat(np.arange(10000) // 40 % 256, 1).astype(np.uint8)
    line = Image.fromarray(np.ascontiguousarray(values[None]))
    p = Preprocess((224, 224), (0.5,), (0.5,), "bicubic", 0.875)
    for image in (line, line.transpose(Image.Transpose.TRANSPOSE)):
        assert np.all(np.abs(fit(image, p).astype(int) - int(values[5000])) <= 1)
    many = np.repeat(noise(10000, 1, 1), 40, 0)[..., 0]  # in smaller proportions the short way is the long one's equal
    small = Preprocess((16, 16), (0.5,), (0.5,), "bicubic")
    whole = fit(Image.fromarray(many), small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmprune.data.preprocess.LARGEST", 100)
        assert np.abs(fit(Image.fromarray(many), small).astype(int) - whole).max() <= 1


def test_borders_have_the_colour_of_the_mean_as_far_as_there_is_one():
    p = Preprocess((8, 8), (-0.5, 0.5, 1.5), STD, crop_mode="border")
    assert fit(Image.new("RGB", (8, 4), (9, 9, 9)), p)[[0, 4]][:, 0].tolist() == [[0, 128, 255], [9, 9, 9]]


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8),
                                   np.zeros((1, 3, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8),
                                   np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_images_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be \(height, width, 1 or 3\) uint8, not"):
        network_input(wrong, Preprocess((4, 4), MEAN, STD))
