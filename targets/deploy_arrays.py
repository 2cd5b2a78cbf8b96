"""Writes an exported model with any inputs and outputs as a self-contained folder, with a program that runs arrays."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmprune import __version__
from mmprune.results.as_json import SCHEMA
from targets.deploy import EXAMPLES, FROM_C, RUNTIME_FILES, record_answers
from targets.on_device import infer_arrays, runtimes, verify

GOLDEN_SAMPLES = 4


@dataclass(frozen=True)
class Plain:
    """A model file to deploy, and what the folder tells about it."""

    file: Path
    runtime: str
    samples: Sequence[Mapping[str, np.ndarray]]  # arrays by input, for golden outputs
    outputs: tuple[str, ...]
    about: str  # a text with what was compared

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.samples[0])


def fill(plain: Plain, part: Path, threads: int = 1) -> None:
    """Copy the file and all that runs it into an empty folder, and write what they need to know."""
    brought: tuple[Path, ...] = ()
    if plain.runtime in RUNTIME_FILES:
        brought = (*RUNTIME_FILES[plain.runtime](), *EXAMPLES[plain.runtime]())
    for file in (plain.file, *brought, Path(str(runtimes.__file__)), Path(str(verify.__file__))):
        shutil.copyfile(file, part / file.name)
    shutil.copyfile(str(infer_arrays.__file__), part / "infer.py")
    packages = [*runtimes.RUNTIMES[plain.runtime].packages, "numpy"]
    model = {"runtime": plain.runtime, "model": plain.file.name, "threads": threads, "packages": packages,
             "inputs": list(plain.inputs), "outputs": list(plain.outputs)}
    (part / infer_arrays.MODEL).write_text(json.dumps(model, indent=1) + "\n")
    (part / "README.md").write_text(_readme(plain, packages), encoding="utf-8")
    no_answers = _record(plain, part)
    row = {"schema": SCHEMA, "mmprune": __version__, "files": verify.digests(part), "no_answers": no_answers}
    (part / verify.MANIFEST).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def _record(plain: Plain, part: Path) -> str:
    """Write the outputs for some samples; why there are none, "" if there are."""
    samples = part / "samples.npz"
    few = plain.samples[:GOLDEN_SAMPLES]
    np.savez(samples, **{f"input{i}": np.stack([feed[name] for feed in few]) for i, name in enumerate(plain.inputs)})
    try:
        return record_answers(samples, part)
    finally:
        samples.unlink()


def _readme(plain: Plain, packages: Sequence[str]) -> str:
    return f"""# {plain.file.name}

    pip install {" ".join(packages)}
    python3 infer.py inputs.npz --out outputs.npz
    python3 infer.py --bench

`inputs.npz` has a float32 array for each input, by its name: {", ".join(plain.inputs)}.
`numpy.savez` writes such files.

`python3 verify.py` checks on the device that every file is as it was deployed, by the digests in `manifest.json`, and
that each output for a few samples is what it was where it was deployed.
{FROM_C if plain.runtime in EXAMPLES else ""}
## Compared

```
{plain.about}
```
"""
