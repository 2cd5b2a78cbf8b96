"""Re-parameterizable networks: blocks with parallel branches are merged into one convolution before pruning.

Adding up branches destroys their zeros: the sum of four branches with 60 % zeros each has only 13 % zeros. Therefore
the merged network is pruned, trained and exported. A model merges itself in a method without arguments: fuse() or
reparameterize() in timm, switch_to_deploy() in the original RepVGG code.
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
SAME = 1e-3  # tolerance relative to the largest output, as for a float32 file in exporters/verify.py
SHOWN = 3  # blocks named in a note
# sums and products; a merge that only folds a norm into its neighbour removes none of them
_ARITHMETIC = re.compile(r"_*[ri]?(add|sub|mul|div|sum|cat|stack|matmul|conv\dd|linear)_*")


@dataclass(frozen=True)
class Merged:
    """The network with its branches merged where the output stays the same, and notes for the user."""

    model: nn.Module
    notes: tuple[str, ...]


@dataclass
class _Search:
    """The state of the search through a model's blocks."""

    inputs: dict[str, tuple[Any, Any]]  # the arguments that each block with a merge method was called with
    merged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # blocks that stay unmerged, with the reason
    convolutions: list[str] = field(default_factory=list)  # the convolutions that replace branches
    seen: dict[nn.Module, nn.Module] = field(default_factory=dict)  # the result for a block that is used several times


def merge_branches(model: nn.Module, input_shape: Sequence[int]) -> Merged:
    """A copy with every block of parallel branches merged into one; the model itself if it has no such block.

    model        in eval mode, with its final weights: the merged network is equal for these weights only
    input_shape  (1, C, H, W)
    A block is merged if that removes sums or products and leaves its output the same. If only a norm would be folded,
    the block stays: exporters fold norms anyway, and a network trains better with its norms.
    """
    blocks = {name: module for name, module in model.named_modules() if _method(module)}
    if len(blocks) > 1:
        blocks.pop("", None)  # the model's own method calls those of its blocks
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
        return Merged(model, (f"the branches of {len(search.merged)} blocks are not merged: merging would change the "
                              f"model's output (by {off:.1g} of its largest logit). " + APART,))
    if not search.merged:
        return Merged(model, _notes(search))
    setattr(work, MERGED, tuple(search.convolutions))
    return Merged(work, _notes(search))


APART = "The exporter for mmrt adds the branches up, so its file has fewer zeros than reported"


def _notes(search: _Search) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if search.merged:
        notes = (f"{len(search.merged)} blocks of parallel branches are merged into single convolutions; the merged "
                 "network is pruned, trained and exported for every runtime",)
    if search.refused:
        more = f", ... ({len(search.refused)} in all)" if len(search.refused) > SHOWN else ""
        notes += (f"blocks whose branches are not merged: {', '.join(search.refused[:SHOWN])}{more}. " + APART,)
    return notes


def _method(module: nn.Module) -> str | None:
    """The method by which a module merges its branches, else None; a method that needs arguments does not count."""
    for name in METHODS:
        method = getattr(module, name, None)
        if inspect.isroutine(method):  # and not a layer of that name
            try:
                inspect.signature(method).bind()
            except (TypeError, ValueError):
                continue
            return name
    return None


def _inputs(model: nn.Module, names: set[str], images: Tensor) -> dict[str, tuple[Any, Any]]:
    """The arguments of the first call of each named module when the model runs on the images."""
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
    """A copy of the arguments: a block may modify its inputs in place."""
    return tree_map_only(Tensor, Tensor.clone, values)


def _merge_children(module: nn.Module, path: str, search: _Search) -> None:
    for name, child in list(module._modules.items()):  # named_children() leaves out a module's second use
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
    """The block with its branches merged; None if it has none or they cannot be merged by its method."""
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
        search.refused.append(f"{place} ({method}() changes its output, by {off:.1g} of the largest value)")
        return None
    if after >= before:
        return None
    search.merged.append(place)
    search.convolutions += [".".join(filter(None, (place, name))) for name in _new_convolutions(work, block)]
    return work


def _new_convolutions(merged: nn.Module, block: nn.Module) -> list[str]:
    """The convolutions that absorbed a norm or another branch: they are new, or had no bias before."""
    def biased(whole: nn.Module) -> list[str]:
        return [n for n, m in whole.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None]

    before = biased(block)
    return [name for name in biased(merged) if name not in before]


def _as_trainable(merged: nn.Module, block: nn.Module) -> None:
    """Restore requires_grad of the weights: the usual merge methods freeze them as a side effect."""
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
    """(number of sums and products, output) of the block on these arguments."""
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
