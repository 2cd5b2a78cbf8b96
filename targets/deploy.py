"""Writes a chosen artifact as a self-contained folder: the model, a short program, and the data behind the choice."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

from mmprune import __version__, folder
from mmprune.data import preprocess as preprocessing
from mmprune.records import Artifact, Manifest, Preprocess
from mmprune.results.as_json import SCHEMA, file_fields, session_fields
from mmprune.results.choice_words import describe
from mmprune.results.choose import Choice
from mmprune.results.points import Point, read_session
from mmprune.runtime_files import c_files, runtime_files
from targets.on_device import infer, runtimes, verify


class DeployError(RuntimeError):
    """Nothing can be deployed; the message says why and what to do."""


PROGRAMS = tuple(Path(str(m.__file__)) for m in (infer, verify, runtimes, preprocessing))  # copied unchanged
ANSWER_S = 120  # longest time for the answers to a few images
RUNTIME_FILES = {"mmrt": runtime_files}  # files copied with the model, because no package contains them
EXAMPLES = {"mmrt": c_files}  # for programs in C
FROM_C = """
From C: `gcc run.c -I. -L. -lmmrt -Wl,-rpath,. -o run && ./run MODEL [INPUT ...]`, with raw float32 files as inputs.
"""


def deploy(root: Path, choice: Choice, out: Path, preprocess: Preprocess | None = None) -> Path:
    """Write the winner to `out`, atomically. DeployError if nothing fits or there is no program for its runtime.

    preprocess  how an image file becomes the model's input; None: as the manifest says
    ValueError where `out` is there already, FolderError where the winner's files are not those that were measured.
    """
    point = choice.winner
    if point is None:
        raise DeployError(describe(choice))
    able = [name for name, runtime in runtimes.RUNTIMES.items() if runtime.module]
    if point.runtime not in able:
        raise DeployError(f"there is no program for {point.runtime}; choose a model with --runtime {' or '.join(able)}")
    if out.exists():
        raise ValueError(f"{out} already exists; choose another path or remove it")
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
    if point.runtime in RUNTIME_FILES:  # for the machine on which it was measured
        machine = read_session(root, point.session).device.versions.get("machine", "")
        brought = RUNTIME_FILES[point.runtime](machine, root / "cache")
    brought += EXAMPLES.get(point.runtime, tuple)()
    for file in [*(root / file for file in artifact.files), *brought, *PROGRAMS]:
        shutil.copyfile(file, part / file.name)  # in one folder, because a model refers to its data by file name
    model = {"runtime": point.runtime, "model": Path(artifact.path).name, "threads": point.threads,
             "packages": packages(point.runtime)}
    (part / infer.MODEL).write_text(json.dumps(model, indent=1) + "\n")
    (part / infer.SETTINGS).write_text(json.dumps(_settings(manifest, preprocess), indent=1) + "\n")
    labels = "".join(_one_line(label) + "\n" for label in _labels(manifest))
    (part / infer.LABELS).write_text(labels, encoding="utf-8")  # as infer.py reads it, in any locale
    (part / "README.md").write_text(_readme(root, choice, point, artifact))
    _write_manifest(root, choice, artifact, part, record_answers(root / folder.IMAGES, part))


def record_answers(samples: Path, part: Path, library: Path | None = None) -> str:
    """Write the model's answers on this machine for verify.py, in a child, since runtimes are heavy and may crash; why
    there are none, "" if there are.

    library  mmrt's for this machine, where that in the folder is for another
    """
    if not samples.is_file():
        return "the family keeps no test images"
    command = [sys.executable, "-Es", str(part / Path(str(verify.__file__)).name), "--record", str(samples), str(part)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=ANSWER_S,
                              env=None if library is None else {**os.environ, "MMRT_LIBRARY": str(library)})
    except subprocess.TimeoutExpired:
        return f"the model did not answer within {ANSWER_S} s on the machine that deployed it"
    finally:
        shutil.rmtree(part / "__pycache__", ignore_errors=True)
    if done.returncode == 0:
        return ""
    (part / verify.GOLDEN).unlink(missing_ok=True)
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return f"the model does not run on the machine that deployed it ({last[0]})"


def _write_manifest(root: Path, choice: Choice, artifact: Artifact, part: Path, no_answers: str) -> None:
    """Write manifest.json: the digest of every file, and the measurement that the model was chosen by."""
    assert choice.winner is not None
    row = {"schema": SCHEMA, "mmprune": __version__, "files": verify.digests(part), "no_answers": no_answers,
           "chosen": file_fields(replace(choice.winner, family="")), "goal": choice.order.goal,
           "budget": asdict(choice.budget), "margins": [asdict(room) for room in choice.rooms],
           "artifact_sha256": artifact.sha256, "session": session_fields(root, choice.winner.session)}
    (part / verify.MANIFEST).write_text(json.dumps(row, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _settings(manifest: Manifest, preprocess: Preprocess | None) -> dict[str, Any]:
    """The preprocessing of images in training, as preprocess.py expects it. DeployError if it is unknown."""
    found = preprocess or manifest.source.preprocess
    if found is None:
        raise DeployError("the preprocessing of the loaders is unknown, but a deployed model needs it: "
                          "call deploy(out, preprocess=mmprune.Preprocess(image_size, mean, std, ...))")
    return asdict(found)


def _labels(manifest: Manifest) -> tuple[str, ...]:
    """A name for each output of the model. DeployError if the manifest has none."""
    if manifest.source.data is None:
        raise DeployError("the family has no class names, which a deployed model needs to print its predictions")
    return manifest.source.data.labels


def _one_line(label: str) -> str:
    """A class name as one line of text: a folder's name may contain line breaks and bytes that are not text."""
    whole = label.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in whole)


def packages(runtime: str) -> list[str]:
    """The packages that infer.py needs from pip."""
    return [*runtimes.RUNTIMES[runtime].packages, "numpy", "pillow"]


def _readme(root: Path, choice: Choice, point: Point, artifact: Artifact) -> str:
    session, manifest = read_session(root, point.session), folder.read_manifest(root)
    device = session.device
    against = "" if point.ratio is None else (
        f"Its latency is {point.ratio.value:.3f} of that of the dense model with the same runtime (99 % interval "
        f"{point.ratio.low:.3f} to {point.ratio.high:.3f}): {point.ratio.verdict}.\n")
    notes = "".join(f"- {note}\n" for note in (*artifact.remarks, *point.notes)) or "- none\n"
    model = PurePath(manifest.source.model.model).name if manifest.source.model else "the model"
    return f"""# {point.strategy} of {model}

    pip install {" ".join(packages(point.runtime))}
    python3 infer.py photo.jpg

`preprocess.py` prepares images as in training, with the settings in `preprocess.json`: they are rotated by their EXIF
orientation, resized, cropped and normalized.

`python3 verify.py` checks on the device that every file is as it was deployed, by the digests in `manifest.json`, and
that the model answers test images as it did where it was deployed.
{FROM_C if point.runtime in EXAMPLES else ""}
## Why this model

```
{describe(choice)}
```

{against}
## Evidence

- Measured on {device.board}, {device.cpu}, {device.os}, kernel {device.kernel}, with {point.runtime}
  {point.runtime_version}, {point.threads} thread(s), batch 1; {point.samples} samples, profile {session.profile},
  {session.started}, session {session.name}. Figures differ on other devices: measure there.
- Accuracy {point.accuracy:.2%}, measured with this file on {manifest.images.test} test images.
- Sparsity {point.sparsity:.1%}; file {point.file_bytes / 2**20:.2f} MiB, download
  {point.download_bytes / 2**20:.2f} MiB, peak memory of the process {point.peak_bytes / 2**20:.0f} MiB.
- Made from variant `{point.variant}` as `{artifact.id}`, sha256 `{artifact.sha256}`.

Notes:

{notes}"""
