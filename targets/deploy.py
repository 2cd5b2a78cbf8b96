"""Writes a chosen artifact as a folder that runs by itself: the model, a short program, the evidence for the choice."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmprune import folder
from mmprune.data import preprocess as preprocessing
from mmprune.records import Artifact, Manifest, Preprocess
from mmprune.results.choose import Choice, describe
from mmprune.results.points import Point, read_session
from mmprune.runtime_files import runtime_files
from targets.on_device import infer, runtimes


class DeployError(RuntimeError):
    """Nothing can be deployed; the message says why and what would change it."""


PROGRAMS = tuple(Path(str(m.__file__)) for m in (infer, runtimes, preprocessing))  # that are copied as they are
RUNTIME_FILES = {"mmrt": runtime_files}  # what travels with the model because no package brings it


def deploy(root: Path, choice: Choice, out: Path, preprocess: Preprocess | None = None) -> Path:
    """Write the winner to `out`, whole or not at all. DeployError when nothing fits or its runtime has no program here.

    preprocess  how an image file becomes the model's input; None: as the manifest says
    ValueError where `out` is there already, FolderError where the winner's files are not those that were measured.
    """
    point = choice.winner
    if point is None:
        raise DeployError(describe(choice))
    able = [name for name, runtime in runtimes.RUNTIMES.items() if runtime.module]
    if point.runtime not in able:
        raise DeployError(f"there is no program for {point.runtime} yet: choose with runtime {' or '.join(able)}")
    if out.exists():
        raise ValueError(f"{out} is there already: choose another place or remove it")
    artifact = next(a for a in folder.read_artifacts(root) if a.id == point.artifact)
    folder.check_files(root, artifact)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _fill(root, choice, point, artifact, part, preprocess)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _fill(root: Path, choice: Choice, point: Point, artifact: Artifact,
          part: Path, preprocess: Preprocess | None) -> None:
    manifest = folder.read_manifest(root)
    brought: tuple[Path, ...] = ()
    if point.runtime in RUNTIME_FILES:  # for the machine that it was measured on
        machine = read_session(root).device.versions.get("machine", "")
        brought = RUNTIME_FILES[point.runtime](machine, root / "cache")
    for file in [*(root / file for file in artifact.files), *brought, *PROGRAMS]:
        shutil.copyfile(file, part / file.name)  # side by side: a model names its data by file name
    model = {"runtime": point.runtime, "model": Path(artifact.path).name, "threads": point.threads,
             "packages": _packages(point.runtime)}
    (part / infer.MODEL).write_text(json.dumps(model, indent=1) + "\n")
    (part / infer.SETTINGS).write_text(json.dumps(_settings(manifest, preprocess), indent=1) + "\n")
    labels = "".join(_one_line(label) + "\n" for label in _labels(manifest))
    (part / infer.LABELS).write_text(labels, encoding="utf-8")  # as infer.py reads it, whatever the locale
    (part / "README.md").write_text(_readme(root, choice, point, artifact))


def _settings(manifest: Manifest, preprocess: Preprocess | None) -> dict[str, Any]:
    """How images were prepared in training, as preprocess.py takes it. DeployError where nobody says."""
    found = preprocess or manifest.source.preprocess
    if found is None:
        raise DeployError("how the loaders prepared their images is not known, so a deployed model could not be fed: "
                          "say it with deploy(out, preprocess=mmprune.Preprocess(image_size, mean, std, ...))")
    return asdict(found)


def _labels(manifest: Manifest) -> tuple[str, ...]:
    """A name for each output of the model. DeployError where the manifest has none."""
    if manifest.source.data is None:
        raise DeployError("the family does not say what its classes are called, so what is deployed could not say it")
    return manifest.source.data.labels


def _one_line(label: str) -> str:
    """A class's name as a line of text: a folder may be called by line breaks, and by bytes that are no text."""
    whole = label.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in whole)


def _packages(runtime: str) -> list[str]:
    """What pip has to bring for infer.py."""
    return [*runtimes.RUNTIMES[runtime].packages, "numpy", "pillow"]


def _readme(root: Path, choice: Choice, point: Point, artifact: Artifact) -> str:
    session, manifest = read_session(root), folder.read_manifest(root)
    device = session.device
    against = "" if point.ratio is None else (
        f"Against the dense model with the same runtime it takes {point.ratio.value:.3f} of the time (99 % interval "
        f"{point.ratio.low:.3f} to {point.ratio.high:.3f}): {point.ratio.verdict}.\n")
    notes = "".join(f"- {note}\n" for note in (*artifact.remarks, *point.notes)) or "- none\n"
    model = manifest.source.model.model if manifest.source.model else "the model"
    return f"""# {point.strategy} of {model}

    pip install {" ".join(_packages(point.runtime))}
    python3 infer.py photo.jpg

Images are prepared by `preprocess.py` as they were in training, with what `preprocess.json` says: turned upright by
their EXIF orientation, resized, cropped, normalized.

## Why this one

```
{describe(choice)}
```

{against}
## Evidence

- Measured on {device.board}, {device.cpu}, {device.os}, kernel {device.kernel}, with {point.runtime}
  {point.runtime_version}, {point.threads} thread(s), batch 1; {point.samples} samples, profile {session.profile},
  {session.started}, session {session.name}. On another device the figures differ: measure there.
- Accuracy {point.accuracy:.2%}, of this very file, on {manifest.images.test} test images.
- Sparsity {point.sparsity:.1%}; file {point.file_bytes / 2**20:.2f} MiB, download
  {point.download_bytes / 2**20:.2f} MiB, peak memory of the process {point.peak_bytes / 2**20:.0f} MiB.
- Made from variant `{point.variant}` as `{artifact.id}`, sha256 `{artifact.sha256}`.

Notes:

{notes}"""
