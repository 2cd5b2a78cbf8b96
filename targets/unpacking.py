"""Unpacks archives that are not trusted: names, kinds and sizes are checked before anything is written."""

import lzma
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

SUFFIX = ".tar.xz"
MAX_MEMBER_BYTES = 2 * 2**30
MAX_TOTAL_BYTES = 16 * 2**30
MAX_MEMBERS = 10_000
DAMAGE = (tarfile.TarError, lzma.LZMAError, EOFError)


class UnpackError(RuntimeError):
    """An archive is damaged or holds members that no bundle has."""


def unpack(bundle: Path, into: Path) -> Path:
    """Unpack a bundle of any origin, atomically, into a folder with its name; returns that folder.

    UnpackError, with the member's name, for absolute names, `..`, links, devices, too large or too many members, and
    duplicate names. ValueError if the folder already exists.
    """
    part = into / f".{bundle.name}.{os.getpid()}.part"
    part.mkdir(parents=True)
    try:
        for name, _, content in read_members(bundle):
            try:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                with open(part / name, "xb") as f:
                    copy(content, f)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise UnpackError(f"{name!r} appears twice in {bundle.name}") from None
        tops = sorted(part.iterdir())
        if len(tops) != 1 or not (tops[0] / "manifest.json").is_file():
            raise UnpackError(f"{bundle.name} is not a bundle: it holds {', '.join(p.name for p in tops) or 'nothing'},"
                              " not one folder with a manifest.json")
        if (into / tops[0].name).exists():
            raise ValueError(f"{into / tops[0].name} already exists: remove it or unpack elsewhere")
        if (tops[0] / "run").is_file():
            (tops[0] / "run").chmod(0o755)
        return tops[0].rename(into / tops[0].name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(name, size in bytes, open file) of every file in a .tar.xz, in order; read each before the next.

    UnpackError for members that a bundle never has.
    """
    total = 0
    try:
        with tarfile.open(archive, "r|xz") as tar:
            for count, member in enumerate(tar, 1):
                total += member.size
                if count > MAX_MEMBERS or total > MAX_TOTAL_BYTES:
                    raise UnpackError(f"{archive.name} holds more than {MAX_MEMBERS} files or "
                                      f"{MAX_TOTAL_BYTES >> 30} GiB, which no bundle does")
                check_name(member.name)
                if member.isdir():
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise UnpackError(f"{member.name!r} is a link or a device, but a bundle holds only files")
                if member.size > MAX_MEMBER_BYTES:
                    raise UnpackError(f"{member.name!r} is larger than {MAX_MEMBER_BYTES >> 30} GiB")
                yield member.name, member.size, content
    except DAMAGE as err:
        raise UnpackError(f"{archive} is damaged or not a {SUFFIX} file ({err}): copy it again") from err


def copy(content: IO[bytes], sink: IO[bytes]) -> None:
    """Copy all bytes of a member. UnpackError if the archive ends too early."""
    try:
        shutil.copyfileobj(content, sink, 1 << 20)
    except DAMAGE as err:
        raise UnpackError(f"the archive is damaged ({err}): copy it again") from err


def check_name(name: str) -> None:
    """UnpackError for a name that leads out of the folder."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or not name.isprintable():
        raise UnpackError(f"the name {name!r:.200} leads out of the bundle's folder")
