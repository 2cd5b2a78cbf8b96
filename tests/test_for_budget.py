"""A family's plan for a budget, on a device whose times are known, and with real files on this machine."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from families import made_artifact, made_measurement, made_variant
from toys import make_baseline

from exporters import ExportError
from exporters.timing_files import TimingFile
from mmprune import folder, for_budget, timing
from mmprune.boards import Measuring
from mmprune.budget.plan import BudgetError, Goal, path_of, read_plan
from mmprune.budget.table import SPARSITIES
from mmprune.cli.arguments import goal
from mmprune.cli.commands import cli
from mmprune.family import Request, Resources, build_family
from mmprune.family_plan import plan_family
from mmprune.for_budget import allowed_levels, find_plan
from mmprune.patterns import ZEROS
from mmprune.progress import quiet
from mmprune.recipes import make_recipe
from mmprune.records import Range, Step
from mmprune.results.budget_lines import budget_lines
from mmprune.rivals import SEARCH, Rivals, compare
from mmprune.runtime_files import runtime_files
from mmprune.timing import Setting, time_files, timing_file
from mmprune.workflow import BuildOptions, build

REST_S, PER_WEIGHT_S = 2e-4, 1e-6  # 72 + 1,152 + 48 weights: the dense model takes 1.472 ms
DENSE_S = REST_S + 1272 * PER_WEIGHT_S


def setting(root, asked, **changes):
    manifest = plan_family(make_baseline(), Request(make_recipe("default", epochs=0), ("magnitude",), ("min",)))
    return Setting(make_baseline(), manifest.layers, manifest.ranges, "unstructured", (("mmrt", "fp32"),), "local",
                   asked, root, **changes)


@pytest.fixture
def board(monkeypatch, tmp_path):
    """A device on which a weight that is not zero takes a microsecond; found models take `slower` times as long.

    Returns the names of what was timed, and how much slower.
    """
    artifact = made_artifact(tmp_path / "made", made_variant(tmp_path / "made", "dense", 0.9, 0.0), "mmrt")
    state, known = {"timed": [], "slower": 1.0}, {}

    def fake_file(given, sparsity, name):
        known[name] = sparsity
        return TimingFile(replace(artifact, id=name), {n: n for n in sparsity})

    def fake_times(given, files, *, steps):
        found = []
        for file in files:
            state["timed"].append(file.artifact.id)
            layers = {x.name: x.params for x in given.layers}
            times = {n: PER_WEIGHT_S * (layers[n] - int(layers[n] * s + 1e-6))
                     for n, s in known[file.artifact.id].items()}
            whole = (REST_S + sum(times.values())) * (state["slower"] if file.artifact.id.startswith("found") else 1.0)
            found.append(replace(made_measurement(file.artifact, whole, "mmrt"), steps=tuple(
                Step(n, "LINEAR", "", (t,) * 10) for n, t in times.items())))
        return found

    monkeypatch.setattr(timing, "timing_file", fake_file)
    monkeypatch.setattr(timing, "time_files", fake_times)
    monkeypatch.setattr(timing, "why_unmeasurable", lambda given: "")
    monkeypatch.setattr(for_budget, "EFFORT", (30, 40))
    monkeypatch.setattr(for_budget, "compare", lambda *given: Rivals({SEARCH: 0.0}, {}, ()))
    return state


def predicted_s(plan, layers):
    return REST_S + PER_WEIGHT_S * sum(x.params - int(x.params * plan.sparsity[x.name] + 1e-6) for x in layers)


@pytest.mark.parametrize("asked", [Goal(max_latency_s=8e-4), Goal(speedup=2.0)])
def test_a_plan_lands_within_five_percent_below_its_budget(tmp_path, board, asked):
    given = setting(tmp_path / "family", asked)
    plan = find_plan(given)
    assert plan.dense == pytest.approx(DENSE_S) and plan.limit == pytest.approx(asked.limit(DENSE_S))
    assert 0.95 * plan.limit <= plan.trial <= plan.limit and plan.trials == 1 and plan.notes == ()
    assert plan.predicted == pytest.approx(plan.trial, rel=0.01)
    assert plan.trial == pytest.approx(predicted_s(plan, given.layers))
    assert plan.loss <= min(plan.starts.values()) and set(plan.starts) == {"quadratic", "uniform", "erk", "errors"}
    (table,) = (tmp_path / "family" / "budget").glob("table-*.json")
    rows = json.loads(table.read_text())
    assert rows["layers"]["conv2.weight"][0] == pytest.approx(1152 * PER_WEIGHT_S)
    assert rows["rests"] == pytest.approx([REST_S] * len(SPARSITIES))


def test_a_rule_that_loses_less_at_the_same_cost_is_taken_and_timed(tmp_path, board, monkeypatch):
    given, seen = setting(tmp_path / "family", Goal(max_latency_s=8e-4)), []

    def lamp_loses_less(*asked):
        seen.append(asked)
        found = compare(*asked)
        assert set(found.losses) == {SEARCH, "uniform", "erk", "lamp", "global"}
        return replace(found, losses={**found.losses, "lamp": 0.5 * min(found.losses.values())})

    monkeypatch.setattr(for_budget, "compare", lamp_loses_less)
    board["slower"] = 1.1
    plan = find_plan(given)
    (_, problem, searched), = seen
    assert plan.chosen == "lamp" and plan.sparsity != searched
    assert plan.sparsity["conv1.weight"] == 0, "rules leave the stem dense"
    assert 0.95 * plan.limit <= plan.trial <= plan.limit and plan.trials >= 2
    assert plan.trial == pytest.approx(REST_S * 1.1 + 1.1 * (predicted_s(plan, given.layers) - REST_S))
    assert read_plan(given.root).rivals == plan.rivals
    cost = for_budget.interpolated(problem, [plan.sparsity[x.name] for x in given.layers], SPARSITIES)
    assert cost == pytest.approx(problem.budget, rel=0.02)


def test_a_rule_that_does_not_fit_gives_way_to_what_was_found(tmp_path, board, monkeypatch):
    real = for_budget.try_out

    def slow_by_rule(given, sparsity):
        dense, cost = real(given, sparsity)
        return dense, cost if sparsity["conv1.weight"] else 1e-3  # rules leave the stem dense

    monkeypatch.setattr(for_budget, "try_out", slow_by_rule)
    monkeypatch.setattr(for_budget, "compare", lambda *given: replace(
        compare(*given), losses={SEARCH: 1.0, "lamp": 0.1}))
    plan = find_plan(setting(tmp_path / "family", Goal(max_latency_s=8e-4)))
    assert plan.sparsity["conv1.weight"] > 0, "the search prunes the stem here"
    assert plan.chosen == SEARCH and plan.trial <= plan.limit and plan.trials > for_budget.TRIALS


def test_a_rule_must_lose_clearly_less():
    assert Rivals({SEARCH: 1.0, "lamp": 0.99}, {}, ()).best == SEARCH
    assert Rivals({SEARCH: 1.0, "lamp": 0.97, "erk": 0.98}, {}, ()).best == "lamp"


def test_where_surgery_takes_long_no_rule_is_pruned(tmp_path, board, monkeypatch):
    monkeypatch.setattr("mmprune.rivals.SURGERY_S", 0.0)
    monkeypatch.setattr(for_budget, "compare", compare)
    plan = find_plan(setting(tmp_path / "family", Goal(max_latency_s=8e-4)))
    assert set(plan.rivals) == {SEARCH} and plan.chosen == SEARCH
    assert "not compared with published rules" in plan.notes[0]


def test_a_prediction_that_misses_is_corrected_by_what_was_measured(tmp_path, board):
    board["slower"] = 1.15
    plan = find_plan(setting(tmp_path / "family", Goal(max_latency_s=8e-4)))
    assert plan.trials == 2 and plan.factor == pytest.approx(1.15, rel=0.01) and 7.6e-4 <= plan.trial <= 8e-4
    assert [n.partition("-")[0] for n in board["timed"][10:]] == ["uniform", "found"] * 2


def test_a_plan_that_never_fits_says_by_how_much(tmp_path, board, monkeypatch):
    monkeypatch.setattr(for_budget, "try_out", lambda given, levels: (DENSE_S, 8.1e-4))
    plan = find_plan(setting(tmp_path / "family", Goal(max_latency_s=8e-4)))
    assert plan.trials == for_budget.TRIALS and "1.2% above the budget of 0.8 ms" in plan.notes[0]


def test_a_plan_is_found_once(tmp_path, board):
    root = tmp_path / "family"
    plan = find_plan(setting(root, Goal(speedup=1.5)))
    count = len(board["timed"])
    assert find_plan(setting(root, Goal(speedup=1.5))) == plan and len(board["timed"]) == count
    assert find_plan(setting(root, Goal(speedup=1.6))) != plan and len(board["timed"]) > count
    request = Request(make_recipe("default", epochs=0), strategies=("budget", "min"), fixed={"budget": plan.sparsity})
    build_family(make_baseline, request, root, Resources())
    with pytest.raises(folder.FolderError, match=r"another budget \(1.6 times as fast"):
        find_plan(setting(root, Goal(speedup=1.7)))


def test_a_folder_of_other_things_is_refused_before_anything_is_timed(tmp_path, board):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(folder.FolderError, match="is not empty and holds no family"):
        find_plan(setting(tmp_path, Goal(speedup=1.5)))
    assert board["timed"] == [] and not (tmp_path / "budget").exists()


def test_the_family_holds_the_planned_sparsities(tmp_path, board):
    root = tmp_path / "family"
    plan = find_plan(setting(root, Goal(speedup=1.5)))
    request = Request(make_recipe("default", epochs=0), strategies=("budget",), fixed={"budget": plan.sparsity})
    variants = build_family(make_baseline, request, root, Resources())
    assert [v.strategy for v in variants] == ["dense", "budget"]
    sizes = {x.name: x.params for x in folder.read_manifest(root).layers}
    assert variants[1].layer_sparsity == {n: int(sizes[n] * s + 1e-6) / sizes[n] for n, s in plan.sparsity.items()}
    first, judged = budget_lines(root)[:2]
    assert "1.5 times as fast as the dense model, 0.9813 ms for the median of mmrt-fp32" in first
    assert f"{plan.evaluations} judgements of models" in judged
    with_ten = plan_family(make_baseline(), replace(request, strategies=()))
    assert len(with_ten.strategies) == 11 and list(with_ten.strategies)[-1] == "budget"


def test_the_measured_latency_stands_beside_the_predicted_one(tmp_path, board):
    root = tmp_path / "family"
    plan = find_plan(setting(root, Goal(speedup=1.5)))
    request = Request(make_recipe("default", epochs=0), strategies=("budget",), fixed={"budget": plan.sparsity})
    for variant, latency_s in zip(build_family(make_baseline, request, root, Resources()), (3e-3, 1.8e-3), strict=True):
        artifact = replace(made_artifact(root, variant, "mmrt"), precision="fp32")
        folder.write_artifact(root, artifact)
        folder.append_measurement(root, made_measurement(artifact, latency_s, "mmrt"))
    text = "\n".join(budget_lines(root))
    assert "measured at 1.8 ms (p50), 10.0% below the budget of 2 ms" in text and "1.67 times as fast" in text
    assert "the dense model took 3 ms in that session and 1.472 ms when the budget was planned (+103.8%)" in text


def test_a_budget_in_multiply_accumulates_is_never_told_in_seconds(tmp_path):
    root = tmp_path / "family"
    plan = find_plan(replace(setting(root, Goal(speedup=1.5)), wanted=(("onnx", "fp32"),)))
    request = Request(make_recipe("default", epochs=0), strategies=("budget",), fixed={"budget": plan.sparsity})
    dense, sparse = build_family(make_baseline, request, root, Resources())
    artifact = replace(made_artifact(root, sparse, "mmrt"), precision="fp32")
    folder.write_artifact(root, artifact)
    folder.append_measurement(root, made_measurement(artifact, 1.8e-3, "mmrt"))
    text = "\n".join(budget_lines(root))
    assert "million multiply-accumulates" in text and " ms" not in text and "mmrt-" not in text.partition("\n")[0]
    artifact = replace(made_artifact(root, dense, "mmrt"), precision="fp32")
    folder.write_artifact(root, artifact)
    folder.append_measurement(root, made_measurement(artifact, 3e-3, "mmrt"))
    assert "measured at 1.8 ms (p50), 10.0% below the budget of 2 ms, 1.67 times" in "\n".join(budget_lines(root))


@pytest.mark.parametrize("asked, reason", [
    (Goal(max_latency_s=2e-3), r"nothing needs pruning: the dense model takes 1.472 ms, within the budget of 2 ms"),
    (Goal(speedup=1.0), "nothing needs pruning"),
    (Goal(max_latency_s=1e-4), r"takes 0.227 ms, 6.48 times as fast .* ask for --max-latency-ms 0.227 or more"),
    (Goal(speedup=20.0), r"no sparsities fit a budget of 20 times .* ask for --speedup 6.48 or less"),
])
def test_budgets_that_no_model_or_every_model_meets_name_what_would(tmp_path, board, asked, reason):
    with pytest.raises(BudgetError, match=reason):
        find_plan(setting(tmp_path / "family", asked))
    assert read_plan(tmp_path / "family") is None


def test_a_budget_that_was_not_found_is_on_record(tmp_path):
    why = {"budget": "it was not built: why"}
    request = Request(make_recipe("default", epochs=0), strategies=("max",), unfound=why)
    build_family(make_baseline, request, tmp_path / "family", Resources())
    assert folder.read_manifest(tmp_path / "family").failures == why
    build_family(make_baseline, request, tmp_path / "family", Resources())
    assert folder.read_manifest(tmp_path / "family").failures == why, "also again"
    build_family(make_baseline, replace(request, unfound={}), tmp_path / "family", Resources())
    assert folder.read_manifest(tmp_path / "family").failures == {}, "until it is built or not asked for"


def test_the_fastest_that_can_be_is_found_where_only_that_fits(tmp_path, board):
    plan = find_plan(setting(tmp_path / "family", Goal(max_latency_s=2.3e-4)))
    assert set(plan.sparsity.values()) == {0.98} and plan.trial <= 2.3e-4


def test_without_a_device_multiply_accumulates_stand_in(tmp_path):
    given = replace(setting(tmp_path, Goal(speedup=2.0)), wanted=(("onnx", "fp32"),))
    plan = find_plan(given)
    left = sum(x.macs * (1 - ZEROS["unstructured"](x.shape, plan.sparsity[x.name], x.kind) / x.params)
               for x in given.layers)
    dense = sum(x.macs for x in given.layers)
    assert 0.45 * dense <= left <= 0.5 * dense and plan.predicted == pytest.approx(left, rel=0.01)
    assert plan.unit == "multiply-accumulates" and plan.trial is None and not plan.is_measured
    assert "multiply-accumulates stand in" in plan.notes[0] and "no .mmrt file is made for local" in plan.notes[0]
    with pytest.raises(BudgetError, match="no latency in milliseconds can be predicted: give --speedup"):
        find_plan(replace(given, goal=Goal(max_latency_s=1e-3), root=tmp_path / "other"))


def test_a_board_that_is_not_here_and_a_model_that_mmrt_lacks_are_said(tmp_path, monkeypatch):
    far = replace(setting(tmp_path / "a", Goal(speedup=2.0)), target="raspberry-pi-5")
    assert "give --host" in find_plan(far).notes[0]

    def refuse(*given):
        raise ExportError("mmrt has no operator Loop")

    monkeypatch.setattr(timing, "timing_file", refuse)
    monkeypatch.setattr(timing, "why_unmeasurable", lambda given: "")
    plan = find_plan(setting(tmp_path / "b", Goal(speedup=2.0)))
    assert "mmrt cannot run the model: mmrt has no operator Loop" in plan.notes[0]


def test_a_total_that_no_strategy_can_have_does_not_concern_a_budget_alone(tmp_path, monkeypatch):
    class Asked(Exception):
        """As far as this test goes."""

    def stop(given):
        raise Asked([x.name for x in given.layers])

    monkeypatch.setattr(for_budget, "find_plan", stop)
    with pytest.raises(Asked, match=r"conv1\.weight"):
        build(BuildOptions("local", tmp_path, strategies=("budget",), goal=Goal(speedup=2.0), total_sparsity=0.999),
              quiet)


def test_the_dense_network_is_judged_once_and_its_file_made_once(tmp_path, board, monkeypatch):
    judged, made, real, fake = [], [], for_budget.Stitched.loss, timing.timing_file

    def count(self, levels, every):
        judged.append((tuple(levels), every))
        return real(self, levels, every)

    def made_file(given, sparsity, name):
        made.append(name)
        return fake(given, sparsity, name)

    monkeypatch.setattr(for_budget.Stitched, "loss", count)
    monkeypatch.setattr(timing, "timing_file", made_file)
    find_plan(setting(tmp_path / "family", Goal(speedup=1.5)))
    assert len(judged) == len(set(judged)) > 20 and len(made) == len(set(made)) == len(SPARSITIES) + 1


def test_only_the_users_own_ranges_bind(tmp_path):
    layers = setting(tmp_path, Goal(speedup=2.0)).layers
    names = [x.name for x in layers]
    ranges = {**{n: Range(0.0, 0.1, "small: a rule") for n in names}, names[1]: Range(0.2, 0.7, "override: [layers] x")}
    found = allowed_levels(layers, ranges, "unstructured")
    at = np.array(SPARSITIES)
    assert found[0].all() and list(at[found[1]]) == [0.3, 0.5, 0.6, 0.7]
    narrow = {names[1]: Range(0.2, 0.25, "override: [layers] x"), names[2]: Range(0.0, 0.2, "override: [layers] x")}
    assert [list(at[row]) for row in allowed_levels(layers, narrow, "unstructured")[1:]] == [[0.0], [0.0]]
    blocks = allowed_levels(layers, ranges, "block-1x4")
    assert not blocks[0, 1:].any(), "a stem with one input has no blocks"
    assert at[allowed_levels(layers, ranges, "2:4").any(0)].max() <= 0.5


def test_the_command_line_gives_a_goal_and_refuses_two():
    assert goal({"max_latency_ms": 6.0, "speedup": None}) == Goal(max_latency_s=0.006)
    assert goal({"max_latency_ms": None, "speedup": 2.0}) == Goal(speedup=2.0)
    assert goal({"max_latency_ms": None, "speedup": None}) is None
    done = CliRunner().invoke(cli, ["build", "--target", "x86", "--max-latency-ms", "6", "--speedup", "2"])
    assert done.exit_code == 2 and "give --max-latency-ms or --speedup, not both" in done.output
    with pytest.raises(ValueError, match="give --max-latency-ms or --speedup"):
        BuildOptions("x86", strategies=("budget",))
    assert BuildOptions("x86", strategies=("budget", "min"), goal=Goal(speedup=2.0)).goal == Goal(speedup=2.0)


def test_a_goal_is_one_number_above_zero():
    for wrong in ({}, {"max_latency_s": 1.0, "speedup": 2.0}, {"speedup": 0.0}, {"max_latency_s": float("nan")}):
        with pytest.raises(ValueError, match="budget"):
            Goal(**wrong)


def test_real_files_are_timed_step_by_step_and_the_model_stays_as_it_was(tmp_path):
    try:
        runtime_files()
    except FileNotFoundError as err:
        pytest.skip(str(err))
    given = setting(tmp_path, Goal(speedup=2.0), measuring=Measuring("smoke"))
    given.folder.mkdir()
    before = {n: w.clone() for n, w in given.baseline.model.state_dict().items()}
    names = [x.name for x in given.layers]
    files = [timing_file(given, dict.fromkeys(names, s), f"uniform-{s:g}") for s in (0.0, 0.9)]
    assert all(torch.equal(before[n], w) for n, w in given.baseline.model.state_dict().items())
    dense, sparse = time_files(given, files, steps=True)
    assert dense.artifact == "uniform-0/mmrt-fp32" and sparse.artifact == "uniform-0.9/mmrt-fp32"
    for m, file in ((dense, files[0]), (sparse, files[1])):
        assert {s.name for s in m.steps} >= set(file.nodes) and m.runtime == "mmrt" and m.provenance == "measured"
        assert all(len(s.seconds) == len(m.latencies_s) and min(s.seconds) >= 0 for s in m.steps)
    assert folder.read_measurements(given.folder) == [dense, sparse]
    assert not list(tmp_path.rglob("*.log")) and not path_of(tmp_path).exists()
