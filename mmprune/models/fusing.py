"""Re-parameterizable networks: blocks that train as parallel branches and run as one convolution become it at once.

Masks on branches are lost where the branches are added up: four branches with 60 % zeros each leave 13 % of them. So
the merged network is what is pruned, trained and exported. A model says how to merge in a method without arguments:
fuse() or reparameterize() as timm has them, switch_to_deploy() as RepVGG's authors do.
"""

import copy
import inspect
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mmprune.norms import MERGED

METHODS = ("fuse", "reparameterize", "switch_to_deploy")
SAME = 1e-3  # of the largest output, as exporters/verify.py lets a float32 file differ
SHOWN = 3  # blocks in a note
# sums and products; what only folds a norm into its neighbour makes none of them go
_ARITHMETIC = re.compile(r"_*[ri]?(add|sub|mul|div|sum|cat|stack|matmul|conv\dd|linear)_*")


@dataclass(frozen=True)
class Merged:
    """The network with its branches merged where that is proved to answer the same, and notes for the user."""

    model: nn.Module
    notes: tuple[str, ...]


@dataclass
class _Search:
    """What is known of the blocks while they are gone through."""

    inputs: dict[str, tuple[Any, Any]]  # of each block that offers to merge: what it was called with
    merged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # with the reason
    convolutions: list[str] = field(default_factory=list)  # that the branches became
    seen: dict[nn.Module, nn.Module] = field(default_factory=dict)  # what became of a block, for its next place


def merge_branches(model: nn.Module, input_shape: Sequence[int]) -> Merged:
    """A copy with every block of parallel branches as one; the model itself where there is none.

    model        in eval mode, with its weights: the merged network is equal for these weights only
    input_shape  (1, C, H, W)
    A block is merged where that spares sums or products and it answers the same. Where only a norm would be folded it
    stays: an exporter folds it anyway, and a network trains better with its norms.
    """
    blocks = {name: module for name, module in model.named_modules() if _method(module)}
    if len(blocks) > 1:
        blocks.pop("", None)  # the whole model's own method calls those of its blocks
    if not blocks:
        return Merged(model, ())
    work = copy.deepcopy(model)
    images = torch.randn(1, *input_shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        search = _Search(_inputs(work, set(blocks), images))
        whole = _merged(work, "", search) if "" in blocks else None
        work = work if whole is None else whole
        _merge_children(work, "", search)
        off = _difference(work(images), model(images)) if search.merged else 0.0
    if not off <= SAME:
        return Merged(model, (f"the branches of {len(search.merged)} blocks stay apart: merged, the model would answer "
                              f"otherwise (by {off:.1g} of its largest logit). " + APART,))
    if not search.merged:
        return Merged(model, _notes(search))
    setattr(work, MERGED, tuple(search.convolutions))
    return Merged(work, _notes(search))


APART = "mmrt adds them up when it makes its file, so that it has fewer zeros than are reported"


def _notes(search: _Search) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if search.merged:
        notes = (f"{len(search.merged)} blocks of parallel branches are merged into what they run as: that network is "
                 "pruned, trained and exported, for every runtime",)
    if search.refused:
        more = f", ... ({len(search.refused)} in all)" if len(search.refused) > SHOWN else ""
        notes += (f"blocks whose branches stay apart: {', '.join(search.refused[:SHOWN])}{more}. " + APART,)
    return notes


def _method(module: nn.Module) -> str | None:
    """The method by which a module merges its branches; None for one that takes arguments and so is another thing."""
    for name in METHODS:
        method = getattr(module, name, None)
        if inspect.isroutine(method):  # and no layer of that name
            try:
                inspect.signature(method).bind()
            except (TypeError, ValueError):
                continue
            return name
    return None


def _inputs(model: nn.Module, names: set[str], images: Tensor) -> dict[str, tuple[Any, Any]]:
    """What each named module is first called with when the model sees the images."""
    found: dict[str, tuple[Any, Any]] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            found.setdefault(name, _copied((args, kwargs)))
        return hook

    hooks = [module.register_forward_pre_hook(keep(name), with_kwargs=True)
             for name, module in model.named_modules() if name in names]
    model(images)
    for hook in hooks:
        hook.remove()
    return found


def _copied(values: Any) -> Any:
    """A block may write into what it is given."""
    return tree_map_only(Tensor, Tensor.clone, values)


def _merge_children(module: nn.Module, path: str, search: _Search) -> None:
    for name, child in list(module._modules.items()):  # named_children() leaves out a second place
        if child is None:
            continue
        place = f"{path}.{name}" if path else name
        if child not in search.seen:
            merged = _merged(child, place, search) if place in search.inputs else None
            search.seen[child] = child if merged is None else merged
        known = search.seen[child]
        if known is not child:
            setattr(module, name, known)
        _merge_children(known, place, search)


def _merged(block: nn.Module, place: str, search: _Search) -> nn.Module | None:
    """The block with its branches merged; None where they are not, or not by this method."""
    method = _method(block)
    assert method is not None
    work = copy.deepcopy(block)
    try:
        returned = getattr(work, method)()
        work = returned if isinstance(returned, nn.Module) else work
        _as_trainable(work, block)
        work.eval()
        before, expected = _run(block, search.inputs[place])
        after, got = _run(work, search.inputs[place])
        off = _difference(got, expected)
    except Exception as err:  # whatever the model's own code raises
        search.refused.append(f"{place} ({method}() fails: {type(err).__name__}: {str(err)[:100]})")
        return None
    if not off <= SAME:
        search.refused.append(f"{place} (after {method}() it answers otherwise, by {off:.1g} of the largest value)")
        return None
    if after >= before:
        return None
    search.merged.append(place)
    search.convolutions += [".".join(filter(None, (place, name))) for name in _new_convolutions(work, block)]
    return work


def _new_convolutions(merged: nn.Module, block: nn.Module) -> list[str]:
    """The convolutions that took in a norm or another branch: they were not there, or had no bias."""
    def biased(whole: nn.Module) -> list[str]:
        return [n for n, m in whole.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None]

    before = biased(block)
    return [name for name in biased(merged) if name not in before]


def _as_trainable(merged: nn.Module, block: nn.Module) -> None:
    """Weights can be trained as they could before: the usual code of such methods freezes them in passing."""
    before = {name: weight.requires_grad for name, weight in block.named_parameters()}
    for name, weight in merged.named_parameters():
        weight.requires_grad_(before.get(name, any(before.values())))


class _Count(TorchFunctionMode):
    """Counts sums and products."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _ARITHMETIC.fullmatch(getattr(func, "__name__", "")):
            self.calls[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def _run(block: nn.Module, given: tuple[Any, Any]) -> tuple[int, Any]:
    """How many sums and products, and the output."""
    args, kwargs = _copied(given)
    torch.manual_seed(0)
    with _Count() as count:
        output = block(*args, **kwargs)
    return count.calls.total(), output


def _difference(got: Any, expected: Any) -> float:
    """max |difference| as a fraction of the largest |value|, over all tensors of an output; inf where shapes differ."""
    pairs = list(zip(_tensors(got), _tensors(expected), strict=False))
    if len(pairs) != len(_tensors(expected)) or any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    largest = max((float(b.abs().max()) for _, b in pairs), default=0.0)
    off = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
    return off / largest if largest else off


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.numel()]
