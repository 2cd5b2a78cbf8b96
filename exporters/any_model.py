"""Exports any model, with several inputs and outputs, without a family: torch or ONNX -> ONNX or mmrt.

Every output is compared with torch's, or with ONNX Runtime's on the given file, on every sample.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper

from exporters import ExportError
from exporters.graph.observe import open_model
from exporters.graph.onnx_graph import fold_factors
from exporters.int8.biases import correct_biases
from exporters.int8.checks import left_in_float
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import load_runtime, pack
from exporters.to_onnx import flush_subnormals, noise_of, shrink, simplify
from exporters.trace import Traced, trace
from exporters.verify import TOLERANCES, VerifyError
from mmprune.choices import pick
from mmprune.models.outputs import tensors_in
from targets.on_device.runtimes import Opened, all_answers, open_mmrt, open_onnxruntime

FORMATS = ("onnx-fp32", "onnx-int8", "mmrt-fp32", "mmrt-fp16", "mmrt-int8")
RUNTIMES = {"onnx": "onnxruntime", "mmrt": "mmrt"}
# int8 rounds each activation to a range / 255. An output of a working file has at least four times as much signal as
# error (12 dB; files of trained networks have 20 to 35), or no error above 2 % of its largest value, which is all that
# can be asked of an output that hardly varies.
MOST_NOISE, SMALL = 0.25, 0.02

Feed = Mapping[str, np.ndarray]  # one sample: an array for each input


@dataclass(frozen=True)
class Source:
    """A model as a float32 graph, with samples and what it answers to them."""

    graph: onnx.ModelProto
    samples: Sequence[Feed]
    expected: Sequence[Sequence[np.ndarray]]  # by sample, in the order of the outputs
    notes: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        return list(self.samples[0])

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.graph.graph.output]


@dataclass(frozen=True)
class OutputCheck:
    """How far an output of the file is from that of the model, over all samples."""

    name: str
    shape: tuple[int, ...]
    largest: float  # |value| of the model
    max_difference: float
    noise: float  # root mean square of the difference, over the standard deviation of the model's values


# ---- sources -----------------------------------------------------------------------------------------------------


class _Flat(torch.nn.Module):
    """The model with its inputs in their order and its output as a tuple of tensors, however it is nested."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensor for _, tensor in tensors_in(self.model(*inputs)))


def from_torch(model: torch.nn.Module, inputs: object) -> Source:
    """A model in evaluation mode, with samples: a tensor, a tuple of them or a dict by parameter of forward.

    Tensors with the same first dimension N are N samples, traced with a batch of 1; with different ones they are a
    single sample. ValueError for inputs that the model does not take.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before exporting it")
    samples = samples_of(_named(model, inputs))
    first = tuple(torch.from_numpy(array) for array in samples[0].values())
    flat = _Flat(model).eval()
    with torch.no_grad():
        parts = tensors_in(model(*first))
        expected = [[tensor.numpy().copy() for tensor in flat(*map(torch.from_numpy, feed.values()))]
                    for feed in samples]
    names = _output_names([name for name, _ in parts], taken=samples[0])
    if not names:
        raise ExportError(f"{type(model).__name__} returns no tensor")
    graph, notes = trace(Traced(flat, first, tuple(samples[0]), tuple(names)), type(model).__name__, lambda stage: None)
    if [value.name for value in graph.graph.input] != list(samples[0]):
        unused = sorted(set(samples[0]) - {value.name for value in graph.graph.input})
        raise ExportError(f"{type(model).__name__} does not use its input {', '.join(unused)}; leave it out")
    return Source(graph, samples, expected, tuple(notes))


def _named(model: torch.nn.Module, inputs: object) -> dict[str, np.ndarray]:
    """The inputs by name, in the order of forward's parameters."""
    parameters = [p.name for p in inspect.signature(model.forward).parameters.values()
                  if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if isinstance(inputs, Mapping):
        if list(inputs) != parameters[:len(inputs)]:
            raise ValueError(f"the inputs must be named as the first parameters of forward, {', '.join(parameters)}, "
                             f"in their order; got {', '.join(map(str, inputs))}")
        given = list(inputs.values())
    else:
        given = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    names = [parameters[i] if i < len(parameters) else f"input{i}" for i in range(len(given))]
    return {name: _array(name, value) for name, value in zip(names, given, strict=True)}


def _array(name: str, value: object) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype != np.float32:
        raise ValueError(f"the input {name} must be float32, got {array.dtype}")
    return np.ascontiguousarray(array) if array.ndim else array


def samples_of(inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The samples, one by one: arrays with the same first dimension N are N of them; else there is one."""
    counts = {array.shape[:1] for array in inputs.values()}
    if not inputs or min(array.size for array in inputs.values()) == 0:
        raise ValueError("there are no samples: give an array with at least one for each input")
    if len(counts) > 1 or counts == {()}:
        return [dict(inputs)]
    (count,), = counts
    return [{name: array[i:i + 1] for name, array in inputs.items()} for i in range(count)]


def _output_names(paths: Sequence[str], taken: Mapping[str, object]) -> list[str]:
    """A name for each tensor of the output: its path in what forward returns, unlike any other name."""
    names: list[str] = []
    for path in paths:
        name = f"output{path}" if path == "" or path[0].isdigit() else path
        while name in taken or name in names:
            name += "_"
        names.append(name)
    return names


def from_onnx(path: Path, inputs: Mapping[str, np.ndarray] | None = None) -> Source:
    """An ONNX file. `inputs`: samples by input's name, see samples_of; None: random ones, which the notes say.

    A batch that is not fixed becomes 1. Other sizes that are not fixed become those of the samples.
    """
    try:
        graph = onnx.load(str(path))
    except Exception as err:
        raise ExportError(f"{path} is no ONNX file that can be read: {str(err).splitlines()[0][:200]}") from err
    notes = _fix_shapes(graph, inputs or {}, path)
    names = [value.name for value in _ends(graph)]
    if inputs is None:
        samples: list[dict[str, np.ndarray]] = noise_of(graph)
        notes.append(f"compared on {len(samples)} samples of noise; give real ones with --inputs")
    elif set(inputs) != set(names):
        raise ValueError(f"the samples must be named as the inputs of the file, {', '.join(names)}; got "
                         f"{', '.join(inputs)}")
    else:
        samples = samples_of({name: _array(name, inputs[name]) for name in names})
    try:
        session = open_model(graph)
        expected = [session.run(None, feed) for feed in samples]
    except Exception as err:
        raise ExportError(f"ONNX Runtime does not run {path}: {str(err).splitlines()[0][:300]}") from err
    return Source(graph, samples, expected, tuple(notes))


def _ends(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {i.name for i in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _fix_shapes(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], path: Path) -> list[str]:
    """Give every input a static shape, in place, and infer the others again; notes on what was fixed."""
    fixed = []
    for value in _ends(model):
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            given = inputs.get(value.name, np.empty(0)).shape
            if axis and axis >= len(given):
                raise ExportError(f"{path}: dimension {axis} of the input {value.name} is not fixed; give samples, "
                                  "whose sizes it then has")
            dim.Clear()
            dim.dim_value = given[axis] if axis else 1
            fixed.append(value.name)
    if not fixed:
        return []
    del model.graph.value_info[:]
    for end in model.graph.output:
        end.CopyFrom(helper.make_tensor_value_info(end.name, end.type.tensor_type.elem_type, None))
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    return [f"sizes that were not fixed are now those of one sample (inputs {', '.join(dict.fromkeys(fixed))})"]


# ---- files -------------------------------------------------------------------------------------------------------


def write(source: Source, format: str, path: Path, calibration: Sequence[Feed] = ()) -> tuple[str, ...]:
    """Write the file; returns notes. ExportError if it cannot be made.

    calibration  samples for int8's ranges; never those that the file is compared on
    """
    kind, precision = pick("format", format, FORMATS, ExportError).split("-")
    graph, notes = simplify(source.graph)
    fold_factors(graph)
    if flushed := flush_subnormals(graph):
        notes.append(f"{flushed} subnormal weights flushed to 0")
    graph, removed = shrink(graph, source.samples)
    notes += removed
    if precision == "int8":
        graph = _in_int8(graph, calibration, source)
        notes += [f"calibrated on {len(calibration)} samples", *left_in_float(graph)]
    if kind == "onnx":
        onnx.checker.check_model(graph, full_check=True)
        path.write_bytes(graph.SerializeToString())
    else:
        path.write_bytes(pack(graph, precision))
    return (*source.notes, *notes)


def _in_int8(graph: onnx.ModelProto, calibration: Sequence[Feed], source: Source) -> onnx.ModelProto:
    if not calibration:
        raise ExportError("int8 needs calibration samples, which are like the inputs, but other ones: give some "
                          "dozens (--calibration)")
    shapes = {name: array.shape for name, array in source.samples[0].items()}
    for feed in calibration:
        if {name: array.shape for name, array in feed.items()} != shapes:
            raise ValueError(f"calibration samples must be like the inputs, {shapes}; got "
                             f"{ {name: array.shape for name, array in feed.items()} }")
    made = quantize_for_onnxruntime(graph, calibration)
    correct_biases(made, graph, calibration)
    return made


# ---- the comparison ----------------------------------------------------------------------------------------------


def open_file(path: Path, format: str, threads: int = 1) -> Opened:
    """The file in its runtime."""
    if format.startswith("mmrt"):
        return open_mmrt(str(path), threads, load_runtime())
    return open_onnxruntime(str(path), threads)


def compare(source: Source, path: Path, format: str) -> list[OutputCheck]:
    """Run the file on every sample, and compare output by output. VerifyError, naming each output that differs."""
    run = all_answers(open_file(path, format))
    got = [run(*feed.values()) for feed in source.samples]
    precision = format.partition("-")[2]
    checks, wrong = [], []
    for i, name in enumerate(source.outputs):
        model, file = ([np.asarray(sample[i], np.float64) for sample in side] for side in (source.expected, got))
        if file[0].shape != model[0].shape:
            raise VerifyError(f"{path.name}: the output {name} has shape {file[0].shape}, but the model's has "
                              f"{model[0].shape}")
        check = _check(name, np.stack(model), np.stack(file))
        checks.append(check)
        if not _is_close(check, precision):
            wrong.append(f"{name} (max |difference| {check.max_difference:.3g} of values up to {check.largest:.3g}, "
                         f"noise {check.noise:.2g} of the signal)")
    if wrong:
        hint = "; give more calibration samples, or use mmrt-fp32 or mmrt-fp16" if precision == "int8" else ""
        raise VerifyError(f"{path.name} differs from the model in {len(wrong)} of {len(checks)} outputs over "
                          f"{len(got)} samples: {', '.join(wrong)}{hint}")
    return checks


def _check(name: str, model: np.ndarray, file: np.ndarray) -> OutputCheck:
    """model, file  (samples, *shape)"""
    off = np.abs(file - model)
    rms, spread = float(np.sqrt((off**2).mean())), float(model.std())
    noise = rms / spread if spread else math.inf if rms else 0.0
    return OutputCheck(name, model.shape[1:], float(np.abs(model).max()), float(off.max()), noise)


def _is_close(check: OutputCheck, precision: str) -> bool:
    """`<=` and not `not >`: NaN in an output is not close."""
    if precision == "int8":
        return check.noise <= MOST_NOISE or check.max_difference <= SMALL * check.largest
    return check.max_difference <= TOLERANCES[precision].difference * check.largest
