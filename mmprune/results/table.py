"""Measured points as rows of text, with all that is known of them: for the report and notebooks."""

from collections.abc import Sequence

from mmprune.results.points import Point

FLAG = "of all samples, including those in which other programs took the CPU"


def table_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """The header and one row per point, as text."""
    return [HEAD, *(cells(p) for p in points)]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text in columns: the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


HEAD = ("variant", "runtime", "sparsity %", "accuracy %", "p50 ms", "p90 ms", "p99 ms", "of dense", "99 % interval",
         "verdict", "peak MiB", "model MiB", "file MiB", "download MiB")


def cells(p: Point) -> tuple[str, ...]:
    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value * 1e3:.2f}{'*' if p.disturbed else ''}"

    def mib(value: int, digits: int) -> str:
        return f"{value / 2**20:.{digits}f}"

    ratio = ("-", "-", "-") if p.ratio is None else (
        f"{p.ratio.value:.3f}", f"{p.ratio.low:.3f} to {p.ratio.high:.3f}", p.ratio.verdict)
    return (f"{p.strategy}, {p.precision}", p.runtime, f"{p.sparsity * 100:.1f}",
            f"{p.accuracy * 100:.2f}", ms(p.p50_s), ms(p.p90_s), ms(p.p99_s), *ratio,
            mib(p.peak_bytes, 0), mib(p.memory_bytes, 0), mib(p.file_bytes, 2), mib(p.download_bytes, 2))
