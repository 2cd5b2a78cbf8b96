"""NaN and infinity in whole models of mmrt: a float32 file gives them where torch does, a uint8 file refuses them."""

import io
import platform
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import load_runtime, pack
from exporters.to_onnx import simplify
from mmprune.runtime_files import runtime_files

try:
    runtime_files()
except FileNotFoundError as err:
    pytest.skip(str(err), allow_module_level=True)

MMRT = load_runtime()
SIZE = 20
ISAS = ["avx512vnni", "avx512", "avxvnni", "avx2", "scalar"] if platform.machine() == "x86_64" else \
    ["neon_dotprod", "neon", "scalar"]
ODD = {"nan": np.nan, "-nan": np.copysign(np.nan, -1), "inf": np.inf, "-inf": -np.inf}
ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "leaky": F.leaky_relu, "elu": F.elu, "sigmoid": torch.sigmoid,
               "silu": F.silu, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "gelu": F.gelu,
               "gelu tanh": lambda x: F.gelu(x, approximate="tanh"), "tanh": torch.tanh, "softplus": F.softplus,
               "mish": F.mish, "exp": lambda x: torch.exp(-x.abs()), "abs": torch.abs,
               "sqrt": lambda x: torch.sqrt(x.abs()), "clamp": lambda x: x.clamp(-1, 2),
               "softmax": lambda x: x.softmax(1),
               "larger": lambda x: torch.maximum(x, x.mean((2, 3), keepdim=True)),
               "divided": lambda x: x / (1 + x.abs()), "squared": lambda x: x ** 2}


class Convolutions(nn.Module):
    """A picture comes out, so that one sees how far a pixel reaches: sparse, grouped, depthwise and strided layers."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.stem, self.depth = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped, self.down = nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.Conv2d(16, 8, 3, stride=2, padding=1)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.activation(self.stem(x))
        x = self.grouped(self.activation(self.depth(x))) + x
        x = F.max_pool2d(self.activation(x), 3, 1, 1)
        return self.out(F.avg_pool2d(self.down(x), 2))


class Transformer(nn.Module):
    """A block of attention and one of GELU between layer norms, on patches; logits come out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.fc = nn.Conv2d(3, 32, 5, stride=5), nn.Linear(32, 5)
        self.qkv, self.up, self.down = nn.Linear(32, 96), nn.Linear(32, 64), nn.Linear(64, 32)
        self.first, self.second, self.last = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(32)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.first(x)).reshape(1, -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        x = x + ((q @ k.transpose(-1, -2) / 3).softmax(-1) @ v).transpose(1, 2).reshape(1, -1, 32)
        return self.fc(self.last(x + self.down(F.gelu(self.up(self.second(x))))).mean(1))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2), nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.two(self.one(x).relu()).relu(), 1).flatten(1))


class Ratio(nn.Module):
    """0 / 0 on a black image: NaN made in a float part of a uint8 file."""

    def __init__(self) -> None:
        super().__init__()
        self.above, self.below = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.after, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.after(self.above(x).relu() / self.below(x).relu()).relu()
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def prune(model: nn.Module, sparsity: float) -> nn.Module:
    torch.manual_seed(0)
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        nn.init.kaiming_normal_(layer.weight)
        layer.weight.data *= (torch.rand_like(layer.weight) >= sparsity) / (1 - sparsity) ** 0.5
    return model.eval()


def exported(model: nn.Module) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 3, SIZE, SIZE),), buffer, opset_version=17, dynamo=False,
                          input_names=["input"], output_names=["logits"])
    return simplify(onnx.load_from_string(buffer.getvalue()))[0]


def runtime_model(content: bytes, folder, threads: int = 1):
    (folder / "m.mmrt").write_bytes(content)
    return MMRT.Model(str(folder / "m.mmrt"), threads)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1, (1, 3, SIZE, SIZE)).astype(np.float32)


def check_like_torch(model: nn.Module, run) -> None:
    """With one odd pixel at random places: NaN where torch has it, infinity too, and nothing stays behind."""
    random = np.random.default_rng(3)
    clean = run(image())[0]
    assert np.isfinite(clean).all()
    for odd in ODD.values():
        for _ in range(3):
            x = image()
            x[0, random.integers(3), random.integers(SIZE), random.integers(SIZE)] = odd
            with torch.no_grad():
                expected, got = model(torch.from_numpy(x)).numpy(), run(x)[0]
            assert not np.isfinite(expected).all() or np.isinf(odd)
            assert np.array_equal(np.isnan(got), np.isnan(expected))
            finite = np.isfinite(expected)
            assert np.array_equal(got[~finite], expected[~finite], equal_nan=True)
            assert np.allclose(got[finite], expected[finite], rtol=1e-3, atol=1e-4)
            assert np.array_equal(run(image())[0], clean)


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolutions_give_nan_where_torch_does(activation, sparsity, tmp_path):
    model = prune(Convolutions(activation), sparsity)
    check_like_torch(model, runtime_model(pack(exported(model), "fp32"), tmp_path))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("make", [lambda: Convolutions("relu6"), Transformer, Classifier], ids=["conv", "vit", "fc"])
def test_so_it_is_in_every_instruction_set(isa, make, tmp_path, monkeypatch):
    monkeypatch.setenv("MMRT_ISA", isa)
    model = prune(make(), 0.8)
    content = pack(exported(model), "fp32")
    try:
        run = runtime_model(content, tmp_path, threads=2)
    except MMRT.MmrtError as err:
        pytest.skip(str(err))
    check_like_torch(model, run)


def quantized(model: nn.Module, images: np.ndarray) -> bytes:
    return pack(quantize_for_onnxruntime(exported(model), images), "int8")


@pytest.mark.parametrize("make", [Classifier, Transformer])
@pytest.mark.parametrize("odd", ODD)
def test_a_uint8_file_refuses_what_integers_cannot_say(odd, make, tmp_path):
    model = runtime_model(quantized(prune(make(), 0.5), np.concatenate([image(i) for i in range(4)])), tmp_path)
    clean = model(image())[0]
    x = image()
    x[0, 2, 5, 17] = ODD[odd]
    value = odd.lstrip("-") if "nan" in odd else odd
    with pytest.raises(MMRT.MmrtError, match=rf"input input: element \[0, 2, 5, 17\] is {value}: "):
        model(x)
    assert np.array_equal(model(image())[0], clean), "the next image is answered"


def test_a_uint8_file_refuses_nan_that_it_makes_itself(tmp_path):
    model = prune(Ratio(), 0.0)
    for layer in (model.above, model.below):
        layer.weight.data.abs_()
    run = runtime_model(quantized(model, np.concatenate([image(i) for i in range(4)])), tmp_path, threads=2)
    for _ in range(3):  # the arena has anything in it by then
        assert np.isfinite(run(image())[0]).all()
        with pytest.raises(MMRT.MmrtError, match=r"operation .*: a value is NaN"):
            run(np.zeros((1, 3, SIZE, SIZE), np.float32))


def test_the_exponential_overflows_to_infinity(tmp_path):
    class Exponential(nn.Module):
        def forward(self, x):
            return x.exp()

    x = np.linspace(-110, 110, 3 * SIZE * SIZE, dtype=np.float32).reshape(1, 3, SIZE, SIZE)
    got = runtime_model(pack(exported(Exponential()), "fp32"), tmp_path)(x)[0]
    expected = np.exp(x.astype(np.float64))
    assert np.array_equal(np.isinf(got), x > np.log(float(np.finfo(np.float32).max)))
    normal = (expected > 2e-38) & (expected < 3.4e38)
    assert np.abs(got / expected - 1)[normal].max() < 1e-6
    assert got[expected < 1.1e-38].max() < 1.2e-38
