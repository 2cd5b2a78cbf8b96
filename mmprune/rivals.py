"""Whether published rules, at the cost of the sparsities that a search found, lose less than those."""

import math
import time
from dataclasses import dataclass

from mmprune.allocations import Profile, rule, values_of
from mmprune.budget.rules import at_cost
from mmprune.budget.search import Problem
from mmprune.budget.table import SPARSITIES
from mmprune.one_shot import prune_once
from mmprune.ranges import find_bounds
from mmprune.reconstruct import Plan
from mmprune.records import Range
from mmprune.start_loss import calibration_loss
from mmprune.strategies import ALLOCATORS
from mmprune.timing import Setting

IMAGES = 256  # for surgery here, a quarter of the usual: the models are only put in order
SURGERY_S = 240.0  # if pruning the found model takes longer, the rules' models are not pruned: there are four
MARGIN = 0.02  # of the loss: by less a rule is not better, since the images differ from draw to draw
SEARCH = "search"  # the name of the found sparsities among the rules


@dataclass(frozen=True)
class Rivals:
    """losses  calibration loss before training (start_loss.py) by rule, and of SEARCH"""

    losses: dict[str, float]
    rules: dict[str, Profile]
    notes: tuple[str, ...]

    @property
    def best(self) -> str:
        """Of the least loss; the found sparsities unless that is clearly less than theirs."""
        least = min(self.losses, key=lambda name: self.losses[name])
        return least if self.losses[least] < (1 - MARGIN) * self.losses[SEARCH] else SEARCH


def compare(setting: Setting, problem: Problem, found: dict[str, float]) -> Rivals:
    """Prune the found model and those of the rules, layer after layer, as variants are before their fine-tuning.

    The problem's budget is what the rules may cost. Rules that cannot be so cheap are left out, and all of them if
    surgery takes too long.
    """
    layers = setting.layers
    bounds = find_bounds(layers) | {n: r for n, r in setting.ranges.items() if is_users(r)}
    weights = dict(setting.baseline.model.named_parameters())
    values = values_of({n: weights[n].detach().abs() for n in bounds}, list(bounds))
    rules = {name: rule(name, layers, bounds, values) for name in ALLOCATORS}
    placed = {name: at_cost(problem, layers, profile, SPARSITIES) for name, profile in rules.items()}
    todo = {SEARCH: found, **{name: sparsity for name, sparsity in placed.items() if sparsity is not None}}
    losses, began = dict[str, float](), time.monotonic()
    for done, (name, sparsity) in enumerate(todo.items()):
        setting.progress("rules", name, done, len(todo))
        losses[name] = _loss(setting, sparsity)
        took = time.monotonic() - began
        if name == SEARCH and took > SURGERY_S:
            return Rivals(losses, rules, (f"pruning the model takes {took:.0f} s, so the found sparsities are not "
                                          "compared with published rules (--strategies uniform,lamp builds those)",))
    setting.progress("rules", "", len(todo), len(todo))
    return Rivals(losses, rules, ())


def _loss(setting: Setting, sparsity: dict[str, float]) -> float:
    plan = Plan(sparsity, setting.pattern, {x.name: x.kind for x in setting.layers})
    model, masks = prune_once(setting.baseline, plan, sum(x.macs for x in setting.layers), setting.seed, setting.device,
                              images=IMAGES)
    loss = calibration_loss(model, masks, setting.baseline, setting.seed, setting.device)
    return math.inf if loss is None else loss


def is_users(limit: Range) -> bool:
    """Whether the user gave this range; those of the rule table are guesses, which a measurement replaces."""
    return limit.why.startswith("override")
