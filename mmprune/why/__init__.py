"""Why a sparse model is as fast as it is: layer by layer, on every runtime."""
