"""What every format may need of an ONNX graph: names and shapes, zeros counted, channels removed."""
