"""Writes an exported model with any inputs and outputs as a self-contained folder, with a program that runs arrays."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def fill(plain: Plain, part: Path, machine: str = "", threads: int = 1) -> None:
    """Copy the file and all that runs it into an empty folder, and write what they need to know.

    machine  architecture (`uname -m`) on which the folder will run; "" for this one's
    """
    brought: tuple[Path, ...] = ()
    with tempfile.TemporaryDirectory() as built:
        if plain.runtime in RUNTIME_FILES:
            brought = (*RUNTIME_FILES[plain.runtime](machine, Path(built)), *EXAMPLES[plain.runtime]())
        for file in brought:
            shutil.copyfile(file, part / file.name)
    for file in (plain.file, Path(str(runtimes.__file__)), Path(str(verify.__file__))):
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
    """Write the outputs for some samples, on this machine; why there are none, "" if there are."""
    samples = part / "samples.npz"
    few = plain.samples[:GOLDEN_SAMPLES]
    arrays: dict[str, Any] = {f"input{i}": np.stack([f[name] for f in few]) for i, name in enumerate(plain.inputs)}
    np.savez(samples, **arrays)
    try:
        own = [path for path in RUNTIME_FILES.get(plain.runtime, tuple)() if path.suffix == ".so"]
        return record_answers(samples, part, *own)
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
