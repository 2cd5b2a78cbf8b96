"""Takes archives from elsewhere apart: names, kinds and sizes are checked before anything is written."""

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
    """An archive is damaged or holds what no bundle of ours does."""


def unpack(bundle: Path, into: Path) -> Path:
    """Unpack a bundle, wherever it comes from, into a folder of its name; that folder. All of it or nothing is there.

    UnpackError, with the member's name, for absolute names, `..`, links, devices, members that are too large or too
    many, and names that stand twice. ValueError where the folder is there already.
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
                raise UnpackError(f"{name!r} stands in {bundle.name} twice") from None
        tops = sorted(part.iterdir())
        if len(tops) != 1 or not (tops[0] / "manifest.json").is_file():
            raise UnpackError(f"{bundle.name} is no bundle: it holds {', '.join(p.name for p in tops) or 'nothing'}, "
                              "not one folder with a manifest.json")
        if (into / tops[0].name).exists():
            raise ValueError(f"{into / tops[0].name} is there already: remove it or unpack elsewhere")
        if (tops[0] / "run").is_file():
            (tops[0] / "run").chmod(0o755)
        return tops[0].rename(into / tops[0].name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(name, bytes, file to read) of every file of a .tar.xz, in order; read it before asking for the next.

    UnpackError for what a bundle never has.
    """
    total = 0
    try:
        with tarfile.open(archive, "r|xz") as tar:
            for count, member in enumerate(tar, 1):
                total += member.size
                if count > MAX_MEMBERS or total > MAX_TOTAL_BYTES:
                    raise UnpackError(f"{archive.name} holds more than {MAX_MEMBERS} files or "
                                      f"{MAX_TOTAL_BYTES >> 30} GiB: that is no bundle of ours")
                check_name(member.name)
                if member.isdir():
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise UnpackError(f"{member.name!r} is a link or a device, and a bundle holds files alone")
                if member.size > MAX_MEMBER_BYTES:
                    raise UnpackError(f"{member.name!r} is larger than {MAX_MEMBER_BYTES >> 30} GiB")
                yield member.name, member.size, content
    except DAMAGE as err:
        raise UnpackError(f"{archive} is damaged or no {SUFFIX} ({err}): copy it again") from err


def copy(content: IO[bytes], sink: IO[bytes]) -> None:
    """All bytes of a member. UnpackError where the archive ends before it does."""
    try:
        shutil.copyfileobj(content, sink, 1 << 20)
    except DAMAGE as err:
        raise UnpackError(f"the archive is damaged ({err}): copy it again") from err


def check_name(name: str) -> None:
    """UnpackError for a name that would lead out of the folder."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or not name.isprintable():
        raise UnpackError(f"the name {name!r:.200} leads out of the bundle's folder")
