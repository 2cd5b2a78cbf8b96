"""Published rules for how much of each layer to prune, each as a profile: what strategies of the paper compete with.

A profile gives every layer's sparsity as a function of one scalar t in [0, 1]. At 0 each layer is at its low bound, at
1 at its high bound, and no sparsity falls as t grows, so that bisection finds any total (placing.py). The bounds are
ranges.find_bounds: some layers stay dense, which the published codes do not do except where said.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from mmprune.records import Layer, Range
from mmprune.strategies import Sparsities, between

Profile = Callable[[float], Sparsities]
Values = Mapping[str, np.ndarray]  # by Layer.name: (n,) float32, not negative
BITS = 2.0**31  # the bits of a float32 that is not negative, read as an integer, are below; they are in its order


def shifted(own: Mapping[str, float], ranges: Mapping[str, Range]) -> Profile:
    """A strategy's own sparsities, each layer's position in its range shifted by the same number.

    low_l + min(1, max(0, p_l + 2 t - 1)) (high_l - low_l), with p_l = (s_l - low_l) / (high_l - low_l). Strategies that
    have the same position in every layer (min, max, mid, interp-A) are one model at the same total.
    """
    def position(name: str) -> float:
        width = ranges[name].high - ranges[name].low
        return (own[name] - ranges[name].low) / width if width else 0.0

    at = {name: position(name) for name in own}
    return lambda t: {n: between(ranges[n], min(1.0, max(0.0, p + 2 * t - 1))) for n, p in at.items()}


def rule(name: str, layers: Sequence[Layer], bounds: Mapping[str, Range], values: Values) -> Profile:
    """The profile of one of strategies.ALLOCATORS; only those of strategies.BY_SCORE look at the values."""
    if name == "uniform":
        return uniform(bounds)
    if name == "erk":
        return erk(layers, bounds)
    return {"lamp": lamp, "global": global_threshold}[name](values, bounds)


def uniform(bounds: Mapping[str, Range]) -> Profile:
    """The same sparsity t for every layer (Zhu and Gupta 2017)."""
    return lambda t: {n: round(_within(b, t), 12) for n, b in bounds.items()}


def erk(layers: Sequence[Layer], bounds: Mapping[str, Range]) -> Profile:
    """Erdos-Renyi-Kernel: a layer's density is e (d_1 + ... + d_k) / (d_1 ... d_k), with d the shape of its weight.

    Evci et al., "Rigging the Lottery", ICML 2020; Mocanu et al. 2018 without the kernel's dimensions. A density above
    1 is 1. The authors' code makes such layers dense one after the other and solves for e again; min(1, .) and
    bisection over e end at the same densities, since e only rises meanwhile.
    """
    raw = {x.name: sum(x.shape) / x.params for x in layers}
    most = max(1 / r for r in raw.values())
    return lambda t: {n: round(_within(bounds[n], 1 - (1 - t) * most * r), 12) for n, r in raw.items()}


def lamp(values: Values, bounds: Mapping[str, Range]) -> Profile:
    """LAMP: one threshold over all layers on s_i^2 / (sum over j of the layer with s_j >= s_i of s_j^2).

    Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021, equation 1, with s = |w|. With
    another score s is that score. The largest weight of a layer has 1, so the rule itself never cuts a layer off. Of
    equal scores each counts those behind it, as in the authors' code.
    """
    return global_threshold({n: lamp_values(v) for n, v in values.items()}, bounds)


def lamp_values(values: np.ndarray) -> np.ndarray:
    """(n,) s -> (n,) LAMP's s_i^2 / sum of s_j^2 over s_j >= s_i, ascending; 0 where all that is left is 0."""
    squares = np.sort(values.astype(np.float64)) ** 2
    left = np.cumsum(squares[::-1])[::-1]  # of this one and all larger ones
    return np.divide(squares, left, out=np.zeros_like(squares), where=left > 0).astype(np.float32)


def global_threshold(values: Values, bounds: Mapping[str, Range]) -> Profile:
    """One threshold over the scores of all layers: with |w| global magnitude pruning, as Frankle and Carbin, "The
    Lottery Ticket Hypothesis" (ICLR 2019), prune deep networks.

    Of weights with exactly the threshold's score each layer loses the same share. It may empty a layer; the bounds
    leave one weight, and placing.notes_of says so.
    """
    bits = {n: np.sort(v.astype(np.float32) + 0.0).view(np.uint32) for n, v in values.items()}  # + 0.0: no -0.0

    def profile(t: float) -> Sparsities:
        at, share = divmod(t * BITS, 1)
        found = {}
        for name, sorted_bits in bits.items():
            below, up_to = (int(np.searchsorted(sorted_bits, np.uint32(at), side)) for side in ("left", "right"))
            zeros = int(below + share * (up_to - below))
            found[name] = _within(bounds[name], zeros / len(sorted_bits))
        return found

    return profile


def values_of(scores: Mapping[str, Tensor], names: Sequence[str]) -> Values:
    """The scores that are compared across layers, of single weights as published, whatever the pattern.

    ValueError for a score that is negative or not finite.
    """
    found = {n: scores[n].detach().float().cpu().flatten().numpy() for n in names}
    for name, values in found.items():
        if not np.isfinite(values).all() or values.min() < 0:
            raise ValueError(f"the score of {name} is negative or not finite, so it has no place among other layers'")
    return found


def _within(bounds: Range, sparsity: float) -> float:
    return min(bounds.high, max(bounds.low, sparsity))
