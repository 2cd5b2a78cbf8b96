import re
from pathlib import Path

import pytest

from exporters import FORMATS, load
from exporters.int8.settings import METHODS
from exporters.wanted import PRECISIONS
from mmprune.choices import LISTED, pick
from mmprune.cli.commands import cli
from mmprune.patterns import PATTERNS
from mmprune.recipes import RECIPES
from mmprune.scores import SCORES
from targets.jobs import PROFILES
from targets.on_device.job import unknown

ROOT = Path(__file__).parent.parent
TABLE = ("onnx", "openvino", "tensorrt", "mmrt")


class OddError(ValueError):
    pass


def test_a_name_that_is_there_is_handed_back():
    assert pick("format", "onnx", TABLE) == "onnx" and pick("format", "onnx", dict.fromkeys(TABLE)) == "onnx"


@pytest.mark.parametrize("name, near", [
    ("onx", "onnx"), ("tensort", "tensorrt"), ("ONNX", "onnx"), ("OpenVino", "openvino"), ("vino", "openvino"),
    ("rt", "mmrt"), ("coreml", ""), ("", ""),
])
def test_what_there_is_and_what_was_probably_meant(name, near):
    with pytest.raises(ValueError) as caught:
        pick("format", name, TABLE)
    hint = f"; did you mean '{near}'?" if near else ""
    assert str(caught.value) == f"no format called '{name}' (choose from onnx, openvino, tensorrt, mmrt){hint}"


def test_the_owner_what_else_may_be_named_and_the_error():
    with pytest.raises(OddError) as caught:
        pick("function", "mak", ["make"], OddError, owner="models.py", also="or none")
    message = "models.py has no function called 'mak' (choose from make, or none); did you mean 'make'?"
    assert str(caught.value) == message
    with pytest.raises(ValueError, match=r"no function called 'make' \(there are none\)$"):
        pick("function", "make", [])


def test_a_long_table_is_not_listed_but_three_near_names_are():
    with pytest.raises(ValueError) as caught:
        pick("model", "net1", [f"net{i:03d}" for i in range(LISTED + 1)])
    said = str(caught.value)
    assert said.startswith("no model called 'net1'; did you mean 'net0") and said.count(" or ") == 2


@pytest.mark.parametrize("name", [None, 3, ["onnx"], {"a": 1}, "x" * 10**6])
def test_what_is_no_name_is_refused_in_a_short_sentence(name):
    with pytest.raises(ValueError, match="no format called") as caught:
        pick("format", name, {"onnx": 1})
    assert len(str(caught.value)) < 200


def test_nobody_words_it_by_hand():
    """Each site that does is one more where the way out is forgotten."""
    sources = [p for folder in ("mmprune", "exporters", "targets") for p in sorted((ROOT / folder).rglob("*.py"))]
    words = re.compile(r"difflib|\((there are|choose from) \{|no \w+ called \{")
    here = [p for p in sources if p.name != "choices.py" and p.parent.name != "on_device"]  # boards have no mmprune
    assert [p.name for p in here if words.search(p.read_text())] == []


@pytest.mark.parametrize("name", ["onx", "coreml"])
def test_a_board_says_it_in_the_same_words(name):
    with pytest.raises(ValueError) as caught:
        pick("format", name, TABLE)
    assert unknown("format", name, TABLE) == str(caught.value)


def test_names_that_the_options_repeat_are_those_of_the_library():
    """The command line must know them before it loads torch, which the tables need."""
    said = {p.name: p.metavar for name in ("build", "strategies") for p in cli.commands[name].params}
    tables = {"profile": PROFILES, "recipe": RECIPES, "calibration_method": METHODS, "score": (*SCORES, "all"),
              "pattern": PATTERNS}
    assert {name: said[name] for name in tables} == {name: f"[{'|'.join(table)}]" for name, table in tables.items()}
    assert set(PRECISIONS) == {p for name in FORMATS for p in load(name).ORIGINS}
