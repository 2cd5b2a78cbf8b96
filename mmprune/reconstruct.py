"""Pruning without a gradient step: layer after layer, the dense model's answers from fewer weights.

Sequential and asymmetric: a layer's inputs x come from the model whose earlier layers are pruned already, its targets
from the dense one, so that each layer makes up for the errors before it. With H = E[x x^T] + damping and
T = w (E[x_d x^T] + damping) a layer's best dense row is T H^-1; exact optimal brain surgery (mmprune/obs.py) picks the
blocks that go, and the kept ones solve H_MM w_M = T_M. (Layer after layer and the asymmetric target: Frantar and
Alistarh, OBC, NeurIPS 2022; Li et al., GPTAQ, ICML 2025.)
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from mmprune.admm import LEVELS, admm_trace
from mmprune.finetune import Split
from mmprune.in_turn import statistics_in_turn
from mmprune.inputs import Statistics, columns_of, find_uses, statistics, weight_of
from mmprune.obs import Trace, damped, trace
from mmprune.patterns import PATTERNS, SHAPES, ZEROS, Shape
from mmprune.repair import EXACT, repair

IMAGES, BATCH = 1024, 64
MEMORY = 2**30  # bytes of statistics at a time
FEWEST = 4  # passes, however long they take
PASSES = 1e13  # multiply-accumulates of all passes over the images together; layers share passes where that is needed


@dataclass(frozen=True)
class Plan:
    """What to prune: sparsities by weight name, and how; masks that are given are only repaired."""

    sparsity: dict[str, float]
    pattern: str
    kinds: Mapping[str, str]  # Layer.kind by weight name
    masks: Mapping[str, Tensor] | None = None


@torch.no_grad()
def reconstruct(dense: nn.Module, plan: Plan, batches: Sequence[Tensor], macs: int = 0,
                tick: Callable[[int, int], None] = lambda done, total: None) -> tuple[nn.Module, dict[str, Tensor]]:
    """(a pruned copy of the dense model, its masks).

    batches  of normalized training images, on the model's device
    macs     multiply-accumulates for one image; decides how many layers share a pass
    BatchNorm's running statistics are left as they are, and belong to the dense model.
    """
    pruned = copy.deepcopy(dense).eval()
    weights = dict(pruned.named_parameters())
    uses = find_uses(dense, {n: p for n, p in dense.named_parameters() if n in plan.sparsity}, batches[0][:2])
    todo = [name for name in uses if _is_pruned(name, weights[name], plan)]
    masks = {name: torch.ones_like(weights[name], dtype=torch.bool) for name in plan.sparsity}
    images = sum(map(len, batches))
    together = -(-len(todo) // max(FEWEST, int(PASSES / max(1, images * macs)))) or 1
    in_turn = statistics_in_turn(dense, pruned, {n: uses[n] for n in todo}, batches, together)
    for done, (name, found) in enumerate(in_turn):
        given = plan.masks[name] if plan.masks else None
        masks[name] = _prune(name, weights, uses[name].bias, found, plan, given)
        tick(done + 1, len(todo))
    return pruned, masks


@torch.no_grad()
def surgery_scores(dense: nn.Module, plan: Plan, batches: Sequence[Tensor],
                   tick: Callable[[int, int], None] = lambda done, total: None,
                   see: Callable[[str, Statistics, Tensor], None] = lambda name, seen, scores: None
                   ) -> dict[str, Tensor]:
    """Of every weight of the plan, what its removal costs its layer alone, in the dense model: (out, in, ...) float32.

    see  called with each weight's statistics and scores; the means of its outputs count where no BatchNorm follows
    Weights that the pattern never removes have their magnitude. The plan's sparsities and masks are not looked at.
    """
    weights = {n: p for n, p in dense.named_parameters() if n in plan.sparsity}
    uses = {n: replace(use, bias=None) for n, use in find_uses(dense, weights, batches[0][:2]).items()}
    todo = [n for n in uses if ZEROS[plan.pattern](weights[n].shape, 0.5, plan.kinds[n]) > 0]
    found = {name: weight.detach().abs() for name, weight in weights.items()}
    done = 0
    for group in _in_memory(todo, weights):
        for name, seen in statistics(dense, dense, {n: uses[n] for n in group}, batches).items():
            rows = np.split(columns_of(weights[name]).double().cpu().numpy(), len(seen.inputs))
            each = [scores_of(w, damped(h), SHAPES[plan.pattern], weights[name])
                    for w, h in zip(rows, seen.inputs.cpu().numpy(), strict=True)]
            found[name] = weight_of(torch.from_numpy(np.concatenate(each)).to(weights[name]), weights[name].shape)
            see(name, seen, found[name])
            done += 1
            tick(done, len(todo))
    return found


@torch.no_grad()
def energies(dense: nn.Module, names: Sequence[str], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """w^2 E[x^2] of every named weight in the dense model, without the mean of x where that does not count: (out, in,
    ...) float32. Weights that are not used have w^2."""
    weights = {n: p.detach() for n, p in dense.named_parameters() if n in names}
    uses = find_uses(dense, weights, batches[0][:2])
    found = {name: weight.square() for name, weight in weights.items()}
    for group in _in_memory(list(uses), weights):
        for name, seen in statistics(dense, dense, {n: uses[n] for n in group}, batches).items():
            rows = columns_of(found[name]).chunk(len(seen.inputs))
            scaled = [w * h.diagonal().clamp(min=0).to(w) for w, h in zip(rows, seen.inputs, strict=True)]
            found[name] = weight_of(torch.cat(scaled), weights[name].shape)
    return found


def _in_memory(names: Sequence[str], weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Groups of consecutive layers whose statistics take at most MEMORY bytes together, or of one layer."""
    groups: list[list[str]] = []
    room = 0
    for name in names:
        size = 8 * (weights[name][0].numel()) ** 2
        if not groups or size > room:
            groups.append([])
            room = MEMORY
        groups[-1].append(name)
        room -= size
    return groups


def calibration_batches(train: Split, seed: int, device: str = "cpu", count: int = IMAGES) -> list[Tensor]:
    """The first `count` training images as they are shuffled with the seed, augmented, in batches of one size.

    Augmented, because BatchNorm's statistics are renewed from such images in the end (finetune.recalibrate).
    """
    batches: list[Tensor] = []
    for images, _ in train.batches(BATCH, seed=seed, augment=True):
        if batches and (len(images) < len(batches[0]) or len(batches) * len(batches[0]) >= count):
            break  # BatchNorms take a batch's own statistics: a short one's are poor
        batches.append(images.to(device))
    return batches


def _is_pruned(name: str, weight: Tensor, plan: Plan) -> bool:
    if plan.masks is not None:
        return not bool(plan.masks[name].all())
    return ZEROS[plan.pattern](weight.shape, plan.sparsity[name], plan.kinds[name]) > 0


def _prune(name: str, weights: dict[str, nn.Parameter], bias: str | None, found: Statistics, plan: Plan,
           given: Tensor | None) -> Tensor:
    """Prune one weight of the model in place, and correct its bias; returns the mask."""
    weight = weights[name]
    old = columns_of(weight.detach()).double().cpu().numpy()
    groups = len(found.inputs)
    hessians = [damped(h) for h in found.inputs.cpu().numpy()]
    raised = [h - plain for h, plain in zip(hessians, found.inputs.cpu().numpy(), strict=True)]
    targets = [w @ (c + r) for w, c, r in zip(np.split(old, groups), found.cross.cpu().numpy(), raised, strict=True)]
    best = [np.linalg.solve(h, t.T).T for h, t in zip(hessians, targets, strict=True)]
    if given is None:
        shape = SHAPES[plan.pattern]
        levels = (plan.sparsity[name],)
        scores = np.concatenate([scores_of(w, h, shape, weight, levels) for w, h in zip(best, hessians, strict=True)])
        kept = PATTERNS[plan.pattern](weight_of(torch.from_numpy(scores), weight.shape), plan.sparsity[name],
                                      plan.kinds[name])
    else:
        kept = given.cpu()
    masks = np.split(columns_of(kept).numpy(), groups)
    new = np.concatenate([repair(b, h, m, weight) for b, h, m in zip(best, hessians, masks, strict=True)])
    weight.copy_(weight_of(torch.from_numpy(new).to(weight), weight.shape))
    if bias is not None:
        shift = [a @ dense_mean - b @ mean for a, b, dense_mean, mean in zip(
            np.split(old, groups), np.split(new, groups), found.dense_mean.cpu().numpy(), found.mean.cpu().numpy(),
            strict=True)]
        weights[bias].add_(torch.from_numpy(np.concatenate(shift)).to(weights[bias]))
    return kept.to(weight.device)


def scores_of(weight: np.ndarray, hessian: np.ndarray, shape: Shape, like: Tensor,
              levels: Sequence[float] = LEVELS) -> np.ndarray:
    """(rows, columns): what removing each weight with its block costs, in the order in which surgery removes them.

    Exact where rows * columns^3 <= EXACT, else by the alternating direction method of multipliers at some sparsities.
    """
    rows, columns = weight.shape
    inputs = like.shape[1]
    at, total = _places(columns, inputs, shape.width)
    wide = np.zeros((-(-rows // shape.height) * shape.height, total))
    wide[:rows, at] = weight
    full = np.eye(total)
    full[np.ix_(at, at)] = hessian
    if rows * total**3 <= EXACT:
        found = trace(wide, full, shape.width, shape.height, shape.most, torch.get_num_threads())
    else:
        found = admm_trace(torch.from_numpy(wide).to(like), torch.from_numpy(full).to(like), shape.width, shape.height,
                           shape.most, levels)
    return _per_weight(found, at, inputs, rows)


def _places(columns: int, inputs: int, width: int) -> tuple[np.ndarray, int]:
    """Where each column stands if every kernel position's inputs are filled up to whole blocks; how many there are."""
    filled = -(-inputs // width) * width
    kernel, channel = np.divmod(np.arange(columns), inputs)
    return kernel * filled + channel, columns // inputs * filled


def _per_weight(found: Trace, at: np.ndarray, inputs: int, rows: int) -> np.ndarray:
    """(rows, columns); the loss of a narrower last block is divided by its own weights."""
    factor = np.ones((rows, len(at)))
    if narrow := inputs % found.width:
        factor[:, np.arange(len(at)) % inputs >= inputs - narrow] *= found.width / narrow
    if narrow := rows % found.height:
        factor[rows - narrow:] *= found.height / narrow
    return found.scores()[:rows, at] * factor
