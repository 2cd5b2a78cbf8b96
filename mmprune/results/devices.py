"""Names of measured devices, and whether two runs are of the same one."""

from mmprune.records import Device, Measurement

# What must be equal for two runs to be of one device. Kernel, governor and clocks may change what it does, too
SAME = ("target", "board", "soc", "cpu", "isa", "cores", "ram_bytes", "power_mode", "governor", "clock_hz")
SLACK = 0.02  # the memory that a kernel reports changes with its version


def place(device: Device) -> str:
    """The device in a few words: its target, board, CPU and power mode, as far as they are known."""
    known = [device.target, device.board, device.cpu, device.power_mode]
    return ", ".join(dict.fromkeys(part for part in known if part and "unknown" not in part and part != "not reported"))


def device_differences(mine: Device, other: Device) -> list[str]:
    """Why the two are not the same device in the same state, in words; [] if they are."""
    found = []
    for name in SAME:
        a, b = getattr(mine, name), getattr(other, name)
        same = abs(a - b) <= SLACK * max(a, b) if name == "ram_bytes" else a == b
        if not same:
            found.append(f"{name} {_words(a)} and {_words(b)}")
    return found


def run_differences(mine: Measurement, other: Measurement, versions: bool = True) -> list[str]:
    """Why latencies of two runs say nothing about their files; [] if they do.

    versions  whether another version of the runtime, or other settings, are a reason
    """
    found = device_differences(mine.device, other.device)
    found += [f"{name} {getattr(mine, name)} and {getattr(other, name)}" for name in ("threads", "batch")
              if getattr(mine, name) != getattr(other, name)]
    if mine.pinned_clocks != other.pinned_clocks:
        found.append(f"clocks {' and '.join('pinned' if m.pinned_clocks else 'free' for m in (mine, other))}")
    if versions and mine.runtime == other.runtime:
        if mine.runtime_version != other.runtime_version:
            found.append(f"{mine.runtime} {mine.runtime_version} and {other.runtime_version}")
        if mine.settings != other.settings:
            found.append(f"{mine.runtime}'s settings {_words(mine.settings)} and {_words(other.settings)}")
    return found


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in sorted(value.items())) or "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else repr(value)
