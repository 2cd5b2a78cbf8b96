"""mmrt on uint8: the exported file answers what ONNX Runtime answers from the Q/DQ file, in the same steps."""

import io
import platform
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.mmrt import file as mmrt_file
from exporters.mmrt.fusion import fuse
from exporters.mmrt.int8_graph import quantized, uint8_tensors
from exporters.mmrt.int8_numbers import FOUR, stored_size
from exporters.mmrt.layout import View
from exporters.mmrt.lower import lower
from exporters.mmrt.read import read_graph
from exporters.to_mmrt import load_runtime, pack
from exporters.to_onnx import simplify
from mmprune.runtime_files import runtime_files

try:
    runtime_files()
except FileNotFoundError as err:
    pytest.skip(str(err), allow_module_level=True)

if platform.machine() != "x86_64":
    pytest.skip("ONNX Runtime rounds in other places on other processors", allow_module_level=True)


class Plain(nn.Module):
    """Odd channel counts, padding, strides, a residual, two pools, a linear layer: all of it is uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.one, self.two = nn.Conv2d(10, 13, 3, padding=1), nn.Conv2d(13, 10, 1)
        self.down = nn.Conv2d(10, 24, 5, stride=2, padding=2)
        self.fc = nn.Linear(24, 7)

    def forward(self, x):
        x = self.pool(self.stem(x).relu())
        x = (self.two(self.one(x).relu()) + x).relu()
        return self.fc(F.adaptive_avg_pool2d(F.relu6(self.down(x)), 1).flatten(1))


class Separable(nn.Module):
    """Depthwise convolutions, a grouped one, a concat, a gate, a mean summed in float: not all of it is uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.depth = nn.Conv2d(3, 18, 1), nn.Conv2d(18, 18, 3, padding=1, groups=18)
        self.narrow, self.grouped = nn.Conv2d(18, 16, 1), nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2)
        self.odd = nn.Conv2d(32, 12, 3, groups=4, padding=1)  # 3 outputs a group: stays in float
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.narrow(F.relu6(self.depth(F.relu6(self.wide(x)))))
        x = self.grouped(x)
        x = torch.cat([x, x.sigmoid() * x], 1)
        return self.fc(self.odd(x).relu().mean((2, 3)))


class Shortcuts(nn.Module):
    """Shortcuts that pad channels with zeros, as the residual networks for CIFAR have them."""

    def __init__(self, before: int = 4, cropped: int = 0) -> None:
        super().__init__()
        self.before, self.cropped = before, cropped
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        kept = x[:, self.cropped:, ::2, ::2]
        short = F.pad(kept, (0, 0, 0, 0, self.before, 16 - kept.shape[1] - self.before))
        return self.fc((self.two(self.one(x).relu()) + short).relu().mean((2, 3)))


def qdq(model: nn.Module, sparsity: float) -> onnx.ModelProto:
    """The Q/DQ file of the model, wholly zero 1x4 blocks in it."""
    torch.manual_seed(1)
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        nn.init.kaiming_normal_(layer.weight)
        if layer.weight.shape[1] < FOUR:
            continue
        layer.weight.data /= max(1 - sparsity, 0.1) ** 0.5  # so that what is left still tells images apart
        blocks = torch.rand(layer.weight.shape[0], -(-layer.weight.shape[1] // FOUR), *layer.weight.shape[2:])
        keep = (blocks >= sparsity).repeat_interleave(FOUR, 1)[:, :layer.weight.shape[1]]
        layer.weight.data *= keep
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), torch.zeros(1, 3, 21, 26), buffer, opset_version=17, dynamo=False,
                          input_names=["input"], output_names=["logits"])
    images = np.random.default_rng(0).standard_normal((16, 3, 21, 26), np.float32)
    return quantize_for_onnxruntime(simplify(onnx.load_from_string(buffer.getvalue()))[0], images)


@pytest.mark.parametrize("sparsity", [0.0, 0.8, 1.0])
@pytest.mark.parametrize(("model", "steps"), [(Plain, 0), (Separable, 1)], ids=["Plain", "Separable"])
def test_it_answers_in_onnx_runtime_s_steps(model, steps, sparsity, tmp_path):
    file = qdq(model(), sparsity)
    (tmp_path / "m.mmrt").write_bytes(pack(file, "int8"))
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    step = next(float(onnx.numpy_helper.to_array(i)) for i in file.graph.initializer if i.name == "logits_scale")
    one, three = (load_runtime().Model(str(tmp_path / "m.mmrt"), threads) for threads in (1, 3))
    answers = []
    for image in np.random.default_rng(7).standard_normal((8, 1, 3, 21, 26), np.float32):
        expected, got = session.run(None, {"input": image})[0], one(image)[0]
        assert np.abs(got - expected).max() <= (steps + 0.001) * step
        assert np.array_equal(got, three(image)[0]), "the same bits on any number of threads"
        answers.append(got)
    assert sparsity == 1 or np.std(answers, axis=0).max() > 2 * step, "the images are told apart"


def test_what_is_uint8_and_what_stays_in_float():
    graph = quantized(read_graph(qdq(Separable(), 0.5)))
    by_name = {node.name: node for node in graph.nodes if node.op in ("conv", "linear")}
    exact = {name for name, node in by_name.items() if "rounding" in node.attrs}
    assert exact == {"/wide/Conv", "/depth/Conv", "/narrow/Conv", "/grouped/Conv", "/fc/Gemm"}
    assert set(by_name) - exact == {"/odd/Conv"}
    words = {node.output: graph.shapes[node.output][1] for node in by_name.values()}
    assert words[by_name["/wide/Conv"].output] == 5, "18 channels are five words"
    assert words[by_name["/odd/Conv"].output] == 12, "floats are counted one by one"
    assert by_name["/depth/Conv"].output in uint8_tensors(graph)


@pytest.mark.parametrize(("before", "cropped", "in_words"), [(4, 0, True), (3, 0, True), (4, 4, True), (0, 3, False)])
def test_a_shortcut_with_channels_of_zeros_stays_in_words(before, cropped, in_words, tmp_path):
    file = qdq(Shortcuts(before, cropped), 0.5)
    graph = quantized(read_graph(file))
    assert [node.op for node in graph.nodes].count("pad") == 0
    assert [node.output in uint8_tensors(graph) for node in graph.nodes if node.op == "slice"] == [in_words]
    (tmp_path / "m.mmrt").write_bytes(pack(file, "int8"))
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(7).standard_normal((1, 3, 21, 26), np.float32)
    got, expected = load_runtime().Model(str(tmp_path / "m.mmrt"))(image)[0], session.run(None, {"input": image})[0]
    assert np.abs(got - expected).max() < 1e-6 and np.std(got) > 0


def test_a_sum_of_images_is_part_of_a_convolution():
    graph = quantized(read_graph(qdq(Plain(), 0.5)))
    merged, = (node for node in graph.nodes if "sum" in node.attrs)
    assert merged.op == "conv" and merged.name == "/two/Conv" and len(merged.inputs) == 2
    assert not [node for node in graph.nodes if node.op == "binary"]


def test_a_sum_takes_the_place_of_what_it_adds():
    plan = lower(fuse(quantized(read_graph(qdq(Plain(), 0.5)))), "int8")
    summed, = (op for op in plan.ops if op.name == "/two/Conv" and op.opcode == mmrt_file.QLINEAR)
    x, *others = (part for part in summed.payload if isinstance(part, View))
    assert others[0] == others[1] and x.buffer != others[0].buffer


def test_blocks_of_zeros_are_not_stored(tmp_path):
    sizes = [len(pack(qdq(Plain(), sparsity), "int8")) for sparsity in (0.0, 0.5, 1.0)]
    kept = [size - sizes[2] for size in sizes]
    assert 0.3 * kept[0] < kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize(("shape", "size"), [((10, 3, 3, 3), 12 * 4 * 9), ((7, 24), 8 * 24)])
def test_how_many_weights_a_layer_stores(shape, size):
    assert stored_size(shape) == size


def test_zeros_are_counted_in_the_file_that_the_runtime_loaded(tmp_path):
    file = qdq(Plain(), 0.5)
    path = tmp_path / "m.mmrt"
    path.write_bytes(pack(file, "int8"))
    steps = {s["name"]: s for s in load_runtime().Model(str(path), 1).profile(np.zeros((1, 3, 21, 26), np.float32))}
    weight = next(onnx.numpy_helper.to_array(i) for i in file.graph.initializer if tuple(i.dims) == (13, 10, 3, 3))
    step = steps["/one/Conv"]
    assert step["op"] == "QLINEAR"
    assert round(stored_size(weight.shape) * step["needed_macs"] / step["macs"]) == np.count_nonzero(weight)


class Narrowing(nn.Module):
    """A depthwise convolution whose output is one pixel, as ShViT's are at 64 px; six channels are two words."""

    def __init__(self, image: tuple[int, int]) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 6, 5, stride=(-(-21 // image[0]), -(-26 // image[1])), padding=2), nn.Conv2d(
            6, 5, 1)
        self.depth = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)

    def forward(self, x):
        return self.fc(self.depth(self.stem(x).relu()).relu()).flatten(1)


@pytest.mark.parametrize("image", [(1, 1), (2, 2), (1, 2), (2, 1)])
def test_a_depthwise_convolution_to_one_pixel(image, tmp_path):
    file = qdq(Narrowing(image), 0.0)
    (tmp_path / "m.mmrt").write_bytes(pack(file, "int8"))
    model = load_runtime().Model(str(tmp_path / "m.mmrt"))
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(7).standard_normal((4, 1, 3, 21, 26), np.float32)
    steps = {s["name"]: s for s in model.profile(images[0])}
    assert steps["/depth/Conv"]["op"] == "QLINEAR"
    for picture in images:
        assert np.array_equal(model(picture)[0], session.run(None, {"input": picture})[0])


class Lines(nn.Module):
    """Convolutions along one axis between those of images, and of images that are that axis."""

    def __init__(self, pixels) -> None:
        super().__init__()
        self.pixels, self.wide, self.along = pixels, nn.Conv2d(3, 27, 1), nn.Conv1d(27, 27, 3, padding=1)
        self.depth, self.alike = nn.Conv2d(27, 27, 3, padding=1, groups=27), nn.Conv2d(9, 9, 3, padding=1, groups=9)
        self.fc = nn.Linear(27, 5)

    def forward(self, x):
        x = self.wide(x)[..., :self.pixels, :self.pixels]
        x = self.depth(self.along(x.flatten(2)).reshape(x.shape))
        return self.fc(self.alike(x.reshape(3, 9, *x.shape[2:])).reshape(x.shape).mean((2, 3)))


@pytest.mark.parametrize("pixels", [1, 3])
def test_lines_and_several_images(pixels, tmp_path):
    file = qdq(Lines(pixels), 0.0)
    (tmp_path / "m.mmrt").write_bytes(pack(file, "int8"))
    model = load_runtime().Model(str(tmp_path / "m.mmrt"))
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    step = next(float(onnx.numpy_helper.to_array(i)) for i in file.graph.initializer if i.name == "logits_scale")
    for picture in np.random.default_rng(7).standard_normal((4, 1, 3, 21, 26), np.float32):
        assert np.abs(model(picture)[0] - session.run(None, {"input": picture})[0]).max() <= 1.001 * step


class Turned(nn.Module):
    """A linear layer over the columns of images, between convolutions: channels cannot be both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.columns, self.last = nn.Conv2d(3, 8, 3), nn.Linear(24, 12, bias=False), nn.Conv2d(8, 5, 3)
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        return self.fc(self.last(self.columns(self.first(x))).mean((2, 3)))


def test_a_linear_between_convolutions_stays_in_float(tmp_path):
    file = qdq(Turned(), 0.0)
    (tmp_path / "m.mmrt").write_bytes(pack(file, "int8"))
    model = load_runtime().Model(str(tmp_path / "m.mmrt"))
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    step = next(float(onnx.numpy_helper.to_array(i)) for i in file.graph.initializer if i.name == "logits_scale")
    images = np.random.default_rng(7).standard_normal((4, 1, 3, 21, 26), np.float32)
    assert {s["op"] for s in model.profile(images[0])} >= {"QLINEAR", "LINEAR"}
    for picture in images:
        assert np.abs(model(picture)[0] - session.run(None, {"input": picture})[0]).max() <= 1.001 * step


class Responding(nn.Module):
    """ConvNeXt V2's global response normalization, whose gain and shift are constants of bytes with a zero point."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.fc = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1), nn.Linear(8, 5)
        self.gain, self.shift = (nn.Parameter(torch.randn(1, 16, 1, 1) + 0.5) for _ in range(2))

    def forward(self, x):
        x = F.gelu(self.wide(x))
        norm = x.norm(p=2, dim=(2, 3), keepdim=True)
        x = x + self.gain * (x * (norm / (norm.mean(1, keepdim=True) + 1e-6))) + self.shift
        return self.fc(self.narrow(x).mean((2, 3)))


def test_constants_with_a_zero_point(tmp_path):
    file = qdq(Responding(), 0.0)
    zeros = [onnx.numpy_helper.to_array(i) for i in file.graph.initializer if i.name.endswith("_zero_point")]
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in file.graph.initializer}
    shifted = [n for n in file.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in arrays and
               arrays[n.input[0]].size > 1 and arrays[n.input[2]].any()]
    assert zeros and shifted, "or this tests nothing"
    (tmp_path / "m.mmrt").write_bytes(pack(file, "int8"))
    model = load_runtime().Model(str(tmp_path / "m.mmrt"))
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    step = float(arrays["logits_scale"])
    for picture in np.random.default_rng(7).standard_normal((4, 1, 3, 21, 26), np.float32):
        assert np.abs(model(picture)[0] - session.run(None, {"input": picture})[0]).max() <= 1.001 * step


def test_a_gemm_times_a_number_is_not_taken_for_its_integers(tmp_path):
    file = qdq(Plain(), 0.0)
    gemm = next(node for node in file.graph.node if node.op_type == "Gemm")
    next(part for part in gemm.attribute if part.name == "alpha").f = 0.5
    (tmp_path / "m.mmrt").write_bytes(pack(file, "int8"))
    model = load_runtime().Model(str(tmp_path / "m.mmrt"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    step = next(float(onnx.numpy_helper.to_array(i)) for i in file.graph.initializer if i.name == "logits_scale")
    for picture in np.random.default_rng(7).standard_normal((4, 1, 3, 21, 26), np.float32):
        assert np.abs(model(picture)[0] - session.run(None, {"input": picture})[0]).max() <= 1.001 * step
