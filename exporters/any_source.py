"""What any_model.py exports: a torch model or an ONNX file as a float32 graph, with samples and the model's answers."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper

from exporters import ExportError
from exporters.graph.observe import open_model
from exporters.graph.onnx_graph import read_onnx, type_name
from exporters.to_onnx import noise_of, shapes_of
from exporters.trace import Traced, trace
from mmprune.models.outputs import tensors_in

NO_SAMPLES = "there are no samples: give an array with at least one for each input"

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
    if away := next((p.device for p in model.parameters() if p.device.type != "cpu"), None):
        raise ValueError(f"the model is on {away}; call model.cpu() before exporting it")
    samples = samples_of(named(_parameters(model, inputs), inputs))
    first = _tensors(samples[0])
    flat = _Flat(model).eval()
    with torch.no_grad():
        parts = tensors_in(model(*_tensors(samples[0])))
        expected = [[tensor.numpy().copy() for tensor in flat(*_tensors(feed))] for feed in samples]
    names = _output_names([name for name, _ in parts], taken=samples[0])
    if not names:
        raise ExportError(f"{type(model).__name__} returns no tensor")
    graph, notes = trace(Traced(flat, first, tuple(samples[0]), tuple(names)), type(model).__name__, lambda stage: None)
    if [value.name for value in graph.graph.input] != list(samples[0]):
        unused = sorted(set(samples[0]) - {value.name for value in graph.graph.input})
        raise ExportError(f"{type(model).__name__} does not use its input {', '.join(unused)}; leave it out")
    return Source(graph, samples, expected, tuple(notes))


def _tensors(feed: Feed) -> tuple[torch.Tensor, ...]:
    """Copies: a model may change its inputs."""
    return tuple(torch.from_numpy(array.copy()) for array in feed.values())


def _parameters(model: torch.nn.Module, inputs: object) -> list[str]:
    """The names of the inputs: the first parameters of forward, as many as there are inputs."""
    count = len(inputs) if isinstance(inputs, Mapping | tuple | list) else 1
    names = [p.name for p in inspect.signature(model.forward).parameters.values()
             if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [names[i] if i < len(names) else f"input{i}" for i in range(count)]


def named(names: Sequence[str], inputs: object) -> dict[str, np.ndarray]:
    """The inputs by name, in the order of the names; given by name, as a tuple in that order, or one array alone."""
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    else:
        values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
        if len(values) != len(names):
            raise ValueError(f"the model takes {', '.join(names)}; got {len(values)} array(s)")
        given = dict(zip(names, values, strict=True))
    if set(given) != set(names):
        raise ValueError(f"the model takes {', '.join(names)}; got {', '.join(map(str, given)) or 'nothing'}")
    return {name: _array(name, given[name]) for name in names}


def _array(name: str, value: object) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype != np.float32:
        raise ValueError(f"the input {name} must be float32, got {array.dtype}")
    return np.ascontiguousarray(array) if array.ndim else array


def samples_of(inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The samples, one by one: arrays with the same first dimension N are N of them; else there is one."""
    counts = {array.shape[:1] for array in inputs.values()}
    if not inputs or min(array.size for array in inputs.values()) == 0:
        raise ValueError(NO_SAMPLES)
    if len(counts) > 1 or counts == {()}:
        return [dict(inputs)]
    (count,), = counts
    return [{name: array[i:i + 1] for name, array in inputs.items()} for i in range(count)]


def cut(inputs: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, np.ndarray]]:
    """The samples, one by one, of a model that takes these shapes: N of them lie along the first axis of each array.

    ValueError for arrays of other shapes, and for different N.
    """
    counts = {}
    for name, array in inputs.items():
        shape = shapes[name]
        counts[name] = len(array) // shape[0] if shape and array.ndim else 1
        if array.shape != (counts[name] * shape[0], *shape[1:]) if shape else array.shape != ():
            raise ValueError(f"the samples of {name} have shape {array.shape}; the model takes {shape}, or N of them "
                             "along the first axis")
    if len(set(counts.values())) > 1:
        raise ValueError(f"there are different numbers of samples: {counts}")
    if 0 in counts.values():
        raise ValueError(NO_SAMPLES)
    return [{name: array[i * shapes[name][0]:(i + 1) * shapes[name][0]] if array.ndim else array
             for name, array in inputs.items()} for i in range(next(iter(counts.values())))]


def _output_names(paths: Sequence[str], taken: Mapping[str, object]) -> list[str]:
    """A name for each tensor of the output: its path in what forward returns, unlike any other name."""
    names: list[str] = []
    for path in paths:
        name = f"output{path}" if path == "" or path[0].isdigit() else path
        while name in taken or name in names:
            name += "_"
        names.append(name)
    return names


def from_onnx(path: Path, inputs: object = None) -> Source:
    """An ONNX file. `inputs`: samples, see samples_of; None: random ones, which the notes say.

    A batch that is not fixed becomes 1. Other sizes that are not fixed become those of the samples.
    """
    graph = read_onnx(path)
    names = [value.name for value in _ends(graph)]
    given = {} if inputs is None else named(names, inputs)
    notes = _fix_shapes(graph, given, path)
    for value in _ends(graph):
        kind = value.type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            raise ExportError(f"{path} takes {type_name(kind)} as its input {value.name}; "
                              "only float32 inputs can be exported")
    samples: list[dict[str, np.ndarray]] = cut(given, shapes_of(graph)) if given else noise_of(graph)
    if not given:
        notes.append(f"compared on {len(samples)} samples of noise, since no inputs were given")
    try:
        session = open_model(graph)
        expected = [session.run(None, feed) for feed in samples]
    except Exception as err:
        raise ExportError(f"ONNX Runtime does not run {path}: {_first_line(err)}") from err
    return Source(graph, samples, expected, tuple(notes))


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0][:300]


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
