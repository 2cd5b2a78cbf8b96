"""The records that the stages hand on: frozen, validated, in base units (seconds, bytes, fractions in [0, 1])."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field

SCHEMA = 1  # of Measurement
MANIFEST_SCHEMA = 2
PROVENANCES = ("measured", "emulated", "fixture")  # only "measured" may stand in a table or plot as a device's cost
CROP_PCTS = (0.05, 2.0)  # timm publishes 0.875 to 1.15
DENSE = "dense"  # the strategy of the unpruned reference


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _fraction(value: float, name: str) -> None:
    _require(math.isfinite(value) and 0.0 <= value <= 1.0, f"{name} must be a fraction in [0, 1], got {value!r}")


@dataclass(frozen=True)
class Layer:
    """One prunable weight of a model."""

    name: str  # the parameter's name in the state dict, e.g. "layer4.0.conv1.weight"
    kind: str  # one of layers.KINDS
    depth: float  # place in the order of execution: 0 the first prunable layer, 1 the last
    shape: tuple[int, ...]
    macs: int  # multiply-accumulates for one image

    def __post_init__(self) -> None:
        _fraction(self.depth, f"depth of {self.name}")
        weight = len(self.shape) >= 2 and min(self.shape) > 0
        _require(weight, f"{self.name}: cannot prune a weight of shape {self.shape}")

    @property
    def params(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Range:
    """The sparsities that a layer tolerates, and the rule that says so."""

    low: float
    high: float
    why: str = ""

    def __post_init__(self) -> None:
        ok = all(isinstance(v, (int, float)) and math.isfinite(v) for v in (self.low, self.high))
        _require(ok and 0.0 <= self.low <= self.high < 1.0,
                 f"a range needs 0 <= low <= high < 1, got [{self.low}, {self.high}] {self.why}".rstrip())


@dataclass(frozen=True)
class Strategy:
    """One sparsity for each prunable layer."""

    name: str
    sparsity: dict[str, float]  # by Layer.name

    def __post_init__(self) -> None:
        for name, value in self.sparsity.items():
            _require(math.isfinite(value) and 0.0 <= value < 1.0,
                     f"strategy {self.name}: sparsity of {name} must be in [0, 1), got {value!r}")


def crop_fraction(crop: float, resize: float) -> float:
    """The crop_pct by which `crop` pixels become `resize` pixels, rounded down as preprocess.resized_size does.

    224/232 = 0.96552, but 224 / 0.96552 may fall short of 232 by a rounding, and would be cut to 231.
    """
    value = crop / resize
    while math.isfinite(value) and int(crop / value) < int(resize):
        value = math.nextafter(value, 0)
    return value


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the NCHW float32 input: resize, crop, scale to [0, 1], subtract mean, divide by std.

    preprocess.py does it, here and where a model is deployed.
    """

    image_size: tuple[int, int]  # height, width
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"  # one of preprocess.RESAMPLING
    crop_pct: float = 1.0  # the centre crop is this fraction of the resized image; above 1: with borders
    crop_mode: str = "center"  # one of preprocess.CROP_MODES
    crop_all: bool = False  # resize and crop also an image that already has image_size; else it is taken as it is

    def __post_init__(self) -> None:
        _require(len(self.mean) == len(self.std) >= 1, f"mean and std differ in length: {self.mean}, {self.std}")
        _require(min(self.image_size) > 0, f"image size must be positive, got {self.image_size}")
        _require(min(self.std) > 0, f"std must be positive, got {self.std}")
        low, high = CROP_PCTS
        _require(low <= self.crop_pct <= high, f"crop_pct must be in [{low}, {high}], got {self.crop_pct}")

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, C, H, W)"""
        return (1, self.channels, *self.image_size)


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to make the dense model again, in another process too."""

    model: str  # a timm name, or "path/to/file.py:factory"
    num_classes: int
    in_chans: int
    image_size: tuple[int, int]
    weights: str | None = None  # path; None: random or `pretrained`
    pretrained: bool = False
    weights_sha256: str = ""  # of the tensors that were loaded, before branches were merged (weights.tensors_sha256)


@dataclass(frozen=True)
class LabelledData:
    """The labelled images that the user named."""

    path: str
    sha256: str
    classes: tuple[str, ...]  # of the data, in the order of its labels
    labels: tuple[str, ...]  # a name for each output of the model
    class_order: str  # one of class_order.ORDERS, or a file


@dataclass(frozen=True)
class ImageCounts:
    """How many images a model is trained, chosen and tested on."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Source:
    """What a family is made of, as the user named it; None for what was given in Python."""

    model: ModelSpec | None = None
    preprocess: Preprocess | None = None
    data: LabelledData | None = None


@dataclass(frozen=True)
class Recipe:
    """How a masked model is trained again."""

    name: str
    lr: float
    epochs: int
    batch_size: int
    linear_decay: bool  # to zero, after a warm-up over the first 5 % of the steps; otherwise constant
    distill: float  # weight of the dense model's soft labels in the loss, 0 for none
    patience: int  # stop after so many epochs without a better validation accuracy and take the best; 0: take the last
    renew_statistics: bool  # of BatchNorm, at the end (finetune.recalibrate)
    weight_decay: float = 0.0
    optimizer: str = "adamw"
    qat: bool = False  # the last epoch on weights and activations rounded as int8's (mmprune/qat.py)


@dataclass(frozen=True)
class Spec:
    """How all of a family's variants are made."""

    recipe: Recipe
    scores: tuple[str, ...]
    pattern: str
    seed: int


@dataclass(frozen=True)
class Task:
    """One variant to make."""

    id: str
    score: str
    strategy: str


@dataclass(frozen=True)
class Manifest:
    """A family: what it is made of, how, and which variants it has when it is finished."""

    command: str
    spec: Spec
    source: Source
    images: ImageCounts
    weights_sha256: str  # of the dense model as it is pruned (weights.tensors_sha256)
    layers: tuple[Layer, ...]
    ranges: dict[str, Range]  # by Layer.name
    strategies: dict[str, dict[str, float]]  # by name: sparsity by Layer.name
    dense: str  # the id of the dense variant
    tasks: tuple[Task, ...]  # the others
    failures: dict[str, str] = field(default_factory=dict)  # by variant id: why there is none
    threads: int = 0  # torch's, of each job
    mmprune: str = ""  # version
    schema: int = MANIFEST_SCHEMA

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants' ids, the dense one first."""
        return (self.dense, *(task.id for task in self.tasks))


@dataclass(frozen=True)
class Variant:
    """A pruned, fine-tuned model, or the dense model that the others are compared with."""

    id: str
    strategy: str
    score: str
    pattern: str
    recipe: str
    seed: int
    layer_sparsity: dict[str, float]  # counted in the final file, by Layer.name
    sparsity: float  # zeros over all prunable weights, counted
    accuracy: float  # on test data, of the torch model
    validation_accuracy: float
    files: dict[str, str] = field(default_factory=dict)  # e.g. {"weights": "variants/<id>/weights.safetensors"}
    block_sparsity: float = 0.0  # as sparsity, of weights in wholly zero blocks of four (patterns.zeros_in_blocks)
    reference: bool = False  # the dense model
    weights_sha256: str = ""  # of the file of weights

    def __post_init__(self) -> None:
        for name in ("sparsity", "block_sparsity", "accuracy", "validation_accuracy"):
            _fraction(getattr(self, name), f"{name} of {self.id}")


@dataclass(frozen=True)
class Artifact:
    """A deployable file made from a variant, with what was checked on this very file."""

    id: str  # "<variant id>/<format>-<precision>"
    variant: str
    format: str
    precision: str
    path: str  # relative to the family's folder; the main file (the .xml of an IR)
    files: tuple[str, ...]  # every file that it needs, relative to the family's folder
    file_bytes: int
    download_bytes: int  # what a user downloads: the files in one .tar.xz, or the format's own packed form
    sha256: str  # over the files' contents, in the order of `files`
    max_abs_difference: float  # to torch, over the checked images
    top1_agreement: float  # with torch
    accuracy: float  # of this file on test data
    layer_sparsity: dict[str, float]  # counted in this file
    notes: tuple[str, ...] = ()  # how it was made: "3 subnormal weights flushed"; files made from it have them too
    warnings: tuple[str, ...] = ()  # of this file alone, said when it is made: fewer zeros than were asked for
    accuracy_lost: float = 0.0  # to torch on the same images, as a fraction
    reference: bool = False  # made from the dense model
    made_with: dict[str, str] = field(default_factory=dict)  # see exporters/made_with.py

    @property
    def remarks(self) -> tuple[str, ...]:
        """All that there is to tell people of the file."""
        lost = f"accuracy {100 * self.accuracy_lost:.2f} percentage points below torch's"
        return (*self.notes, *self.warnings, *([lost] if self.accuracy_lost > 0 else []))


@dataclass(frozen=True)
class Device:
    """A device's fingerprint; never how to reach it."""

    target: str
    board: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    ram_bytes: int
    os: str
    kernel: str
    governor: str
    power_mode: str
    clock_hz: int  # the highest the kernel reports; 0 where it reports none
    versions: dict[str, str]  # runtimes, python, machine (as uname -m says it), l4t, jetpack, tensorrt
    soc: str = ""  # the device tree's name of the part, e.g. "brcm,bcm2712"
    clock_min_hz: int = 0
    desktop: str = ""  # the running desktop's processes, or "none"
    cooler: str = ""  # the kinds of fans that the kernel drives

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over every field: records of different fingerprints are never mixed."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Gate:
    """What was waited for before measuring, how the device was then, and whether it came in time."""

    limit_c: float
    timeout_s: float
    waited_s: float
    temperature_c: float | None  # the hottest zone's; None where there is none
    busy: float | None  # share of all cores in the last second; None where the kernel does not say
    reached: bool

    def __post_init__(self) -> None:
        if self.busy is not None:
            _fraction(self.busy, "busy share")


@dataclass(frozen=True)
class Measurement:
    """One run of one artifact by one runtime on one device, raw samples kept."""

    artifact: str
    artifact_sha256: str
    device: Device
    runtime: str
    runtime_version: str
    threads: int
    batch: int
    latencies_s: tuple[tuple[float, ...], ...]  # one inner tuple a round; rounds with the same index ran side by side
    warmup_s: tuple[float, ...]
    load_s: float  # cold: reading and compiling the model in a fresh process
    first_s: float  # the first inference after loading
    peak_bytes: int  # peak resident memory in a pass of its own
    empty_bytes: int  # of the same process before the model was loaded, runtime imported
    profile: str
    session: str  # measurements of one session were interleaved and can be paired
    started: str  # ISO 8601, UTC
    provenance: str
    commit: str  # of mmprune, or its version where it is no checkout
    settings: dict[str, str] = field(default_factory=dict)  # the runtime's knobs as it reports them
    processes: tuple[int, ...] = ()  # rounds by each fresh process, in order; () where one made them all
    throttled: bool = False
    energy_j: float | None = None  # of one inference, over what the device takes when idle; of power_rails, not wall
    temperature_c: tuple[float, float] | None = None  # before, after
    throttled_rounds: tuple[int, ...] = ()  # indices into latencies_s
    clock_hz: tuple[int, int] | None = None  # a board's fastest core, lowest and highest seen after a round
    pinned_clocks: bool = False  # performance governor and, on a Jetson, jetson_clocks, whatever `device` says
    gate: Gate | None = None  # None: measured without waiting
    turns_s: tuple[float, ...] = ()  # when each round's turn began, from the start of the session's part
    burst_s: float | None = None  # median of the first minute; None for a run under two minutes
    sustained_s: float | None = None  # of the last minute
    energy_gross_j: float | None = None  # of one inference, idle power not taken off
    idle_w: float | None = None
    power_rails: tuple[str, ...] = ()
    shared_bytes: int | None = None  # Jetson: by how much RAM fell in the memory pass, the GPU's share in it
    notes: tuple[str, ...] = ()
    # What kept each round's turn from the CPU; () where the kernel does not tell, or an older probe measured
    waited_s: tuple[float, ...] = ()  # all threads together: ready to run, and without a core
    waits: tuple[int, ...] = ()  # how often
    preemptions: tuple[int, ...] = ()  # involuntary context switches
    stolen_s: tuple[float, ...] = ()  # what the hypervisor gave to others, of all cores together; in ticks of 10 ms
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _require(self.schema == SCHEMA, f"this mmprune reads measurements of schema {SCHEMA}, not {self.schema}")
        _require(self.provenance in PROVENANCES, f"provenance must be one of {PROVENANCES}, got {self.provenance!r}")
        _require(self.threads >= 1 and self.batch >= 1, "threads and batch must be at least 1")
        samples = [s for r in self.latencies_s for s in r]
        _require(bool(samples) and all(math.isfinite(s) and s > 0 for s in samples),
                 f"{self.artifact}: latencies must be positive and finite, and there must be some")
        rounds = len(self.latencies_s)
        _require(all(0 <= i < rounds for i in self.throttled_rounds),
                 f"{self.artifact}: throttled rounds {self.throttled_rounds} of {rounds}")
        _require(self.throttled or not self.throttled_rounds, f"{self.artifact}: rounds throttled, the whole did not")
        for name in ("waited_s", "waits", "preemptions", "stolen_s"):
            _require(len(getattr(self, name)) in (0, rounds),
                     f"{self.artifact}: {name} has {len(getattr(self, name))} values for {rounds} rounds")
        _require(len(self.waited_s) == len(self.waits), f"{self.artifact}: waited_s without waits, or the reverse")
        for name in ("burst_s", "sustained_s", "energy_j", "energy_gross_j", "idle_w", "shared_bytes"):
            value = getattr(self, name)
            _require(value is None or (math.isfinite(value) and value >= 0), f"{self.artifact}: {name} is {value!r}")

    @property
    def samples_s(self) -> list[float]:
        return [s for r in self.latencies_s for s in r]

    @property
    def memory_bytes(self) -> int:
        """The model's own memory: the peak over that of the empty process."""
        return max(0, self.peak_bytes - self.empty_bytes)
