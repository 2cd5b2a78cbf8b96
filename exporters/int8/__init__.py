"""How int8 files are made: ranges from calibration images, one module a quantizer."""
