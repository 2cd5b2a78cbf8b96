"""Quantization to int8: ranges from calibration images, one module per quantizer."""
