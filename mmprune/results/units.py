"""Seconds, bytes and fractions as short text, and MiB as bytes."""

MIB = 2**20


def milliseconds(value_s: float | None) -> str:
    """Three digits, or all before the point; "-" for None."""
    if value_s is None:
        return "-"
    value = value_s * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def mebibytes(value: int) -> str:
    """Two decimals; of large values none."""
    mib = value / MIB
    return f"{mib:.2f}" if mib < 10 else f"{mib:.0f}"


def mib(value: float | None) -> int | None:
    """MiB as bytes; None stays None."""
    return None if value is None else round(value * MIB)


def percent(fraction: float) -> str:
    """Two decimals."""
    return f"{100 * fraction:.2f} %"
