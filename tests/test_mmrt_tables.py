"""Functions of single bytes as tables, and tensors that are rounded where they lie."""

import io
import platform
import re
import warnings
from pathlib import Path

import mmrt_reference
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.mmrt import file as mmrt_file
from exporters.mmrt.graph import Graph, Node
from exporters.mmrt.int8_graph import quantized
from exporters.mmrt.int8_tables import ACTS, FUNCTIONS, quantized_bytes, rounded_in_place, with_tables
from exporters.mmrt.plan_words import SLACK
from exporters.mmrt.read import read_graph
from exporters.to_mmrt import load_runtime, pack
from exporters.to_onnx import simplify
from mmprune.qat import LARGEST_WEIGHT
from mmprune.runtime_files import runtime_files

NO_ACT = ("none", 0.0, 0.0)
ZERO, SCALE = 100, 0.05


def graph_of(*nodes: Node, shape: tuple[int, ...] = (2, 8), **constants: np.ndarray) -> Graph:
    """uint8 "q" -> "x" in float -> nodes -> "y" -> uint8 "out" -> a linear, which is not looked at."""
    ends = {"scale": SCALE, "zero": ZERO}
    whole = (Node("quantize", "first", ("image",), "q", ends), Node("dequantize", "up", ("q",), "x", ends), *nodes,
             Node("quantize", "down", ("y",), "out", ends), Node("linear", "l", ("out",), "result", {}))
    shapes = {name: shape for node in whole for name in (*node.inputs, node.output)}
    return Graph(whole, constants, shapes, ("image",), ("result",))


def tables_of(graph: Graph) -> dict[str, np.ndarray]:
    axes = {name: len(shape) - 1 for name, shape in graph.shapes.items()}
    return {node.output: node["table"] for node in with_tables(graph, axes).nodes if node.op == "qtable"}


def unary(source: str, to: str, act: tuple[str, float, float]) -> Node:
    return Node("unary", to, (source,), to, {"act": act})


def binary(fn: str, a: str, b: str, to: str) -> Node:
    return Node("binary", to, (a, b), to, {"fn": fn, "act": NO_ACT})


def test_gelu_in_five_nodes_is_one_table():
    root, one, half = (np.float32(v).reshape(()) for v in (2**0.5, 1, 0.5))
    graph = graph_of(binary("div", "x", "root", "a"), unary("a", "b", ("erf", 0.0, 0.0)),
                     binary("add", "b", "one", "c"), binary("mul", "x", "c", "d"),
                     binary("mul", "d", "half", "y"), root=root, one=one, half=half)
    table = tables_of(graph)["out"]
    x = torch.arange(256).sub(ZERO) * SCALE
    expected = (F.gelu(x) / SCALE).round().add(ZERO).clamp(0, 255)
    assert np.abs(table - expected.numpy()).max() == 0


def test_a_table_of_a_table_reads_the_first_tensor():
    gate = Node("quantize", "gate", ("s",), "g", {"scale": 1 / 255, "zero": 0})
    up = Node("dequantize", "gate up", ("g",), "t", {"scale": 1 / 255, "zero": 0})
    graph = graph_of(unary("x", "s", ("sigmoid", 0.0, 0.0)), gate, up, binary("mul", "x", "t", "y"))
    nodes = with_tables(graph, dict.fromkeys(graph.shapes, 1)).nodes
    assert [node.op for node in nodes] == ["quantize", "qtable", "linear"] and nodes[1].inputs == ("q",)
    x = (np.arange(256) - ZERO) * np.float32(SCALE)
    gates = np.rint(255 / (1 + np.exp(-x))) / 255
    assert np.abs(nodes[1]["table"] - np.clip(np.rint(x * gates / SCALE) + ZERO, 0, 255)).max() <= 1


def test_what_looks_at_more_than_one_number_is_no_table():
    per_channel, one = np.ones((8,), np.float32), np.float32(1).reshape(())
    assert not tables_of(graph_of(binary("add", "x", "bias", "y"), bias=per_channel))
    assert not tables_of(graph_of(Node("softmax", "s", ("x",), "y", {"axis": 1})))
    other = Node("dequantize", "other", ("q2",), "z", {"scale": 1.0, "zero": 0})
    assert not tables_of(graph_of(other, binary("add", "x", "z", "y")))
    assert tables_of(graph_of(binary("add", "x", "one", "y"), one=one))
    assert not tables_of(graph_of(unary("x", "y", ("log", 0.0, 0.0)))), "NaN below 0, which bytes cannot say"
    moved = graph_of(unary("x", "y", ("abs", 0.0, 0.0)), shape=(1, 8, 4, 4))
    assert not [n for n in with_tables(moved, {"q": 1, "out": 3}).nodes if n.op == "qtable"], "channels would move"


def test_rows_of_features_may_be_reshaped_on_the_way():
    graph = graph_of(unary("x", "a", ("abs", 0.0, 0.0)), Node("reshape", "r", ("a",), "y", {}))
    graph.shapes.update(q=(1, 2, 8), x=(1, 2, 8), a=(1, 2, 8))
    made = with_tables(graph, {"q": 2, "out": 1})
    table, back = made.nodes[1:3]
    assert (table.op, back.op, back.output) == ("qtable", "reshape", "out") and made.shapes[table.output] == (1, 2, 8)


def test_bytes_are_rounded_to_even_and_kept_within_a_byte():
    values = np.float32([-1e9, 0.25, 0.75, 1.25, 1e9, np.nan, np.inf, -np.inf])
    assert quantized_bytes(values, 0.5, 10).tolist() == [0, 10, 12, 12, 255, 0, 255, 0]


@pytest.mark.parametrize("act", [name for name in mmrt_file.ACTS if name != "rounded"])
def test_acts_are_the_runtime_s(act):
    x = np.linspace(0.1, 4, 50, dtype=np.float32) * (1 if act in ("sqrt", "log") else np.float32([1, -1] * 25))
    a, b = (-0.5, 2.0) if act == "clip" else (0.3, 0.4)
    expected = mmrt_reference.ACTS[mmrt_file.ACTS.index(act)](x, a, b)
    np.testing.assert_allclose(ACTS[act](x, a, b), expected.astype(np.float32), rtol=3e-6, atol=1e-6)


def test_a_tensor_that_is_only_dequantized_again_is_rounded_where_it_lies():
    ends = {"scale": SCALE, "zero": ZERO}
    graph = graph_of(Node("quantize", "q1", ("x",), "p", ends), Node("dequantize", "d1", ("p",), "y", ends))
    made = {node.name: node for node in rounded_in_place(graph).nodes}
    assert made["q1"].op == "unary" and made["q1"]["act"] == ("rounded", SCALE, ZERO) and made["d1"].op == "reshape"
    assert made["down"].op == "quantize", "a linear reads its bytes"


class Attention(nn.Module):
    """Two heads over eight tokens, and a GELU between two linears, as a transformer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.wide, self.narrow, self.fc = nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).reshape(1, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-1, -2)) * 8**-0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(1, -1, 16))
        return self.fc((x + self.narrow(F.gelu(self.wide(x)))).mean(1))


def attention() -> onnx.ModelProto:
    torch.manual_seed(2)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Attention().eval(), torch.zeros(1, 3, 8, 16), buffer, opset_version=17, dynamo=False,
                          input_names=["input"], output_names=["logits"])
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 16), np.float32)
    return quantize_for_onnxruntime(simplify(onnx.load_from_string(buffer.getvalue()))[0], images)


def test_a_transformer_s_gelu_is_a_table_and_its_attention_multiplies_integers():
    nodes = quantized(read_graph(attention())).nodes
    acts = [node.attrs.get("act", NO_ACT)[0] for node in nodes]
    ops = [node.op for node in nodes]
    assert ops.count("qtable") == 1 and "erf" not in acts
    assert ops.count("qmatmul") == 2 and "matmul" not in ops
    weighted = next(node for node in reversed(nodes) if node.op == "qmatmul")
    made_by = {node.output: node.op for node in nodes}
    assert [made_by[name] for name in weighted.inputs] == ["softmax", "reshape"], "not rounded twice"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONNX Runtime rounds in other places on other processors")
def test_a_transformer_answers_as_onnx_runtime_does(tmp_path):
    try:
        runtime_files()
    except FileNotFoundError as err:
        pytest.skip(str(err))
    file = attention()
    (tmp_path / "m.mmrt").write_bytes(pack(file, "int8"))
    model = load_runtime().Model(str(tmp_path / "m.mmrt"), 1)
    assert "QTABLE" in {step["op"] for step in model.profile(np.zeros((1, 3, 8, 16), np.float32))}
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    step = next(float(onnx.numpy_helper.to_array(i)) for i in file.graph.initializer if i.name == "logits_scale")
    for image in np.random.default_rng(7).standard_normal((8, 1, 3, 8, 16), np.float32):
        assert np.abs(model(image)[0] - session.run(None, {"input": image})[0]).max() <= 1.001 * step


RUNTIME = Path(__file__).parents[1] / "runtime"
FORMAT = (RUNTIME / "FORMAT.md").read_text()


def rows(*macros: str) -> dict[str, int]:
    """name -> number, as runtime/src/operations.inc has them."""
    text = (RUNTIME / "src" / "operations.inc").read_text()
    found = re.findall(rf"^(?:{'|'.join(macros)})\((\d+), (\w+)", text, re.MULTILINE)
    assert len(dict(found)) == len(found), "a number twice"
    return {name: int(number) for number, name in found}


def section(heading: str) -> str:
    return re.search(rf"^### {heading}\n(.*?)(?=^##|\Z)", FORMAT, re.MULTILINE | re.DOTALL).group(1)


def listed(line: str) -> dict[str, int]:
    """name -> number of what FORMAT.md lists in a line as "0 add, 1 sub" or "0 none · 1 clip(a, b)"."""
    return {name: int(number) for number, name in re.findall(r"(?:^|, |· |fn |kind )\s*(\d+) ([a-z]\w*)", line)}


def test_the_writer_the_runtime_and_the_format_number_operations_alike():
    runtime = rows("OPERATION", "OPERATION_READ_AS")
    writer = {name: value for name, value in vars(mmrt_file).items() if name.isupper() and isinstance(value, int)}
    assert {name: value for name, value in writer.items() if name not in ("VERSION", "LINE")} == runtime
    text = section("Operations") + section("Operations on uint8")
    assert {name: int(n) for n, name in re.findall(r"^    (\d+) ([A-Z]+) ", text, re.MULTILINE)} == runtime


@pytest.mark.parametrize(("file", "name", "value"), [
    ("operations.h", "MOST_WEIGHT", LARGEST_WEIGHT), ("file/plan.h", "SLACK", SLACK)])
def test_the_writer_and_the_runtime_have_the_same_limits(file, name, value):
    text = (RUNTIME / "src" / file).read_text()
    assert re.search(rf"constexpr \w+ {name} = (\d+);", text).group(1) == str(value)
    assert name != "MOST_WEIGHT" or f"|w| <= {value}" in FORMAT


@pytest.mark.parametrize(("macro", "writer", "line"), [
    ("ACTIVATION", mmrt_file.ACTS, section("Activations").partition("\n\nrelu")[0].replace("\n", " ")),
    ("BINARY_FN", mmrt_file.BINARIES, re.search(r"^    7 BINARY.*?(fn 0 .*)", FORMAT, re.MULTILINE).group(1)),
    ("REDUCTION", mmrt_file.REDUCTIONS, re.search(r"^    8 REDUCE.*?(kind 0 .*)", FORMAT, re.MULTILINE).group(1)),
    ("POOLING", mmrt_file.POOLS, re.search(r"^    3 POOL.*\n\s*(kind 0 .*)", FORMAT, re.MULTILINE).group(1)),
])
def test_the_writer_the_runtime_and_the_format_number_functions_alike(macro, writer, line):
    """The numbers count from 0 without a gap: the runtime knows them by how many there are."""
    assert rows(macro) == {name: number for number, name in enumerate(writer)}
    assert listed(line) == rows(macro)


def test_the_exporter_computes_every_function_that_it_may_write():
    assert set(ACTS) == set(rows("ACTIVATION")) - {"rounded"} and set(FUNCTIONS) == set(rows("BINARY_FN"))
