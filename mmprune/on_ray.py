"""Runs independent tasks on a Ray cluster, whose machines need not share a file system with this one.

What every task needs goes into Ray's object store once. A task's own files travel with it, and what it leaves comes
home as bytes, which this process writes. A task whose worker is lost begins again elsewhere.
"""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mmprune import folder
from mmprune.progress import say_notes
from mmprune.ray_worker import Begun, Common, Files, Left, read_files, run, versions_here
from mmprune.workers import Processes, Report, Work, WorkerError

TRIES = 4  # of a task, if its worker is lost each time
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # else Ray warns that this will be its default
ROOM_BYTES = 2**27  # of the object store of a cluster of our own, besides what the tasks need and leave


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or none of its machines has room for a task."""


@dataclass
class Traffic:
    """What went through the object store besides what all tasks need, and how long tasks took."""

    sent_bytes: int = 0  # of the tasks' own files
    home_bytes: int = 0  # of what they left
    seconds: list[float] = field(default_factory=list)  # of each finished task on its worker
    lost: int = 0  # workers


def run_on_ray(work: Work, tasks: Sequence[Any], how: Processes, report: Report) -> Traffic:
    """workers.run_tasks on how.cluster, with how.threads CPUs for each task. ClusterError if that cannot be."""
    setup = work.setup() if callable(work.setup) else work.setup
    files = read_files(work.root, work.shared)
    common = Common(replace(work, setup=setup, root=Path()), files, how.threads, versions_here())
    with connected(how, common) as ray:
        check_room(ray.nodes(), how)
        course = _Course(ray, work, how, report, ray.put(common))
        try:
            course.run(tasks)
        finally:
            course.cancel()
        return course.traffic


@contextmanager
def connected(how: Processes, common: Common) -> Iterator[Any]:
    """Ray, connected to the cluster of `how`.

    A cluster of our own ends with this process; it sends no usage statistics, has no dashboard, and listens on this
    machine alone. Its object store is as small as the tasks allow.
    """
    address = how.cluster.address if how.cluster else None
    os.environ.update({k: v for k, v in SETTINGS.items() if k not in os.environ})
    imported = "ray" in sys.modules
    own_password = address is None and "RAY_AUTH_MODE" not in os.environ  # else Ray writes one to the home directory
    if own_password:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray
    from ray import cloudpickle
    if own_password and imported:  # Ray read its settings then; as its own ray.init does where it makes a password
        raylet: Any = ray._raylet
        raylet.Config.initialize("")

    with contextlib.ExitStack() as ends:
        known = cloudpickle.list_registry_pickle_by_value()  # those of a connection around this one
        users = [m for name, m in sys.modules.items() if name.startswith("mmprune_factory_") and name not in known]
        for module in users:  # files that workers cannot import
            cloudpickle.register_pickle_by_value(module)
            ends.callback(cloudpickle.unregister_pickle_by_value, module)
        if not ray.is_initialized():
            settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
            if address is None:
                size = (how.jobs + 1) * len(cloudpickle.dumps(common)) + ROOM_BYTES
                settings |= {"num_cpus": how.jobs * how.threads, "object_store_memory": size,
                             "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            try:
                ray.init(address, **settings)
            except (ConnectionError, OSError, RuntimeError, ValueError) as err:
                where = f"the Ray cluster {address}" if address else "a Ray cluster on this machine"
                raise ClusterError(f"{where} cannot be used: {' '.join(str(err).split())[:300]}") from err
            ends.callback(ray.shutdown)
        yield ray


def check_room(nodes: Sequence[Any], how: Processes) -> None:
    """ClusterError if no machine of the cluster has room for a task, which would wait forever."""
    gpus = how.cluster.gpus if how.cluster else 0
    there = {(n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0)) for n in nodes if n["Alive"]}
    if not any(cpus >= how.threads and has >= gpus for cpus, has in there):
        found = "; ".join(f"{cpus:g} CPUs and {has:g} GPUs" for cpus, has in sorted(there, reverse=True)[:3])
        raise ClusterError(f"a job needs {how.threads} CPUs and {gpus:g} GPUs, but the machines of the cluster have "
                           f"{found}: lower --job-cpus or --job-gpus")


class _Course:
    """The tasks that run."""

    def __init__(self, ray: Any, work: Work, how: Processes, report: Report, common: Any) -> None:
        self.ray, self.work, self.how, self.report, self.common = ray, work, how, report, common
        self.gpus = how.cluster.gpus if how.cluster else 0
        # Ray's own retries would not say that a worker was lost
        self.remote = ray.remote(num_cpus=how.threads, num_gpus=self.gpus, max_retries=0)(run)
        self.running: dict[Any, Any] = {}  # by the stream of a task's words
        self.at: dict[Any, str] = {}  # its machine
        self.cpus: set[str] = set()
        self.traffic = Traffic()

    def run(self, tasks: Sequence[Any]) -> None:
        waiting = [(task, 1) for task in tasks]  # (task, which try it is)
        while waiting or self.running:
            while waiting and len(self.running) < self._slots():
                task, tried = waiting.pop(0)
                own = read_files(self._folder(task), ("*",))
                self.traffic.sent_bytes += sum(map(len, own.values()))
                self.running[self.remote.remote([self.common], task, own)] = (task, tried)
            ready, _ = self.ray.wait(list(self.running), timeout=10)
            for words in ready:
                task, tried = self.running[words]
                try:
                    ended = self._hear(words, task)
                except self.ray.exceptions.RayTaskError as err:
                    raise WorkerError(f"a worker cannot run a task: {str(err.cause or err).strip()}") from err
                except self.ray.exceptions.RayError as err:
                    ended = True
                    if lost := self._lost(words, task, tried, err):
                        waiting.insert(0, lost)
                if ended:
                    del self.running[words]

    def _slots(self) -> int:
        """How many tasks the cluster has room for, now."""
        there = self.ray.cluster_resources()
        slots = [there.get("CPU", 0) // self.how.threads]
        slots += [there.get("GPU", 0) // self.gpus] if self.gpus else []
        return max(1, int(min(slots)))

    def _folder(self, task: Any) -> Path:
        return self.work.root / self.work.folder_of(task)

    def _hear(self, words: Any, task: Any) -> bool:
        """Take a task's next word; True if it was the last."""
        word = self.ray.get(next(words))
        if isinstance(word, Begun):
            self.at[words] = word.host
            self.cpus.add(word.cpu)
            if len(self.cpus) > 1:
                say_notes((f"{word.host} computes with {word.cpu}, others with {', '.join(self.cpus - {word.cpu})}: a "
                           "variant's last bits depend on which of them makes it",))
        elif isinstance(word, Exception):
            raise word
        elif isinstance(word, Left):
            sys.stderr.write(word.said)
            self._bring_home(task, word.files)
            self.traffic.home_bytes += sum(map(len, word.files.values()))
            self.traffic.seconds.append(word.seconds)
            self.report(task, 1.0, word.reason)
            return True
        else:
            self.report(task, *word)
        return False

    def _bring_home(self, task: Any, files: Files) -> None:
        """Write what a task left, and remove what it removed; the file that marks it as done is written last."""
        own = self._folder(task)
        for name in sorted(files, key=lambda name: (name == self.work.last, name)):
            if PurePosixPath(name).name != name or name in (".", ".."):
                raise WorkerError(f"a worker left a file of the name {name!r}, which is none")
            folder.write_bytes(own / name, files[name])
        for name in read_files(own, ("*",)).keys() - files.keys():
            (own / name).unlink()

    def _lost(self, words: Any, task: Any, tried: int, err: Exception) -> tuple[Any, int] | None:
        """The task again if it may be tried again; else its failure is reported, or raised."""
        at = f" on {self.at[words]}" if words in self.at else ""
        self.traffic.lost += 1
        what = f"{self.work.folder_of(task)}: its worker{at} was lost ({type(err).__name__})"
        if tried < TRIES:
            say_notes((f"{what}; it begins again",))
            self.report(task, 0.0, None)
            return task, tried + 1
        failure = WorkerError(f"{what}, {TRIES} times (out of memory? ask for more with --job-cpus); finished work is "
                              "kept, run the same command again to continue")
        if not self.how.survive:
            raise failure
        self.report(task, 1.0, failure)
        return None

    def cancel(self) -> None:
        for words in self.running:
            with contextlib.suppress(Exception):
                self.ray.cancel(words, force=True)
