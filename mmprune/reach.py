"""Finds weights that do not affect a model's output, such as those of an auxiliary head that is not exported."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def without_effect(model: nn.Module, weights: Mapping[str, Tensor], input_shape: Sequence[int]) -> set[str]:
    """Names of the weights that can have any value without changing the model's output for noise.

    Only weights that get no gradient from the output are tested; part of a model may compute without gradients.
    """
    images = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0))
    work = copy.deepcopy(model).cpu().eval()
    own = {name: weight for name, weight in work.named_parameters() if name in weights and weight.requires_grad}
    with torch.random.fork_rng(devices=[]):
        with torch.enable_grad():
            reached = _leaves(_answer(work, images))
        if not reached:
            return set()  # a model without gradients
        with torch.no_grad():
            return {n for n, weight in own.items() if id(weight) not in reached and _same_without(work, weight, images)}


def _leaves(answer: list[Tensor]) -> set[int]:
    """The ids of the weights that get a gradient from the output, read from autograd's graph."""
    found, seen = set(), set()
    nodes = [x.grad_fn for x in answer if x.grad_fn is not None]
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            found.add(id(getattr(node, "variable", None)))  # only leaves have one
            nodes += [before for before, _ in node.next_functions if before is not None]
    return found


def _same_without(model: nn.Module, weight: Tensor, images: Tensor) -> bool:
    kept = weight.clone()
    before = _answer(model, images)
    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    after = _answer(model, images)
    weight.copy_(kept)
    return all(map(torch.equal, before, after))


def _answer(model: nn.Module, images: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    return [leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]
