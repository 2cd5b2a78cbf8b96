"""What each prunable weight meets in a forward pass, as the statistics of a least-squares problem.

A weight (out, in, ...) is a matrix (out, columns) here. The input channels of one kernel position lie side by side, so
that a block of consecutive input channels is a block of columns. One output of the layer is this matrix times a patch x
of its input in the same order; with the weights given, E[x x^T] says what changing them costs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DIMENSIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_MHA = ("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k",
        "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias")
POSITIONS = 64  # of each image that count, drawn at random: neighbours say nearly the same


@dataclass(frozen=True)
class Use:
    """How a weight is used."""

    bias: str | None  # the parameter that is added to its outputs
    normed: bool  # a BatchNorm follows wherever it is used, which removes the outputs' means
    calls: int = 1  # products with it in one pass

    @property
    def free_mean(self) -> bool:
        """Whether the outputs' means need not be kept by the weights: the bias can set them, or they are removed."""
        return self.normed or self.bias is not None


@dataclass(frozen=True)
class Statistics:
    """Of the inputs x of one weight, and those x_d of the dense model at the same places; G groups of rows.

    For a weight whose outputs' means are free, x and x_d are without their means.
    """

    inputs: Tensor  # (G, columns, columns) float64: E[x x^T]
    cross: Tensor  # (G, columns, columns) float64: E[x_d x^T]
    mean: Tensor  # (G, columns) float64: E[x]
    dense_mean: Tensor  # (G, columns) float64: E[x_d]


def columns_of(weight: Tensor) -> Tensor:
    """(out, in, ...) -> (out, columns)."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def weight_of(columns: Tensor, shape: Sequence[int]) -> Tensor:
    """The reverse of columns_of."""
    return columns.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def find_uses(model: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> dict[str, Use]:
    """How each of the named weights is used in eval mode, in the order of execution; unused ones are missing."""
    mode = _FindUses(weights, dict(model.named_parameters()))
    with torch.no_grad(), mode:
        model(images)
    return {name: Use(bias, mode.normed[name] == mode.calls[name], mode.calls[name])
            for name, bias in mode.biases.items()}


@torch.no_grad()
def statistics(dense: nn.Module, pruned: nn.Module, uses: Mapping[str, Use],
               batches: Iterable[Tensor]) -> dict[str, Statistics]:
    """The statistics of the named weights' inputs in the pruned model, from one pass over batches of images.

    BatchNorms of the pruned model take the batch's own mean and variance, since its running ones are outdated. Both
    models run no further than the last of the weights. `dense` may be `pruned` itself.
    """
    sums: dict[str, Sums] = {}
    for i, images in enumerate(batches):
        clean = _patches(dense, uses, images, i)
        seen = clean
        if pruned is not dense:
            with batch_statistics(pruned):
                seen = _patches(pruned, uses, images, i)
        for name, calls in seen.items():
            for x, x_dense in zip(calls, clean[name], strict=True):
                sums.setdefault(name, Sums()).add(x, x_dense)
    return {name: sums.pop(name).finished(uses[name].free_mean) for name in list(sums)}


class Sums:
    """Of products of a weight's inputs, over batches."""

    def __init__(self) -> None:
        self.totals: list[Tensor] = []
        self.count = 0

    def add(self, x: Tensor, x_dense: Tensor) -> None:
        """(G, samples, columns) each, in the same order; the same tensor twice if there is one model."""
        found = [(x.mT @ x).double(), (x_dense.mT @ x).double() if x_dense is not x else torch.empty(0),
                 x.double().sum(1), x_dense.double().sum(1)]
        self.totals = [a + b for a, b in zip(self.totals, found, strict=True)] if self.totals else found
        self.count += x.shape[1]

    def finished(self, free_mean: bool) -> Statistics:
        """The means; what was added is used up."""
        inputs, cross, mean, dense_mean = (total.div_(self.count) for total in self.totals)
        if free_mean:
            inputs -= mean.unsqueeze(2) * mean.unsqueeze(1)
            if cross.numel():
                cross -= dense_mean.unsqueeze(2) * mean.unsqueeze(1)
        return Statistics(inputs, cross if cross.numel() else inputs, mean, dense_mean)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, a model's BatchNorms normalize with the batch's own mean and variance, and remember nothing."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.train(training)
            norm.momentum = momentum


class Reached(Exception):
    """No error: the pass has gone as far as needed."""


def _patches(model: nn.Module, uses: Mapping[str, Use], images: Tensor, seed: int) -> dict[str, list[Tensor]]:
    """The (G, samples, columns) inputs of each use of each weight."""
    parameters = dict(model.named_parameters())
    mode = Collect({name: parameters[name] for name in uses}, {name: use.calls for name, use in uses.items()}, seed)
    try:
        with mode:
            model(images)
    except Reached:
        pass
    return mode.found


class WeightMode(TorchFunctionMode):
    """Sees every call with one of the named weights, by its identity."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(weight): name for name, weight in weights.items()}

    def named(self, weight: Any) -> str | None:
        return self.names.get(id(weight)) if isinstance(weight, Tensor) else None


class _FindUses(WeightMode):
    def __init__(self, weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.parameters = {id(p): n for n, p in parameters.items()}
        self.biases: dict[str, str | None] = {}
        self.calls: Counter[str] = Counter()
        self.normed: Counter[str] = Counter()
        # By id, and kept, so that no later tensor has the same: (of which weight, the output, its version)
        self.outputs: dict[int, tuple[str, Tensor, int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            known = self.outputs.get(id(args[0] if args else kwargs["input"]))
            if known is not None and known[1]._version == known[2]:  # no ReLU was applied to it in place
                self.normed[known[0]] += 1
        output = func(*args, **kwargs)
        for weight, bias in _pairs(func, args, kwargs):
            name = self.named(weight)
            if name is not None:
                self.biases[name] = self.parameters.get(id(bias))
                self.calls[name] += 1
                if isinstance(output, Tensor):
                    self.outputs[id(output)] = name, output, output._version
        return output


def _pairs(func: Any, args: Any, kwargs: Any) -> list[tuple[Any, Any]]:
    """(weight, bias) of a call; a projection of attention has a bias of several parts, which is left alone."""
    if func in _DIMENSIONS or func is F.linear:
        named = {**dict(zip(_CONV, args, strict=False)), **kwargs}
        return [(named["weight"], named.get("bias"))]
    if func is F.multi_head_attention_forward:
        named = {**dict(zip(_MHA, args, strict=False)), **kwargs}
        separate = [(named.get(f"{part}_proj_weight"), None) for part in "qkv"]
        return [(named["in_proj_weight"], named["in_proj_bias"]), (named["out_proj_weight"], named["out_proj_bias"]),
                *separate]
    return []


class Collect(WeightMode):
    """Takes the inputs of every use of the named weights, and ends the pass at the last."""

    def __init__(self, weights: Mapping[str, Tensor], calls: Mapping[str, int], seed: int) -> None:
        super().__init__(weights)
        self.left, self.seed = Counter(calls), seed
        self.found: dict[str, list[Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DIMENSIONS:
            named = {**dict(zip(_CONV, args, strict=False)), **kwargs}
            self.add(named["weight"], lambda: self.of_convolution(_DIMENSIONS[func], named))
        elif func is F.linear:
            named = {**dict(zip(_CONV, args, strict=False)), **kwargs}
            self.add(named["weight"], lambda: self.of_tokens(named["input"], 0))
        elif func is F.multi_head_attention_forward:
            self.see_attention({**dict(zip(_MHA, args, strict=False)), **kwargs})
        if not self.left.total():
            raise Reached
        return func(*args, **kwargs)

    def add(self, weight: Any, patches: Any) -> None:
        name = self.named(weight)
        if name is not None:
            self.found.setdefault(name, []).append(patches())
            self.left[name] -= 1

    def see_attention(self, named: dict[str, Any]) -> None:
        parts = [named[key] for key in ("query", "key", "value")]
        same = all(part is parts[0] for part in parts)
        self.add(named["in_proj_weight"], lambda: self.of_tokens(parts[0], 1) if same else self.of_parts(parts))
        for part, letter in zip(parts, "qkv", strict=True):
            self.add(named.get(f"{letter}_proj_weight"), lambda part=part: self.of_tokens(part, 1))
        if self.named(named["out_proj_weight"]) is not None:  # what it meets: the output of a projection that is none
            width = named["out_proj_weight"].shape[1]
            none = {"out_proj_weight": torch.eye(width).to(parts[0]), "out_proj_bias": None}
            self.add(named["out_proj_weight"],
                     lambda: self.of_tokens(F.multi_head_attention_forward(**{**named, **none})[0], 1))

    def of_tokens(self, x: Tensor, images: int) -> Tensor:
        """(..., columns) -> (1, samples, columns): POSITIONS of each image; `images` is the images' axis."""
        x = x.movedim(images, 0) if x.ndim > 2 else x
        x = x.reshape(len(x), -1, x.shape[-1])
        if x.shape[1] > POSITIONS:
            x = x[:, self.draw(x.shape[1]).to(x.device)]
        return x.reshape(1, -1, x.shape[-1])

    def of_parts(self, parts: list[Tensor]) -> Tensor:
        """(3, samples, columns): of query, key and value."""
        rows = [self.of_tokens(part, 1) for part in parts]
        count = min(row.shape[1] for row in rows)
        return torch.cat([row[:, :count] for row in rows])

    def draw(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(count, generator=generator)[:POSITIONS]

    def of_convolution(self, dimensions: int, named: dict[str, Any]) -> Tensor:
        """(groups, samples, columns): the patches of POSITIONS outputs of each image."""
        x, weight = named["input"], named["weight"]
        x = x if x.ndim > dimensions + 1 else x.unsqueeze(0)
        stride, dilation = (_each(named.get(key, 1), dimensions) for key in ("stride", "dilation"))
        sizes, groups = weight.shape[2:], named.get("groups", 1)
        x = F.pad(x, _padding(named.get("padding", 0), sizes, dilation))
        places = [(n - d * (k - 1) - 1) // s + 1
                  for n, k, s, d in zip(x.shape[2:], sizes, stride, dilation, strict=True)]
        total = torch.Size(places).numel()
        chosen = torch.unravel_index(self.draw(total) if total > POSITIONS else torch.arange(total), places)
        index: list[Any] = [slice(None), slice(None)]
        for axis, (place, k, s, d) in enumerate(zip(chosen, sizes, stride, dilation, strict=True)):
            shape = [len(place), *(k if a == axis else 1 for a in range(dimensions))]
            at = place.view(-1, *[1] * dimensions) * s + (torch.arange(k) * d).view(1, *shape[1:])
            index.append(at.to(x.device))
        cut = x[tuple(index)]  # (n, channels, places, *sizes)
        n, channels, count = cut.shape[:3]
        cut = cut.reshape(n, groups, channels // groups, count, -1)
        return cut.permute(1, 0, 3, 4, 2).reshape(groups, n * count, -1)


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value) * (dimensions // len(value))


def _padding(value: Any, sizes: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """As F.pad takes it, the last axis first; "same" puts an odd one at the end, as torch does."""
    if value == "valid":
        value = 0
    if value == "same":
        totals = [d * (k - 1) for k, d in zip(sizes, dilation, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(p, p) for p in _each(value, len(sizes))]
    return [side for pair in reversed(pairs) for side in pair]
