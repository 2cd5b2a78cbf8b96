"""What a pattern of zeros, and int8, cost in accuracy: counted on the exported files, on test images.

Masks are by magnitude and channels stay in their own order; pruning_quality.py has what mmprune does by default.

    python benchmarks/pattern_accuracy.py default --json OUT
    python benchmarks/pattern_accuracy.py default --strategies --json OUT
    python benchmarks/pattern_accuracy.py resnet20 --data cifar10.npz --weights resnet20-12fca82f.th --json OUT
    python benchmarks/pattern_accuracy.py lite0 --data imagenette-small --json OUT

Models as in real_models.py, and the embedded default. Without --strategies every layer has the same sparsity but the
stem, depthwise convolutions and the classifier, which stay dense: 70, 80 and 90 % unstructured and in blocks, 50 % as
2:4. With it the ten strategies, each under each pattern, with the same scores, seed and recipe.

OUT gets one line of JSON a file; lines that are there are not made again, and trained variants stay in --out, so the
same command goes on where it was stopped. The table at the end is of all lines of the model in OUT that were trained
for as many epochs.
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from real_models import MODELS

from exporters import ExportError
from exporters.export_family import InputMaker
from exporters.run import export_one
from exporters.verify import VerifyError
from exporters.wanted import wanted_formats
from mmprune.family import Baseline, Request, Resources, build_family
from mmprune.layers import find_layers
from mmprune.models.named import ModelOptions, Named
from mmprune.models.source import Opened, open_source
from mmprune.progress import lines
from mmprune.recipes import make_recipe
from mmprune.records import DENSE, Variant
from mmprune.strategies import TEN

KEPT = ("stem", "patch_embed", "depthwise", "classifier")
LEVELS = {"min": 0.7, "mid": 0.8, "max": 0.9}  # what the strategies of that name ask in the range from 0.7 to 0.9
HALF = {"min": 0.5}
SEEDS = "0,1,2"
FORMATS = "onnx-fp32,onnx-int8,mmrt-int8"
FORMATS_24 = ("onnx-fp32", "tensorrt-fp16")
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One family to make."""

    pattern: str
    strategies: dict[str, float | None]  # name: the sparsity of every layer; None: the strategy's own
    formats: tuple[str, ...]  # of its sparse variants
    dense_formats: tuple[str, ...]  # of its dense one


def uniform_parts(formats: tuple[str, ...]) -> tuple[Part, ...]:
    """Dense files stand with the blocks; unstructured zeros are shown without int8, which gains little from them."""
    floats = tuple(f for f in formats if not f.endswith("int8"))
    return (Part("unstructured", dict(LEVELS), floats, ()), Part("block-1x4", dict(LEVELS), formats, formats),
            Part("2:4", dict(HALF), FORMATS_24, ()))


def strategy_parts() -> tuple[Part, ...]:
    names = dict.fromkeys(TEN)
    return (Part("unstructured", dict(names), FORMATS_24[:1], FORMATS_24[:1]),
            Part("2:4", dict(names), FORMATS_24[:1], ()), Part("block-1x4", dict(names), FORMATS_24[:1], ()))


def named(model: str, data: Path | None, weights: Path | None, seed: int) -> Named:
    if model == "default":
        return Named(seed=seed)
    if data is None:
        raise SystemExit(f"{model} needs --data")
    words = MODELS[model](data, weights)
    told = dict(zip(words[::2], words[1::2], strict=True))
    size = int(told.get("--img-size", 0))
    return Named(told["--model"], Path(told["--weights"]), Path(told["--data"]),
                 ModelOptions(image_size=(size, size) if size else None), seed)


def ranges_for(baseline: Baseline, part: Part) -> dict[str, Any]:
    """Overrides that ask the part's sparsities of every layer but those that stay dense; {} for the strategies' own."""
    asked = [s for s in part.strategies.values() if s is not None]
    layers = find_layers(baseline.model, baseline.input_shape) if asked else ()
    return {"layers": {x.name: [0.0, 0.0] if x.kind in KEPT else [min(asked), max(asked)] for x in layers}}


def wanted_rows(part: Part, fixed: Row) -> list[Row]:
    """The rows that the part makes, each as far as it is known before."""
    rows = [{**fixed, "pattern": "none", "strategy": DENSE, "asked": 0.0, "format": f} for f in part.dense_formats]
    return rows + [{**fixed, "pattern": part.pattern, "strategy": name, "asked": asked, "format": f}
                   for name, asked in part.strategies.items() for f in part.formats]


def make_rows(opened: Opened, part: Part, wanted: Sequence[Row], root: Path, jobs: int) -> Iterator[Row]:
    """Make the family, or what is missing of it, and the wanted files; a row each."""
    baseline, seed = opened.make_baseline(), wanted[0]["seed"]
    recipe = replace(make_recipe("default", wanted[0]["epochs"]), permute=False)
    request = Request(recipe, ("magnitude",), tuple(part.strategies), part.pattern, seed, ranges_for(baseline, part),
                      "", opened.source)
    variants = build_family(opened.make_baseline, request, root, Resources(jobs=jobs), lines(part.pattern))
    maker = InputMaker(root, opened.make_baseline)
    for variant in variants:
        mine = [row for row in wanted if row["strategy"] == variant.strategy]
        given = maker(variant) if mine else None
        for row in mine:
            yield {**row, **counted(variant), "test_images": len(baseline.test), **judged(given, row["format"])}


def counted(variant: Variant) -> Row:
    return {"variant": variant.id, "sparsity": variant.sparsity, "block_sparsity": variant.block_sparsity,
            "torch_accuracy": variant.accuracy}


def judged(given: Any, name: str) -> Row:
    """The file's accuracy and how often it answers as torch does; why it is refused, where it is."""
    [(format, precision)] = wanted_formats([name])
    try:
        artifact = export_one(given, format, precision)
    except (ExportError, VerifyError) as err:
        return {"accuracy": None, "agreement": None, "refused": str(err)}
    return {"accuracy": artifact.accuracy, "agreement": artifact.top1_agreement}


def is_same(row: Row, wanted: Row) -> bool:
    return all(row.get(key) == value for key, value in wanted.items())


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def uniform_table(rows: Sequence[Row], formats: tuple[str, ...]) -> str:
    """A line a model and sparsity: each kind of file's accuracy, mean over seeds, lowest and highest in brackets."""
    kinds = [("unstructured", f) for f in uniform_parts(formats)[0].formats] + [("block-1x4", f) for f in formats]
    head = ["asked %", *(f"{p}, {f}" for p, f in kinds), "zeros %: " + ", ".join(dict.fromkeys(p for p, _ in kinds))]
    body = [["dense", *(spread(rows, "none", f, 0.0) if p == "block-1x4" else "" for p, f in kinds), ""]]
    for asked in LEVELS.values():
        zeros = [mean_of(rows, p, asked, "sparsity") for p in dict.fromkeys(p for p, _ in kinds)]
        body.append([f"{100 * asked:.0f}", *(spread(rows, p, f, asked) for p, f in kinds), ", ".join(zeros)])
    half = [f"{f} {spread(rows, '2:4', f, HALF['min'])}" for f in FORMATS_24]
    return (markdown(head, body) + f"\n\n2:4, {100 * HALF['min']:.0f} % asked, "
            f"{mean_of(rows, '2:4', HALF['min'], 'sparsity')} % zeros: {'; '.join(half)}")


def strategies_table(rows: Sequence[Row]) -> str:
    """A line a strategy: zeros and accuracy under each pattern, in percent; means over seeds."""
    patterns = [part.pattern for part in strategy_parts()]
    head = ["strategy", *(f"{p}: zeros %, accuracy %" for p in patterns)]
    body = []
    for name in (DENSE, *TEN):
        mine = [row for row in rows if row["strategy"] == name]
        cells = [f"{mean_of(mine, p, None, 'sparsity')}, {spread(mine, p, FORMATS_24[0], None)}" for p in patterns]
        if name == DENSE:
            cells = [f"0.0, {spread(mine, 'none', FORMATS_24[0], 0.0)}", *[""] * (len(patterns) - 1)]
        body.append([name, *cells])
    return markdown(head, body)


def spread(rows: Sequence[Row], pattern: str, format: str, asked: float | None) -> str:
    """"92.15 (91.90 to 92.30)" of accuracies in percent; "-" where there are none, "refused" where one file was."""
    mine = [r for r in rows if (r["pattern"], r["format"], r["asked"]) == (pattern, format, asked)]
    found = [100 * r["accuracy"] for r in mine if r["accuracy"] is not None]
    if len(found) < len(mine):
        return f"{len(mine) - len(found)} of {len(mine)} refused"
    if not found:
        return "-"
    mean = f"{statistics.mean(found):.2f}"
    return mean if len(found) == 1 else f"{mean} ({min(found):.2f} to {max(found):.2f})"


def mean_of(rows: Sequence[Row], pattern: str, asked: float | None, key: str) -> str:
    found = [100 * r[key] for r in rows if (r["pattern"], r["asked"]) == (pattern, asked)]
    return f"{statistics.mean(found):.1f}" if found else "-"


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("default", *MODELS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--strategies", action="store_true", help="the ten strategies under each pattern")
    parser.add_argument("--seeds", default=SEEDS)
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning, with the default recipe")
    parser.add_argument("--formats", default=FORMATS, help="of the dense and the block-1x4 models")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="variants at once")
    parser.add_argument("--json", type=Path, required=True, help="the rows: read, and what is missing appended")
    parser.add_argument("--out", type=Path, default=Path("benchmark-out/pattern_accuracy"), help="trained variants")
    arguments = parser.parse_args()
    formats = tuple(arguments.formats.split(","))
    mode = "strategies" if arguments.strategies else "uniform"
    for seed in map(int, arguments.seeds.split(",")):
        fixed = {"model": arguments.model, "mode": mode, "seed": seed, "epochs": arguments.epochs}
        folder = arguments.out / arguments.model / f"{mode}-{arguments.epochs}-{seed}"
        opened = None
        for part in strategy_parts() if arguments.strategies else uniform_parts(formats):
            rows = read_rows(arguments.json)
            missing = [w for w in wanted_rows(part, fixed) if not any(is_same(row, w) for row in rows)]
            if not missing:
                continue
            opened = opened or open_source(named(arguments.model, arguments.data, arguments.weights, seed),
                                           arguments.out / arguments.model / "cache")
            for row in make_rows(opened, part, missing, folder / part.pattern.replace(":", "-"), arguments.jobs):
                with open(arguments.json, "a") as f:
                    f.write(json.dumps(row) + "\n")
    rows = [row for row in read_rows(arguments.json) if (row["model"], row["mode"], row["epochs"])
            == (arguments.model, mode, arguments.epochs)]
    print(strategies_table(rows) if arguments.strategies else uniform_table(rows, formats))


if __name__ == "__main__":
    main()
