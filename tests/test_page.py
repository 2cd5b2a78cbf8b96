"""What report.html is made of: its figures, what the page may run, and that no name in it is markup."""

import base64
import hashlib
import json
import math
import re
import shlex
from dataclasses import replace

import pytest
from click.testing import CliRunner
from families import DEVICE, made_family, made_measurement
from many_boards import BOARDS, many_boards

from mmprune import folder
from mmprune.cli.commands import cli
from mmprune.results.among import Devices, gather, headlines
from mmprune.results.boards import read_boards
from mmprune.results.headline import Headline
from mmprune.results.page import LIBRARY, PARTS, PROGRAM, write_page
from mmprune.results.page_headline import lead
from mmprune.results.points import PointsError, read_points
from mmprune.results.proportion import interval
from mmprune.results.report import report_points
from mmprune.results.speedup import Ratio

ROWS = [("dense", 0.90, 0.0, 0.010), ("uniform", 0.88, 0.5, 0.008)]
# plotly.js-basic-dist-min 4.1.1 of npm, whose licence lies beside it
SHA256 = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"


def parts_of(page):
    """(the page's policy, its data, its scripts)."""
    text = page.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (data,) = re.findall(r'<script id="family" type="application/json">(.*?)</script>', text, re.DOTALL)
    return policy, json.loads(data), re.findall(r"<script>(.*?)</script>", text, re.DOTALL)


def test_only_the_pages_own_scripts_may_run_and_nothing_may_be_loaded(tmp_path):
    made_family(tmp_path, ROWS)
    policy, _, scripts = parts_of(write_page(tmp_path, "toy"))
    allowed = re.findall(r"'sha256-([^']*)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert len(scripts) == 2 and "default-src 'none'" in policy and "unsafe-eval" not in policy


def test_the_library_is_what_was_published():
    assert hashlib.sha256((PARTS / LIBRARY).read_bytes()).hexdigest() == SHA256
    files = {path.name for path in PARTS.iterdir()}
    assert files == {*PROGRAM, LIBRARY, "LICENSE-plotly", "template.html", "report.css"}


def test_no_part_of_the_program_makes_elements_of_text():
    """Names stay text only if nothing ever parses one."""
    parsers = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser")
    for name in PROGRAM:
        text = (PARTS / name).read_text()
        assert not parsers.search(text) and max(map(len, text.splitlines())) <= 120, name


def test_names_are_json_without_a_character_of_markup(tmp_path):
    hostile = "</script><!--<script>alert(1)</script>&amp;"
    made_family(tmp_path, ROWS)
    folder.write_variant(tmp_path, replace(folder.read_variants(tmp_path)[1], strategy=hostile))
    page = write_page(tmp_path, f"{hostile}, pruned")
    _, data, scripts = parts_of(page)
    assert data["boards"][0]["points"][1]["strategy"] == hostile and len(scripts) == 2
    assert "alert(1)</script>" not in page.read_text() and "&lt;/script&gt;&lt;!--" in page.read_text()


def test_the_figures_are_those_of_the_points(tmp_path):
    made_family(tmp_path, ROWS)
    _, data, _ = parts_of(write_page(tmp_path, "toy"))
    (board,), points = data["boards"], read_points(tmp_path)
    assert board["newest"] and not board["emulated"] and board["name"] == "A board, A cpu, 1 thread"
    assert board["costs"]["p90"] == [p.p90_s for p in points] and board["costs"]["p99"] == [None, None]
    assert board["costs"]["size"] == [10_000_000] * 2 and board["fronts"]["p50"] == {"onnxruntime": [1, 0]}
    uniform = board["points"][1]
    assert uniform["ratio"]["verdict"] == "faster" and uniform["ratio"]["value"] == pytest.approx(0.8)
    assert sum(uniform["histogram"]["counts"]) + uniform["histogram"]["slower"] == uniform["samples"] == 100
    assert uniform["turns"] == [0.008] * 10 and data["rule"]["tie"] == 0.005
    assert data["percentiles"] == {"50": 1, "90": 64, "99": 662}
    assert "throttled: 0 of 2 runs" in [f"{k}: {v}" for k, v in board["conditions"]]


def test_a_board_has_a_part_for_each_power_mode_and_its_newest_session_alone(tmp_path):
    many_boards(tmp_path, 5)
    names = [(b.session.device.board, b.session.device.power_mode, b.newest) for b in read_boards(tmp_path)]
    assert names == [("Edge box", "", True), ("Orin Nano", "MAXN", False), ("Orin Nano", "15W", False)]
    updated = replace(BOARDS[0], kernel="6.6", versions={"onnxruntime": "2.0"}, ram_bytes=BOARDS[0].ram_bytes - 2**20)
    m = made_measurement(folder.read_artifacts(tmp_path)[0], 0.123, session="later.1")
    folder.append_measurement(tmp_path, replace(m, device=updated))
    boards = read_boards(tmp_path)
    assert [(b.session.name, b.newest) for b in boards] == [("later", True), ("s2", False), ("s1", False)]
    assert [p.p50_s for p in boards[0].points] == [0.123]


def test_every_board_has_its_own_headline_and_the_name_that_choose_knows_it_by(tmp_path):
    many_boards(tmp_path, 12)
    _, data, _ = parts_of(write_page(tmp_path, "toy"))
    words = {board["headline"]["words"] for board in data["boards"]}
    assert len(words) == 3
    for board in data["boards"]:
        (name,) = shlex.split(board["word"])
        (text,) = headlines(gather([tmp_path], Devices((name,))))
        assert board["headline"]["words"] == text


def test_an_emulators_times_are_nowhere_and_its_sizes_stand(tmp_path):
    artifacts = made_family(tmp_path, ROWS)
    (tmp_path / folder.MEASUREMENTS).unlink()
    for artifact in artifacts:
        folder.append_measurement(tmp_path, made_measurement(artifact, 0.123, provenance="emulated"))
    with pytest.raises(PointsError, match="are emulated"):
        report_points(tmp_path)
    _, data, _ = parts_of(tmp_path / "report.html")
    (board,) = data["boards"]
    assert set(board["costs"]) == {"size", "memory"} == set(board["fronts"]) and not board["newest"]
    assert "123" not in json.dumps(board["points"]) and "histogram" not in board["points"][0]
    assert board["headline"]["lead"] == "Not measured on a device yet"


def test_without_points_there_is_no_page(tmp_path):
    made_family(tmp_path, ROWS)
    for variant in folder.read_variants(tmp_path):
        for artifact in (a for a in folder.read_artifacts(tmp_path) if a.variant == variant.id):
            folder.write_artifact(tmp_path, replace(artifact, sha256="0" * 64))
    with pytest.raises(PointsError, match="exported again after it was measured"):
        report_points(tmp_path)
    assert not (tmp_path / "report.html").exists() and (tmp_path / "report.md").is_file()


def test_files_exported_again_leave_no_older_board_in_their_place(tmp_path):
    """`mmprune choose` would judge the newest session, of which nothing is left."""
    dense, uniform = made_family(tmp_path, ROWS)
    other = replace(DEVICE, board="Another board")
    m = replace(made_measurement(replace(dense, sha256="0" * 64), 0.01, session="later.1"), device=other)
    folder.append_measurement(tmp_path, m)
    assert read_boards(tmp_path) == [] and uniform.sha256 != "0" * 64
    with pytest.raises(PointsError, match="exported again"):
        report_points(tmp_path)


def test_open_shows_the_page_that_was_written(tmp_path, monkeypatch):
    made_family(tmp_path, ROWS)
    shown = []
    monkeypatch.setattr("click.launch", shown.append)
    done = CliRunner().invoke(cli, ["report", str(tmp_path), "--open"])
    assert done.exit_code == 0 and shown == [(tmp_path / "report.html").as_uri()]
    assert f"report: {tmp_path / 'report.html'}" in done.stdout and (tmp_path / "report.md").is_file()
    assert CliRunner().invoke(cli, ["report", str(tmp_path)]).exit_code == 0 and len(shown) == 1


def test_the_lead_says_what_holds(tmp_path):
    made_family(tmp_path, ROWS)
    dense, sparse = read_points(tmp_path)

    def said(value, low, high, busy="", rival=dense):
        ratio = Ratio(value, low, high, 10, 10, busy=busy)
        return lead(Headline(0.9, sparse, rival, ratio, None, None, ("onnxruntime", "openvino")))

    assert said(0.5, 0.49, 0.52) == ("2.00 times as fast as the fastest dense file of onnxruntime and openvino, within "
                                     "1 point of dense accuracy")
    assert said(0.99, 0.98, 1.0) == "No sparse file is faster at this accuracy"
    assert said(0.5, 0.49, 0.52, busy="rounds") == "The machine was too busy to tell whether a sparse file is faster"
    assert lead(Headline(0.9, None, dense, None, None, None)) == "No sparse file is within 1 point of dense accuracy"
    faster = replace(dense, p50_s=0.001)
    both = Headline(0.9, sparse, dense, Ratio(0.5, 0.49, 0.52, 10, 10), faster, Ratio(4, 3.9, 4.1, 10, 10))
    assert lead(both) == "No sparse file is faster at this accuracy", "the fastest dense file counts, of any runtime"
    slower = replace(dense, p50_s=0.02)
    half = Ratio(0.5, 0.49, 0.52, 10, 10)
    both = Headline(0.9, sparse, dense, half, slower, Ratio(0.25, 0.24, 0.26, 10, 10), ("openvino",))
    assert lead(both).startswith("2.00 times as fast as the fastest dense file of openvino, within")
    less = replace(both, own=faster, of_own=Ratio(0.8, 0.79, 0.82, 10, 10))
    assert lead(less) == lead(both), "the same claim as in the terminal"
    alone = Headline(0.9, sparse, None, None, dense, half)
    assert lead(alone).startswith("2.00 times as fast as the fastest dense file of mmrt, within")
    assert lead(replace(both, guessing="10 %")).startswith("These results mean nothing")
    alone = Headline(0.9, sparse, None, None, None, None)
    assert lead(alone).startswith("No dense file was measured beside")


def test_the_interval_of_a_share_holds_as_often_as_it_says():
    """Of all counts that 200 images can give, those whose interval misses the share come up in 1 % of cases or so."""
    assert interval(0.5, 0) is None and interval(1.0, 50)[1] == 1.0 and interval(0.0, 50)[0] == 0.0
    for share in (0.3, 0.9, 0.97):
        missed = sum(math.comb(200, k) * share**k * (1 - share)**(200 - k) for k in range(201)
                     if not interval(k / 200, 200)[0] <= share <= interval(k / 200, 200)[1])
        assert 0.002 < missed < 0.025, share
