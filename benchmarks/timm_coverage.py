"""Which families of timm does mmprune export, and does each file answer as it should? One small model of each.

    python benchmarks/timm_coverage.py --json benchmarks/results/timm_coverage.jsonl --page docs/timm_coverage.md
    python benchmarks/timm_coverage.py --json OUT --only swin_transformer,byobnet     # these again
    python benchmarks/timm_coverage.py --json OUT --failed                            # those again that were refused

A family is a module of timm.models; its model here is the one with the fewest parameters that has at most 60 million.
Weights are random, constant and tiny ones (gains, biases, layer scales) are disturbed so that all have an effect,
and BatchNorm has the statistics of images. Half of the weights are zero, in blocks of 1x4, but for those of stem,
depthwise convolutions and classifier. The image is the smallest of SIZES that the model takes and at which weights
have an effect (attention over a single position has none). Then, as `mmprune build` does it: ONNX, which must answer
as torch does; mmrt in float32, which must answer as torch and as ONNX Runtime do (1e-4 of the largest output); int8,
calibrated on images of noise, in mmrt, which must answer as ONNX Runtime does for the same file. Sizes of downloads
are not measured: packing random weights takes longer than all the rest.

int8 leaves open what float32 rounds to the other side of a step, and a random network makes much of it: a file works if
mmrt's answers are within a step of ONNX Runtime's, or if their difference (root mean square) is less than a quarter of
what rounding to int8 itself changes, or less than twice what ONNX Runtime's own graph optimizations change.

Every family is a process of its own with two minutes of CPU time: what crashes or hangs costs only itself. A line of
JSON for each; families that are in the file are not done again.
"""

import argparse
import copy
import importlib.metadata
import json
import logging
import multiprocessing
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from torch import nn

from exporters import ExportError, artifact
from exporters.export_input import ExportInput
from exporters.int8.onnxruntime import quantize
from exporters.mmrt import download
from exporters.run import export_one
from exporters.to_mmrt import load_runtime, pack
from exporters.verify import VerifyError
from mmprune.layers import find_layers
from mmprune.models.loading import adopt
from mmprune.patterns import PATTERNS
from mmprune.records import Variant

MOST_PARAMS = 60_000_000
SIZES = (64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
CLASSES, IMAGES, CALIBRATION = 10, 4, 8
SPARSITY, PATTERN, KEPT = 0.5, "block-1x4", ("stem", "patch_embed", "depthwise", "classifier")
STAGES = {"onnx": "ONNX", "mmrt_fp32": "mmrt fp32", "mmrt_int8": "mmrt int8"}
WORKS, REFUSED, WRONG = "works", "refused", "wrong"
WITHOUT_ONNX = "it is made from the ONNX file, which there is not"
WITHOUT_FLOAT = "not tried, as mmrt does not take the float32 file"
CLOSE = 1e-4  # of the largest output: mmrt's float32 against ONNX Runtime's
OWN_NOISE = 0.25  # of what int8 itself changes
OPTIMIZED = 2.0  # times what ONNX Runtime's optimizations change
DISTURBED, FAINT = 0.1, 1e-3  # standard deviation; the largest of weights that hardly do anything
DIFFERENT, ROUNDED = 1e-3, 1e-6  # of the largest answer; of the largest gradient
CPU_S, WALL_S = 120, 1800
FORK = multiprocessing.get_context("fork")  # the packages, which take seconds to import, are imported once
Row = dict[str, Any]


# ---- the model of a family ---------------------------------------------------------------------------------------


class LeftOut(Exception):
    """A family without a model that is tried."""


def smallest(family: str) -> tuple[str, int]:
    """The model of a family with the fewest parameters, and how many. LeftOut if all are too large."""
    found = []
    names = [name for name in timm.list_models(module=family) if not name.startswith("test_")]
    for name in names:
        try:
            with torch.device("meta"):
                found.append((sum(p.numel() for p in timm.create_model(name).parameters()), name))
        except Exception as err:  # it reads values while it is made, which a tensor without storage does not have
            print(f"{name} cannot be counted: {err}", file=sys.stderr)
    if not found:
        found = [(sum(p.numel() for p in timm.create_model(name).parameters()), name)
                 for name in names[:1]]
    params, name = min(found, default=(0, ""))
    if not name:
        raise LeftOut("it has no models")
    if params > MOST_PARAMS:
        raise LeftOut(f"its smallest model, {name}, has {params / 1e6:.0f} million parameters")
    return name, params


@torch.no_grad()
def lively(name: str, size: int) -> nn.Module:
    """The model with random weights, none of which is without effect, and BatchNorm statistics of images."""
    torch.manual_seed(0)
    try:
        model = timm.create_model(name, num_classes=CLASSES, img_size=size)
    except TypeError:  # it takes any size
        model = timm.create_model(name, num_classes=CLASSES)
    for tensor in model.parameters():
        if (tensor == tensor.reshape(-1)[0]).all() or tensor.abs().max() < FAINT:
            tensor.add_(DISTURBED * torch.randn_like(tensor))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.track_running_stats]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    model(torch.from_numpy(noise(CALIBRATION, channels_of(name), size, 2)))
    return model.eval()


def channels_of(name: str) -> int:
    config = timm.get_pretrained_cfg(name)
    return int(config.input_size[0]) if config else 3


def noise(count: int, channels: int, size: int, seed: int) -> np.ndarray:
    """Images of blurred noise: neighbouring pixels are alike, as in pictures."""
    coarse = np.random.default_rng(seed).standard_normal((count, channels, size // 4, size // 4))
    return np.ascontiguousarray(coarse.repeat(4, 2).repeat(4, 3), np.float32)


def sized(name: str) -> tuple[nn.Module, np.ndarray]:
    """The model and images of the smallest size at which images and weights have an effect; if no size up to its own
    lets all weights have one, of the smallest at which images have."""
    first, last = None, "its answers do not depend on the image"
    own = max(timm.get_pretrained_cfg(name).input_size[1:]) if timm.get_pretrained_cfg(name) else SIZES[-1]
    for size in (*(size for size in SIZES if size < own), own):
        images = noise(IMAGES, channels_of(name), size, 1)
        try:
            made = lively(name, size)
            tried = copy.deepcopy(made)  # some keep tensors of their last pass
            answers = tried(torch.from_numpy(images))
        except Exception as err:  # the model's own code: it does not take images of this size
            last = short(err)
            continue
        if answers.isfinite().all() and (answers - answers.mean(0)).abs().max() > DIFFERENT * answers.abs().max():
            first = first or (made, images)
            if all_have_effects(tried, answers):
                return made, images
    if first is None:
        raise ValueError(f"no size up to {own} works: {last}")
    return first


def prepared(name: str) -> tuple[nn.Module, np.ndarray]:
    """The model as a build takes it, masked, and its images."""
    made, images = sized(name)
    model = adopt(made, name, images[:1].shape)[0]
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    for layer in find_layers(model, images[:1].shape):
        if layer.kind not in KEPT:
            weight = weights[layer.name]
            weight[~PATTERNS[PATTERN](weight.abs(), SPARSITY, layer.kind)] = 0
    return model, images


def all_have_effects(model: nn.Module, answers: torch.Tensor) -> bool:
    """Whether each weight that takes part has a gradient: a softmax over a single position has none, but for rounding.
    """
    (answers * torch.randn_like(answers)).sum().backward()
    grads = [float(p.grad.abs().max()) for p in model.parameters() if p.dim() > 1 and p.grad is not None]
    return min(grads) > ROUNDED * max(grads)


# ---- its files ---------------------------------------------------------------------------------------------------


def examine(family: str, known: Row, folder: Path, told: Callable[[Row], None]) -> None:
    """Tell, stage by stage, what becomes of a family. `known`: its model and how many parameters that has, or nothing.
    """
    name, params = (known["model"], known["params"]) if known else smallest(family)
    told({"model": name, "params": params})
    model, images = prepared(name)
    told({"size": images.shape[-1]})
    calibration = noise(CALIBRATION, images.shape[1], images.shape[2], 3)
    variant = Variant("v0", "uniform", "magnitude", PATTERN, "none", 0, {}, SPARSITY, 0.0, 0.0)
    given = ExportInput(variant, model, folder, find_layers(model, images[:1].shape), images,
                        np.zeros(IMAGES, np.int64), calibration)
    exported = told_of(told, "onnx", lambda: export_one(given, "onnx", "fp32"))
    if exported is None:
        return
    float_model = onnx.load(folder / exported.path)
    told({"opset": float_model.opset_import[0].version})
    of_floats = run_onnx(float_model, images)
    if told_of(told, "mmrt_fp32", lambda: compared_floats(given, images, of_floats)) is None:
        told({"mmrt_int8": REFUSED, "mmrt_int8_why": WITHOUT_FLOAT})
        return
    told_of(told, "mmrt_int8", lambda: compared_int8(quantize(float_model, given, family)[0], images, of_floats))


def told_of(told: Callable[[Row], None], stage: str, made: Callable[[], Any]) -> Any:
    """The result of a stage; how it went is told. A file that answers wrongly is wrong, one not made is refused."""
    try:
        found = made()
    except VerifyError as err:
        told({stage: WRONG, f"{stage}_why": short(err)})
    except ExportError as err:
        told({stage: REFUSED, f"{stage}_why": short(err)})
    except Exception as err:  # a bug of ours, and what is looked for
        told({stage: REFUSED, f"{stage}_why": f"not handled: {type(err).__name__}: {short(err)}"})
    else:
        told({stage: WORKS, **(found if isinstance(found, dict) else {})})
        return found
    return None


def short(err: Exception) -> str:
    return " ".join(str(err).split())[:400]


def compared_floats(given: ExportInput, images: np.ndarray, expected: np.ndarray) -> Row:
    exported = export_one(given, "mmrt", "fp32")
    got = run_mmrt((given.root / exported.path).read_bytes(), images)
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not difference <= CLOSE:
        raise VerifyError(f"it differs from ONNX Runtime by {difference:.2g} of the largest output")
    return {"mmrt_fp32_difference": round(difference, 9)}


def compared_int8(model: onnx.ModelProto, images: np.ndarray, floats: np.ndarray) -> Row:
    """mmrt beside ONNX Runtime on the same Q/DQ file; floats are the answers of the float32 file."""
    got, expected = run_mmrt(pack(model, "int8"), images), run_onnx(model, images)
    scales = {i.name: float(onnx.numpy_helper.to_array(i)) for i in model.graph.initializer if i.name == "logits_scale"}
    difference, mean_square = np.abs(got - expected).max(), rms(got - expected)
    found: Row = {"mmrt_int8_noise": round(mean_square / max(rms(expected - floats), 1e-30), 4)}
    if scales:
        found["mmrt_int8_steps"] = round(float(difference / scales["logits_scale"]), 2)
    if found.get("mmrt_int8_steps", 9) <= 1 or found["mmrt_int8_noise"] <= OWN_NOISE:
        return found
    plain = rms(run_onnx(model, images, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL) - expected)
    found["unoptimized_noise"] = round(plain / rms(expected - floats), 4)
    if not mean_square <= OPTIMIZED * plain:
        raise VerifyError(f"it differs from ONNX Runtime's: {found}")
    return found


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def run_onnx(model: onnx.ModelProto, images: np.ndarray, level: Any = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: image[None]})[0] for image in images])


def run_mmrt(content: bytes, images: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.mmrt")
        path.write_bytes(content)
        model = load_runtime().Model(str(path), 1)
        return np.concatenate([model(image[None])[0] for image in images])


# ---- all families ------------------------------------------------------------------------------------------------


def one_family(family: str, known: Row, out: IO[str]) -> None:
    """The child process: its lines are what is known so far."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    artifact.download_bytes = lambda paths: 0
    download.pack = lambda content: b""

    def told(row: Row) -> None:
        print(json.dumps(row), file=out, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        try:
            examine(family, known, Path(folder), told)
        except LeftOut as err:
            told({"left_out": str(err)})
        except Exception as err:
            told({"died": f"{type(err).__name__}: {short(err)}"})


def run_family(family: str, before: Row) -> Row:
    """The row of a family, whatever becomes of its process.

    before  its earlier row: with the same timm, its model is the same
    """
    row: Row = {"family": family, "timm": importlib.metadata.version("timm"),
                "torch": importlib.metadata.version("torch")}
    known = {key: before[key] for key in ("model", "params") if key in before and before["timm"] == row["timm"]}
    with tempfile.TemporaryFile("w+") as lines:
        child = FORK.Process(target=one_family, args=(family, known, lines))
        child.start()
        child.join(WALL_S)
        if child.exitcode is None:
            child.kill()
            child.join()
        lines.seek(0)
        for line in lines:
            row |= json.loads(line)
    why = row.pop("died", None) or (f"its process ended with {child.exitcode}" if child.exitcode else None)
    if child.exitcode == -signal.SIGXCPU:
        why = f"it took more than {CPU_S} s of CPU time"
    if why:
        missing = [stage for stage in STAGES if stage not in row]
        row |= dict.fromkeys(missing, REFUSED) | {f"{stage}_why": why for stage in missing}
    elif row.get("onnx") not in (None, WORKS):
        row |= dict.fromkeys(("mmrt_fp32", "mmrt_int8"), REFUSED)
        row |= dict.fromkeys(("mmrt_fp32_why", "mmrt_int8_why"), WITHOUT_ONNX)
    return row


def read_rows(path: Path) -> dict[str, Row]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["family"]: row for row in map(json.loads, lines)}


def write_rows(path: Path, rows: dict[str, Row]) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(f"{json.dumps(rows[family])}\n" for family in sorted(rows)))
    part.replace(path)


# ---- the page ----------------------------------------------------------------------------------------------------


def tried(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if "left_out" not in row]


def summary(rows: list[Row]) -> str:
    shares = []
    for stage, name in STAGES.items():
        works = sum(row[stage] == WORKS for row in rows)
        shares.append(f"{name} {works} ({works / len(rows):.0%})")
    return f"Of {len(rows)} families: {', '.join(shares)}."


def page(rows: dict[str, Row]) -> str:
    known = tried(rows.values())
    versions = sorted({(row["timm"], row["torch"]) for row in known})
    cells = [f"| {row['family']} | {row.get('model', '')} | {row.get('params', 0) / 1e6:.1f} | {row.get('size', '')} | "
             + " | ".join(row[stage] for stage in STAGES) + " |" for row in known]
    reasons = [f"- **{row['family']}**, {name}: {row[f'{stage}_why']}" for row in known
               for stage, name in STAGES.items()
               if row[stage] != WORKS and row[f"{stage}_why"] not in (WITHOUT_ONNX, WITHOUT_FLOAT)]
    left = [f"- **{row['family']}**: {row['left_out']}" for row in rows.values() if "left_out" in row]
    return "\n".join([
        "# timm's families", "",
        "Made by `benchmarks/timm_coverage.py`, whose head says what is compared; do not edit.", "",
        f"{summary(known)} {len(rows) - len(known)} more have no model of at most {MOST_PARAMS // 10**6} million "
        f"parameters. timm and torch: {', '.join(' and '.join(pair) for pair in versions)}.", "",
        "A family is a module of `timm.models`; tried is its smallest model, with random weights, half of them zero in "
        "blocks of 1x4, on the smallest square image of 64 and more that it takes. *works*: the file was made and "
        "answers as torch (ONNX, mmrt fp32) and ONNX Runtime (mmrt) do. *refused*: no file, and an error that says why "
        "(below). *wrong*: a file with other answers, which a build refuses as well.", "",
        "| family | model | million parameters | image | " + " | ".join(STAGES.values()) + " |",
        "|---|---|--:|--:|---|---|---|", *cells, "",
        *(["## Refused or wrong", "", *reasons, ""] if reasons else []),
        *(["## Not tried", "", *left, ""] if left else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a line each, written as it goes; what is in it is not done again")
    parser.add_argument("--page", type=Path, help="write the table of all lines of --json there")
    parser.add_argument("--only", help="families to do again, with commas between")
    parser.add_argument("--failed", action="store_true", help="do those again that do not work throughout")
    asked = parser.parse_args()
    if asked.json is None:
        parser.error("--json says where the results go")
    rows, families = read_rows(asked.json), timm.list_modules()
    if asked.only:
        again = set(asked.only.split(","))
        if unknown := again - set(families):
            parser.error(f"timm has no module called {', '.join(sorted(unknown))}")
    else:
        again = {family for family, row in rows.items() if asked.failed and "left_out" not in row
                 and any(row[stage] != WORKS for stage in STAGES)}
        again |= set() if asked.failed else set(families) - rows.keys()
    for family in sorted(again):
        rows[family] = run_family(family, rows.get(family, {}))
        print(json.dumps(rows[family]), file=sys.stderr, flush=True)
        write_rows(asked.json, rows)
    if asked.page:
        asked.page.write_text(page(rows))
    known = tried(rows.values())
    print(summary(known))
    for stage, name in STAGES.items():
        counts = Counter(row[stage] for row in known)
        print(f"{name}: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    if wrong := [row["family"] for row in known if WRONG in [row[stage] for stage in STAGES]]:
        sys.exit(f"Error: wrong answers in {', '.join(wrong)}")


if __name__ == "__main__":
    main()
