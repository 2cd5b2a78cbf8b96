"""Follows the axes of all tensors through a forward pass: which are tied together, and which must stay in order.

A pass is watched below torch's composite operators (aten), on real tensors, so any model that runs can be followed
and Python's branches are those that were taken. An operator without a rule fixes every axis that it touches.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmprune.axes import fix, size, tie
from mmprune.axis_rules import Dims, fresh, rule_of, tensors_in


class Ties(TorchDispatchMode):
    """Follows the operators of a forward pass. Tensors that were not named before it have fixed axes (the image)."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
        for tensor in tensors_in(values):
            fix(*self.of(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {a.name: a.default_value for a in func._schema.arguments}
        given |= dict(zip(given, args, strict=False)) | (kwargs or {})
        rule = rule_of(func)
        found = rule(self.of, given, output) if rule else None
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
