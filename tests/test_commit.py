"""Every measurement says which state of mmprune made it."""

import shutil
import subprocess

import pytest
from families import made_family

from mmprune import __version__, folder
from mmprune.commit import commit, commit_of
from targets.jobs import PROFILES
from targets.measure import Options, measure


def git(checkout, *words):
    who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(checkout), *who, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    if not shutil.which("git"):
        pytest.skip("needs git")
    (tmp_path / "one.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "one.py")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v7")
    return tmp_path


def test_a_checkout_gives_its_commit_and_a_changed_one_a_plus(checkout):
    clean = commit_of(checkout)
    assert len(clean) == 12 and int(clean, 16)
    (checkout / "one.py").write_text("x = 2\n")
    assert commit_of(checkout) == clean + "+"


def test_what_is_no_checkout_of_ours_gives_the_version(checkout, monkeypatch):
    (checkout / "site-packages").mkdir()
    assert commit_of(checkout / "site-packages") == __version__
    monkeypatch.setenv("PATH", str(checkout))
    assert commit_of(checkout) == __version__  # no git here
    assert commit() != ""


def test_a_checkout_that_git_cannot_read_gives_the_version(tmp_path):
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    assert commit_of(tmp_path) == __version__


def test_a_measurement_holds_it_though_nobody_says_so(tmp_path):
    artifacts = made_family(tmp_path, [("dense", 0.9, 0.0, 0.01)])
    measure(tmp_path, artifacts, "local", PROFILES["smoke"], Options(runtimes=("null",)))
    assert folder.read_measurements(tmp_path)[-1].commit == commit() != ""
