"""Which ONNX nodes mmrt reads, and the sentences with which it refuses others."""

import numpy as np
import onnx
import pytest
import torch
from mmrt_answers import assert_same, make_onnx, noise
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters import ExportError
from exporters.export_input import ExportInput
from exporters.mmrt.fusion import fuse
from exporters.mmrt.read import OPSETS, read_graph
from exporters.run import export_one
from exporters.to_mmrt import load_runtime, pack
from mmprune.layers import find_layers
from mmprune.records import Variant
from mmprune.runtime_files import runtime_folder

needs_runtime = pytest.mark.skipif(not (runtime_folder() / "libmmrt.so").is_file(),
                                   reason="mmrt's library was not built: mmprune runtime build")

# ---- right -------------------------------------------------------------------------------------------------------

TRANSPOSED = {  # image (C, H, W), outputs a group, kernel, attributes
    "twice as large": ((4, 3, 5), 3, (2, 2), {"strides": [2, 2]}),
    "twice as large, overlapping": ((4, 3, 5), 3, (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "odd kernel": ((4, 3, 5), 3, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    "odd size": ((4, 3, 5), 3, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "kernel smaller than stride": ((4, 3, 5), 3, (2, 1), {"strides": [3, 2]}),
    "no stride": ((4, 3, 5), 3, (3, 3), {"pads": [1, 1, 1, 1]}),
    "one axis": ((4, 3, 5), 3, (3, 2), {"strides": [1, 2], "pads": [1, 0, 1, 0]}),
    "dilation": ((4, 3, 5), 3, (3, 3), {"strides": [2, 2], "dilations": [2, 3]}),
    "dilation and stride share a factor": ((2, 4, 5), 3, (3, 2), {"strides": [4, 2], "dilations": [2, 2]}),
    "groups": ((4, 3, 5), 3, (4, 4), {"strides": [2, 2], "group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ((4, 3, 5), 1, (4, 4), {"strides": [2, 2], "group": 4, "pads": [1, 1, 1, 1]}),
    "one pixel": ((4, 1, 1), 3, (2, 2), {"strides": [2, 2]}),
    "to one pixel": ((4, 1, 1), 3, (3, 3), {"pads": [1, 1, 1, 1]}),
    "much cut": ((4, 3, 5), 3, (5, 5), {"strides": [2, 2], "pads": [4, 3, 2, 4]}),
    "size given": ((4, 3, 5), 3, (3, 3), {"strides": [2, 2], "output_shape": [6, 10]}),
    "same upper": ((4, 3, 5), 3, (3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same lower": ((4, 3, 5), 3, (3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolution(case, tmp_path):
    image, outs, kernel, attrs = TRANSPOSED[case]
    w = noise(image[0], outs, *kernel)
    w[np.abs(w) < 0.5] = 0
    nodes = [("Relu", ["x"], "r", {}), ("ConvTranspose", ["r", "w", "b"], "t", {**attrs, "kernel_shape": kernel}),
             ("Relu", ["t"], "y", {})]
    bias = noise(outs * attrs.get("group", 1))
    program = assert_same(make_onnx(nodes, {"x": [1, *image]}, {"w": w, "b": bias}), tmp_path)
    if attrs.get("group", 1) == 1 and case != "to one pixel" and "output_shape" not in attrs:
        products = [op for op in program.ops if op.opcode == 1]
        assert sum(op.fields["weights"]["n_values"] for op in products) <= w.size, "each weight is in one phase"


ONE_IMAGE, TWO_IMAGES, TOKENS = [1, 4, 4, 6], [2, 4, 3, 5], [2, 3, 8]
RIGHT = {  # nodes, shape of x, constants, opset
    "slope for all": ([("PRelu", ["x", "s"], "y", {})], ONE_IMAGE, {"s": np.float32([0.3])}, 17),
    "slope for each channel": ([("PRelu", ["x", "s"], "y", {})], ONE_IMAGE,
                               {"s": np.float32([-0.5, 0, 0.25, 3]).reshape(4, 1, 1)}, 17),
    "slope below 1": ([("PRelu", ["x", "s"], "y", {})], ONE_IMAGE,
                      {"s": np.float32([-0.5, 1, 0.25, 0.5]).reshape(4, 1, 1)}, 17),
    **{f"{case}, {name}": ([(op, ["x", *"w"[:bool(weight)]], "y", attrs)], shape,
                           {"w": noise(*weight, *kernel)} if weight else {}, 17)
       for case, shape, kernel, attrs in (
           ("two images", TWO_IMAGES, (2, 3), {"pads": [1, 0, 1, 2], "strides": [1, 2]}),
           ("one line", [1, 4, 7], (3,), {"pads": [1, 1], "dilations": [2]}),
           ("three lines", [3, 4, 7], (3,), {"pads": [0, 2], "strides": [2]}))
       for name, op, weight, attrs in (
           ("convolution", "Conv", (6, 4), attrs), ("depthwise", "Conv", (8, 1), {**attrs, "group": 4}),
           ("groups", "Conv", (6, 2), {**attrs, "group": 2}), ("transposed", "ConvTranspose", (4, 3), attrs),
           ("largest", "MaxPool", (), {**attrs, "kernel_shape": kernel}))},
    "two images of one channel": ([("Conv", ["x", "w"], "y", {})], [2, 1, 3, 5], {"w": noise(3, 1, 2, 2)}, 17),
    "mean of two images": ([("AveragePool", ["x"], "y", {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]})], TWO_IMAGES,
                           {}, 17),
    **{f"padding, {mode}": ([("Pad", ["x", "p"], "q", {"mode": mode}), ("Conv", ["q", "w"], "y", {})], ONE_IMAGE,
                            {"p": [0, 0, 2, 3, 0, 0, 1, 2], "w": noise(2, 4, 3, 3)}, 19)
       for mode in ("reflect", "edge", "wrap")},
    "cutting": ([("Pad", ["x", "p"], "y", {})], TOKENS, {"p": [1, 0, -3, 0, -1, 2]}, 17),
    **{f"resized, {name}": (
        [("Conv", ["x", "w"], "a", {}), ("Resize", ["a", "", "", "s"], "b", attrs), ("Relu", ["b"], "c", {}),
         ("Conv", ["c", "v"], "y", {"pads": [1, 1, 1, 1]})], ONE_IMAGE,
        {"w": noise(3, 4, 1, 1), "s": [1, 3, *size], "v": noise(2, 3, 3, 3)}, 17)
       for name, size, attrs in (
           ("twice", (8, 12), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
           ("nearest", (7, 4), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
           ("linear", (7, 12), {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
           ("linear, corners", (3, 9), {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
           ("cubic", (9, 12), {"mode": "cubic", "cubic_coeff_a": -0.75,
                               "coordinate_transformation_mode": "pytorch_half_pixel"}))},
    "resized features": ([("Resize", ["x", "", "s"], "y", {"mode": "linear"})], [1, 1, 3, 8],
                         {"s": np.float32([1, 1, 2, 0.5])}, 17),
    "windows that overlap, changed": (
        [("Gather", ["x", "i"], "g", {"axis": 2}), ("Relu", ["g"], "r", {}), ("MatMul", ["r", "w"], "y", {})],
        [2, 3, 10], {"i": np.array([k * 2 + j for k in range(4) for j in range(4)]), "w": noise(16, 3)}, 17),
    "every second, twice each": ([("Gather", ["x", "i"], "y", {"axis": 2})], TOKENS, {"i": [1, 1, 3, 3, 5, 5, 7, 7]},
                                 17),
    **{f"einsum {equation}, {name}": (
        [("Relu", ["x"], "r", {}), *second, ("Einsum", ["r", "v"], "y", {"equation": equation})], a, {"w": noise(*b)},
        17)
       for equation, a, b in (
           ("byhwc,hkc->byhwk", [2, 3, 4, 5, 6], [4, 7, 6]), ("abc,cd->abd", TOKENS, [8, 5]), ("i,j->ij", [3], [4]),
           ("bnc,bmc->bnm", TOKENS, [2, 5, 8]), ("ab,ab->a", [3, 4], [3, 4]))
       for name, second in (("constant", [("Identity", ["w"], "v", {})]),
                            ("computed", [("ReduceSum", ["x"], "s", {"keepdims": 0}), ("Add", ["w", "s"], "v", {})]))},
    **{f"windows added up, {name}": ([("Col2Im", ["x", "i", "k"], "y", attrs)], [2, 18, count],
                                     {"i": [5, 6], "k": [3, 2]}, 18)
       for name, count, attrs in (("close", 15, {}), ("apart", 6, {"strides": [2, 2]}),
                                  ("padded", 9, {"pads": [1, 0, 1, 1], "strides": [2, 2], "dilations": [1, 2]}))},
    "places changed": ([("ScatterND", ["x", "i", "u"], "y", {})], [4, 3, 8],
                       {"i": np.array([[2, 1], [0, 0], [3, 1], [3, 2], [0, 2], [-4, 1]]), "u": noise(6, 8)}, 17),
    **{f"a box changed, {name}": (
        [("Sigmoid", ["x"], "s", {}), ("Slice", ["s", *"feg"], "u", {}), ("ScatterND", ["x", "i", "u"], "y", {})],
        ONE_IMAGE, {"i": np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(first, end, strict=True)),
                                              indexing="ij"), -1), "f": first, "e": end, "g": list(range(len(first)))},
        17)
       for name, first, end in (("inside", [0, 1, 1, 2], [1, 3, 3, 5]), ("from the start", [0, 0, 0], [1, 2, 4]),
                                ("to the end", [0, 0, 1, 1], [1, 4, 4, 6]), ("whole", [0], [1]))},
    "in no order": ([("Gather", ["x", "i"], "y", {"axis": 2})], TOKENS, {"i": [7, 0, 1, 2, 2, 2, 5, 4, 6]}, 17),
    "one element of a step beyond 32 bits": ([("Slice", ["x", "s", "e", "a", "b"], "y", {})], TOKENS,
                                             {"s": [3], "e": [8], "a": [2], "b": [2**40]}, 17),
    "slope for each element": ([("PRelu", ["x", "s"], "y", {})], ONE_IMAGE, {"s": noise(4, 4, 6)}, 17),
    "slope that is computed": ([("Sigmoid", ["x"], "s", {}), ("PRelu", ["x", "s"], "y", {})], ONE_IMAGE, {}, 17),
    "tile": ([("Tile", ["x", "n"], "y", {})], ONE_IMAGE, {"n": [2, 1, 3, 2]}, 17),
    "tile of tokens": ([("Tile", ["x", "n"], "t", {}), ("MatMul", ["t", "w"], "y", {})], TOKENS,
                       {"n": [1, 1, 2], "w": noise(16, 3)}, 17),
    "tile of axes of length 1": ([("Tile", ["x", "n"], "y", {})], [1, 1, 4, 1], {"n": [3, 2, 1, 5]}, 17),
    "tile by nothing": ([("Tile", ["x", "n"], "y", {})], ONE_IMAGE, {"n": [1, 1, 1, 1]}, 17),
    "pixel shuffle": ([("DepthToSpace", ["x"], "y", {"blocksize": 2, "mode": "CRD"})], ONE_IMAGE, {}, 17),
    "depth to space": ([("DepthToSpace", ["x"], "y", {"blocksize": 2})], [2, 8, 3, 5], {}, 17),
    "pixel shuffle between convolutions": (
        [("Conv", ["x", "w"], "a", {}), ("DepthToSpace", ["a"], "b", {"blocksize": 3, "mode": "CRD"}),
         ("Conv", ["b", "v"], "y", {"pads": [1, 1, 1, 1]})], ONE_IMAGE,
        {"w": noise(18, 4, 1, 1), "v": noise(3, 2, 3, 3)}, 17),
    "space to depth": ([("SpaceToDepth", ["x"], "y", {"blocksize": 2})], ONE_IMAGE, {}, 17),
    "only what is padded is read": (
        [("Pad", ["x", "p"], "q", {}), ("Conv", ["q", "w", "b"], "a", {"strides": [3, 3], "dilations": [2, 2]}),
         ("Add", ["x", "a"], "y", {})], [1, 2, 1, 1],
        {"p": [0, 0, 1, 1, 0, 0, 1, 1], "w": noise(2, 2, 2, 2), "b": noise(2)}, 17),
    "two images through a BatchNorm": (
        [("BatchNormalization", ["x", "g", "h", "h", "v"], "y", {})], TWO_IMAGES,
        {"g": noise(4), "h": noise(4), "v": np.float32([1, 2, 3, 4])}, 17),
    "two images through an InstanceNorm": ([("InstanceNormalization", ["x", "g", "h"], "y", {})], TWO_IMAGES,
                                           {"g": noise(4), "h": noise(4)}, 17),
    "norm over two axes": ([("LayerNormalization", ["x", "g", "h"], "y", {"axis": 2})], TWO_IMAGES,
                           {"g": noise(3, 5), "h": noise(3, 5)}, 17),
    "norm with a gain for all": ([("LayerNormalization", ["x", "g"], "y", {})], TOKENS, {"g": np.float32([2])}, 17),
    "largest of three": ([("Neg", ["x"], "n", {}), ("Max", ["x", "n", "c"], "y", {})], TOKENS, {"c": noise(8)}, 17),
    "least of one": ([("Min", ["x"], "y", {})], TOKENS, {}, 17),
    "sum of three": ([("Neg", ["x"], "n", {}), ("Sum", ["c", "x", "x"], "y", {})], TOKENS, {"c": noise(3, 1)}, 17),
    "concat of one": ([("Concat", ["x"], "y", {"axis": 0})], TOKENS, {}, 17),
    "concat with nothing": ([("Concat", ["x", "c"], "y", {"axis": 0})], TOKENS, {"c": noise(0, 3, 8)}, 17),
    "mean over no axes": ([("ReduceMean", ["x", "a"], "y", {"noop_with_empty_axes": 1})], TOKENS, {"a": []}, 18),
    "mean over no axes is one over all": ([("ReduceMean", ["x", "a"], "y", {})], TOKENS, {"a": []}, 18),
    "padding of some axes": ([("Pad", ["x", "p", "", "a"], "y", {})], TOKENS, {"p": [1, 0, 0, 2], "a": [-1, 1]}, 18),
    "softmax over the last axes": ([("Softmax", ["x"], "y", {"axis": 1})], TOKENS, {}, 12),
    "softmax by the old default": ([("Softmax", ["x"], "y", {})], TOKENS, {}, 12),
    "a part of a shape": (
        [("Shape", ["x"], "s", {"start": 1}), ("Concat", ["m", "s"], "d", {"axis": 0}),
         ("Reshape", ["x", "d"], "y", {})], TOKENS, {"m": [-1]}, 17),
    "one number": ([("Exp", ["x"], "e", {}), ("Add", ["e", "c"], "y", {})], [], {"c": noise(3)}, 17),
    "pointwise, padded below and right": ([("Conv", ["x", "w"], "y", {"pads": [0, 0, 1, 2]})], ONE_IMAGE,
                                          {"w": noise(3, 4, 1, 1)}, 17),
    "a linear of one feature": ([("MatMul", ["x", "w"], "y", {})], [1, 3, 4, 1], {"w": noise(1, 5)}, 17),
    "a linear of repeated features": ([("Expand", ["x", "n"], "e", {}), ("MatMul", ["e", "w"], "y", {})], [1, 3, 4, 1],
                                      {"n": [1, 3, 4, 6], "w": noise(6, 5)}, 17),
    "a mean pooling of phases": (
        [("Conv", ["x", "w"], "a", {}), ("AveragePool", ["a"], "y", {"kernel_shape": [3, 3], "strides": [2, 2],
                                                                    "pads": [1, 1, 1, 1]})], [1, 2, 31, 40],
        {"w": noise(8, 2, 1, 1)}, 17),
    "a window that reads padding only": (
        [("Conv", ["x", "w", "b"], "a", {"pads": [1, 1, 1, 1], "dilations": [2, 2]}), ("Add", ["x", "a"], "y", {})],
        [1, 2, 1, 1], {"w": noise(2, 2, 2, 2), "b": noise(2)}, 17),
    **{f"a mean without padding, rounded up, {name}": (
        [("AveragePool", ["x"], "y", {"kernel_shape": [2, 3], "strides": [3, 4], "ceil_mode": 1, "count_include_pad": 1,
                                      **attrs})], [1, 2, 4, 5], {}, 19)
       for name, attrs in (("VALID", {"auto_pad": "VALID"}), ("no pads", {"pads": [0, 0, 0, 0]}))},
    "a mean of the same size": ([("AveragePool", ["x"], "y", {"kernel_shape": [3, 2], "strides": [2, 2],
                                                              "auto_pad": "SAME_LOWER"})], ONE_IMAGE, {}, 19),
}


@pytest.mark.parametrize("case", RIGHT)
def test_it_is_right(case, tmp_path):
    nodes, shape, constants, opset = RIGHT[case]
    constants = {k: np.asarray(v, np.int64) if isinstance(v, list) else v for k, v in constants.items()}
    assert_same(make_onnx(nodes, {"x": shape}, constants, opset), tmp_path)


@needs_runtime
def test_infinities_pass_a_prelu(tmp_path):
    model = make_onnx([("PRelu", ["x", "s"], "y", {})], {"x": [1, 2, 1, 2]}, {"s": np.float32([0, 2]).reshape(2, 1, 1)})
    (tmp_path / "m.mmrt").write_bytes(pack(model))
    x = np.float32([np.inf, -3, np.inf, -np.inf]).reshape(1, 2, 1, 2)
    got, = load_runtime().Model(str(tmp_path / "m.mmrt"))(x)
    assert got.reshape(-1).tolist() == [np.inf, 0, np.inf, -np.inf]


# ---- refused -----------------------------------------------------------------------------------------------------

ONE = np.ones(4, np.float32)
REFUSED = {  # nodes, shape of x, constants, opset, what the sentence says
    "dropout in training": ([("Dropout", ["x", "r", "t"], "y", {})], TOKENS,
                            {"r": np.float32(0.5), "t": np.array(True)}, 17, "Dropout_y.*training mode"),
    "a volume": ([("Conv", ["x", "w"], "y", {})], [1, 4, 3, 3, 3], {"w": noise(4, 4, 1, 1, 1)}, 17,
                 r"Conv_y.*images \(N, C, H, W\) and lines"),
    "steps back": ([("Slice", ["x", "e", "s", "a", "b"], "y", {})], TOKENS,
                   {"e": [-1], "s": [-9], "a": [2], "b": [-1]}, 17, "step -1"),
    "reflection beyond the other edge": ([("Pad", ["x", "p"], "y", {"mode": "reflect"})], TOKENS,
                                         {"p": [0, 3, 0, 0, 0, 0]}, 17, "reflects 3 elements of an axis of length 3"),
    "reflection of what is cut": ([("Pad", ["x", "p"], "y", {"mode": "reflect"})], TOKENS, {"p": [0, 0, 2, 0, 0, -1]},
                                  17, "negative padding in the mode reflect"),
    "cubic to one element": ([("Resize", ["x", "", "", "s"], "y", {"mode": "cubic"})], ONE_IMAGE, {"s": [1, 4, 1, 4]},
                             17, "one element of the 4 of axis 2"),
    "sums of one tensor alone": ([("Einsum", ["x", "x"], "y", {"equation": "abc,adc->ac"})], TOKENS, {}, 17,
                                 "sums over b of one tensor alone"),
    "windows of another number": ([("Col2Im", ["x", "i", "k"], "y", {})], [1, 18, 16], {"i": [5, 6], "k": [3, 2]}, 18,
                                  "16 windows, but 3 x 5"),
    "written twice": ([("ScatterND", ["x", "i", "u"], "y", {})], TOKENS, {"i": np.array([[0, 1], [1, 1], [0, 1]]),
                                                                         "u": noise(3, 8)}, 17, "an element twice"),
    "added to a box": ([("ScatterND", ["x", "i", "u"], "y", {"reduction": "add"})], TOKENS,
                       {"i": np.array([[0]]), "u": noise(1, 3, 8)}, 17, "reduction is add"),
    "a diagonal": ([("Einsum", ["x"], "y", {"equation": "aac->ac"})], [3, 3, 4], {}, 17, "equation is aac->ac"),
    "a part, resized": ([("Resize", ["x", "r", "s"], "y", {"coordinate_transformation_mode": "tf_crop_and_resize"})],
                        ONE_IMAGE, {"r": np.float32([0, 0, 0, 0, 1, 1, 1, 1]), "s": np.float32([1, 1, 2, 2])}, 17,
                        "cuts out a part"),
    "a window that starts behind": (
        [("MaxPool", ["x"], "y", {"kernel_shape": [1, 1], "strides": [2, 2], "ceil_mode": 1})], ONE_IMAGE, {}, 17,
        "MaxPool_y.*ceil_mode"),
    "a large window": ([("AveragePool", ["x"], "y", {"kernel_shape": [5, 5], "strides": [5, 5]})], ONE_IMAGE, {}, 17,
                       "5 x 5 is larger than its input"),
    "no elements": ([("Slice", ["x", "z", "z"], "y", {})], TOKENS, {"z": [0]}, 17, r"shape of y is \(0, 3, 8\)"),
    "weights that are computed": ([("Gemm", ["x", "x"], "y", {"transB": 1})], [3, 4], {}, 17, "is computed"),
    "random numbers": ([("RandomUniform", [], "r", {"shape": [8]}), ("Add", ["x", "r"], "y", {})], TOKENS, {}, 17,
                       "operator RandomUniform"),
    "no input is read": ([("Neg", ["c"], "y", {})], TOKENS, {"c": ONE}, 17, "y, which does not depend on an input"),
    "another kind of number": ([("Pow", ["c", "x"], "y", {})], TOKENS, {"c": [2]}, 17, "Pow_y.*int64"),
    "rows of padding": ([("AveragePool", ["x"], "y", {"kernel_shape": [1, 3], "strides": [2, 3], "ceil_mode": 1,
                                                      "auto_pad": "SAME_LOWER"})], [1, 1, 8, 1], {}, 17,
                        "AveragePool_y.*SAME_LOWER with ceil_mode and strides"),
    "padding only at an edge": ([("MaxPool", ["x"], "y", {"kernel_shape": [1, 1], "pads": [1, 1, 0, 0]})], ONE_IMAGE,
                                {}, 17, "1 x 1 reads only padding at some"),
    "a pooling of nothing": ([("MaxPool", ["x"], "y", {"kernel_shape": [0, 2]})], ONE_IMAGE, {}, 17,
                             r"kernel_shape are \[0, 2\]"),
}
SAME = {"kernel_shape": [2, 2], "strides": [1, 2], "auto_pad": "SAME_UPPER"}
REFUSED |= {f"{op}, the same size, {why}": ([(op, ["x"], "y", SAME | attrs)], ONE_IMAGE, {}, 19, f"{op}_y.*with {why}")
            for op in ("MaxPool", "AveragePool") for why, attrs in (
                ("dilations", {"dilations": [1, 2]}), ("ceil_mode", {"ceil_mode": 1}),
                ("strides .* larger than its window", {"strides": [1, 3]}))}
WEIGHTS = (4, 3, 3, 3)
PRODUCTS = {  # operator, attributes, shape of the weights, what the sentence says
    "size said twice": ("ConvTranspose", {"auto_pad": "VALID", "strides": [2, 2], "output_shape": [10, 14]}, WEIGHTS,
                        "auto_pad VALID"),
    "padding said twice": ("ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [2, 2], "output_padding": [0, 1]},
                           WEIGHTS, "auto_pad SAME_UPPER"),
    "much padding of the output": ("ConvTranspose", {"strides": [2, 2], "output_padding": [3, 0]}, WEIGHTS,
                                   r"output_padding \[3, 0\] must be smaller than its strides \[2, 2\]"),
    "padded below zero": ("ConvTranspose", {"pads": [4, 0, 4, 0]}, WEIGHTS, r"shape of y is \(1, 3, -2, 8\)"),
    "cut below zero": ("ConvTranspose", {"pads": [-1, 0, 0, 0]}, WEIGHTS, r"pads are \[-1, 0, 0, 0\]"),
    "transposed, other channels": ("ConvTranspose", {}, (3, 4, 3, 3), "for 3 channels"),
    "transposed, groups": ("ConvTranspose", {"group": 3}, WEIGHTS, "4 inputs do not divide into 3 groups"),
    "transposed, another kernel": ("ConvTranspose", {"kernel_shape": [2, 2]}, WEIGHTS, r"kernel_shape is \[2, 2\]"),
    "other channels": ("Conv", {}, WEIGHTS, "for 3 channels.* has 4"),
    "other channels in groups": ("Conv", {"group": 2}, (4, 4, 3, 3), "in 2 groups are for 8 channels"),
    "groups": ("Conv", {"group": 2}, (3, 2, 3, 3), "3 outputs do not divide into 2 groups"),
    "no groups": ("Conv", {"group": 0}, WEIGHTS, "in 0 groups"),
    "another kernel": ("Conv", {"kernel_shape": [1, 1]}, (3, 4, 3, 3), r"kernel_shape is \[1, 1\]"),
    "cut": ("Conv", {"pads": [0, -1, 0, 0]}, (3, 4, 3, 3), r"pads are \[0, -1, 0, 0\]"),
    "no stride": ("Conv", {"strides": [0, 1]}, (3, 4, 3, 3), r"strides are \[0, 1\]"),
    "no dilation": ("Conv", {"dilations": [1, 0]}, (3, 4, 3, 3), r"dilations are \[1, 0\]"),
}
REFUSED |= {f"{op}, {case}": ([(op, ["x", "w"], "y", attrs)], ONE_IMAGE, {"w": noise(*weight)}, 17, sentence)
            for case, (op, attrs, weight, sentence) in PRODUCTS.items()}
REFUSED["a bias of another size"] = ([("Conv", ["x", "w", "b"], "y", {})], ONE_IMAGE,
                                     {"w": noise(3, 4, 3, 3), "b": noise(4)}, 17, r"bias has the shape \(4,\)")


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_a_sentence(case):
    nodes, shape, constants, opset, sentence = REFUSED[case]
    constants = {k: np.asarray(v, np.int64) if isinstance(v, list) else v for k, v in constants.items()}
    with pytest.raises(ExportError, match=rf"{sentence}.*use ONNX Runtime or OpenVINO"):
        pack(make_onnx(nodes, {"x": shape}, constants, opset))


def relu(kind=TensorProto.FLOAT, shape=(1, 3), opset=17, domain=""):
    node = helper.make_node("Relu", ["x"], ["y"], "act", domain=domain)
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    return helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), ir_version=8,
                             opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"opset": OPSETS.start - 1}, "opsets 11 to .* has 10"), ({"opset": OPSETS.stop}, "operators may be defined"),
    ({"kind": TensorProto.INT64}, "input x is int64"), ({"kind": TensorProto.FLOAT16}, "input x is float16"),
    ({"shape": ("batch", 3)}, "static shapes, but that of x is unknown"),
    ({"shape": (1,) * 9}, "1 to 8 axes"), ({"domain": "com.microsoft"}, r"com\.microsoft\.Relu \(node act\)")])
def test_a_model_is_refused_with_a_sentence(arguments, sentence):
    with pytest.raises(ExportError, match=sentence):
        read_graph(relu(**arguments))
    read_graph(relu())


def test_a_part_without_a_name_is_refused():
    node = helper.make_node("Split", ["x"], ["", "y"], "parts", axis=1)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, size)) for name, size in (("x", 4), ("y", 2))]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), ir_version=8,
                              opset_imports=[helper.make_opsetid("", 13)])
    with pytest.raises(ExportError, match=r"Split \(node parts\): its output 0 has no name"):
        pack(model)


def test_statistics_that_are_read_are_refused():
    """A second output is no obstacle where nothing reads it."""
    node = helper.make_node("LayerNormalization", ["x", "g"], ["y", "mean"], "norm")
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in (("x", (2, 4)), ("y", (2, 4)), ("mean", (2, 1)))}
    for outputs in (["y"], ["y", "mean"], ["mean"]):
        graph = helper.make_graph([node], "g", [ends["x"]], [ends[name] for name in outputs],
                                  [numpy_helper.from_array(ONE, "g")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        if "mean" in outputs:
            with pytest.raises(ExportError, match=r"LayerNormalization.*norm.*its output mean is used"):
                pack(model)
        else:
            pack(model)


def test_statistics_of_each_batch_are_refused():
    node = helper.make_node("BatchNormalization", ["x", "c", "c", "c", "c"], ["y", "mean", "var"], "norm",
                            training_mode=1)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4, 2, 2)) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(ONE, "c")])
    with pytest.raises(ExportError, match=r"BatchNormalization.*norm.*training mode.*evaluation mode"):
        pack(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_a_node_that_is_not_as_onnx_defines_it_is_named():
    model = make_onnx([("Concat", ["x", "x"], "y", {"axis": 1})], {"x": TOKENS}, {})
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.append(helper.make_attribute("axis", "last"))
    with pytest.raises(ExportError, match=r"Concat.*Concat_y|onnx cannot read") as caught:
        pack(model)
    assert caught.value.__cause__ is not None, "the fault itself can be read"


def test_graphs_inside_nodes_are_refused():
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["inner"])], "branch", [],
                               [helper.make_tensor_value_info("inner", TensorProto.FLOAT, (1, 3))])
    model = relu()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "cond"))
    model.graph.node.insert(0, helper.make_node("If", ["cond"], ["z"], "choice", then_branch=branch,
                                                else_branch=branch))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 3)))
    with pytest.raises(ExportError, match=r"operator If \(node choice\)"):
        read_graph(onnx.shape_inference.infer_shapes(model))


# ---- zeros -------------------------------------------------------------------------------------------------------


class Corner(nn.Module):
    """Of the second convolution's taps only the last two rows and columns read its 2 x 2 image; others read padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(n, 8, 3, stride=2, padding=1) for n in (3, 8))
        self.up, self.fc = nn.ConvTranspose2d(8, 4, 3, stride=2), nn.Linear(4, 5)
        self.second.weight.data[:, :, 0] = 0
        self.second.weight.data[..., 0] = 0
        self.up.weight.data[:, ::2] = 0

    def forward(self, x):
        return self.fc(self.up(self.second(self.first(x).relu()).relu()).mean((2, 3)))


@needs_runtime
def test_weights_that_only_padding_meets_are_not_missed(tmp_path):
    """ResNets at 32 px end in images of one pixel: of 3 x 3 taps the file has one, with zeros of its own share."""
    torch.manual_seed(0)
    model = Corner().eval()
    images = np.zeros((2, 3, 4, 4), np.float32)
    layers = find_layers(model, (1, 3, 4, 4))
    variant = Variant("v0", "uniform", "magnitude", "unstructured", "quick", 0, {}, 0.5, 0.0, 0.0)
    given = ExportInput(variant, model, tmp_path, layers, images, np.zeros(2, np.int64))
    sparsity = export_one(given, "mmrt", "fp32").layer_sparsity
    assert sparsity["second.weight"] == pytest.approx(5 / 9)
    assert sparsity.get("up.weight", 0.5) == pytest.approx(0.5)
    nodes = fuse(read_graph(onnx.load(next(tmp_path.glob("**/*.onnx"))))).nodes
    phases = [node for node in nodes if node.op == "conv" and node.output.rpartition("#")[2].count(",") == 1]
    assert len(phases) == 4 and sum(node["weight"].size for node in phases) == 8 * 4 * 9
