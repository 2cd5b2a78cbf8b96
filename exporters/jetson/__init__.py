"""Checks of files for a Jetson without a Jetson: what its TensorRT accepts, and where 2:4 sparsity applies."""
