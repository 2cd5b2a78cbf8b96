"""Latency tables: how long each layer takes at each sparsity, and the rest of the network.

Measured in place: the whole network is timed at one sparsity after the other, step by step, so that a layer's time is
that among its neighbours, in the caches as they leave them. Where nothing can be measured, multiply-accumulates stand
in for seconds.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmprune.records import Layer, Measurement
from mmprune.results.disturbed import disturbed_rounds

# Closer together where kernels gain most. 0.98 is the highest sparsity of any published preset of ranges.
SPARSITIES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
HALVINGS = 60  # of an interval, down to the precision of a float
ODD_REST = 0.05  # of a level's latency: if what is left beside the layers varies more, times do not add


@dataclass(frozen=True)
class Table:
    """The cost of every layer at every sparsity, in seconds on a device, or in multiply-accumulates.

    layers  by Layer.name, one cost per sparsity
    rests   beside the layers, with all of them at one sparsity: other operations, and what starting an inference costs.
            Smaller weights leave more room in the caches, so it falls a little with the sparsity
    whole   of the complete network with all layers at one sparsity
    device  fingerprint; "" if multiply-accumulates stand in
    """

    device: str
    runtime: str
    precision: str
    pattern: str
    threads: int
    sparsities: tuple[float, ...]
    layers: dict[str, tuple[float, ...]]
    rests: tuple[float, ...]
    whole: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        return self.device != ""

    @property
    def dense(self) -> float:
        return self.whole[0]

    def cost(self, layers: float) -> float:
        """Of a network whose layers cost so much together: the rest is that of the uniform network of that cost."""
        sums = [sum(costs[i] for costs in self.layers.values()) for i in range(len(self.sparsities))]
        known = dict(sorted(zip(sums, self.rests, strict=True)))
        return layers + float(np.interp(layers, list(known), list(known.values())))

    def predicted(self, sparsity: Mapping[str, float]) -> float:
        """Of a network with these sparsities, which may lie between those of the table."""
        return self.cost(sum(float(np.interp(sparsity.get(name, 0.0), self.sparsities, costs))
                             for name, costs in self.layers.items()))

    def room(self, cost: float) -> float:
        """What the layers may cost together in a network of this cost; 0 if the rest alone exceeds it."""
        low, high = 0.0, cost
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.cost(middle) <= cost else (low, middle)
        return low


def median_s(m: Measurement) -> float:
    """The median latency over the rounds in which no other program took the CPU; over all if there are no others."""
    out = disturbed_rounds(m)
    rounds = [r for r, lost in zip(m.latencies_s, out, strict=True) if not lost] or m.latencies_s
    return statistics.median(s for r in rounds for s in r)


def step_medians_s(m: Measurement) -> list[float]:
    """The median of each step's time over the same rounds as in median_s."""
    out = disturbed_rounds(m)
    kept = [i for i, lost in enumerate(out) if not lost] or range(len(out))
    return [statistics.median(step.seconds[i] for i in kept) for step in m.steps]


def measured_table(levels: Sequence[tuple[float, Measurement, Mapping[str, float]]], layers: Sequence[Layer],
                   about: tuple[str, str]) -> Table:
    """The table from one measurement per sparsity, in their order; the first is the dense model.

    levels  (sparsity, measurement of the complete network, seconds of each layer in it)
    about   (precision, pattern)
    A layer that is missing at a level was removed with all its inputs or outputs and takes no time.
    """
    whole = tuple(median_s(m) for _, m, _ in levels)
    found = {x.name: tuple(times.get(x.name, 0.0) for _, _, times in levels) for x in layers}
    rests = [latency - sum(times.values()) for latency, (_, _, times) in zip(whole, levels, strict=True)]
    middle = statistics.median(rests)
    odd = [(abs(r - middle) / w, s) for r, w, (s, _, _) in zip(rests, whole, levels, strict=True)]
    worst, at = max(odd)
    notes = []
    if worst > ODD_REST:
        notes.append(f"the times of the layers do not add up to that of the network: at a sparsity of {at:g} they "
                     f"differ by {worst:.0%} of its latency")
    first = levels[0][1]
    return Table(first.device.fingerprint, first.runtime, *about, first.threads, tuple(s for s, _, _ in levels), found,
                 tuple(rests), whole, tuple(notes))


def computed_table(layers: Sequence[Layer], zeros: Callable[[Sequence[int], float, str], int],
                   about: tuple[str, str, str], sparsities: Sequence[float] = SPARSITIES) -> Table:
    """The table of multiply-accumulates that are left, for a device that cannot be measured.

    zeros  the number of zeros of a pattern, from patterns.ZEROS
    about  (runtime, precision, pattern)
    """
    found = {x.name: tuple(x.macs * (1 - zeros(x.shape, s, x.kind) / math.prod(x.shape)) for s in sparsities)
             for x in layers}
    whole = tuple(sum(costs[i] for costs in found.values()) for i in range(len(sparsities)))
    return Table("", *about, 0, tuple(sparsities), found, (0.0,) * len(whole), whole,
                 ("multiply-accumulates stand in for latencies, which were not measured: how much faster the model is "
                  "than the dense one on the device is not known",))
