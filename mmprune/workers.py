"""Independent tasks on several processes: no state is shared, a dead worker is an error and not a hang."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

Make = Callable[[Any, Any, Callable[[int, int], None]], str | None]  # (setup, task, tick) -> reason of failure
Report = Callable[[Any, float, str | None], None]  # (task, share done in [0, 1], reason of failure)


class WorkerError(RuntimeError):
    """A worker process ended before its task did."""


def threads_of(jobs: int) -> int:
    """torch's threads for each of so many jobs side by side. They follow from what was asked and not from how many
    tasks are left: sums, and so trained bits, depend on them."""
    return max(1, torch.get_num_threads() // jobs)


@contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """So many of torch's threads, and what there were before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def run_tasks(setup: Any, make: Make, tasks: Sequence[Any], jobs: int, report: Report, threads: int = 0) -> None:
    """make(setup, task, tick) for every task; with more than one job in that many spawned processes.

    setup    what every task needs; for more than one job, a picklable function that makes it, called in each process
    report   called with the share of the task's steps, and finally with 1.0 and the reason if the task failed
    threads  torch's, of each job; 0: threads_of(jobs)
    """
    threads = threads or threads_of(jobs)
    if jobs == 1 or len(tasks) <= 1:
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
        for _ in range(min(jobs, len(tasks))):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, setup, make, threads), daemon=True)
            process.start()
            there.close()
            task = queue.pop(0)
            here.send(task)
            workers[here] = (process, task)
        while workers:
            for pipe in wait(list(workers)):
                _answer(pipe, workers, queue, report)  # type: ignore[arg-type]
    finally:
        for pipe, (process, _) in workers.items():
            pipe.close()
            process.terminate()
            process.join()


def _report_step(report: Report, task: Any, step: int, steps: int) -> None:
    report(task, min(0.999, step / steps), None)


def _answer(pipe: Connection, workers: dict[Connection, tuple[Any, Any]], queue: list[Any], report: Report) -> None:
    process, task = workers[pipe]
    try:
        kind, value = pipe.recv()
    except EOFError:
        process.join()
        raise WorkerError(f"a worker process ended with {process.exitcode}"
                          + (" (killed: out of memory? try a lower --jobs)" if process.exitcode == -9 else "")
                          + "; what is finished is kept, run the same command again to go on") from None
    if kind == "tick":
        report(task, value, None)
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
    """A worker's life: set up once, then one task after the other until None comes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    try:
        torch.set_num_threads(threads)
        ready = setup()
        while (task := pipe.recv()) is not None:
            def tick(step: int, steps: int) -> None:
                pipe.send(("tick", min(0.999, step / steps)))

            pipe.send(("done", make(ready, task, tick)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent was killed
    except BaseException as err:
        pipe.send(("error", err))
