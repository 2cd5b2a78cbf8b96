"""The records that the stages exchange: frozen, validated, in base units (seconds, bytes, fractions in [0, 1])."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

SCHEMA = 1  # schema version of Measurement
MANIFEST_SCHEMA = 2
PROVENANCES = ("measured", "emulated", "fixture")  # only "measured" may appear in a table or plot as a device's cost
CROP_PCTS = (0.05, 2.0)  # allowed range; timm's models use 0.875 to 1.15
DENSE = "dense"  # the strategy of the unpruned reference
TUNED = "dense-tuned"  # of the dense model after the fine-tuning that the others got: the fair reference for accuracy


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _fraction(value: float, name: str) -> None:
    _require(math.isfinite(value) and 0.0 <= value <= 1.0, f"{name} must be a fraction in [0, 1], got {value!r}")


def _within_family(name: str) -> None:
    """A family may come from elsewhere: no name in it leads out of its folder."""
    path = PurePosixPath(name)
    _require(bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name,
             f"{name!r:.80} leads out of the family's folder")


@dataclass(frozen=True)
class Layer:
    """One prunable weight of a model."""

    name: str  # the parameter's name in the state dict, e.g. "layer4.0.conv1.weight"
    kind: str  # one of layers.KINDS
    depth: float  # position in the order of execution: 0 is the first prunable layer, 1 the last
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
    """The range of sparsities that a layer tolerates, and the rule that it comes from."""

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

    224/232 = 0.96552, but 224 / 0.96552 may be slightly below 232 and would be rounded down to 231.
    """
    value = crop / resize
    while math.isfinite(value) and int(crop / value) < int(resize):
        value = math.nextafter(value, 0)
    return value


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the NCHW float32 input: resize, crop, scale to [0, 1], subtract mean, divide by std.

    preprocess.py does this, here and in a deployed folder.
    """

    image_size: tuple[int, int]  # height, width
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"  # one of preprocess.RESAMPLING
    crop_pct: float = 1.0  # the centre crop is this fraction of the resized image; above 1 borders are added
    crop_mode: str = "center"  # one of preprocess.CROP_MODES
    crop_all: bool = False  # resize and crop also an image that already has image_size; else it is used unchanged

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
    """Everything needed to create the dense model again, also in another process."""

    model: str  # a timm name, or "path/to/file.py:factory"
    num_classes: int
    in_chans: int
    image_size: tuple[int, int]
    weights: str | None = None  # path; None: random or `pretrained`
    pretrained: bool = False
    weights_sha256: str = ""  # of the loaded tensors, before branches are merged (weights.tensors_sha256)


@dataclass(frozen=True)
class LabelledData:
    """The labelled images that the user named."""

    path: str
    sha256: str
    classes: tuple[str, ...]  # classes of the data in the order of its labels
    labels: tuple[str, ...]  # a name for each output of the model
    class_order: str  # with which load_data gives these labels again; "loader" for the loaders of Python


@dataclass(frozen=True)
class ImageCounts:
    """The numbers of training, validation and test images."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Source:
    """The model, preprocessing and data of a family, as named by the user; None for what was given in Python."""

    model: ModelSpec | None = None
    preprocess: Preprocess | None = None
    data: LabelledData | None = None


@dataclass(frozen=True)
class Recipe:
    """How a masked model is fine-tuned."""

    name: str
    lr: float
    epochs: int
    batch_size: int
    linear_decay: bool  # the learning rate falls to zero after a warm-up over 5 % of the steps; else it is constant
    distill: float  # weight of the dense model's soft labels in the loss; 0 for none
    patience: int  # stop after this many epochs without better validation accuracy and use the best; 0: use the last
    renew_statistics: bool  # recompute the BatchNorm statistics at the end (finetune.recalibrate)
    weight_decay: float = 0.0
    optimizer: str = "adamw"
    qat: bool = False  # in the last epoch weights and activations are rounded as in int8 (mmprune/qat.py)
    permute: bool = False  # put input channels in an order that suits blocks, where that is free (mmprune/permute.py)
    clip: float = 0.0  # largest norm of the gradient; 0: not clipped
    temperature: float = 2.0  # of the dense model's soft labels


@dataclass(frozen=True)
class Spec:
    """The settings that all variants of a family share."""

    recipe: Recipe
    scores: tuple[str, ...]
    pattern: str
    seed: int
    total_sparsity: float | None = None  # requested for every strategy; None: each strategy's own


@dataclass(frozen=True)
class Task:
    """One variant to make."""

    id: str
    score: str
    strategy: str

    def __post_init__(self) -> None:
        _within_family(self.id)


@dataclass(frozen=True)
class Manifest:
    """A family: its source, its settings, and the variants that it has when finished."""

    command: str
    spec: Spec
    source: Source
    images: ImageCounts
    weights_sha256: str  # of the dense model, after its branches are merged (weights.tensors_sha256)
    layers: tuple[Layer, ...]
    ranges: dict[str, Range]  # by Layer.name
    # {Layer.name: sparsity} by strategy; by "<strategy>-<score>" if it depends on the score and there are several.
    # Those that need scores from training data are added when these are known
    strategies: dict[str, dict[str, float]]
    dense: str  # the id of the dense variant
    tasks: tuple[Task, ...]  # the others
    failures: dict[str, str] = field(default_factory=dict)  # variant id: why it could not be made
    skipped: dict[str, str] = field(default_factory=dict)  # variant id: why it was not fine-tuned (--keep)
    threads: int = 0  # torch threads per job
    bfloat16: bool = False  # fine-tuned with products in bfloat16 (mmprune/precision.py)
    mmprune: str = ""  # version
    schema: int = MANIFEST_SCHEMA

    def __post_init__(self) -> None:
        _within_family(self.dense)

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants' ids, the dense one first."""
        return (self.dense, *(task.id for task in self.tasks))

    def sparsity_of(self, task: Task) -> dict[str, float]:
        """The task's {Layer.name: sparsity}."""
        if task.strategy == TUNED:
            return {x.name: 0.0 for x in self.layers}
        by_score = self.strategies.get(f"{task.strategy}-{task.score}")
        return self.strategies[task.strategy] if by_score is None else by_score


@dataclass(frozen=True)
class Start:
    """What is known of a variant before its fine-tuning."""

    loss: float | None  # on calibration images, see start_loss.calibration_loss; None: not finite
    macs: int  # multiply-accumulates with the kept weights of all prunable layers, for one image

    def __post_init__(self) -> None:
        _require(self.loss is None or math.isfinite(self.loss), f"a start's loss must be finite, got {self.loss!r}")


@dataclass(frozen=True)
class Variant:
    """A pruned, fine-tuned model, the dense model fine-tuned alike, or the dense model that all are compared with."""

    id: str
    strategy: str
    score: str
    pattern: str
    recipe: str
    seed: int
    layer_sparsity: dict[str, float]  # counted in the final file, by Layer.name
    sparsity: float  # zeros over all prunable weights, counted
    accuracy: float  # of the torch model on test data
    validation_accuracy: float
    files: dict[str, str] = field(default_factory=dict)  # e.g. {"weights": "variants/<id>/weights.safetensors"}
    block_sparsity: float = 0.0  # fraction of weights in all-zero blocks of four (patterns.zeros_in_blocks)
    reference: bool = False  # the dense model
    weights_sha256: str = ""  # of the weights file
    untrained: bool = False  # as it was before its training, which lowered its accuracy on validation images

    @property
    def dense(self) -> bool:
        """Whether it is a dense model: the reference, or the one that was fine-tuned as the variants were."""
        return self.reference or self.strategy == TUNED

    def __post_init__(self) -> None:
        _within_family(self.id)
        for name in ("sparsity", "block_sparsity", "accuracy", "validation_accuracy"):
            _fraction(getattr(self, name), f"{name} of {self.id}")


@dataclass(frozen=True)
class Artifact:
    """A deployable file made from a variant, with the results of the checks on this file."""

    id: str  # "<variant id>/<format>-<precision>"
    variant: str
    format: str
    precision: str
    path: str  # relative to the family's folder; the main file (the .xml of an IR)
    files: tuple[str, ...]  # every file that it needs, relative to the family's folder
    file_bytes: int
    download_bytes: int  # size of a download: the files in one .tar.xz, or the format's own packed form
    sha256: str  # over the files' contents, in the order of `files`
    max_abs_difference: float  # of the outputs from torch's, over the checked images
    top1_agreement: float  # fraction of images with the same prediction as torch
    accuracy: float  # of this file on test data
    layer_sparsity: dict[str, float]  # counted in this file
    notes: tuple[str, ...] = ()  # about how it was made: "3 subnormal weights flushed"; files made from it inherit them
    warnings: tuple[str, ...] = ()  # about this file only, printed when it is made: fewer zeros than requested
    accuracy_lost: float = 0.0  # compared with torch on the same images, as a fraction
    reference: bool = False  # made from the dense model
    made_with: dict[str, str] = field(default_factory=dict)  # see exporters/made_with.py

    def __post_init__(self) -> None:
        for name in (self.variant, self.path, *self.files):
            _within_family(name)

    @property
    def remarks(self) -> tuple[str, ...]:
        """All notes and warnings about the file for the user."""
        lost = f"accuracy {100 * self.accuracy_lost:.2f} percentage points below torch's"
        return (*self.notes, *self.warnings, *([lost] if self.accuracy_lost > 0 else []))


@dataclass(frozen=True)
class Device:
    """A device's properties; never its address."""

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
    clock_hz: int  # the highest that the kernel reports; 0 if it reports none
    versions: dict[str, str]  # runtimes, python, machine (from uname -m), l4t, jetpack, tensorrt
    soc: str = ""  # the chip's name in the device tree, such as "brcm,bcm2712"
    clock_min_hz: int = 0
    desktop: str = ""  # the running desktop's processes, or "none"
    cooler: str = ""  # the kinds of fans that the kernel drives

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of a hash over all fields; records with different fingerprints are never mixed."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Gate:
    """The condition that was waited for before measuring, the device's state then, and whether it was met in time."""

    limit_c: float
    timeout_s: float
    waited_s: float
    temperature_c: float | None  # of the hottest zone; None if there is none
    busy: float | None  # share of all cores in the last second; None if the kernel does not report it
    reached: bool

    def __post_init__(self) -> None:
        if self.busy is not None:
            _fraction(self.busy, "busy share")


@dataclass(frozen=True)
class Step:
    """The time of one step of an inference, as the runtime reports it."""

    name: str  # of the ONNX node that it was made from; several steps may share it
    op: str
    kernel: str
    seconds: tuple[float, ...]  # one in each round
    parts: tuple[str, ...] = ()  # the names of what the runtime fused into it, where it tells them
    # mmrt: (the share of the dense layer's multiplications that the kernel does, the share of weights that are not zero
    # under which a kernel that skips zeros is taken; in int8 the share of blocks)
    work: tuple[float, float] | None = None


@dataclass(frozen=True)
class Measurement:
    """One run of one artifact by one runtime on one device, with the raw samples."""

    artifact: str
    artifact_sha256: str
    device: Device
    runtime: str
    runtime_version: str
    threads: int
    batch: int
    latencies_s: tuple[tuple[float, ...], ...]  # one inner tuple per round; rounds with the same index were interleaved
    warmup_s: tuple[float, ...]
    load_s: float  # time to read and compile the model in a fresh process
    first_s: float  # the first inference after loading
    peak_bytes: int  # peak resident memory, measured in a separate pass
    empty_bytes: int  # memory of the same process with the runtime imported, before the model is loaded
    profile: str
    session: str  # measurements of one session were interleaved and can be paired
    started: str  # ISO 8601, UTC
    provenance: str
    commit: str  # of mmprune, or its version if it is not a checkout
    settings: dict[str, str] = field(default_factory=dict)  # the runtime's settings as it reports them
    processes: tuple[int, ...] = ()  # rounds of each fresh process, in order; () if one process ran all rounds
    throttled: bool = False
    energy_j: float | None = None  # per inference, above idle power; from power_rails, not at the wall
    temperature_c: tuple[float, float] | None = None  # before, after
    throttled_rounds: tuple[int, ...] = ()  # indices into latencies_s
    clock_hz: tuple[int, int] | None = None  # lowest and highest clock of the fastest core, read after each round
    pinned_clocks: bool = False  # performance governor and, on a Jetson, jetson_clocks were set while measuring
    gate: Gate | None = None  # None: measured without waiting
    turns_s: tuple[float, ...] = ()  # start time of each round, from the start of the session's part
    burst_s: float | None = None  # median latency of the first minute; None for a run under two minutes
    sustained_s: float | None = None  # median latency of the last minute
    energy_gross_j: float | None = None  # per inference, idle power included
    idle_w: float | None = None
    power_rails: tuple[str, ...] = ()
    shared_bytes: int | None = None  # Jetson: decrease of free RAM in the memory pass, which includes the GPU's memory
    notes: tuple[str, ...] = ()
    # What delayed each round; () if the kernel does not report it, or an older probe measured
    waited_s: tuple[float, ...] = ()  # sum over all threads: ready to run, but without a core
    waits: tuple[int, ...] = ()  # the number of such waits
    preemptions: tuple[int, ...] = ()  # involuntary context switches
    stolen_s: tuple[float, ...] = ()  # given to other guests by the hypervisor, over all cores; in ticks of 10 ms
    steps: tuple[Step, ...] = ()  # () if steps were not timed
    profiled_s: tuple[float, ...] = ()  # one per round if steps were timed: of an inference in which they are
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _require(self.schema == SCHEMA, f"this mmprune reads measurements with schema {SCHEMA}, not {self.schema}")
        _require(self.provenance in PROVENANCES, f"provenance must be one of {PROVENANCES}, got {self.provenance!r}")
        _require(self.threads >= 1 and self.batch >= 1, "threads and batch must be at least 1")
        samples = [s for r in self.latencies_s for s in r]
        _require(bool(samples) and all(math.isfinite(s) and s > 0 for s in samples),
                 f"{self.artifact}: latencies must be positive and finite, and at least one is needed")
        rounds = len(self.latencies_s)
        _require(all(0 <= i < rounds for i in self.throttled_rounds),
                 f"{self.artifact}: throttled rounds {self.throttled_rounds}, but there are {rounds} rounds")
        _require(self.throttled or not self.throttled_rounds, f"{self.artifact}: throttled_rounds without throttled")
        for name in ("waited_s", "waits", "preemptions", "stolen_s"):
            _require(len(getattr(self, name)) in (0, rounds),
                     f"{self.artifact}: {name} has {len(getattr(self, name))} values for {rounds} rounds")
        _require(all(len(step.seconds) == rounds for step in self.steps),
                 f"{self.artifact}: every step needs a time for each of {rounds} rounds")
        _require(len(self.profiled_s) in (0, rounds),
                 f"{self.artifact}: profiled_s has {len(self.profiled_s)} values for {rounds} rounds")
        _require(len(self.waited_s) == len(self.waits), f"{self.artifact}: waited_s and waits must both be given")
        for name in ("burst_s", "sustained_s", "energy_j", "energy_gross_j", "idle_w", "shared_bytes"):
            value = getattr(self, name)
            _require(value is None or (math.isfinite(value) and value >= 0),
                     f"{self.artifact}: {name} must be finite and not negative, got {value!r}")

    @property
    def samples_s(self) -> list[float]:
        return [s for r in self.latencies_s for s in r]

    @property
    def memory_bytes(self) -> int:
        """The model's own memory: the peak minus that of the empty process."""
        return max(0, self.peak_bytes - self.empty_bytes)
