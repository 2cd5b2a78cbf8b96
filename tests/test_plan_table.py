"""The plan as text says what each pattern gives of what the strategies ask."""

from toys import WideNet

from mmprune.cli.plan_table import plan_table
from mmprune.data.splits import LoaderSplit
from mmprune.family import Baseline, Request
from mmprune.family_plan import plan_family
from mmprune.recipes import make_recipe

NONE = LoaderSplit(())
# 288 weights of one input, 18,432 of 32, 18,432 of 64, 256 of 32: 37,408
OVERRIDES = {"kinds": {"*": [0.25, 0.75]}}


def lines(pattern: str) -> list[list[str]]:
    baseline = Baseline(WideNet(), NONE, NONE, NONE, (1, 1, 8, 9))
    request = Request(make_recipe("default"), strategies=("min", "mid", "max"), pattern=pattern, overrides=OVERRIDES)
    return [line.split() for line in plan_table(plan_family(baseline, request)).splitlines()]


def test_totals_are_of_every_pattern_the_rows_of_the_asked_one():
    """conv1 has one input: no block and no 2:4; 2:4 zeroes half where half or more is asked for."""
    for pattern, stem in (("unstructured", ["25.0", "50.0", "75.0"]), ("2:4", 3 * ["0.0"]), ("block-1x4", 3 * ["0.0"])):
        table = lines(pattern)
        rows = {" ".join(row[:2]): row for row in table}
        assert next(row for row in table if row[0] == "conv1")[-3:] == stem
        assert rows["total, unstructured"][-3:] == ["25.0", "50.0", "75.0"]
        assert rows["total, 2:4"][-3:] == ["0.0", "49.6", "49.6"]
        assert rows["total, block-1x4"][-3:] == ["24.8", "49.6", "74.4"]
        assert "37,408" in rows[f"total, {pattern}"]


def test_strategies_that_become_one_model_are_named():
    said = [" ".join(row) for row in lines("unstructured")]
    named = said[said.index("(sparsities in percent)") + 1:]
    assert "the same model with 2:4: mid = max" in named
    assert not [line for line in named if "with unstructured:" in line or "with block-1x4:" in line]
