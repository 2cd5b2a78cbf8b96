#!/usr/bin/env python3
"""The file `run` of a bundle, beside the folder on_device; it starts on_device/run.py."""

import sys

if sys.version_info < (3, 8):
    sys.exit("Error: this needs Python 3.8 or newer, but {} is {}.{}".format(sys.executable, *sys.version_info[:2]))

from on_device.run import main

main(sys.argv[1:])
