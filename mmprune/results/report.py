"""Writes report.md: the request, the variants, their cost on the device, and how it was measured."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmprune import folder
from mmprune.records import TUNED, Artifact, Manifest, Variant
from mmprune.results.budget_lines import budget_lines
from mmprune.results.grouped_notes import grouped_notes
from mmprune.results.headline import find_headline, headline_words
from mmprune.results.percentiles import samples_needed
from mmprune.results.plot import draw
from mmprune.results.points import Point, PointsError, Session, read_points, read_session
from mmprune.results.speedup import TOO_BUSY
from mmprune.results.starts import start_lines
from mmprune.results.table import FLAG, HEAD, cells

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


def report_points(root: Path) -> tuple[Path, list[Point]]:
    """Write report.md and front.png; (report.md, the points in it). Without measurements the report has only the other
    sections, and PointsError is raised."""
    try:
        points = read_points(root)
    except PointsError:
        write_report(root)
        raise
    return write_report(root, points), points


def write_report(root: Path, points: Sequence[Point] | None = None) -> Path:
    """Write report.md, and front.png if there are measurements; without any, the report has only the other sections.

    points  read_points(root), if the caller has it already
    """
    manifest, variants = folder.read_manifest(root), folder.read_variants(root)
    title = _file_name(manifest.source.model.model) if manifest.source.model else "Model"
    artifacts = folder.read_artifacts(root)
    sections = [f"# {title}, pruned", _asked(manifest), _variants(variants, artifacts) + _starts(root)]
    if lines := budget_lines(root):
        sections.append("## The budget\n\n" + "\n".join(f"- {line.removeprefix('budget: ')}" for line in lines))
    try:
        points, session = points or read_points(root), read_session(root)
    except PointsError as err:
        sections.append(f"## Measurements\n\nNone: {err}.")
    else:
        draw(root, points)
        sections.insert(1, headline_words(find_headline(root, points)))
        sections += [_device(session), _costs(points),
                     "![Accuracy against latency, download and memory](front.png)",
                     _notes(points), _files(points, artifacts),
                     "## How it was measured\n\n" + HOW.format(p90=samples_needed(90), p99=samples_needed(99))]
    if manifest.failures:
        rows = "\n".join(f"- `{name}`: {text}" for name, text in manifest.failures.items())
        sections.append(f"## What failed\n\n{rows}")
    path = root / "report.md"
    folder.write_whole(path, lambda part: part.write_text("\n\n".join(sections) + "\n"))
    return path


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _file_name(value: Any) -> str:
    """The last part of a path: a report that is passed on must not contain this machine's folders."""
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _asked(manifest: Manifest) -> str:
    model, data = manifest.source.model, manifest.source.data
    named = {k: _file_name(v) for k, v in asdict(model).items() if v not in (None, "", False)} if model else {}
    images = ", ".join(f"{count} {part}" for part, count in asdict(manifest.images).items())
    rows = [("command", f"`{manifest.command}`" if manifest.command else ""),
            ("model", _words(named)),
            ("data", f"{_file_name(data.path)}, {len(data.classes)} classes, {images} images, "
                     f"sha256 {data.sha256[:16]}" if data else f"{images} images"),
            *((key, _words(value)) for key, value in asdict(manifest.spec).items())]
    lines = [f"- {key}: {value}" for key, value in rows if value not in ("", "None")]
    return "## Request\n\n" + "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _variants(variants: Sequence[Variant], artifacts: Sequence[Artifact]) -> str:
    best = max((v for v in variants if v.dense), key=lambda v: v.accuracy, default=None)
    rows = [[v.strategy, f"{v.sparsity * 100:.1f}", f"{v.accuracy * 100:.2f}",
             "-" if best is None or v is best else f"{(best.accuracy - v.accuracy) * 100:+.2f}", f"`{v.id}`"]
            for v in variants]
    head = ["strategy", "sparsity %", "accuracy %", "drop, points", "variant"]
    told = "Accuracies are of the PyTorch models on test data."
    if best is not None and any(v.strategy == TUNED for v in variants):
        told += (f" {TUNED} is the dense model fine-tuned as the sparse ones were; drops are from {best.strategy}, the "
                 "more accurate of the two.")
    if _runs_blocks(variants, artifacts):
        head.insert(2, "in zero blocks %")
        for row, v in zip(rows, variants, strict=True):
            row.insert(2, f"{v.block_sparsity * 100:.1f}")
        told += ("\n\"in zero blocks\" is the share of weights in blocks of four inputs that are all zero: an int8 "
                 "kernel can skip these blocks; a float kernel skips every zero.")
    return f"## Variants\n\n{_markdown(head, rows)}\n\n{told}"


def _starts(root: Path) -> str:
    return "".join(f"\n\n{line[0].upper()}{line[1:]}." for line in start_lines(root))


def _runs_blocks(variants: Sequence[Variant], artifacts: Sequence[Artifact]) -> bool:
    """Whether all-zero blocks were requested, or a file of the family benefits from them."""
    asked = any(v.pattern == "block-1x4" for v in variants)
    return asked or any((a.format, a.precision) == ("mmrt", "int8") for a in artifacts)


def _device(session: Session) -> str:
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
    return "## The device\n\n" + "\n".join(f"- {key}: {value}" for key, value in rows if value)


def _costs(points: Sequence[Point]) -> str:
    rows = _markdown(HEAD, [cells(p) for p in points])
    flag = f" \\* {FLAG}." if any(p.disturbed for p in points) else ""
    return f"## Costs\n\n{rows}\n\nAccuracies are those of these files on test data.{flag}"


def _notes(points: Sequence[Point]) -> str:
    rows = []
    if unsure := sum(p.ratio is not None and p.ratio.verdict == TOO_BUSY for p in points):
        rows.append(f"- {unsure} of {len(points)} cannot be compared with the dense model because the machine was too "
                    "busy: close other programs, or use an idle machine, and measure again (mmprune bench)")
    if unstable := sum(bool(p.notes) for p in points):
        rows.append(f"- {unstable} of {len(points)} were disturbed: medians and paired ratios are robust against this, "
                    "p90 and p99 less so. Close other programs, or measure on an idle device")
    rows += _lines(((note, f"{p.artifact} on {p.runtime}") for p in points for note in p.notes), len(points))
    for percentile in (90, 99):
        few = [p.samples for p in points if p.latency_s(percentile) is None]
        need = samples_needed(percentile)
        if few:
            rows.append(f"- {len(few)} of {len(points)} have too few samples for p{percentile}: {min(few)}, but "
                        f"{need} are needed; measure with a longer profile")
    rows = rows or ["- none: every measurement was stable"]
    rows += _lines(((note, f"{p.artifact} on {p.runtime}") for p in points for note in p.told), len(points))
    return "## Notes on the measurements\n\n" + "\n".join(rows)


def _files(points: Sequence[Point], artifacts: Sequence[Artifact]) -> str:
    """The exporters' notes on the measured files."""
    measured = {p.artifact for p in points}
    rows = _lines(((note, a.id) for a in artifacts if a.id in measured for note in a.remarks), len(measured))
    return "## Notes on the files\n\n" + ("\n".join(rows) if rows else "- none")


def _lines(notes: Iterable[tuple[str, str]], total: int) -> list[str]:
    return [f"- {line}" for line in grouped_notes(notes, total)]
