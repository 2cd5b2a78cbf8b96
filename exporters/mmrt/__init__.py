"""From an ONNX graph to the .mmrt file of runtime/FORMAT.md: read, fused, laid out, lowered, planned."""
