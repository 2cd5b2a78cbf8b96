"""Says how a session was measured: the protocol, the device, and what disturbed the measurements."""

from collections.abc import Sequence

from mmprune.records import Artifact, Measurement
from mmprune.results.grouped_notes import grouped_notes
from mmprune.results.percentiles import samples_needed
from mmprune.results.points import Point, Session
from mmprune.results.speedup import TOO_BUSY

HOW = """\
Each artifact ran with each runtime in its own process. All processes are alive at the same time and are started in
random order; in each round every process runs several consecutive inferences while the others wait, in a new random
order. The input is random with a fixed seed and the batch size is 1; copying and preprocessing of images are not
included. Warm-ups and the first inferences of each turn are stored separately and not counted. Peak memory is from
a separate pass without timing; it includes the interpreter and the runtime, and "model" is the part above that of a
process that has only imported them.

p50 is the median. p90 and p99 are early-stopping estimates, which the true percentile exceeds with a probability of
1 % at most, by the rule of MLPerf's single-stream scenario; they need {p90} and {p99} samples. "of dense" compares the
median latency with that of the dense model with the same runtime in the same round: it is the median of these ratios
over all rounds, with a 99 % interval from a bootstrap over processes and rounds, which also includes the ratio of the
fastest tenths. The verdict is "faster" or "slower" only if the complete interval is more than 1 % away from 1, or 5 %
if fewer than five fresh processes shared the rounds, as in profile smoke: copies of one model can differ that much by
their position in memory. Rounds in which one of the two lost the CPU (the kernel counts how long threads waited for a
core, and what the hypervisor took) are left out. If fewer than a quarter of the rounds are left, or medians and fastest
tenths contradict each other, the verdict is "too busy to tell". p50, p90 and p99 use all samples."""


def protocol() -> str:
    """Two paragraphs on the protocol and on the figures."""
    return HOW.format(p90=samples_needed(90), p99=samples_needed(99))


def device_rows(session: Session) -> list[tuple[str, str]]:
    """(name, value) of what is known of the device and the session."""
    d = session.device
    versions = ", ".join(f"{name} {version}" for name, version in d.versions.items())
    settings = "; ".join(f"{name}: " + ", ".join(f"{k} {v}" for k, v in knobs.items())
                         for name, knobs in session.settings.items() if knobs)
    rows = [("board", d.board), ("cpu", f"{d.cpu}, {d.cores} cores usable, {' '.join(d.isa)}"),
            ("memory", f"{d.ram_bytes / 2**30:.1f} GiB"), ("system", f"{d.os}, kernel {d.kernel}"),
            ("versions", versions), ("settings", settings),
            ("governor", d.governor or "not reported"), ("power mode", d.power_mode),
            ("clock", f"{d.clock_hz / 1e9:.2f} GHz at most" if d.clock_hz else "not reported"),
            ("fingerprint", d.fingerprint), ("commit", session.commit),
            ("measured", f"{session.started}, profile {session.profile}, {session.rounds} rounds or more, session "
                         f"{session.name}")]
    return [(key, value) for key, value in rows if value]


def conditions(runs: Sequence[Measurement]) -> list[tuple[str, str]]:
    """(name, value) of heat, clocks and throttling over a session; what the device does not report is left out."""
    heat = [c for m in runs if m.temperature_c is not None for c in m.temperature_c]
    clocks = [hz / 1e9 for m in runs if m.clock_hz is not None for hz in m.clock_hz]
    waits = [m.gate.waited_s for m in runs if m.gate is not None]
    rails = dict.fromkeys(rail for m in runs for rail in m.power_rails)
    rows = [("temperature", f"{min(heat):.0f} to {max(heat):.0f} °C" if heat else ""),
            ("clock while measuring", f"{min(clocks):.2f} to {max(clocks):.2f} GHz" if clocks else ""),
            ("clocks pinned", "yes" if any(m.pinned_clocks for m in runs) else ""),
            ("throttled", f"{sum(m.throttled for m in runs)} of {len(runs)} runs"),
            ("waited until idle and cool", f"{max(waits):.0f} s at most" if waits else ""),
            ("power rails", ", ".join(rails)), ("processes", _processes(runs))]
    return [(key, value) for key, value in rows if value]


def _processes(runs: Sequence[Measurement]) -> str:
    counts = [len(m.processes) or 1 for m in runs]
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} fresh for each file"


def measurement_notes(points: Sequence[Point]) -> list[str]:
    """What is to be said of these measurements, equal notes once."""
    rows = []
    if unsure := sum(p.ratio is not None and p.ratio.verdict == TOO_BUSY for p in points):
        rows.append(f"{unsure} of {len(points)} cannot be compared with the dense model because the machine was too "
                    "busy: close other programs, or use an idle machine, and measure again (mmprune bench)")
    if unstable := sum(bool(p.notes) for p in points):
        rows.append(f"{unstable} of {len(points)} were disturbed: medians and paired ratios are robust against this, "
                    "p90 and p99 less so. Close other programs, or measure on an idle device")
    rows += grouped_notes(((note, f"{p.artifact} on {p.runtime}") for p in points for note in p.notes), len(points))
    for percentile in (90, 99):
        few = [p.samples for p in points if p.latency_s(percentile) is None]
        need = samples_needed(percentile)
        if few:
            rows.append(f"{len(few)} of {len(points)} have too few samples for p{percentile}: {min(few)}, but "
                        f"{need} are needed; measure with a longer profile")
    rows = rows or ["none: every measurement was stable"]
    rows += grouped_notes(((note, f"{p.artifact} on {p.runtime}") for p in points for note in p.told), len(points))
    return rows


def file_notes(points: Sequence[Point], artifacts: Sequence[Artifact]) -> list[str]:
    """The exporters' notes on the measured files."""
    measured = {p.artifact for p in points}
    return grouped_notes(((note, a.id) for a in artifacts if a.id in measured for note in a.remarks), len(measured))
