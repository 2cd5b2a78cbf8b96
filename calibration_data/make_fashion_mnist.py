"""Make fashion_mnist.npz from the four .gz files of Fashion-MNIST, the same bytes each time.

    python calibration_data/make_fashion_mnist.py /usr/share/datasets/fashion-mnist

Of the 8,000 images from the official training split, the default model was trained on 7,200 (train_images) and never
saw 800 (validation_images); the 2,000 from the official test split are test_images.
"""

import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

SEED = 0
HELD_OUT, TRAIN, VALIDATION, TEST = 5000, 7200, 800, 2000  # images, over ten classes of equal size
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of a gzip-compressed IDX file: (n, 28, 28) for images, (n,) for labels."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no IDX file of unsigned bytes; give the folder of Debian's dataset-fashion-mnist")
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(tuple(int(n) for n in shape))


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (n, 28, 28) uint8, labels (n,) int64) of the official "train" or "test" split."""
    stem = FILES[split]
    images, labels = (read_idx(folder / f"{stem}-{x}-ubyte.gz") for x in ("images-idx3", "labels-idx1"))
    return images, labels.astype(np.int64)


def draw(labels: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    """Disjoint, sorted index arrays of the given sizes, every class equally often; a last array holds the rest."""
    rng = np.random.default_rng(SEED)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(counts) + 1)]
    for label in range(len(CLASSES)):
        members = rng.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, np.split(members, np.cumsum(counts) // len(CLASSES)), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def held_out(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(indices the default model is trained on, indices held out) of the official training split."""
    out, seen = draw(labels, [HELD_OUT])
    return seen, out


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """What stands in the file, by key."""
    images, labels = read_split(folder, "train")
    seen, out = held_out(labels)
    picked = {"train": (images, labels, seen[draw(labels[seen], [TRAIN])[0]]),
              "validation": (images, labels, out[draw(labels[out], [VALIDATION])[0]])}
    images, labels = read_split(folder, "test")
    picked["test"] = (images, labels, draw(labels, [TEST])[0])
    result: dict[str, np.ndarray] = {}
    for name, (x, y, index) in picked.items():
        result[f"{name}_images"], result[f"{name}_labels"] = x[index][..., None], y[index]
    return {**result, "classes": np.array(CLASSES)}


def write_npz(path: Path, content: dict[str, np.ndarray]) -> None:
    """Like numpy.savez_compressed, with a fixed date in place of the clock."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(value), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = Path(__file__).with_name("fashion_mnist.npz")
    write_npz(target, arrays(Path(sys.argv[1])))
    print(f"{target.name}: {target.stat().st_size} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")
