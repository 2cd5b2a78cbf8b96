"""The last step of every export: check the finished files, measure their sizes, and write the record."""

import lzma
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.export_input import ExportInput
from exporters.made_with import expected_of
from exporters.verify import Run, verify
from mmprune import folder
from mmprune.records import Artifact

# As `xz -0`: for float weights a longer search saves hardly anything and takes several times as long, and a family has
# dozens of files.
PRESET = 0


@dataclass(frozen=True)
class Made:
    """Files that a format has written, not yet checked."""

    format: str
    precision: str
    files: tuple[Path, ...]  # the main file first
    layer_sparsity: dict[str, float]  # counted in these files, by Layer.name
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    download_bytes: int | None = None  # if the format has its own packed form; None: size of the files in a .tar.xz


def artifact_path(root: Path, variant: str, format: str, precision: str, suffix: str) -> Path:
    """The path of a format's main file; its other files share the stem. The suffix includes its dot."""
    return folder.variant_folder(root, variant) / f"{format}-{precision}{suffix}"


def finish(given: ExportInput, made: Made, run: Run) -> Artifact:
    """Verify the files against torch and record them. VerifyError, and no record, if they differ."""
    name = f"{given.variant.id}/{made.format}-{made.precision}"
    agreement = verify(given, run, made.precision, name)
    if made.download_bytes is None:
        given.attempts.doing("packing to measure its size")
    files = tuple(path.relative_to(given.root).as_posix() for path in made.files)
    artifact = Artifact(
        id=name, variant=given.variant.id, format=made.format, precision=made.precision, path=files[0], files=files,
        file_bytes=file_bytes(made.files), sha256=folder.files_sha256(made.files),
        download_bytes=download_bytes(made.files) if made.download_bytes is None else made.download_bytes,
        max_abs_difference=agreement.max_abs_difference, top1_agreement=agreement.top1_agreement,
        accuracy=agreement.accuracy, layer_sparsity=made.layer_sparsity, notes=made.notes, warnings=made.warnings,
        accuracy_lost=max(0.0, agreement.torch_accuracy - agreement.accuracy),
        reference=given.variant.reference, made_with=expected_of(given, (made.format, made.precision)))
    folder.write_artifact(given.root, artifact)
    return artifact


def forget_stale(root: Path, variant: str, kind: tuple[str, str], made_with: Mapping[str, str]) -> tuple[str, ...]:
    """Delete the record of a (format, precision) that was made with anything else; what differs, () if nothing does."""
    record = folder.artifact_record(root, variant, *kind)
    if not record.is_file():
        return ()
    before = folder.read_record(Artifact, record).made_with
    differing = tuple(name for name, value in made_with.items() if before.get(name) != value)
    if differing:
        record.unlink()
    return differing


def read_finished(root: Path, variant: str, format: str, precision: str) -> Artifact | None:
    """The artifact if its record exists and its files still match the record, else None."""
    record = folder.artifact_record(root, variant, format, precision)
    if not record.is_file():
        return None
    artifact = folder.read_record(Artifact, record)
    paths = [root / file for file in artifact.files]
    whole = all(path.is_file() for path in paths) and folder.files_sha256(paths) == artifact.sha256
    return artifact if whole else None


class _Compressed:
    """A writable file that keeps only the number of bytes after xz compression."""

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
    """Size of the files as one .tar.xz; it depends only on names, sizes and contents, so it is reproducible."""
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
