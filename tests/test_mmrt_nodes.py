"""The tests that come with the package onnx, an operator each, through mmrt: right, or refused with a sentence."""

import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from exporters import ExportError
from exporters.mmrt.read import OPSETS, READERS
from exporters.to_mmrt import load_runtime, pack
from mmprune.runtime_files import runtime_files

try:
    runtime_files()
except FileNotFoundError as err:
    pytest.skip(str(err), allow_module_level=True)

CLOSE = 1e-5  # beside each test's own relative tolerance
# Of READERS: those whose tests all have outputs that mmrt does not give: bytes, statistics, doubles. Other tests have
# them.
UNTESTED = {"DequantizeLinear", "Einsum", "LayerNormalization", "QuantizeLinear"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(test, operators of the model, what became of it) for each test and choice of the inputs that stay inputs."""
    path, found = tmp_path_factory.mktemp("nodes") / "model.mmrt", []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tests' own arithmetic
        cases = load_model_tests(kind="node")
    for case in cases:
        inputs, outputs = case.data_sets[0]
        for kept in {tuple(range(len(inputs))), (0,), (len(inputs) - 1,)}:
            model = with_constants(case.model, inputs, kept)
            if model is not None:
                fate = became(model, [inputs[k] for k in kept], outputs, case.rtol, path)
                found.append((f"{case.name}{list(kept)}", [node.op_type for node in model.graph.node], fate))
    return found


def with_constants(model, inputs, kept):
    """The model with all inputs but some turned into constants; None where that cannot be."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = {i.name for i in model.graph.initializer}
    ends = [value for value in changed.graph.input if value.name not in constants]
    if not inputs or len(ends) != len(inputs) or len(changed.graph.output) == 0:
        return None
    for k, (value, array) in enumerate(zip(ends, inputs, strict=True)):
        if k not in kept:
            if not isinstance(array, np.ndarray | np.generic):
                return None
            changed.graph.initializer.append(numpy_helper.from_array(np.array(array), value.name))
            changed.graph.input.remove(value)
    return changed


def became(model, inputs, outputs, tolerance, path):
    """"right", "refused", or what is wrong."""
    try:
        path.write_bytes(pack(model))
    except ExportError as err:
        return "refused" if str(err).startswith(("mmrt ", "onnx ")) else f"refused as {err}"
    except Exception as err:  # what is looked for
        return f"{type(err).__name__}: {err}"
    if any(np.asarray(array).dtype != np.float32 for array in (*inputs, *outputs)):
        return "types other than float32 were taken"
    try:
        got = load_runtime().Model(str(path))(*inputs)
    except Exception as err:
        return f"written and then not run: {type(err).__name__}: {err}"
    for one, want in zip(got, outputs, strict=True):
        if one.shape != want.shape or not np.allclose(one, want, rtol=tolerance, atol=CLOSE, equal_nan=True):
            return f"wrong: {one.shape} {one.reshape(-1)[:4]} instead of {want.shape} {want.reshape(-1)[:4]}"
    return "right"


def test_each_is_right_or_refused_with_a_sentence(answers):
    wrong = [f"{name}: {fate}" for name, _, fate in answers if fate not in ("right", "refused")]
    assert not wrong, "\n".join(wrong)
    if onnx.defs.onnx_opset_version() in OPSETS:
        assert Counter(fate for *_, fate in answers)["right"] > 400


def test_each_operator_is_right_in_some(answers):
    if onnx.defs.onnx_opset_version() not in OPSETS:
        pytest.skip("this onnx has a newer opset, whose operators were not compared with what mmrt's readers do")
    right = {ops[0] for _, ops, fate in answers if fate == "right" and len(ops) == 1}
    assert READERS.keys() - right == UNTESTED
