"""From what the user names (a model, weights, data) to the Bench that a family is made on."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmprune import defaults
from mmprune.data import describe_data, load_data, output_indices
from mmprune.family import Bench
from mmprune.models import Options, load_model, open_model
from mmprune.records import ModelSpec, Preprocess


@dataclass(frozen=True)
class Named:
    """What the user named; None: the embedded default, or found out."""

    model: str | None = None
    weights: Path | None = None
    data: Path | None = None
    options: Options = field(default_factory=Options)
    seed: int = 0


@dataclass(frozen=True)
class BenchMaker:
    """Makes the same Bench in any process."""

    spec: ModelSpec
    preprocess: Preprocess
    data: Path
    seed: int
    cache: Path | None

    def __call__(self) -> Bench:
        num_classes = self.spec.num_classes
        loaded = load_data(self.data, self.preprocess, num_classes=num_classes, seed=self.seed, cache=self.cache)
        return Bench(load_model(self.spec), loaded.train, loaded.validation, loaded.test, self.preprocess.input_shape)


@dataclass(frozen=True)
class Opened:
    """A model and its data, checked, ready to be made a family of."""

    make_bench: BenchMaker
    about: dict[str, Any]  # for the manifest: "model", "preprocess", "data"
    notes: tuple[str, ...]  # for the user to read


def named_model(named: Named) -> Named:
    """The embedded default where no model is named: its weights, and its data unless other data is named."""
    if named.model is not None:
        return named
    if named.weights is not None:
        raise ValueError("--weights needs --model: which model are they of?")
    return replace(named, model=defaults.default_model(), weights=defaults.default_weights(),
                   data=named.data or defaults.default_data())


def output_labels(classes: tuple[str, ...], num_classes: int) -> list[str]:
    """A name for each output of the model: the class of the data that it stands for, else its number."""
    labels = [f"output {i}" for i in range(num_classes)]
    for name, index in zip(classes, output_indices(classes, num_classes)[0].tolist(), strict=True):
        labels[index] = name
    return labels


def open_source(named: Named, cache: Path | None = None) -> Opened:
    """Open everything once, so that whatever does not fit is said before hours of work.

    cache  folder for decoded images of an image folder; None: beside nothing, decoded each time
    ValueError (DataError, ModelError, WeightsError, FactoryError) says what does not fit.
    """
    named = named_model(named)
    if named.data is None or named.model is None:
        raise ValueError("--model needs --data: a folder of class folders, or an .npz of images and labels")
    weights = str(named.weights) if named.weights else None
    options = named.options
    if options.crop_all is None:  # arrays of the model's size are its inputs; files go timm's way, whatever their size
        options = replace(options, crop_all=named.data.is_dir())
    opened = open_model(named.model, weights, describe_data(named.data), options)
    maker = BenchMaker(opened.spec, opened.preprocess, named.data, named.seed, cache)
    loaded = load_data(maker.data, maker.preprocess, num_classes=opened.spec.num_classes, seed=maker.seed, cache=cache)
    about = {
        "model": asdict(opened.spec),
        "preprocess": asdict(opened.preprocess),
        "data": {"path": str(named.data), "sha256": loaded.sha256, "classes": list(loaded.classes),
                 "labels": output_labels(loaded.classes, opened.spec.num_classes),
                 "train": len(loaded.train), "validation": len(loaded.validation), "test": len(loaded.test)},
    }
    return Opened(maker, about, opened.notes + loaded.notes)
