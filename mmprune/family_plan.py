"""What a family will be before anything is trained: layers, ranges, the strategies' sparsities, the variants' ids."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmprune import __version__, folder
from mmprune.choices import pick
from mmprune.layers import find_layers
from mmprune.models.weights import tensors_sha256
from mmprune.patterns import check_pattern
from mmprune.placing import Site, key_of, place
from mmprune.ranges import find_bounds, find_ranges, preset_name
from mmprune.records import DENSE, TUNED, ImageCounts, Layer, Manifest, Range, Source, Spec, Strategy, Task
from mmprune.scores import NEEDS_DATA, SCORES, make_scores
from mmprune.strategies import BY_SCORE, STRATEGIES, check_strategies, paper_plan, plan

if TYPE_CHECKING:
    from mmprune.family import Baseline, Request

Scores = Mapping[str, Mapping[str, Tensor]]  # by score: by layer, of the weight's shape


def plan_family(baseline: "Baseline", request: "Request") -> Manifest:
    """The family's layers, ranges, strategies and variants, without training data and training.

    Strategies that need scores from training data have no sparsities yet (add_by_score), but their variants have ids.
    ValueError for an unknown name, or a total sparsity that a strategy cannot have.
    """
    layers = find_layers(baseline.model, baseline.input_shape)
    ranges = find_ranges(request.model_name, layers, request.overrides)
    check_strategies([name for name in request.names if name not in request.fixed])
    check_pattern(request.pattern)
    for score in request.scores:
        pick("score", score, SCORES)
    weights = dict(baseline.model.named_parameters())
    known = {score: make_scores(score, {x.name: weights[x.name] for x in layers}, {}) for score in request.scores
             if score not in NEEDS_DATA and set(request.names) & set(BY_SCORE)}
    site = _site(request, layers, ranges)
    strategies = _place(request, site, [n for n in request.names if n not in request.fixed], known) | request.fixed
    spec = Spec(request.recipe, request.scores, request.pattern, request.seed, request.total_sparsity)
    images = ImageCounts(len(baseline.train), len(baseline.validation), len(baseline.test))
    made_of = _identity(request.source, images, tensors_sha256(baseline.model.state_dict()))
    nothing = {x.name: 0.0 for x in layers}
    tuned = [Task(variant_id(Strategy(TUNED, nothing), "none", spec, made_of), "none", TUNED)]
    tasks = (*(tuned if request.recipe.epochs else ()),  # without training it is the dense model
             *(_task(name, score, strategies, site, spec, made_of) for score in request.scores
               for name in request.names))
    dense = Strategy(DENSE, nothing)
    return Manifest(request.command, spec, request.source, images, made_of["weights_sha256"], layers, ranges,
                    strategies, variant_id(dense, "none", None, made_of), tasks, mmprune=__version__)


def add_by_score(root: Path, manifest: Manifest, baseline: "Baseline", request: "Request", scores: Scores) -> Manifest:
    """The manifest of the folder with the sparsities of strategies that need these scores, which it then holds too."""
    names = tuple(name for name in request.names if name in BY_SCORE)
    site = _site(request, manifest.layers, manifest.ranges)
    added = replace(manifest, strategies={**manifest.strategies, **_place(request, site, names, scores)})
    folder.write_manifest(root, added)
    return added


def _site(request: "Request", layers: tuple[Layer, ...], ranges: dict[str, Range]) -> Site:
    return Site(layers, ranges, find_bounds(layers, request.overrides), request.pattern, request.total_sparsity)


def _place(request: "Request", site: Site, names: Sequence[str], scores: Scores) -> dict[str, dict[str, float]]:
    """The strategies' sparsities, in the order of their names."""
    with_ranges = tuple(dict.fromkeys([n for n in names if n in STRATEGIES] + ["mid"]))
    if request.recipe.name == "paper" and site.total is None:
        own = paper_plan(preset_name(request.model_name), site.layers, site.ranges, with_ranges)
    else:
        own = plan(with_ranges, site.layers, site.ranges)
    return place(names, site, {s.name: s.sparsity for s in own}, scores, several=len(request.scores) > 1)


def _task(name: str, score: str, strategies: dict[str, dict[str, float]], site: Site, spec: Spec,
          made_of: dict[str, Any]) -> Task:
    """A variant to make. If its sparsities need scores from training data, its id is of the rule and its bounds: model,
    data and seed, which are part of every id, determine the scores."""
    sparsity = strategies.get(key_of(name, score, several=len(spec.scores) > 1))
    if sparsity is None:
        rule = {"total": spec.total_sparsity, "mid": {n: [r.low, r.high] for n, r in site.ranges.items()},
                "bounds": {n: [b.low, b.high] for n, b in site.bounds.items()}}
        return Task(variant_id(Strategy(name, {}), score, spec, {**made_of, "rule": rule}), score, name)
    return Task(variant_id(Strategy(name, sparsity), score, spec, made_of), score, name)


def _identity(source: Source, images: ImageCounts, weights_sha256: str) -> dict[str, Any]:
    """Everything that determines a family's models and images, without the locations of files."""
    row = {**asdict(source), "images": asdict(images), "weights_sha256": weights_sha256}
    if row["data"]:
        del row["data"]["path"], row["data"]["class_order"]  # the labels contain everything that the order changes
    if row["model"]:
        del row["model"]["weights"]
        if ".py:" in row["model"]["model"]:
            row["model"]["model"] = Path(row["model"]["model"]).name
    return row


def variant_id(strategy: Strategy, score: str, spec: Spec | None, made_of: dict[str, Any]) -> str:
    """A name and eight hex digits of a hash over all that determines the variant. spec: None for the dense model."""
    how = asdict(spec) if spec else {}
    for determined in ("scores", "total_sparsity"):  # the score and the strategy's sparsities are in the content
        how.pop(determined, None)
    content = {**made_of, "spec": how, "score": score, "strategy": asdict(strategy)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return f"{strategy.name}-{digest}" if strategy.name in (DENSE, TUNED) else f"{strategy.name}-{score}-{digest}"
