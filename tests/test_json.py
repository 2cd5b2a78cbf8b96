"""docs/json.md names every field of the JSON that programs read, and none that is not there."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from families import made_artifact, made_family, made_measurement

from mmprune import folder
from mmprune.results.as_json import choice_json, family_json
from mmprune.results.choose import Budget, choose
from mmprune.results.compare_runs import compare_runs, comparison_json
from mmprune.results.points import read_points
from mmprune.results.sides import Spec

DOCUMENT = (Path(__file__).parents[1] / "docs" / "json.md").read_text()


@pytest.fixture
def family(tmp_path):
    made_family(tmp_path, [("dense", 0.90, 0.0, 0.010), ("min", 0.895, 0.5, 0.008), ("max", 0.8, 0.9, 0.002)])
    for variant in folder.read_variants(tmp_path):
        folder.append_measurement(tmp_path, made_measurement(made_artifact(tmp_path, variant, "mmrt"), 0.02, "mmrt"))
    return tmp_path


def keys(value, inside=("device", "settings", "budget")) -> set[str]:
    """The names of all fields, but of those whose content is a record of its own."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(v) for k, v in value.items() if k not in inside))


def texts(root) -> dict[str, str]:
    points = read_points(root)
    return {"report": family_json(root, points),
            "choose": choice_json(choose(points, Budget(max_latency_s=0.011, max_drop=0.05), 100)),
            "compare": comparison_json(compare_runs(Spec(root, file="dense"), Spec(root, file="min")))}


def test_every_field_is_documented_and_every_documented_field_is_there(family):
    read = {name: json.loads(text) for name, text in texts(family).items()}
    assert all("\n" not in text for text in texts(family).values())
    named = set(re.findall(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)*\b", DOCUMENT))
    assert set().union(*map(keys, read.values())) - named == set()
    for name, value in read.items():
        table = DOCUMENT.partition(f"| `{name}` | |")[2].partition("\n\n")[0]
        fields = [key for row in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[1])]
        assert fields and set(fields) == set(value) - {"schema"}, name
        assert value["schema"] == 1


def test_what_is_not_known_is_null(family):
    one = [dataclasses.replace(p, ratio=dataclasses.replace(p.ratio, low=0.0, high=float("inf"))) if p.ratio else p
           for p in read_points(family)]
    ratio = next(f["of_dense"] for f in json.loads(family_json(family, one))["files"] if f["of_dense"])
    assert ratio["low"] is None and ratio["high"] is None
    missed = json.loads(choice_json(choose(one, Budget(max_latency_s=1, percentile=99))))["misses"][0]["missed"]
    assert missed["value"] is None and missed["share"] is None
