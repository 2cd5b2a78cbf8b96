"""Files that were damaged between two runs are made again, or told; nothing wrong is believed. More: make chaos."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import REQUEST, make_baseline
from whole_families import KILLED, contents

from mmprune import folder, variant
from mmprune.family import Resources, build_family
from mmprune.kept import read_state, read_tensors, write_state, write_tensors

PERMUTED = replace(REQUEST, scores=("obs",), pattern="block-1x4")  # so that a start is kept, and energies


def flip(path: Path, share: float = 0.9) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    build_family(make_baseline, PERMUTED, root, Resources(threads=1))
    return root


class Stopped(Exception):
    pass


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> Path:
    """A build that was stopped after the first epoch of its first pruned variant."""
    real = variant.finetune

    def stop(model, teacher, job, tick):
        def checked(step, steps):
            if job.masks and job.checkpoint.is_file():
                raise Stopped
            tick(step, steps)
        return real(model, teacher, job, checked)

    with monkeypatch.context() as patch:
        patch.setattr(variant, "finetune", stop)
        with pytest.raises(Stopped):
            build_family(make_baseline, PERMUTED, tmp_path, Resources(threads=1))
    assert list(tmp_path.rglob("checkpoint.pt")) and list(tmp_path.rglob("start.safetensors"))
    return tmp_path


@pytest.mark.parametrize("kind", ["checkpoint.pt", "start.safetensors", "energy.safetensors"])
@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:-9]),
                                    lambda path: path.write_bytes(b"")], ids=["flipped", "cut", "emptied"])
def test_what_a_build_keeps_is_made_again_where_it_is_damaged(whole, stopped, capsys, kind, damage):
    (victim,) = stopped.rglob(kind)
    damage(victim)
    if kind == "energy.safetensors":  # which a kept start makes unnecessary
        next(stopped.rglob("start.safetensors")).unlink()
    build_family(make_baseline, PERMUTED, stopped, Resources(threads=1))
    assert contents(stopped) == contents(whole)
    assert f"{victim} is damaged; it is made again" in capsys.readouterr().err


def test_a_finished_variant_that_changed_is_made_again_with_a_word(tmp_path, capsys):
    variants = build_family(make_baseline, REQUEST, tmp_path, Resources(threads=1))
    before = contents(tmp_path)
    record, weights = (tmp_path / "variants" / v.id / name for v, name in zip(
        variants[2:4], ("variant.json", "weights.safetensors"), strict=True))
    row = json.loads(record.read_text())
    record.write_text(json.dumps({**row, "accuracy": 1.0 - row["accuracy"]}))
    with pytest.raises(folder.FolderError, match=r"variant.json has changed since it was written; delete it and run"):
        folder.read_variants(tmp_path)
    flip(weights)
    build_family(make_baseline, REQUEST, tmp_path, Resources(threads=1))
    assert contents(tmp_path) == before
    said = capsys.readouterr().err
    assert f"{record} has changed since it was written; {variants[2].id} is made again" in said
    assert f"{weights} has changed since it was written; {variants[3].id} is made again" in said


def test_a_damaged_manifest_is_told_with_a_way_out_that_leads_out(tmp_path):
    build_family(make_baseline, REQUEST, tmp_path, Resources(threads=1))
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(folder.FolderError, match=f"restore it from a copy, or delete {tmp_path} and run"):
        build_family(make_baseline, REQUEST, tmp_path, Resources(threads=1))


def test_what_has_no_digest_is_believed(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "old.safetensors")
    assert read_tensors(tmp_path / "old.safetensors")["a"].tolist() == [1, 1]
    write_tensors(tmp_path / "new.safetensors", {"a": torch.arange(6).view(2, 3).T})
    assert read_tensors(tmp_path / "new.safetensors")["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read_tensors(tmp_path / "none") is None is read_state(tmp_path / "none", "cpu")
    write_state(tmp_path / "state.pt", {"epoch": 3})
    assert read_state(tmp_path / "state.pt", "cpu") == {"epoch": 3}


@pytest.mark.slow
def test_a_disk_that_refuses_a_file_is_an_error_of_the_system(tmp_path):
    """It was a SafetensorError, which the command line took for a bug of its own."""
    limit = ("import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
             "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n")
    program = limit + KILLED.format(tests=str(Path(__file__).parent / "support"), root=str(tmp_path / "family"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == "OSError: [Errno 27] File too large", done.stderr
    build_family(make_baseline, REQUEST, tmp_path / "family", Resources(threads=1))
    build_family(make_baseline, REQUEST, tmp_path / "whole", Resources(threads=1))
    assert contents(tmp_path / "family") == contents(tmp_path / "whole")


def test_a_name_that_the_locale_cannot_give_to_the_runtimes_is_refused_with_a_way_out(tmp_path, monkeypatch):
    folder.check_name(tmp_path / "Übung")
    monkeypatch.setattr(folder.sys, "getfilesystemencoding", lambda: "iso8859-1")
    folder.check_name(tmp_path / "plain")
    with pytest.raises(folder.FolderError, match=r"not ASCII, .* iso8859-1\. Choose another --out, or .* PYTHONUTF8=1"):
        folder.check_name(tmp_path / "Übung")
