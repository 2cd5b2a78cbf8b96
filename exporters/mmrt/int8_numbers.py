"""Words of four bytes, and how int8 operations round: what the graph, the plan and the file of uint8 products share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FOUR = 4
LARGEST_INPUT = 256  # no kernel reads an input of a larger absolute value


@dataclass(frozen=True)
class Rounding:
    """q = clamp(round(value) + zero, low, high)"""

    zero: int
    low: int
    high: int

    @property
    def words(self) -> tuple[int, int, int]:
        return self.zero, self.low, self.high


@dataclass(frozen=True)
class Sum:
    """q = clamp(round(fma(a, a_ratio, fma(b, b_ratio, offset))), low, high), as ONNX Runtime's QLinearAdd on x86"""

    a_ratio: float
    b_ratio: float
    offset: float
    low: int
    high: int

    @property
    def words(self) -> tuple[int | float, ...]:
        return self.a_ratio, self.b_ratio, self.offset, self.low, self.high


def stored_size(shape: Sequence[int]) -> int:
    """How many weights are stored for (O, inputs, ...), zeros included."""
    outputs, inputs, *window = shape
    return math.prod((outputs + -outputs % FOUR, inputs + -inputs % FOUR, *window))
