"""The files below a folder that are images and can be read here; all other files are counted and reported.

Links to files and folders are followed, as torchvision and timm do; a link to a folder that contains it is not.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, features

LISTED = 10  # entries of a long list that a message shows
# formats that some version of Pillow reads; SUFFIXES are those that the installed one reads
_READ = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jpe",
         ".jfif", ".avif", ".jp2", ".tga")
_NEVER_READ = (".heic", ".heif", ".hif", ".jxl", ".avifs", ".svg", ".psd", ".exr", ".hdr", ".jxr", ".wdp", ".dng",
               ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".pef",
               ".3fr", ".rwl")
# folders that cameras, archives, file servers and notebooks create; hidden ones (.name) need no entry here
SYSTEM_FOLDERS = ("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information",
                  "lost+found", "__pycache__")
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "icon\r", "ehthumbs.db")

NO_READER = "Pillow cannot read this format here; save them as PNG or JPEG"
NO_IMAGE = "not an image by the file name"
NO_CLASS = "images beside the class folders"
HIDDEN = "hidden"
SYSTEM = "in hidden or system folders"
LEADS_NOWHERE = "broken links"
LOOP = "links to a folder that contains them"


def _is_readable(suffix: str) -> bool:
    # a suffix is registered for reading only if its library is installed, except JPEG 2000's
    known = Image.registered_extensions().get(suffix)
    return known in Image.OPEN and (known != "JPEG2000" or bool(features.check("jpg_2000")))


SUFFIXES = tuple(s for s in _READ if _is_readable(s))
PICTURES = frozenset((*_READ, *_NEVER_READ))


class DataError(ValueError):
    """The data is missing, damaged, or not usable for pruning a classifier."""


@dataclass(frozen=True)
class LeftOut:
    """A file that is not used, or a number of such files in one folder."""

    reason: str
    kind: str  # its suffix, or the name of the folder
    count: int = 1


@dataclass(frozen=True)
class Found:
    """What lies below a folder."""

    files: tuple[Path, ...]  # images, sorted
    left_out: tuple[LeftOut, ...]


def is_hidden(name: str) -> bool:
    """Whether a folder of this name is hidden or made by the system, not by the user."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in it, and links to folders, sorted; without hidden ones."""
    return sorted(x for x in folder.iterdir() if x.is_dir() and not is_hidden(x.name))


def find_images(folder: Path, deep: bool = True) -> Found:
    """All images below a folder; with `deep` False only those directly in it, and subfolders are not reported."""
    files: list[Path] = []
    left: list[LeftOut] = []
    around = (folder, *folder.absolute().parents, *folder.resolve().parents)
    for item in _walk(folder, tuple(map(_identity, around)), deep):
        (files if isinstance(item, Path) else left).append(item)  # type: ignore[arg-type]
    return Found(tuple(sorted(files)), tuple(left))


def _walk(folder: Path, chain: tuple[tuple[int, int], ...], deep: bool) -> Iterator[Path | LeftOut]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            if not _is_folder(entry):
                yield from _judge(path, entry)
            elif is_hidden(entry.name):
                yield from _inside(path)
            elif deep and (here := _identity(path)) not in chain:
                yield from _walk(path, (*chain, here), deep)
            elif deep:
                yield LeftOut(LOOP, entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino


def _judge(path: Path, entry: os.DirEntry[str]) -> Iterator[Path | LeftOut]:
    """The image, or the reason why the file is left out; nothing for files that nobody expects to be used."""
    suffix = path.suffix.lower()
    if entry.is_symlink() and not path.exists():
        yield LeftOut(LEADS_NOWHERE, suffix or "no suffix")
    elif not entry.is_file() or path.name.casefold() in SYSTEM_FILES:
        return
    elif path.name.startswith("."):
        if suffix in PICTURES:
            yield LeftOut(HIDDEN, "._ of macOS" if path.name.startswith("._") else ".*" + suffix)
    elif suffix in SUFFIXES:
        yield path
    else:
        yield LeftOut(NO_READER if suffix in PICTURES else NO_IMAGE, suffix or "no suffix")


def _inside(folder: Path) -> Iterator[LeftOut]:
    """How many images a hidden folder holds; links are not followed."""
    count = sum(Path(name).suffix.lower() in PICTURES for _, _, names in os.walk(folder) for name in names)
    if count:
        yield LeftOut(SYSTEM, folder.name, count)


def notes_of(folder: Path, left_out: tuple[LeftOut, ...]) -> tuple[str, ...]:
    """One line per reason: how many files below the folder are left out, and of which kinds."""
    reasons: dict[str, Counter[str]] = {}
    for item in left_out:
        reasons.setdefault(item.reason, Counter())[item.kind] += item.count
    return tuple(f"{count_of(sum(kinds.values()), 'file')} left out of {folder}: {reason} ({_shares(kinds)})"
                 for reason, kinds in reasons.items())


def count_of(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _shares(kinds: Counter[str]) -> str:
    rows = sorted(kinds.items(), key=lambda row: (-row[1], row[0]))
    return ", ".join(f"{count} {kind}" for kind, count in rows[:5]) + (", ..." if len(rows) > 5 else "")


def listed(things: list[str]) -> str:
    """The first ten entries, one per line, and how many more there are."""
    more = [f"and {len(things) - LISTED} more"] if len(things) > LISTED else []
    return "\n".join(f"  {line}" for line in [*things[:LISTED], *more])
