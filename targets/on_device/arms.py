"""The result rows of a Jetson: the samples of both arms of a file, and the gain from sparse tactics.

An arm is a file built with or without sparse tactics; it has several engines, each with its own rounds.
"""

import math
import statistics
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .job import sha256_of
from .power import energy_per_inference
from .trtexec import ARMS, Timing, dotted

if TYPE_CHECKING:
    from .engines import Bench
    from .watch import Watch


class Turn(NamedTuple):
    """One process that timed an engine."""

    rebuild: int
    begin_s: float
    timing: Timing


def turn_of(profile: Dict[str, Any], turns: int) -> Tuple[float, int]:
    """(seconds, inferences) of one of `turns` turns: by `samples` if the profile has it, else by `seconds`."""
    if profile["samples"]:
        return 0, max(1, math.ceil(profile["samples"] / turns))
    return profile["seconds"] / turns, 1


def turn_count(job: Dict[str, Any]) -> int:
    """The number of turns of each file and arm: the profile's rounds, equally many for each rebuild."""
    turns: int = math.ceil(job["profile"]["rounds"] / job["rebuilds"]) * job["rebuilds"]
    return turns


def by_rebuild(number: int, job: Dict[str, Any]) -> int:
    """The index in a row of the round with this number; a row has the rounds of one engine after the other."""
    rebuilds: int = job["rebuilds"]
    return number % rebuilds * (turn_count(job) // rebuilds) + number // rebuilds


def medians_by_rebuild(turns: Iterable[Turn]) -> List[float]:
    """One median for each engine, over all its samples."""
    samples: dict[int, list[float]] = {}
    for turn in turns:
        samples.setdefault(turn.rebuild, []).extend(turn.timing.samples_s)
    return [statistics.median(samples[i]) for i in sorted(samples)]


def spread(medians: Sequence[float]) -> float:
    """(largest - smallest) / median: the variation from rebuilding alone."""
    return (max(medians) - min(medians)) / statistics.median(medians)


def verdict(sparse_s: Sequence[float], dense_s: Sequence[float], kernels: Iterable[Optional[int]]) -> str:
    """The gain from sparse tactics, by the engines' medians in both arms and the sparse kernels of each "on" engine."""
    ratio = statistics.median(dense_s) / statistics.median(sparse_s)
    noise = max(spread(sparse_s), spread(dense_s))
    if not any(kernels):
        return f"no sparse kernel used ({ratio:.3f}x, rebuilds differ by {noise:.1%})"
    if ratio <= 1 + noise:
        return f"sparse kernels used, no gain beyond what rebuilding changes ({ratio:.3f}x, {noise:.1%})"
    return f"faster because sparse: {ratio:.3f}x, rebuilds differ by {noise:.1%}"


def listed(values: Iterable[object]) -> str:
    """The values as text for a record; "?" for values that TensorRT did not report."""
    return ", ".join("?" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for v in values)


def settings_of(bench: "Bench", entry: Dict[str, Any]) -> Dict[str, str]:
    arm = entry["arm"]
    facts = {name: [f for _, f in entry["engines"][name]] for name in ARMS}
    medians = {name: medians_by_rebuild(entry["turns"][name]) for name in ARMS}
    chosen = [f["chosen"] if f["sparse_kernels"] is None else f["sparse_kernels"] for f in facts["on"]]
    settings = {
        "arm": f"sparse tactics {arm}", "precision": entry["precision"], "tensorrt": dotted(bench.version),
        "builder": bench.api, "trtexec": sha256_of([bench.trtexec])[:16], "rebuilds": str(len(facts[arm])),
        "engines": listed([f["engine_sha256"][:16] for f in facts[arm]]),
        "eligible layers": listed([f["eligible"] for f in facts["on"]]),
        "chosen layers": listed([f["chosen"] for f in facts["on"]]),
        "sparse kernels": listed([f["sparse_kernels"] for f in facts["on"]]),
        "medians_s, sparse tactics on": listed(medians["on"]), "medians_s, off": listed(medians["off"]),
        "rebuild spread": f"{spread(medians[arm]):.4f}", "sparsity": verdict(medians["on"], medians["off"], chosen),
        "timed by": "trtexec, " + entry["turns"][arm][0].timing.source}
    if "golden" in entry:
        settings["golden"] = "max relative difference {max_relative_difference:.3g}, top-1 agreement " \
            "{top1_agreement:.3g}, {images} images".format(**entry["golden"])
    return settings


def result(bench: "Bench", entry: Dict[str, Any], watch: "Watch") -> Dict[str, Any]:
    """The fields of a result that are specific to this file.

    Its `processes` are engines: they differ as the probe's processes do, and each has consecutive rounds.
    """
    arm = entry["arm"]
    control = next(name for name in ARMS if name != arm)
    turns, others = in_order(entry["turns"][arm]), in_order(entry["turns"][control])
    windows = [turn.timing.window for turn in turns if turn.timing.window]
    inferences_s = sum(t.timing.span_s for t in turns) / sum(len(t.timing.samples_s) for t in turns)
    energy, notes = energy_per_inference(watch.meter, windows, inferences_s)
    kept = ("artifact", "sha256", "runtime", "threads", "peak_bytes", "empty_bytes", "shared_bytes", "load_s",
            "first_s")
    rebuilds = len(entry["engines"][arm])
    return dict({key: entry[key] for key in kept}, runtime_version=dotted(bench.version),
                settings=settings_of(bench, entry), latencies_s=samples_of(turns),
                processes=[len(turns) // rebuilds] * rebuilds,
                control={"arm": f"sparse tactics {control}", "latencies_s": samples_of(others)},
                turns_s=[round(turn.begin_s - watch.started_s, 3) for turn in turns], warmup_s=[], burst_s=None,
                sustained_s=None, notes=entry["notes"] + notes, **energy)


def in_order(turns: Iterable[Turn]) -> List[Turn]:
    return sorted(turns, key=lambda turn: turn.rebuild)  # stable: within a rebuild, by time


def samples_of(turns: Iterable[Turn]) -> List[List[float]]:
    return [[round(s, 9) for s in turn.timing.samples_s] for turn in turns]
