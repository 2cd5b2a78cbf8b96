"""Runs a float32 ONNX model image by image and returns chosen intermediate tensors or the logits."""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from targets.on_device.runtimes import open_onnxruntime


def observe(model: onnx.ModelProto, tensors: Iterable[str], images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of these tensors for each of the images (N, C, H, W); the input may be among them."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    source = model.graph.input[0].name
    known = {value.name for value in (*probed.graph.input, *probed.graph.output)}
    computed = [name for name in dict.fromkeys(tensors) if name != source]
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in computed if name not in known)
    session = open_model(probed)
    for i in range(len(images)):
        image = {source: images[i:i + 1]}
        yield {**image, **(dict(zip(computed, session.run(computed, image), strict=True)) if computed else {})}


def logits_of(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The logits (N, classes) of the images (N, C, H, W)."""
    session, name = open_model(model), model.graph.input[0].name
    return np.concatenate([session.run(None, {name: images[i:i + 1]})[0] for i in range(len(images))])


def open_model(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on one CPU thread."""
    session: onnxruntime.InferenceSession = open_onnxruntime(model.SerializeToString(), 1).model
    return session
