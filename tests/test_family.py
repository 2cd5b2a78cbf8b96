"""A family on disk: bit for bit the same, resumable at any moment, never mixed with another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import REQUEST, make_baseline
from whole_families import KILLED, contents

import mmprune
from mmprune import family, folder
from mmprune.claim import claim
from mmprune.family import Baseline, Request, Resources, build_family
from mmprune.family_plan import plan_family
from mmprune.finetune import accuracy, renew_statistics
from mmprune.patterns import PATTERNS, ZEROS, zeros_in_blocks
from mmprune.recipes import RECIPES, make_recipe
from mmprune.records import Preprocess, Source
from mmprune.results.starts import ending_lines
from mmprune.variant import load_variant
from mmprune.workers import Processes, Work, run_tasks


def test_records_say_what_the_files_hold(tmp_path):
    variants = build_family(make_baseline, REQUEST, tmp_path, Resources())
    assert [v.strategy for v in variants] == ["dense", "dense-tuned", "min", "mid", "max"]
    layers = {x.name: x for x in folder.read_manifest(tmp_path).layers}
    assert set(layers) == {"conv1.weight", "conv2.weight", "fc.weight"}
    for variant, asked in zip(variants[2:], (0.2, 0.5, 0.8), strict=True):
        state = load_file(tmp_path / variant.files["weights"])
        assert int((state["conv2.weight"] == 0).sum()) == int(8 * 16 * 9 * asked + 1e-6)
        assert variant.layer_sparsity["conv1.weight"] == int(72 * asked + 1e-6) / 72
        zeros = sum(int((state[n] == 0).sum()) for n in layers)
        assert variant.sparsity == zeros / (72 + 1152 + 48)
        model = load_variant(tmp_path, variant, make_baseline().model)
        assert torch.equal(model.conv2.weight, state["conv2.weight"])


def test_the_threads_of_the_caller_s_torch_stay(tmp_path):
    before = torch.get_num_threads()
    build_family(make_baseline, REQUEST, tmp_path, Resources(threads=before + 1))
    assert torch.get_num_threads() == before


def test_same_command_same_bits_and_nothing_is_done_twice(tmp_path):
    build_family(make_baseline, REQUEST, tmp_path / "a", Resources(threads=1))
    build_family(make_baseline, REQUEST, tmp_path / "b", Resources(threads=1))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("weights.safetensors")}
    build_family(make_baseline, REQUEST, tmp_path / "a", Resources(threads=1))
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("weights.safetensors")}


def test_a_finished_family_is_not_searched_for_channels_again(tmp_path, monkeypatch):
    seen, real = [], family.find_chains
    monkeypatch.setattr(family, "find_chains", lambda *given: (seen.append(given), real(*given))[1])
    request = replace(REQUEST, recipe=make_recipe("default", epochs=0), strategies=("max",), pattern="block-1x4")
    for _ in range(2):
        build_family(make_baseline, request, tmp_path, Resources(threads=1))
        assert len(seen) == 1


def test_several_jobs_make_the_same(tmp_path):
    build_family(make_baseline, REQUEST, tmp_path / "one", Resources(threads=1))
    build_family(make_baseline, REQUEST, tmp_path / "two", Resources(jobs=2, threads=1))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def begun_with_two_jobs(tmp_path_factory):
    """Made by two jobs on four threads."""
    before, root = torch.get_num_threads(), tmp_path_factory.mktemp("begun") / "family"
    torch.set_num_threads(4)
    build_family(make_baseline, REQUEST, root, Resources(jobs=2))
    torch.set_num_threads(before)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [2, 1, 4])
def test_threads_are_those_that_the_family_was_begun_with_not_what_is_left_to_make(begun_with_two_jobs, tmp_path,
                                                                                  monkeypatch, four_threads, jobs):
    """Begun with two jobs on four threads and killed when one variant was left: that one, too, is made with two."""
    shutil.copytree(begun_with_two_jobs, tmp_path, dirs_exist_ok=True)
    whole = contents(tmp_path)
    assert folder.read_manifest(tmp_path).threads == 2
    shutil.rmtree(next((tmp_path / "variants").glob("max-*")))
    real, seen = mmprune.variant.finetune, []
    monkeypatch.setattr("mmprune.variant.finetune", lambda *a: (seen.append(torch.get_num_threads()), real(*a))[1])
    build_family(make_baseline, REQUEST, tmp_path, Resources(jobs=jobs))
    assert set(seen) == {2} and torch.get_num_threads() == 4
    assert contents(tmp_path) == whole
    with pytest.raises(folder.FolderError, match="built with 2 torch threads per job, but 3 are requested"):
        build_family(make_baseline, REQUEST, tmp_path, Resources(threads=3))


@pytest.mark.parametrize("left", [1, *(pytest.param(left, marks=pytest.mark.slow) for left in (2, 3))])
def test_a_job_s_threads_do_not_depend_on_the_tasks_left(four_threads, left):
    seen = []
    run_tasks(Work(say_threads, make_nothing), range(left), Processes(jobs=2), lambda *told: seen.append(told[-1]))
    assert seen == ["2"] * left


def say_threads():
    return str(torch.get_num_threads())


def make_nothing(threads, root, task, tick):
    return threads




@pytest.mark.parametrize("wait_for", ["variants/*/checkpoint.pt", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("variants/m*/variant.json", "manifest.json"))])
def test_killed_and_started_again(tmp_path, wait_for):
    build_family(make_baseline, REQUEST, tmp_path / "whole", Resources(threads=1))
    root = tmp_path / "killed"
    program = KILLED.format(tests=str(Path(__file__).parent / "support"), root=str(root))
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while not list(root.glob(wait_for)) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(root.glob("variants/*/variant.json"))) < 5
    build_family(make_baseline, REQUEST, root, Resources(threads=1))
    assert contents(root) == contents(tmp_path / "whole")


def test_killed_between_a_variant_s_end_and_its_checkpoint_s(tmp_path):
    variants = build_family(make_baseline, REQUEST, tmp_path, Resources())
    whole = contents(tmp_path)
    (folder.variant_folder(tmp_path, variants[1].id) / "checkpoint.pt").write_bytes(b"of the last epoch")
    build_family(make_baseline, REQUEST, tmp_path, Resources())
    assert contents(tmp_path) == whole


def test_another_command_is_refused_and_told_what_differs(tmp_path):
    build_family(make_baseline, REQUEST, tmp_path, Resources())
    before = contents(tmp_path)
    longer = make_recipe("default", epochs=3, batch_size=16)
    for other, words in ((replace(REQUEST, seed=1), "spec.seed: 0 in the folder, 1 requested"),
                         (replace(REQUEST, recipe=longer), "spec.recipe.epochs: 2 in the folder, 3 requested"),
                         (replace(REQUEST, pattern="2:4"), 'spec.pattern: "unstructured" in the folder')):
        with pytest.raises(folder.FolderError, match=words):
            build_family(make_baseline, other, tmp_path, Resources())
    with pytest.raises(folder.FolderError, match="of other weights"):
        build_family(lambda: make_baseline(seed=5), REQUEST, tmp_path, Resources())
    assert contents(tmp_path) == before


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(folder.FolderError, match="is not empty and holds no family"):
        build_family(make_baseline, REQUEST, tmp_path, Resources())
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_in_use_is_refused(tmp_path):
    with folder.locked(tmp_path), pytest.raises(folder.FolderError, match="another mmprune is working"):
        build_family(make_baseline, REQUEST, tmp_path, Resources())


def test_a_diverged_variant_is_left_out_and_the_others_go_on(tmp_path):
    request = replace(REQUEST, recipe=make_recipe("paper", epochs=1, lr=1e30))
    assert [v.strategy for v in build_family(make_baseline, request, tmp_path, Resources())] == ["dense"]
    failures = folder.read_manifest(tmp_path).failures
    assert len(failures) == 4 and all("lower --lr" in reason for reason in failures.values())


def test_a_variant_that_training_ruins_is_kept_as_it_was_before_with_a_word(tmp_path):
    """The dense model is always right, so is a variant with hardly any zeros, and a rate of 10 ruins both."""
    def right() -> Baseline:
        baseline = make_baseline()
        renew_statistics(baseline.model, [baseline.train.images])
        with torch.no_grad():  # so that each class is some images' answer
            baseline.model.fc.bias -= baseline.model(baseline.validation.images).mean(0)
        for split in (baseline.train, baseline.validation, baseline.test):
            split.labels = baseline.model(split.images).argmax(1)
        return baseline

    request = replace(REQUEST, recipe=make_recipe("default", epochs=1, lr=10.0), strategies=("min",),
                      overrides={"layers": {"*": [0.02, 0.02]}})
    untrained = replace(request, recipe=make_recipe("default", epochs=0))
    dense, tuned, pruned = build_family(right, request, tmp_path / "trained", Resources())
    _, expected = build_family(right, untrained, tmp_path / "untrained", Resources())
    assert [v.untrained for v in (dense, tuned, pruned, expected)] == [False, True, True, False]
    assert tuned.validation_accuracy == dense.validation_accuracy == 1.0
    assert tuned.weights_sha256 == dense.weights_sha256
    assert pruned.accuracy == expected.accuracy and pruned.weights_sha256 == expected.weights_sha256
    (line,) = ending_lines(tmp_path / "trained")
    assert tuned.id in line and pruned.id in line
    assert ending_lines(tmp_path / "untrained") == ()


def test_gradient_scores_are_stored_once(tmp_path):
    scores = ("magnitude", "gradient", "product")
    request = replace(REQUEST, scores=scores, strategies=("mid",))
    variants = build_family(make_baseline, request, tmp_path, Resources())
    assert [(v.strategy, v.score) for v in variants[2:]] == [("mid", score) for score in scores]
    assert set(load_file(tmp_path / "scores/gradient.safetensors")) == {"conv1.weight", "conv2.weight", "fc.weight"}
    assert len({v.id for v in variants}) == 5


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_pattern_holds_through_every_score_and_recipe(tmp_path, pattern, recipe):
    """The zeros of the file are those that the pattern gives of what was asked, and blocks are whole after training."""
    asked = {"layers": {"conv2*": [0.6, 0.8]}}
    request = Request(make_recipe(recipe, epochs=1, batch_size=32), ("magnitude", "gradient", "product"),
                      ("min", "max"), pattern, overrides=asked)
    variants = build_family(make_baseline, request, tmp_path, Resources())[2:]
    assert len(variants) == 6 and {v.pattern for v in variants} == {pattern}
    for variant in variants:
        manifest = folder.read_manifest(tmp_path)
        sparsity = manifest.strategies[variant.strategy]
        zeros = {x.name: ZEROS[pattern](x.shape, sparsity[x.name], x.kind) for x in manifest.layers}
        assert {n: round(s * x.params) for x in manifest.layers for n, s in variant.layer_sparsity.items()
                if n == x.name} == zeros
        weights = load_file(tmp_path / variant.files["weights"])
        in_blocks = sum(zeros_in_blocks(weights[n]) for n in zeros)
        assert variant.block_sparsity == in_blocks / sum(weights[n].numel() for n in zeros)
        if pattern == "block-1x4":
            assert in_blocks == sum(zeros.values()) > 0


def test_a_record_that_lacks_a_field_or_has_one_more_is_refused_by_name(tmp_path):
    variant = build_family(make_baseline, REQUEST, tmp_path, Resources())[1]
    path = folder.variant_folder(tmp_path, variant.id) / "variant.json"
    row = folder.read_json(path)
    folder.write_json(path, {k: v for k, v in row.items() if k != "seed"})
    with pytest.raises(folder.FolderError, match=r"json does not have this mmprune's format \(seed is missing\)"):
        folder.read_variant(tmp_path, variant.id)
    folder.write_json(path, {**row, "sead": 1})
    with pytest.raises(folder.FolderError, match="variant has no field called 'sead'"):
        folder.read_variant(tmp_path, variant.id)


def test_ids_hold_still():
    """An id may only change when what makes a variant changes: old folders must stay resumable."""
    baseline = make_baseline()
    with torch.no_grad():
        for p in baseline.model.parameters():
            p.fill_(0.5)
    assert plan_family(baseline, REQUEST).variants == IDS


IDS = ("dense-4e9c7093", "dense-tuned-471d96c5", "min-magnitude-09225338",
       "mid-magnitude-4fe64ae1", "max-magnitude-e434dde0")


def test_a_damaged_file_is_named(tmp_path):
    variants = build_family(make_baseline, REQUEST, tmp_path, Resources())
    weights = tmp_path / variants[1].files["weights"]
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(folder.FolderError, match=r"weights\.safetensors is damaged"):
        load_variant(tmp_path, variants[1], make_baseline().model)
    (tmp_path / "manifest.json").write_text('{"schema": 2,')
    with pytest.raises(folder.FolderError, match=r"manifest\.json is damaged"):
        folder.read_manifest(tmp_path)


def test_no_space_left_leaves_no_half_file(tmp_path):
    def fill(part):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        folder.write_whole(tmp_path / "x.json", fill)
    assert list(tmp_path.iterdir()) == []


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from mmprune import folder
def fill(part):
    part.write_text("half")
    part.with_name(".tmpB7x").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
folder.write_whole(Path(sys.argv[1]), fill)
"""


def test_what_a_killed_writer_left_goes(tmp_path):
    """safetensors writes a temporary file beside the one it was asked for, and a killed process leaves it there."""
    path = tmp_path / "variants" / "a" / "weights.safetensors"
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 2
    with folder.locked(tmp_path):
        assert [p.name for p in tmp_path.rglob("*") if p.name != ".lock"] == ["variants", "a"]


def test_manifest_is_json_without_nan_and_all_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        build_family(make_baseline, REQUEST, tmp_path, Resources())
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
    assert modes["weights.safetensors"] == 0o644 and set(modes.values()) == {0o644}
    assert json.loads((tmp_path / "manifest.json").read_text())["spec"]["recipe"]["epochs"] == 2


def test_a_family_of_other_images_is_another_and_only_what_differs_is_named(tmp_path):
    """Tuples have become lists in the file, which is no difference."""
    asked = [replace(REQUEST, source=Source(preprocess=Preprocess((8, 8), (0.5,), (0.5,), crop_mode=mode)))
             for mode in ("center", "squash")]
    before, now = (plan_family(make_baseline(), request) for request in asked)
    claim(tmp_path, before)
    assert claim(tmp_path, before) == before == folder.read_manifest(tmp_path)
    words = r'another family \(preprocess.crop_mode: "center" in the folder, "squash" requested\);'
    with pytest.raises(folder.FolderError, match=words):
        claim(tmp_path, now)


@pytest.mark.parametrize("row", [{"schema": 1, "variants": ["dense-1"]}, {"variants": []}, []])
def test_a_family_of_another_version_is_refused_in_one_sentence(tmp_path, row):
    folder.write_json(tmp_path / folder.MANIFEST, row)
    words = r"holds a family of schema (1|None), but this mmprune reads schema 2: build it again in another folder$"
    for act in (folder.read_manifest, lambda root: build_family(make_baseline, REQUEST, root, Resources())):
        with pytest.raises(folder.FolderError, match=words):
            act(tmp_path)


BY_SCORE = replace(REQUEST, scores=("magnitude", "gradient"), strategies=("mid", "lamp", "global"), total_sparsity=0.5,
                   overrides={"kinds": {"*": [0.0, 0.9]}})


@pytest.mark.parametrize("pattern", PATTERNS)
def test_strategies_by_score_have_each_score_s_sparsities(tmp_path, pattern):
    """Those of gradients are known after these, so the plan has ids for them but no sparsities."""
    request = replace(BY_SCORE, pattern=pattern, total_sparsity=None)
    planned = plan_family(make_baseline(), request)
    assert tuple(planned.strategies) == ("mid", "lamp-magnitude", "global-magnitude")
    variants = build_family(make_baseline, request, tmp_path, Resources(threads=1))
    manifest = folder.read_manifest(tmp_path)
    assert manifest.variants == planned.variants and len(set(manifest.variants)) == len(manifest.variants)
    assert set(manifest.strategies) == {*planned.strategies, "lamp-gradient", "global-gradient"}
    if pattern != "2:4":  # which this net is too narrow for
        gradient, magnitude = ([manifest.strategies[f"{rule}-{score}"] for rule in ("lamp", "global")]
                               for score in ("gradient", "magnitude"))
        assert gradient != magnitude
    tasks = {task.id: task for task in manifest.tasks}
    for variant in variants:
        if variant.id in tasks:
            sparsity = manifest.sparsity_of(tasks[variant.id])
            assert {x.name: round(variant.layer_sparsity[x.name] * x.params) for x in manifest.layers} == {
                x.name: ZEROS[pattern](x.shape, sparsity[x.name], x.kind) for x in manifest.layers}


@pytest.mark.parametrize("left", ["scores", "strategies"])
def test_a_family_by_score_goes_on_where_it_was_interrupted(tmp_path, left):
    """Killed while gradients were computed, or when the manifest had no sparsities of them yet."""
    request = replace(BY_SCORE, scores=("gradient",))
    build_family(make_baseline, request, tmp_path / "whole", Resources(threads=1))
    root = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", root)
    manifest = folder.read_manifest(root)
    folder.write_manifest(root, replace(manifest, strategies={"mid": manifest.strategies["mid"]}))
    shutil.rmtree(root / "variants")
    if left == "scores":
        shutil.rmtree(root / "scores")
    build_family(make_baseline, request, root, Resources(jobs=2, threads=1))
    assert contents(root) == contents(tmp_path / "whole")
    with pytest.raises(folder.FolderError, match=r"another family \(spec.total_sparsity: 0.5 in the folder, 0.6 requ"):
        build_family(make_baseline, replace(request, total_sparsity=0.6), root, Resources())
    with pytest.raises(folder.FolderError, match=r'strategies: "[^"]*mid, lamp, global" in the folder, "[^"]*lamp"'):
        build_family(make_baseline, replace(request, strategies=("mid", "lamp")), root, Resources())


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_dense_model_is_fine_tuned_as_the_others(tmp_path, recipe):
    """Once for all scores, without masks, with the same recipe: all its weights move and none becomes zero."""
    request = replace(REQUEST, recipe=make_recipe(recipe, epochs=1, batch_size=16), scores=("magnitude", "gradient"),
                      pattern="block-1x4")
    dense, tuned, *others = build_family(make_baseline, request, tmp_path, Resources())
    assert (tuned.strategy, tuned.score, tuned.pattern, tuned.recipe) == ("dense-tuned", "none", "none", recipe)
    assert tuned.dense and dense.dense and not tuned.reference and not any(v.dense for v in others)
    before, after = (load_file(tmp_path / v.files["weights"]) for v in (dense, tuned))
    assert tuned.sparsity == tuned.block_sparsity == 0 and set(tuned.layer_sparsity.values()) == {0.0}
    assert all(not torch.equal(before[n], after[n]) for n in tuned.layer_sparsity)
    assert tuned.accuracy == accuracy(load_variant(tmp_path, tuned, make_baseline().model), make_baseline().test)


def test_without_training_there_is_no_other_dense_model(tmp_path):
    request = replace(REQUEST, recipe=make_recipe("default", epochs=0))
    assert [v.strategy for v in build_family(make_baseline, request, tmp_path, Resources())] == ["dense", "min", "mid",
                                                                                                 "max"]


def test_a_family_from_before_the_tuned_dense_model_opens_and_is_refused_by_name_when_built_again(tmp_path):
    build_family(make_baseline, REQUEST, tmp_path, Resources())
    row = folder.read_json(tmp_path / "manifest.json")
    row["tasks"] = [task for task in row["tasks"] if task["strategy"] != "dense-tuned"]
    del row["spec"]["total_sparsity"]
    folder.write_json(tmp_path / "manifest.json", row)
    opened = mmprune.open_family(tmp_path)
    assert [m.variant.strategy for m in opened] == ["dense", "min", "mid", "max"]
    words = 'strategies: "min, mid, max" in the folder, "dense-tuned, min, mid, max" requested'
    with pytest.raises(folder.FolderError, match=words):
        build_family(make_baseline, REQUEST, tmp_path, Resources())
