"""Chains: the channels that may trade places are found, and no others."""

import copy

import numpy as np
import pytest
import timm
import torch
from branched_nets import lively
from channels import SHAPE, Attention, Block, Hidden, Joined, OnlyInTraining, Padded, Ramp, Shuffled, Single, net
from torch import nn

from mmprune.axes import leaves
from mmprune.chains import Chain, find_chains
from mmprune.renaming import Trial, order_of, rename
from mmprune.ties import Ties


def inputs(model, shape=SHAPE):
    """Reader -> sizes of the chains at its inputs; after each chain, put in random order, the answers are the same."""
    found = find_chains(model, shape)
    assert not found.failed
    check_renaming(model, shape, found.chains)
    readers = {}
    for chain in found.chains:
        for name, dim in chain.places:
            if dim == 1:
                readers.setdefault(name.removesuffix(".weight"), []).append(len(chain))
    return {name: sorted(sizes) for name, sizes in readers.items()}


def check_renaming(model, shape, chains):
    generator = np.random.default_rng(5)
    images = torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(5))
    order = order_of([(chain, generator.permutation(len(chain))) for chain in chains],
                     {n: t.shape for n, t in model.state_dict().items()})
    other = copy.deepcopy(model)
    rename(other, order)
    with torch.no_grad():
        torch.testing.assert_close(other(images), model(images), rtol=1e-3, atol=1e-4)
    for name, weight in model.named_parameters():
        assert (name in order) == (not torch.equal(weight, other.get_parameter(name))) or weight.unique().numel() == 1


def test_plain_convolutions():
    model = net(nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 16, 1))
    assert inputs(model) == {"between.0": [16], "between.4": [24], "fc": [16]}


def test_a_residual_stream_is_one_chain_and_an_inverted_bottleneck_another():
    model = net(Block(), Block())
    stream, wide, squeezed = [16], [24], [8]
    expected = {"fc": stream}
    for i in (0, 1):
        for name, sizes in (("expand", stream), ("reduce", wide), ("restore", squeezed), ("project", wide)):
            expected[f"between.{i}.{name}"] = sizes
    assert inputs(model) == expected
    assert len(find_chains(model, SHAPE).chains) == 1 + 2 * 2


def test_values_of_an_attention_are_ordered_head_by_head_and_queries_never():
    model = net(Attention())
    name = "between.0."
    assert inputs(model) == {f"{name}qkv": [16], f"{name}proj": [8, 8], f"{name}fc1": [16], f"{name}fc2": [32],
                             "fc": [16]}
    chains = find_chains(model, SHAPE).chains
    places = np.concatenate([c.places[f"{name}qkv.weight", 0] for c in chains if (f"{name}qkv.weight", 0) in c.places])
    assert sorted(places.ravel()) == list(range(32, 48))


@pytest.mark.parametrize("causal", [False, True])
def test_tokens_of_an_attention_are_in_order_only_if_it_is_causal(causal):
    tensors = {name: torch.randn(1, 2, 6, 4) for name in ("q", "k", "v")}
    ties = Ties(tensors)
    with torch.no_grad(), ties:
        nn.functional.scaled_dot_product_attention(*tensors.values(), is_causal=causal)
    assert [leaf.fixed for name in tensors for leaf in leaves(ties.named[name][2])] == [causal] * 3


def test_multihead_attention_of_torch():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return self.attention(x, x, x, need_weights=False)[0].mean(1)

    found = inputs(net(Own()))
    assert found["between.0.attention.out_proj"] == [8, 8] and found["fc"] == [16]


def test_concatenated_and_padded_channels_are_free_in_their_parts():
    assert inputs(net(Joined())) == {"between.0.grow": [16], "between.0.last": [8, 16], "fc": [16]}
    assert inputs(net(Padded(), channels=32)) == {"between.0.conv1": [16], "between.0.conv2": [32], "fc": [16, 16]}


def test_flattened_images_follow_their_channels_but_cannot_change_blocks_of_neighbouring_pixels():
    model = net(nn.Conv2d(16, 8, 3), nn.Flatten(1), nn.Linear(8 * 36, 16))
    assert inputs(model) == {"between.0": [16], "fc": [16]}
    model = net(nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 16))
    assert inputs(model) == {"between.0": [16], "between.3": [8], "fc": [16]}


def test_grouped_convolutions_and_shuffled_channels_stay():
    model = net(nn.Conv2d(16, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 16, 1))
    assert inputs(model) == {"fc": [16]}
    found = inputs(net(Shuffled()))
    assert found["fc"] == [16] and sum(found.get("between.0.conv", [])) <= 8


@pytest.mark.parametrize("teller", [Ramp(), OnlyInTraining(), nn.PixelShuffle(1)])
def test_channels_that_something_tells_apart_stay(teller):
    assert inputs(net(teller, nn.Conv2d(16, 16, 1))) == {"fc": [16]}


def test_a_reader_that_torch_does_not_see_fails_the_trial_and_is_named():
    found = find_chains(net(Hidden(), nn.Conv2d(16, 16, 1)), SHAPE)
    assert [chain.readers(["fc.weight"]) for chain in found.chains] == [("fc.weight",)]
    assert len(found.failed) == 1 and "stem.weight" in found.failed[0] and "between.1.weight" in found.failed[0]


def test_a_model_that_runs_in_single_precision_only():
    model = net(Single(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
    assert inputs(model) == {"between.0": [16], "between.2": [16], "fc": [16]}
    chain = find_chains(model, SHAPE).chains[0]
    place = next(iter(chain.places))
    assert not Trial(model, (2, *SHAPE[1:])).holds([Chain({place: chain.places[place]})])


def test_the_trial_notices_each_place_that_is_left_out():
    model = net(Block())
    trial = Trial(model, (2, *SHAPE[1:]))
    for chain in find_chains(model, SHAPE).chains:
        assert trial.holds([chain])
        for place in chain.places:
            assert not trial.holds([Chain({p: at for p, at in chain.places.items() if p != place})]), place


def test_an_untrained_branch_of_zeros_hides_nothing():
    model = net(Block())
    nn.init.zeros_(model.between[0].project.weight)
    trial = Trial(model, (2, *SHAPE[1:]))
    chain = next(c for c in find_chains(model, SHAPE).chains if ("between.0.project.weight", 1) in c.places)
    assert not trial.holds([Chain({("between.0.project.weight", 1): chain.places["between.0.project.weight", 1]})])


def test_the_model_itself_stays_as_it_was():
    model = net(Block()).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    find_chains(model, SHAPE)
    assert model.training and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


SMALL = {
    "resnet10t": ({}, 64), "mobilenetv3_small_050": ({}, 64), "regnetx_002": ({}, 64), "convnext_atto": ({}, 64),
    "densenet121": ({"block_config": (2, 2)}, 64), "vit_tiny_patch16_224": ({"img_size": 32, "depth": 2}, 32),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "depths": (2, 2), "num_heads": (3, 6)}, 56),
}


@pytest.mark.parametrize("name", SMALL)
def test_models_of_timm(name):
    options, side = SMALL[name]
    torch.manual_seed(0)
    found = inputs(lively(timm.create_model(name, **options)), (1, 3, side, side))
    assert found and not (name == "regnetx_002" and any(".conv2." in reader for reader in found))
