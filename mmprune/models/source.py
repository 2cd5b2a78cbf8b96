"""Makes the Baseline of a family from the user's model, weights and data."""

from dataclasses import dataclass, replace
from pathlib import Path

from mmprune import folder
from mmprune.data.class_order import AUTO, Outputs, find_outputs
from mmprune.data.image_files import DataError
from mmprune.data.image_sets import DataFacts
from mmprune.data.splits import DataSet, describe_data, load_data
from mmprune.family import Baseline
from mmprune.models import defaults
from mmprune.models.dense_check import choose_order, examine
from mmprune.models.loading import load_model, open_model
from mmprune.models.named import Named
from mmprune.records import LabelledData, ModelSpec, Preprocess, Source


@dataclass(frozen=True)
class BaselineMaker:
    """Makes the same Baseline in any process."""

    spec: ModelSpec
    preprocess: Preprocess
    data: Path
    seed: int
    cache: Path | None
    class_order: str = AUTO
    sha256: str = ""  # of the data that the family was built from; "": not known yet

    def load(self) -> DataSet:
        loaded = load_data(self.data, self.preprocess, num_classes=self.spec.num_classes, seed=self.seed,
                           cache=self.cache, class_order=self.class_order)
        if self.sha256 not in ("", loaded.sha256):
            raise DataError(f"the images at {self.data} have changed since the family was built; restore the old ones, "
                            "or build into a new folder")
        return loaded

    def __call__(self) -> Baseline:
        loaded = self.load()
        return Baseline(load_model(self.spec), loaded.train, loaded.validation, loaded.test,
                        self.preprocess.input_shape)


@dataclass(frozen=True)
class Opened:
    """A model and its data, checked and ready for building a family."""

    make_baseline: BaselineMaker
    source: Source
    notes: tuple[str, ...]  # for the user
    train_images: int
    warnings: tuple[str, ...] = ()  # problems that would make all later results worthless


def reopen(root: Path) -> Baseline:
    """The dense model and the data of the family in a folder, as named in its manifest.

    ValueError (DataError, ModelError ...) if they are missing or have changed.
    """
    manifest = folder.read_manifest(root)
    model, preprocess, data = manifest.source.model, manifest.source.preprocess, manifest.source.data
    if model is None or preprocess is None or data is None or not data.path:
        raise DataError(f"the family in {root} was made from a model and loaders in Python, which the folder does not "
                        "contain: call mmprune.prune with them again; finished steps are not repeated")
    return BaselineMaker(model, preprocess, Path(data.path), manifest.spec.seed, root / "cache", data.class_order,
                         data.sha256)()


def named_model(named: Named) -> Named:
    """The embedded default where no model is named: its weights, and its data unless other data is named."""
    if named.model is not None:
        return named
    if named.weights is not None:
        raise ValueError("--weights needs --model: name the model that the weights belong to")
    return replace(named, model=defaults.default_model(), weights=defaults.default_weights(),
                   data=named.data or defaults.default_data())


def output_labels(facts: DataFacts, outputs: Outputs, num_classes: int) -> tuple[str, ...]:
    """A name for each output of the model: the class of the data that belongs to it, else its number."""
    labels = [f"output {i}" for i in range(num_classes)]
    for name, index in zip(facts.classes, outputs.index.tolist(), strict=True):
        if index >= 0:
            labels[index] = name
    return tuple(labels)


def open_source(named: Named, cache: Path | None = None, device: str = "cpu") -> Opened:
    """Open and check model and data, so that everything that does not fit is reported before hours of work.

    cache   folder for decoded images of an image folder; None: no cache, images are decoded each time
    device  where the dense model is checked on a few hundred training images
    ValueError (DataError, ModelError, WeightsError, FactoryError) if something does not fit.
    """
    named = named_model(named)
    if named.data is None or named.model is None:
        raise ValueError("--model needs --data: a folder of class folders, or an .npz file of images and labels")
    weights = str(named.weights) if named.weights else None
    facts, options = describe_data(named.data), named.options
    if options.crop_all is None:  # arrays of the model's size are used as they are, files always as in timm
        options = replace(options, crop_all=named.data.is_dir())
    opened = open_model(named.model, weights, facts, options)
    num_classes = opened.spec.num_classes
    outputs = find_outputs(facts, num_classes, named.class_order)
    maker = BaselineMaker(opened.spec, opened.preprocess, named.data, named.seed, cache, named.class_order)
    loaded = maker.load()
    notes = opened.notes + loaded.notes
    warnings: tuple[str, ...] = ()
    if not opened.random_weights and outputs.others:
        usual = outputs.order
        outputs, note = choose_order(opened.model, loaded.train, outputs, device)
        notes += (note,)
        maker = replace(maker, class_order=outputs.order)
        loaded = loaded if outputs.order == usual else maker.load()
    if not opened.random_weights:
        warnings = examine(opened.model, loaded.train, outputs, facts.classes, device)
    maker = replace(maker, sha256=loaded.sha256)
    data = LabelledData(str(named.data), loaded.sha256, tuple(loaded.classes),
                        output_labels(facts, outputs, num_classes), maker.class_order)
    return Opened(maker, Source(opened.spec, opened.preprocess, data), notes, len(loaded.train), warnings)
