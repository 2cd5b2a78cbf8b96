"""What each operator does to the axes of its tensors: one function for each kind, and a table by the names of aten."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mmprune.axes import Axis, Dim, fix, joined, part, regrouped, size, tie

Arguments = Mapping[str, Any]  # by the names of the operator's schema
Dims = list[Dim]
Of = Callable[[Tensor], Dims]
Rule = Callable[[Of, Arguments, Any], "list[Dims] | None"]  # the dimensions of the outputs; None: no such rule


def fresh(sizes: Sequence[int], fixed: bool = False) -> Dims:
    return [(Axis(n, fixed),) for n in sizes]


def tensors_in(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def rule_of(func: Any) -> Rule | None:
    name = func.overloadpacket.__name__
    if name.startswith("_scaled_dot_product"):
        return _attention
    if name in RULES:
        return RULES[name]
    plain = name.removesuffix("_")
    if torch.Tag.pointwise in func.tags or plain in POINTWISE:
        return _pointwise
    return RULES.get(plain)


def _pointwise(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    """Broadcast from the right, each entry for itself."""
    outputs = output if isinstance(output, (list, tuple)) else [output]
    if not all(isinstance(o, Tensor) and o.shape == outputs[0].shape for o in outputs):
        return None
    dims = fresh(outputs[0].shape)
    for tensor in tensors_in(list(given.values())):
        for dim, own in zip(reversed(dims), reversed(of(tensor)), strict=False):
            if size(own) == size(dim):
                tie(dim, own)
    return [dims] * len(outputs)


def _convolution(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    x, w = of(given["input"]), of(given["weight"])
    out = [x[0], *fresh(output.shape[1:], fixed=True)]
    fix(*x[2:], *w[2:])
    outputs, inputs = (w[1], w[0]) if given["transposed"] else (w[0], w[1])
    channels = size(x[1])
    if given["groups"] == 1:
        tie(x[1], inputs)
        out[1] = outputs
    elif given["groups"] == channels and not given["transposed"]:
        out[1] = outputs
        tie(outputs, (*x[1], Axis(size(outputs) // channels)))
    else:
        fix(x[1], *w)
    if given["bias"] is not None:
        tie(out[1], of(given["bias"])[0])
    return [out]


def _product(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    """(..., i, k) @ (..., k, j), plus what is broadcast to the result."""
    factors = [given[n] for n in ("self", "mat", "mat1", "batch1", "mat2", "batch2", "vec") if n in given]
    a, b = (of(f) for f in factors[-2:])
    tie(a[-1], b[max(0, len(b) - 2)])
    for p, q in zip(a[:-2], b[:-2], strict=False):
        tie(p, q)
    out = [*a[:-1], *b[-1:]] if len(b) > 1 else a[:-1]
    if len(factors) == 3:
        for dim, own in zip(reversed(out), reversed(of(factors[0])), strict=False):
            if size(own) == size(dim):
                tie(dim, own)
    return [out]


def _attention(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    """(batch, heads, queries, d), (batch, heads, keys, d), (batch, heads, keys, e) -> (batch, heads, queries, e)"""
    q, k, v = (of(given[n]) for n in ("query", "key", "value"))
    if [size(d) for d in (*q[:-2], q[-1])] != [size(d) for d in (*k[:-2], k[-1])] or size(k[1]) != size(v[1]):
        return None
    for a, b in (*zip(q[:-2], k[:-2], strict=True), *zip(k[:-1], v[:-1], strict=True), (q[-1], k[-1])):
        tie(a, b)
    if given.get("is_causal"):
        fix(q[-2], k[-2])
    bias = given.get("attn_mask", given.get("attn_bias"))
    if bias is not None:
        for dim, own in zip((k[-2], *reversed(q[:-1])), reversed(of(bias)), strict=False):
            if size(own) == size(dim):
                tie(dim, own)
    return [[*q[:-1], v[-1]]]


def _batch_norm(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    x = of(given["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if given.get(name) is not None:
            tie(x[1], of(given[name])[0])
    return [x]


def _layer_norm(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    x = of(given["input"])
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            for dim, own in zip(reversed(x), reversed(of(given[name])), strict=False):
                tie(dim, own)
    return [x]


def _group_norm(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    x = of(given["input"])
    groups = given["group"]
    tie(x[1], (Axis(groups), Axis(size(x[1]) // groups)))
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            tie(x[1], of(given[name])[0])
    return [x]


def _same(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    return [of(tensors_in(list(given.values()))[0])]


def _reduced(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    """A sum over some dimensions does not care for their order."""
    x = of(tensors_in(list(given.values()))[0])
    over = given.get("dim")
    over = [over] if isinstance(over, int) else over or range(len(x))
    gone = {d % len(x) for d in over} if x else set()
    dims = [() if i in gone else dim for i, dim in enumerate(x) if i not in gone or given.get("keepdim")]
    return [dims] * (len(output) if isinstance(output, (list, tuple)) else 1)


def _spatial(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    """Images and channels stay, places do not. Of several outputs the first."""
    x = of(tensors_in(list(given.values()))[0])
    first = output[0] if isinstance(output, tuple) else output
    if len(x) != 4 or first.ndim != 4:
        return None
    fix(*x[2:])
    return [[*x[:2], *fresh(first.shape[2:], fixed=True)]]


def _reshaped(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    x = of(given["self"])
    return [regrouped(x, output.shape)] if output.numel() else None


def _permuted(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    x = of(given["self"])
    return [[x[d] for d in given["dims"]]]


def _transposed(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    x = list(of(given["self"]))
    if x:
        a, b = given.get("dim0", 0), given.get("dim1", len(x) - 1)  # t() names none
        x[a], x[b] = x[b], x[a]
    return [x]


def _expanded(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    dims = fresh(output.shape)
    x = of(given["self"])
    for i, own in enumerate(x, start=len(dims) - len(x)):
        if size(own) == size(dims[i]):
            dims[i] = own
    return [dims]


def _sliced(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    x, d = list(of(given["self"])), given["dim"]
    if given["step"] != 1:
        fix(x[d])
        x[d] = (Axis(output.shape[d], fixed=True),)
        return [x]
    start = min(given["start"] or 0, size(x[d]))
    start += size(x[d]) if start < 0 else 0
    x[d] = part(x[d], max(0, start), max(0, start) + output.shape[d])
    return [x]


def _split(of: Of, given: Arguments, output: Sequence[Tensor]) -> list[Dims] | None:
    x, d = of(given["self"]), given["dim"] % output[0].ndim
    found, start = [], 0
    for piece in output:
        found.append([*x[:d], part(x[d], start, start + piece.shape[d]), *x[d + 1:]])
        start += piece.shape[d]
    return found


def _selected(of: Of, given: Arguments, output: Any) -> list[Dims] | None:
    """select and unbind: one entry each of a dimension, which has a meaning of its own."""
    x = of(given["self"])
    d = given["dim"] % len(x)
    fix(x[d])
    return [[*x[:d], *x[d + 1:]]] * (len(output) if isinstance(output, (list, tuple)) else 1)


def _joined(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    d = given["dim"] % output.ndim
    parts = [of(tensor) for tensor in given["tensors"]]
    if any(len(p) != output.ndim for p in parts):  # torch allows an empty vector among them
        return None
    for p in parts[1:]:
        for i in range(output.ndim):
            if i != d:
                tie(parts[0][i], p[i])
    return [[*parts[0][:d], joined([p[d] for p in parts]), *parts[0][d + 1:]]]


def _padded(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    """Padding's entries are all equal, and free among themselves."""
    dims = list(of(given["self"]))
    for i in range(len(given["pad"]) // 2):
        before, after = given["pad"][2 * i:2 * i + 2]
        at = len(dims) - 1 - i
        if min(before, after) < 0:
            return None
        dims[at] = joined([*fresh([before]), dims[at], *fresh([after])])
    return [dims]


def _rolled(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    if not given["dims"]:
        return None
    fix(*(of(given["self"])[d] for d in given["dims"]))
    return [of(given["self"])]


def _gated(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
    """glu: the first half of a dimension times the sigmoid of the second."""
    x = list(of(given["self"]))
    d = given["dim"]
    half = size(x[d]) // 2
    first, second = part(x[d], 0, half), part(x[d], half, 2 * half)
    tie(first, second)
    x[d] = first
    return [x]


def _made(of: Of, given: Arguments, output: Tensor) -> list[Dims] | None:
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
