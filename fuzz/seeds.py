"""Inputs from which fuzzing begins: small files of each kind, as mmprune and other programs write them.

    python -m fuzz.seeds DIR          # DIR/LOADER/..., for a look at them
"""

import dataclasses
import io
import json
import pickle
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))


def write_seeds(name: str, out: Path) -> Path:
    """The seeds of a loader, or of "mmrt", as files in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(SEEDS[name]()):
        (out / f"seed-{number}").write_bytes(content)
    return out


def mmrt_files() -> Iterator[bytes]:
    """Every operation of the format: float graphs of all kinds of nodes, and quantized ones."""
    from random_graphs import random_graph

    from exporters import ExportError
    from exporters.to_mmrt import pack

    found: list[bytes] = []
    for seed in range(40):
        model = random_graph(seed, nodes=5)
        for precision in ("fp32", "fp16")[:1 + (seed % 8 == 0)]:
            try:
                found.append(pack(model, precision))
            except ExportError:
                continue
    for model in quantized_models():
        found.append(pack(model))
    yield from (content for content in found if len(content) < 6000)


def quantized_models() -> Iterator[object]:
    """Small convolutional networks in the Q/DQ form that ONNX Runtime's quantizer writes, in several shapes."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    for seed, (channels, size, group, add) in enumerate(((3, 5, 1, False), (4, 6, 1, True), (4, 5, 4, False),
                                                         (8, 3, 1, True))):
        rng = np.random.default_rng(seed)
        constants, nodes = [], []

        def constant(name: str, value: np.ndarray, held: list = constants) -> str:
            held.append(numpy_helper.from_array(value, name))
            return name

        def node(op: str, inputs: list[str], name: str, held: list = nodes, **attributes: object) -> str:
            held.append(helper.make_node(op, inputs, [name], name=f"{op}_{name}", **attributes))
            return name

        def quantized(x: str, scale: float, zero: int) -> str:
            ends = [constant(f"{x}_scale", np.float32(scale)), constant(f"{x}_zero", np.uint8(zero))]
            return node("DequantizeLinear", [node("QuantizeLinear", [x, *ends], f"{x}_q"), *ends], f"{x}_dq")

        def weights(name: str, *shape: int, rng: np.random.Generator = rng) -> str:
            values = rng.integers(-64, 65, shape).astype(np.int8) * (rng.random(shape) < 0.6)
            ends = [constant(f"{name}_scale", np.float32(0.02)), constant(f"{name}_zero", np.int8(0))]
            return node("DequantizeLinear", [constant(f"{name}_q", values.astype(np.int8)), *ends], name)

        x = quantized("input", 0.05, 128)
        y = quantized(node("Conv", [x, weights("w", channels, channels // group, 3, 3)], "conv", group=group,
                           pads=[1, 1, 1, 1], kernel_shape=[3, 3]), 0.04, 120)
        if add:
            y = quantized(node("Add", [y, x], "sum"), 0.06, 118)
        if seed % 2:
            y = quantized(node("MaxPool", [y], "pool", kernel_shape=[2, 2], strides=[1, 1]), 0.06, 118)
        if not seed % 2:
            rows = [quantized(node("Softmax", [y], f"soft_{axis}", axis=axis), 1 / 255, 0) for axis in (2, 3)]
            product = node("Softmax", [quantized(node("MatMul", rows, "product"), 0.02, 9)], "soft")
            y = quantized(node("Add", [y, quantized(product, 1 / 255, 0)], "other_sum"), 0.3, 128)
        y = quantized(node("Sigmoid", [y], "sigmoid"), 1 / 255, 0)
        y = quantized(node("GlobalAveragePool", [y], "mean"), 1 / 255, 0)
        y = node("Flatten", [y], "flat")
        y = node("MatMul", [quantized(y, 1 / 255, 0), weights("head", channels, 3)], "logits")
        ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, channels, size, size]),
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])]
        graph = helper.make_graph(nodes, "quantized", ends[:1], ends[1:], constants)
        yield onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight_files() -> Iterator[bytes]:
    import numpy as np
    import safetensors.torch
    import torch

    state = OrderedDict([("conv.weight", torch.arange(18.).reshape(2, 1, 3, 3)), ("conv.bias", torch.zeros(2)),
                         ("norm.num_batches_tracked", torch.tensor(3))])
    yield safetensors.torch.save(dict(state))
    for content in (state, {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
                    {"model": state, "args": NotTensors(), "model_ema": state}, {"x": np.ones(3), **state},
                    torch.nn.Linear(2, 1)):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            yield buffer.getvalue()
    yield pickle.dumps(dict(state))
    yield pickle.dumps({"x": np.ones(3)}, protocol=2)


@dataclasses.dataclass
class NotTensors:
    """What training programs store beside the tensors."""

    lr: float = 0.1


def npz_files() -> Iterator[bytes]:
    import numpy as np

    images, labels = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3), np.array([0, 1, 1, 0])
    for write in (np.savez, np.savez_compressed):
        for arrays in ({"images": images, "labels": labels},
                       {"train_images": images[..., 0], "train_labels": labels, "test_images": images[:1, ..., 0],
                        "test_labels": labels[:1], "classes": np.array(["cat", "dog"])},
                       {"x_train": images, "y_train": labels.astype(np.uint8).reshape(-1, 1)}):
            buffer = io.BytesIO()
            write(buffer, **arrays)
            yield buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, images)
    yield buffer.getvalue()


def pictures() -> Iterator[bytes]:
    from PIL import Image, features

    made = Image.linear_gradient("L").resize((9, 7))
    for form, mode in (("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "RGB"),
                       ("JPEG", "L"), ("JPEG", "CMYK"), ("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "F"),
                       ("PPM", "RGB"), ("TGA", "RGB"), ("WEBP", "RGB"), ("AVIF", "RGB"), ("EPS", "L")):
        if form in ("WEBP", "AVIF") and not features.check(form.lower()):
            continue
        picture, buffer = made.convert("I").convert(mode) if mode == "I;16" else made.convert(mode), io.BytesIO()
        about = Image.Exif()
        about[0x0112] = 6  # turned
        picture.save(buffer, form, **({"exif": about} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
        yield buffer.getvalue()


def folders() -> Iterator[bytes]:
    yield b"\1cat/a.png\n\1cat/b.png\n\1dog/c.png\n\1dog/._d.png"
    yield (b"\1train/cat/a.png\n\1train/dog/b.png\n\1val/cat/c.png\n\1val/dog/d.png\n\0test\n\3link\n\4train/loop\n"
           b"\5x.png")


def name_files() -> Iterator[bytes]:
    yield b"cat\ndog\n"
    for content in ({"cat": 0, "dog": 1}, {"0": "cat", "1": "dog"}, ["cat", "dog"], {"id2label": {"0": "cat"}},
                    {"class_to_idx": {"cat": 0}}):
        yield json.dumps(content).encode()


def onnx_files() -> Iterator[bytes]:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper
    from random_graphs import random_graph

    yield from (random_graph(seed, nodes=4).SerializeToString() for seed in range(30))
    yield from (model.SerializeToString() for model in quantized_models())  # type: ignore[attr-defined]
    shape = onnx.numpy_helper.from_array(np.array([1, 3, 4, 4]), "shape")
    end = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 4, 4]) for n in ("input", "logits")]
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../w.bin")
    filled = [helper.make_node("ConstantOfShape", ["shape"], ["c"]),
              helper.make_node("Add", ["input", "c"], ["logits"])]
    for nodes, held in ((filled, [shape]), ([helper.make_node("Mul", ["input", "w"], ["logits"])], [outside])):
        graph = helper.make_graph(nodes, "g", end[:1], end[1:], held)
        yield helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def gates() -> Iterator[bytes]:
    yield (b'baseline = "../released"\n[[check]]\nname = "edge box"\nfile = "max/mmrt-int8"\nmax_latency_ms = 5\n'
           b"max_slowdown_percent = 5\n[[check]]\nname='a'\nmin_accuracy = 0.92\npercentile = 50\nruntime = \"mmrt\"\n")


def target_files() -> Iterator[bytes]:
    yield b'like = "raspberry-pi-5"\nthreads = 2\n'
    yield (b'arch = "aarch64"\nruntimes = {mmrt = "mmrt", onnxruntime = "onnx"}\nthreads = 4\nformats = ["mmrt"]\n'
           b'pattern = "unstructured"\nisa = ["asimd"]\nboard = "Pi"\npower = "pmic"\nwhat = "mine"\n')


def fleets() -> Iterator[bytes]:
    yield (b'[[board]]\nhost = "pi@pi5.local"\ntarget = "raspberry-pi-5"\n[[board]]\nhost = "jetson"\n'
           b'target = "jetson-orin"\n')


def range_files() -> Iterator[bytes]:
    yield b'[kinds]\n"conv*" = [0.5, 0.9]\n[layers]\n"layer1.*" = [0.1, 0.2]\n'


def family_rows() -> tuple[dict, dict, dict]:
    """A session, a result and a golden row as a board writes them, of an artifact of the family in loaders.py."""
    from families import DEVICE, made_measurement

    from fuzz.loaders import _family
    from mmprune.folder import read_artifacts

    made = made_measurement(read_artifacts(_family())[0], 0.01, session="b-1.1")
    session = {"kind": "session", "schema": 1, "bundle": "b", "session": "20260801T120000-abcdef", "commit": "",
               "profile": {"name": "smoke"}, "device": {**dataclasses.asdict(DEVICE), "emulated": False}}
    result = {**dataclasses.asdict(made), "kind": "result", "part": 1, "sha256": made.artifact_sha256}
    golden = {"kind": "golden", "artifact": made.artifact, "sha256": made.artifact_sha256, "runtime": made.runtime,
              "max_relative_difference": 1e-6, "top1_agreement": 1.0, "images": 8}
    return session, result, golden


def board_lines() -> Iterator[bytes]:
    session, result, golden = family_rows()
    others = [{"kind": "progress", "part": 1, "fraction": 0.5}, {"kind": "error", "message": "no memory"},
              {"kind": "done"}]
    yield b"".join(json.dumps(row).encode() + b"\n" for row in (session, golden, result, *others))
    yield b"".join(json.dumps(row).encode() + b"\n" for row in (session, others[0]))


def family_files() -> Iterator[bytes]:
    from fuzz.loaders import _family

    root = _family()
    for number, name in enumerate(("manifest.json", "measurements.jsonl", "", "variants/dense-0001/variant.json",
                                   "variants/dense-0001/onnx-f32.json")):
        if name:
            yield bytes([number]) + (root / name).read_bytes()
    yield b"\5" + b'{"loss": 0.5, "macs": 1000}'


def archives() -> Iterator[bytes]:
    for members in ({"b/manifest.json": b"{}", "b/run": b"#!/bin/sh\n", "b/models/m.onnx": b"m"},
                    {"b/manifest.json": b"{}", "b/../../x": b"x"}, {"/x": b"x"}):
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
                for name, content in members.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE) if len(members) == 2 else ():
                    entry = tarfile.TarInfo("b/link")
                    entry.type, entry.linkname = kind, "../../x"
                    tar.addfile(entry)
            yield buffer.getvalue().rstrip(b"\0") + bytes(1024)


def downloads() -> Iterator[bytes]:
    import lzma

    from exporters.mmrt.download import pack

    packed = pack(next(mmrt_files()))
    yield packed
    whole = b""
    while packed:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        whole += decoder.decompress(packed)
        packed = decoder.unused_data
    yield whole


def manifests() -> Iterator[bytes]:
    from hashlib import sha256

    yield json.dumps({"files": {"model.onnx": sha256(b"model").hexdigest()}, "no_answers": "none"}).encode()
    yield b'{"files": {"../x": "00"}}'


def hosts() -> Iterator[bytes]:
    yield from (b"pi@pi5.local", b"-oProxyCommand=id", b"ssh://pi@[fe80::1%eth0]:22", b"a;b", b"pi@-x", b"$(id)")


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "mmrt": mmrt_files, "weights": weight_files, "npz": npz_files, "image": pictures, "folder": folders,
    "class_names": name_files, "onnx": onnx_files, "gate": gates, "target": target_files, "fleet": fleets,
    "ranges": range_files, "results": board_lines, "board_rows": board_lines, "records": family_files,
    "bundle": archives, "download": downloads, "deployed": manifests, "host": hosts,
}

if __name__ == "__main__":
    for loader in SEEDS:
        made = write_seeds(loader, Path(sys.argv[1]) / loader)
        sizes = [path.stat().st_size for path in made.iterdir()]
        print(loader, len(sizes), "files,", sum(sizes), "bytes")
