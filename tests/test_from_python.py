"""Pruning from Python: the user's own model and loaders, left as they are; what they cannot be is refused at once."""

import copy
import json
from collections.abc import Iterator

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import SVHN, FakeData, ImageFolder
from torchvision.transforms import v2
from toys import SmallNet, ToySplit, image_loaders, make_baseline

import mmprune
from mmprune.data.loaders import loader_facts, preprocess_of_loader
from mmprune.data.preprocess import network_input
from mmprune.data.splits import DataError, LoaderSplit
from mmprune.folder import FolderError
from mmprune.models.timm_models import ModelError
from targets.deploy import DeployError


def loaders(shuffle: bool = False) -> dict[str, DataLoader]:
    parts = {name: ToySplit(48, seed) for seed, name in enumerate(("train", "val", "test"))}
    return {name: DataLoader(TensorDataset(s.images, s.labels), 16, shuffle=shuffle) for name, s in parts.items()}


def prune(out, model=None, more=None, **given):
    arguments = {"strategies": ("max",), "epochs": 0, "quiet": True, **given}
    return mmprune.prune(model or make_baseline().model, **{**loaders(), **(more or {})}, out=out, **arguments)


def test_the_model_is_left_as_it_is_and_the_same_call_goes_on(tmp_path):
    model = make_baseline().model.train()
    before = copy.deepcopy(model.state_dict())
    family = prune(tmp_path / "family", model)
    assert model.training and all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(),
                                                                    strict=True))
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "family").rglob("variant.json")}
    assert prune(tmp_path / "family", model).variants == family.variants and len(family) == 2
    assert written == {p: p.stat().st_mtime_ns for p in (tmp_path / "family").rglob("variant.json")}
    with pytest.raises(FolderError, match="holds another family"):
        prune(tmp_path / "family", model, seed=1)
    with pytest.raises(FolderError, match=r'strategies: "max" in the folder, "min, max" requested'):
        prune(tmp_path / "family", model, strategies=("min", "max"))
    torch.nn.init.ones_(next(model.parameters()))
    with pytest.raises(FolderError, match=r"holds another family \(of other weights\); choose"):
        prune(tmp_path / "family", model)


def test_a_family_s_models_by_strategy_or_id(tmp_path):
    family = prune(tmp_path, strategies=("min", "max"))
    sparse = family["max"].model()
    zeros = sum(int((w == 0).sum()) for w in sparse.parameters())
    assert not sparse.training and zeros > 0 and family["max"].sparsity > family["min"].sparsity
    assert family[family["min"].variant.id].variant == family["min"].variant
    with pytest.raises(KeyError, match=r"no variant called 'maxi'.*did you mean 'max'"):
        family["maxi"]
    assert [m.variant.strategy for m in family] == ["dense", "min", "max"]
    assert repr(family["max"]).startswith("Model max-obs-") and repr(family["max"]).count("\n") == 0


def test_a_family_of_several_scores_asks_which(tmp_path):
    family = prune(tmp_path, score="all")
    with pytest.raises(KeyError, match="has several variants; use one of max-magnitude"):
        family["max"]


def test_opened_again_it_has_its_files_and_says_what_it_lacks(tmp_path):
    prune(tmp_path)
    family = mmprune.open_family(tmp_path)
    assert len(family) == 2
    with pytest.raises(DataError, match=r"made from a model and loaders in Python.*call mmprune\.prune with them"):
        family["max"].model()
    with pytest.raises(FolderError, match="holds no family"):
        mmprune.open_family(tmp_path / "none")


def test_markup_in_names_stays_text(tmp_path):
    family = prune(tmp_path / "<b>bold")
    assert "&lt;b&gt;bold" in family._repr_html_() and "<b>" not in family._repr_html_()
    assert family._repr_html_().count("<tr>") == 3 and "max" in repr(family)


class Noise(Dataset):
    """Other images each time, as random augmentation makes them."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.randn(1, 8, 9), index % 3


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return ((torch.zeros(1, 8, 9), i % 3) for i in range(32))


class Spent(Stream):
    """Its second pass yields nothing."""

    def __init__(self) -> None:
        self.rest = super().__iter__()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return self.rest

    def __len__(self) -> int:
        return 32


FEW = (torch.zeros(4, 1, 8, 9), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(("more", "words"), [
    ({"test": DataLoader(Noise(), 16)}, "the test loader yields different images, or another order, each time"),
    ({"val": loaders(shuffle=True)["val"]}, "the validation loader yields different images"),
    ({"train": []}, "the train loader yields no batches"),
    ({"test": [(torch.zeros(4, 1, 16, 16), torch.zeros(4, dtype=torch.long))]}, "images of several shapes"),
    ({"train": [torch.zeros(4, 1, 8, 9)]}, r"must yield \(images, labels\)"),
    ({"train": [(torch.zeros(4, 1, 8, 9), torch.full((4,), 7))]},
     "labels up to 7, but the model has only 3 classes"),
    ({"test": [(torch.zeros(4, 1, 8, 9), torch.tensor([0, 1, -1, 2]))]}, "labels below 0, such as -1"),
    ({"train": [(torch.zeros(4, 1, 8, 9), torch.eye(4, 3))]}, r"whole numbers; it yields .* and float32 \(4, 3\)"),
    ({"train": [(torch.zeros(4, 1, 8, 9), torch.zeros(4))]}, r"and float32 \(4,\)"),
    ({"val": [(torch.full((4, 1, 8, 9), torch.nan), FEW[1])]}, "the validation loader yields images that are not fin"),
    ({"train": (FEW for _ in range(9))}, "the train loader is a generator, which gives its batches only once"),
    ({"val": None}, "the validation loader is a NoneType and no loader"),
    ({"val": DataLoader(Spent(), 16)}, "the validation loader yields different images"),
    ({"train": [{"image": FEW[0], "label": FEW[1]}]}, "whole numbers; it yields a dict$"),
    ({"train": [FEW, FEW, (*FEW, torch.ones(4))]}, r"yields a tuple of float32 \(4, 1, 8, 9\) and int64 \(4,\) and"),
    ({"train": DataLoader(Stream(), 16)}, r"the train loader does not say how many images .* a __len__"),
])
def test_loaders_that_do_not_do_are_refused(tmp_path, more, words):
    with pytest.raises(DataError, match=words):
        prune(tmp_path, more=more)
    assert not list(tmp_path.iterdir())


def test_labels_out_of_range_are_seen_wherever_they_are(tmp_path):
    late = [FEW, FEW, (FEW[0], torch.full((4,), 3))]
    with pytest.raises(DataError, match="labels up to 3, but the model has only 3 classes"):
        prune(tmp_path, more={"test": late})


def test_what_loaders_may_be(tmp_path):
    """Doubles, other kinds of labels, a part of the data set, the last batch left out."""
    data = TensorDataset(torch.randn(50, 1, 8, 9).double(), torch.arange(50, dtype=torch.int32) % 3)
    made = {"train": DataLoader(data, 16, drop_last=True), "val": DataLoader(data, 16, sampler=range(20)),
            "test": DataLoader(data, 16)}
    assert [len(LoaderSplit(loader)) for loader in made.values()] == [48, 20, 50]
    for drop_last, count in ((False, 20), (True, 16)):
        assert len(LoaderSplit(DataLoader(data, batch_sampler=BatchSampler(range(20), 8, drop_last)))) == count
    assert len(prune(tmp_path, more=made, epochs=1, strategies="max")) == 3


class TwoInputs(SmallNet):
    def forward(self, x, age):
        return super().forward(x) + age


class AuxiliaryFirst(SmallNet):
    """In training mode another output of another size comes before the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(9, 7)

    def forward(self, x):
        logits = super().forward(x)
        return (self.other(x[:, 0, 0]), logits) if self.training else logits


def test_the_logits_are_trained_where_another_output_comes_first(tmp_path, capsys):
    assert len(prune(tmp_path, AuxiliaryFirst(), epochs=1)) == 3
    assert "returns a tuple of 0 (2, 7), 1 (2, 3): '1' is trained" in capsys.readouterr().err


def test_models_that_do_not_do_are_refused(tmp_path):
    batch = (torch.zeros(4, 2, 8, 9), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ModelError, match=r"SmallNet does not accept .*, as the loaders yield them"):
        prune(tmp_path, SmallNet(), {name: [batch] for name in ("train", "val", "test")})
    with pytest.raises(ModelError, match=r"Sequential returns .*without a tensor of shape \(1, classes\)"):
        prune(tmp_path, nn.Sequential(nn.Conv2d(1, 4, 3)))
    with pytest.raises(ValueError, match=r"no pattern called 'block-1x'.*did you mean 'block-1x4'"):
        prune(tmp_path, pattern="block-1x")
    with pytest.raises(ValueError, match=r"ranges: \[kinds\] 'convolution' is not a kind of layer"):
        prune(tmp_path, ranges={"kinds": {"convolution": [0.1, 0.2]}})
    with pytest.raises(ModelError, match=r"has 2 inputs \(x, age\); mmprune needs one image input"):
        prune(tmp_path, TwoInputs())
    with pytest.raises(ModelError, match=r"SmallNet is a model whose .* has the type float16; use model\.float\(\)"):
        prune(tmp_path, SmallNet().half())
    with pytest.raises(ModelError, match=r"is on the meta device"):
        prune(tmp_path, SmallNet().to("meta"))
    with pytest.raises(ModelError, match=r"0\.weight has no size yet"):
        prune(tmp_path, nn.Sequential(nn.LazyConv2d(4, 3)))
    with pytest.raises(ModelError, match="the model is a str, and an nn"):
        prune(tmp_path, "resnet18")
    with pytest.raises(ValueError, match=r"epochs must be a whole number, got 1\.5"):
        prune(tmp_path, epochs=1.5)
    with pytest.raises(ValueError, match="device: torch cannot use 'gpu' here"):
        prune(tmp_path, device="gpu")
    assert not list(tmp_path.iterdir())


def test_a_model_near_guessing_is_said(tmp_path, capsys):
    prune(tmp_path)
    assert "WARNING: the dense model is correct on" in capsys.readouterr().err


IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TENSOR = transforms.ToTensor()


def files(transform) -> FakeData:
    """A data set of torchvision's."""
    return FakeData(2, (3, 40, 50), transform=transform)


@pytest.mark.parametrize("steps", [
    [transforms.Resize(48), transforms.CenterCrop(32), TENSOR, IMAGENET],
    [transforms.Resize(36, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop((32, 32)), TENSOR, IMAGENET],
    [transforms.Resize((32, 32)), TENSOR, transforms.Normalize([0.5], [0.5])],
    [transforms.Resize((32, 32)), TENSOR],
    [TENSOR, IMAGENET],
])
def test_preprocessing_is_read_off_torchvision_s_transforms(steps):
    transform = transforms.Compose(steps)
    found = preprocess_of_loader(DataLoader(Subset(files(transform), [0])), (1, 3, 32, 32))
    size = (32, 32) if isinstance(steps[0], transforms.ToTensor) else (37, 61)
    picture = np.random.default_rng(7).integers(0, 256, (*size, 3), np.uint8)
    assert np.allclose(network_input(picture, found)[0], transform(Image.fromarray(picture)).numpy(), atol=1e-4)


def test_normalize_may_be_given_plain_numbers():
    steps = [transforms.Grayscale(), transforms.Resize((32, 32)), TENSOR, transforms.Normalize(0.5, 0.25)]
    found = preprocess_of_loader(DataLoader(files(transforms.Compose(steps))), (1, 1, 32, 32))
    assert (found.mean, found.std) == ((0.5,), (0.25,))


def test_timm_s_own_transforms_are_read_too():
    config = timm.data.resolve_model_data_config(timm.create_model("mobilenetv3_small_050"))
    found = preprocess_of_loader(DataLoader(files(timm.data.create_transform(**config, is_training=False))),
                                 (1, *config["input_size"]))
    assert (found.image_size, found.crop_pct, found.interpolation) == ((224, 224), 0.875, "bicubic")


@pytest.mark.parametrize("steps", [
    [transforms.Resize(48), transforms.CenterCrop(32), transforms.ColorJitter(0.5), TENSOR, IMAGENET],
    [transforms.Resize(48), transforms.CenterCrop(32), TENSOR, transforms.Lambda(lambda x: 255 * x)],
    [transforms.Pad(9), transforms.Resize(48), transforms.CenterCrop(32), TENSOR],
    [transforms.Resize(32), transforms.Grayscale(3), transforms.CenterCrop(32), TENSOR, IMAGENET],
])
def test_what_does_not_give_the_same_pixels_is_not_taken_for_it(steps):
    assert preprocess_of_loader(DataLoader(files(transforms.Compose(steps))), (1, 3, 32, 32)) is None


@pytest.mark.parametrize("steps", [
    [v2.Resize(None, max_size=40), transforms.CenterCrop(32), TENSOR],
    [transforms.Resize(800), transforms.CenterCrop(32), TENSOR],
])
def test_steps_that_a_preprocess_cannot_say_are_not_taken_for_one(steps):
    assert preprocess_of_loader(DataLoader(files(transforms.Compose(steps))), (1, 3, 32, 32)) is None


def test_a_data_set_whose_arrays_have_channels_first_is_taken_without_its_preprocessing():
    data = SVHN.__new__(SVHN)  # as if it were downloaded
    data.data, data.labels = np.random.default_rng(0).integers(0, 256, (9, 3, 32, 32), np.uint8), np.zeros(9, np.int64)
    data.transform, data.target_transform = TENSOR, None
    assert preprocess_of_loader(DataLoader(data), (1, 3, 32, 32)) is None


@pytest.mark.gpu
def test_a_loader_may_yield_its_batches_on_the_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    batches = [(FEW[0].cuda(), FEW[1].cuda())]
    assert len(prune(tmp_path, more=dict.fromkeys(("train", "val", "test"), batches), epochs=1)) == 3


class Flipped(ImageFolder):
    """Does more than its transform."""

    def __getitem__(self, index: int):
        image, label = super().__getitem__(index)
        return image.flip(0), label


def bgr(path: str) -> Image.Image:
    return Image.fromarray(np.asarray(Image.open(path).convert("RGB"))[..., ::-1])


def test_a_data_set_that_does_more_than_its_transform_is_seen(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "a" / "0.png")
    steps = transforms.Compose([transforms.Resize(36), transforms.CenterCrop(32), TENSOR, IMAGENET])
    shape = (1, 3, 32, 32)
    assert preprocess_of_loader(DataLoader(ImageFolder(tmp_path, steps)), shape) is not None
    assert preprocess_of_loader(DataLoader(Flipped(tmp_path, steps)), shape) is None
    assert preprocess_of_loader(DataLoader(ImageFolder(tmp_path, steps, loader=bgr)), shape) is None


def test_without_preprocessing_nothing_is_deployed_but_by_saying_it(tmp_path):
    family = prune(tmp_path / "family")
    family.export("onnx-fp32")
    family.measure(how=mmprune.Measuring("smoke"))
    best = family.choose(max_latency_ms=4000)
    with pytest.raises(DeployError, match=r"deploy\(out, preprocess=mmprune\.Preprocess"):
        best.deploy(tmp_path / "deploy")
    best.deploy(tmp_path / "deploy", mmprune.Preprocess((8, 9), (0.5,), (0.25,)))
    assert json.loads((tmp_path / "deploy" / "preprocess.json").read_text())["std"] == [0.25]
    with pytest.raises(mmprune.FamilyError, match="nearest miss"):
        family.choose(max_latency_ms=1e-6)


def test_classes_come_from_the_data_set(tmp_path):
    made = image_loaders(tmp_path)
    facts = loader_facts(*made.values())
    assert facts.classes == ("left", "middle", "right") and facts.input_shape == (1, 1, 8, 9)
    assert facts.highest_label == 2 and facts.sha256 == loader_facts(*image_loaders(tmp_path).values()).sha256


def test_synonyms_become_one_name():
    data = TensorDataset(*FEW)
    data.classes = [("tench", "Tinca tinca"), "goldfish", 7]  # the first as in torchvision's ImageNet
    facts = loader_facts(*[DataLoader(data, 2)] * 3)
    assert facts.classes == ("tench, Tinca tinca", "goldfish", "7")


def test_masks_alone_need_no_data_and_change_nothing():
    model = timm.create_model("resnet18").train()
    hooks, masks = len(model._forward_hooks), mmprune.masks(model, strategy="mid", pattern="2:4")
    assert model.training and len(model._forward_hooks) == hooks
    kept = {name: float(mask.float().mean()) for name, mask in masks.items()}
    assert kept["layer4.1.conv1.weight"] == 0.5 and kept["conv1.weight"] == 1.0
    weights = dict(model.named_parameters())
    assert all(mask.shape == weights[name].shape for name, mask in masks.items())
    with pytest.raises(ValueError, match="input_shape: SmallNet does not state its input size"):
        mmprune.masks(SmallNet())


def test_the_front_door_names_what_it_has():
    assert {"prune", "masks", "build", "open_family"} <= set(dir(mmprune))
    assert all(getattr(mmprune, name) is not None for name in mmprune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = mmprune.prunes
