"""Does mmrt answer what ONNX Runtime answers? One model of each family at its own size, on real images.

    python benchmarks/mmrt_correctness.py IMAGES [--models resnet18,...] [--sparsities 0,0.5,0.8,0.9,0.95]
        [--images 200] [--json OUT]
    python benchmarks/mmrt_correctness.py IMAGES --precision int8 --models resnet18,... --sparsities 0,0.8 --images 500
        [--classes TRAIN]

IMAGES is a folder of images, at any depth. Models have random weights under a magnitude mask, as in
runtime_vs_peers.py, and BatchNorm statistics taken from the first images, so that activations are of the usual size.
The difference is the largest over all images and classes, over the largest output; top-1 counts the images on which
both give the same class.

--precision int8 compares with ONNX Runtime on the Q/DQ file, masked in blocks of 1x4 weights and calibrated on the
first images: the difference is then in quantization steps of the output, and top-1 may differ on 1 % of the images.
Where it is more than a step, ONNX Runtime without its graph optimizations stands beside it: what the file leaves open
to who runs it, since a value that float32 rounds to the other side of a step goes its own way from there.
--classes TRAIN: the classifier is fitted to the class folders in TRAIN (ridge regression on what the network makes of
their images), as random ones often give several classes the same step. IMAGES must have the same class folders; the
accuracy tells how far the classes are apart.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx.numpy_helper import to_array
from PIL import Image
from runtime_vs_peers import PATTERN, masked, numbers, to_onnx
from torch import nn

from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import write_mmrt
from mmprune.runtime_files import runtime_folder

sys.path.insert(0, str(runtime_folder()))

import mmrt

MODELS = ("resnet18", "resnext50_32x4d", "regnety_002", "vgg11", "densenet121", "mobilenetv2_050",
          "mobilenetv3_small_100", "efficientnet_b0", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224",
          "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s", "mobilevit_xs", "edgenext_xx_small",
          "ghostnet_100", "repvgg_a0")
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
CALIBRATION = 16
FITTED, RIDGE = 1000, 0.1  # images that a classifier is fitted on; of the mean square of a feature
BAR, SAME_TOP1 = 1e-4, 0.99  # of fp32 and of int8


def read_images(folder: Path, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3, height, width) float32, normalized, and (count,) numbers of the sorted class folders that they lie in.

    Spread evenly over the sorted files.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(files) < count:
        sys.exit(f"Error: {folder} has {len(files)} images, {count} are needed")
    chosen = [files[i * len(files) // count] for i in range(count)]
    pixels = [np.asarray(Image.open(f).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)) for f in chosen]
    images = np.stack([((p / np.float32(255) - MEAN) / STD).transpose(2, 0, 1) for p in pixels]).astype(np.float32)
    names = sorted({f.parent.name for f in files})
    return images, np.array([names.index(f.parent.name) for f in chosen])


@torch.no_grad()
def calibrate(model: nn.Module, images: np.ndarray) -> None:
    """BatchNorm statistics of these images."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    model(torch.from_numpy(images))
    model.eval()


@torch.no_grad()
def fit_classifier(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> None:
    """A new classifier W f + b by ridge regression: W = (F^T F + r I)^-1 F^T Y, features F and one-hot Y centred."""
    batches = np.array_split(images, max(1, len(images) // 16))
    features = [model.forward_head(model.forward_features(torch.from_numpy(b)), pre_logits=True) for b in batches]
    f, y = torch.cat(features).double(), torch.eye(int(labels.max()) + 1, dtype=torch.double)[torch.from_numpy(labels)]
    f_mean, y_mean = f.mean(0), y.mean(0)
    f, y = f - f_mean, y - y_mean
    gram = f.T @ f
    weight = torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)), f.T @ y).T
    model.reset_classifier(y.shape[1])
    classifier = model.get_classifier()
    classifier.weight.copy_(weight.reshape(classifier.weight.shape))
    classifier.bias.copy_(y_mean - weight @ f_mean)


def compare(name: str, sparsity: float, folder: Path, count: int, precision: str,
            classes: Path | None) -> dict[str, Any]:
    model, shape = masked(name, sparsity, None, pattern=PATTERN[precision])
    images, labels = read_images(folder, count, shape[2:])
    calibrate(model, images[:CALIBRATION])
    if classes is not None:
        fit_classifier(model, *read_images(classes, FITTED, shape[2:]))
    exported = to_onnx(model, shape)
    if precision == "int8":
        exported = quantize_for_onnxruntime(exported, images[:CALIBRATION])
    session = open_onnx(exported)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "model.mmrt")
        write_mmrt(exported, path, precision)
        sparse = mmrt.Model(str(path), 2)
    expected = np.concatenate([session.run(None, {"input": x[None]})[0] for x in images])
    got = np.concatenate([sparse(x[None])[0] for x in images])
    difference = float(np.abs(got - expected).max())
    step = [float(to_array(i)) for i in exported.graph.initializer if i.name == "logits_scale"]
    itself = {}
    if step and difference > step[0]:
        plain = open_onnx(exported, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        other = np.concatenate([plain.run(None, {"input": x[None]})[0] for x in images])
        itself = {"unoptimized_steps": round(float(np.abs(other - expected).max()) / step[0], 2),
                  "unoptimized_same_top1": int((other.argmax(1) == expected.argmax(1)).sum())}
    return {"model": name, "sparsity": sparsity, "images": count, "kernels": sparse.kernels, "precision": precision,
            "relative_difference": difference / float(np.abs(expected).max()),
            **({"steps": round(difference / step[0], 2)} if step else {}), **itself,
            "same_top1": int((got.argmax(1) == expected.argmax(1)).sum()),
            "classes_answered": len(set(expected.argmax(1))), "fitted": FITTED if classes is not None else 0,
            **({"accuracy": float((expected.argmax(1) == labels).mean())} if classes is not None else {})}


def open_onnx(model: Any, level: Any = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if level is not None:
        options.graph_optimization_level = level
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def table(rows: list[dict[str, Any]]) -> str:
    sparsities = sorted({r["sparsity"] for r in rows})
    lines = ["| model | " + " | ".join(f"{s:.0%}" for s in sparsities) + " |", "|---|" + "---|" * len(sparsities)]
    found = {(r["model"], r["sparsity"]): r for r in rows}
    for name in dict.fromkeys(r["model"] for r in rows):
        mine = [found[name, s] for s in sparsities]
        cells = [cell(row) for row in mine]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    if "steps" not in row:
        return f"{row['relative_difference']:.1e}, {row['same_top1']}"
    itself = f" ({row['unoptimized_steps']:g}, {row['unoptimized_same_top1']})" if "unoptimized_steps" in row else ""
    return f"{row['steps']:g}, {row['same_top1']}{itself}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="IMAGES", type=Path)
    parser.add_argument("--models", default=",".join(MODELS), help="of timm")
    parser.add_argument("--sparsities", type=numbers, default=[0.0, 0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--precision", choices=tuple(PATTERN), default="fp32")
    parser.add_argument("--classes", type=Path, help="folder of class folders: fit the classifier to it")
    parser.add_argument("--json", type=Path, help="a line each, written as it goes; what is in it is not done again")
    asked = parser.parse_args()
    lines = asked.json.read_text().splitlines() if asked.json and asked.json.exists() else []
    done = {(row["model"], row["sparsity"], row["images"]): row for row in map(json.loads, lines)
            if row.get("precision", "fp32") == asked.precision and bool(row.get("fitted")) == bool(asked.classes)}
    rows = []
    for name in asked.models.split(","):
        for sparsity in asked.sparsities:
            row = done.get((name, sparsity, asked.images))
            if row is None:
                row = compare(name, sparsity, asked.folder, asked.images, asked.precision, asked.classes)
                print(json.dumps(row), file=sys.stderr, flush=True)
                if asked.json:
                    with asked.json.open("a") as out:
                        out.write(json.dumps(row) + "\n")
            rows.append(row)
    what = "largest difference " + ("over the largest output" if asked.precision == "fp32" else "in steps")
    itself = "" if asked.precision == "fp32" else " (ONNX Runtime without its optimizations in brackets)"
    print(f"{what}, and on how many of {asked.images} images top-1 is the same{itself}:\n")
    print(table(rows))
    wrong = [r for r in rows if (r["relative_difference"] > BAR or r["same_top1"] < r["images"])
             and (asked.precision == "fp32" or r["same_top1"] < SAME_TOP1 * r["images"])]
    if wrong:
        sys.exit(f"Error: {len(wrong)} of {len(rows)} differ: {[(r['model'], r['sparsity']) for r in wrong]}")


if __name__ == "__main__":
    main()
