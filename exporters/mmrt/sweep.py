"""One pass of fusion rules over a graph, as a rule sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporters.mmrt.graph import Graph, Node, scalar

PRODUCTS = ("conv", "linear")
VIEWS = ("reshape", "transpose")


@dataclass
class Sweep:
    """One pass over a graph: the present producer of each tensor, and its readers at the start of the pass."""

    graph: Graph
    makers: dict[str, Node]
    places: dict[str, int]
    readers: Mapping[str, int]

    def maker(self, name: str, *ops: str) -> Node | None:
        """The node that produces a tensor, if it is of one of these kinds."""
        node = self.makers.get(name)
        return node if node is not None and node.op in ops else None

    def private(self, name: str, *ops: str) -> Node | None:
        """As maker, but only if exactly one node reads the tensor."""
        return self.maker(name, *ops) if self.readers.get(name) == 1 else None

    def scalar(self, name: str) -> float | None:
        return scalar(self.graph, name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.shapes[name]

    def new(self, name: str, shape: tuple[int, ...]) -> str:
        """A new name for a tensor that a rule creates."""
        count = 1
        while f"{name}@{count}" in self.graph.shapes:
            count += 1
        self.graph.shapes[f"{name}@{count}"] = shape
        return f"{name}@{count}"


Rule = Callable[[Sweep, Node], list[Node] | None]
