"""Tasks on several processes; one that dies."""

import os
import signal

import pytest

from mmprune.workers import Processes, Work, WorkerError, run_tasks


def setup():
    return "ready"


def work(ready, root, task, tick):
    tick(1, 2, "half")
    if task == "dies":
        os._exit(7)
    return None if task == "good" else f"{ready}, but {task} failed"


@pytest.mark.slow
def test_a_process_that_dies_costs_its_task_where_that_is_asked():
    told = []
    tasks = ["dies", "good", "bad", "dies"]
    run_tasks(Work(setup, work), tasks, Processes(2, survive=True), lambda *row: told.append(row))
    ended = sorted((task, str(word).partition(";")[0]) for task, share, word in told if share == 1.0)
    assert ended == [("bad", "ready, but bad failed"), ("dies", "a worker process ended with exit status 7"),
                     ("dies", "a worker process ended with exit status 7"), ("good", "None")]
    assert ("good", 0.5, "half") in told
    with pytest.raises(WorkerError, match="a worker process ended with exit status 7; finished work is kept"):
        run_tasks(Work(setup, work), ["dies", "good"], Processes(2), lambda *_: None)


def interrupted(ready, root, task, tick):
    return None if signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()) else "Ctrl-C would come through"


@pytest.mark.slow
def test_ctrl_c_reaches_the_parent_alone_from_a_worker_s_first_moment():
    told = []
    run_tasks(Work(setup, interrupted), ["a", "b"], Processes(2), lambda *row: told.append(row[1:]))
    assert told == [(1.0, None)] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_single_task_or_job_needs_no_process():
    told = []
    run_tasks(Work("here", work), ["bad"], Processes(2), lambda *row: told.append(row))
    run_tasks(Work("here", work), ["good", "bad"], Processes(1, survive=True), lambda *row: told.append(row))
    assert [word for _, share, word in told if share == 1.0] == ["here, but bad failed", None, "here, but bad failed"]
    run_tasks(Work("here", work), [], Processes(2, survive=True), lambda *row: told.append(row))
