"""What each operator of a forward pass does to the axes of its tensors: which it ties together and which it fixes.

A pass is watched below torch's composite operators (aten), on real tensors, so any model that runs can be followed
and Python's branches are those that were taken. An operator without a rule fixes every axis that it touches.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmprune.axes import Axis, Dim, fix, joined, part, regrouped, size, tie

Arguments = Mapping[str, Any]
Dims = list[Dim]


class Ties(TorchDispatchMode):
    """Follows the operators of a forward pass. Tensors that were not named before it have fixed axes (the image)."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.named = {name: fresh(tensor.shape) for name, tensor in named.items()}
        self._dims = {id(tensor): self.named[name] for name, tensor in named.items()}
        self._alive: list[Tensor] = list(named.values())  # an id may be given again to a later tensor

    def of(self, tensor: Tensor) -> Dims:
        if id(tensor) not in self._dims:
            self._set(tensor, fresh(tensor.shape, fixed=True))
        return self._dims[id(tensor)]

    def _set(self, tensor: Tensor, dims: Dims) -> None:
        self._dims[id(tensor)] = dims
        self._alive.append(tensor)

    def fix_all(self, values: Any) -> None:
        for tensor in _tensors(values):
            fix(*self.of(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {a.name: a.default_value for a in func._schema.arguments}
        given |= dict(zip(given, args, strict=False)) | (kwargs or {})
        rule = _rule(func)
        found = rule(self, given, output) if rule else None
        outputs = output if isinstance(output, (list, tuple)) else [output]
        if found is None:
            self.fix_all(list(given.values()))
            self.fix_all(outputs)
            return output
        for tensor, dims in zip(outputs, [*found, *[None] * (len(outputs) - len(found))], strict=True):
            if isinstance(tensor, Tensor):
                self._note(tensor, fresh(tensor.shape, fixed=True) if dims is None else dims)
        return output

    def _note(self, tensor: Tensor, dims: Dims) -> None:
        if [size(dim) for dim in dims] != list(tensor.shape):
            raise AssertionError(f"axes of sizes {[size(d) for d in dims]} for a tensor of shape {tuple(tensor.shape)}")
        old = self._dims.get(id(tensor))
        if old is not None and len(old) == len(dims):  # written in place
            for a, b in zip(old, dims, strict=True):
                if size(a) == size(b):
                    tie(a, b)
        self._set(tensor, dims)


Rule = Callable[[Ties, Arguments, Any], "list[Dims] | None"]  # the dimensions of the outputs; None: no such rule


def fresh(sizes: Sequence[int], fixed: bool = False) -> Dims:
    return [(Axis(n, fixed),) for n in sizes]


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _rule(func: Any) -> Rule | None:
    name = func.overloadpacket.__name__
    if name.startswith("_scaled_dot_product"):
        return _attention
    if name in RULES:
        return RULES[name]
    plain = name.removesuffix("_")
    if torch.Tag.pointwise in func.tags or plain in POINTWISE:
        return _pointwise
    return RULES.get(plain)


def _pointwise(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    """Broadcast from the right, each entry for itself."""
    outputs = output if isinstance(output, (list, tuple)) else [output]
    if not all(isinstance(o, Tensor) and o.shape == outputs[0].shape for o in outputs):
        return None
    dims = fresh(outputs[0].shape)
    for tensor in _tensors(list(given.values())):
        for dim, own in zip(reversed(dims), reversed(ties.of(tensor)), strict=False):
            if size(own) == size(dim):
                tie(dim, own)
    return [dims] * len(outputs)


def _convolution(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    x, w = ties.of(given["input"]), ties.of(given["weight"])
    out = [x[0], *fresh(output.shape[1:], fixed=True)]
    fix(*x[2:], *w[2:])
    outputs, inputs = (w[1], w[0]) if given["transposed"] else (w[0], w[1])
    channels = size(x[1])
    if given["groups"] == 1:
        tie(x[1], inputs)
        out[1] = outputs
    elif given["groups"] == channels and not given["transposed"]:
        out[1] = outputs
        tie(outputs, (*x[1], *fresh([size(outputs) // channels])[0]))
    else:
        fix(x[1], *w)
    if given["bias"] is not None:
        tie(out[1], ties.of(given["bias"])[0])
    return [out]


def _product(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    """(..., i, k) @ (..., k, j), plus what is broadcast to the result."""
    factors = [given[n] for n in ("self", "mat", "mat1", "batch1", "mat2", "batch2", "vec") if n in given]
    a, b = (ties.of(f) for f in factors[-2:])
    tie(a[-1], b[max(0, len(b) - 2)])
    for p, q in zip(a[:-2], b[:-2], strict=False):
        tie(p, q)
    out = [*a[:-1], *b[-1:]] if len(b) > 1 else a[:-1]
    if len(factors) == 3:
        for dim, own in zip(reversed(out), reversed(ties.of(factors[0])), strict=False):
            if size(own) == size(dim):
                tie(dim, own)
    return [out]


def _attention(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    """(batch, heads, queries, d), (batch, heads, keys, d), (batch, heads, keys, e) -> (batch, heads, queries, e)"""
    q, k, v = (ties.of(given[n]) for n in ("query", "key", "value"))
    if [size(d) for d in (*q[:-2], q[-1])] != [size(d) for d in (*k[:-2], k[-1])] or size(k[1]) != size(v[1]):
        return None
    for a, b in (*zip(q[:-2], k[:-2], strict=True), *zip(k[:-1], v[:-1], strict=True), (q[-1], k[-1])):
        tie(a, b)
    bias = given.get("attn_mask", given.get("attn_bias"))
    if bias is not None:
        for dim, own in zip((k[-2], *reversed(q[:-1])), reversed(ties.of(bias)), strict=False):
            if size(own) == size(dim):
                tie(dim, own)
    return [[*q[:-1], v[-1]]]


def _batch_norm(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    x = ties.of(given["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if given.get(name) is not None:
            tie(x[1], ties.of(given[name])[0])
    return [x]


def _layer_norm(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    x = ties.of(given["input"])
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            for dim, own in zip(reversed(x), reversed(ties.of(given[name])), strict=False):
                tie(dim, own)
    return [x]


def _group_norm(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    x = ties.of(given["input"])
    groups = given["group"]
    tie(x[1], tuple(axis for dim in fresh([groups, size(x[1]) // groups]) for axis in dim))
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            tie(x[1], ties.of(given[name])[0])
    return [x]


def _same(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    return [ties.of(_tensors(list(given.values()))[0])]


def _reduced(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    """A sum over some dimensions does not care for their order."""
    x = ties.of(_tensors(list(given.values()))[0])
    over = given.get("dim")
    over = [over] if isinstance(over, int) else over or range(len(x))
    gone = {d % len(x) for d in over} if x else set()
    dims = [() if i in gone else dim for i, dim in enumerate(x) if i not in gone or given.get("keepdim")]
    return [dims] * (len(output) if isinstance(output, (list, tuple)) else 1)


def _spatial(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    """Images and channels stay, places do not. Of several outputs the first."""
    x = ties.of(_tensors(list(given.values()))[0])
    first = output[0] if isinstance(output, tuple) else output
    if len(x) != 4 or first.ndim != 4:
        return None
    fix(*x[2:])
    return [[*x[:2], *fresh(first.shape[2:], fixed=True)]]


def _reshaped(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    x = ties.of(given["self"])
    return [regrouped(x, output.shape)] if output.numel() else None


def _permuted(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    x = ties.of(given["self"])
    return [[x[d] for d in given["dims"]]]


def _transposed(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    x = list(ties.of(given["self"]))
    if x:
        a, b = given.get("dim0", 0), given.get("dim1", len(x) - 1)  # t() names none
        x[a], x[b] = x[b], x[a]
    return [x]


def _expanded(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    dims = fresh(output.shape)
    x = ties.of(given["self"])
    for i, own in enumerate(x, start=len(dims) - len(x)):
        if size(own) == size(dims[i]):
            dims[i] = own
    return [dims]


def _sliced(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    x, d = list(ties.of(given["self"])), given["dim"]
    if given["step"] != 1:
        fix(x[d])
        x[d] = fresh([output.shape[d]], fixed=True)[0]
        return [x]
    start = min(given["start"] or 0, size(x[d]))
    start += size(x[d]) if start < 0 else 0
    x[d] = part(x[d], max(0, start), max(0, start) + output.shape[d])
    return [x]


def _split(ties: Ties, given: Arguments, output: Sequence[Tensor]) -> list[Dims] | None:
    x, d = ties.of(given["self"]), given["dim"] % output[0].ndim
    found, start = [], 0
    for piece in output:
        found.append([*x[:d], part(x[d], start, start + piece.shape[d]), *x[d + 1:]])
        start += piece.shape[d]
    return found


def _selected(ties: Ties, given: Arguments, output: Any) -> list[Dims] | None:
    """select and unbind: one entry each of a dimension, which has a meaning of its own."""
    x = ties.of(given["self"])
    d = given["dim"] % len(x)
    fix(x[d])
    return [[*x[:d], *x[d + 1:]]] * (len(output) if isinstance(output, (list, tuple)) else 1)


def _joined(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    d = given["dim"] % output.ndim
    parts = [ties.of(tensor) for tensor in given["tensors"]]
    if any(len(p) != output.ndim for p in parts):  # torch allows an empty vector among them
        return None
    for p in parts[1:]:
        for i in range(output.ndim):
            if i != d:
                tie(parts[0][i], p[i])
    return [[*parts[0][:d], joined([p[d] for p in parts]), *parts[0][d + 1:]]]


def _padded(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    """Padding's entries are all equal, and free among themselves."""
    dims = list(ties.of(given["self"]))
    for i in range(len(given["pad"]) // 2):
        before, after = given["pad"][2 * i:2 * i + 2]
        at = len(dims) - 1 - i
        if min(before, after) < 0:
            return None
        dims[at] = joined([*fresh([before]), dims[at], *fresh([after])])
    return [dims]


def _rolled(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    if not given["dims"]:
        return None
    fix(*(ties.of(given["self"])[d] for d in given["dims"]))
    return [ties.of(given["self"])]


def _gated(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    """glu: the first half of a dimension times the sigmoid of the second."""
    x = list(ties.of(given["self"]))
    d = given["dim"]
    half = size(x[d]) // 2
    first, second = part(x[d], 0, half), part(x[d], half, 2 * half)
    tie(first, second)
    x[d] = first
    return [x]


def _made(ties: Ties, given: Arguments, output: Tensor) -> list[Dims] | None:
    """Equal or independent random entries."""
    return [fresh(output.shape)]


POINTWISE = frozenset((
    "hardswish", "silu", "copy", "_to_copy", "clone", "alias", "detach", "lift_fresh", "contiguous", "native_dropout",
    "bernoulli", "normal", "uniform", "fill", "zero", "masked_fill", "celu", "rrelu_with_noise", "_prelu_kernel",
))
_NAMES: dict[Rule, str] = {
    _convolution: "convolution",
    _product: "mm addmm bmm baddbmm mv addmv",
    _batch_norm: "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
                 "_batch_norm_with_update _batch_norm_no_update cudnn_batch_norm miopen_batch_norm",
    _layer_norm: "native_layer_norm _fused_rms_norm",
    _group_norm: "native_group_norm",
    _same: "_softmax _log_softmax _safe_softmax",
    _reduced: "mean sum amax amin var std var_mean std_mean prod logsumexp linalg_vector_norm norm",
    _spatial: "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d "
              "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
              "_upsample_nearest_exact2d reflection_pad2d replication_pad2d",
    _reshaped: "view _unsafe_view _reshape_alias reshape squeeze unsqueeze flatten unflatten",
    _permuted: "permute",
    _transposed: "transpose t",
    _expanded: "expand",
    _sliced: "slice",
    _split: "split split_with_sizes unsafe_split unsafe_split_with_sizes",
    _selected: "select unbind",
    _joined: "cat",
    _padded: "constant_pad_nd",
    _rolled: "roll flip",
    _gated: "glu",
    _made: "zeros ones full empty new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like "
           "empty_strided rand randn rand_like randn_like scalar_tensor",
}
RULES: dict[str, Rule] = {name: rule for rule, names in _NAMES.items() for name in names.split()}
