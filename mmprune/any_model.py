"""Exports any model into a folder that runs by itself: pruning needs a classifier, exporting does not."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import targets
from exporters import any_model, any_source
from exporters.any_model import OutputCheck
from exporters.any_source import Source
from mmprune.folder import check_name
from targets.deploy_arrays import Plain, fill

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Exported:
    """A folder with a model's file, and how far each of its outputs is from the model's."""

    folder: Path
    file: Path
    inputs: tuple[tuple[str, tuple[int, ...]], ...]  # (name, shape)
    outputs: tuple[OutputCheck, ...]
    samples: int  # that were compared
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.file}: {len(self.inputs)} input(s), {len(self.outputs)} output(s)", *self.lines()])

    def lines(self) -> list[str]:
        """A line for each input and output, and the notes."""
        rows = [(f"input {name}", shape, "") for name, shape in self.inputs]
        rows += [(f"output {o.name}", o.shape, f"off by {o.max_difference:.2g} at most, values up to {o.largest:.2g}")
                 for o in self.outputs]
        width = max(len(name) for name, *_ in rows)
        compared = f"compared with the model on {self.samples} sample(s), output by output"
        return [*(f"  {name:{width}}  {shape}  {said}".rstrip() for name, shape, said in rows), compared, *self.notes]


def export(model: "nn.Module | str | Path", inputs: object = None, out: str | Path = "deploy", *,
           format: str = "mmrt-fp32", calibration: object = None, target: str | None = None) -> Exported:
    """Export a model with any number of float32 inputs and outputs to the folder `out`, which runs by itself.

    model   an nn.Module in evaluation mode, or the path of an .onnx file
    inputs  samples: a tensor or array, a tuple of them, or a dict by name. Arrays with the same first dimension N are
            N samples, and the file then has a batch of 1; arrays with different ones are one sample. An .onnx file is
            compared on noise without them
    format  "mmrt-fp32", "mmrt-fp16", "mmrt-int8", "onnx-fp32" or "onnx-int8"
    calibration  samples for int8, other ones than `inputs`
    target  the device family that the folder is for, such as "raspberry-pi-5": mmrt's library is compiled for it;
            None: this machine

    Each output is compared with the model's. ExportError if the file cannot be made, VerifyError if an output differs:
    then nothing is written. ValueError if `out` is there already, FolderError if the runtimes cannot open it.
    """
    folder = Path(out)
    if folder.exists():
        raise ValueError(f"{folder} already exists; choose another path or remove it")
    any_model.check_format(format)
    check_name(folder)
    machine = targets.load(target or targets.LOCAL).arch
    source = _source(model, inputs)
    shapes = {name: array.shape for name, array in source.samples[0].items()}
    samples = [] if calibration is None else any_source.cut(any_source.named(source.inputs, calibration), shapes)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        file = part / f"model.{format.partition('-')[0]}"
        notes = any_model.write(source, format, file, samples)
        checks = any_model.compare(source, file, format)
        made = Exported(folder, folder / file.name, tuple(shapes.items()), tuple(checks), len(source.samples), notes)
        # filled in a second folder, as the file must not lie in it before it was compared
        ready = part / "folder"
        ready.mkdir()
        fill(Plain(file, any_model.RUNTIMES[format.partition("-")[0]], source.samples, tuple(source.outputs),
                   "\n".join(made.lines())), ready, machine)
        os.replace(ready, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made


def _source(model: "nn.Module | str | Path", inputs: object) -> Source:
    if isinstance(model, str | Path):
        return any_source.from_onnx(Path(model), inputs)
    if inputs is None:
        raise ValueError("a torch model needs samples of its inputs, such as a tensor (N, 3, 224, 224)")
    return any_source.from_torch(model, inputs)
