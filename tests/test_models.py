"""Models from timm and from files, and weights files of every kind."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from toys import COLOUR, GREY, tiny_state

from exporters import ExportError
from exporters.trace import Traced, trace
from mmprune.cli.arguments import numbers
from mmprune.models import size
from mmprune.models.checkpoints import read_checkpoint
from mmprune.models.factories import FactoryError
from mmprune.models.loading import ModelError, adopt, check_forward, load_model, open_model, preprocess_of, resolve
from mmprune.models.named import ModelOptions
from mmprune.models.weights import WeightsError, put_weights, tensors_sha256
from mmprune.records import ModelSpec

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = Path(__file__).parents[2] / "shared/data"
FACTORY = '''
import torch
from torch import nn

def tiny(num_classes=3, in_chans=1):
    return nn.Sequential(nn.Conv2d(in_chans, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))

def fixed():
    return tiny(4, 3)

def needs(num_classes):
    return tiny(num_classes)

def no_module():
    return 5

def pair():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()
'''
@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FACTORY)
    return str(tmp_path / "mine.py")


def test_unknown_timm_name_suggests_the_nearest():
    with pytest.raises(ModelError, match=r"no model called 'resnet1'.*'resnet18'"):
        resolve("resnet1", None, COLOUR, ModelOptions())


def test_unknown_tag_lists_the_known_ones():
    with pytest.raises(ModelError, match="a1_in1k"):
        resolve("resnet18.nosuch", None, COLOUR, ModelOptions())


def test_timm_model_takes_classes_and_channels_from_data_and_size_from_timm():
    spec, notes = resolve("resnet18", None, GREY, ModelOptions())
    assert (spec.num_classes, spec.in_chans, spec.image_size) == (5, 1, (224, 224))
    assert "random" in notes[0]


def test_classes_and_channels_come_from_the_weights_before_the_data(tmp_path):
    model = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    opened = open_model("test_resnet", str(tmp_path / "w.pth"), COLOUR, ModelOptions(image_size=(32, 32)))
    assert (opened.spec.num_classes, opened.spec.in_chans) == (7, 1)
    assert not opened.random_weights and opened.notes == ()
    assert opened.spec.weights_sha256 == tensors_sha256(model.state_dict())
    assert opened.preprocess.input_shape == (1, 1, 32, 32)
    assert load_model(opened.spec).training is False


def test_random_weights_are_the_same_in_every_process_and_said():
    opened = open_model("test_resnet", None, COLOUR, ModelOptions(image_size=(32, 32)))
    assert opened.random_weights
    torch.manual_seed(123)
    assert tensors_sha256(load_model(opened.spec).state_dict()) == opened.spec.weights_sha256


def test_a_file_that_changed_is_noticed(factory, tmp_path):
    save_file(tiny_state(), tmp_path / "w.safetensors")
    spec = open_model(f"{factory}:tiny", str(tmp_path / "w.safetensors"), GREY, ModelOptions()).spec
    save_file({**tiny_state(), "3.bias": torch.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="have changed since"):
        load_model(spec)


def test_vit_takes_another_image_size_and_swin_says_when_not():
    assert open_model("test_vit", None, COLOUR, ModelOptions(image_size=(64, 64))).preprocess.image_size == (64, 64)
    with pytest.raises(ModelError, match=r"30 x 30.*--img-size"):
        open_model("test_vit", None, COLOUR, ModelOptions(image_size=(30, 30)))


def test_too_small_an_image_is_named(factory):
    with pytest.raises(ModelError, match="does not accept 1 x 2 x 2 images"):
        load_model(ModelSpec(f"{factory}:tiny", 3, 1, (2, 2)))


@pytest.mark.parametrize(("name", "message"), [
    ("nosuch", "no function called 'nosuch'"), ("tinny", "did you mean 'tiny'"), ("no_module", "returned a int"),
    ("pair", "returns a tuple"), ("needs(", "no function")])
def test_factory_errors_say_what_is_wrong(factory, name, message):
    with pytest.raises((FactoryError, ModelError), match=message):
        open_model(f"{factory}:{name}", None, GREY, ModelOptions())


def test_factory_file_that_is_absent_unnamed_or_broken(factory, tmp_path):
    with pytest.raises(FactoryError, match="there is no file"):
        resolve("nosuch.py:f", None, GREY, ModelOptions())
    with pytest.raises(FactoryError, match=r"mine\.py:tiny"):
        resolve(factory, None, GREY, ModelOptions())
    (tmp_path / "broken.py").write_text("import nosuchpackage")
    with pytest.raises(FactoryError, match="nosuchpackage"):
        resolve(f"{tmp_path}/broken.py:f", None, GREY, ModelOptions())


def test_factory_gets_only_the_arguments_it_takes(factory):
    assert resolve(f"{factory}:tiny", None, GREY, ModelOptions())[0].num_classes == 5
    spec, notes = resolve(f"{factory}:fixed", None, GREY, ModelOptions())
    assert (spec.num_classes, spec.in_chans, spec.image_size) == (4, 3, (8, 8))
    assert "as fixed() returns it" in notes[0]
    assert resolve(f"{factory}:needs", None, GREY, ModelOptions())[0].num_classes == 5
    assert open_model(f"{factory}:needs", None, GREY, ModelOptions(num_classes=2)).spec.num_classes == 2


def test_factory_classes_come_from_the_weights(factory, tmp_path):
    save_file(tiny_state(6, 3), tmp_path / "w.safetensors")
    spec, _ = resolve(f"{factory}:tiny", str(tmp_path / "w.safetensors"), GREY, ModelOptions())
    assert (spec.num_classes, spec.in_chans) == (6, 3)


def test_output_of_other_size_names_both():
    with pytest.raises(ModelError, match=r"\(1, 4\).*\(1, 5\).*--num-classes"):
        check_forward(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), ModelSpec("m", 5, 1, (2, 2)))


@pytest.mark.parametrize("wrap", [
    lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}, lambda s: {"model_state_dict": s},
    lambda s: {"net": {f"module.{k}": v for k, v in s.items()}},
    lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "best": 0.9},
    lambda s: {"model": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s}])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrap):
    torch.save(wrap(tiny_state()), tmp_path / "w.pt")
    assert tensors_sha256(read_checkpoint(tmp_path / "w.pt").state) == tensors_sha256(tiny_state())


def test_a_model_whose_own_names_bear_a_prefix_loads():
    inner = nn.Linear(2, 2)
    model = nn.ModuleDict({"model": inner})
    put_weights(model, {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, "w")
    assert inner.weight.sum() == 4


def test_refused_damaged_and_foreign_files_say_what_to_do(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(WeightsError, match=r"refused.*state_dict"):
        read_checkpoint(tmp_path / "module.pt")
    torch.save(tiny_state(), tmp_path / "w.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:500])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("cut.pt", "cut.safetensors", "empty.pth"):
        with pytest.raises(WeightsError, match=name):
            read_checkpoint(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="a dict of epoch"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match=r"not a weights file that mmprune reads \(safetensors"):
        read_checkpoint(Path(__file__))
    with pytest.raises(WeightsError, match="there is no weights file"):
        read_checkpoint(tmp_path / "absent.pt")


def test_mismatch_names_first_keys_shapes_and_counts():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))
    state = {"0.weight": torch.ones(2, 3, 3, 3), "extra": torch.ones(1)}
    with pytest.raises(WeightsError) as caught:
        put_weights(model, state, "w.pt")
    text = str(caught.value)
    assert "w.pt" in text and "unexpected in the file: extra" in text
    assert "0.bias, 1.weight, 1.bias, ... (7 in all)" in text
    assert "0.weight is (2, 3, 3, 3) in the file and (2, 1, 3, 3) in the model" in text


def test_missing_batch_counts_are_no_mismatch():
    norm = nn.BatchNorm2d(2)
    put_weights(norm, {k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"}, "w.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_the_tensor(factory, tmp_path, bad):
    save_file({**tiny_state(), "0.bias": torch.tensor([0.0, bad])}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"0\.bias holds 1 value"):
        open_model(f"{factory}:tiny", str(tmp_path / "w.safetensors"), GREY, ModelOptions())


def test_half_precision_weights_become_float32(factory, tmp_path):
    save_file({k: v.half() for k, v in tiny_state().items()}, tmp_path / "w.safetensors")
    opened = open_model(f"{factory}:tiny", str(tmp_path / "w.safetensors"), GREY, ModelOptions())
    assert {v.dtype for v in opened.model.state_dict().values()} == {torch.float32}


def test_hash_depends_on_names_types_shapes_and_values_only():
    a = {"x": torch.arange(4.0), "y": torch.tensor(1)}
    same = {"y": torch.tensor(1), "x": torch.arange(4.0).repeat(2)[:4]}
    assert tensors_sha256(a) == tensors_sha256(same)
    for x in (a["x"].view(2, 2), a["x"].double(), a["x"] + 1):
        assert tensors_sha256({**a, "x": x}) != tensors_sha256(a)
    assert tensors_sha256({"z": a["x"], "y": a["y"]}) != tensors_sha256(a)


def test_preprocess_follows_timm_the_user_and_the_channels(factory):
    spec = ModelSpec("m", 3, 1, (8, 8))
    model = nn.Linear(1, 1)
    made, notes = preprocess_of(model, spec, ModelOptions())
    assert made.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),) and "ImageNet" in notes[0]
    options = ModelOptions(mean=(0.1,), std=(0.2,), interpolation="nearest", crop_pct=0.5)
    made, notes = preprocess_of(model, spec, options)
    assert (made.mean, made.std, made.interpolation, made.crop_pct, notes) == ((0.1,), (0.2,), "nearest", 0.5, ())
    model.pretrained_cfg = {"mean": (0.5,), "std": (0.25,), "crop_pct": 0.9, "interpolation": "bilinear"}
    made, notes = preprocess_of(model, ModelSpec("m", 3, 3, (8, 8)), ModelOptions())
    assert (made.mean, made.std, made.crop_pct, notes) == ((0.5,) * 3, (0.25,) * 3, 0.9, ())
    with pytest.raises(ModelError, match="--mean has 2 values"):
        preprocess_of(model, spec, ModelOptions(mean=(0.1, 0.2)))
    with pytest.raises(ModelError, match="no interpolation called 'cubic'"):
        preprocess_of(model, spec, ModelOptions(interpolation="cubic"))


@pytest.mark.parametrize(("mean", "std", "words"), [
    ("123.675,116.28,103.53", "58.395,57.12,57.375", "divide by 255, --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
    ("123.675,116.28,103.53", "1,1,1", "divide by 255, --mean 0.485,0.456,0.406 --std 0.003922,0.003922,0.003922"),
    ("127.5", "127.5", "--mean 127.5 is for pixels from 0 to 255; mmprune scales images to [0, 1]: divide by 255"),
    ("0.485,0.456,0.406", "58.395,57.12,57.375", "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
    ("0", "255", "divide by 255, --mean 0,0,0 --std 1,1,1"),
    ("123.675,116.28,103.53", None, "divide by 255, --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
    ("-123,-116,-103", "1", "--mean -123,-116,-103 is not a possible mean of images scaled to [0, 1]"),
    ("0.5", "0", "--std 0 is not positive"), ("0.5", "0.5,-0.5,0.5", "--std 0.5,-0.5,0.5 is not positive"),
    ("0.0019,0.0018,0.0016", "0.0009,0.0009,0.0009", "divided by 255 twice"),
    ("nan", "1", "--mean nan is not finite"), ("0.5", "inf", "--std inf is not finite"),
    ("0.5,0.5", "1", "--mean has 2 values for 3 channels")])
def test_mean_and_std_that_would_ruin_the_input_are_refused(mean, std, words):
    options = ModelOptions(mean=numbers(mean, "--mean"), std=numbers(std, "--std"))
    with pytest.raises(ModelError) as refused:
        preprocess_of(nn.Linear(1, 1), ModelSpec("m", 3, 3, (8, 8)), options)
    assert words in str(refused.value)


@pytest.mark.parametrize("stated", [
    {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}, {"mean": 127.5, "std": 127.5},
    {"mean": (0.5,) * 3, "std": (0.0,) * 3}, {"interpolation": "random"}, {"crop_mode": "five"}, {"crop_pct": 87.5}])
def test_what_a_model_states_wrongly_is_refused_until_the_user_says_better(stated):
    model, spec = nn.Linear(1, 1), ModelSpec("mine.py:net", 3, 3, (8, 8))
    model.pretrained_cfg = stated
    with pytest.raises(ModelError, match=r"model states|mine\.py:net states"):
        preprocess_of(model, spec, ModelOptions())
    better = ModelOptions(mean=(0.5,), std=(0.5,), interpolation="box", crop_mode="squash", crop_pct=0.9)
    made, notes = preprocess_of(model, spec, better)
    assert (made.mean, made.std, notes) == ((0.5,) * 3, (0.5,) * 3, ())
    assert (made.interpolation, made.crop_mode, made.crop_pct) == ("box", "squash", 0.9)


def test_unusual_but_sensible_mean_and_std_are_taken():
    model, spec = nn.Linear(1, 1), ModelSpec("m", 3, 3, (8, 8))
    for mean, std in ((0.0, 1 / 255), (0.0, 1.0), (0.5, 0.5), (-0.5, 2.0), (1.0, 0.225)):
        made, _ = preprocess_of(model, spec, ModelOptions(mean=(mean,), std=(std,)))
        assert (made.mean, made.std) == ((mean,) * 3, (std,) * 3)
    model.pretrained_cfg = {"mean": np.array([0.5, 0.4, 0.3]), "std": 0.25}
    made, notes = preprocess_of(model, spec, ModelOptions())
    assert (made.mean, made.std, notes) == ((0.5, 0.4, 0.3), (0.25,) * 3, ())


def test_one_of_mean_and_std_alone_is_said():
    model, spec = nn.Linear(1, 1), ModelSpec("m", 3, 1, (8, 8))
    assert "m states no std: ImageNet's is used" in preprocess_of(model, spec, ModelOptions(mean=(0.5,)))[1][0]
    model.pretrained_cfg = {"mean": (0.1,), "std": (0.3,)}
    assert preprocess_of(model, spec, ModelOptions(mean=(0.5,)))[1] == (
        "--mean is given without --std: the model's own std, 0.3, is used",)
    assert preprocess_of(model, spec, ModelOptions(std=(0.5,)))[1] == (
        "--std is given without --mean: the model's own mean, 0.1, is used",)


def test_crop_mode_and_interpolation_are_timms_or_the_users():
    for name, option, expected in (("coat_lite_medium_384", None, "squash"), ("resnet18", None, "center"),
                                   ("resnet18", "border", "border")):
        model = nn.Linear(1, 1)
        model.pretrained_cfg = timm.get_pretrained_cfg(name)
        made, _ = preprocess_of(model, ModelSpec(name, 3, 3, (64, 48)), ModelOptions(crop_mode=option))
        assert made.crop_mode == expected
    for wrong, words in ((ModelOptions(crop_mode="five"),
                          "no crop mode called 'five' (choose from center, squash, border)"),
                         (ModelOptions(crop_pct=87.5), "--crop-pct 87.5 is not the fraction"),
                         (ModelOptions(crop_pct=87.5), "in percent, use --crop-pct 0.875"),
                         (ModelOptions(crop_pct=0.0), "--crop-pct 0 is not"),
                         (ModelOptions(crop_pct=float("nan")), "--crop-pct nan is not")):
        with pytest.raises(ModelError) as refused:
            preprocess_of(nn.Linear(1, 1), ModelSpec("m", 3, 3, (8, 8)), wrong)
        assert words in str(refused.value)


def test_weights_and_pretrained_exclude_each_other():
    with pytest.raises(ModelError, match="exclude each other"):
        resolve("resnet18", "w.pt", COLOUR, ModelOptions(pretrained=True))
    with pytest.raises(ModelError, match="load its own weights"):
        resolve("mine.py:tiny", None, COLOUR, ModelOptions(pretrained=True))


def test_lite_names_become_timms():
    spec = importlib.util.spec_from_file_location("real_models", BENCHMARKS / "real_models.py")
    real_models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(real_models)
    model = timm.create_model("tf_efficientnet_lite0")
    theirs = ("_conv_stem.weight", "_bn1.bias", "_fc.bias", "_blocks.0._depthwise_conv.weight",
              "_blocks.0._project_conv.weight", "_blocks.15._expand_conv.weight", "_blocks.15._bn2.running_var")
    renamed = real_models.rename_lite({name: torch.zeros(1) for name in theirs}, [len(stage) for stage in model.blocks])
    assert set(renamed) <= set(model.state_dict())
    assert list(renamed)[3:] == ["blocks.0.0.conv_dw.weight", "blocks.0.0.conv_pw.weight", "blocks.6.0.conv_pw.weight",
                                 "blocks.6.0.bn3.running_var"]


def test_published_resnet20_loads_strictly():
    weights = SHARED / "cifar10-resnets/resnet20-12fca82f.th"
    if not weights.is_file():
        pytest.skip("needs the CIFAR-10 ResNets beside the checkout")
    factory = BENCHMARKS / "cifar10_nets.py"
    opened = open_model(f"{factory}:resnet20", str(weights), None, ModelOptions())
    assert opened.preprocess.input_shape == (1, 3, 32, 32) and opened.spec.num_classes == 10
    assert sum(p.numel() for p in opened.model.parameters()) == 269722


def test_a_model_that_no_onnx_file_can_hold_is_refused_before_anything_is_done(factory, monkeypatch):
    with torch.device("meta"):
        large = nn.Sequential(nn.Flatten(), nn.Linear(30_000, 30_000))
    words = r"900 million parameters, 3.4 GiB in float32, but an ONNX file.* holds 2 GiB: take a smaller one"
    with pytest.raises(ExportError, match=words):
        trace(Traced(large, (torch.zeros(1, 30_000),), ("x",), ("y",)), "large", print)
    monkeypatch.setattr(size, "MOST_BYTES", 100)
    with pytest.raises(ModelError, match="own cannot be exported: it has 0 million"):
        adopt(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), "own", (1, 1, 8, 8))
    with pytest.raises(ModelError, match="cannot be exported: it has 0 million"):
        open_model(f"{factory}:fixed", None, None, ModelOptions(num_classes=4, image_size=(8, 8)))
