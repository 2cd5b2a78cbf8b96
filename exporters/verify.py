"""Verifies a file against its model: every export runs on all test images and is compared with torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from exporters.export_input import ExportInput

Run = Callable[[np.ndarray], np.ndarray]  # (1, C, H, W) float32 -> (1, classes) float32


@dataclass(frozen=True)
class Tolerance:
    """How much the outputs of a file may differ from torch."""

    difference: float  # max |difference| of a logit, as a fraction of the largest |logit| of torch
    agreement: float  # fraction of images with the same top-1 class, at least
    # A lower agreement is accepted if the accuracy falls by at most `drop`: for a model that is often unsure, rounding
    # corrects as many predictions as it breaks.
    unsure_agreement: float = 1.0
    drop: float = 0.0


# fp32  the same numbers summed in another order with BatchNorm folded: 1e-6 to 1e-5 after a deep network; 1e-3 leaves
#       room for runtimes with another exp and erf. Top-1 then changes only on ties.
# fp16  weights rounded to 11 bits have errors of up to 2^-11 = 5e-4 each; the errors add up like noise, so deep
#       networks stay below about 1e-2 of the scale of the logits.
# int8  single logits may differ strongly, so only the predictions count. A network that rounding has broken agrees on
#       few images and loses its accuracy.
ROUNDING = 1e-9  # 0.64 - 0.62 is slightly more than 0.02
TOLERANCES = {"fp32": Tolerance(1e-3, 0.99), "fp16": Tolerance(2e-2, 0.97),
              "int8": Tolerance(math.inf, 0.9, unsure_agreement=0.75, drop=0.02)}


class VerifyError(RuntimeError):
    """The outputs of the file differ from those of the torch model."""


@dataclass(frozen=True)
class Agreement:
    """The result of the comparison."""

    max_abs_difference: float
    top1_agreement: float
    accuracy: float  # of the file
    torch_accuracy: float


SAID_EVERY = 200  # images between two progress messages


def _watched(given: ExportInput, run: Run, i: int) -> np.ndarray:
    if i % SAID_EVERY == 0:
        given.attempts.doing(f"checking, {i} of {len(given.images)} images")
    return run(given.images[i:i + 1])


def verify(given: ExportInput, run: Run, precision: str, label: str) -> Agreement:
    """Run all images of the export input through `run`, one by one. VerifyError if a tolerance is exceeded."""
    tolerance = TOLERANCES[precision]
    if "logits" not in vars(given):
        given.attempts.doing(f"computing torch's outputs for {len(given.images)} images")
    expected = given.logits
    got = np.concatenate([_watched(given, run, i) for i in range(len(expected))])
    if got.shape != expected.shape:
        raise VerifyError(f"{label} has outputs of shape {got.shape}, but torch {expected.shape}")
    scale = float(np.abs(expected).max())
    difference = float(np.abs(got - expected).max())
    agreement = float((got.argmax(1) == expected.argmax(1)).mean())
    accuracy, torch_accuracy = (float((logits.argmax(1) == given.labels).mean()) for logits in (got, expected))
    is_unsure = agreement >= tolerance.unsure_agreement and torch_accuracy - accuracy <= tolerance.drop + ROUNDING
    # `not <=` and not `>`: a NaN in the outputs must fail
    hint = ("; try fp16, which rounds less, or int8 with other images (--calibration) or, for ONNX Runtime and mmrt, "
            "with --max-drop or --qat" if precision == "int8" else "")
    if not difference <= tolerance.difference * scale or not (agreement >= tolerance.agreement or is_unsure):
        limit = f" (at most {tolerance.difference * scale:.3g})" if math.isfinite(tolerance.difference) else ""
        unsure = (f", or {tolerance.unsure_agreement} if accuracy falls by at most {100 * tolerance.drop:g} points"
                  if tolerance.drop else "")
        raise VerifyError(
            f"{label} differs from torch: max |difference| {difference:.3g}{limit} with logits up to {scale:.3g},"
            f" top-1 agreement {agreement:.4f} over {len(got)} images (at least {tolerance.agreement}{unsure}), "
            f"accuracy {accuracy:.4f} against {torch_accuracy:.4f}; the file is kept for inspection but does not count "
            f"as exported{hint}")
    return Agreement(difference, agreement, accuracy, torch_accuracy)
