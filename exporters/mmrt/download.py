"""model.mmrt.xz, the form for downloads: the same content, with its floats split into byte planes, then xz.

    python3 download.py model.mmrt.xz          # writes model.mmrt; standard library alone, Python 3.8

The format before xz: magic (8) · size of the file u64 · number of runs of floats u64 · for each run offset, bytes,
width u64 · the bytes outside all runs · for each width and each byte position this byte of every float. Each float is
rotated left by one bit: the exponents, which are similar, then form one plane, and the sign is stored with the
mantissas, which are noise.
"""

import json
import lzma
import os
import struct
import sys
from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

MAGIC = b"MMRTXZ\r\1"
WIDTHS = (4, 2)  # float32, float16
HEADER = struct.Struct("<8sQQ")
ROW = struct.Struct("<QQQ")


class DownloadError(ValueError):
    """Not a packed .mmrt file, or a damaged one."""


def pack(content: bytes) -> bytes:
    """The bytes of a .mmrt file -> those of its .mmrt.xz."""
    runs = _float_runs(content)
    head = HEADER.pack(MAGIC, len(content), len(runs)) + b"".join(ROW.pack(*run) for run in runs)
    streams = [head + _rest(content, runs)]
    for width in WIDTHS:
        floats = _rotate(b"".join(content[at:at + size] for at, size, w in runs if w == width), width, width * 8 - 1)
        streams += [floats[byte::width] for byte in range(width)]
    return b"".join(_compress(stream) for stream in streams if stream)


def unpack(packed: bytes, limit: int = 1 << 32) -> bytes:
    """The bytes of a .mmrt.xz file -> those of the .mmrt file. DownloadError for anything else, or above `limit`."""
    try:
        whole = _decompress(packed, limit)
        magic, size, count = HEADER.unpack_from(whole)
        if magic != MAGIC or size > limit or count > len(whole) // ROW.size:
            raise DownloadError("not a packed .mmrt file")
        runs = [ROW.unpack_from(whole, HEADER.size + i * ROW.size) for i in range(count)]
    except (lzma.LZMAError, struct.error) as err:
        raise DownloadError(f"damaged: {err}") from err
    at = HEADER.size + count * ROW.size
    inside = sum(run[1] for run in runs)
    in_order = all(begin <= end for begin, end in _gaps(size, runs))
    if len(whole) - at != size or not in_order or any(w not in WIDTHS or n % w for _, n, w in runs):
        raise DownloadError("damaged: its runs of floats do not match its size")
    result, rest = bytearray(size), at
    at += size - inside
    for begin, end in _gaps(size, runs):
        result[begin:end] = whole[rest:rest + end - begin]
        rest += end - begin
    for width in WIDTHS:
        total = sum(n for _, n, w in runs if w == width)
        floats = bytearray(total)
        for byte in range(width):
            floats[byte::width] = whole[at:at + total // width]
            at += total // width
        turned, used = _rotate(bytes(floats), width, 1), 0
        for begin, n, w in runs:
            if w == width:
                result[begin:begin + n] = turned[used:used + n]
                used += n
    return bytes(result)


def _decompress(packed: bytes, limit: int) -> bytes:
    """The decompressed streams, limited to `limit` and the table."""
    parts, left = [], limit + (limit >> 3)
    while packed:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        parts.append(decoder.decompress(packed, left))
        left -= len(parts[-1])
        if not decoder.eof:
            raise DownloadError(f"damaged: it is cut off, or larger than {limit} bytes")
        packed = decoder.unused_data
    return b"".join(parts)


def _float_runs(content: bytes) -> List[Tuple[int, int, int]]:
    """(offset in the file, bytes, width) of the floats in DATA, as listed in META, in the order of the file."""
    sections: Dict[bytes, Tuple[int, int]] = {}
    for i in range(struct.unpack_from("<I", content, 12)[0]):
        name, offset, size = struct.unpack_from("<4s4xQQ", content, 64 * (i + 1))
        sections[name] = (offset, size)
    offset, size = sections[b"META"]
    data = sections[b"DATA"][0]
    floats = json.loads(content[offset:offset + size].decode())["floats"]
    return sorted((data + at, n, width) for at, n, width in floats)


def _gaps(size: int, runs: Iterable[Tuple[int, ...]]) -> Iterator[Tuple[int, int]]:
    at = 0
    for begin, n, _ in runs:
        yield at, begin
        at = begin + n
    yield at, size


def _rest(content: bytes, runs: Sequence[Tuple[int, ...]]) -> bytes:
    return b"".join(content[begin:end] for begin, end in _gaps(len(content), runs))


def _rotate(floats: bytes, width: int, right: int) -> bytes:
    """Rotate each little-endian word right by `right` bits, all at once as one large number."""
    bits, pieces = width * 8, []
    for at in range(0, len(floats), 1 << 16):
        piece = floats[at:at + (1 << 16)]
        words = len(piece) // width
        ones = int.from_bytes((b"\1" + bytes(width - 1)) * words, "little")
        number = int.from_bytes(piece, "little")
        low = ones * ((1 << right) - 1)  # the bits that wrap around
        turned = ((number & ~low) >> right) | ((number & low) << (bits - right))
        pieces.append(turned.to_bytes(len(piece), "little"))
    return b"".join(pieces)


def _compress(stream: bytes) -> bytes:
    """xz with a short search for matches, which compares each match with storing the bytes themselves.

    Neighbouring bytes are independent (lc, lp, pb 0) and hardly anything repeats, so a longer search finds next to
    nothing and takes several times as long.
    """
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0, "mode": lzma.MODE_NORMAL,
                "mf": lzma.MF_HC3, "nice_len": 16, "depth": 1, "dict_size": 1 << 16}]
    return lzma.compress(stream, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


def main() -> None:
    for path in sys.argv[1:]:
        with open(path, "rb") as f:
            content = unpack(f.read())
        out = path[:-3] if path.endswith(".xz") else path + ".mmrt"
        with open(out + ".part", "wb") as f:
            f.write(content)
        os.replace(out + ".part", out)
        print(out)


if __name__ == "__main__":
    main()
