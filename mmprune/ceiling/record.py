"""What `mmprune ceiling` finds, also written to ceiling.json."""

from dataclasses import dataclass

CEILING = "ceiling.json"
MMRT = "mmrt"


@dataclass(frozen=True)
class DenseTime:
    """The dense model on a runtime."""

    runtime: str
    precision: str
    seconds: float  # median


@dataclass(frozen=True)
class MaskedTime:
    """The model in mmrt with random masks of one pattern, all layers that may be pruned at one sparsity."""

    precision: str
    pattern: str
    sparsity: float  # of each of these layers
    zeros: float  # share of all prunable weights, with the layers that stay dense
    seconds: float  # median
    ratio: float  # over the fastest dense file of the other runtimes, round by round; below 1 is faster
    low: float  # bounds with 99 % confidence
    high: float
    verdict: str  # "faster", "slower", "no difference" or "too busy to tell"


@dataclass(frozen=True)
class LayerCeiling:
    """A layer in mmrt, in the precision and pattern of the fastest masked file."""

    layer: str  # Layer.name
    kind: str
    macs: int
    stays_dense: bool  # by the rules: stem, depthwise, the layer of the logits
    seconds: tuple[float, ...]  # at Ceiling.sparsities


@dataclass(frozen=True)
class Ceiling:
    """The most that sparsity can give a model on a device."""

    model: str
    target: str
    device: str  # Device.fingerprint
    cpu: str
    threads: int
    dense: tuple[DenseTime, ...]  # the fastest first
    masked: tuple[MaskedTime, ...]
    sparsities: tuple[float, ...]  # of the layers below, from 0 on
    layers: tuple[LayerCeiling, ...]
    rest_s: tuple[float, ...]  # beside the layers, at the same sparsities
    # by strategy, by "<precision> <pattern>": predicted seconds
    strategies: dict[str, dict[str, float]]
    tables: tuple[str, ...]  # files with the latency of each layer at each sparsity
    notes: tuple[str, ...]

    @property
    def rival(self) -> DenseTime:
        """The fastest dense file of the runtimes that skip no zeros; mmrt's where there are none."""
        return next((d for d in self.dense if d.runtime != MMRT), self.dense[0])

    @property
    def best(self) -> MaskedTime:
        """The fastest file."""
        return min(self.masked, key=lambda m: m.seconds)
