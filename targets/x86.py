"""x86-64 machines: edge boxes, laptops and servers, measured where mmprune runs."""

RUNTIMES = {"mmrt": "mmrt", "onnxruntime": "onnx", "openvino": "openvino"}  # the format that each runs
THREADS = 1  # the least disturbed measurement; give more to learn how a model scales
PATTERN = "unstructured"
