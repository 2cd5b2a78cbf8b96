"""Searches the levels of all layers whose complete network loses least within a budget.

The losses of layers do not add, so whatever is proposed is judged as a complete network. Proposals come from several
starts; from dynamic programming over costs c_l (i / (n - 1))^2 with searched coefficients c (SPDY, Frantar and
Alistarh, ICML 2022, section 3.2); and from moving layers up a level and others down for the time that this frees (the
level-switch mutation of EvoPress, Sieberling et al., 2024, arXiv 2410.14649).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmprune.budget.dynamic import cheapest

Levels = tuple[int, ...]
Loss = Callable[[Levels, bool], float]  # (levels, whether on all images or on a few)
DRAWS = 0.15  # share of the effort for random coefficients; SPDY draws 100 before some hundred steps
CLIMB = 0.35  # for changing the best coefficients; the rest is for switching levels
SHARE = 0.1  # of the coefficients are drawn again at first; fewer after failures
FAILURES = 12  # in a row before fewer coefficients are drawn again
MOST_MOVES = 3  # layers that move up in one mutation; EvoPress draws 1 to 3


@dataclass(frozen=True)
class Problem:
    """What is searched.

    times    (layers, levels)
    allowed  (layers, levels) bool
    """

    times: np.ndarray
    allowed: np.ndarray
    budget: float

    def cost(self, levels: Levels) -> float:
        return float(self.times[np.arange(len(levels)), list(levels)].sum())

    def solve(self, costs: np.ndarray) -> Levels | None:
        return cheapest(np.where(self.allowed, costs, np.inf), self.times, self.budget)

    @property
    def fastest(self) -> float:
        """The least cost that any levels have."""
        return float(np.where(self.allowed, self.times, np.inf).min(1).sum())


@dataclass(frozen=True)
class Found:
    """The best levels, and how they were found."""

    levels: Levels
    loss: float  # on all images
    starts: dict[str, float]  # the loss of each start on all images
    evaluations: int  # judgements of networks, on few or on all images


@dataclass
class _Judge:
    """Remembers losses; each network is judged once on few and once on all images."""

    loss: Loss
    tick: Callable[[int], None]
    known: dict[tuple[Levels, bool], float] = field(default_factory=dict)

    def __call__(self, levels: Levels, every: bool = False) -> float:
        key = levels, every
        if key not in self.known:
            self.known[key] = self.loss(levels, every)
            self.tick(len(self.known))
        return self.known[key]

    def better(self, levels: Levels, than: Levels) -> bool:
        """Whether it loses less on few images and on all: the second is asked only if the first says so."""
        return self(levels) < self(than) and self(levels, True) < self(than, True)


def search(problem: Problem, starts: Mapping[str, Levels], loss: Loss, effort: int, seed: int,
           tick: Callable[[int], None] = lambda n: None) -> Found:
    """The best levels found by about `effort` judgements of networks.

    starts  by name; those that exceed the budget are left out. ValueError if no levels fit the budget.
    tick    called with the number of judgements so far
    The same arguments give the same result.
    """
    layers, count = problem.times.shape
    ramp = np.linspace(0, 1, count)[None] ** 2
    random, judge = np.random.default_rng(seed), _Judge(loss, tick)

    def proposal(coefficients: np.ndarray) -> Levels:
        levels = problem.solve(coefficients[:, None] * ramp)
        if levels is None:
            raise ValueError(f"no levels cost less than {problem.budget:g}; the least is {problem.fastest:g}")
        return levels

    even: np.ndarray = np.ones(layers)
    fitting = {"quadratic": proposal(even),
               **{n: levels for n, levels in starts.items() if problem.cost(levels) <= problem.budget}}
    scores = {name: judge(levels, True) for name, levels in fitting.items()}
    best = fitting[min(scores, key=lambda name: scores[name])]
    drawn = [even, *(np.asarray(random.random(layers)) for _ in range(int(effort * DRAWS)))]
    at = min(drawn, key=lambda c: judge(proposal(c)))
    at = _climb(judge, proposal, at, len(judge.known) + int(effort * CLIMB), random)
    best = proposal(at) if judge.better(proposal(at), best) else best
    best = _switch(judge, problem, best, max(effort, len(judge.known) + effort // 2), random)
    return Found(best, judge(best, True), scores, len(judge.known))


def _climb(judge: _Judge, proposal: Callable[[np.ndarray], Levels], at: np.ndarray, until: int,
           random: np.random.Generator) -> np.ndarray:
    """Draw some coefficients again, keep what loses less; fewer at once after failures, until none are left."""
    tries, most = 0, 4 * until  # different coefficients often give levels that are known already
    for many in range(max(1, round(SHARE * len(at))), 0, -1):
        failures = 0
        while failures < FAILURES and len(judge.known) < until and tries < most:
            tries += 1
            other = at.copy()
            other[random.choice(len(at), many, replace=False)] = random.random(many)
            is_better = judge.better(proposal(other), proposal(at))
            at, failures = (other, 0) if is_better else (at, failures + 1)
    return at


def _switch(judge: _Judge, problem: Problem, best: Levels, until: int, random: np.random.Generator) -> Levels:
    """Move layers up a level and others down as far as the budget allows; keep what loses less."""
    tries, most = 0, 4 * until
    while len(judge.known) < until and tries < most:
        tries += 1
        other = mutated(problem, best, int(random.integers(0, MOST_MOVES + 1)), random)
        if other is not None and judge.better(other, best):
            best = other
    return best


def mutated(problem: Problem, levels: Levels, ups: int, random: np.random.Generator) -> Levels | None:
    """Levels with `ups` layers one allowed level sparser, and others less sparse until no more fits the budget.

    With no layer up, only time that is left over is spent. None if nothing changed.
    """
    now, steps = list(levels), [np.flatnonzero(row) for row in problem.allowed]
    raised = set()
    for layer in random.permutation(len(now))[:ups]:
        sparser = steps[layer][steps[layer] > now[layer]]
        if len(sparser):
            now[layer] = int(sparser[0])
            raised.add(int(layer))
    left = problem.budget - problem.cost(tuple(now))
    for layer in random.permutation(len(now)):
        denser = steps[layer][steps[layer] < now[layer]]
        if int(layer) in raised or not len(denser):
            continue
        more = problem.times[layer, denser[-1]] - problem.times[layer, now[layer]]
        if more <= left:
            now[layer], left = int(denser[-1]), left - more
    fits = problem.cost(tuple(now)) <= problem.budget
    return tuple(now) if fits and tuple(now) != levels else None


def interpolated(problem: Problem, values: Sequence[float], sparsities: Sequence[float]) -> float:
    """The cost of sparsities between the allowed levels, taken to be linear between them."""
    return sum(float(np.interp(value, np.asarray(sparsities)[row], times[row]))
               for value, row, times in zip(values, problem.allowed, problem.times, strict=True))


def filled(problem: Problem, levels: Levels, sparsities: Sequence[float]) -> list[float]:
    """Sparsities between levels that spend what the levels leave of the budget: all layers get denser together.

    Where levels are few, or one layer costs most, no levels come close to a budget; and where a sparser network happens
    to lose less on the images, the denser one is the safer.
    """
    now = np.array(levels)
    while True:
        lower = np.array([max(np.flatnonzero(row[:level]), default=level)
                          for row, level in zip(problem.allowed, now, strict=True)])
        spent, more = problem.cost(tuple(now)), problem.cost(tuple(lower))
        if more <= problem.budget and (lower < now).any():
            now = lower
            continue
        share = (problem.budget - spent) / (more - spent) if more > max(spent, problem.budget) else 0.0
        at = np.asarray(sparsities)
        return [round(float(s), 4) for s in at[now] + share * (at[lower] - at[now])]


def scaled(problem: Problem, densities: Sequence[float], sparsities: Sequence[float] | np.ndarray) -> Levels | None:
    """The least sparse levels with densities in these proportions that fit the budget; None if none do.

    A layer gets the highest allowed level of at most 1 - min(1, a densities[l]), else its lowest, for the largest a
    that fits.
    """
    at = np.asarray(sparsities)
    for a in np.geomspace(1, 1e-3, 400) / min(densities):
        wanted = 1 - np.minimum(1, a * np.asarray(densities))
        usable = problem.allowed & (at[None] <= wanted[:, None] + 1e-9)
        levels = tuple(int(max(np.flatnonzero(row), default=lowest))
                       for row, lowest in zip(usable, problem.allowed.argmax(1), strict=True))
        if problem.cost(levels) <= problem.budget:
            return levels
    return None
