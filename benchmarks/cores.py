"""The core that a row of runtime_vs_peers.py was measured on. Rows of one core never take the place of another's."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from exporters.to_mmrt import load_runtime, write_mmrt
from targets.on_device.board import cpu_facts

Row = dict[str, Any]

SAME_ROW = ("model", "img_size", "threads", "sparsity", "runtime", "pattern", "precision")


def has_amx() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "amx_tile" in cpuinfo.read_text().split()


def this_core(amx: bool | None = None) -> Row:
    """What rows of this machine say of it: the CPU's name, its instruction sets, mmrt's kernels, AMX for the peers."""
    cpu, isa = cpu_facts()
    return {"cpu": cpu, "isa": list(isa), "kernels": kernels(), "amx": has_amx() if amx is None else amx}


def kernels() -> str:
    """The instruction set whose kernels mmrt takes here, as a file with a single operation says."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "one", ends[:1], ends[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.mmrt")
        write_mmrt(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
        return str(load_runtime().Model(str(path)).kernels)


def core_of(row: Row) -> str:
    """As text, to compare; "" for a row that does not say it all, as those from before did not."""
    known = [row.get(key) for key in ("cpu", "isa", "kernels", "amx")]
    return "" if None in known else json.dumps(known)


def key_of(row: Row) -> tuple[Any, ...]:
    """What was measured, apart from the core."""
    return tuple(row.get(key) for key in SAME_ROW)


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The old rows, where those of the same core that were measured again are replaced, and the other new ones."""
    again = {(core_of(row), key_of(row)) for row in new}
    return [*(row for row in old if not core_of(row) or (core_of(row), key_of(row)) not in again), *new]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write new rows into a file of rows, see merged."""
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    path.write_text("".join(json.dumps(row) + "\n" for row in merged(old, rows)))
