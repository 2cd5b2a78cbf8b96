"""The bytes of a .mmrt file (runtime/FORMAT.md): sections with their hashes, the words of the plan, packed weights."""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

MAGIC, VERSION, LINE = b"MMRT\r\n\x1a\n", 1, 64  # sections and blobs begin at multiples of a cache line

LINEAR, DEPTHWISE, POOL, HALO, COPY, UNARY, BINARY, REDUCE, SOFTMAX, NORM, MATMUL = range(1, 12)
QLINEAR, QDEPTHWISE, QPOOL, QADD, QUANTIZE, DEQUANTIZE, QMEAN, QHALO, QTABLE, QMATMUL = range(12, 22)
ACTS = ("none", "clip", "leaky", "sigmoid", "silu", "hardsigmoid", "hardswish", "gelu", "gelu_tanh", "tanh", "exp",
        "sqrt", "reciprocal", "erf", "neg", "abs", "log", "softplus", "elu", "affine", "mish", "rounded")
BINARIES = ("add", "sub", "mul", "div", "max", "min", "pow")
REDUCTIONS = ("sum", "max", "min", "l2")
POOLS = ("max", "sum")

Word = int | float  # a float is stored as its IEEE bits


@dataclass
class Data:
    """The DATA section while it is built. Equal blobs are stored once."""

    blobs: list[bytes] = field(default_factory=list)
    size: int = 0  # bytes, a multiple of LINE
    floats: list[tuple[int, int, int]] = field(default_factory=list)  # offset, bytes, width: the download splits these
    found: dict[bytes, int] = field(default_factory=dict)  # sha256 -> blob


def add_blob(data: Data, content: bytes, floats: tuple[int, int] | None = None) -> int:
    """Append; returns the blob's number, in units of LINE. `floats`: where its values begin, and their width."""
    digest = hashlib.sha256(content).digest()
    if digest in data.found:
        return data.found[digest]
    blob = data.found[digest] = data.size // LINE
    if floats:
        data.floats.append((data.size + floats[0], len(content) - floats[0], floats[1]))
    data.blobs.append(padded(content))
    data.size += len(data.blobs[-1])
    return blob


def add_floats(data: Data, values: np.ndarray) -> int:
    return add_blob(data, np.ascontiguousarray(values, "<f4").tobytes(), (0, 4))


def add_weights(data: Data, weights: np.ndarray, precision: str) -> tuple[int, int, int, int]:
    """(encoding, dtype, blob, n_values): stored as a bitmask and the non-zero values if that is smaller."""
    flat = np.ascontiguousarray(weights, np.float32).reshape(-1)
    dtype = int(precision == "fp16" and bool(np.abs(flat).max(initial=0) <= np.finfo(np.float16).max))
    kind, width = (("<f4", 4), ("<f2", 2))[dtype]
    mask = flat != 0
    values = flat[mask]
    bits = padded(np.packbits(mask, bitorder="little").tobytes())
    if len(bits) + len(values) * width < flat.size * width:
        return 1, dtype, add_blob(data, bits + values.astype(kind).tobytes(), (len(bits), width)), len(values)
    return 0, dtype, add_blob(data, flat.astype(kind).tobytes(), (0, width)), flat.size


def add_blocks(data: Data, weights: np.ndarray) -> tuple[int, int]:
    """(blob, n_blocks): int8 weights [O][words of inputs][taps][4] as a bitmask of blocks and the non-zero blocks."""
    blocks = np.ascontiguousarray(weights, np.int8).reshape(-1, 4)
    kept = blocks.any(axis=1)
    bits = padded(np.packbits(kept, bitorder="little").tobytes())
    return add_blob(data, bits + blocks[kept].tobytes()), int(kept.sum())


def padded(content: bytes, unit: int = LINE) -> bytes:
    return content + bytes(-len(content) % unit)


def pack_string(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<i", len(content)) + padded(content, 4)


def pack_words(words: Sequence[Word]) -> bytes:
    return b"".join(struct.pack("<f" if isinstance(word, float) else "<i", word) for word in words)


def pack_op(opcode: int, name: str, payload: Sequence[Word]) -> bytes:
    body = pack_string(name) + pack_words(payload)
    return struct.pack("<ii", opcode, len(body) // 4) + body


def pack_file(sections: Mapping[str, bytes]) -> bytes:
    """Header, table of sections, sections. Names have four letters."""
    offset = LINE * (1 + len(sections))
    table, body = b"", b""
    for name, content in sections.items():
        table += struct.pack("<4s4xQQ32s8x", name.encode(), offset + len(body), len(content),
                             hashlib.sha256(content).digest())
        body += padded(content)
    header = struct.pack("<8sIIQ32s8x", MAGIC, VERSION, len(sections), offset + len(body),
                         hashlib.sha256(table).digest())
    return header + table + body
