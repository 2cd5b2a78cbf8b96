"""The end of every export: check the finished files, measure their sizes, write the record last."""

from dataclasses import dataclass
from pathlib import Path

from exporters.export_input import ExportInput
from exporters.sizes import download_bytes, file_bytes, sha256
from exporters.verify import Run, verify
from mmprune import folder
from mmprune.records import Artifact

LOST = "percentage points below torch's"
LEFT = "are left in what mmrt runs"  # of a note on zeros that a file has not


@dataclass(frozen=True)
class Made:
    """Files that a format has written, not yet checked."""

    format: str
    precision: str
    files: tuple[Path, ...]  # the main file first
    layer_sparsity: dict[str, float]  # counted in these files, by Layer.name
    notes: tuple[str, ...] = ()
    download_bytes: int | None = None  # where the format has a packed form of its own; None: of the files in a .tar.xz


def artifact_path(root: Path, variant: str, format: str, precision: str, suffix: str) -> Path:
    """Where a format's main file lies; files beside it share the stem. The suffix comes with its dot."""
    return folder.variant_folder(root, variant) / f"{format}-{precision}{suffix}"


def finish(given: ExportInput, made: Made, run: Run) -> Artifact:
    """Verify the files against torch and record them. VerifyError when they differ: then there is no record."""
    name = f"{given.variant.id}/{made.format}-{made.precision}"
    agreement = verify(given, run, made.precision, name)
    if made.download_bytes is None:
        given.attempts.doing("packing to know its size")
    files = tuple(path.relative_to(given.root).as_posix() for path in made.files)
    drop = 100 * (agreement.torch_accuracy - agreement.accuracy)
    notes = tuple(note for note in made.notes if LOST not in note)  # of the file that this one was made from
    notes += (f"accuracy {drop:.2f} {LOST}",) if drop > 0 else ()
    artifact = Artifact(
        id=name, variant=given.variant.id, format=made.format, precision=made.precision, path=files[0], files=files,
        file_bytes=file_bytes(made.files), sha256=sha256(made.files),
        download_bytes=download_bytes(made.files) if made.download_bytes is None else made.download_bytes,
        max_abs_difference=agreement.max_abs_difference, top1_agreement=agreement.top1_agreement,
        accuracy=agreement.accuracy, layer_sparsity=made.layer_sparsity, notes=notes,
        reference=given.variant.reference)
    folder.write_artifact(given.root, artifact)
    return artifact


def forget_others(root: Path, variant: str, kind: tuple[str, str], note: str) -> None:
    """Take away the record of a (format, precision) that lacks the note: the file is made anew."""
    done = read_finished(root, variant, *kind)
    if done is not None and note not in done.notes:
        folder.artifact_record(root, variant, *kind).unlink()


def read_finished(root: Path, variant: str, format: str, precision: str) -> Artifact | None:
    """The artifact if its record is there and its files still are what the record says, else None."""
    record = folder.artifact_record(root, variant, format, precision)
    if not record.is_file():
        return None
    artifact = folder.read_record(Artifact, record)
    paths = [root / file for file in artifact.files]
    whole = all(path.is_file() for path in paths) and sha256(paths) == artifact.sha256
    return artifact if whole else None
