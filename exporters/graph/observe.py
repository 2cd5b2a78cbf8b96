"""Runs a float32 ONNX model sample by sample and returns chosen intermediate tensors or the logits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from targets.on_device.runtimes import open_onnxruntime

Samples = np.ndarray | Sequence[Mapping[str, np.ndarray]]  # images (N, C, H, W) of the only input, or inputs by name


def feeds_of(model: onnx.ModelProto, samples: Samples) -> list[Mapping[str, np.ndarray]]:
    """The samples one by one, as inputs by name; an image is (1, C, H, W)."""
    if not isinstance(samples, np.ndarray):
        return list(samples)
    return [{model.graph.input[0].name: samples[i:i + 1]} for i in range(len(samples))]


def observe(model: onnx.ModelProto, tensors: Iterable[str], samples: Samples) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of these tensors for each of the samples; inputs may be among them."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    given = {value.name for value in model.graph.input}
    known = given | {value.name for value in probed.graph.output}
    computed = [name for name in dict.fromkeys(tensors) if name not in given]
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in computed if name not in known)
    session = open_model(probed)
    for feed in feeds_of(model, samples):
        yield {**feed, **(dict(zip(computed, session.run(computed, feed), strict=True)) if computed else {})}


def logits_of(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The logits (N, classes) of the images (N, C, H, W)."""
    session, name = open_model(model), model.graph.input[0].name
    return np.concatenate([session.run(None, {name: images[i:i + 1]})[0] for i in range(len(images))])


def open_model(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on one CPU thread."""
    session: onnxruntime.InferenceSession = open_onnxruntime(model.SerializeToString(), 1).model
    return session
