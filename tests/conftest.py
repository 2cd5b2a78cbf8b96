"""Fixtures that several test files share, made once a run of each process."""

import subprocess
from pathlib import Path

import pytest
from tensorrt_rtx_python import TENSORRT_PYTHON


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A folder with trained weights of the toy model and its data."""
    import numpy as np
    import torch
    from toys import SmallNet, ToySplit

    root = tmp_path_factory.mktemp("toy")
    torch.manual_seed(0)
    torch.save({"state_dict": {f"module.{k}": v for k, v in SmallNet().state_dict().items()}}, root / "toy.pth")
    for split in (ToySplit(150, 1), ToySplit(60, 2)):
        images = ((split.images.clamp(-1, 3) + 1) * 63).byte().permute(0, 2, 3, 1).numpy()
        which = "train" if len(split) == 150 else "test"
        np.savez(root / f"{which}.npz", images=images, labels=split.labels.numpy())
    parts = {which: np.load(root / f"{which}.npz") for which in ("train", "test")}
    np.savez_compressed(root / "toy.npz", **{f"{w}_{k}": parts[w][k] for w in parts for k in ("images", "labels")})
    return root


@pytest.fixture(scope="session")
def tensorrt_rtx() -> None:
    """Skips where NVIDIA's own parser is missing."""
    if subprocess.run([TENSORRT_PYTHON, "-c", "import tensorrt_rtx"], capture_output=True, check=False).returncode:
        pytest.skip("needs tensorrt-rtx-cu12, here or in the Python that MMPRUNE_TENSORRT_PYTHON names")


LONGEST = ("test_avx512", "test_arm64", "test_board", "test_sanitized", "test_cli", "test_family")  # they start first
MACHINES = ("machine", "ran", "results_without", "built")  # fixtures: with other parameters another machine or build


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In several processes (--dist loadgroup), what shares a machine or a file's fixtures is one process's."""
    if not hasattr(config, "workerinput"):
        return
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        given = getattr(item, "callspec", None)
        machine = [str(given.params[name]) for name in MACHINES if given and name in given.params]
        item.add_marker(pytest.mark.xdist_group("-".join([item.path.stem, *machine])))
