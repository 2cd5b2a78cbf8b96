"""A Python that has NVIDIA's own ONNX parser, and the mark of the tests that need it."""

import os
import sys

import pytest

TENSORRT_PYTHON = os.environ.get("MMPRUNE_TENSORRT_PYTHON", sys.executable)  # one that has tensorrt_rtx
needs_tensorrt_rtx = pytest.mark.usefixtures("tensorrt_rtx")
