"""The embedded model and images are there, fit together and are what their README says."""

import hashlib
import sys
from importlib.readers import MultiplexedPath
from pathlib import Path

import numpy as np
import pytest
import torch

from mmprune.data.splits import describe_data, load_data
from mmprune.models import defaults
from mmprune.models.defaults import default_data, default_model, default_weights
from mmprune.models.loading import open_model
from mmprune.models.named import ModelOptions

FOLDER = Path(__file__).parents[1] / "calibration_data"


def test_embedded_model_classifies_embedded_test_images():
    opened = open_model(default_model(), str(default_weights()), describe_data(default_data()), ModelOptions())
    data = load_data(default_data(), opened.preprocess, num_classes=opened.spec.num_classes, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (7200, 800, 2000)
    assert np.bincount(data.test.labels).tolist() == [200] * 10
    part = data.test.subset(500, seed=0)
    with torch.inference_mode():
        hits = sum(int((opened.model(x).argmax(1) == y).sum()) for x, y in part.batches(100))
    assert hits / len(part) > 0.90
    assert opened.notes == () and data.notes == ()


def test_embedded_files_are_small_and_of_the_stated_content():
    assert default_weights().stat().st_size <= 5_000_000 and default_data().stat().st_size <= 5_000_000
    readme = (FOLDER / "README.md").read_text()
    for path in (default_weights(), default_data()):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme, f"README.md describes another {path.name}"


def test_installed_folder_is_found_though_it_has_no_init(monkeypatch):
    monkeypatch.setattr(defaults.resources, "files", lambda name: MultiplexedPath(FOLDER))
    assert default_weights() == FOLDER / "default_model.safetensors"
    assert default_model() == f"{FOLDER / 'default_model.py'}:fashion_resnet"


def test_npz_is_written_with_the_same_bytes_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    from make_fashion_mnist import write_npz

    content = {"images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "classes": np.array(("a", "bc"))}
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, content)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert all(np.array_equal(file[k], v) for k, v in content.items())


def test_parts_are_disjoint_and_balanced(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    from make_fashion_mnist import draw

    labels = np.arange(1000) % 10
    first, second, rest = draw(labels, [100, 300])
    assert sorted(np.concatenate([first, second, rest])) == list(range(1000))
    assert np.bincount(labels[second]).tolist() == [30] * 10


@pytest.mark.parametrize("name", ["README.md", "LICENSE-fashion-mnist", "default_model.py"])
def test_source_and_licence_are_beside_the_data(name):
    assert (FOLDER / name).is_file()
