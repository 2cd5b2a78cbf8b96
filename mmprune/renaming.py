"""Puts channels of a model's weights in another order, and tries whether a model still computes the same."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mmprune.patterns import BLOCK

Place = tuple[str, int]  # a parameter or buffer by its name in the state_dict, and one of its dimensions
Order = dict[str, dict[int, Tensor]]  # name -> dimension -> for each new position the old one
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
# Of a tensor's largest value; sums in another order differ by about 1e-14 in double precision.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
FLOOR = 1e-3  # times that, of the largest value: a shift before a BatchNorm has a gradient of rounding errors alone


@dataclass(frozen=True)
class Chain:
    """n channels that may be put in any order, and where each stands.

    places  for every dimension with them: (n, m) positions, those of one channel in a row; m is 1 unless the dimension
            holds each channel several times (once per pixel after a flatten, once per head)
    """

    places: dict[Place, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.places.values())))

    def readers(self, weights: Iterable[str]) -> tuple[str, ...]:
        """Those of the weights whose input channels these are, if their places in blocks of four can change."""
        return tuple(name for name in weights if not in_one_block(self.places.get((name, 1))))


def in_one_block(places: np.ndarray | None) -> bool:
    """Whether there are no places, or a channel has several in a block of four (its pixels, after a flatten)."""
    return places is None or (places.shape[1] > 1 and bool((np.diff(places // BLOCK, axis=1) == 0).any()))


def order_of(pairs: Iterable[tuple[Chain, np.ndarray]], sizes: Mapping[str, torch.Size]) -> Order:
    """The renaming that puts, for each (chain, new), channel new[i] of the chain where channel i stood."""
    order: Order = {}
    for chain, new in pairs:
        for (name, dim), places in chain.places.items():
            index = order.setdefault(name, {}).setdefault(dim, torch.arange(sizes[name][dim]))
            index[torch.tensor(places)] = torch.tensor(places[new])
    return order


def renamed(tensor: Tensor, order: Mapping[int, Tensor]) -> Tensor:
    """One tensor of the model's state, or another of its shape (a gradient, a score, a mask), in the new order."""
    for dim, index in order.items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


@torch.no_grad()
def rename(model: nn.Module, order: Order) -> None:
    """Put the channels of a model's parameters and buffers in the new order, in place."""
    state = dict((*model.named_parameters(), *model.named_buffers()))
    for name, dims in order.items():
        state[name].copy_(renamed(state[name], dims))


class Trial:
    """Tries renamings on a copy of the model with random weights, where no zero or equal weights hide a difference.

    Answers in evaluation mode, and answers and gradients in training mode without dropout, in double precision; in
    single precision if the model cannot run in double.
    shape  of the images, (n, C, H, W)
    """

    before: tuple[list[Tensor], dict[str, Tensor]]

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.seed = 0
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        try:
            self._begin(model, images.double())
        except RuntimeError:  # it makes tensors of a type of its own
            self._begin(model, images)

    def _begin(self, model: nn.Module, images: Tensor) -> None:
        self.images, self.model = images, _scrambled(model, images.dtype)
        self.before = self._observe(copy.deepcopy(self.model))

    def holds(self, chains: Iterable[Chain]) -> bool:
        """Whether everything stays the same when the channels of these chains are in random order."""
        self.seed += 1
        generator = np.random.default_rng(self.seed)
        sizes = {n: t.shape for n, t in (*self.model.named_parameters(), *self.model.named_buffers())}
        order = order_of([(chain, generator.permutation(len(chain))) for chain in chains], sizes)
        model = copy.deepcopy(self.model)
        rename(model, order)
        answers, gradients = self._observe(model)
        expected = {n: renamed(g, order.get(n, {})) for n, g in self.before[1].items()}
        tolerance = TOLERANCE[self.images.dtype]
        return (_equal(self.before[0], answers, tolerance)
                and _equal([*expected.values()], [gradients[n] for n in expected], tolerance))

    def _observe(self, model: nn.Module) -> tuple[list[Tensor], dict[str, Tensor]]:
        """(answers in evaluation and in training mode, gradients by parameter); moves the statistics of BatchNorm."""
        kept = torch.get_default_dtype()
        torch.set_default_dtype(self.images.dtype)
        try:
            with torch.no_grad(), _NoDropout():
                answers = _tensors(model.eval()(self.images))
            with torch.enable_grad(), _NoDropout(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # blocks left out at random are the same ones
                trained = [t for t in _tensors(model.train()(self.images)) if t.is_floating_point()]
                total = torch.stack([(t * _weights_for(t)).sum() for t in trained]).sum()
                wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
                found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
        finally:
            torch.set_default_dtype(kept)
        gradients = {n: g for n, g in zip(wanted, found, strict=True) if g is not None}
        return [*answers, *(t.detach() for t in trained)], gradients


class _NoDropout(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return args[0] if func in DROPOUTS else func(*args, **(kwargs or {}))


def _tensors(values: object) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def _weights_for(answer: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(answer.shape, generator=generator, dtype=answer.dtype)


def _equal(expected: list[Tensor], found: list[Tensor], tolerance: float) -> bool:
    if len(expected) != len(found):
        return False
    floor = FLOOR * tolerance * max((float(a.abs().max()) for a in expected if a.numel()), default=0.0)
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape or not torch.isfinite(a).all():
            return False
        if a.numel() and not (a - b).abs().max() <= tolerance * a.abs().max() + floor:
            return False
    return True


@torch.no_grad()
def _scrambled(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy on the CPU with random weights of the usual sizes and random statistics."""
    model = copy.deepcopy(model).cpu().to(dtype)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.requires_grad_(weight.is_floating_point())
        if weight.ndim == 1:
            weight.copy_(0.5 + torch.rand(weight.shape, generator=generator))
        elif weight.ndim > 1:
            scale = max(1, weight[0].numel()) ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            mean.copy_(torch.randn(mean.shape, generator=generator) / 4)
            variance.copy_(0.5 + torch.rand(variance.shape, generator=generator))
    return model
