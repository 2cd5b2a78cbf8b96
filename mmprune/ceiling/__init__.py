"""The most that sparsity can give a model on a device, measured before any training."""
