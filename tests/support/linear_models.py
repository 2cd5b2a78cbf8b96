"""A family of two linear models in every format, for tests that run real files."""

import dataclasses
import hashlib

import numpy as np
import pytest
from families import made_family

from mmprune import folder
from mmprune.records import Artifact


def real_family(root):
    """Two linear models of 8x8 images as ONNX, IR and (where its library is) mmrt; [(artifact, opener)]."""
    onnx, openvino = pytest.importorskip("onnx"), pytest.importorskip("openvino")
    from onnx import TensorProto, helper

    from exporters import ExportError
    from exporters import load as format_named

    made = []
    for i, artifact in enumerate(made_family(root, [("dense", 0.9, 0.0, 0.01), ("uniform", 0.88, 0.5, 0.008)])):
        weight = np.random.default_rng(i).standard_normal((192, 2)).astype(np.float32)
        nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["logits"])]
        graph = helper.make_graph(
            nodes, "linear",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
            [onnx.numpy_helper.from_array(weight, "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        here = folder.variant_folder(root, artifact.variant)
        onnx.save(model, here / "model.onnx")
        made.append(recorded(root, artifact, "onnx", [here / "model.onnx"]))
        openvino.save_model(openvino.Core().read_model(str(here / "model.onnx")), str(here / "ir.xml"), False)
        made.append(recorded(root, artifact, "openvino", [here / "ir.xml", here / "ir.bin"]))
        try:
            format_named("mmrt").load_runtime()
        except ExportError:
            continue
        format_named("mmrt").write_mmrt(model, here / "model.mmrt")
        made.append(recorded(root, artifact, "mmrt", [here / "model.mmrt"]))
    (root / folder.MEASUREMENTS).unlink()
    return made, lambda a: format_named(a.format).open_file(root / a.path)


def recorded(root, like, format, paths) -> Artifact:
    files = tuple(str(p.relative_to(root)) for p in paths)
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in paths)).hexdigest()
    artifact = dataclasses.replace(like, id=f"{like.variant}/{format}-f32", format=format, path=files[0], files=files,
                                   sha256=digest)
    folder.write_artifact(root, artifact)
    return artifact
