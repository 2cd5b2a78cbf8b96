"""The files that people have: of timm's and Lightning's trainers, of others, and what is no file of weights at all."""

import argparse
import collections
import datetime
import enum
import io
import json
import pickle
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from toys import COLOUR, GREY, tiny_state

from mmprune.models.checkpoints import WeightsError, read_checkpoint
from mmprune.models.loading import open_model
from mmprune.models.named import ModelOptions
from mmprune.models.weights import tensors_sha256

FACTORY = '''
from torch import nn

def tiny(num_classes=3, in_chans=1):
    return nn.Sequential(nn.Conv2d(in_chans, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))
'''


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FACTORY)
    return f"{tmp_path}/mine.py:tiny"


def trained(state: dict) -> dict:
    return {k: v + 1 for k, v in state.items()}


def of_timm(state: dict) -> dict:
    """What timm's train.py writes."""
    args = argparse.Namespace(lr=0.1, mean=None, experiment=Path("out"), smoothing=np.float64(0.1))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2, 3))], lr=0.1, momentum=0.9).state_dict()
    return {"epoch": 3, "arch": "tiny", "state_dict": trained(state), "optimizer": optimizer, "version": 2,
            "args": args, "amp_scaler": {"scale": 65536.0}, "state_dict_ema": state, "metric": np.float64(71.5)}


def of_lightning(state: dict) -> dict:
    """What Lightning's ModelCheckpoint writes; the classes of its callbacks are away when it is read."""
    module = types.ModuleType("lightning_elsewhere")

    class AttributeDict(dict):
        pass

    class Checkpoint(str):
        __slots__ = ()

    class Mode(enum.Enum):
        MIN = "min"

    for made in (AttributeDict, Checkpoint, Mode):
        made.__module__, made.__qualname__ = "lightning_elsewhere", made.__name__
        setattr(module, made.__name__, made)
    sys.modules["lightning_elsewhere"] = module
    return {"epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.4.0",
            "state_dict": {**{f"model.{k}": v for k, v in state.items()}, "criterion.weight": torch.ones(3),
                           "val_acc.correct": torch.tensor(5)},
            "loops": {"fit_loop": {"state_dict": {}, "started": datetime.datetime(2026, 1, 2)}},
            "callbacks": {Checkpoint: {"best": Path("a"), "mode": Mode.MIN}, "Timer": datetime.timedelta(1)},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}], "lr_schedulers": [],
            "hyper_parameters": AttributeDict(lr=0.1, net=AttributeDict(width=2))}


def of_others(state: dict) -> dict:
    return {"model": collections.OrderedDict(state), "seen": collections.Counter("abc"), "names": {1, 2},
            "by": collections.defaultdict(list), "dtype": torch.float16, "device": torch.device("cpu"),
            "size": torch.Size([1, 2]), "when": datetime.date(2026, 1, 2), "c": complex(1, 2), "s": slice(1, 2),
            "fr": frozenset([1]), "rng": np.random.default_rng(0), "generator": torch.get_rng_state()}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize(("make", "name"), [
    (of_timm, "model_best.pth.tar"), (of_lightning, "epoch=1.ckpt"), (of_others, "last.model"), (of_others, "noname")])
def test_checkpoints_of_trainers_open(factory, tmp_path, make, name, legacy):
    torch.save(make(tiny_state()), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    sys.modules.pop("lightning_elsewhere", None)
    opened = open_model(factory, str(tmp_path / name), GREY, ModelOptions())
    assert opened.spec.weights_sha256 == tensors_sha256(tiny_state())
    assert any("only its tensors are read" in note for note in opened.notes)


def test_averaged_weights_are_taken_and_said(factory, tmp_path):
    torch.save(of_timm(tiny_state()), tmp_path / "last.pth.tar")
    notes = "\n".join(read_checkpoint(tmp_path / "last.pth.tar").notes)
    assert "those of state_dict_ema, the averaged ones, are used, not state_dict" in notes
    assert "argparse.Namespace" in notes and "optimizer" not in notes


@pytest.mark.parametrize(("wrap", "note"), [
    (lambda s: {"ema": {"module": s, "decay": 0.9}, "model": trained(s)}, "ema.module, the averaged ones"),
    (lambda s: {"model_ema_state_dict": s, "model_state_dict": trained(s)}, "model_ema_state_dict, the averaged"),
    (lambda s: {"params_ema": s, "params": trained(s)}, "params_ema, the averaged"),
    (lambda s: {"swa_model": {f"module.{k}": v for k, v in s.items()} | {"n_averaged": torch.tensor(3)},
                "model": trained(s)}, "swa_model, the averaged"),
    (lambda s: {"student": s, "teacher": trained(s)}, "student are used, not teacher"),
    (lambda s: {"ema": {"decay": torch.tensor(0.9)}, "weights": s}, None),
    (lambda s: {"params": s, "step": torch.tensor(3)}, None),
    (lambda s: {"a": {"b": {"state": s}}}, None),
    (lambda s: {"net": {k.replace(".", "._orig_mod."): v for k, v in s.items()}}, None)])
def test_sets_of_weights(tmp_path, wrap, note):
    torch.save(wrap(tiny_state()), tmp_path / "w.pt")
    read = read_checkpoint(tmp_path / "w.pt")
    assert tensors_sha256(read.state) == tensors_sha256(tiny_state())
    assert read.notes == () if note is None else note in read.notes[0]


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "model.encoder.", "module.network."])
def test_any_prefix_is_found_and_what_is_beside_it_is_said(factory, tmp_path, prefix):
    state = {**{prefix + k: v for k, v in tiny_state(6).items()}, "loss_fn.weight": torch.ones(3)}
    torch.save(state, tmp_path / "w.pt")
    opened = open_model(factory, str(tmp_path / "w.pt"), GREY, ModelOptions())
    assert opened.spec.num_classes == 6 and opened.spec.weights_sha256 == tensors_sha256(tiny_state(6))
    assert "1 of its tensors (loss_fn.weight)" in "\n".join(opened.notes)


def test_classes_of_a_timm_model_are_found_behind_a_prefix(tmp_path):
    model = timm.create_model("test_resnet", num_classes=7)
    state = {f"net.{k}": v for k, v in model.state_dict().items()} | {"criterion.weight": torch.ones(7)}
    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace()}, tmp_path / "last.ckpt")
    opened = open_model("test_resnet", str(tmp_path / "last.ckpt"), COLOUR, ModelOptions(image_size=(32, 32)))
    assert opened.spec.num_classes == 7 and opened.spec.weights_sha256 == tensors_sha256(model.state_dict())


def test_a_model_beside_its_average_in_one_state(factory, tmp_path):
    state = tiny_state()
    both = {f"net.{k}": v for k, v in trained(state).items()} | {f"net_ema.{k}": v for k, v in state.items()}
    torch.save(both, tmp_path / "w.ckpt")
    opened = open_model(factory, str(tmp_path / "w.ckpt"), GREY, ModelOptions())
    assert opened.spec.weights_sha256 == tensors_sha256(tiny_state())
    assert "under 'net_ema.' are used, not net." in "\n".join(opened.notes)


def test_a_layer_too_many_is_still_a_mismatch(factory, tmp_path):
    save_file({**tiny_state(), "4.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected in the file: 4\.weight"):
        open_model(factory, str(tmp_path / "w.safetensors"), GREY, ModelOptions())


def test_whole_numbers_for_weights_are_a_mismatch(factory, tmp_path):
    save_file({**tiny_state(), "3.weight": torch.ones(3, 2, dtype=torch.int8)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"3\.weight is int8 in the file and float32 in the model"):
        open_model(factory, str(tmp_path / "w.safetensors"), GREY, ModelOptions())


def script(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def onnx_file(path: Path) -> None:
    import onnx

    graph = onnx.helper.make_graph([], "g", [], [])
    path.write_bytes(onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString())


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def quantized(path: Path) -> None:
    torch.save({"fc.weight": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)}, path)


class Net(nn.Linear):
    """A model of the user's own."""


FOREIGN = {
    "model.pt": (lambda p: torch.save(nn.Linear(2, 2), p),
                 r"complete model \(torch\.nn\.modules\.linear\.Linear\).*weights_only=False\)\.state_dict\(\)"),
    "yolo.pt": (lambda p: torch.save({"epoch": 1, "ema": None, "model": Net(2, 2)}, p),
                r"complete model \(test_checkpoints\.Net\).*\['model'\]\.state_dict\(\)"),
    "list.pt": (lambda p: torch.save([1, 2], p), "holds a list, not a state dict"),
    "script.pt": (script, r"TorchScript.*torch\.jit\.load\('.*'\)\.state_dict\(\)"),
    "exported.pt2": (lambda p: zipped(p, "e/serialized_exported_program.json"), r"torch\.export"),
    "net.onnx": (onnx_file, "it is an ONNX file; mmprune prunes the original PyTorch model"),
    "onnx.bin": (onnx_file, "it is an ONNX file"),
    "net.h5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600)), "an HDF5 file"),
    "net.keras": (lambda p: zipped(p, "metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
    "net.tflite": (lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(600)), "a TensorFlow Lite file"),
    "net.zip": (lambda p: zipped(p, "weights.pt", "readme.txt"), r"archive with weights\.pt, readme\.txt; unpack it"),
    "net.npz": (lambda p: np.savez(p, a=np.ones(2)), "holds numpy arrays"),
    "net.tar": (tarred, "a tar archive"),
    "net.pth": (tarred, "a tar archive"),
    "net.pth.gz": (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(99)), "a compressed archive"),
    "net.safetensors": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "page.pth": (lambda p: p.write_text("<!DOCTYPE html><html>404</html>"), "a web page"),
    "model.safetensors.index.json": (
        lambda p: p.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})),
        r"the index of weights stored in 2 files \(model-1"),
    "config.json": (lambda p: p.write_text("{}"), "a JSON file"),
    "net.xml": (lambda p: p.write_text("<?xml version='1.0'?><net name='x'></net>"), "an XML file"),
    "raw.bin": (lambda p: p.write_bytes(bytes(range(100, 200)) * 9), "does not begin like either of these"),
    "int8.pt": (quantized, r"holds a quantized model \(fc\.weight\)"),
    "packed.pt": (lambda p: torch.save({"fc._packed_params._packed_params": torch.ones(2)}, p), "a quantized model"),
    "qat.pt": (lambda p: torch.save({"fc.weight": torch.ones(2), "fc.weight_fake_quant.scale": torch.ones(1)}, p),
               "holds a quantized model"),
    "plain.pkl": (lambda p: p.write_bytes(pickle.dumps({"epoch": 3})), "holds a dict of epoch, not a state dict"),
    "folder": (lambda p: p.mkdir() or save_file(tiny_state(), p / "m.safetensors"), r"is a folder.*m\.safetensors"),
    "saved": (lambda p: p.mkdir() or (p / "saved_model.pb").write_bytes(b"x"), "a TensorFlow SavedModel"),
    "dcp": (lambda p: p.mkdir() or (p / ".metadata").write_bytes(b"x"), "dcp_to_torch"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_file_of_weights_says_what_it_is(tmp_path, name):
    make, words = FOREIGN[name]
    make(tmp_path / name)
    with pytest.raises(WeightsError, match=words) as caught:
        read_checkpoint(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
