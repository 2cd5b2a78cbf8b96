"""What a .mmrt file computes, in numpy: runtime/FORMAT.md written down for reading. It shares no code with exporters.

The arena begins as NaN and LINEAR, DEPTHWISE and POOL leave NaN behind their rows, as far as they may write there: an
operation that reads what nobody wrote shows.
"""

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np

ACTS = {
    0: lambda x, a, b: x,
    1: np.clip,
    2: lambda x, a, b: np.where(x >= 0, x, a * x),
    3: lambda x, a, b: sigmoid(x),
    4: lambda x, a, b: x * sigmoid(x),
    5: lambda x, a, b: np.clip(a * x + b, 0, 1),
    6: lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
    7: lambda x, a, b: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    8: lambda x, a, b: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    9: lambda x, a, b: np.tanh(x),
    10: lambda x, a, b: np.exp(x),
    11: lambda x, a, b: np.sqrt(x),
    12: lambda x, a, b: 1 / x,
    13: lambda x, a, b: erf(x),
    14: lambda x, a, b: -x,
    15: lambda x, a, b: np.abs(x),
    16: lambda x, a, b: np.log(x),
    17: lambda x, a, b: np.logaddexp(0, x),
    18: lambda x, a, b: np.where(x >= 0, x, a * np.expm1(x)),
    19: lambda x, a, b: a * x + b,
    20: lambda x, a, b: x * np.tanh(np.logaddexp(0, x)),
    21: lambda x, a, b: (np.clip(np.rint(x / a) + b, 0, 255) - b) * a,
}
BINARIES = (np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum, np.power)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x):
    return _erf(x).astype(np.float32)


@dataclass(frozen=True)
class View:
    space: int
    offset: int
    dims: tuple
    strides: tuple


@dataclass(frozen=True)
class Op:
    opcode: int
    name: str
    fields: dict


@dataclass(frozen=True)
class Program:
    arena_elements: int
    inputs: dict
    outputs: dict
    ops: list
    data: bytes
    meta: bytes


class Words:
    """Reads a plan word by word."""

    def __init__(self, content):
        self.content, self.at = content, 0

    def int(self):
        self.at += 4
        return struct.unpack_from("<i", self.content, self.at - 4)[0]

    def float(self):
        self.at += 4
        return struct.unpack_from("<f", self.content, self.at - 4)[0]

    def ints(self):
        return [self.int() for _ in range(self.int())]

    def string(self):
        size = self.int()
        text = self.content[self.at:self.at + size].decode()
        self.at += -(-size // 4) * 4
        return text

    def view(self):
        space, dtype, offset, rank = (self.int() for _ in range(4))
        assert dtype == 0
        assert 0 <= rank <= 8
        dims, strides = (tuple(self.int() for _ in range(rank)) for _ in range(2))
        assert all(d > 0 for d in dims)
        assert all(s >= 0 for s in strides)
        return View(space, offset, dims, strides)

    def weights(self):
        return dict(zip(("encoding", "dtype", "blob", "n_values"), (self.int() for _ in range(4)), strict=True))

    def act(self):
        return self.int(), self.float(), self.float()

    def residual(self):
        return self.view() if self.int() else None


PAYLOADS = {  # opcode: fields in the order of the file
    1: (("x", "view"), ("taps", "ints"), ("groups", "int"), ("y", "view"), ("weights", "weights"), ("bias", "int"),
        ("residual", "residual"), ("act", "act"), ("kernel", "int")),
    2: (("x", "view"), ("taps", "ints"), ("y", "view"), ("weights", "int"), ("bias", "int"),
        ("residual", "residual"), ("act", "act")),
    3: (("kind", "int"), ("x", "view"), ("taps", "ints"), ("y", "view"), ("scale", "float")),
    4: (("image", "view"), ("before", "int"), ("after", "int"), ("value", "float")),
    5: (("dst", "view"), ("src", "view")),
    6: (("dst", "view"), ("src", "view"), ("act", "act")),
    7: (("fn", "int"), ("dst", "view"), ("a", "view"), ("b", "view"), ("act", "act")),
    8: (("kind", "int"), ("n_axes", "int"), ("dst", "view"), ("src", "view"), ("scale", "float")),
    9: (("dst", "view"), ("src", "view")),
    10: (("dst", "view"), ("src", "view"), ("eps", "float"), ("gain", "view"), ("bias", "view")),
    11: (("c", "view"), ("a", "view"), ("b", "view"), ("scale", "float")),
}


def read_program(content):
    magic, version, count, size, table_hash = struct.unpack_from("<8sIIQ32s", content)
    table = content[64:64 + 64 * count]
    assert (magic, version, size) == (b"MMRT\r\n\x1a\n", 1, len(content))
    assert hashlib.sha256(table).digest() == table_hash
    sections = {}
    for at in range(0, len(table), 64):
        name, offset, length, digest = struct.unpack_from("<4s4xQQ32s", table, at)
        sections[name.decode()] = content[offset:offset + length]
        assert offset % 64 == 0
        assert hashlib.sha256(sections[name.decode()]).digest() == digest
    words = Words(sections["PLAN"])
    arena = words.int()
    inputs, outputs = ({words.string(): words.view() for _ in range(words.int())} for _ in range(2))
    ops = []
    for _ in range(words.int()):
        opcode, n_words = words.int(), words.int()
        end = words.at + 4 * n_words
        name = words.string()
        ops.append(Op(opcode, name, {field: getattr(words, kind)() for field, kind in PAYLOADS[opcode]}))
        assert words.at == end
    assert words.at == len(words.content)
    return Program(arena, inputs, outputs, ops, sections["DATA"], sections["META"])


class Machine:
    """Arena and constants, seen through views."""

    def __init__(self, program):
        self.arena = np.full(program.arena_elements, np.nan, np.float32)
        self.data = np.frombuffer(program.data, np.uint8)

    def see(self, view, shift=0):
        """The view's elements, `shift` elements further on. Checks that they are inside."""
        space = self.arena if view.space == 0 else self.data.view("<f4")
        offset = (view.offset if view.space == 0 else view.offset * 16) + shift
        last = offset + sum((d - 1) * s for d, s in zip(view.dims, view.strides, strict=True))
        assert 0 <= offset <= last < len(space), (view, shift)
        return np.lib.stride_tricks.as_strided(space[offset:], view.dims, [4 * s for s in view.strides],
                                               writeable=view.space == 0)

    def floats(self, blob, count):
        return self.data[64 * blob:64 * blob + 4 * count].view("<f4")

    def weights(self, packed, count):
        start, kind = 64 * packed["blob"], ("<f4", "<f2")[packed["dtype"]]
        if packed["encoding"] == 1:
            size = -(-count // 32) * 4
            mask = np.unpackbits(self.data[start:start + size], bitorder="little")[:count].astype(bool)
            assert mask.sum() == packed["n_values"]
            start += -(-size // 64) * 64
        values = self.data[start:start + packed["n_values"] * int(kind[-1])].view(kind).astype(np.float32)
        if packed["encoding"] == 0:
            return values
        dense = np.zeros(count, np.float32)
        dense[mask] = values
        return dense

    def write_rows(self, view, values):
        """Into y [O, P], and NaN as far behind each row as a kernel may write."""
        self.see(view)[...] = values
        rows, positions = view.dims
        if positions > 1:
            spill = -positions % 16
            assert rows == 1 or view.strides[0] >= positions + spill
            if spill:
                behind = View(0, view.offset + positions, (rows, spill), view.strides)
                self.see(behind)[...] = np.nan
        else:
            assert view.strides == (1, 1)


def run(program, inputs, watch=None):
    """Outputs by name. `watch(op, machine)` is called after each operation."""
    machine = Machine(program)
    for name, view in program.inputs.items():
        machine.see(view)[...] = inputs[name]
    with np.errstate(all="ignore"):
        for op in program.ops:
            STEPS[op.opcode](machine, **op.fields)
            if watch:
                watch(op, machine)
    return {name: machine.see(view).copy() for name, view in program.outputs.items()}


def linear(m, *, x, taps, groups, y, weights, bias, residual, act, kernel):
    (c, positions), outs = x.dims, y.dims[0]
    w = m.weights(weights, outs * c // groups * len(taps)).reshape(outs, c // groups, len(taps))
    if positions > 1:
        for shift in (min(taps), max(taps)):
            m.see(View(0, x.offset, (c, positions + 16), x.strides), shift)
    total = np.zeros((outs, positions), np.float32)
    o, i = outs // groups, c // groups
    for t, tap in enumerate(taps):
        seen = m.see(x, tap)
        for g in range(groups):
            total[g * o:(g + 1) * o] += w[g * o:(g + 1) * o, :, t] @ seen[g * i:(g + 1) * i]
    finish_rows(m, total, y, bias, residual, act)


def finish_rows(m, total, y, bias, residual, act):
    if bias >= 0:
        total += m.floats(bias, len(total))[:, None]
    if residual is not None:
        total += m.see(residual)
    m.write_rows(y, ACTS[act[0]](total, *act[1:]))


def depthwise(m, *, x, taps, y, weights, bias, residual, act):
    w = m.floats(weights, x.dims[0] * len(taps)).reshape(x.dims[0], len(taps))
    total = sum(w[:, t, None] * m.see(x, tap) for t, tap in enumerate(taps))
    finish_rows(m, total, y, bias, residual, act)


def pool(m, kind, x, taps, y, scale):
    seen = [m.see(x, tap) for tap in taps]
    m.write_rows(y, np.max(seen, axis=0) if kind == 0 else scale * np.sum(seen, axis=0, dtype=np.float32))


def halo(m, image, before, after, value):
    (c, height, width), (row, pitch, one) = image.dims, image.strides
    assert one == 1
    end = (height - 1) * pitch + width
    for size, start in ((before, -before), (after, end)):
        if size:
            m.see(View(0, image.offset + start, (c, size), (row, 1)))[...] = value
    if pitch > width and height > 1:
        m.see(View(0, image.offset + width, (c, height - 1, pitch - width), (row, pitch, 1)))[...] = value


def copy(m, dst, src):
    assert dst.dims == src.dims
    m.see(dst)[...] = m.see(src)


def unary(m, dst, src, act):
    assert dst.dims == src.dims
    m.see(dst)[...] = ACTS[act[0]](m.see(src), *act[1:])


def binary(m, fn, dst, a, b, act):
    assert dst.dims == a.dims == b.dims
    m.see(dst)[...] = ACTS[act[0]](BINARIES[fn](m.see(a), m.see(b)), *act[1:])


def reduce(m, kind, n_axes, dst, src, scale):
    assert dst.dims == src.dims[:len(src.dims) - n_axes]
    x, axes = m.see(src), tuple(range(len(src.dims) - n_axes, len(src.dims)))
    m.see(dst)[...] = (scale * x.sum(axes), x.max(axes), x.min(axes), np.sqrt((x * x).sum(axes)))[kind]


def softmax(m, dst, src):
    assert dst.dims == src.dims
    x = m.see(src)
    e = np.exp(x - x.max(-1, keepdims=True))
    m.see(dst)[...] = e / e.sum(-1, keepdims=True)


def norm(m, dst, src, eps, gain, bias):
    assert dst.dims == src.dims
    x = m.see(src).astype(np.float64)
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    if len(gain.dims):
        x = x * m.see(gain) + m.see(bias)
    m.see(dst)[...] = x


def matmul(m, c, a, b, scale):
    assert (c.dims[-2], c.dims[-1], a.dims[-1]) == (a.dims[-2], b.dims[-1], b.dims[-2])
    assert c.dims[:-2] == a.dims[:-2] == b.dims[:-2]
    assert c.strides[-1] == b.strides[-1] == 1
    m.see(c)[...] = scale * np.matmul(m.see(a), m.see(b))


STEPS = {1: linear, 2: depthwise, 3: pool, 4: halo, 5: copy, 6: unary, 7: binary, 8: reduce, 9: softmax, 10: norm,
         11: matmul}
