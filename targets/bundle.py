"""Bundles: one .tar.xz with everything that a board needs to measure a family without network.

    <name>/run               on_device/start.py: checks, measures, writes results.jsonl
    <name>/manifest.json     the target, sha256 and size of every file
    <name>/job.json          what to measure, see on_device/job.py
    <name>/on_device/        the measuring programs
    <name>/mmrt.py, libmmrt.so   if mmrt is among the runtimes, for the target's architecture
    <name>/golden.npz        `images` (N, C, H, W), and by artifact id the reference outputs (N, classes)
    <name>/variants/...      the artifacts' files, named as in the family's folder
"""

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmprune import __version__, folder
from mmprune.commit import commit
from mmprune.records import Artifact
from targets import Target, golden
from targets.golden import Golden
from targets.jobs import GATE, PROFILES, Profile, entries, formats_of
from targets.jobs import job as make_job
from targets.on_device.run import JOB, MANIFEST, SCHEMA
from targets.run_folder import ON_DEVICE, mmrt_files, programs
from targets.unpacking import SUFFIX, check_name

START = ON_DEVICE / "start.py"  # stored in a bundle as `run`
TIMEOUT_S = 300  # for one response of a process on the board
MTIME_S = 1577836800  # modification time of every member: 2020-01-01; tar warns about 1970
XZ_PRESET = 1  # for weights 20 times as fast as the default and 3 % larger; unpacking needs 1 MiB of memory


class BundleError(RuntimeError):
    """A bundle cannot be made, because a file does not match its record."""


@dataclass(frozen=True)
class Options:
    golden: Golden | None = None  # the reference outputs for the board
    threads: int | None = None  # None: the target's own number
    runtimes: tuple[str, ...] | None = None  # None: all of the target's; ("null",) accepts every format
    gate: bool = True  # wait until the board is idle and cool


@dataclass(frozen=True)
class Bundle:
    """A bundle that was made."""

    path: Path
    bytes: int
    runtimes: tuple[str, ...]  # runtimes that it measures with
    artifacts: tuple[str, ...]  # ids of the artifacts that it measures
    notes: tuple[str, ...]  # what is missing in it, and why


def make_bundle(root: Path, artifacts: Sequence[Artifact], target: Target, out: Path, profile: Profile,
                options: Options = Options()) -> Bundle:
    """Write the bundle to `out`, NAME.tar.xz; the same family gives the same bytes.

    Without a compiler for the target's architecture it is made without mmrt, and a note says so. ValueError if there is
    nothing to measure or `out` has another suffix, BundleError if a file does not match its record.
    """
    if not out.name.endswith(SUFFIX):
        raise ValueError(f"the name of a bundle must end with {SUFFIX}, got {out.name}")
    names = options.runtimes or tuple(target.runtimes)
    library, why = mmrt_files(root, artifacts, target, names)
    notes = [f"the bundle is made without mmrt: {why}"] if why else []
    rows = entries(target, artifacts, [name for name in names if not (why and name == "mmrt")], options.threads)
    if not rows:
        have, formats = ", ".join(sorted({a.format for a in artifacts})) or "none", formats_of(target)
        raise ValueError("; ".join([*notes, f"nothing to measure on {target.name}: its runtimes run "
                                    f"{', '.join(str(formats[n]) for n in names)}, but the artifacts are {have}"]))
    asked = {row["artifact"] for row in rows}
    kept = [a for a in artifacts if a.id in asked]
    files = {**programs(), **library}
    for artifact in kept:
        _check(root, artifact)
        files.update({name: root / name for name in artifact.files})
    job = {**make_job(".", profile, rows, target, TIMEOUT_S), "gate": GATE if options.gate else None,
           "golden": golden.NAME if options.golden else None}
    expected = golden.npz(options.golden, kept) if options.golden else None
    members = _members(_Contents(target, job, tuple(notes), files), expected)
    folder.write_whole(out, lambda part: _write_tar(part, out.name.removesuffix(SUFFIX), members))
    runtimes = tuple(dict.fromkeys(row["runtime"] for row in rows))
    return Bundle(out, out.stat().st_size, runtimes, tuple(a.id for a in kept), tuple(notes))


@dataclass(frozen=True)
class _Contents:
    target: Target
    job: dict[str, Any]
    notes: tuple[str, ...]
    files: dict[str, Path]  # name in the bundle: path on this machine


def _check(root: Path, artifact: Artifact) -> None:
    digest = hashlib.sha256()
    for name in artifact.files:
        check_name(name)
        try:
            digest.update((root / name).read_bytes())
        except OSError as err:
            raise BundleError(f"{artifact.id}: cannot read {name} ({err.strerror}); export it again") from err
    if digest.hexdigest() != artifact.sha256:
        raise BundleError(f"{artifact.id}: its files have changed since they were checked; export it again")


def _members(contents: _Contents, expected: bytes | None) -> dict[str, bytes | Path]:
    """Every file of the bundle by its name."""
    members: dict[str, bytes | Path] = {**contents.files, "run": START, JOB: _json(contents.job),
                                        "README.txt": _readme(contents.target)}
    if expected:
        members[golden.NAME] = expected
    manifest = {"schema": SCHEMA, "mmprune": __version__, "commit": commit(), "target": asdict(contents.target),
                "notes": contents.notes,
                "profiles": {name: asdict(p) for name, p in PROFILES.items()},
                "files": {name: _facts(members[name]) for name in sorted(members)}}
    return {**members, MANIFEST: _json(manifest)}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _facts(source: bytes | Path) -> dict[str, Any]:
    content = source if isinstance(source, bytes) else source.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _readme(target: Target) -> bytes:
    return f"""mmprune bundle for {target.name}: {target.what}
It measures a family of models on the board, without network and without installing anything.

1. Copy the .tar.xz to the board and unpack it: tar xf NAME{SUFFIX}  (or: python3 -m tarfile -e NAME{SUFFIX})
2. cd NAME; ./run --dry-run     checks the files and the board, and shows which runtimes are missing and how to get them
3. ./run                        measures; use --profile smoke for a first test. Do not use the board meanwhile
4. If it was interrupted (Ctrl-C, power), run ./run again: it measures what is missing in results.jsonl
5. Copy results.jsonl to the machine with the family and run: mmprune import FAMILY results.jsonl; mmprune report FAMILY
It needs python3 (3.8 or newer) with numpy, and one of the runtimes. To remove everything, delete this folder.
""".encode()


def _write_tar(part: Path, name: str, members: dict[str, bytes | Path]) -> None:
    """Write the members with sorted names, a fixed time and no owners, so that the bytes are reproducible."""
    with lzma.open(part, "wb", preset=XZ_PRESET) as xz, tarfile.open(fileobj=xz, mode="w|",
                                                                     format=tarfile.GNU_FORMAT) as tar:
        for member in sorted(members):
            source = members[member]
            entry = tarfile.TarInfo(f"{name}/{member}")
            entry.size = len(source) if isinstance(source, bytes) else source.stat().st_size
            entry.mtime, entry.mode = MTIME_S, 0o755 if member == "run" else 0o644
            with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as f:
                tar.addfile(entry, f)
