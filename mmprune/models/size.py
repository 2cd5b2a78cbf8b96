"""Whether a model fits into the files that are made of it."""

from torch import nn

MOST_BYTES = 2**31  # of an ONNX file, a protobuf message, in which weights are float32


def too_large(model: nn.Module) -> str:
    """Why no ONNX file can hold the model's parameters, in words; "" if one can."""
    count = sum(p.numel() for p in model.parameters())
    if 4 * count < MOST_BYTES:
        return ""
    return (f"it has {count / 1e6:,.0f} million parameters, {4 * count / 2**30:.1f} GiB in float32, but an ONNX file, "
            f"from which all other files are made, holds {MOST_BYTES / 2**30:.0f} GiB: take a smaller one")
