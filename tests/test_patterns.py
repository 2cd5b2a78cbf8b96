"""Masks: exact counts, ties, nesting; every pattern of the table."""

import pytest
import torch

from mmprune.layers import KINDS
from mmprune.patterns import DENSE_KINDS, PATTERNS, SHAPES, ZEROS, apply_masks, make_masks, zeros_in_blocks
from mmprune.scores import SCORES as WEIGHT_SCORES
from mmprune.strategies import zero_count

SCORES = {
    "linear": torch.rand(16, 32, generator=torch.Generator().manual_seed(0)),
    "conv": torch.rand(8, 16, 3, 3, generator=torch.Generator().manual_seed(1)),
    "narrow": torch.rand(12, 16, generator=torch.Generator().manual_seed(3)),
    "all equal": torch.ones(8, 16),
    "all zero": torch.zeros(8, 16, 1, 1),
    "odd": torch.rand(5, 3, 3, 3, generator=torch.Generator().manual_seed(2)),
    "blocks of 4 and 3": torch.rand(5, 7, 3, 3, generator=torch.Generator().manual_seed(4)),
    "blocks of 4 and 1": torch.rand(6, 9, generator=torch.Generator().manual_seed(5)),
    "all equal, blocks of 4 and 2": torch.ones(7, 6, 1, 1),
}
SPARSITIES = (0.0, 0.1, 0.5, 0.7, 0.75, 0.9, 0.99)


def blocks_zeroed(zeros: int, score: torch.Tensor, asked: int) -> bool:
    if score.shape[1] < 4:
        return zeros == 0
    return zeros == asked - asked % 4 if score.shape[1] % 4 == 0 else asked - 4 < zeros <= asked


def groups_zeroed(zeros: int, score: torch.Tensor, asked: int) -> bool:
    fits = score.shape[1] % 16 == 0 and score.shape[0] % 8 == 0
    return zeros == (score.numel() // 2 if asked >= score.numel() // 2 and fits else 0)


BY_HAND = {"unstructured": lambda zeros, score, asked: zeros == asked, "block-1x4": blocks_zeroed,
           "2:4": groups_zeroed}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case", SCORES)
def test_contract(pattern, case):
    score = SCORES[case]
    masks = [PATTERNS[pattern](score, s, "conv") for s in SPARSITIES]
    for mask, sparsity in zip(masks, SPARSITIES, strict=True):
        assert mask.dtype == torch.bool and mask.shape == score.shape
        along = {"block-1x4": 1, "block-4x1": 0}.get(pattern)
        slack = 3 if along is not None and score.shape[along] % 4 else 0
        assert abs(int((~mask).sum()) - ZEROS[pattern](score.shape, sparsity, "conv")) <= slack
        assert torch.equal(mask, PATTERNS[pattern](score.clone(), sparsity, "conv"))
    for fewer, more in zip(masks[1:], masks, strict=False):
        assert not (fewer & ~more).any(), "a mask keeps what a sparser one of the same score had removed"


@pytest.mark.parametrize("pattern", BY_HAND)
@pytest.mark.parametrize("case", SCORES)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_zeros_by_hand(pattern, case, sparsity):
    score = SCORES[case]
    zeros = int((~PATTERNS[pattern](score, sparsity, "conv")).sum())
    assert BY_HAND[pattern](zeros, score, zero_count(score.numel(), sparsity))


def test_unstructured_by_hand():
    score = torch.tensor([[3.0, 1.0], [2.0, 1.0]])
    unstructured = PATTERNS["unstructured"]
    assert unstructured(score, 0.25, "linear").tolist() == [[True, False], [True, True]]  # of two equals the first goes
    assert unstructured(score, 0.75, "depthwise").tolist() == [[True, False], [False, False]]


def test_every_kept_score_is_at_least_every_pruned_one():
    mask = PATTERNS["unstructured"](SCORES["conv"], 0.7, "conv")
    assert SCORES["conv"][mask].min() >= SCORES["conv"][~mask].max()


def test_two_of_four_along_input_channels():
    score = torch.arange(16.0).view(1, 16, 1, 1).repeat(8, 1, 3, 3)
    mask = PATTERNS["2:4"](score, 0.5, "conv")
    assert mask[0, :, 1, 1].tolist() == 4 * [False, False, True, True]


def test_two_of_four_keeps_the_larger_two_of_each_group():
    mask = PATTERNS["2:4"](SCORES["conv"], 0.5, "conv")  # (8, 16, 3, 3)
    groups, scores = (x.movedim(1, -1).reshape(-1, 4) for x in (mask, SCORES["conv"]))
    assert torch.equal(groups, scores >= scores.sort(dim=1).values[:, 2:3])


def test_two_of_four_leaves_dense_what_no_sparse_kernel_takes():
    """By kind, by shape, and below a half; the same shape is 2:4 as an ordinary layer."""
    score = SCORES["conv"]
    scores = {"stem": score, "grouped": score, "conv": score, "asked 40 %": score, "narrow": SCORES["narrow"],
              "8 inputs": torch.rand(16, 8)}
    sparsity = {**dict.fromkeys(scores, 0.5), "asked 40 %": 0.4}
    kinds = {**dict.fromkeys(scores, "conv"), "stem": "stem", "grouped": "grouped"}
    masks = make_masks(scores, sparsity, "2:4", kinds)
    assert [name for name, mask in masks.items() if not mask.all()] == ["conv"]


def test_blocks_of_four_inputs_by_hand():
    """Sums 10, 4, 6, 4: of equal blocks the earlier goes; half a block more asked gives no block more."""
    score = torch.tensor([[1.0, 2, 3, 4, 1, 1, 1, 1], [0, 0, 0, 6, 4, 0, 0, 0]])
    block = PATTERNS["block-1x4"]
    kept = [[block(score, s, "linear")[row, 4 * i].item() for row in (0, 1) for i in (0, 1)] for s in (0.25, 0.4, 0.5)]
    assert kept == [[True, False, True, True], [True, False, True, True], [True, False, True, False]]
    assert block(score, 0.75, "linear").tolist() == [4 * [True] + 4 * [False], 8 * [False]]


def test_blocks_run_along_the_inputs_of_one_output_and_kernel_position():
    mask = PATTERNS["block-1x4"](SCORES["conv"], 0.7, "conv")  # (8, 16, 3, 3)
    blocks = mask.movedim(1, -1).reshape(-1, 4)
    assert (blocks.all(1) | ~blocks.any(1)).all()
    sums = SCORES["conv"].movedim(1, -1).reshape(-1, 4).sum(1)
    assert sums[blocks.all(1)].min() >= sums[~blocks.any(1)].max()


def test_a_narrow_block_is_compared_by_its_mean_and_never_fills_a_gap():
    """Blocks of 4, 4 and 1 with means 2, 1 and 1.5: by sums the last would go first; 5 of 9 take 4, then 1."""
    score = torch.tensor([[2.0, 2, 2, 2, 1, 1, 1, 1, 1.5]])
    block = PATTERNS["block-1x4"]
    whole = [[bool(block(score, n / 9, "linear")[0, i]) for i in (0, 4, 8)] for n in range(9)]
    assert whole == 4 * [[True, True, True]] + [[True, False, True]] + 4 * [[True, False, False]]


@pytest.mark.parametrize(("name", "expected"), [
    ("magnitude", [False, True]), ("gradient", [True, False]), ("product", [True, False])])
def test_a_block_s_score_is_the_sum_of_its_weights_scores(name, expected):
    """Four weights in a row count together: the largest weight of a layer goes with three small ones."""
    weight = torch.tensor([[9.0, 0, 0, 0, 3, -3, 3, -3]])  # magnitudes: 9 against 12
    gradient = torch.tensor([[1.0, 1, 1, 1, 2, 0, 0, 0]])  # gradients: 4 against 2; products: 9 against 6
    kept = PATTERNS["block-1x4"](WEIGHT_SCORES[name].of(weight, gradient), 0.5, "linear")[0, ::4].tolist()
    assert kept == expected


@pytest.mark.parametrize(("shape", "kind", "pruned"), [
    ((32, 3, 3, 3), "stem", False), ((32, 1, 3, 3), "depthwise", False), ((32, 2, 3, 3), "grouped", False),
    ((32, 4, 3, 3), "grouped", True), ((32, 4), "linear", True), ((10, 64), "classifier", True)])
def test_blocks_need_four_inputs_and_nothing_else(shape, kind, pruned):
    mask = PATTERNS["block-1x4"](torch.rand(shape), 0.5, kind)
    assert int((~mask).sum()) == (mask.numel() // 2 if pruned else 0)


def test_blocks_of_outputs_are_blocks_of_inputs_of_the_transposed_weight():
    score = SCORES["conv"]
    mask = PATTERNS["block-4x1"](score, 0.7, "conv")
    blocks = mask.movedim(0, -1).reshape(-1, 4)
    assert (blocks.all(1) | ~blocks.any(1)).all() and int((~mask).sum()) == ZEROS["block-4x1"](score.shape, 0.7, "conv")
    sums = score.movedim(0, -1).reshape(-1, 4).sum(1)
    assert sums[blocks.all(1)].min() >= sums[~blocks.any(1)].max()
    narrow = PATTERNS["block-4x1"](torch.rand(6, 20), 0.5, "linear")
    assert torch.equal(narrow[4:], narrow[4].expand(2, -1)), "the last two outputs are a block"


@pytest.mark.parametrize(("shape", "kind", "pruned"), [
    ((32, 3, 3, 3), "stem", True), ((32, 1, 3, 3), "depthwise", False), ((32, 8, 3, 3), "grouped", False),
    ((3, 64), "classifier", False), ((32, 4), "linear", True)])
def test_blocks_of_outputs_need_four_outputs_that_read_the_same_inputs(shape, kind, pruned):
    mask = PATTERNS["block-4x1"](torch.rand(shape), 0.5, kind)
    assert int((~mask).sum()) == (mask.numel() // 2 if pruned else 0) == ZEROS["block-4x1"](shape, 0.5, kind)


def test_zeros_in_blocks_are_those_of_whole_blocks():
    weight = torch.tensor([[0.0, 0, 0, 0, 1, 0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0, 0, -0.0, 0, 1]])
    assert zeros_in_blocks(weight) == 4 + 2 + 4  # the last block has two inputs
    assert zeros_in_blocks(weight.view(2, 10, 1, 1)) == 10
    assert zeros_in_blocks(torch.zeros(8, 3, 3, 3)) == 0
    for name, score in SCORES.items():
        mask = PATTERNS["block-1x4"](score, 0.7, "conv")
        assert zeros_in_blocks(mask) == int((~mask).sum()), name


def test_a_layer_of_one_block_is_not_too_small():
    weight = torch.zeros(4, 4)
    for pattern in ("block-1x4", "block-4x1"):
        mask = PATTERNS[pattern](weight, 0.5, "linear")
        assert ZEROS[pattern](weight.shape, 0.5, "linear") == int((~mask).sum()) == 8
    assert zeros_in_blocks(weight) == 16


def test_the_kinds_that_stay_dense_are_kinds_of_layers():
    assert set(DENSE_KINDS) < set(KINDS)


def test_masks_set_even_nan_and_negative_zero_to_plain_zero():
    weight = torch.tensor([[float("nan"), -0.0, 5.0]])
    apply_masks({"w": weight}, {"w": torch.tensor([[False, False, True]])})
    assert weight.tolist() == [[0.0, 0.0, 5.0]] and not torch.signbit(weight).any()


def test_every_pattern_says_what_it_zeroes():
    assert list(ZEROS) == list(PATTERNS) == list(SHAPES)


def test_refusals():
    with pytest.raises(ValueError, match="no pattern called '4:8'"):
        make_masks({"w": torch.ones(2, 2)}, {"w": 0.5}, "4:8", {"w": "conv"})
    with pytest.raises(ValueError, match="the score of w is not finite"):
        make_masks({"w": torch.full((2, 2), float("nan"))}, {"w": 0.5}, "unstructured", {"w": "conv"})
