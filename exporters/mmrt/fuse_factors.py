"""Fusion rules: scalar factors of a tensor are merged into weights, or into the scale of a matmul."""

from dataclasses import replace

import numpy as np

from exporters.mmrt.graph import Node, with_attrs
from exporters.mmrt.sweep import PRODUCTS, VIEWS, Sweep


def factor_into_weights(sweep: Sweep, node: Node) -> list[Node] | None:
    """product(s * x): the weights are multiplied by s, also if there are views between."""
    if node.op not in PRODUCTS:
        return None
    found = without_factor(sweep, node.inputs[0])
    if found is None:
        return None
    views, base, factor = found
    scaled = with_attrs(node, weight=(node["weight"] * np.float64(factor)).astype(np.float32))
    return [*views, replace(scaled, inputs=(base, *node.inputs[1:]))]


def scaled_input(sweep: Sweep, node: Node) -> list[Node] | None:
    """matmul(s * a, b) = s * matmul(a, b), also if there is a view between."""
    if node.op != "matmul":
        return None
    for place, name in enumerate(node.inputs):
        found = without_factor(sweep, name)
        if found is not None:
            views, base, factor = found
            inputs = tuple(base if k == place else old for k, old in enumerate(node.inputs))
            return [*views, replace(with_attrs(node, scale=node["scale"] * factor), inputs=inputs)]
    return None


def scaled_output(sweep: Sweep, node: Node) -> list[Node] | None:
    """s * matmul(a, b)"""
    factor, names = factors(sweep, node)
    maker = sweep.private(names[0], "matmul") if len(names) == 1 else None
    if maker is None or sweep.shape(node.output) != sweep.shape(maker.output):
        return None
    return [replace(with_attrs(maker, scale=maker["scale"] * factor), output=node.output)]


def factors(sweep: Sweep, node: Node) -> tuple[float, list[str]]:
    """A multiplication as a number times tensors, following multiplications that only it reads."""
    if node.op != "binary" or node["fn"] not in ("mul", "div") or node["act"][0] != "none":
        return 1.0, []
    factor, names = 1.0, []
    for place, name in enumerate(node.inputs):
        number = sweep.scalar(name)
        below = sweep.private(name, "binary")
        divides = node["fn"] == "div" and place == 1
        if number is not None:
            factor *= 1 / number if divides else number
        elif divides:
            return 1.0, []
        elif below is not None and (inner := factors(sweep, below))[1]:
            factor *= inner[0]
            names += inner[1]
        else:
            names.append(name)
    return factor, names


def without_factor(sweep: Sweep, name: str) -> tuple[list[Node], str, float] | None:
    """For views of s * x: (the views of x, the last one's name, s); None for anything else."""
    views: list[Node] = []
    while (view := sweep.private(name, *VIEWS, "slice")) is not None:
        views.append(view)
        name = view.inputs[0]
    product = sweep.private(name, "binary")
    factor, names = factors(sweep, product) if product is not None else (1.0, [])
    if len(names) != 1 or sweep.shape(names[0]) != sweep.shape(name):
        return None
    new, base = [], names[0]
    for view in reversed(views):
        new.append(replace(view, inputs=(base,), output=sweep.new(view.output, sweep.shape(view.output))))
        base = new[-1].output
    return new, base, factor
