"""Fusion rules: activations written as several operations become one, and activations merge into their producer."""

import math
from dataclasses import replace

import numpy as np

from exporters.mmrt.fuse_factors import factors
from exporters.mmrt.graph import NO_ACT, Node, with_attrs
from exporters.mmrt.sweep import PRODUCTS, VIEWS, Sweep


def gated(sweep: Sweep, node: Node) -> list[Node] | None:
    """x * sigmoid(x) = silu(x); x * hardsigmoid(x) = hardswish(x)"""
    if node.op != "binary" or node["fn"] != "mul":
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        gate = sweep.private(other, "unary")
        if gate is None or gate.inputs[0] != x:
            continue
        name, a, b = gate["act"]
        if name == "sigmoid":
            return [Node("unary", node.name, (x,), node.output, {"act": ("silu", 0.0, 0.0)})]
        if name == "hardsigmoid" and math.isclose(a, 1 / 6, rel_tol=1e-4) and b == 0.5:
            return [Node("unary", node.name, (x,), node.output, {"act": ("hardswish", 0.0, 0.0)})]
    return None


def gelu(sweep: Sweep, node: Node) -> list[Node] | None:
    """f * x * (1 + erf(x / sqrt(2))) = 2 f gelu(x), the factors in any order; f is 1/2 unless merged into weights."""
    factor, names = factors(sweep, node)
    if len(names) != 2:
        return None
    for x, other in (names, names[::-1]):
        one_plus = sweep.private(other, "binary")
        if one_plus is None or one_plus["fn"] != "add":
            continue
        for erf_name, one in (one_plus.inputs, one_plus.inputs[::-1]):
            erf = sweep.private(erf_name, "unary")
            if erf is None or erf["act"][0] != "erf" or sweep.scalar(one) != 1.0:
                continue
            inside = sweep.maker(erf.inputs[0], "binary")
            if inside is not None:
                scale, base = factors(sweep, inside)
                if base == [x] and math.isclose(scale, math.sqrt(0.5), rel_tol=1e-5):
                    return _times(sweep, Node("unary", node.name, (x,), node.output, {"act": ("gelu", 0.0, 0.0)}),
                                  2 * factor)
    return None


def _times(sweep: Sweep, node: Node, factor: float) -> list[Node]:
    """The node's result multiplied by a number."""
    if math.isclose(factor, 1.0, rel_tol=1e-6):
        return [node]
    inner, number = sweep.new(node.output, sweep.shape(node.output)), sweep.new(f"{node.output}_factor", ())
    sweep.graph.constants[number] = np.float32(factor).reshape(())
    return [replace(node, output=inner),
            Node("binary", node.name, (inner, number), node.output, {"fn": "mul", "act": NO_ACT})]


def activation(sweep: Sweep, node: Node) -> list[Node] | None:
    """Merge an activation into the producer of its input, also through views."""
    if node.op != "unary":
        return None
    maker = sweep.private(node.inputs[0], *PRODUCTS, "affine", "binary")
    if maker is not None and maker["act"][0] == "none":
        return [replace(with_attrs(maker, act=node["act"]), output=node.output)]
    view = sweep.private(node.inputs[0], *VIEWS)
    maker = sweep.private(view.inputs[0], *PRODUCTS, "affine", "binary") if view else None
    if view is None or maker is None or maker["act"][0] != "none":
        return None
    inner = sweep.new(maker.output, sweep.shape(maker.output))
    return [replace(with_attrs(maker, act=node["act"]), output=inner),
            replace(view, inputs=(inner,), output=node.output)]
