"""Rewrites the graph before lowering: everything that one operation can do becomes one node.

Each rule looks at a node and the producers of its inputs and returns the nodes that replace it, or None. Nodes without
readers are then removed, so a rule that absorbs a producer only has to check that it has no other reader.
"""

from dataclasses import replace

from exporters.mmrt.fuse_activations import activation, gated, gelu
from exporters.mmrt.fuse_factors import factor_into_weights, scaled_input, scaled_output
from exporters.mmrt.fuse_products import into_weights, parallel, residual
from exporters.mmrt.fuse_shapes import pad_in_window, rearranged, skip_reshapes, unflattened
from exporters.mmrt.graph import Graph, Node, reader_counts, without_dead
from exporters.mmrt.sweep import Rule, Sweep

PASSES: tuple[tuple[Rule, ...], ...] = (
    (skip_reshapes, pad_in_window),
    (gated, gelu),
    (into_weights, factor_into_weights, skip_reshapes),
    (parallel,),
    (unflattened, skip_reshapes, activation),
    (scaled_input, scaled_output),
    (residual, activation, into_weights),
    (skip_reshapes,),
    (rearranged,),
)


def fuse(graph: Graph) -> Graph:
    graph = replace(graph, shapes=dict(graph.shapes), constants=dict(graph.constants))
    for rules in PASSES:
        changed = True
        while changed:
            graph, changed = _sweep(graph, rules)
    return graph


def _sweep(graph: Graph, rules: tuple[Rule, ...]) -> tuple[Graph, bool]:
    sweep = Sweep(graph, {}, {}, reader_counts(graph))
    nodes: list[Node] = []
    changed = False
    for node in graph.nodes:
        found = next((new for rule in rules if (new := rule(sweep, node)) is not None), None)
        changed = changed or found is not None
        for made in found or [node]:
            sweep.makers[made.output] = made
            sweep.places[made.output] = len(nodes)
            nodes.append(made)
    return without_dead(replace(graph, nodes=tuple(nodes))), changed
