"""Pruning from Python: builds a family from a model and DataLoaders, makes masks only, or opens a family again."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmprune.data.loaders import labels_of, loader_facts, preprocess_of_loader
from mmprune.data.splits import DataError, LoaderSplit
from mmprune.family import Baseline, Request, Resources, build_family
from mmprune.folder import read_manifest
from mmprune.handles import Family
from mmprune.layers import find_layers
from mmprune.models.dense_check import near_guessing
from mmprune.models.loading import adopt, config_of
from mmprune.models.outputs import answer_with_logits
from mmprune.patterns import check_pattern, make_masks
from mmprune.placing import Site, place
from mmprune.progress import bars, say_notes, say_warnings
from mmprune.promising import check_keep
from mmprune.ranges import check_overrides, find_bounds, find_ranges
from mmprune.recipes import make_recipe, notes_of
from mmprune.records import LabelledData, Preprocess, Source
from mmprune.results.starts import ending_lines
from mmprune.scores import scores_named
from mmprune.strategies import STRATEGIES, check_strategies, plan
from mmprune.workflow import check_device

Ranges = Mapping[str, Mapping[str, Sequence[float]]]


def prune(model: nn.Module, train: Iterable[Any], val: Iterable[Any], test: Iterable[Any],  # noqa: PLR0913
          out: str | Path = "mmprune-out", *, epochs: int | None = None, strategies: Sequence[str] = (),
          score: str | None = None, pattern: str = "unstructured", ranges: Ranges | None = None,
          recipe: str = "default", lr: float | None = None, qat: bool = False, preprocess: Preprocess | None = None,
          seed: int = 0, device: str = "cpu", quiet: bool = False, total_sparsity: float | None = None,
          bfloat16: bool | None = None, keep: int | None = None) -> Family:
    """Prune the model in ten ways and fine-tune each variant under its mask; the family is written to the folder `out`.

    model       a trained nn.Module with one image input; it is copied and not changed
    train, val, test  DataLoaders of (images (n, C, H, W) float, labels (n,)), preprocessed for the model. The test
                images are only used for the reported accuracies; val and test must give the same batches each time
    epochs      fine-tuning epochs; 0 prunes without training; None: the recipe's three
    strategies  some of the ten, or the published "uniform", "erk", "lamp" and "global"; () for the ten
    total_sparsity  zeros over all prunable weights, as a fraction: moves the layers of every strategy by one number,
                within their ranges; None: each strategy's own
    keep        fine-tune only this many of the strategies: pruned, and judged by their loss on training images and by
                their multiply-accumulates, they cover the range; None: all. A larger number later adds to the folder
    score       "obs" (which also corrects the weights that are kept), "magnitude", "gradient", "product", or "all" for
                a family of each; None: obs, or magnitude with the recipe "paper"
    pattern     the pattern of zeros: "unstructured", "block-1x4" for int8 on CPUs, "block-4x1" for float32 on CPUs,
                "2:4" for Jetsons
    recipe, lr, qat  see mmprune.recipes; qat adds one epoch with numbers rounded as in int8
    ranges      {"kinds": {"conv_*": [low, high]}, "layers": {...}}: the sparsity range of layers; None: as in the paper
    preprocess  how an image file becomes the model's input, for the deployed folder; None: read from the test loader
    device      to train on: "cpu", "cuda", "cuda:1"
    bfloat16    fine-tune with products in bfloat16; None: where that is faster and the model can take it
    quiet       print one line per stage instead of progress bars

    After an interruption the same call continues where it stopped. DataError or ModelError for unsuitable loaders or
    models, FolderError if the folder holds another family.
    """
    check_device(device)
    check_keep(keep)
    facts = loader_facts(train, val, test)
    name = _name(model)
    adopted, spec, notes = adopt(model, name, facts.input_shape)
    if facts.highest_label >= spec.num_classes:
        raise DataError(f"the loaders have labels up to {facts.highest_label}, but the model has only "
                        f"{spec.num_classes} classes")
    splits = [LoaderSplit(loader, spec.num_classes) for loader in (train, val, test)]
    baseline = Baseline(adopted, splits[0], splits[1], splits[2], facts.input_shape)
    say_notes(notes)
    say_warnings(near_guessing(adopted, splits[1], device))
    data = LabelledData("", facts.sha256, facts.classes, labels_of(facts.classes, spec.num_classes), "loader")
    source = Source(spec, preprocess or preprocess_of_loader(test, facts.input_shape), data)
    how = make_recipe(recipe, epochs, lr, None, qat)
    say_notes(notes_of(how))
    named = (strategies,) if isinstance(strategies, str) else tuple(strategies)
    request = Request(how, scores_named(score, recipe), named, check_pattern(pattern), seed,
                      check_overrides(ranges or {}), name, source, bfloat16=bfloat16,
                      total_sparsity=total_sparsity, keep=keep)
    root = Path(out)
    with bars(quiet) as progress:
        build_family(lambda: baseline, request, root, Resources(device), progress)
    say_notes(ending_lines(root))
    return Family(root, lambda: baseline)


def masks(model: nn.Module, strategy: str = "mid", *, pattern: str = "unstructured",
          input_shape: Sequence[int] | None = None, ranges: Ranges | None = None,
          total_sparsity: float | None = None) -> dict[str, Tensor]:
    """Boolean masks by weight name, True where a weight is kept; by magnitude, without data and training.

    input_shape  (1, C, H, W) or (C, H, W); None: that of a timm model's own description
    total_sparsity  of the strategy, over all prunable weights, as a fraction; None: its own
    ValueError for an unknown strategy or pattern, an unknown input shape, or a total that the strategy cannot have.
    """
    shape = tuple(input_shape or config_of(model).get("input_size") or ())
    if len(shape) not in (3, 4):
        raise ValueError(f"input_shape: {type(model).__name__} does not state its input size; give (1, C, H, W)")
    layers = find_layers(answer_with_logits(copy.deepcopy(model).eval()), (1, *shape[-3:]))
    weights = dict(model.named_parameters())
    magnitudes = {layer.name: weights[layer.name].detach().abs() for layer in layers}
    overrides = check_overrides(ranges or {})
    check_strategies((strategy,))
    site = Site(layers, find_ranges(_name(model), layers, overrides), find_bounds(layers, overrides),
                check_pattern(pattern), total_sparsity)
    own = {s.name: s.sparsity for s in plan(sorted({strategy, "mid"} & STRATEGIES.keys()), layers, site.ranges)}
    chosen = place((strategy,), site, own, {"magnitude": magnitudes})[strategy]
    return make_masks(magnitudes, chosen, pattern, {x.name: x.kind for x in layers})


def _name(model: nn.Module) -> str:
    """timm's name of the model, else its class; it selects the preset of ranges."""
    return str(config_of(model).get("architecture") or type(model).__name__)


def open_family(root: str | Path) -> Family:
    """Open the family that prune or `mmprune build` wrote to a folder. FolderError if there is none."""
    read_manifest(Path(root))
    return Family(Path(root))
