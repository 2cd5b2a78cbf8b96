"""A budget as a gate for CI: what may not get worse, and whether it did, beyond the noise.

    baseline = "../released"         # a family, or FOLDER@SESSION; for max_slowdown_percent

    [[check]]
    name = "edge box"
    file = "max/mmrt-int8"           # VARIANT/FORMAT-PRECISION, * and ? may stand for several
    max_latency_ms = 5
    max_slowdown_percent = 5
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmprune.folder import FolderError
from mmprune.from_json import from_json
from mmprune.from_toml import read_toml
from mmprune.results.across import compare_files
from mmprune.results.among import Devices, choose_among, gather, sessions_on
from mmprune.results.choice_words import describe
from mmprune.results.choose import Budget
from mmprune.results.devices import place
from mmprune.results.headline import OURS, interval, speed
from mmprune.results.points import Point, PointsError, dense_accuracy
from mmprune.results.sides import File, Side, beside, open_side, read_spec
from mmprune.results.speedup import compare, level
from mmprune.results.units import MIB, mebibytes, mib, milliseconds, percent

LIMITS = ("max_latency_ms", "max_size_mb", "max_memory_mb", "max_energy_mj", "max_drop", "min_accuracy", "min_speedup",
          "max_slowdown_percent")
PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"


@dataclass(frozen=True)
class Check:
    """A [[check]]: a file, or the one that `mmprune choose` takes under the same limits, and its limits."""

    name: str
    file: str = ""  # see sides.Spec.file; "": what is chosen
    runtime: str | None = None
    device: str | None = None  # see among.Devices; None: the one that was measured last
    percentile: int = 90  # of the latency
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    max_memory_mb: float | None = None
    max_energy_mj: float | None = None  # per inference above idle power; fails where no energy was measured
    max_drop: float | None = None  # percentage points below the dense model
    min_accuracy: float | None = None  # a fraction; above 1 a percentage
    min_speedup: float | None = None  # times as fast as the fastest dense file of another runtime in the same run
    max_slowdown_percent: float | None = None  # against the same file of the baseline

    def __post_init__(self) -> None:
        limits = {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}
        if not limits:
            raise ValueError(f"check {self.name!r} has no limit: give it one of {', '.join(LIMITS)}")
        for name, value in limits.items():
            if not (value >= 0 if name in ("max_drop", "max_slowdown_percent") else value > 0) or value == float("inf"):
                raise ValueError(f"check {self.name!r}: {name} must be a number above zero, got {value!r}")
        if self.percentile not in (50, 90, 99):
            raise ValueError(f"check {self.name!r}: percentile must be 50, 90 or 99, got {self.percentile!r}")
        if self.min_accuracy is not None and self.min_accuracy > 100:
            raise ValueError(f"check {self.name!r}: min_accuracy must be a fraction such as 0.92 or a percentage such "
                             f"as 92, got {self.min_accuracy!r}")

    @property
    def floor(self) -> float | None:
        """min_accuracy as a fraction."""
        return self.min_accuracy / 100 if self.min_accuracy is not None and self.min_accuracy > 1 else self.min_accuracy


@dataclass(frozen=True)
class Gate:
    """A budget file."""

    check: tuple[Check, ...]
    baseline: str = ""  # see sides.read_spec, seen from the file's folder; "@SESSION": of the gated family


@dataclass(frozen=True)
class Outcome:
    """One limit of a check, for one file."""

    check: str
    file: str
    limit: str
    result: str  # PASSED, FAILED or UNDECIDED
    words: str


def read_gate(path: Path) -> Gate:
    """The budget file. ValueError that names the key, the value and the way out."""
    try:
        gate = from_json(Gate, read_toml(path))
    except ValueError as err:
        raise ValueError(f"{path}: {err}; `mmprune gate --help` shows one") from err
    if not gate.check:
        raise ValueError(f"{path}: it has no [[check]]; `mmprune gate --help` shows one")
    needs = [check.name for check in gate.check if check.max_slowdown_percent is not None]
    if needs and not gate.baseline:
        raise ValueError(f"{path}: check {needs[0]!r} has max_slowdown_percent, so the file needs baseline = "
                         "\"FOLDER\" or \"FOLDER@SESSION\" before its first [[check]]")
    return gate


def run_gate(path: Path, root: Path) -> list[Outcome]:
    """Judge every limit of every check of the file on the family in `root`, of its newest session.

    FAILED is what is broken beyond the noise, UNDECIDED what cannot be judged: too few samples, a busy machine, a
    baseline of another device. ValueError for the file's errors, also for files and devices that are not there.
    """
    gate = read_gate(path)
    base = None
    if any(check.max_slowdown_percent is not None for check in gate.check):
        try:
            spec = read_spec(gate.baseline if not gate.baseline.startswith("@") else f"{root.resolve()}{gate.baseline}",
                             path.parent)
            base = open_side(spec.root, spec.session)
        except (ValueError, FolderError, PointsError) as err:
            raise ValueError(f"{path}: baseline = {gate.baseline!r}: {err}") from err
    return [outcome for check in gate.check for outcome in _judge(check, root, base, path)]


def _judge(check: Check, root: Path, base: Side | None, path: Path) -> list[Outcome]:
    try:
        rows = sessions_on(root, Devices((check.device,) if check.device else ()))
        sides = [open_side(root, row.session) for row in rows]
        if check.max_slowdown_percent is not None and base and any(side.is_session(base) for side in sides):
            raise ValueError(f"the baseline is the gated session {base.session} itself, so nothing could be slower: "
                             "measure again, or name another family or session")
        name, runtime = check.file, check.runtime
        if not name:
            chosen = _chosen(check, root)
            if isinstance(chosen, Outcome):
                return [chosen]
            name, runtime = chosen.artifact, chosen.runtime
        found = [(side, file) for side in sides for file in side.named(name, runtime)]
    except ValueError as err:
        raise ValueError(f"{path}: check {check.name!r}: {err}") from err
    return [replace(outcome, file=f"{outcome.file} on {place(file.run.device)}") if len(sides) > 1 else outcome
            for side, file in found for outcome in _outcomes(check, side, file, base)]


def _chosen(check: Check, root: Path) -> Point | Outcome:
    """What `choose` takes; if nothing keeps the latency, the fastest that keeps the other limits, which is then judged
    by the noise; a failed Outcome if nothing keeps those."""
    drop = None if check.max_drop is None else check.max_drop / 100
    budget = Budget(None if check.max_latency_ms is None else check.max_latency_ms / 1e3, check.percentile,
                    mib(check.max_size_mb), mib(check.max_memory_mb), check.floor, check.runtime, drop,
                    max_energy_j=None if check.max_energy_mj is None else check.max_energy_mj / 1e3)
    devices = Devices((check.device,) if check.device else ())
    among = gather([root], devices)
    choice, _ = choose_among(among, budget)
    if choice.winner is None:
        choice, _ = choose_among(among, replace(budget, max_latency_s=None, prefer="speed"))
    if choice.winner is None:
        return Outcome(check.name, "any", "choice", FAILED, describe(choice).replace("\n", "; "))
    return choice.winner


def _outcomes(check: Check, side: Side, file: File, base: Side | None) -> list[Outcome]:
    judges = {"max_latency_ms": _latency, "max_size_mb": _size, "max_memory_mb": _memory, "max_energy_mj": _energy,
              "max_drop": _drop, "min_accuracy": _accuracy, "min_speedup": _speedup}
    name = file.name if file.runtime.startswith(file.artifact.format) else f"{file.name} with {file.runtime}"
    found = []
    for limit in LIMITS:
        if (value := getattr(check, limit)) is None:
            continue
        result, words = (_slowdown(value, side, file, base) if limit == "max_slowdown_percent"
                         else judges[limit](check, side, file))
        found.append(Outcome(check.name, name, limit, result, words))
    return found


def _latency(check: Check, side: Side, file: File) -> tuple[str, str]:
    """Fails if even the lower end of the percentile's interval is above the limit."""
    limit, found = (check.max_latency_ms or 0) / 1e3, level(file.run, check.percentile)
    words = (f"p{check.percentile} in the typical round {milliseconds(found.value_s)} ms "
             f"({milliseconds(found.low_s)} to {milliseconds(found.high_s)}) of {check.max_latency_ms:g} ms")
    if found.busy:
        return UNDECIDED, f"{words}: {found.busy}"
    if found.low_s > limit:
        return FAILED, words
    return PASSED, words + (": above, within the noise" if found.value_s > limit else "")


def _size(check: Check, side: Side, file: File) -> tuple[str, str]:
    size, limit = file.artifact.download_bytes, check.max_size_mb or 0
    return _at_most(size, limit * MIB), f"download {mebibytes(size)} MiB of {limit:g} MiB"


def _memory(check: Check, side: Side, file: File) -> tuple[str, str]:
    peak, limit = file.run.peak_bytes, check.max_memory_mb or 0
    return _at_most(peak, limit * MIB), f"peak memory {mebibytes(peak)} MiB of {limit:g} MiB"


def _energy(check: Check, side: Side, file: File) -> tuple[str, str]:
    """Fails, too, where none was measured: whoever limits energy must not pass for want of a sensor."""
    energy, limit = file.run.energy_j, check.max_energy_mj or 0
    if energy is None:
        return FAILED, (f"no energy was measured, of {limit:g} mJ: the device has no power sensor that may be read; "
                        "measure where it has one, or remove max_energy_mj")
    return _at_most(energy, limit / 1e3), f"energy {energy * 1e3:.3g} mJ per inference above idle, of {limit:g} mJ"


def _drop(check: Check, side: Side, file: File) -> tuple[str, str]:
    dense, accuracy = dense_accuracy(side.root), file.artifact.accuracy
    return (_at_most(dense - accuracy, (check.max_drop or 0) / 100 + 1e-9),
            f"accuracy {percent(accuracy)}, {100 * (dense - accuracy):.2f} points below dense, of {check.max_drop:g}")


def _accuracy(check: Check, side: Side, file: File) -> tuple[str, str]:
    floor, accuracy = check.floor or 0, file.artifact.accuracy
    return _at_most(floor, accuracy + 1e-9), f"accuracy {percent(accuracy)}, at least {percent(floor)}"


def _at_most(value: float, limit: float) -> str:
    return PASSED if value <= limit else FAILED


def _speedup(check: Check, side: Side, file: File) -> tuple[str, str]:
    """Fails if even the upper end of the interval is below the limit."""
    dense = [f for f in side.files if f.variant.dense and f.runtime != OURS and beside(file, f)]
    if not dense:
        return UNDECIDED, "no dense file of another runtime than mmrt was measured beside it"
    rival = min(dense, key=lambda f: level(f.run).value_s)
    pair = beside(file, rival)
    assert pair is not None
    ratio = compare(*pair)
    words = (f"{speed(ratio)} times as fast ({interval(ratio)}) as {rival.name}, the fastest dense file of another "
             f"runtime; at least {check.min_speedup:g}")
    if ratio.busy or not ratio.low:
        return UNDECIDED, f"{words}: {ratio.busy or 'too few rounds'}"
    if 1 / ratio.low < (check.min_speedup or 0):
        return FAILED, words
    return PASSED, words + (": below, within the noise" if 1 / ratio.value < (check.min_speedup or 0) else "")


def _slowdown(allowed: float, side: Side, file: File, base: Side | None) -> tuple[str, str]:
    """Fails if even the lower end of the interval is above the limit."""
    assert base is not None
    other = next((f for f in base.files if (f.name, f.runtime) == (file.name, file.runtime)), None)
    if other is None:
        return UNDECIDED, f"the baseline has no {file.name} with {file.runtime}: measure it there"
    found = compare_files(file, other, (side, base))
    if found.ratio is None:
        return UNDECIDED, found.how
    ratio, limit = found.ratio, 1 + allowed / 100
    words = (f"{100 * (ratio.value - 1):+.1f} % latency ({100 * (ratio.low - 1):+.1f} to {100 * (ratio.high - 1):+.1f})"
             f" against the baseline, of {allowed:+g} %")
    if ratio.busy or not ratio.low:
        return UNDECIDED, f"{words}: {ratio.busy or 'too few rounds'}"
    if ratio.low > limit:
        return FAILED, words
    return PASSED, words + (": above, within the noise" if ratio.value > limit else "")


def passes(outcomes: Sequence[Outcome], strict: bool) -> bool:
    """Whether nothing failed; with `strict`, and nothing is undecided."""
    return all(o.result == PASSED or (o.result == UNDECIDED and not strict) for o in outcomes)
