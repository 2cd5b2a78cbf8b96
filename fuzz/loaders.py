"""What reads input that is not trusted, each as one function of a file, and what each may raise.

A loader reads the file or refuses it by one of its own errors, in words. Anything else is a finding (`feed`): another
exception, no words, a file written outside the room, a program that is started, a connection.
"""

import contextlib
import functools
import io
import lzma
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 20_000  # characters of a refusal


class Finding(AssertionError):
    """A loader did with some input what none may do."""


@dataclass(frozen=True)
class Loader:
    """How to read a file, and what may be raised for one that is refused."""

    read: Callable[[Path], Any]
    errors: Callable[[], tuple[type[Exception], ...]]
    file: str  # name of the file that holds the input
    modules: tuple[str, ...]  # whose branches guide the fuzzer


def feed(name: str, content: bytes, room: Path) -> str:
    """Give the input to a loader, in the folder `room`, which is emptied. "" if it was read, else the refusal.

    Finding for all that no loader may do.
    """
    loader = LOADERS[name]
    prepare(name, room)
    path = _fresh(room) / loader.file
    path.write_bytes(content)
    with warnings.catch_warnings(), _watched(room) as seen:
        warnings.simplefilter("ignore")
        words = _refusal(loader, path)
    if seen:
        raise Finding(f"{name}: {seen[0]}")
    return words


def _fresh(room: Path) -> Path:
    for there in room.iterdir():
        shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()
    return room


@functools.cache
def prepare(name: str, room: Path) -> None:
    """Read an empty file, unwatched: what is imported for that may start programs, such as git and ldconfig."""
    path = _fresh(room) / LOADERS[name].file
    path.write_bytes(b"")
    with contextlib.suppress(*LOADERS[name].errors()):
        LOADERS[name].read(path)


def _refusal(loader: Loader, path: Path) -> str:
    try:
        loader.read(path)
    except loader.errors() as err:
        words = str(err)
        if not words.strip() or len(words) > LONGEST:
            raise Finding(f"refused with {len(words)} characters: {words[:200]!r}") from err
        return words
    return ""


# ---- what a loader may not do, as Python's audit events tell it ---------------------------------------------------

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
          "socket.connect", "socket.bind", "socket.getaddrinfo", "pty.spawn", "webbrowser.open")
# event: which of its arguments are paths that it changes, and which are the folders that these are relative to
CHANGES = {"os.rename": ((0, 2), (1, 3)), "os.remove": ((0, 1),), "os.mkdir": ((0, 2),), "os.rmdir": ((0, 1),),
           "os.symlink": ((1, 2),), "os.link": ((1, 3),), "os.chmod": ((0, 2),), "os.truncate": ((0, None),)}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
READABLE = tuple({os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, ROOT, "/usr", "/lib", "/proc", "/sys",
                                                "/dev", "/etc/mime.types")})
TEMPORARY = os.path.realpath(tempfile.gettempdir())


class _watched:
    """While open, a list of what was done that no loader may do. Only one is open at a time."""

    room = ""
    seen: list[str] = []  # noqa: RUF012
    listens = False

    def __init__(self, room: Path) -> None:
        _watched.room, _watched.seen = os.path.realpath(room), []

    def __enter__(self) -> list[str]:
        _listen()
        _watched.listens = True
        return _watched.seen

    def __exit__(self, *_: object) -> None:
        _watched.listens = False


@functools.cache
def _listen() -> None:
    sys.addaudithook(_heard)


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if not _watched.listens:
        return
    if event in STARTS:
        _watched.seen.append(f"{event} {args!r:.200}")
    elif event == "open" and isinstance(args[0], str | bytes):
        mode, flags = args[1] or "", args[2]
        writes = any(letter in mode for letter in "wax+") if mode else flags & WRITES
        path = os.path.realpath(os.fsdecode(args[0]))
        if not _inside(path) and (writes or not path.startswith(READABLE)):
            _watched.seen.append(f"opened {path!r} {'to write' if writes else 'to read'}, which is outside")
    elif event in CHANGES:
        for at, folder_at in CHANGES[event]:
            path, within = args[at], -1 if folder_at is None else args[folder_at]
            if isinstance(path, str | bytes | os.PathLike) and not _inside(_parent(os.fsdecode(path), within)):
                _watched.seen.append(f"{event} of {path!r}, which is outside")


def _parent(path: str, within: int) -> str:
    """What the last name of the path lies in: that one may be a link, which is changed itself."""
    return os.path.realpath(os.path.join("." if within < 0 else f"/proc/self/fd/{within}", os.path.dirname(path)))


def _inside(path: str) -> bool:
    """Inside the room, or a temporary file of ours. /dev/null may be written."""
    return path in ("/dev/null", _watched.room, TEMPORARY) or \
        path.startswith((_watched.room + "/", TEMPORARY + "/tmp"))


# ---- the loaders --------------------------------------------------------------------------------------------------

def weights(path: Path) -> None:
    from mmprune.models.checkpoints import read_checkpoint

    state = read_checkpoint(path).state
    for value in state.values():
        value.sum()


def _weights_errors() -> tuple[type[Exception], ...]:
    from mmprune.models.checkpoints import WeightsError

    return (WeightsError,)


def npz(path: Path) -> None:
    from mmprune.data.npz import describe_npz, read_npz

    describe_npz(path)
    read_npz(path)


def _data_errors() -> tuple[type[Exception], ...]:
    from mmprune.data.image_files import DataError

    return (DataError,)


def image(path: Path) -> None:
    """One file of a folder of images, read as in training; and its size, which is read first."""
    from types import SimpleNamespace

    from mmprune.data.preprocess import network_input

    for channels in (3, 1):
        network_input(path, SimpleNamespace(mean=(0.5,) * channels, std=(0.2,) * channels, image_size=(8, 8),
                                            interpolation="bilinear", crop_pct=0.9, crop_mode="center",
                                            crop_all=False))


def _value_error() -> tuple[type[Exception], ...]:
    return (_Exactly,)


def folder(path: Path) -> None:
    """A folder of images, which the input describes: a byte for what to make, and a name up to the next line."""
    from mmprune.data.image_sets import fingerprint, read_folder

    root = path.with_name("data")
    root.mkdir()
    for line in path.read_bytes().split(b"\n")[:24]:
        if line:
            _make(os.fsencode(root), line[0] % 6, line[1:])
    read_folder(root)
    fingerprint(root)


def _make(root: bytes, kind: int, name: bytes) -> None:
    parts = [part for part in name.split(b"/") if part not in (b"", b".", b"..")][:6]
    path = os.path.join(root, *parts)
    if not parts:
        return
    try:
        if os.path.lexists(path) or not os.path.realpath(path).startswith(os.path.realpath(root) + b"/"):
            return  # a link that is there may lead out
        os.makedirs(path if kind == 0 else os.path.dirname(path), exist_ok=True)
        if kind in (1, 2):
            shutil.copyfile(_picture(), path)
        elif kind == 3:
            os.symlink(parts[0], path)
        elif kind == 4:
            os.symlink(b"..", path)
        elif kind == 5:
            os.mkfifo(path)
    except (OSError, ValueError, IndexError):
        pass  # a name that the file system does not take


@functools.cache
def _picture() -> str:
    from PIL import Image

    path = Path(tempfile.mkdtemp()) / "picture.png"
    Image.new("RGB", (8, 8), (200, 20, 20)).save(path)
    return str(path)


def class_names(path: Path) -> None:
    from mmprune.data.class_names import read_names

    read_names(path)
    read_names(path.rename(path.with_suffix(".json")))


def onnx_to_mmrt(path: Path) -> None:
    """A user's ONNX file: its graph is read for `why`, checked for a Jetson, and made an .mmrt file."""
    from exporters.graph.file_graph import read_file_graph
    from exporters.graph.onnx_graph import read_onnx
    from exporters.jetson.rules import check
    from exporters.to_mmrt import write_mmrt

    found = []
    for read in (lambda: read_file_graph(path, ()), lambda: _exactly(check)(path),
                 lambda: write_mmrt(read_onnx(path), path.with_suffix(".mmrt"))):
        try:
            read()
        except _onnx_errors() as err:
            found.append(err)
    if found:
        raise found[0]


def _onnx_errors() -> tuple[type[Exception], ...]:
    from exporters import ExportError

    return (ExportError, _Exactly)


def gate(path: Path) -> None:
    from mmprune.results.gate import read_gate

    read_gate(path)


def target(path: Path) -> None:
    from targets import load

    load(str(path))


def fleet(path: Path) -> None:
    from targets.fleet import read_fleet

    read_fleet(path)


def ranges(path: Path) -> None:
    from mmprune.ranges import read_overrides

    read_overrides(path)


def results(path: Path) -> None:
    """Results from a board, taken into a family."""
    from targets.importing import describe, import_results

    root = path.with_name("family")
    shutil.copytree(_family(), root)
    describe(import_results(root, path))
    _read_family(root)


def _results_errors() -> tuple[type[Exception], ...]:
    from targets.importing import ResultsError

    return (ResultsError,)


@functools.cache
def _family() -> Path:
    """A family of two, whose measurements are those of tests/support/families.py."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from families import made_family

    root = Path(tempfile.mkdtemp()) / "family"
    made_family(root, [("dense", 0.9, 0.0, 0.01), ("uniform", 0.88, 0.5, 0.008)])
    return root


def records(path: Path) -> None:
    """A file of a family from elsewhere: the input's first byte says which."""
    content = path.read_bytes()
    names = ("manifest.json", "measurements.jsonl", "why.jsonl", "variants/dense-0001/variant.json",
             "variants/dense-0001/onnx-f32.json", "variants/dense-0001/start.json")
    root = path.with_name("family")
    shutil.copytree(_family(), root)
    (root / names[content[0] % len(names) if content else 0]).write_bytes(content[1:])
    _read_family(root)


def _read_family(root: Path) -> None:
    from mmprune import folder as family
    from mmprune.results.points import read_points
    from mmprune.results.terminal import summary
    from mmprune.why.record import read_why

    family.read_manifest(root)
    for variant in family.read_variants(root):
        family.read_start(root, variant.id)
    for artifact in family.read_artifacts(root):
        family.check_files(root, artifact)
    read_why(root)
    points = read_points(root)
    summary(root, points)


def _records_errors() -> tuple[type[Exception], ...]:
    from mmprune.folder import FolderError
    from mmprune.results.points import PointsError

    return (FolderError, PointsError)


def bundle(path: Path) -> None:
    """An archive: as it is, and as the tar inside one, which no fuzzer could change inside xz."""
    from targets.unpacking import UnpackError, unpack

    content = path.read_bytes()
    whole = path.with_name("b.tar.xz")
    whole.write_bytes(content if content[:6] == b"\xfd7zXZ\0" else lzma.compress(content, preset=0))
    into = path.with_name("into")
    try:
        unpack(whole, into)
    except UnpackError:
        if any(into.iterdir()):
            raise Finding("a bundle was refused, but something of it was left") from None
        raise


def _bundle_errors() -> tuple[type[Exception], ...]:
    from targets.unpacking import UnpackError

    return (UnpackError,)


def download(path: Path) -> None:
    """model.mmrt.xz, as it is, and as the bytes inside one."""
    from exporters.mmrt.download import unpack

    content = path.read_bytes()
    unpack(content if content[:6] == b"\xfd7zXZ\0" else lzma.compress(content, preset=0), 1 << 20)


def _download_errors() -> tuple[type[Exception], ...]:
    from exporters.mmrt.download import DownloadError

    return (DownloadError,)


def deployed(path: Path) -> None:
    """The manifest of a deployed folder."""
    from targets.on_device.verify import check_files, read_manifest

    path = path.rename(path.with_name("manifest.json"))
    path.with_name("model.onnx").write_bytes(b"model")
    check_files(path.parent, read_manifest(path.parent)["files"])


def _deployed_errors() -> tuple[type[Exception], ...]:
    from targets.on_device.verify import Broken

    return (Broken,)


def host(path: Path) -> None:
    """The name of an ssh host: what is accepted is one word to ssh, no option and nothing for a shell."""
    from targets.host import Host

    name = path.read_bytes().decode("utf-8", "surrogateescape")
    Host(name)
    hostile = set(" \t\n\r'\"\\$`;&|<>()*?!#~{}^\0=")
    begins = [part[:1] for part in name.replace("@", "/").replace(":", "/").replace("[", "/").split("/")]
    if not name.isascii() or hostile & set(name) or "-" in begins:
        raise Finding(f"the host {name!r} was accepted")


def board_rows(path: Path) -> None:
    """What a board sends while it measures: rows, and the answers of its end of the connection."""
    from mmprune.folder import read_artifacts
    from targets.answers import ODD, Reader, is_whole, lines_of, reason_of, row_of

    reader = Reader({a.id: a.sha256 for a in read_artifacts(_family())}, ("onnxruntime", "mmrt"))
    try:
        for line in lines_of(io.BytesIO(path.read_bytes())):
            if is_whole(line):
                reader.take(row_of(line))
    except ODD as err:
        raise _Exactly(reason_of(err)) from err


class _Exactly(ValueError):
    """Stands for ValueError itself, but not for its subclasses, of which a loader's caller was not told."""


def _exactly(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    @functools.wraps(read)
    def run(path: Path) -> None:
        try:
            read(path)
        except ValueError as err:
            if type(err) is ValueError:
                raise _Exactly(*err.args) from err
            raise

    return run


JSON = ("mmprune.from_json", "mmprune.choices")
TOML = ("mmprune.from_toml", "tomllib", *JSON)
LOADERS: dict[str, Loader] = {
    "weights": Loader(weights, _weights_errors, "weights.bin", (
        "mmprune.models.checkpoints", "mmprune.models.inert_pickle", "mmprune.models.foreign_files",
        "zipfile")),
    "npz": Loader(npz, _data_errors, "data.npz", ("mmprune.data.npz", "zipfile")),
    "image": Loader(_exactly(image), _value_error, "image.jpg", (
        "mmprune.data.preprocess", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.TiffImagePlugin",
        "PIL.GifImagePlugin", "PIL.BmpImagePlugin", "PIL.PpmImagePlugin", "PIL.TgaImagePlugin")),
    "folder": Loader(folder, _data_errors, "folder.txt", (
        "mmprune.data.image_sets", "mmprune.data.image_files", "mmprune.data.split_folders")),
    "class_names": Loader(class_names, _data_errors, "names.txt", ("mmprune.data.class_names",)),
    "onnx": Loader(onnx_to_mmrt, _onnx_errors, "model.onnx", ("exporters.mmrt", "exporters.graph", "exporters.jetson")),
    "gate": Loader(_exactly(gate), _value_error, "gate.toml", ("mmprune.results.gate", *TOML)),
    "target": Loader(_exactly(target), _value_error, "board.toml", ("targets", *TOML)),
    "fleet": Loader(_exactly(fleet), _value_error, "fleet.toml", ("targets.fleet", "targets.host", *TOML)),
    "ranges": Loader(_exactly(ranges), _value_error, "ranges.toml", ("mmprune.ranges", *TOML)),
    "results": Loader(results, _results_errors, "results.jsonl", (
        "targets.importing", "targets.answers", "targets.conform", "targets.golden", "mmprune.records", *JSON)),
    "board_rows": Loader(board_rows, _value_error, "rows.jsonl", (
        "targets.answers", "targets.conform", "targets.golden", "mmprune.records", *JSON)),
    "records": Loader(records, _records_errors, "record.bin", (
        "mmprune.folder", "mmprune.records", "mmprune.results", "mmprune.why.record", *JSON)),
    "bundle": Loader(bundle, _bundle_errors, "bundle.bin", ("targets.unpacking", "tarfile")),
    "download": Loader(download, _download_errors, "model.mmrt.xz", ("exporters.mmrt.download",)),
    "deployed": Loader(deployed, _deployed_errors, "manifest.bin", ("targets.on_device.verify",)),
    "host": Loader(_exactly(host), _value_error, "host.txt", ("targets.host",)),
}
