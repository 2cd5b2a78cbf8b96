"""Fine-tuning for the promising variants only: which, from what data, resumed, and what is said of the others."""

import copy
import hashlib
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from command_line import arguments, fails, mmprune
from families import made_family
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import INPUT_SHAPE, REQUEST, SmallNet, ToySplit, make_baseline

import mmprune as package
from mmprune import candidates, folder, variant
from mmprune.candidates import judged
from mmprune.claim import claim
from mmprune.family import Baseline, Resources, build_family
from mmprune.family_plan import plan_family
from mmprune.patterns import make_masks
from mmprune.progress import quiet
from mmprune.records import Start
from mmprune.results.report import write_report
from mmprune.results.starts import order_lines, order_of, skipped_lines
from mmprune.start_loss import calibration_loss
from mmprune.workers import Processes

FIVE = replace(REQUEST, strategies=("min", "mid", "max", "interp-20", "interp-80"))
TWO = replace(FIVE, keep=2)


def contents(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """All of the five, and what was known of their starts."""
    root = tmp_path_factory.mktemp("whole")
    build_family(make_baseline, FIVE, root, Resources(threads=1))
    return root


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("two")
    build_family(make_baseline, TWO, root, Resources(threads=1))
    return root


def copied(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def test_two_of_five_are_trained_beside_the_dense_ones_and_are_those_of_a_whole_family(whole, two):
    made = folder.read_variants(two)
    assert [v.strategy for v in made[:2]] == ["dense", "dense-tuned"] and len(made) == 4
    manifest = folder.read_manifest(two)
    assert len(manifest.skipped) == 3 and not manifest.failures
    assert set(manifest.skipped) | {v.id for v in made} == set(manifest.variants)
    assert all("calibration loss" in reason for reason in manifest.skipped.values())
    a, b = contents(whole), contents(two)
    for name in b:
        if not name.endswith("start.safetensors") and name != "manifest.json":
            assert a[name] == b[name]
    starts = {str(p.parent.name) for p in two.rglob("start.json")}
    assert starts == {task.id for task in manifest.tasks if task.strategy != "dense-tuned"}


def test_more_later_adds_to_them_until_it_is_the_whole_family(whole, two, tmp_path):
    root = copied(two, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("variant.json")}
    starts = {p: p.stat().st_mtime_ns for p in root.rglob("start.json")}
    assert len(build_family(make_baseline, replace(FIVE, keep=3), root, Resources(threads=1))) == 5
    assert len(folder.read_manifest(root).skipped) == 2
    build_family(make_baseline, FIVE, root, Resources(threads=1))
    assert contents(root) == contents(whole)
    assert all(p.stat().st_mtime_ns == time for p, time in {**before, **starts}.items())


def test_fewer_later_leaves_what_there_is(whole, tmp_path):
    root = copied(whole, tmp_path)
    assert len(build_family(make_baseline, replace(FIVE, keep=1), root, Resources(threads=1))) == 7
    assert contents(root) == contents(whole) and skipped_lines(root) == ()


def test_a_family_without_records_of_its_starts_gets_them(whole, two, tmp_path):
    root = copied(whole, tmp_path)
    lost = next(root.glob("variants/m*/start.json"))
    lost.unlink()
    build_family(make_baseline, TWO, root, Resources(threads=1))
    assert contents(root) == contents(whole)


class Stop(Exception):
    """As a kill would come."""


@pytest.mark.parametrize(("where", "name", "calls"), [(candidates, "judge_start", 2), (variant, "finetune", 0),
                                                     (variant, "finetune", 2)])
def test_interrupted_before_in_or_between_the_phases_it_takes_the_same_decision(two, tmp_path, monkeypatch, where, name,
                                                                               calls):
    real, seen = getattr(where, name), []

    def until(*given):
        if len(seen) == calls:
            raise Stop
        seen.append(given)
        return real(*given)

    monkeypatch.setattr(where, name, until)
    with pytest.raises(Stop):
        build_family(make_baseline, TWO, tmp_path, Resources(threads=1))
    known = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("start.json")}
    assert len(known) == (2 if where is candidates else 5)
    monkeypatch.setattr(where, name, real)
    build_family(make_baseline, TWO, tmp_path, Resources(threads=1))
    assert contents(tmp_path) == contents(two)
    assert all(p.stat().st_mtime_ns == time for p, time in known.items())


@pytest.mark.slow
def test_several_jobs_choose_the_same(two, tmp_path):
    build_family(make_baseline, TWO, tmp_path, Resources(jobs=2, threads=1))
    assert contents(tmp_path) == contents(two)


class Unseen(ToySplit):
    """Nobody may look."""

    def batches(self, *given, **named):
        raise AssertionError("these images have no part in the choice")


def test_the_choice_is_made_without_validation_and_test_data(two, tmp_path):
    torch.manual_seed(0)
    baseline = Baseline(SmallNet().eval(), ToySplit(96, 1), Unseen(30, 2), Unseen(60, 3), INPUT_SHAPE)
    manifest = replace(plan_family(baseline, TWO), threads=1)
    claim(tmp_path, manifest)
    tasks = [task for task in manifest.tasks if task.strategy != "dense-tuned"]
    starts = judged(tmp_path, baseline, Processes(1, 1), "cpu", quiet, tasks)
    assert starts == [folder.read_start(two, task.id) for task in tasks]
    assert starts[0].macs > starts[1].macs > starts[2].macs > 0


def test_a_strategy_found_for_a_budget_is_trained_and_not_counted(tmp_path):
    found = {"conv1.weight": 0.3, "conv2.weight": 0.6, "fc.weight": 0.0}
    made = build_family(make_baseline, replace(TWO, fixed={"budget": found}), tmp_path, Resources(threads=1))
    assert len(made) == 5 and "budget" in [v.strategy for v in made]


def test_the_loss_is_the_divergence_of_the_masked_network_with_statistics_of_its_own():
    baseline = make_baseline()
    layers = {"conv2.weight": baseline.model.conv2.weight}
    masks = make_masks({n: w.detach().abs() for n, w in layers.items()}, {"conv2.weight": 0.5}, "unstructured",
                       {"conv2.weight": "conv"})
    before = copy.deepcopy(baseline.model.state_dict())
    found = calibration_loss(baseline.model, masks, baseline, 0)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), baseline.model.state_dict().values(), strict=True))
    images, _ = next(baseline.train.batches(64, seed=0))  # of the 96; the short second batch is left out
    pruned = copy.deepcopy(baseline.model)
    with torch.no_grad():
        pruned.conv2.weight *= masks["conv2.weight"]
        for norm in (pruned.bn1, pruned.bn2):
            norm.train().momentum = 1.0
        pruned(images)
        goal, own = F.softmax(baseline.model(images), 1), F.softmax(pruned.eval()(images), 1)
    assert found == pytest.approx(float((goal * (goal / own).log()).sum(1).mean()), rel=1e-4)


def test_without_norms_nothing_pruned_is_nothing_lost_and_infinity_is_none():
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    baseline = Baseline(net, ToySplit(96, 1), ToySplit(30, 2), ToySplit(60, 3), INPUT_SHAPE)
    assert calibration_loss(net, {"1.weight": torch.ones(3, 72, dtype=torch.bool)}, baseline, 0) == 0.0
    broken = copy.deepcopy(net)
    broken[1].weight.data[:] = math.inf
    assert calibration_loss(broken, {"1.weight": torch.ones(3, 72, dtype=torch.bool)}, baseline, 0) is None
    with pytest.raises(ValueError, match="a start's loss must be finite"):
        Start(math.nan, 1)


def test_pairs_are_right_wrong_or_ties():
    known = [(0.1, 0.9), (0.2, 0.8), (0.3, 0.8), (0.05, 0.7)]
    # The first with the second and the third: right; each with the last: wrong; the second and third are equal
    assert order_of(known) == (2, 5)
    assert order_of([(0.1, 0.9), (0.1, 0.8)]) == (0, 0) and order_of(known[:1]) == (0, 0)
    # .9 and .7 of 100: sqrt((.09 + .21) / 100) = .055, apart; .9 and .8: sqrt((.09 + .16) / 100) = .05, twice is not
    assert order_of(known, 100) == (0, 1)
    assert order_of(known, 101) == (2, 3)  # .8 and .7: .060


def test_the_report_names_the_skipped_and_how_often_the_order_was_right(tmp_path):
    made_family(tmp_path, [("dense", 0.90, 0.0, 0.010), ("a", 0.88, 0.5, 0.008), ("b", 0.86, 0.6, 0.007),
                           ("c", 0.84, 0.7, 0.006)])
    assert "alibration loss" not in write_report(tmp_path).read_text()
    for name, loss in (("a", 0.2), ("b", 0.1), ("c", 0.3)):
        folder.write_start(tmp_path, f"{name}-0001", Start(loss, 10))
    words = ("calibration loss before training has the order of final accuracies right in 2 of 3 pairs of variants "
             "(67 %), but no pair differs by more than two standard errors of 100 test images")
    assert order_lines(tmp_path) == (words,)
    manifest = folder.read_manifest(tmp_path)
    many = replace(manifest.images, test=1000)
    folder.write_manifest(tmp_path, replace(manifest, skipped={"b-0001": "why"}, images=many))
    assert "(67 %), in 1 of the 1 pairs that differ by more" in order_lines(tmp_path)[0]  # a and c: .04 and .031
    assert skipped_lines(tmp_path) == ()  # made since
    (tmp_path / "variants/b-0001/variant.json").unlink()
    (tmp_path / folder.MEASUREMENTS).unlink()
    text = write_report(tmp_path).read_text()
    assert "multiply-accumulates: b; a larger --keep adds them" in text and "right in 1 of 1 pairs" in text


def test_from_python_a_skipped_one_is_told_by_name(tmp_path, capsys):
    splits = {name: ToySplit(48, seed) for seed, name in enumerate(("train", "val", "test"))}
    loaders = {name: DataLoader(TensorDataset(s.images, s.labels), 16) for name, s in splits.items()}
    prune = partial(package.prune, make_baseline().model, **loaders, out=tmp_path, epochs=0, quiet=True)
    made = prune(strategies=("min", "mid", "max"), keep=1)
    assert len(made) == 2 and "note: not fine-tuned" in capsys.readouterr().err
    missing = next(name for name in ("min", "mid", "max") if name not in [v.strategy for v in made.variants])
    with pytest.raises(KeyError, match=f"'{missing}' was not fine-tuned .*build again with a larger keep"):
        made[missing]
    with pytest.raises(ValueError, match="keep must be a whole number"):
        prune(keep=0)


def test_the_command_keeps_and_says_so(toy, tmp_path):
    done = mmprune(*arguments(toy, tmp_path / "out", "--keep", 2, "--formats", "onnx"))
    assert done.code == 0, done.stderr
    assert "note: not fine-tuned, for others are more promising" in done.stderr
    report = (tmp_path / "out/report.md").read_text()
    assert "Not fine-tuned, for others are more promising" in report
    assert len(list((tmp_path / "out").glob("variants/*/variant.json"))) == 4
    fails(2, "0 is not in the range x>=1", *arguments(toy, tmp_path / "out", "--keep", 0))
    help_ = mmprune("build", "--help").stdout
    assert "--keep K" in help_ and "--keep-on-board" in help_
