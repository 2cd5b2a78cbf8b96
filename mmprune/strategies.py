"""The ten strategies of Mix-and-Match Pruning (arXiv 2603.20280, phase 2): each sets a sparsity for every layer.

With low and high the layer's range and w = high - low:
    min               low
    max               high
    mid               low + 0.5 w
    interp-A          low + A/100 w
    proportional      low + b w, b = min(1, 10 n_l / n_total): a layer with a tenth of all weights gets its high
    classifier-heavy  the classifying part at high, the rest at low
    feature-heavy     the feature-extracting part at high, the rest at mid
"""

from collections.abc import Callable, Sequence
from functools import partial

from mmprune.choices import pick
from mmprune.records import Layer, Range, Strategy

Sparsities = dict[str, float]
Rule = Callable[[Sequence[Layer], dict[str, Range]], Sparsities]


def interpolate(layers: Sequence[Layer], ranges: dict[str, Range], at: float) -> Sparsities:
    """low + at * (high - low) for every layer."""
    return {x.name: between(ranges[x.name], at) for x in layers}


def proportional(layers: Sequence[Layer], ranges: dict[str, Range]) -> Sparsities:
    """low + min(1, 10 n_l / n_total) * (high - low) for every layer, as in the authors' code.

    Their draft prints min(1, 0.1 n_l / n_average), but only the code's formula gives the sparsities of their tables.
    """
    total = sum(x.params for x in layers)
    return {x.name: between(ranges[x.name], min(1.0, 10 * x.params / total)) for x in layers}


def classifier_heavy(layers: Sequence[Layer], ranges: dict[str, Range]) -> Sparsities:
    """The MLPs of a transformer, or the classifier of any other network, at high; the rest at low."""
    part = {x.name for x in layers if x.kind in ("mlp_fc1", "mlp_fc2")} if has_attention(layers) else set()
    part = part or {x.name for x in layers if x.kind == "classifier"}
    return {x.name: between(ranges[x.name], 1.0 if x.name in part else 0.0) for x in layers}


def feature_heavy(layers: Sequence[Layer], ranges: dict[str, Range]) -> Sparsities:
    """A transformer's attention, a VGG's convolutions, or any other network's last stage at high; the rest at mid."""
    if has_attention(layers):
        part = {x.name for x in layers if x.kind in ("attn_qkv", "attn_proj")}
    else:
        # a VGG has most of its weights in the head
        heavy_head = any(ranges[x.name].low > 0.5 for x in layers if x.kind == "classifier")
        part = {x.name for x in layers if x.kind != "classifier" and (heavy_head or x.depth >= 0.75)}
    return {x.name: between(ranges[x.name], 1.0 if x.name in part else 0.5) for x in layers}


def has_attention(layers: Sequence[Layer]) -> bool:
    """Whether the body is mainly attention; a MobileNetV4 with few attention blocks counts as convolutional."""
    attention = sum(x.params for x in layers if x.kind.startswith("attn_"))
    return attention >= 0.1 * sum(x.params for x in layers)


def between(range_: Range, at: float) -> float:
    return round(range_.low + at * (range_.high - range_.low), 12)  # no 0.30000000000000004


STRATEGIES: dict[str, Rule] = {
    "min": partial(interpolate, at=0.0),
    "max": partial(interpolate, at=1.0),
    "mid": partial(interpolate, at=0.5),
    "interp-20": partial(interpolate, at=0.2),
    "interp-30": partial(interpolate, at=0.3),
    "interp-40": partial(interpolate, at=0.4),
    "interp-50": partial(interpolate, at=0.5),
    "interp-60": partial(interpolate, at=0.6),
    "interp-70": partial(interpolate, at=0.7),
    "interp-80": partial(interpolate, at=0.8),
    "interp-90": partial(interpolate, at=0.9),
    "proportional": proportional,
    "classifier-heavy": classifier_heavy,
    "feature-heavy": feature_heavy,
}
_HEAVY = ("proportional", "classifier-heavy", "feature-heavy")
TEN = ("min", "max", "mid", "interp-20", "interp-40", "interp-60", "interp-80", *_HEAVY)
PAPER_TEN = ("min", "max", "mid", "interp-30", "interp-50", "interp-70", "interp-90", *_HEAVY)
BY_SCORE = ("lamp", "global")  # their sparsities depend on the scores
ALLOCATORS = ("uniform", "erk", *BY_SCORE)  # published rules without ranges, placed at a total sparsity (placing.py)
NAMES = (*STRATEGIES, *ALLOCATORS)


def check_strategies(names: Sequence[str]) -> None:
    """ValueError for a name that is no strategy's."""
    for name in names:
        pick("strategy", name, NAMES)


def plan(names: Sequence[str], layers: Sequence[Layer], ranges: dict[str, Range]) -> tuple[Strategy, ...]:
    """The named strategies of STRATEGIES for these layers. ValueError for an unknown name."""
    return tuple(Strategy(n, STRATEGIES[pick("strategy", n, STRATEGIES)](layers, ranges)) for n in names)


def zero_count(params: int, sparsity: float) -> int:
    """floor(n * sparsity), protected against rounding such as 0.29 * 100 = 28.999..."""
    return int(params * sparsity + 1e-6)


def shift_towards(strategy: Strategy, layers: Sequence[Layer], target: float) -> Strategy:
    """The authors' unpublished step for VGG-11 and ResNet-18: shift all layers until the total is near a target.

    At most 30 passes; each first stops when the total is within 0.5 % (relative) of the target, then adds or subtracts
    0.002 on every layer, clamped to [0, 0.98]. It leaves the ranges by up to 6 points. Only `--recipe paper` uses it.
    """
    sparsity = dict(strategy.sparsity)
    for _ in range(30):
        total = sum(x.params * sparsity[x.name] for x in layers) / sum(x.params for x in layers)
        if abs(total - target) <= 0.005 * target:
            break
        step = 0.002 if total < target else -0.002
        sparsity = {n: round(min(0.98, max(0.0, s + step)), 12) for n, s in sparsity.items()}
    return Strategy(strategy.name, sparsity)


def paper_target(strategy: str) -> float:
    """The target of the authors' shift, as total sparsity, by strategy."""
    return {"feature-heavy": 0.88, "interp-70": 0.92, "interp-90": 0.92}.get(strategy, 0.90)


def paper_plan(preset: str | None, layers: Sequence[Layer], ranges: dict[str, Range],
               names: Sequence[str] = PAPER_TEN) -> tuple[Strategy, ...]:
    """The ten strategies of the paper: a = 0.3 ... 0.9, with the authors' shift to 90 % on VGG-11 and ResNet-18."""
    strategies = plan(names, layers, ranges)
    if preset not in ("vgg11", "resnet18"):
        return strategies
    return tuple(shift_towards(s, layers, paper_target(s.name)) for s in strategies)
