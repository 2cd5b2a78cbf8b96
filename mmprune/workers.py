"""Runs independent tasks in several processes: no state is shared, and a dead worker is an error, not a hang."""

import faulthandler
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

Make = Callable[[Any, Any, Callable[..., None]], Any]  # (setup, task, tick) -> reason of failure or None
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
    """How tasks are run."""

    jobs: int = 1  # tasks at the same time; more than one: in that many spawned processes
    threads: int = 0  # torch threads per job; 0: threads_of(jobs)
    # True: if a process dies only its task fails, with a WorkerError as the reason; False: the WorkerError is raised.
    # If True and jobs > 1, a single task also runs in its own process.
    survive: bool = False


def run_tasks(setup: Any, make: Make, tasks: Sequence[Any], how: Processes, report: Report) -> None:
    """Call make(setup, task, tick) for every task.

    setup   what every task needs; for more than one job a picklable function that makes it, called in each process
    tick    called by a task with the step, the number of steps and, optionally, a word about the step
    report  called with the fraction of the task's steps, and finally with 1.0 and the reason if the task failed
    """
    if not tasks:
        return
    threads = how.threads or threads_of(how.jobs)
    if how.jobs == 1 or (len(tasks) == 1 and not how.survive):
        with torch_threads(threads):
            ready = setup() if callable(setup) else setup
            for task in tasks:
                reason = make(ready, task, partial(_report_step, report, task))
                report(task, 1.0, reason)
        return
    context = multiprocessing.get_context("spawn")
    queue = list(tasks)
    workers: dict[Connection, tuple[Any, Any]] = {}  # pipe: (process, its task)
    try:
        while workers or queue:
            while queue and len(workers) < how.jobs:
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, setup, make, threads), daemon=True)
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


def _work(pipe: Connection, setup: Callable[[], Any], make: Make, threads: int) -> None:
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

            pipe.send(("done", make(ready, task, tick)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent was killed
    except BaseException as err:
        pipe.send(("error", err))
