"""Converts an ONNX graph to the .mmrt file of runtime/FORMAT.md: read, fuse, lay out, lower, plan."""
