"""Adds products to the plan as operations: the rows that they read, their packed weights, and what follows them."""

from dataclasses import dataclass, replace

import numpy as np

from exporters.mmrt import file as f
from exporters.mmrt import plan as p
from exporters.mmrt.graph import Node
from exporters.mmrt.int8_numbers import FOUR, LARGEST_INPUT, Rounding
from exporters.mmrt.layout import View


@dataclass(frozen=True)
class Reads:
    """The part of its input that a product reads."""

    x: View  # rows [C, P]
    taps: tuple[int, ...]  # offsets
    kept: tuple[int, ...]  # which taps of the kernel these are, row-major


def emit_product(plan: p.Plan, node: Node, reads: Reads, weight: np.ndarray,
                 ends: tuple[View, View, View | None]) -> None:
    """weight: [O][C / groups][taps]; ends: the written tensor, its rows, and the residual's rows."""
    dst, y, residual = ends
    if "rounding" in node.attrs:
        return _emit_int8(plan, node, reads, weight, ends)
    groups = node.attrs.get("groups", 1)
    bias = f.add_floats(plan.data, node["bias"]) if node["bias"].any() else -1
    after = (bias, *((0,) if residual is None else (1, residual)), *p.act_words(node["act"]))
    taps = (len(reads.taps), *reads.taps)
    if 1 < groups == reads.x.dims[0] == y.dims[0]:
        p.emit(plan, f.DEPTHWISE, node.name, dst, (reads.x, *taps, y, f.add_floats(plan.data, weight), *after))
    else:
        kernel = 0  # the runtime chooses
        p.emit(plan, f.LINEAR, node.name, dst,
               (reads.x, *taps, groups, y, *f.add_weights(plan.data, weight, plan.precision), *after, kernel))


def _emit_int8(plan: p.Plan, node: Node, reads: Reads, weight: np.ndarray,
               ends: tuple[View, View, View | None]) -> None:
    """weight: blocks [words of outputs][words of inputs in a group][taps]"""
    x, (dst, y, residual) = reads.x, ends
    taps = (len(reads.taps), *reads.taps)
    rounding: Rounding = node["rounding"]
    integers = np.ascontiguousarray(weight).reshape(len(weight), -1, len(reads.taps))[..., None].view(np.int8)
    if "depthwise" in node.attrs:
        stored = integers[:, 0]  # [words][taps][4]
        sums, sizes = (w.astype(np.int32).sum(axis=1).reshape(-1) for w in (stored, np.abs(stored)))
        p.emit(plan, f.QDEPTHWISE, node.name, dst,
               (x, *taps, y, f.add_blob(plan.data, stored.tobytes()), *_outputs(plan, node, sums, sizes),
                *rounding.words))
        return
    stored = np.moveaxis(integers.reshape(*integers.shape[:-1], FOUR, FOUR), -2, 1)  # [words][4][inputs][taps][4]
    sums, sizes = (w.astype(np.int32).sum(axis=(2, 3, 4)).reshape(-1) for w in (stored, np.abs(stored)))
    after = (0,) if residual is None else (1, residual, node["residual_first"], *node["sum"].words)
    p.emit(plan, f.QLINEAR, node.name, dst,
           (x, *taps, node.attrs.get("groups", 1), y, *f.add_blocks(plan.data, stored),
            *_outputs(plan, node, sums, sizes), *rounding.words, *after))


def _outputs(plan: p.Plan, node: Node, sums: np.ndarray, sizes: np.ndarray) -> tuple[int, int]:
    """The blobs of the multipliers and of the biases, corrected for the zero point of x.

    sums, sizes  sum of each output's weights, and of their absolute values
    Sums stay within int32. If the bias of an output with nearly zero weights leaves no room for that, it is clipped by
    what they could add: at most a fraction sizes / 2^23, which is 1e-4 for a stem of 3 x 3 x 3 weights.
    """
    most = np.iinfo(np.int32).max - LARGEST_INPUT * sizes.astype(np.int64)
    bias = np.clip(node["bias"].astype(np.int64) - node["x_zero"] * sums.astype(np.int64), -most, most)
    return (f.add_floats(plan.data, node["multiplier"]),
            f.add_blob(plan.data, np.ascontiguousarray(bias, "<i4").tobytes()))


def all_rows(image: View) -> View:
    rows = p.image_rows(image, image.strides[2])
    assert rows is not None  # it was created as an image
    return rows


def batch_of_one(image: View) -> View:
    return replace(image, dims=(1, *image.dims), strides=(0, *image.strides))


def rows_of_image(plan: p.Plan, node: Node, name: str) -> View:
    """An image as rows [C, P] with the pitch of its geometry; copied if its layout differs."""
    pitch = p.geometry(plan, plan.views[name].dims[2:]).pitch
    return p.image_rows(plan.views[name], pitch) or all_rows(batch_of_one(p.stored_image(plan, node.name, name)))
