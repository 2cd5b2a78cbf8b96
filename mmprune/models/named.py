"""What a user names: a model, its weights, data, and how they fit together. Nothing heavy is loaded to say it."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ModelOptions:
    """What the user says about the model; None: found out from the weights, the model or the data."""

    num_classes: int | None = None
    in_chans: int | None = None
    image_size: tuple[int, int] | None = None  # height, width
    pretrained: bool = False
    mean: tuple[float, ...] | None = None  # one value, or one a channel, of images scaled to [0, 1]
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    crop_all: bool | None = None  # see records.Preprocess


@dataclass(frozen=True)
class Named:
    """What the user named; None: the embedded default, or found out."""

    model: str | None = None
    weights: Path | None = None
    data: Path | None = None
    options: ModelOptions = field(default_factory=ModelOptions)
    seed: int = 0
    class_order: str = "auto"  # see class_order.find_outputs
