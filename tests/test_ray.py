"""Fine-tunings on a Ray cluster: the same files as in one process, also where a worker is lost."""

import importlib.util
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import REQUEST, make_baseline
from whole_families import contents

from mmprune import cluster, folder, on_ray
from mmprune.cluster import Cluster
from mmprune.family import Resources, build_family
from mmprune.recipes import make_recipe
from mmprune.strategies import TEN
from mmprune.workers import Processes, Work, WorkerError, run_tasks

HERE = Path(__file__).parent


@pytest.fixture
def ray(monkeypatch):
    """Workers that find the modules of tests."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'mmprune[ray]'")
    paths = [str(HERE.parent), str(HERE), str(HERE / "support"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def workers() -> dict[int, str]:
    """The processes of this process's cluster that are running a task: {their id: what they call themselves}."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name, parent = (path / "cmdline").read_text().split("\0")[0], parent_of(int(path.name))
            if name.startswith("ray::run") and parent_of(parent) == os.getpid():
                found[int(path.name)] = name
        except (OSError, ValueError):
            continue  # it has ended
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_ten_variants_on_a_cluster_that_loses_a_worker_are_those_of_one_process(ray, tmp_path, capfd):
    request = replace(REQUEST, recipe=make_recipe("default", epochs=8, batch_size=8), strategies=TEN, scores=("obs",))
    said = []

    def kill_one(stage, item, done, total):
        """Until one is missed: a worker that is killed after its last word is not, since all that it made is home."""
        said.append(capfd.readouterr().err)
        if stage == "fine-tune" and done > 2 and "was lost" not in "".join(said):
            for process in list(workers())[:1]:
                os.kill(process, signal.SIGKILL)

    build_family(make_baseline, request, tmp_path / "one", Resources(threads=1))
    how = Resources(jobs=3, threads=1, cluster=Cluster())
    made = build_family(make_baseline, request, tmp_path / "ray", how, kill_one)
    assert [v.strategy for v in made[2:]] == list(TEN)
    assert "was lost" in "".join(said)
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    assert folder.read_manifest(tmp_path / "ray").threads == 1
    assert not list(tmp_path.rglob("*.part"))


def told(ready, root, task, tick):
    """The torch threads, and what is in the task's own folder, to which it adds a file."""
    own = root / str(task)
    own.mkdir(exist_ok=True)
    before = sorted(p.name for p in own.iterdir())
    (own / "left").write_text(f"{ready} {(root / 'shared').read_text()} {before}")
    (own / "gone").unlink(missing_ok=True)
    if task == "fails":
        raise folder.FolderError("as it should")
    if task == "dies":
        os._exit(3)
    return str(torch.get_num_threads())


@pytest.mark.slow
def test_a_task_gets_its_files_and_threads_and_what_it_leaves_comes_home(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "TRIES", 2)
    (tmp_path / "shared").write_text("for all")
    for name in ("a/kept", "a/gone", "b/of another"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    work, seen = Work("ready", told, tmp_path, ("shared",)), []
    how = Processes(2, 3, survive=True, cluster=Cluster())
    with on_ray.connected(how, None):  # one cluster for both
        run_tasks(work, ["a", "b", "dies"], how, lambda *row: seen.append(row) if row[1] == 1 else None)
        with pytest.raises(folder.FolderError, match="as it should"):
            run_tasks(work, ["fails"], how, lambda *_: None)
        monkeypatch.setattr(on_ray, "TRIES", 1)
        with pytest.raises(WorkerError, match="1 times"):
            run_tasks(work, ["dies"], replace(how, survive=False), lambda *_: None)
    assert {task: str(word).partition(";")[0] for task, _, word in seen} == {
        "a": "3", "b": "3", "dies": "dies: its worker on "
        f"{os.uname().nodename} was lost (WorkerCrashedError), 2 times (out of memory? ask for more with --job-cpus)"}
    assert (tmp_path / "a/left").read_text() == "ready for all ['gone', 'kept']"
    assert not (tmp_path / "a/gone").exists() and (tmp_path / "a/kept").read_text() == "a/kept"


@pytest.mark.slow
def test_a_program_that_has_imported_ray_gets_its_cluster(ray, tmp_path):
    program = ("import ray; from mmprune import on_ray; from mmprune.cluster import Cluster; "
               "from mmprune.workers import Processes\n"
               "with on_ray.connected(Processes(cluster=Cluster()), None) as ray: print(len(ray.nodes()))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120,
                          env={**os.environ, "HOME": str(tmp_path)})
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
    assert not list(tmp_path.rglob("*token*")), "no password is left in the home directory"


def test_a_job_that_no_machine_has_room_for_is_refused(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)  # also where Ray is not installed
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    on_ray.check_room(nodes, Processes(threads=4, cluster=Cluster()))
    with pytest.raises(on_ray.ClusterError, match=r"needs 4 CPUs and 1 GPUs, but .* have 4 CPUs and 0 GPUs: lower"):
        on_ray.check_room(nodes, Processes(threads=4, cluster=Cluster(gpus=1)))


def test_without_ray_it_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mmprune\[ray\]'"):
        Cluster()
