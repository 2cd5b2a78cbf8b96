"""Exports a variant as one ONNX file: batch 1, BatchNorm folded, simplified, channels without effect removed.

Opset 17 is used, or a later one only if the model needs an operator that 17 lacks; the artifact's notes say so.
INT8 is ONNX Runtime's static quantization of the finished fp32 file.
The constants of the layers have their torch names (zeros.name_layers); metadata_props name the variant.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import torch
from onnx import numpy_helper

from exporters import ExportError
from exporters.artifact import Made, artifact_path, finish
from exporters.export_input import ExportInput
from exporters.graph.observe import Samples, feeds_of, open_model
from exporters.graph.onnx_graph import fold_factors, lift_constants
from exporters.graph.remove_channels import remove_channels
from exporters.graph.static_shapes import image_alone
from exporters.graph.zeros import constant_layers, count_zeros, layer_of, name_layers
from exporters.int8 import calibration
from exporters.int8.checks import check_zero_points, left_in_float
from exporters.int8.onnxruntime import quantize
from exporters.made_with import Origin
from exporters.run import export_source
from exporters.trace import Traced, trace
from mmprune import __version__, folder
from mmprune.choices import pick
from mmprune.patterns import ALIGNED
from mmprune.records import Artifact
from targets.on_device.runtimes import answers, open_onnxruntime

ORIGINS = {
    "fp32": Origin(packages=("torch", "onnx", "onnxsim")),
    "int8": Origin(("onnx", "fp32"), ("onnxruntime",), ("calibration", "method", "bias_correction", "max_drop")),
}
SUFFIX = ".onnx"
INPUT, OUTPUT = "input", "logits"
SAME = 1e-5  # equal graphs may differ by this fraction of the largest output: float32 sums in another order
FOLDED = 1e-4  # the same if weights were also multiplied by BatchNorm's scales; visformer_tiny has 1e-5
PROOF_IMAGES = 4
# Passes of onnxsim that make one constant of several layers, the second and third also operators that only ONNX Runtime
# has.
JOIN_LAYERS = ("fuse_qkv", "fuse_attention", "fuse_gqa")


def export(given: ExportInput, precision: str) -> Artifact:
    """Write, check and record the ONNX file. ExportError if zeros are lost, VerifyError if its outputs differ."""
    pick("precision", precision, ORIGINS, ExportError, owner="onnx")
    return _export_int8(given) if precision == "int8" else _export_fp32(given)


def _export_int8(given: ExportInput) -> Artifact:
    label = f"{given.variant.id}/onnx-int8"
    calibration.images_of(given, label)  # before the work
    source = export_source(given, "onnx", "int8")
    model, notes = quantize(onnx.load(given.root / source.path), given, label)
    made = write_typed(given, source, model, ("onnx", "int8"), notes)
    return finish(given, made, open_file(made.files[0]))


def write_typed(given: ExportInput, source: Artifact, model: onnx.ModelProto, kind: tuple[str, str],
                more: tuple[str, ...] = ()) -> Made:
    """Write a model that was made from a finished ONNX file, and count its zeros.

    kind  (format, precision) of the new file
    more  notes on how it was made
    ExportError if a layer has fewer zeros than in the source.
    """
    label = f"{given.variant.id}/{'-'.join(kind)}"
    notes = source.notes + more
    if kind[1] == "int8":
        check_zero_points(model, {layer.name for layer in given.layers}, label)
        notes += left_in_float(model)
    onnx.helper.set_model_props(model, {"mmprune": __version__, "variant": given.variant.id})
    onnx.checker.check_model(model, full_check=True)
    path = artifact_path(given.root, given.variant.id, *kind, SUFFIX)
    folder.write_whole(path, lambda part: part.write_bytes(model.SerializeToString()))
    sparsity = sparsity_after(given, source, read_constants(given.root / source.path), read_constants(path), label)
    return Made(*kind, (path,), sparsity, notes)


def sparsity_after(given: ExportInput, source: Artifact, before: Iterable[str], constants: Mapping[str, np.ndarray],
                   label: str) -> dict[str, float]:
    """The sparsity of each layer in a file that was made from a finished ONNX file.

    before     names of the ONNX file's constants
    constants  the new file's, by name
    ExportError if a layer has fewer zeros than in the ONNX file.
    """
    weights, names = layer_weights(given), set(map(layer_of, before))
    in_file = {name: weight for name, weight in weights.items() if name in names}
    counted = count_zeros(constants, in_file, label, source.layer_sparsity)
    return {**dict.fromkeys(weights, 1.0), **counted}  # layers that are not in the ONNX file were folded away


@dataclass(frozen=True)
class FloatModel:
    """A variant as an ONNX graph in float32, before it is written."""

    graph: onnx.ModelProto
    notes: tuple[str, ...]
    in_file: dict[str, np.ndarray]  # torch's weights of the layers that it holds, by Layer.name
    kept: dict[str, float]  # their sparsity before channels without effect were removed
    gone: list[str]  # layers that were folded away


def _export_fp32(given: ExportInput) -> Artifact:
    label = f"{given.variant.id}/onnx-fp32"
    model = float_model(given)
    onnx.helper.set_model_props(model.graph, {"mmprune": __version__, "variant": given.variant.id})
    onnx.checker.check_model(model.graph, full_check=True)
    path = artifact_path(given.root, given.variant.id, "onnx", "fp32", SUFFIX)
    folder.write_whole(path, lambda part: part.write_bytes(model.graph.SerializeToString()))
    sparsity = {**count_zeros(read_constants(path), model.in_file, label, model.kept), **dict.fromkeys(model.gone, 1.0)}
    made = Made("onnx", "fp32", (path,), sparsity, model.notes)
    return finish(given, made, open_file(path))


def float_model(given: ExportInput) -> FloatModel:
    """The graph with its layers named and channels without effect removed. ExportError if zeros or layers are lost."""
    label = f"{given.variant.id}/onnx-fp32"
    weights = layer_weights(given)
    doing = given.attempts.doing
    doing("tracing")
    traced, later = convert_and_tell(given)
    doing("simplifying")
    model, notes = simplify(traced)
    notes = later + notes
    fold_factors(model)
    flushed = flush_subnormals(model)
    if flushed:
        notes.append(f"{flushed} subnormal weights flushed to 0")
    gone = _name_layers(model, given, weights, label)
    if gone:
        notes.append(f"folded away, as independent of the image: {', '.join(gone)}; their weights count as zeros")
    in_file = {name: weight for name, weight in weights.items() if name not in gone}
    kept = count_zeros(_constants(model), in_file, label)  # before the removal, whose weights count as zeros
    if given.variant.pattern not in ALIGNED:  # the remaining channels would move to other groups of four
        doing("removing channels without effect")
        model, removal = shrink(model, given.images)
        notes += removal
    return FloatModel(model, tuple(notes), in_file, kept, gone)


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file in ONNX Runtime on one CPU thread: images (1, C, H, W) float32 -> logits (1, classes) float32."""
    return answers(open_onnxruntime(str(path), 1))


def open_exact(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """As open_file, but Q/DQ round float32 results: ONNX Runtime's INT8 kernels may overflow, TensorRT's do not."""
    return answers(open_onnxruntime(str(path), 1, (("session.disable_quant_qdq", "1"),)))


def layer_weights(given: ExportInput) -> dict[str, np.ndarray]:
    """The torch weight of each prunable layer. ExportError for a layer that the model does not have."""
    state = given.model.state_dict()
    missing = [layer.name for layer in given.layers if layer.name not in state]
    if missing:
        raise ExportError(f"{given.variant.id}: the model has no parameter {missing[0]}, a layer of the family")
    return {layer.name: state[layer.name].numpy() for layer in given.layers}


def read_constants(path: Path) -> dict[str, np.ndarray]:
    """The file's constants by name."""
    return _constants(onnx.load(path))


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def convert(given: ExportInput) -> onnx.ModelProto:
    """Convert torch to ONNX by tracing, at the lowest sufficient opset."""
    return convert_and_tell(given)[0]


def convert_and_tell(given: ExportInput) -> tuple[onnx.ModelProto, list[str]]:
    """As convert, plus a note if the opset is a later one. ExportError if no opset is sufficient."""
    image = torch.from_numpy(given.images[:1])
    with image_alone(given.model):
        return trace(Traced(given.model, (image,), (INPUT,), (OUTPUT,)), f"{given.variant.id}/onnx-fp32",
                     given.attempts.doing)


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Fold and merge with onnxsim; the original model and a note if the simplified one has other outputs."""
    simple, _ = onnxsim.simplify(model, skipped_optimizers=list(JOIN_LAYERS))
    lift_constants(simple)
    if same_answers(model, simple, noise_of(model), FOLDED):
        return simple, []
    lift_constants(model)
    return model, ["not simplified: onnxsim changed the outputs"]


def noise_of(model: onnx.ModelProto, count: int = PROOF_IMAGES) -> list[dict[str, np.ndarray]]:
    """Some random samples: an array for each input."""
    random, shapes = np.random.default_rng(0), shapes_of(model)
    return [{name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()} for _ in range(count)]


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each input."""
    constants = {i.name for i in model.graph.initializer}
    return {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in model.graph.input if value.name not in constants}


def same_answers(a: onnx.ModelProto, b: onnx.ModelProto, samples: Samples, tolerance: float) -> bool:
    """Whether each output of two models differs by at most this fraction of its largest value."""
    run_a, run_b = (open_model(model) for model in (a, b))
    for feed in feeds_of(a, samples):
        for left, right in zip(run_a.run(None, feed), run_b.run(None, feed), strict=True):
            if left.shape != right.shape or not np.abs(left - right).max() <= tolerance * np.abs(left).max():
                return False
    return True


def flush_subnormals(model: onnx.ModelProto) -> int:
    """Set subnormal float32 constants to 0, in place; returns how many. They are slow on some CPUs."""
    tiny, count = np.finfo(np.float32).tiny, 0
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype == np.float32:
            subnormal = (array != 0) & (np.abs(array) < tiny)
            if subnormal.any():
                count += int(subnormal.sum())
                flushed = np.where(subnormal, np.float32(0), array)
                initializer.CopyFrom(numpy_helper.from_array(flushed, initializer.name))
    return count


def _name_layers(model: onnx.ModelProto, given: ExportInput, weights: dict[str, np.ndarray], label: str) -> list[str]:
    """Name the layers' constants; returns the layers that were folded away because they do not depend on the image."""
    found = name_layers(model, weights)
    missing = [name for name in weights if name not in found]
    folded = constant_layers(given.model, missing, given.input_shape) if missing else set()
    for name in missing:
        if name not in folded:
            raise ExportError(f"{label}: the weight of layer {name} {weights[name].shape} is not in the file: no "
                              "constant of a product has its shape and its values up to a factor for each output")
    return sorted(folded)


def shrink(model: onnx.ModelProto, samples: Samples) -> tuple[onnx.ModelProto, list[str]]:
    """The model without channels that have no effect, if its outputs for noise and for some of the samples stay the
    same, and a note on what was removed."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    removed = remove_channels(small)
    if not removed.channels:
        return model, []
    if not same_answers(model, small, [*feeds_of(model, samples[:PROOF_IMAGES]), *noise_of(model, 1)], SAME):
        return model, [f"{removed.channels} channels without effect kept: removing them changed the outputs"]
    return small, [f"{removed.channels} channels without effect removed, saving {removed.macs} multiply-accumulates; "
                   "their weights count as zeros"]
