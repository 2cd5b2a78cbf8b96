"""A family's folder on disk: its file names, atomic writes, and the lock.

    manifest.json            the request, the layers, the ranges, the strategies, the variants
    scores/*.safetensors     one tensor per layer
    variants/<id>/           start.json, and start.safetensors and checkpoint.pt until the variant is done;
                             variant.json (written last: it marks the variant as done), weights.safetensors,
                             the files of each artifact and its <format>-<precision>.json (written last)
    budget/                  plan.json, and the files and measurements that it was found with
    why.jsonl                one record (mmprune/why/record.py) per line for each file and runtime that was explained;
                             its measurements, whose steps were timed, are in why/
    measurements.jsonl       one Measurement per line, append-only
    golden.npy               a few test images
    report.html, report.md, front.png
If an export fails, <format>-<precision>.log in the variant's folder holds the details.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from mmprune.from_json import from_json, parse_json
from mmprune.records import MANIFEST_SCHEMA, Artifact, Manifest, Measurement, Start, Variant

T = TypeVar("T")
MANIFEST = "manifest.json"
VARIANT = "variant.json"  # a variant's record, which marks it as done
DIGEST = "record_sha256"  # in the record of a variant, a start or an artifact, of the rest of it
MEASUREMENTS = "measurements.jsonl"
IMAGES = "golden.npy"  # a few test images, on which a board's and a deployed model's answers are compared


class FolderError(RuntimeError):
    """The folder cannot be used: it is missing, belongs to another run, is in use, or is damaged."""


def variant_folder(root: Path, variant_id: str) -> Path:
    return root / "variants" / variant_id


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write `path` atomically: `write` fills a file in a `.part` folder, which is flushed and then moved to `path`.

    The folder is needed because safetensors writes to a temporary file beside the requested one, leaves it behind if it
    is killed, and makes it unreadable for other users.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as room:
        part = Path(room) / path.name
        part.touch()
        mode = part.stat().st_mode
        write(part)
        part.chmod(mode)
        with open(part, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(part, path)


def write_bytes(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(path, lambda part: part.write_text(text))


def read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FolderError(f"there is no file {path}") from None
    except ValueError as err:
        raise FolderError(f"{path} is damaged ({err}); delete it and run the same command again") from err


def read_record(cls: type[T], path: Path) -> T:
    """The record in a file. FolderError if the file is missing, damaged or holds something else.

    A record that has no digest is believed.
    """
    row = read_json(path)
    digest = row.pop(DIGEST, None) if isinstance(row, dict) else None
    record = _record(cls, row, path)
    if digest not in (None, _digest(row)):
        raise FolderError(f"{path} has changed since it was written; delete it and run the same command again")
    return record


def _write_record(path: Path, record: Any) -> None:
    row = json.loads(json.dumps(asdict(record), allow_nan=False))
    write_json(path, {**row, DIGEST: _digest(row)})


def _digest(row: Any) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def _record(cls: type[T], row: Any, path: Path, way_out: str = "delete it and run the same command again") -> T:
    try:
        return from_json(cls, row)
    except ValueError as err:
        raise FolderError(f"{path} does not have this mmprune's format ({err}); {way_out}") from err


def holds_family(root: Path) -> bool:
    return (root / MANIFEST).is_file()


def read_manifest(root: Path) -> Manifest:
    """The manifest of the folder. FolderError if there is none or it has another version."""
    if not holds_family(root):
        raise FolderError(f"{root} holds no family (it has no {MANIFEST}); build one with `mmprune build --out {root}`")
    path = root / MANIFEST
    way_out = f"restore it from a copy, or delete {root} and run the same command again"
    try:
        row = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise FolderError(f"{path} is damaged ({err}); {way_out}") from err
    if isinstance(row, dict) and {"files", "chosen"} <= row.keys():  # see targets/deploy.py
        raise FolderError(f"{root} is a folder that `mmprune choose --out` wrote, with one model, not a family: "
                          f"`mmprune verify {root}` checks it, `python {root}/infer.py IMAGE` runs it; give the family "
                          "that it was chosen from")
    schema = row.get("schema") if isinstance(row, dict) else None
    if schema != MANIFEST_SCHEMA:
        raise FolderError(f"{root} holds a family of schema {schema}, but this mmprune reads schema {MANIFEST_SCHEMA}: "
                          "build it again in another folder")
    return _record(Manifest, row, path, way_out)


def write_manifest(root: Path, manifest: Manifest) -> None:
    write_json(root / MANIFEST, asdict(manifest))


def read_variant(root: Path, variant_id: str) -> Variant:
    return read_record(Variant, variant_folder(root, variant_id) / VARIANT)


def write_variant(root: Path, variant: Variant) -> None:
    _write_record(variant_folder(root, variant.id) / VARIANT, variant)


def read_variants(root: Path) -> list[Variant]:
    """The finished variants, in the order of the manifest; the dense one first."""
    ids = read_manifest(root).variants
    return [read_variant(root, i) for i in ids if (variant_folder(root, i) / VARIANT).is_file()]


def start_record(root: Path, variant_id: str) -> Path:
    return variant_folder(root, variant_id) / "start.json"


def read_start(root: Path, variant_id: str) -> Start | None:
    """None if nothing is known of the variant's start."""
    path = start_record(root, variant_id)
    return read_record(Start, path) if path.is_file() else None


def write_start(root: Path, variant_id: str, start: Start) -> None:
    _write_record(start_record(root, variant_id), start)


def artifact_record(root: Path, variant_id: str, format: str, precision: str) -> Path:
    return variant_folder(root, variant_id) / f"{format}-{precision}.json"


def export_log(root: Path, variant_id: str, file: str) -> Path:
    """The log of a failed export of a file ("<format>-<precision>"): its output and the traceback."""
    return variant_folder(root, variant_id) / f"{file}.log"


def read_artifacts(root: Path) -> list[Artifact]:
    """The finished artifacts of the manifest's variants, in the order of the variants."""
    found = []
    for variant in read_variants(root):
        for path in sorted(variant_folder(root, variant.id).glob("*-*.json")):
            found.append(read_record(Artifact, path))
    return found


def write_artifact(root: Path, artifact: Artifact) -> None:
    _write_record(artifact_record(root, artifact.variant, artifact.format, artifact.precision), artifact)


def check_name(root: Path) -> None:
    """FolderError for a name that this locale cannot give to ONNX Runtime and OpenVINO, which take UTF-8."""
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and not str(root.resolve()).isascii():
        raise FolderError(f"the runtimes cannot open files in {str(root)!a}: its name is not ASCII, and the encoding "
                          f"of this locale is {encoding}. Choose another --out, or say PYTHONUTF8=1 mmprune ...")


def files_sha256(files: Iterable[Path]) -> str:
    """SHA-256 of the concatenated contents, in the given order. OSError for a file that cannot be read."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_files(root: Path, artifact: Artifact) -> None:
    """FolderError where the artifact's files are not here, or are not those that were verified."""
    try:
        digest = files_sha256([root / name for name in artifact.files])
    except OSError as err:
        raise FolderError(f"{artifact.id}: cannot read {err.filename} ({err.strerror}): export it again") from err
    if digest != artifact.sha256:
        raise FolderError(f"{artifact.id}: its files are not those that were checked: export it again")


def append_measurement(root: Path, measurement: Measurement) -> None:
    line = json.dumps(asdict(measurement), sort_keys=True, allow_nan=False) + "\n"
    path = root / MEASUREMENTS
    if path.is_file() and (old := path.read_bytes()) and not old.endswith(b"\n"):  # a crash cut off the last line
        os.truncate(path, old.rfind(b"\n") + 1)
    with open(path, "a") as f:
        f.write(line)
        f.flush()
        os.fsync(f.fileno())


def read_measurements(root: Path) -> list[Measurement]:
    """All measurements. A last line that a crash cut off is ignored; damage anywhere else is a FolderError."""
    path = root / MEASUREMENTS
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(from_json(Measurement, parse_json(line)))
        except ValueError as err:
            if number == len(lines):
                break  # no newline after it: the write was cut off
            raise FolderError(f"{path}, line {number} is not a measurement ({err}): delete that line to go on "
                              "without it") from err
    return found


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Lock the folder for this process. FolderError if another process has it; a killed process releases it."""
    check_name(root)
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderError(f"another mmprune is working in {root}; wait for it or choose another --out") from None
        for part in list(root.rglob("*.part")):  # left by a process that was killed
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
        yield
