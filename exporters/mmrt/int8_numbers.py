"""Words of four bytes, and the rounding of int8 operations, shared by graph, plan and file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FOUR = 4
LARGEST_INPUT = 256  # bound on the absolute value of every kernel input


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
    """The number of stored weights for the shape (O, inputs, ...), including zeros."""
    outputs, inputs, *window = shape
    return math.prod((outputs + -outputs % FOUR, inputs + -inputs % FOUR, *window))
