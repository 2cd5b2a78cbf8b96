"""The user's choice of model, weights and data. This module imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ModelOptions:
    """The user's options for the model; None means: determined from the weights, the model or the data."""

    num_classes: int | None = None
    in_chans: int | None = None
    image_size: tuple[int, int] | None = None  # height, width
    pretrained: bool = False
    mean: tuple[float, ...] | None = None  # one value, or one per channel, for images scaled to [0, 1]
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    crop_all: bool | None = None  # see records.Preprocess


@dataclass(frozen=True)
class Named:
    """What the user named; None means the embedded default, or determined automatically."""

    model: str | None = None
    weights: Path | None = None
    data: Path | None = None
    options: ModelOptions = field(default_factory=ModelOptions)
    seed: int = 0
    class_order: str = "auto"  # see class_order.find_outputs
