"""Masks: exact counts, ties, nesting; every pattern of the table."""

import pytest
import torch

from mmprune.layers import KINDS
from mmprune.masks import DENSE_KINDS, PATTERNS, apply_masks, make_masks
from mmprune.strategies import zero_count

SCORES = {
    "linear": torch.rand(16, 32, generator=torch.Generator().manual_seed(0)),
    "conv": torch.rand(8, 16, 3, 3, generator=torch.Generator().manual_seed(1)),
    "narrow": torch.rand(12, 16, generator=torch.Generator().manual_seed(3)),
    "all equal": torch.ones(8, 16),
    "all zero": torch.zeros(8, 16, 1, 1),
    "odd": torch.rand(5, 3, 3, 3, generator=torch.Generator().manual_seed(2)),
}
SPARSITIES = (0.0, 0.1, 0.5, 0.7, 0.99)


def expected_zeros(pattern: str, score: torch.Tensor, sparsity: float) -> int:
    if pattern == "unstructured":
        return zero_count(score.numel(), sparsity)
    fits = score.shape[1] % 16 == 0 and score.shape[0] % 8 == 0
    return score.numel() // 2 if sparsity >= 0.5 and fits else 0


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case", SCORES)
def test_contract(pattern, case):
    score = SCORES[case]
    masks = [PATTERNS[pattern](score, s, "conv") for s in SPARSITIES]
    for mask, sparsity in zip(masks, SPARSITIES, strict=True):
        assert mask.dtype == torch.bool and mask.shape == score.shape
        assert int((~mask).sum()) == expected_zeros(pattern, score, sparsity)
        assert torch.equal(mask, PATTERNS[pattern](score.clone(), sparsity, "conv"))
    for fewer, more in zip(masks[1:], masks, strict=False):
        assert not (fewer & ~more).any(), "a mask keeps what a sparser one of the same score had removed"


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


def test_two_of_four_leaves_dense_what_no_sparse_kernel_takes():
    """By kind, by shape, and below a half; the same shape is 2:4 as an ordinary layer."""
    score = SCORES["conv"]
    scores = {"stem": score, "grouped": score, "conv": score, "asked 40 %": score, "narrow": SCORES["narrow"],
              "8 inputs": torch.rand(16, 8)}
    sparsity = {**dict.fromkeys(scores, 0.5), "asked 40 %": 0.4}
    kinds = {**dict.fromkeys(scores, "conv"), "stem": "stem", "grouped": "grouped"}
    masks = make_masks(scores, sparsity, "2:4", kinds)
    assert [name for name, mask in masks.items() if not mask.all()] == ["conv"]


def test_the_kinds_that_stay_dense_are_kinds_of_layers():
    assert set(DENSE_KINDS) < set(KINDS)


def test_masks_set_even_nan_and_negative_zero_to_plain_zero():
    weight = torch.tensor([[float("nan"), -0.0, 5.0]])
    apply_masks({"w": weight}, {"w": torch.tensor([[False, False, True]])})
    assert weight.tolist() == [[0.0, 0.0, 5.0]] and not torch.signbit(weight).any()


def test_refusals():
    with pytest.raises(ValueError, match="no pattern called '4:8'"):
        make_masks({"w": torch.ones(2, 2)}, {"w": 0.5}, "4:8", {"w": "conv"})
    with pytest.raises(ValueError, match="the score of w is not finite"):
        make_masks({"w": torch.full((2, 2), float("nan"))}, {"w": 0.5}, "unstructured", {"w": "conv"})
