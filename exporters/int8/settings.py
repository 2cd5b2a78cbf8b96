"""How int8 files of ONNX Runtime and mmrt are made, as values. Nothing heavy is loaded to read them."""

from dataclasses import dataclass

from mmprune.choices import pick

METHODS = ("minmax", "percentile", "entropy")


@dataclass(frozen=True)
class Int8:
    """How ONNX Runtime's and mmrt's INT8 is made (exporters/int8/onnxruntime.py). ValueError for what cannot be."""

    method: str = "minmax"  # of calibration, in ONNX Runtime's words
    bias_correction: bool = True
    max_drop: float | None = None  # points of accuracy on validation images; None: whatever it loses

    def __post_init__(self) -> None:
        pick("calibration method", self.method, METHODS)
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ValueError(f"max_drop must be at least 0 points of accuracy, got {self.max_drop!r}")
