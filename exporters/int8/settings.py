"""Settings for int8 files of ONNX Runtime and mmrt. This module imports nothing heavy."""

from dataclasses import dataclass

from mmprune.choices import pick

METHODS = ("minmax", "percentile", "entropy")


@dataclass(frozen=True)
class Int8:
    """Settings of INT8 for ONNX Runtime and mmrt (exporters/int8/onnxruntime.py). ValueError for invalid values."""

    method: str = "minmax"  # ONNX Runtime's name of the calibration method
    bias_correction: bool = True
    max_drop: float | None = None  # percentage points of accuracy on validation images; None: no limit

    def __post_init__(self) -> None:
        pick("calibration method", self.method, METHODS)
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ValueError(f"max_drop (percentage points of accuracy) must be at least 0, got {self.max_drop!r}")
