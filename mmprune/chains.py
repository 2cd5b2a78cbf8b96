"""Which channels of a model may trade places: those that no operator tells apart, from producers to readers.

The weights and buffers of such a chain are renamed together and the model computes the same function. Found by
following the axes of all tensors (ties) in evaluation and in training mode, then proven by a trial: with random weights
in double precision and the channels in random order, answers and gradients must be the same.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mmprune.axes import Axis, entries, leaves
from mmprune.layers import prunable_weights
from mmprune.renaming import Chain, Place, Trial
from mmprune.ties import Ties

IMAGES = 2  # BatchNorm in training mode wants more than one value per channel


@dataclass(frozen=True)
class Found:
    """The proven chains, and the places of those that looked free but failed the trial."""

    chains: tuple[Chain, ...]
    failed: tuple[str, ...] = ()


def find_chains(model: nn.Module, input_shape: tuple[int, ...]) -> Found:
    """Every chain that ends in the inputs of a prunable weight and can change its blocks of four.

    input_shape  (1, C, H, W)
    Costs two passes through the model, then in double precision one more and one there and back, and those two again
    for each trial.
    """
    shape = (IMAGES, *input_shape[1:])
    weights = prunable_weights(model)
    named, free = _follow(model, shape)
    chains = [chain for leaf in free if (chain := _chain(named, leaf)) and chain.readers(weights)]
    if not chains:
        return Found(())
    trial = Trial(model, shape)
    chains = _preferred(trial, [_whole(alike) for alike in _alike(chains)])
    chains = _preferred(trial, [_heads(chain) for chain in chains])
    proven = _proven(trial, chains)
    failed = [chain for chain in chains if not any(chain is each for each in proven)]
    return Found(tuple(proven), tuple(", ".join(sorted({n for n, _ in chain.places})) for chain in failed))


Option = tuple[list[Chain], list[Chain]]  # what allows more, and what to fall back on


def _preferred(trial: Trial, options: list[Option]) -> list[Chain]:
    """The first of each option where it passes the trial: all together, or all of one role in the network's blocks."""
    def first_of(some: list[Option]) -> bool:
        return trial.holds([chain for first, _ in some for chain in first])

    offered = [option for option in options if option[0] is not option[1]]
    roles: dict[frozenset[object], list[Option]] = {}
    for option in offered:
        roles.setdefault(_role(option[1][0]), []).append(option)
    if not offered or first_of(offered):
        return [chain for first, _ in options for chain in first]
    passed = {role for role, some in roles.items() if first_of(some)}
    return [chain for option in options for chain in option[0 if _role(option[1][0]) in passed else 1]]


def _role(chain: Chain) -> frozenset[object]:
    """Where it stands, without the numbers of blocks."""
    return frozenset((re.sub(r"\d+", "", name), dim, at.shape[1]) for (name, dim), at in chain.places.items())


def _proven(trial: Trial, chains: list[Chain]) -> list[Chain]:
    """The chains that pass the trial: tried together, else each half for itself."""
    if not chains or trial.holds(chains):
        return chains
    half = len(chains) // 2
    return _proven(trial, chains[:half]) + _proven(trial, chains[half:]) if half else []


def _follow(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, list[tuple[Axis, ...]]], list[Axis]]:
    """The dimensions of each parameter and saved buffer, and the axes in them whose order does not matter."""
    model = copy.deepcopy(model).cpu()  # a pass in training mode moves the statistics of BatchNorm
    saved = set(model.state_dict())
    state = {n: t for n, t in (*model.named_parameters(), *model.named_buffers()) if n in saved}
    ties = Ties(state)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole attention, which has no rule
    try:
        for training in (False, True):
            with torch.no_grad(), ties:
                answers = model.train(training)(images)
            ties.fix_all(answers)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    found = {id(leaf): leaf for dims in ties.named.values() for dim in dims for leaf in leaves(dim)}
    return ties.named, [leaf for leaf in found.values() if not leaf.fixed and leaf.size > 1]


def _chain(named: Mapping[str, Sequence[tuple[Axis, ...]]], leaf: Axis) -> Chain | None:
    places: dict[Place, np.ndarray] = {}
    for name, dims in named.items():
        for i, dim in enumerate(dims):
            if not any(other is leaf for other in leaves(dim)):
                continue
            at = entries(dim, leaf)
            if at is None:
                return None
            places[name, i] = np.argsort(np.where(at < 0, leaf.size, at), kind="stable")[:(at >= 0).sum()].reshape(
                leaf.size, -1)
    return Chain(places) if places else None


def _alike(chains: Sequence[Chain]) -> list[list[Chain]]:
    """Chains that stand in the same dimensions, equally often: perhaps the two sides of a padding."""
    groups: dict[frozenset[tuple[Place, int]], list[Chain]] = {}
    for chain in chains:
        groups.setdefault(frozenset((p, a.shape[1]) for p, a in chain.places.items()), []).append(chain)
    return list(groups.values())


def _whole(alike: list[Chain]) -> Option:
    """One chain instead of several."""
    if len(alike) == 1:
        return alike, alike
    return [Chain({p: np.concatenate([chain.places[p] for chain in alike]) for p in alike[0].places})], alike


def _heads(chain: Chain) -> Option:
    """A chain for each head of an attention's values, instead of one order for all of them.

    Queries and keys are summed over their channels in the scores, and only values reach the next layer: of a
    projection that makes queries, keys and values, in this order, the last third is renamed.
    """
    plain = [chain]
    heads = min(at.shape[1] for (_, dim), at in chain.places.items() if dim == 1)
    several = {p: at for p, at in chain.places.items() if at.shape[1] % heads == 0}
    if heads == 1 or all(dim for _, dim in several):  # none, or nothing that makes them
        return plain, plain
    each = [Chain({p: at[:, at.shape[1] - heads + j][:, None] for p, at in several.items()}) for j in range(heads)]
    return each, plain
