"""One pass of rules over a graph: what a rule sees, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass

from exporters.mmrt.graph import Graph, Node

PRODUCTS = ("conv", "linear")
VIEWS = ("reshape", "transpose")


@dataclass
class Sweep:
    """One pass over a graph: who makes each tensor by now, and who read it when the pass began."""

    graph: Graph
    makers: dict[str, Node]
    places: dict[str, int]
    readers: dict[str, int]

    def maker(self, name: str, *ops: str) -> Node | None:
        """The node that makes a tensor, if it is one of these."""
        node = self.makers.get(name)
        return node if node is not None and node.op in ops else None

    def private(self, name: str, *ops: str) -> Node | None:
        """The same, if only one node reads the tensor."""
        return self.maker(name, *ops) if self.readers.get(name) == 1 else None

    def scalar(self, name: str) -> float | None:
        array = self.graph.constants.get(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.shapes[name]

    def new(self, name: str, shape: tuple[int, ...]) -> str:
        """A name for a tensor that a rule makes."""
        count = 1
        while f"{name}@{count}" in self.graph.shapes:
            count += 1
        self.graph.shapes[f"{name}@{count}"] = shape
        return f"{name}@{count}"


Rule = Callable[[Sweep, Node], list[Node] | None]
