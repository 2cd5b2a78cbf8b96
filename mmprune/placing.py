"""Places strategies: the sparsity of every layer, at a total over all prunable weights where one is requested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmprune.allocations import Profile, rule, shifted, values_of
from mmprune.patterns import ZEROS
from mmprune.records import Layer, Manifest, Range
from mmprune.strategies import ALLOCATORS, BY_SCORE, Sparsities

HALVINGS = 64  # of [0, 1]; floats in it are hardly closer
NEAR = 5e-4  # a total that is missed by less is met: it is printed in percent with one decimal


@dataclass(frozen=True)
class Site:
    """A model on which strategies are placed."""

    layers: tuple[Layer, ...]
    ranges: dict[str, Range]  # for the strategies that have ranges
    bounds: dict[str, Range]  # for strategies.ALLOCATORS
    pattern: str
    total: float | None = None  # zeros over all prunable weights; None: each strategy's own

    def limits(self, name: str) -> dict[str, Range]:
        return self.bounds if name in ALLOCATORS else self.ranges


def place(names: Sequence[str], site: Site, own: Mapping[str, Sparsities],
          scores: Mapping[str, Mapping[str, Tensor]], several: bool = False) -> dict[str, Sparsities]:
    """Each strategy's {layer: sparsity}; of strategies.BY_SCORE one for each of the given scores, by key_of.

    own      the strategies with ranges, and mid: {layer: sparsity} before any total is requested
    scores   by score: by layer, of the weight's shape
    several  whether the family has several scores
    Strategies without ranges take the total of `mid` unless one is requested. A total is met as nearly as the pattern
    allows (notes_of tells how nearly). ValueError for a total out of reach; it names the interval that is in reach.
    """
    found = {}
    goal = total_of(own["mid"], site.layers, site.pattern) if site.total is None else site.total
    for name in names:
        if name not in ALLOCATORS and site.total is None:
            found[name] = own[name]
            continue
        check_reach(name, goal, site)
        if name in BY_SCORE:
            for score, given in scores.items():
                profile = rule(name, site.layers, site.bounds, values_of(given, list(site.bounds)))
                found[key_of(name, score, several)] = _at(goal, profile, site)
        else:
            profile = (rule(name, site.layers, site.bounds, {}) if name in ALLOCATORS
                       else shifted(own[name], site.ranges))
            found[name] = _at(goal, profile, site)
    return found


def key_of(name: str, score: str, several: bool) -> str:
    """The key of a strategy in Manifest.strategies."""
    return f"{name}-{score}" if several and name in BY_SCORE else name


def total_of(sparsity: Mapping[str, float], layers: Sequence[Layer], pattern: str) -> float:
    """The fraction of zeros among all weights of the layers that the pattern gives of these sparsities."""
    zeros = sum(ZEROS[pattern](x.shape, sparsity[x.name], x.kind) for x in layers)
    return zeros / sum(x.params for x in layers)


def check_reach(name: str, goal: float, site: Site) -> None:
    """ValueError for a total that the strategy cannot have within its limits."""
    limits = site.limits(name)
    low, high = (total_of({n: getattr(r, end) for n, r in limits.items()}, site.layers, site.pattern)
                 for end in ("low", "high"))
    if not low - NEAR <= goal <= high + NEAR:
        asked = "the total sparsity" if site.total is not None else "the total sparsity of mid,"
        raise ValueError(f"{name} cannot have {asked} {100 * goal:.2f} %: with the pattern {site.pattern} it reaches "
                         f"{100 * low:.2f} to {100 * high:.2f} % of this model's weights; ask for a total in between, "
                         "or change the ranges of layers")


def _at(goal: float, profile: Profile, site: Site) -> Sparsities:
    """The profile where its total is nearest to the goal."""
    def miss(sparsity: Sparsities) -> float:
        return total_of(sparsity, site.layers, site.pattern) - goal

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if miss(profile(middle)) < 0 else (low, middle)
    return min(profile(low), profile(high), key=lambda sparsity: abs(miss(sparsity)))


def notes_of(manifest: Manifest) -> tuple[str, ...]:
    """What a user should know about a plan: totals that a pattern cannot give, equal models, emptied layers."""
    layers, spec = manifest.layers, manifest.spec
    notes = []
    for name, sparsity in manifest.strategies.items():
        found = total_of(sparsity, layers, spec.pattern)
        if spec.total_sparsity is not None and abs(found - spec.total_sparsity) > NEAR:
            notes.append(f"{name} has a total sparsity of {100 * found:.1f} %, the nearest to "
                         f"{100 * spec.total_sparsity:.1f} % that the pattern {spec.pattern} gives")
        empty = [x.name for x in layers if x.params > 1 and sparsity[x.name] >= 1 - 1 / x.params]
        if empty:
            notes.append(f"{name} would zero all of {', '.join(empty)}: one weight is left in each")
    if spec.total_sparsity is not None:
        notes += [f"at this total sparsity {' = '.join(same)} are the same model: one of them is enough"
                  for same in same_models(layers, manifest.strategies, spec.pattern)]
    return tuple(notes)


def same_models(layers: Sequence[Layer], strategies: Mapping[str, Mapping[str, float]], pattern: str
                ) -> list[list[str]]:
    """Groups of strategies for which the pattern gives the same model, because every layer has the same zeros."""
    names = dict[tuple[int, ...], list[str]]()
    for name, sparsity in strategies.items():
        counts = tuple(ZEROS[pattern](x.shape, sparsity[x.name], x.kind) for x in layers)
        names.setdefault(counts, []).append(name)
    return [found for found in names.values() if len(found) > 1]
