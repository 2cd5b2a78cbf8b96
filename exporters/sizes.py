"""What a file costs on the way to a device: its bytes, its bytes in an archive, and the hash that names its content."""

import hashlib
import lzma
import tarfile
from collections.abc import Sequence
from pathlib import Path

# As `xz -0`: of float weights a longer search makes hardly less, and takes several times as long. A family has dozens
# of files.
PRESET = 0


class _Compressed:
    """A file to write to that keeps only the number of bytes after xz."""

    def __init__(self) -> None:
        self.xz = lzma.LZMACompressor(preset=PRESET)
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.bytes += len(self.xz.compress(data))
        return len(data)

    def finish(self) -> int:
        self.bytes += len(self.xz.flush())
        return self.bytes


def download_bytes(files: Sequence[Path]) -> int:
    """Size of the files as one .tar.xz. Names, sizes and contents only: the number is reproducible."""
    sink = _Compressed()
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload]
        for path in files:
            entry = tarfile.TarInfo(path.name)
            entry.size = path.stat().st_size
            with open(path, "rb") as f:
                tar.addfile(entry, f)
    return sink.finish()


def file_bytes(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def sha256(files: Sequence[Path]) -> str:
    """Over the contents, one after the other in the given order."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
