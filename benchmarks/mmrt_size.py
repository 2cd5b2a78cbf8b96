"""How small is a sparse model as .mmrt, on disk and as a download, beside usual compressors and what entropy allows?

    pip install zstandard
    python benchmarks/mmrt_size.py [--models resnet50,...] [--sparsities 0.8,0.9] [--json OUT]

Fractions are of the dense model's weights as float32. Models have random weights under a magnitude mask, uniform over
all layers, so that the sparsity is that of the whole model. The entropy bound is of the weights alone, taken as
independent: n H(sparsity) bits for where the zeros are, and for each value that stays the zero-order entropy of its
sign, exponent and the bytes of its mantissa. int8 is of the model masked in blocks of 1x4 weights.
Every download is unpacked again and compared bit for bit.
"""

import argparse
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from onnx import numpy_helper
from runtime_vs_peers import PATTERN, masked, noise, numbers, to_onnx

from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.mmrt import download as mmrt_download
from exporters.to_mmrt import pack

COLUMNS = {"onnx": "ONNX file", "onnx_xz": "xz -6 of it", "onnx_zstd": "zstd -19 of it", "mmrt": "`.mmrt`",
           "mmrt_download": "`.mmrt.xz`", "mmrt_fp16": "`.mmrt`, fp16 values", "mmrt_fp16_download": "`.mmrt.xz`, fp16",
           "mmrt_int8": "`.mmrt`, int8", "mmrt_int8_download": "`.mmrt.xz`, int8", "entropy": "entropy bound, fp32"}


def entropy_bits(symbols: np.ndarray) -> float:
    """Zero-order entropy of all symbols together, in bits."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def bound_bytes(weights: list[np.ndarray]) -> float:
    bits = 0.0
    for weight in weights:
        bits += entropy_bits(weight.ravel() != 0)
        kept = weight[weight != 0].view(np.uint32)
        for shift, mask in ((31, 1), (23, 0xFF), (15, 0xFF), (7, 0xFF), (0, 0x7F)):
            bits += entropy_bits(kept >> shift & mask)
    return bits / 8


def sizes(name: str, sparsity: float) -> dict[str, Any]:
    model, shape = masked(name, sparsity, None, everywhere=True)
    exported = to_onnx(model, shape)
    weights = [w for w in map(numpy_helper.to_array, exported.graph.initializer) if w.dtype == np.float32]
    dense = 4 * sum(w.size for w in weights)
    content = exported.SerializeToString()
    row: dict[str, Any] = {"model": name, "sparsity": sparsity, "dense_bytes": dense, "onnx": len(content),
                           "onnx_xz": len(lzma.compress(content, preset=6)),
                           "onnx_zstd": len(zstandard.ZstdCompressor(level=19).compress(content)),
                           "entropy": bound_bytes(weights)}
    blocks = to_onnx(masked(name, sparsity, None, everywhere=True, pattern=PATTERN["int8"])[0], shape)
    sources = {"fp32": exported, "fp16": exported, "int8": quantize_for_onnxruntime(blocks, noise(shape))}
    for precision, key in (("fp32", "mmrt"), ("fp16", "mmrt_fp16"), ("int8", "mmrt_int8")):
        file = pack(sources[precision], precision)
        packed = mmrt_download.pack(file)
        assert mmrt_download.unpack(packed) == file
        row |= {key: len(file), f"{key}_download": len(packed)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet50,vit_small_patch16_224,mobilenetv2_100")
    parser.add_argument("--sparsities", type=numbers, default=[0.8, 0.85, 0.9])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = [sizes(name, sparsity) for name in asked.models.split(",") for sparsity in asked.sparsities]
    print("Fractions of the dense float32 weights\n")
    print(f"| model | sparsity | dense MiB | {' | '.join(COLUMNS.values())} |")
    print("|---" * (3 + len(COLUMNS)) + "|")
    for row in rows:
        cells = " | ".join(f"{row[key] / row['dense_bytes']:.4f}" for key in COLUMNS)
        print(f"| {row['model']} | {row['sparsity']:.0%} | {row['dense_bytes'] / 2**20:.1f} | {cells} |")
    if asked.json:
        asked.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
