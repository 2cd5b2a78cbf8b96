"""The .mmrt exporter against ONNX Runtime: by the numpy interpreter of the plan, and by the library if it is built."""

import lzma
import struct

import numpy as np
import onnx
import pytest
from mmrt_answers import RNG, assert_same, make_onnx, noise
from onnx import numpy_helper
from timm_families import FAMILIES, make_model, some_slow

from exporters import ExportError, to_mmrt, to_onnx
from exporters.export_input import ExportInput
from exporters.mmrt import download as mmrt_download
from exporters.mmrt.file import Data, add_weights
from exporters.mmrt.graph import Window
from exporters.mmrt.layout import View, arrange, cut, expand, grid, repeats, reshape, row_stride, segments, transpose
from exporters.mmrt.read_moves import grid_of
from exporters.mmrt.windows import find_taps, least_pitch, reach
from mmprune.records import Variant

# ---- families ----------------------------------------------------------------------------------------------------


def densified(model):
    """The same model without a zero in its weights."""
    dense = onnx.ModelProto()
    dense.CopyFrom(model)
    for initializer in dense.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.ndim >= 2 and array.dtype == np.float32:
            small = RNG.standard_normal(array.shape, np.float32) * np.float32(0.3 * array.std())
            initializer.CopyFrom(numpy_helper.from_array(np.where(array == 0, small, array), initializer.name))
    return dense


@pytest.mark.parametrize("name", some_slow(FAMILIES))
def test_family(name, tmp_path, monkeypatch):
    size, arguments = FAMILIES[name]
    images = np.zeros((1, 3, size, size), np.float32)
    variant = Variant("v0", "uniform", "magnitude", "unstructured", "quick", 0, {}, 0.9, 0.0, 0.0)
    given = ExportInput(variant, make_model(name, 0.9, **arguments), tmp_path, (), images, np.zeros(1, np.int64))
    model, notes = to_onnx.simplify(to_onnx.convert(given))
    assert not notes
    assert_same(model, tmp_path)
    assert_same(densified(model), tmp_path)
    assert_same(model, tmp_path, "fp16", 2e-2)


# ---- one operator at a time --------------------------------------------------------------------------------------


CONVOLUTIONS = {  # image (C, H, W), outputs, kernel, attributes
    "pointwise": ((5, 6, 7), 4, (1, 1), {}),
    "same": ((5, 6, 7), 4, (3, 3), {"pads": [1, 1, 1, 1]}),
    "valid": ((5, 6, 7), 4, (3, 3), {}),
    "wide": ((3, 9, 20), 4, (7, 7), {"pads": [3, 3, 3, 3]}),
    "flat": ((3, 9, 20), 4, (1, 5), {"pads": [0, 2, 0, 2]}),
    "kernel larger than the image": ((3, 2, 3), 4, (7, 7), {"pads": [3, 3, 3, 3]}),
    "stride": ((5, 8, 10), 4, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "stride, odd": ((5, 7, 9), 4, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "stride, padded below": ((5, 8, 8), 4, (3, 3), {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    "stride 3": ((5, 11, 13), 4, (5, 5), {"strides": [3, 3], "pads": [2, 2, 2, 2]}),
    "stride of one axis": ((5, 8, 8), 4, (3, 3), {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
    "pointwise with stride": ((5, 8, 9), 4, (1, 1), {"strides": [2, 2]}),
    "patches": ((3, 8, 12), 4, (4, 4), {"strides": [4, 4]}),
    "patches and a rest": ((3, 9, 13), 4, (4, 4), {"strides": [4, 4]}),
    "patches, padded below": ((3, 7, 3), 4, (2, 3), {"strides": [2, 3], "pads": [0, 0, 1, 0]}),
    "dilation": ((4, 9, 9), 4, (3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "dilation and stride": ((4, 9, 9), 4, (3, 3), {"dilations": [3, 3], "strides": [2, 2], "pads": [3, 3, 3, 3]}),
    "auto pad": ((4, 9, 8), 4, (3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "groups": ((6, 7, 7), 4, (3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "groups with stride": ((6, 8, 8), 6, (3, 3), {"group": 3, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "depthwise": ((6, 7, 7), 6, (3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise with stride": ((6, 8, 8), 6, (5, 5), {"group": 6, "strides": [2, 2], "pads": [2, 2, 2, 2]}),
    "depthwise times two": ((4, 7, 7), 8, (3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "whole image": ((5, 4, 6), 3, (4, 6), {}),
    "whole image, padded": ((5, 1, 2), 3, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "whole image, depthwise": ((5, 2, 2), 5, (3, 3), {"group": 5, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "one pixel": ((5, 1, 1), 3, (1, 1), {}),
    "one line": ((5, 1, 9), 3, (3, 3), {"pads": [1, 1, 1, 1]}),
    "one column": ((5, 9, 1), 3, (3, 3), {"pads": [1, 1, 1, 1]}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case, tmp_path):
    image, outs, kernel, attrs = CONVOLUTIONS[case]
    w = noise(outs, image[0] // attrs.get("group", 1), *kernel)
    w[np.abs(w) < 0.5] = 0
    nodes = [("Relu", ["x"], "r", {}),  # so that what is read is not the input, whose surroundings are never written
             ("Conv", ["r", "w", "b"], "y", {**attrs, "kernel_shape": kernel})]
    assert_same(make_onnx(nodes, {"x": [1, *image]}, {"w": w, "b": noise(outs)}), tmp_path)


POOLS = {
    "max": ("MaxPool", (3, 9, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max in place": ("MaxPool", (3, 5, 6), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "max, rounded up": ("MaxPool", (3, 8, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "mean": ("AveragePool", (3, 8, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "mean without padding": ("AveragePool", (3, 7, 7), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "mean with padding": ("AveragePool", (3, 7, 7),
                          {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "mean, rounded up": ("AveragePool", (3, 7, 7), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    "mean of all": ("AveragePool", (3, 4, 4), {"kernel_shape": [4, 4]}),
    "global mean": ("GlobalAveragePool", (3, 4, 5), {}),
    "global max": ("GlobalMaxPool", (3, 4, 5), {}),
}


@pytest.mark.parametrize("case", POOLS)
def test_pool(case, tmp_path):
    op, image, attrs = POOLS[case]
    assert_same(make_onnx([("Neg", ["x"], "n", {}), (op, ["n"], "y", attrs)], {"x": [1, *image]}, {}), tmp_path)


def test_a_halo_for_each_reader(tmp_path):
    """One tensor read by a convolution (zeros around it) and by a max pooling (-inf around it), and again."""
    nodes = [("Conv", ["x", "w"], "a", {"pads": [1, 1, 1, 1]}),
             ("MaxPool", ["a"], "p", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
             ("Conv", ["a", "w"], "c", {"pads": [1, 1, 1, 1]}), ("Add", ["p", "c"], "s", {}),
             ("Add", ["s", "a"], "y", {})]
    assert_same(make_onnx(nodes, {"x": [1, 4, 5, 6]}, {"w": -np.abs(noise(4, 4, 3, 3))}), tmp_path)


GRAPHS = {
    "two constants": ([("Mul", ["x", "a"], "m", {}), ("Sub", ["b", "m"], "y", {})], [1, 3, 4, 5],
                      {"a": noise(3, 1, 1), "b": noise(1, 3, 4, 5)}),
    "broadcast both ways": ([("ReduceMean", ["x"], "m", {"axes": [2], "keepdims": 1}), ("Div", ["x", "m"], "y", {})],
                            [1, 3, 4, 5], {}),
    "softmax over channels": ([("Softmax", ["x"], "y", {"axis": 1})], [1, 3, 4, 5], {}),
    "roll": ([("Slice", ["x", "two", "end", "ax"], "a", {}), ("Slice", ["x", "zero", "two", "ax"], "b", {}),
              ("Concat", ["a", "b"], "y", {"axis": 2})], [1, 3, 4, 5],
             {"zero": [0], "two": [2], "end": [2**31], "ax": [2]}),
    "gather": ([("Gather", ["x", "i"], "y", {"axis": 1})], [1, 6, 4], {"i": [3, 4, 0, 5]}),
    "gather one": ([("Gather", ["x", "i"], "y", {"axis": 1})], [1, 6, 4], {"i": np.int64(-1)}),
    "pad": ([("Pad", ["x", "p", "v"], "y", {})], [1, 3, 4, 5], {"p": [0, 0, 1, 2, 0, 0, 3, 0], "v": np.float32(2)}),
    "pad of a convolution": ([("Pad", ["x", "p"], "a", {}), ("Conv", ["a", "w"], "y", {"strides": [2, 2]})],
                             [1, 3, 6, 6], {"p": [0, 0, 0, 0, 0, 0, 1, 1], "w": noise(4, 3, 3, 3)}),
    "gelu": ([("Div", ["x", "r"], "a", {}), ("Erf", ["a"], "b", {}), ("Add", ["b", "one"], "c", {}),
              ("Mul", ["x", "c"], "d", {}), ("Mul", ["d", "h"], "y", {})], [2, 3, 4],
             {"r": np.float32(2**0.5), "one": np.float32(1), "h": np.float32(0.5)}),
    "power": ([("Abs", ["x"], "a", {}), ("Pow", ["a", "p"], "y", {})], [2, 3, 4], {"p": np.float32(1.7)}),
    "square": ([("Pow", ["x", "p"], "y", {})], [2, 3, 4], {"p": np.float32(2)}),
    "group norm": ([("Reshape", ["x", "rows"], "r", {}), ("InstanceNormalization", ["r", "g", "b"], "y", {})],
                   [1, 6, 4, 5], {"rows": [1, 2, -1], "g": noise(2), "b": noise(2)}),
    "tokens first": ([("MatMul", ["x", "w"], "h", {}), ("Relu", ["h"], "r", {}), ("MatMul", ["r", "v"], "a", {}),
                      ("Add", ["a", "x"], "y", {})], [1, 9, 8], {"w": noise(8, 20), "v": noise(20, 8)}),
    "products": ([("Transpose", ["x"], "t", {"perm": [0, 2, 1]}), ("MatMul", ["x", "t"], "p", {}),
                  ("MatMul", ["p", "x"], "y", {})], [2, 5, 7], {}),
    "product with a constant": ([("MatMul", ["c", "x"], "a", {}), ("MatMul", ["a", "d"], "y", {})], [2, 5, 7],
                                {"c": noise(3, 5), "d": noise(2, 7, 4)}),
    "dense block": ([("Relu", ["x"], "a", {}), ("Conv", ["a", "w"], "b", {}), ("Concat", ["a", "b"], "c", {"axis": 1}),
                     ("Conv", ["c", "v"], "d", {}), ("Concat", ["a", "b", "d"], "e", {"axis": 1}),
                     ("Sigmoid", ["e"], "y", {})], [1, 3, 4, 5], {"w": noise(2, 3, 1, 1), "v": noise(4, 5, 1, 1)}),
    "the input is the output": ([("Identity", ["x"], "y", {})], [1, 3, 4, 5], {}),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graph(case, tmp_path):
    nodes, shape, constants = GRAPHS[case]
    constants = {k: np.asarray(v, np.int64) if isinstance(v, list) else v for k, v in constants.items()}
    assert_same(make_onnx(nodes, {"x": shape}, constants), tmp_path)


def opcodes(program):
    return [op.opcode for op in program.ops]


def test_attention_is_all_views(tmp_path):
    """linear, split into q, k, v and heads, q k^T, softmax, times v, linear: only the token-first input is copied."""
    tokens, width, heads = 10, 12, 3
    nodes = [("MatMul", ["x", "w"], "qkv", {}), ("Reshape", ["qkv", "split"], "r", {}),
             ("Transpose", ["r"], "t", {"perm": [2, 0, 3, 1, 4]}),
             *[("Gather", ["t", f"i{k}"], "qkv"[k] + "_", {"axis": 0}) for k in range(3)],
             ("Transpose", ["k_"], "kt", {"perm": [0, 1, 3, 2]}), ("Mul", ["q_", "s"], "qs", {}),
             ("MatMul", ["qs", "kt"], "scores", {}), ("Softmax", ["scores"], "p", {"axis": -1}),
             ("MatMul", ["p", "v_"], "o", {}), ("Transpose", ["o"], "ot", {"perm": [0, 2, 1, 3]}),
             ("Reshape", ["ot", "join"], "j", {}), ("MatMul", ["j", "v"], "y", {})]
    model = make_onnx(nodes, {"x": [1, tokens, width]}, {
        "w": noise(width, 3 * width), "v": noise(width, width), "s": np.float32(0.5),
        "split": np.array([1, tokens, 3, heads, width // heads]), "join": np.array([1, tokens, width]),
        **{f"i{k}": np.int64(k) for k in range(3)}})
    assert opcodes(assert_same(model, tmp_path)) == [5, 1, 11, 9, 11, 1]


def test_a_convolution_that_widens_computes_the_phases_that_a_strided_one_reads(tmp_path):
    """3 channels are copied by phases, not the 8 computed from them; each of the 4 planes gets its halo."""
    nodes = [("Conv", ["x", "w"], "a", {}), ("Relu", ["a"], "b", {}),
             ("Conv", ["b", "v"], "y", {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 8})]
    model = make_onnx(nodes, {"x": [1, 3, 41, 44]}, {"w": noise(8, 3, 1, 1), "v": noise(8, 1, 3, 3)})
    program = assert_same(model, tmp_path)
    assert opcodes(program) == [5, 5, 5, 5, 1, 4, 4, 4, 4, 2]
    assert {op.fields["dst"].dims[0] for op in program.ops if op.opcode == 5} == {3}


def test_a_residual_block_is_its_convolutions(tmp_path):
    nodes = [("Conv", ["x", "w"], "a", {"pads": [1, 1, 1, 1]}), ("Relu", ["a"], "b", {}),
             ("Conv", ["b", "w"], "c", {"pads": [1, 1, 1, 1]}),
             ("BatchNormalization", ["c", "g", "h", "h", "v"], "d", {}), ("Add", ["d", "x"], "e", {}),
             ("Relu", ["e"], "y", {})]
    model = make_onnx(nodes, {"x": [1, 4, 6, 6]},
                      {"w": noise(4, 4, 3, 3), "g": noise(4), "h": noise(4), "v": np.ones(4, np.float32)})
    assert opcodes(assert_same(model, tmp_path)) == [4, 1, 4, 1]


def test_an_unknown_operator_is_named_with_what_to_use():
    model = make_onnx([("Det", ["x"], "y", {})], {"x": [2, 2]}, {})
    with pytest.raises(ExportError, match=r"Det.*Det_y.*ONNX Runtime or OpenVINO"):
        to_mmrt.pack(model)


# ---- layout ------------------------------------------------------------------------------------------------------


def as_array(view, size=400):
    data = np.arange(size)
    return np.lib.stride_tricks.as_strided(data[view.offset:], view.dims, [8 * s for s in view.strides])


def test_views_are_those_of_numpy():
    view = View(0, 3, (4, 6, 5), (30, 5, 1))
    array = as_array(view)
    assert (as_array(transpose(view, (2, 0, 1))) == array.transpose(2, 0, 1)).all()
    assert (as_array(cut(view, (1, 0, 2), (1, 2, 1), (2, 3, 3))) == array[1:3, ::2, 2:]).all()
    assert (as_array(reshape(view, (2, 2, 30))) == array.reshape(2, 2, 30)).all()
    assert reshape(transpose(view, (0, 2, 1)), (4, 30)) is None
    assert (as_array(expand(View(0, 0, (3, 1), (1, 7)), (2, 3, 4))) == np.arange(3)[:, None]).all()
    assert (as_array(grid(view, 1, 1, (2, 3), (2, 1))) == array[:, [[1, 2, 3], [3, 4, 5]]]).all()


def test_an_element_with_two_indices_is_found():
    view = View(0, 3, (4, 6, 5), (32, 5, 1))
    assert not any(repeats(v) for v in (view, transpose(view, (2, 0, 1)), grid(view, 1, 0, (3, 2), (2, 1)),
                                        View(0, 0, (4, 1), (1, 0))))
    assert repeats(expand(View(0, 0, (4, 1), (1, 0)), (4, 2)))
    assert repeats(grid(view, 1, 1, (2, 3), (2, 1)))


@pytest.mark.parametrize(("indices", "found"), [
    ([4], (4, (1,), (1,))), ([2, 3, 4], (2, (3,), (1,))), ([1, 1, 3, 3, 5, 5], (1, (3, 2), (2, 0))),
    ([0, 1, 2, 2, 3, 4], (0, (2, 3), (2, 1))), ([0, 0, 0], (0, (3,), (0,))),
    ([0, 1, 4, 5, 2, 3, 6, 7], (0, (2, 2, 2), (2, 4, 1))), ([3, 2, 1], None), ([0, 1, 3], None), ([0, 1, 0, 2], None)])
def test_indices_that_are_a_grid(indices, found):
    assert grid_of(np.array(indices)) == found


def test_windows_by_index_are_a_view(tmp_path):
    nodes = [("Gather", ["x", "i"], "g", {"axis": 2}), ("Reshape", ["g", "s"], "w", {}),
             ("MatMul", ["w", "m"], "y", {})]
    index = np.array([2 * k + j for k in range(4) for j in range(3)])
    model = make_onnx(nodes, {"x": [1, 2, 10]}, {"i": index, "s": np.array([1, 2, 4, 3]), "m": noise(3, 5)})
    assert opcodes(assert_same(model, tmp_path)).count(5) <= 1, "one copy at most"


def test_segments():
    assert segments((1, 8, 7, 96), (56, 3, 32)) == [([1, 2], [0]), ([3], [1, 2])]
    assert segments((4, 6), (8, 3)) == [([0, 1], [0, 1])]


def test_rows_are_an_odd_number_of_cache_lines():
    assert [row_stride(p) for p in (1, 2, 16, 17, 49, 3136)] == [1, 16, 16, 48, 80, 3152]
    assert row_stride(55, 9, 9) == 80  # 7 x 7 with pitch 8: 64 + 9 rounded up


def test_buffers_that_live_together_do_not_overlap():
    lives = [(int(a), int(a + n)) for a, n in zip(RNG.integers(0, 50, 80), RNG.integers(0, 9, 80), strict=True)]
    sizes = RNG.integers(1, 500, 80).tolist()
    offsets, total = arrange(sizes, lives)
    for i in range(80):
        assert offsets[i] % 16 == 0
        assert offsets[i] + sizes[i] <= total
        for j in range(i):
            together = lives[i][0] <= lives[j][1] and lives[j][0] <= lives[i][1]
            apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
            assert apart or not together
    assert total < sum(sizes) / 2


def test_taps_by_hand():
    """3 x 3, stride 2, padding 1, on 4 x 4: row -1 + k is line (-1, 0, 0) of phase (1, 0, 1)."""
    window = Window((3, 3), (2, 2), (1, 1), (1, 1))
    taps = find_taps(window, (4, 4), (2, 2))
    assert [(t.phase[0], t.shift[0]) for t in taps[::3]] == [(1, -1), (0, 0), (1, 0)]
    assert least_pitch(window, (4, 4), (2, 2)) == 3  # two columns and the zero at the left
    assert reach(window, (4, 4), (2, 2), 3) == (4, 0)


# ---- the file ----------------------------------------------------------------------------------------------------


def small_file(precision="fp32", channels=32):
    w = noise(channels, channels, 3, 3)
    w[np.abs(w) < 1.6] = 0
    model = make_onnx([("Conv", ["x", "w", "b"], "y", {"pads": [1, 1, 1, 1]})], {"x": [1, channels, 4, 4]},
                      {"w": w, "b": noise(channels)})
    return to_mmrt.pack(model, precision, {"variant": "v0"})


def test_weights_are_a_bitmask_where_that_is_smaller():
    w = np.zeros(64, np.float32)
    w[[0, 9]] = 1, 2
    data = Data()
    assert add_weights(data, w, "fp32") == (1, 0, 0, 2)
    assert data.blobs[0][:8] == bytes([1, 2, 0, 0, 0, 0, 0, 0])
    assert struct.unpack_from("<2f", data.blobs[0], 64) == (1, 2)
    assert add_weights(data, np.ones(64), "fp16") == (0, 1, 2, 64)
    assert add_weights(data, np.full(64, 1e6), "fp16")[1] == 0  # beyond float16: stays float32


@pytest.mark.parametrize("precision", to_mmrt.ORIGINS)
def test_the_download_is_the_file_and_smaller(precision):
    content = small_file(precision, 128)
    packed = mmrt_download.pack(content)
    assert mmrt_download.unpack(packed) == content
    assert len(packed) < 0.95 * len(lzma.compress(content))


def test_a_quick_look_packs_floats_as_well_as_a_long_one():
    rng = np.random.default_rng(0)
    floats = (rng.standard_normal(50_000) * np.repeat([0.2, 0.05, 0.02, 0.01, 0.01], 10_000)).astype(np.float32)
    exponents = mmrt_download._rotate(floats.tobytes(), 4, 31)[3::4]
    best = lzma.compress(exponents, lzma.FORMAT_XZ, lzma.CHECK_CRC32,
                         filters=[{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}])
    assert len(mmrt_download._compress(exponents)) <= 1.03 * len(best)


def test_a_damaged_download_is_refused():
    packed = mmrt_download.pack(small_file())
    for damaged in (packed[:-40], b"", lzma.compress(b"x" * 100), packed[:200] + b"\0" + packed[201:]):
        with pytest.raises(mmrt_download.DownloadError):
            mmrt_download.unpack(damaged)
    with pytest.raises(mmrt_download.DownloadError, match="larger"):
        mmrt_download.unpack(packed, limit=1000)
