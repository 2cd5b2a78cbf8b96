"""Replaces weights that are computed from other tensors (normalized, masked, parametrized) by plain weights.

A zero in a tensor that a weight is computed from is not a zero of the weight, so such layers cannot be pruned
directly. The computed weight is kept: the model gives the same outputs as before, and is trained from then on with
plain convolutions and linear layers.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

SHOWN = 3  # names listed in a note
CLOSE = 1e-4  # tolerance relative to the largest output, for float32 sums in another order
PARAMETRIZED = re.compile(r"^(.*\.|)parametrizations\.(\w+)\.original(\d?)$")
Found = Iterator[tuple[str, str]]  # (name of a layer, what is removed from it)


def plain_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state of a model without masks (torch.nn.utils.prune), weight_norm and spectral_norm; and notes on them."""
    plain, masked, normed = dict(state), {}, []
    for key in state:
        stem = key.removesuffix("_orig")
        if stem != key and stem + "_mask" in state:
            masked[stem] = state[key] * state[stem + "_mask"]
            _replace(plain, masked[stem], stem, (key, stem + "_mask"))
        elif (made := _normalized(state, key)) is not None:
            name, value, parts = made
            normed.append(name)
            _replace(plain, value, name, parts)
    notes = []
    if masked:
        zeros = sum(int((v == 0).sum()) for v in masked.values()) / max(1, sum(v.numel() for v in masked.values()))
        notes.append(f"the model was pruned with torch.nn.utils.prune: the masks of {len(masked)} tensors "
                     f"({_some(list(masked))}) are applied; {zeros:.1%} of their values are zero")
    if normed:
        notes.append(f"weight_norm or spectral_norm of {len(normed)} tensors ({_some(normed)}) is computed")
    return plain, tuple(notes)


def _replace(plain: dict[str, Tensor], value: Tensor, name: str, parts: tuple[str, ...]) -> None:
    for part in parts:
        plain.pop(part, None)
    plain[name] = value


def _normalized(state: Mapping[str, Tensor], key: str) -> tuple[str, Tensor, tuple[str, ...]] | None:
    """(name, weight, its parts) if the key is the first part of a normalized weight, in torch's old and new names."""
    found = PARAMETRIZED.match(key)
    base, name = (f"{found[1]}parametrizations.{found[2]}", found[1] + found[2]) if found else ("", "")
    if key.endswith("_g") and (v := key[:-1] + "v") in state:
        return key[:-2], _weight_norm(state[v], state[key]), (key, v)
    if found and found[3] == "0" and (v := f"{base}.original1") in state and f"{base}.original2" not in state:
        return name, _weight_norm(state[v], state[key]), (key, v)
    if found and not found[3] and (u := f"{base}.0._u") in state and (v := f"{base}.0._v") in state:
        return name, _spectral_norm(state[key], state[u], state[v]), (key, u, v)
    stem = key.removesuffix("_orig")
    if stem != key and (u := f"{stem}_u") in state and (v := f"{stem}_v") in state:
        return stem, _spectral_norm(state[key], state[u], state[v]), (key, u, v)
    return None


def _weight_norm(v: Tensor, g: Tensor) -> Tensor:
    """g v / |v|, with the norm over every dimension in which g has size 1."""
    over = [i for i in range(v.dim()) if g.dim() != v.dim() or g.shape[i] == 1]
    return v * (g / (torch.linalg.vector_norm(v, dim=over, keepdim=True) if over else v.abs()))


def _spectral_norm(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """W / (u W v): u is as long as the output, which a transposed convolution has in its second dimension."""
    dim = 0 if weight.shape[0] == u.numel() and weight[0].numel() == v.numel() else 1
    return weight / torch.dot(u, weight.transpose(0, dim).flatten(1) @ v)


def make_plain(model: nn.Module) -> tuple[str, ...]:
    """Remove weight_norm, spectral_norm, torch.nn.utils.prune masks and parametrizations; keep the computed weights.

    The weights must be loaded. Returns notes, also on what could not be removed.
    """
    model.eval()  # in training mode spectral_norm updates its vectors whenever its weight is read
    taken: dict[str, list[str]] = {}
    kept: list[str] = []
    for module_name, module in model.named_modules():
        for leaf, what in [*_hooks(module), *_parametrizations(module)]:
            name = f"{module_name}.{leaf}" if module_name else leaf
            try:
                _take_off(module, leaf, what)
            except (RuntimeError, ValueError, NotImplementedError, TypeError) as err:
                kept.append(f"{name} ({what}: {str(err).splitlines()[0][:100]})")
            else:
                taken.setdefault(what, []).append(name)
    notes = [f"{what} is removed from {len(names)} {'weights' if len(names) > 1 else 'weight'} ({_some(names)}): the "
             "computed weight is pruned and trained as a plain one" for what, names in taken.items()]
    if kept:
        notes.append(f"not pruned, because these computed weights cannot be made plain: {_some(kept)}")
    return tuple(notes)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: sums depend on the number of threads, and weights must have the same bits everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hooks(module: nn.Module) -> Found:
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            yield hook.name, "weight_norm"
        elif isinstance(hook, SpectralNorm):
            yield hook.name, "spectral_norm"
        elif isinstance(hook, prune.BasePruningMethod):
            yield hook._tensor_name, "the mask of torch.nn.utils.prune"


def _parametrizations(module: nn.Module) -> Found:
    if parametrize.is_parametrized(module):
        for leaf, chain in list(module.parametrizations.items()):  # type: ignore[union-attr,operator]
            yield leaf, " and ".join(type(p).__name__.lstrip("_") for p in chain)


def _take_off(module: nn.Module, leaf: str, what: str) -> None:
    if parametrize.is_parametrized(module, leaf):
        chain: Any = module.parametrizations[leaf]  # type: ignore[index]
        trained = any(p.requires_grad for p in chain.parameters())
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
        value = getattr(module, leaf)
        if not isinstance(value, nn.Parameter):  # torch makes it a buffer if it is not computed from a trainable tensor
            del module._buffers[leaf]
            module.register_parameter(leaf, nn.Parameter(value.detach().clone(), requires_grad=trained))
    elif what == "weight_norm":
        remove_weight_norm(module, leaf)
    elif what == "spectral_norm":
        remove_spectral_norm(module, leaf)
    else:
        prune.remove(module, leaf)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def make_convolutions_plain(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[str, ...]:
    """Make plain the convolutions and linear layers that change their weight before use (weight standardization).

    Each is replaced only if a plain layer with the weight that it used gives the same output, and all of them only if
    the model's output for a random image stays the same. Returns notes.
    """
    if not any(map(_may_change, model.modules())):
        return ()
    watch = _Watch(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        first, second = torch.randn(input_shape), torch.randn(input_shape)
        expected = model(second)
        with watch:
            model(first)
        watch.end()
        if not watch.plain:
            return ()
        for name, layer in watch.plain.items():
            _put(model, name, layer)
        if not _equal(model(second), expected):
            for name, layer in watch.found.items():
                _put(model, name, layer)
            return ()
    kinds = ", ".join(sorted({type(watch.found[n]).__name__ for n in watch.plain}))
    return (f"{len(watch.plain)} layers ({kinds}) change their weights before use: they are replaced by plain layers "
            "with the changed weights, which are pruned and trained",)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= CLOSE * b.abs().max().clamp(min=1e-6))


class _Watch(TorchFunctionMode):
    """Records the weight that each subclass of Conv or Linear really used, and makes the equal plain layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        owners = Counter(id(p) for m in model.modules() for p in m._parameters.values())
        self.found = {n: m for n, m in model.named_modules() if n and _may_change(m) and owners[id(m.weight)] == 1}
        self.plain: dict[str, nn.Module] = {}
        self.used: list[Tensor] = []
        self.hooks = [h for n, m in self.found.items() for h in
                      (m.register_forward_pre_hook(self._begin), m.register_forward_hook(self._make(n)))]

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.conv1d, F.conv2d, F.conv3d, F.linear):
            self.used.append(kwargs["weight"] if "weight" in kwargs else args[1])
        return func(*args, **kwargs)

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self.used = []

    def _make(self, name: str) -> Any:
        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            used = self.used
            if len(used) != 1 or used[0] is module.weight or used[0].shape != module.weight.shape or len(inputs) != 1:
                return
            for layer in _plain_layers(module, used[0]):
                if name not in self.plain and _equal(layer(inputs[0]), output):
                    self.plain[name] = layer
        return after


def _may_change(module: nn.Module) -> bool:
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return isinstance(module, plain) and type(module) not in plain and isinstance(module.weight, nn.Parameter)


def _plain_layers(module: Any, weight: Tensor) -> Iterator[nn.Module]:
    """Plain layers with the module's settings and this weight; for convolutions also one with TensorFlow's padding."""
    kinds: list[Any] = [k for k in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear) if isinstance(module, k)]
    for kind in [*kinds, *([Conv2dSame] if kinds == [nn.Conv2d] else [])]:
        bias = module.bias is not None
        if kind is nn.Linear:
            layer = kind(module.in_features, module.out_features, bias)
        else:
            padding = {} if kind is Conv2dSame else {"padding": module.padding, "padding_mode": module.padding_mode}
            layer = kind(module.in_channels, module.out_channels, module.kernel_size, stride=module.stride,
                         dilation=module.dilation, groups=module.groups, bias=bias, **padding)
        layer.weight.data.copy_(weight)
        layer.weight.requires_grad_(module.weight.requires_grad)
        if bias:
            layer.bias.data.copy_(module.bias)
            layer.bias.requires_grad_(module.bias.requires_grad)
        layer.train(module.training)
        yield layer
