"""Input channels in an order that suits blocks of four: weights that can be zeroed together stand together.

Where channels may trade places (chains), the producers' outputs and the readers' inputs are renamed, so the dense model
computes the same function and only the masks of block-1x4 and 2:4 lose less. Swapping channels to keep more in blocks:
Ji et al., TETRIS (NeurIPS 2018); for 2:4: Pool and Yu, Channel Permutations for N:M Sparsity (NeurIPS 2021).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprune.chains import Found
from mmprune.patterns import ALIGNED, BLOCK, ZEROS, check_pattern
from mmprune.reconstruct import Plan
from mmprune.renaming import Order, order_of, rename

ROUNDS = 400
LAST = 48  # rounds that must have given WORTHWHILE; a round sees a sixteenth of all pairs, these 95 %
WORTHWHILE = 0.01  # of all that was gained, or the search ends
WORK = 6e9  # differences computed for a chain at most; this bounds the time for wide layers
SMALLEST = 1e-7  # gain of a swap, as a share of a layer's score; below are rounding errors
IMAGES = 8
TOLERANCE = 1e-3  # of the largest answer: what single precision and sums in another order may change


@dataclass(frozen=True)
class Permuted:
    """A model that answers as the original.

    order  what was renamed, for tensors that belong to the original's weights (renaming.renamed)
    notes  what the user should know
    """

    model: nn.Module
    order: Order
    notes: tuple[str, ...]


def permuted(model: nn.Module, input_shape: tuple[int, ...], plan: Plan, scores: Mapping[str, Tensor],
             found: Found) -> Permuted:
    """A copy of the model with its channels renamed so that masks of the plan's pattern keep more of the score.

    input_shape  (1, C, H, W)
    plan         its masks are not looked at
    scores       layer -> not negative, of the weight's shape; what masks are made from, or the weights' energies
    found        the model's chains
    The same input gives the same order. ValueError for an unknown pattern.
    """
    pattern = check_pattern(plan.pattern)
    copied = copy.deepcopy(model)
    if pattern not in ALIGNED:
        return Permuted(copied, {}, ())
    zeros = {n: ZEROS[pattern](scores[n].shape, s, plan.kinds[n]) for n, s in plan.sparsity.items()}
    readers = {n: _Reader(scores[n], count, pattern) for n, count in zeros.items() if count}
    generator = np.random.default_rng(0)
    pairs = []
    for chain in found.chains:
        ends = [end for n in readers if (n, 1) in chain.places and (end := readers[n].end(chain.places[n, 1]))]
        if ends:
            pairs.append((chain, _search(ends, len(chain), generator)))
    order = order_of(pairs, {n: t.shape for n, t in (*model.named_parameters(), *model.named_buffers())})
    rename(copied, order)
    difference = _difference(model, copied, input_shape)
    if not difference <= TOLERANCE:
        way = f"with channels renamed the answers differ by {difference:.1e} of the largest; they stay in place"
        return Permuted(copy.deepcopy(model), {}, (way,))
    return Permuted(copied, order, ())


@torch.no_grad()
def _difference(model: nn.Module, copied: nn.Module, input_shape: tuple[int, ...]) -> float:
    """The largest difference of answers on random images, as a share of the largest answer."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = torch.randn((IMAGES, *input_shape[1:]), generator=torch.Generator().manual_seed(0)).to(device)
    answers = []
    for each in (model, copied):
        training = each.training
        answers.append(each.eval()(images))
        each.train(training)
    return float((answers[0] - answers[1]).abs().max() / answers[0].abs().max())


class _Reader:
    """A layer's scores while the order of its inputs is searched.

    columns  (blocks * 4, rows): a row for each output and kernel position; their sum is 1
    """

    def __init__(self, score: Tensor, zeros: int, pattern: str) -> None:
        inputs = score.shape[1]
        columns = score.detach().float().cpu().movedim(1, 0).reshape(inputs, -1)
        columns = columns / columns.sum().clamp(min=torch.finfo(torch.float32).tiny)
        self.columns = F.pad(columns, (0, 0, 0, -inputs % BLOCK))
        self.widths = F.pad(torch.ones(inputs), (0, -inputs % BLOCK)).view(-1, BLOCK).sum(1)
        self.zeroed = zeros // BLOCK if pattern == "block-1x4" else 0

    def end(self, places: np.ndarray) -> "_End | None":
        """None where a block holds a channel twice, or channels of two heads: then no swap can be told by itself."""
        blocks = places // BLOCK
        together = np.unique(np.concatenate([np.unique(column) for column in blocks.T]), return_counts=True)[1]
        return None if (together > 1).any() else _End(self, torch.tensor(places))

    def blocks(self) -> Tensor:
        return self.columns.view(len(self.widths), BLOCK, -1)

    def cut(self, sums: Tensor) -> Tensor:
        """(blocks, 1): the score of the best block that is zeroed, for each width."""
        means = sums / self.widths[:, None]
        return means.flatten().kthvalue(self.zeroed).values * self.widths[:, None]


@dataclass(frozen=True)
class _End:
    """A reader's columns that belong to a chain: places (n, m) in it."""

    reader: _Reader
    places: Tensor

    def distances(self, slots: Tensor) -> Tensor:
        """(slots, slots): twice what the pattern keeps of block g with channel c for its own, up to terms of g or c.

        In each row a block's other three weights leave a threshold u to the fourth, v, and max(u, v) is kept: of
        block-1x4 max(0, rest + v - cut), of 2:4 the best two. The sum of 2 max(u, v) is that of u + v + |u - v|.
        """
        found = torch.zeros(len(slots), len(slots))
        blocks = self.reader.blocks()
        sums = blocks.sum(1)
        cut = self.reader.cut(sums) if self.reader.zeroed else None
        for places in self.places[slots].T:
            own = self.reader.columns[places]
            at = places // BLOCK
            if cut is not None:
                threshold = cut[at] - (sums[at] - own)
            else:
                others = [blocks[at, (places + i) % BLOCK] for i in (1, 2, 3)]
                threshold = torch.stack(others).median(dim=0).values
            found += torch.cdist(threshold, own, p=1)
        return found

    def swap(self, a: Tensor, b: Tensor) -> None:
        for p, q in zip(self.places[a].T, self.places[b].T, strict=True):
            self.reader.columns[torch.cat([p, q])] = self.reader.columns[torch.cat([q, p])]


def _search(ends: Sequence[_End], count: int, generator: np.random.Generator) -> np.ndarray:
    """The best order found: new[i] is the channel that comes to stand where i stood. Readers' columns follow.

    Each round takes one random channel of every block and swaps those pairs of them that are each other's best where
    the layers together keep more. It ends when a window of rounds gains next to nothing, or its work is done.
    """
    partition = _partition(ends)
    order = torch.arange(count)
    gains: list[float] = []
    cost = sum(end.places.numel() * end.reader.columns.shape[1] for end in ends) * count / BLOCK ** 2
    while len(gains) < min(ROUNDS, max(1, WORK / cost)):
        slots = torch.from_numpy(_apart(partition, generator))
        found = sum((end.distances(slots) for end in ends), torch.zeros(()))
        own = found.diagonal()
        gain = (found + found.T - own[:, None] - own) / 2
        left, right = _pairs(gain)
        a, b = slots[left], slots[right]
        for end in ends:
            end.swap(a, b)
        order[torch.cat([a, b])] = order[torch.cat([b, a])]
        gains.append(float(gain[left, right].sum()))
        if len(gains) >= LAST and sum(gains[-LAST:]) <= WORTHWHILE * sum(gains):
            break
    return order.numpy()


def _pairs(gain: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (a < b) that are each other's best swap and gain: none meets another, and the best of all is among them."""
    best = gain.argmax(dim=1)
    each = torch.arange(len(gain))
    mutual = (best[best] == each) & (each < best) & (gain[each, best] > SMALLEST)
    return each[mutual], best[mutual]


def _partition(ends: Sequence[_End]) -> np.ndarray:
    """(n, different ways to put the channels into blocks): block numbers."""
    ways = np.concatenate([(end.places // BLOCK).numpy() for end in ends], axis=1)
    firsts = [np.unique(way, return_index=True, return_inverse=True)[1:] for way in ways.T]
    return np.unique(np.stack([first[inverse] for first, inverse in firsts], axis=1), axis=1)


def _apart(partition: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random channels of which no two share a block, as many as there is room for."""
    mixed = generator.permutation(len(partition))
    if partition.shape[1] == 1:
        return mixed[np.unique(partition[mixed, 0], return_index=True)[1]]
    taken = np.zeros(partition.shape[::-1], bool)
    ways = np.arange(partition.shape[1])
    chosen = []
    for channel in mixed:
        if not taken[ways, partition[channel]].any():
            taken[ways, partition[channel]] = True
            chosen.append(channel)
    return np.array(chosen)
