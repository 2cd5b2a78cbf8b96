"""Says why the zeros of a layer save time or not, from what the runtime ran, and what would help."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmprune.patterns import BLOCK
from mmprune.ranges import KEPT_DENSE
from mmprune.records import Layer, Range, Step

MMRT = "mmrt"
FEW = 0.005  # a share of zeros below this is shown as 0 %
SAVED = 0.005  # the least share of multiplications that counts as saved
NO_SPARSE_KERNELS = {  # runtime: why a zero costs what any weight costs
    "onnxruntime": "ONNX Runtime has no sparse kernels",
    "openvino": "OpenVINO skips no zeros here (only int8 matrix products with AMX can)",
}


@dataclass(frozen=True)
class Facts:
    """What is known of a layer in one file on one runtime."""

    layer: Layer
    range: Range | None  # the sparsities that the rules allow
    sparsity: float  # zeros of all its weights, those of removed channels included
    kept: float  # share of its weights that the file holds; the others went with whole channels
    in_blocks: float | None  # share of the held weights in all-zero blocks of 1x4
    steps: Sequence[Step]
    runtime: str
    precision: str


@dataclass(frozen=True)
class Reason:
    skips: float  # share of the dense layer's multiplications that is not done
    why: str
    helps: str = ""


def reason(f: Facts) -> Reason:
    """How far the zeros are used, why, and what would help."""
    if not f.steps:
        return Reason(0.0, "no step of the profile computes it: folded away, or merged into another")
    found = _in_mmrt(f) if f.runtime == MMRT else _elsewhere(f)
    if f.kept >= 1 - FEW:
        return found
    gone = f"{1 - f.kept:.0%} of its weights went with whole channels"
    skips = 1 - f.kept * (1 - found.skips)
    return Reason(skips, f"{gone}; {found.why}" if f.sparsity > 1 - f.kept + FEW else gone, found.helps)


def no_faster(told: Reason, precision: str) -> Reason:
    """For a layer that does less, but takes as long as the dense model's."""
    helps = "more zeros in it" if precision == "int8" else "more zeros in it, or --pattern block-4x1"
    return Reason(told.skips, f"{told.why}, but takes as long: the dense kernel multiplies faster by about as much",
                  helps)


def _elsewhere(f: Facts) -> Reason:
    """On a runtime that skips no zeros, or hardly any."""
    if any("sparse" in step.kernel for step in f.steps):
        return Reason(f.sparsity, "a kernel that reads compressed weights")
    if f.sparsity < FEW:
        return Reason(0.0, _dense_by(f))
    return Reason(0.0, NO_SPARSE_KERNELS.get(f.runtime, f"{f.runtime} has no sparse kernels that are known here"))


def _in_mmrt(f: Facts) -> Reason:
    working = [step.work for step in f.steps if step.work]
    if not working:
        return Reason(0.0, "no product of mmrt computes it")
    done, below = max(working)
    if done < 1 - SAVED:
        return Reason(1 - done, "skips zeros")
    if f.layer.kind == "depthwise":
        return Reason(0.0, "depthwise convolution: one filter for each channel, no kernel skips zeros in it")
    if f.sparsity < FEW:
        return Reason(0.0, _dense_by(f), _allowing(f, below))
    return _too_few(f, below)


def _too_few(f: Facts, below: float) -> Reason:
    """Of a layer with zeros whose kernel in mmrt skips none."""
    if below <= 0:
        return Reason(0.0, "so few positions that all weights are multiplied, which is hardly any time")
    if f.precision == "int8" and (f.in_blocks or 0.0) < 1 - below <= f.sparsity:
        return Reason(0.0, f"only {f.in_blocks or 0.0:.0%} of its weights are zeros in whole blocks of 1x{BLOCK}; int8 "
                           f"skips those from {1 - below:.0%}", "--pattern block-1x4")
    grouped = "grouped convolution, " if f.layer.kind == "grouped" else ""
    return Reason(0.0, f"{grouped}below break-even: skipping pays from {1 - below:.0%} zeros" + _limit(f, below),
                  _allowing(f, below))


def _dense_by(f: Facts) -> str:
    kind = f.layer.kind
    if kind in KEPT_DENSE or kind == "classifier":
        return f"kept dense by the rules: {kind}"
    if f.range is not None and f.range.low <= 0:
        return f"dense, as the rules allow ({kind}: 0 to {f.range.high:.0%} zeros)"
    return "dense in this variant"


def _limit(f: Facts, below: float) -> str:
    """That the rules do not allow as many zeros as would pay."""
    if f.range is None or f.range.high > 1 - below:
        return ""
    return f"; the rules allow {f.range.high:.0%} ({f.layer.kind})"


def _allowing(f: Facts, below: float) -> str:
    """What makes the layer sparse enough, if it is one that can be."""
    if f.layer.kind in ("depthwise", "stem") or below <= 0:
        return ""
    if f.range is not None and f.range.high <= 1 - below:
        return f"--ranges with [kinds] {f.layer.kind} = [{min(0.9, 1 - below + 0.1):.1f}, 0.9]"
    return f"a sparser strategy: more than {1 - below:.0%} zeros in this layer"
