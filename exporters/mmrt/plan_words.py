"""Encodes the finished plan as words: buffers get their offsets in the arena, views become offsets and strides."""

from collections.abc import Sequence

from exporters import ExportError
from exporters.mmrt import file as f
from exporters.mmrt.graph import INSTEAD
from exporters.mmrt.layout import DATA, View, arrange
from exporters.mmrt.plan import Plan

MOST_ARENA = 2**31 - 1
SLACK = 64  # elements at the end of the arena, because kernels read past their rows


def plan_words(plan: Plan) -> bytes:
    """The bytes of the PLAN section."""
    offsets, total = arrange([b.size for b in plan.buffers], _lives(plan))
    if total + SLACK > MOST_ARENA:
        raise ExportError(f"mmrt needs a block of {total + SLACK} elements for this model's tensors, but a file allows "
                          f"{MOST_ARENA}; {INSTEAD}")
    words = [f.pack_words([total + SLACK])]
    for ends in (plan.inputs, outputs(plan)):
        words.append(f.pack_words([len(ends)]))
        words += [f.pack_string(name) + f.pack_words(_view_words(view, offsets)) for name, view in ends.items()]
    words.append(f.pack_words([len(plan.ops)]))
    for op in plan.ops:
        payload: list[int | float] = []
        for word in op.payload:
            payload += _view_words(word, offsets) if isinstance(word, View) else [word]
        words.append(f.pack_op(op.opcode, op.name, payload))
    return b"".join(words)


def stored_weights(plan: Plan) -> list[int]:
    """The number of weights in the file for each LINEAR and QLINEAR, including zeros; a word has four channels."""
    counts = []
    for op in plan.ops:
        if op.opcode in (f.LINEAR, f.QLINEAR):
            x, taps, *rest = op.payload
            assert isinstance(x, View) and isinstance(taps, int)
            groups, y = rest[taps:taps + 2]
            assert isinstance(groups, int) and isinstance(y, View)
            counts.append((16 if op.opcode == f.QLINEAR else 1) * y.dims[0] * x.dims[0] // groups * taps)
    return counts


def outputs(plan: Plan) -> dict[str, View]:
    return {name: plan.views[name] for name in plan.graph.outputs}


def _view_words(view: View, offsets: Sequence[int]) -> list[int]:
    in_data = view.buffer == DATA
    offset = view.offset if in_data else offsets[view.buffer] + view.offset
    return [int(in_data), 0, offset, len(view.dims), *view.dims, *view.strides]


def _lives(plan: Plan) -> list[tuple[int, int]]:
    """For each buffer, the first and the last operation that uses it."""
    lives: dict[int, tuple[int, int]] = {}
    first_ones = [(-1, view) for view in plan.inputs.values()]
    last_ones = [(len(plan.ops), view) for view in outputs(plan).values()]
    touched = [(at, v) for at, op in enumerate(plan.ops) for v in op.payload if isinstance(v, View)]
    for at, view in (*first_ones, *touched, *last_ones):
        first, _ = lives.get(view.buffer, (at, at))
        lives[view.buffer] = (first, at)
    return [lives.get(buffer, (-1, -1)) for buffer in range(len(plan.buffers))]
