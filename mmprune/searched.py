"""The strategy `searched`: of all sparsities with the same total, those whose complete network loses least.

Rules such as uniform, ERK and LAMP each win on other networks; so each is a start of a search, which judges complete
networks by their outputs on training images (budget/search.py). What is kept counts, not how long it takes: for a
latency there is the strategy `budget`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from mmprune.allocations import lamp, values_of
from mmprune.budget.database import Database, masked_database, repaired_database
from mmprune.budget.levels import allowed_levels, effort_for, starts_for
from mmprune.budget.loss import Stitched
from mmprune.budget.search import Problem, filled, search
from mmprune.budget.table import SPARSITIES
from mmprune.patterns import ZEROS
from mmprune.placing import Site, at_total, check_reach
from mmprune.progress import Progress
from mmprune.scores import SCORES, make_scores
from mmprune.strategies import SEARCHED, Sparsities


@dataclass(frozen=True, eq=False)
class Subject:
    """What is pruned, by what, and the images that networks are judged by.

    score    that prunes the layers; "obs" repairs what is kept
    given    the scores, by layer; not read for "obs"
    batches  of normalized training images, on the model's device
    """

    model: nn.Module
    score: str
    given: Mapping[str, Tensor]
    batches: Sequence[Tensor]


def searched(subject: Subject, site: Site, goal: float, seed: int, progress: Progress) -> Sparsities:
    """The sparsity of every layer.

    goal  zeros over all prunable weights; ValueError if it is out of reach within the site's bounds
    """
    check_reach(SEARCHED, goal, site)
    layers = site.layers
    kept = np.array([[x.params - ZEROS[site.pattern](x.shape, s, x.kind) for s in SPARSITIES] for x in layers], float)
    allowed = allowed_levels(layers, site.bounds, site.pattern)
    problem = Problem(kept, allowed, (1 - goal) * sum(x.params for x in layers))
    images = torch.cat(list(subject.batches))
    stitched = Stitched(subject.model, _database(subject, site, progress), images, str(images.device))
    effort = effort_for(layers)
    starts = starts_for(layers, problem, others=_by_magnitude(subject.model, site, goal))
    found = search(problem, starts, cache(stitched.loss), effort, seed,
                   lambda done: progress("scores", SEARCHED, min(done, effort), effort))
    return dict(zip((x.name for x in layers), filled(problem, found.levels, SPARSITIES), strict=True))


def _database(subject: Subject, site: Site, progress: Progress) -> Database:
    if SCORES[subject.score].needs == "inputs":
        return repaired_database(copy.deepcopy(subject.model), site.layers, SPARSITIES, site.pattern, subject.batches,
                                 partial(progress, "scores", "layers at all sparsities"))
    weights = dict(subject.model.named_parameters())
    return masked_database(weights, subject.given, site.layers, SPARSITIES, site.pattern)


def _by_magnitude(model: nn.Module, site: Site, goal: float) -> dict[str, list[float]]:
    """LAMP's densities."""
    weights = dict(model.named_parameters())
    scores = make_scores("magnitude", {x.name: weights[x.name] for x in site.layers}, {})
    placed = at_total(goal, lamp(values_of(scores, list(site.bounds)), site.bounds), site)
    return {"lamp": [1 - placed[x.name] for x in site.layers]}
