"""Writes report.md: the request, the variants, their cost on the device, and how it was measured."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmprune import folder
from mmprune.records import TUNED, Artifact, Manifest, Variant
from mmprune.results.boards import read_boards
from mmprune.results.budget_lines import budget_lines
from mmprune.results.headline import find_headline, headline_words
from mmprune.results.how_measured import device_rows, file_notes, measurement_notes, protocol
from mmprune.results.page import write_page
from mmprune.results.paths import command_words, file_name
from mmprune.results.plot import draw
from mmprune.results.points import Point, PointsError, read_points, read_session
from mmprune.results.starts import start_lines
from mmprune.results.table import FLAG, HEAD, cells


def report_points(root: Path) -> tuple[Path, list[Point]]:
    """Write report.html, report.md and front.png; (report.html, the newest session's points).

    Without measurements report.md has only the other sections, and PointsError is raised; report.html is then written
    only if there are sizes from an emulator.
    """
    boards = read_boards(root)
    page = write_page(root, f"{_title(folder.read_manifest(root))}, pruned", boards)
    if page is None or not boards[0].newest:
        write_report(root)
        return root / "report.md", read_points(root)  # which says why there are none
    write_report(root, boards[0].points)
    return page, list(boards[0].points)


def write_report(root: Path, points: Sequence[Point] | None = None) -> Path:
    """Write report.md, and front.png if there are measurements; without any, the report has only the other sections.

    points  read_points(root), if the caller has it already
    """
    manifest, variants = folder.read_manifest(root), folder.read_variants(root)
    artifacts = folder.read_artifacts(root)
    sections = [f"# {_title(manifest)}, pruned", _asked(manifest), _variants(variants, artifacts) + _starts(root)]
    if lines := budget_lines(root):
        sections.append("## The budget\n\n" + "\n".join(f"- {line.removeprefix('budget: ')}" for line in lines))
    try:
        points, session = points or read_points(root), read_session(root)
    except PointsError as err:
        sections.append(f"## Measurements\n\nNone: {err}.")
    else:
        draw(root, points)
        sections.insert(1, headline_words(find_headline(root, points)))
        sections += ["## The device\n\n" + _list([f"{key}: {value}" for key, value in device_rows(session)]),
                     _costs(points), "![Accuracy against latency, download and memory](front.png)",
                     "## Notes on the measurements\n\n" + _list(measurement_notes(points)),
                     "## Notes on the files\n\n" + _list(file_notes(points, artifacts) or ["none"]),
                     f"## How it was measured\n\n{protocol()}"]
    if manifest.failures:
        rows = "\n".join(f"- `{name}`: {text}" for name, text in manifest.failures.items())
        sections.append(f"## What failed\n\n{rows}")
    path = root / "report.md"
    folder.write_whole(path, lambda part: part.write_text("\n\n".join(sections) + "\n"))
    return path


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _title(manifest: Manifest) -> str:
    return file_name(manifest.source.model.model) if manifest.source.model else "Model"


def _asked(manifest: Manifest) -> str:
    model, data = manifest.source.model, manifest.source.data
    named = {k: file_name(v) for k, v in asdict(model).items() if v not in (None, "", False)} if model else {}
    images = ", ".join(f"{count} {part}" for part, count in asdict(manifest.images).items())
    rows = [("command", f"`{command_words(manifest.command)}`" if manifest.command else ""),
            ("model", _words(named)),
            ("data", f"{file_name(data.path)}, {len(data.classes)} classes, {images} images, "
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


def _costs(points: Sequence[Point]) -> str:
    rows = _markdown(HEAD, [cells(p) for p in points])
    flag = f" \\* {FLAG}." if any(p.disturbed for p in points) else ""
    return f"## Costs\n\n{rows}\n\nAccuracies are those of these files on test data.{flag}"


def _list(rows: Sequence[str]) -> str:
    return "\n".join(f"- {row}" for row in rows)
