"""Masks: exact counts, ties, nesting; every pattern of the table."""

import pytest
import torch

from mmprune.masks import PATTERNS, apply_masks, make_masks
from mmprune.strategies import zero_count

SCORES = {
    "linear": torch.rand(12, 16, generator=torch.Generator().manual_seed(0)),
    "conv": torch.rand(6, 8, 3, 3, generator=torch.Generator().manual_seed(1)),
    "all equal": torch.ones(8, 8),
    "all zero": torch.zeros(4, 8, 1, 1),
    "odd": torch.rand(5, 3, 3, 3, generator=torch.Generator().manual_seed(2)),
}
SPARSITIES = (0.0, 0.1, 0.5, 0.7, 0.99)


def expected_zeros(pattern: str, score: torch.Tensor, sparsity: float) -> int:
    if pattern == "unstructured":
        return zero_count(score.numel(), sparsity)
    return score.numel() // 2 if sparsity >= 0.5 and score.shape[1] % 4 == 0 else 0


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case", SCORES)
def test_contract(pattern, case):
    score = SCORES[case]
    masks = [PATTERNS[pattern](score, s) for s in SPARSITIES]
    for mask, sparsity in zip(masks, SPARSITIES, strict=True):
        assert mask.dtype == torch.bool and mask.shape == score.shape
        assert int((~mask).sum()) == expected_zeros(pattern, score, sparsity)
        assert torch.equal(mask, PATTERNS[pattern](score.clone(), sparsity))
    for fewer, more in zip(masks[1:], masks, strict=False):
        assert not (fewer & ~more).any(), "a mask keeps what a sparser one of the same score had removed"


def test_unstructured_by_hand():
    score = torch.tensor([[3.0, 1.0], [2.0, 1.0]])
    unstructured = PATTERNS["unstructured"]
    assert unstructured(score, 0.25).tolist() == [[True, False], [True, True]]  # of two equals the first goes
    assert unstructured(score, 0.75).tolist() == [[True, False], [False, False]]


def test_every_kept_score_is_at_least_every_pruned_one():
    mask = PATTERNS["unstructured"](SCORES["conv"], 0.7)
    assert SCORES["conv"][mask].min() >= SCORES["conv"][~mask].max()


def test_two_of_four_along_input_channels():
    score = torch.arange(8.0).view(1, 8, 1, 1).repeat(2, 1, 3, 3)
    mask = PATTERNS["2:4"](score, 0.5)
    assert mask[0, :, 1, 1].tolist() == [False, False, True, True, False, False, True, True]


def test_masks_set_even_nan_and_negative_zero_to_plain_zero():
    weight = torch.tensor([[float("nan"), -0.0, 5.0]])
    apply_masks({"w": weight}, {"w": torch.tensor([[False, False, True]])})
    assert weight.tolist() == [[0.0, 0.0, 5.0]] and not torch.signbit(weight).any()


def test_refusals():
    with pytest.raises(ValueError, match="no pattern called '4:8'"):
        make_masks({"w": torch.ones(2, 2)}, {"w": 0.5}, "4:8")
    with pytest.raises(ValueError, match="the score of w is not finite"):
        make_masks({"w": torch.full((2, 2), float("nan"))}, {"w": 0.5}, "unstructured")
