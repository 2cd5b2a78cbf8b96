"""Runs independent tasks in this process, in several, or on a Ray cluster (mmprune/on_ray.py).

No state is shared, and a dead worker is an error, not a hang. What the tasks make does not depend on where they run, if
they have the same number of torch threads there.
"""

import faulthandler
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from mmprune.cluster import Cluster

Make = Callable[[Any, Path, Any, Callable[..., None]], Any]  # (setup, root, task, tick) -> reason of failure or None
Report = Callable[[Any, float, Any], None]  # (task, fraction done in [0, 1], reason of failure or tick's word)


class WorkerError(RuntimeError):
    """A worker process ended before its task was finished."""


def threads_of(jobs: int) -> int:
    """The number of torch threads for each of `jobs` parallel jobs. It depends on the requested number of jobs, not on
    how many tasks are left, because sums, and therefore the trained bits, depend on it."""
    return max(1, torch.get_num_threads() // jobs)


@contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """Set the number of torch threads inside this context and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Processes:
    """Where and how tasks are run."""

    jobs: int = 1  # tasks at the same time; more than one: in that many spawned processes
    threads: int = 0  # torch threads per job; 0: threads_of(jobs)
    # True: if a process dies only its task fails, with a WorkerError as the reason; False: the WorkerError is raised.
    # If True and jobs > 1, a single task also runs in its own process.
    survive: bool = False
    cluster: Cluster | None = None  # None: on this machine


@dataclass(frozen=True)
class Work:
    """What is done for every task, and with which files.

    Elsewhere than on this machine a task runs in a folder of its own, which has the files of `shared` and of the task's
    own folder; what it leaves in its own folder is brought home.
    """

    setup: Any  # what every task needs; for several processes a picklable function that makes it, called in each
    make: Make  # called with the setup, the folder `root`, the task and a tick
    root: Path = Path()
    shared: tuple[str, ...] = ()  # globs below `root` of what every task reads
    folder_of: Callable[[Any], str] = str  # the folder below `root` that only this task reads and writes
    last: str = ""  # the name of the file in it that marks the task as done, if there is one: it is written last


def run_tasks(work: Work, tasks: Sequence[Any], how: Processes, report: Report) -> None:
    """Call work.make(setup, root, task, tick) for every task.

    tick    called by a task with the step, the number of steps and, optionally, a word about the step
    report  called with the fraction of the task's steps, and finally with 1.0 and the reason if the task failed
    """
    if not tasks:
        return
    threads = how.threads or threads_of(how.jobs)
    if how.cluster is not None:
        from mmprune.on_ray import run_on_ray

        run_on_ray(work, tasks, replace(how, threads=threads), report)
        return
    if how.jobs == 1 or (len(tasks) == 1 and not how.survive):
        with torch_threads(threads):
            ready = work.setup() if callable(work.setup) else work.setup
            for task in tasks:
                reason = work.make(ready, work.root, task, partial(_report_step, report, task))
                report(task, 1.0, reason)
        return
    context = multiprocessing.get_context("spawn")
    queue = list(tasks)
    workers: dict[Connection, tuple[Any, Any]] = {}  # pipe: (process, its task)
    try:
        while workers or queue:
            while queue and len(workers) < how.jobs:
                here, there = context.Pipe()
                given = (there, work.setup, work.make, work.root, threads)
                process = context.Process(target=_work, args=given, daemon=True)
                with _without_interrupts():
                    process.start()
                there.close()
                task = queue.pop(0)
                here.send(task)
                workers[here] = (process, task)
            for pipe in wait(list(workers)):
                try:
                    _answer(pipe, workers, queue, report)  # type: ignore[arg-type]
                except WorkerError as err:
                    if not how.survive:
                        raise
                    _, task = workers.pop(pipe)  # type: ignore[call-overload]
                    report(task, 1.0, err)
    finally:
        for pipe, (process, _) in workers.items():
            pipe.close()
            process.terminate()
            process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process started in here never gets Ctrl-C, not even while it imports; one that comes meanwhile comes after."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _report_step(report: Report, task: Any, step: int, steps: int, word: Any = None) -> None:
    report(task, min(0.999, step / steps), word)


def _answer(pipe: Connection, workers: dict[Connection, tuple[Any, Any]], queue: list[Any], report: Report) -> None:
    process, task = workers[pipe]
    try:
        kind, value = pipe.recv()
    except EOFError:
        process.join()
        raise WorkerError(f"a worker process ended with exit status {process.exitcode}"
                          + (" (killed: out of memory? try a lower --jobs)" if process.exitcode == -9 else "")
                          + "; finished work is kept, run the same command again to continue") from None
    if kind == "tick":
        report(task, *value)
    elif kind == "error":
        raise value
    else:
        report(task, 1.0, value)
        if queue:
            task = queue.pop(0)
            workers[pipe] = (process, task)
            pipe.send(task)
        else:
            del workers[pipe]
            pipe.send(None)
            process.join()


def _work(pipe: Connection, setup: Callable[[], Any], make: Make, root: Path, threads: int) -> None:
    """The main loop of a worker: set up once, then run one task after the other until None comes or the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    if sys.stderr is not None:
        faulthandler.enable()  # a crash of native code prints a traceback
    try:
        torch.set_num_threads(threads)
        ready = setup()
        while (task := pipe.recv()) is not None:
            def tick(step: int, steps: int, word: Any = None) -> None:
                pipe.send(("tick", (min(0.999, step / steps), word)))

            pipe.send(("done", make(ready, root, task, tick)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent was killed
    except BaseException as err:
        pipe.send(("error", err))
