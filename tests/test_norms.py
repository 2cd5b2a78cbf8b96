"""Norms in fine-tuning: they change nothing by themselves, bring means back, leave zeros and names, survive a kill."""

import copy
from dataclasses import replace

import pytest
import torch
from branched_nets import SHAPE, Branches, Net, lively
from torch import nn
from toys import ToySplit

from mmprune.finetune import Job, finetune
from mmprune.models.fusing import merge_branches
from mmprune.norms import MERGED, normed
from mmprune.recipes import RECIPES

TRAIN = ToySplit(48, 1)
NAMES = ("blocks.0.one", "blocks.1.one")


def merged_net():
    torch.manual_seed(0)
    return merge_branches(lively(Net(Branches)), SHAPE).model


def job_for(model, **changes):
    weights = dict(model.named_parameters())
    masks = {f"{name}.weight": torch.rand_like(weights[f"{name}.weight"]) > 0.6 for name in NAMES}
    recipe = replace(RECIPES["default"], batch_size=12, distill=0.0, **changes)
    return Job(masks, TRAIN, ToySplit(12, 2), recipe, 0)


def test_they_are_put_where_branches_were_and_change_nothing():
    model, x = merged_net(), TRAIN.images[:4]
    assert getattr(model, MERGED) == NAMES
    names, before = list(model.state_dict()), model(x)
    with normed(model, TRAIN.batches(12), "cpu"):
        assert torch.allclose(model(x), before, atol=1e-5)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        with torch.no_grad():
            out = nn.Conv2d.forward(model.blocks[0].one, model.stem(TRAIN.images))
        assert len(norms) == 2 and torch.allclose(norms[0].running_mean, out.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model(x), before, atol=1e-5) and list(model.state_dict()) == names


def test_zeros_names_and_hooks_after_training():
    model = merged_net()
    names, job = list(model.state_dict()), job_for(model, epochs=2, lr=0.01, qat=True)
    seen = []
    finetune(model, None, job, lambda *_: seen.append(len(list(model.parameters()))))
    assert set(seen) == {len(list(model.parameters())) + 4}, "scales and shifts are trained"
    assert list(model.state_dict()) == names
    for name in NAMES:
        layer = model.get_submodule(name)
        assert not layer._forward_hooks and ((layer.weight == 0) == ~job.masks[f"{name}.weight"]).all()


def test_without_training_a_pruned_network_gets_the_dense_ones_means():
    """What recalibration does for a network that kept its norms."""
    dense = merged_net()
    off = {}
    for marked in (True, False):
        model = copy.deepcopy(dense)
        if not marked:
            delattr(model, MERGED)
        torch.manual_seed(1)
        finetune(model, None, job_for(model, epochs=0), lambda *_: None)
        with torch.no_grad():
            means = [torch.stack([block.one(m.stem(TRAIN.images)).mean((0, 2, 3)) for block in m.blocks[:1]])
                     for m in (model, dense)]
        off[marked] = float((means[0] - means[1]).abs().max())
    assert off[True] < 0.05 * off[False]


def test_a_killed_training_ends_with_the_same_bits(tmp_path):
    whole, killed = merged_net(), merged_net()
    torch.manual_seed(1)
    job = replace(job_for(whole, epochs=2), checkpoint=tmp_path / "checkpoint.pt")
    finetune(whole, None, replace(job, checkpoint=None), lambda *_: None)

    def kill(step, steps):
        if step == steps - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(killed, None, job, kill)
    again = merged_net()
    finetune(again, None, job, lambda *_: None)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
