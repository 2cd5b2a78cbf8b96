"""Tools for ONNX graphs that all formats share: names and shapes, counting zeros, removing channels."""
