"""How long each step of an inference takes, by the runtime's own profile: ONNX Runtime, OpenVINO and mmrt.

A row of PROFILERS is a function (path, threads, opened) -> profile. profile(lead, samples) runs `lead` inferences that
do not count and `samples` that do, and returns a Profile. ONNX Runtime and OpenVINO are opened anew each time, in the
same way (runtimes.py) but with their profile switched on, since that cannot be done to an open model.
"""

import json
import os
import statistics
import tempfile
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .runtimes import Opened, open_onnxruntime, open_openvino, random_input, timed_step


class Profile(NamedTuple):
    """What a profile tells of an inference."""

    # for each step "name", "op", "kernel", "parts" (names of what was fused into it) and "work" (mmrt: the share of the
    # dense layer's multiplications that the kernel does, and under which share of weights that are not zero a kernel
    # that skips zeros is taken; None for other steps and runtimes)
    rows: List[Dict[str, Any]]
    steps_s: List[float]  # seconds of each step
    inferences_s: List[float]  # seconds of each whole inference while it is profiled


# OpenVINO cuts off fractions of a microsecond twice, of each inference and of their mean: half a microsecond is lost
# each time, and is put back. ONNX Runtime does it once, but its bookkeeping within a step takes longer than that.
CUT_S = 1e-6
NODE_SUFFIX = "_kernel_time"  # of ONNX Runtime's events


def middle(values: Sequence[float]) -> float:
    """The mean of the middle half: unlike a median, finer than the whole microseconds it is made of."""
    quarter = len(values) // 4
    return statistics.fmean(sorted(values)[quarter:len(values) - quarter])


def timed_runs(step: Callable[[], Any], count: int) -> List[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def mmrt_profiler(_path: str, _threads: int, opened: Opened) -> Callable[[int, int], Profile]:
    inputs = [random_input(shape) for shape in opened.shapes]

    def profile(lead: int, samples: int) -> Profile:
        whole = []
        for _ in range(lead + samples):
            start = time.perf_counter()
            rows = opened.model.profile(*inputs)
            whole.append((time.perf_counter() - start, rows))
        times = [[row["seconds"] for row in rows] for _, rows in whole[lead:]]
        rows = [{"name": row["name"], "op": row["op"], "kernel": row["kernel"], "parts": [], "work": _work(row)}
                for row in whole[0][1]]
        return Profile(rows, [middle(column) for column in zip(*times)],  # noqa: B905  Python 3.8 has no `strict`
                       [seconds for seconds, _ in whole[lead:]])

    return profile


def _work(row: Dict[str, Any]) -> Optional[List[float]]:
    return [row["done_macs"] / row["macs"], row["sparse_below"]] if row["macs"] else None


def onnxruntime_profiler(path: str, threads: int, _opened: Opened) -> Callable[[int, int], Profile]:
    def profile(lead: int, samples: int) -> Profile:
        with tempfile.TemporaryDirectory() as folder:
            opened = open_onnxruntime(path, threads, profile=os.path.join(folder, "profile"))
            whole = timed_runs(timed_step(opened), lead + samples)[lead:]
            with open(opened.model.end_profiling(), encoding="utf-8") as f:
                events = json.load(f)
        rows, seconds = events_by_node(events, lead, samples)
        return Profile(rows, seconds, whole)

    return profile


def events_by_node(events: List[Dict[str, Any]], lead: int, samples: int) -> Tuple[List[Dict[str, Any]], List[float]]:
    """(rows, seconds) of ONNX Runtime's events: one of each node in an inference, or several in a loop's body."""
    found: Dict[Tuple[str, int], List[Dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(NODE_SUFFIX):
            found.setdefault((event["name"], event["args"]["node_index"]), []).append(event)
    rows, seconds = [], []
    for (name, _), all_of in found.items():
        each = len(all_of) // (lead + samples)
        times = [event["dur"] * 1e-6 for event in all_of[lead * each:]]
        if not each:
            continue  # in some inferences only: of a branch
        per_inference = [sum(times[i:i + each]) for i in range(0, len(times), each)]
        args = all_of[0]["args"]
        rows.append({"name": name[:-len(NODE_SUFFIX)], "op": args["op_name"], "kernel": args["provider"], "parts": [],
                     "work": None})
        seconds.append(middle(per_inference))
    return rows, seconds


def openvino_profiler(path: str, threads: int, _opened: Opened) -> Callable[[int, int], Profile]:
    def profile(lead: int, samples: int) -> Profile:
        opened = open_openvino(path, threads, counting=True)
        step = timed_step(opened)
        fused = {}
        for op in opened.model.get_runtime_model().get_ordered_ops():
            names = op.get_rt_info()["originalLayersNames"].astype(str)
            fused[op.get_friendly_name()] = [name for name in names.split(",") if name]
        lead = max(1, lead)
        timed_runs(step, lead)
        before = _means(step)
        whole = timed_runs(step, samples)
        now = _means(step)
        rows, seconds = [], []
        for name, (op, kernel, mean_s) in now.items():
            if name not in fused:
                continue  # fused into another
            rows.append({"name": name, "op": op, "kernel": kernel, "parts": fused[name], "work": None})
            # they are means of all inferences since the model was opened
            took = ((lead + samples) * mean_s - lead * before[name][2]) / samples
            seconds.append(max(0.0, took) + CUT_S if mean_s > 0 else 0.0)
        return Profile(rows, seconds, whole)

    return profile


def _means(step: Any) -> Dict[str, Tuple[str, str, float]]:
    """{step's name: (op, kernel, mean seconds)}; `step` is the bound method of an InferRequest."""
    return {row.node_name: (row.node_type, row.exec_type, row.real_time.total_seconds())
            for row in step.__self__.get_profiling_info()}


def operations(rows: List[Dict[str, Any]]) -> List[str]:
    """What tells steps apart: OpenVINO numbers nameless ones anew whenever it opens a model."""
    return [row["op"] for row in rows]


PROFILERS = {"mmrt": mmrt_profiler, "onnxruntime": onnxruntime_profiler, "openvino": openvino_profiler}
