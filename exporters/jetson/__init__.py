"""What can be known here of files for a Jetson: what its TensorRT takes, and what 2:4 sparsity reaches."""
