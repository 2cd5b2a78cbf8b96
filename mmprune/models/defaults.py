"""What `mmprune build` uses if no model and no data are given: the small model and images in calibration_data/."""

from importlib import resources
from pathlib import Path


def _folder() -> Path:
    """The installed package mmprune.calibration_data, or the repository's folder when run from a checkout."""
    checkout = Path(__file__).resolve().parents[2] / "calibration_data"
    try:
        # look up the file, not its folder: for a folder without __init__.py importlib gives a list of paths
        installed = Path(str(resources.files("mmprune.calibration_data").joinpath("default_model.py"))).parent
    except ModuleNotFoundError:
        installed = checkout
    for folder in (installed, checkout):
        if (folder / "default_model.py").is_file():
            return folder
    raise FileNotFoundError(f"calibration_data is not installed with mmprune and not at {checkout}; reinstall mmprune")


def default_model() -> str:
    """The model's name, as --model accepts it."""
    return f"{_folder() / 'default_model.py'}:fashion_resnet"


def default_weights() -> Path:
    return _folder() / "default_model.safetensors"


def default_data() -> Path:
    return _folder() / "fashion_mnist.npz"
