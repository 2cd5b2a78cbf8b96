"""Records come back from JSON as they went, and nothing else is taken for one."""

import json
from dataclasses import asdict, dataclass, field, replace

import pytest
from families import RECIPE, SOURCE, made_artifact, made_family, made_measurement, made_variant

from mmprune import folder
from mmprune.from_json import from_json
from mmprune.records import Artifact, Gate, Layer, Manifest, Measurement, Range, Recipe, Source, Variant


@dataclass(frozen=True)
class Inner:
    name: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Outer:
    inner: tuple[Inner, ...]
    share: float
    known: bool = False
    limit: float | None = None
    by_name: dict[str, Inner] = field(default_factory=dict)
    settings: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self):
        if self.share > 1:
            raise ValueError(f"share must be at most 1, got {self.share}")


ROW = {"inner": [{"name": "a", "size": [1, 2]}], "share": 0.5}


def test_lists_become_tuples_and_objects_records():
    made = from_json(Outer, {**ROW, "known": True, "limit": 3, "by_name": {"b": {"name": "b", "size": [3, 4]}},
                             "settings": {"x": {"y": 1}}})
    assert made == Outer((Inner("a", (1, 2)),), 0.5, True, 3, {"b": Inner("b", (3, 4))}, {"x": {"y": 1}})
    assert from_json(Outer, ROW) == Outer((Inner("a", (1, 2)),), 0.5)
    assert from_json(tuple[int, ...], [1, 2]) == (1, 2)


@pytest.mark.parametrize("row, words", [
    ([], "the value must be an object, got \\[\\]"),
    ({**ROW, "inner": {}}, "inner must be a list, got {}"),
    ({**ROW, "inner": ["a"]}, "inner must be an object, got 'a'"),
    ({**ROW, "inner": [{"name": 1, "size": [1, 2]}]}, "inner.name must be of type str, got 1"),
    ({**ROW, "inner": [{"name": "a", "size": [1]}]}, "inner.size must have 2 values, got 1"),
    ({**ROW, "inner": [{"name": "a"}]}, "inner.size is missing"),
    ({**ROW, "inner": [{"name": "a", "size": [1, 2.5]}]}, "inner.size must be of type int, got 2.5"),
    ({**ROW, "inner": [{"name": "a", "size": [1, True]}]}, "inner.size must be of type int, got True"),
    ({**ROW, "share": None}, "share must be of type float, got None"),
    ({**ROW, "share": 2}, "share must be at most 1, got 2"),
    ({**ROW, "limit": "3"}, "limit must be of type float, got '3'"),
    ({**ROW, "by_name": []}, "by_name must be an object, got"),
    ({**ROW, "by_name": {"b": 1}}, "by_name.b must be an object, got 1"),
    ({**ROW, "settings": {"x": {"y": "z"}}}, "settings.x.y must be of type int, got 'z'"),
    ({**ROW, "shear": 1}, "outer has no field called 'shear' .*did you mean 'share'"),
    ({"share": 0.5}, "inner is missing"),
])
def test_what_is_no_record_is_refused_by_field_and_value(row, words):
    with pytest.raises(ValueError, match=words):
        from_json(Outer, row)


def test_values_can_be_held_to_more_than_their_type():
    def no_b(value, where):
        if value == "b":
            raise ValueError(f"{where} is b")

    assert from_json(Outer, ROW, check=no_b).share == 0.5
    for row, words in (({**ROW, "inner": [{"name": "b", "size": [1, 2]}]}, "top.inner.name is b"),
                       ({**ROW, "by_name": {"b": {"name": "a", "size": [1, 2]}}}, "top.by_name is b")):
        with pytest.raises(ValueError, match=words):
            from_json(Outer, row, "top", no_b)


def test_every_record_of_a_family_comes_back_as_it_went(tmp_path):
    [artifact] = made_family(tmp_path, [("dense", 0.9, 0.0, 0.01)])
    manifest = replace(folder.read_manifest(tmp_path), ranges={"fc.weight": Range(0.1, 0.5, "why")},
                       layers=(Layer("fc.weight", "linear", 1.0, (2, 3), 6),), strategies={"min": {"fc.weight": 0.1}})
    measurement = replace(made_measurement(artifact, 0.01), gate=Gate(60.0, 300.0, 1.0, None, 0.1, True),
                          temperature_c=(-3.5, 40.0), processes=(5, 5), settings={"threads": "1"})
    variant = made_variant(tmp_path, "uniform", 0.88, 0.5)
    for record in (manifest, measurement, artifact, variant, made_artifact(tmp_path, variant), RECIPE, SOURCE,
                   Source()):
        assert type(record) in (Manifest, Measurement, Artifact, Variant, Recipe, Source)
        assert from_json(type(record), json.loads(json.dumps(asdict(record)))) == record
