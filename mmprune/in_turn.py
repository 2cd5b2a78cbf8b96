"""Statistics of layer after layer while the layers before it are pruned, from one pass over the images where that fits.

All batches run side by side, each in a thread of its own, one at a time, and wait at every weight until it has been
pruned. What waits is a batch's activations; early layers that hold too much of them get passes of their own, from the
images on.
"""

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from threading import Semaphore, Thread
from typing import Any

import torch
from torch import Tensor, nn

from mmprune.inputs import Collect, Reached, Statistics, Sums, Use, WeightMode, batch_statistics, statistics

ROOM = 2**31  # bytes of activations that may wait, of all batches in both models


def statistics_in_turn(dense: nn.Module, pruned: nn.Module, uses: Mapping[str, Use], batches: Sequence[Tensor],
                       together: int = 1) -> Iterator[tuple[str, Statistics]]:
    """(name, statistics) of each weight in the order of execution, as inputs.statistics has them.

    The weight may be changed in `pruned` before the next one is asked for, which then meets what comes of it.
    together  how many layers share a pass where they cannot wait
    """
    names = list(uses)
    held = waiting_bytes(dense, {n: p for n, p in dense.named_parameters() if n in uses}, batches[0])
    fits = [uses[n].calls == 1 and 2 * len(batches) * held.get(n, ROOM) <= ROOM for n in names]
    first = next((i + 1 for i in reversed(range(len(names))) if not fits[i]), 0)
    done = 0
    for i in range(0, first, together):
        group = {n: uses[n] for n in names[i:min(i + together, first)]}
        for found in statistics(dense, pruned, group, batches).items():
            yield found
            done += 1
    for found in _walk(dense, pruned, {n: uses[n] for n in names[first:]}, batches):
        yield found
        done += 1
    for name in names[done:]:  # batches that do not meet the weights in one order
        yield from statistics(dense, pruned, {name: uses[name]}, batches).items()


@torch.no_grad()
def _walk(dense: nn.Module, pruned: nn.Module, uses: Mapping[str, Use],
          batches: Sequence[Tensor]) -> Iterator[tuple[str, Statistics]]:
    """Ends early where a batch meets another weight than it should."""
    with batch_statistics(pruned):  # copied with the model
        pairs = [[_Pass(model, uses, images, i) for model in (dense, pruned)] for i, images in enumerate(batches)]
    passes = [one for pair in pairs for one in pair]
    try:
        for name, use in uses.items():
            sums = Sums()
            for pair in pairs:
                met = [one.go_on() for one in pair]
                if any(where != name for where, _ in met):
                    return
                (_, clean), (_, seen) = met
                sums.add(seen, clean)
            yield name, sums.finished(use.free_mean)
    finally:
        for one in passes:
            one.end()


class _Pass(Collect):
    """A forward pass of one batch, in a thread of its own, that waits at each of the weights."""

    def __init__(self, model: nn.Module, uses: Mapping[str, Use], images: Tensor, seed: int) -> None:
        parameters = dict(model.named_parameters())
        super().__init__({name: parameters[name] for name in uses}, dict.fromkeys(uses, 1), seed)
        tensors = [*parameters.values(), *model.buffers()]
        # What a module remembers of a pass is this pass's own; weights are shared
        self.model, self.images = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}), images
        self.going, self.waiting = Semaphore(0), Semaphore(0)
        self.ended = False
        self.error: BaseException | None = None
        self.thread = Thread(target=self._run, daemon=True)

    def go_on(self) -> tuple[str, Tensor]:
        """Run to the next weight: (its name, its inputs); ("", no tensor) after the last."""
        if not self.thread.is_alive():
            self.thread.start()
        self.going.release()
        self.waiting.acquire()
        if self.error is not None:
            raise self.error
        if not self.found:
            return "", torch.empty(0)
        name, (x,) = self.found.popitem()
        return name, x

    def end(self) -> None:
        """Leave the pass where it is."""
        self.ended = True
        if self.thread.is_alive():
            self.going.release()
            self.thread.join()

    def _run(self) -> None:
        self.going.acquire()
        try:
            with torch.no_grad(), self:
                self.model(self.images)
        except Reached:
            pass
        except BaseException as err:
            self.error = err
        self.waiting.release()

    def add(self, weight: Any, patches: Any) -> None:
        super().add(weight, patches)
        if self.found:
            self.waiting.release()
            self.going.acquire()
        if self.ended:
            raise Reached


@torch.no_grad()
def waiting_bytes(model: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> dict[str, int]:
    """The bytes of all activations that are alive when each of the named weights is used first."""
    mode = _Alive(weights)
    with mode:
        model(images)
    return mode.found


class _Alive(WeightMode):
    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.outputs: list[weakref.ref[Tensor]] = []
        self.found: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for name in filter(None, map(self.named, (*args, *kwargs.values()))):
            self.found.setdefault(name, self.bytes())
        output = func(*args, **kwargs)
        several = output if isinstance(output, tuple | list) else (output,)
        self.outputs += [weakref.ref(value) for value in several if isinstance(value, Tensor)]
        return output

    def bytes(self) -> int:
        self.outputs = [ref for ref in self.outputs if ref() is not None]
        storages = [tensor.untyped_storage() for ref in self.outputs if (tensor := ref()) is not None]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
