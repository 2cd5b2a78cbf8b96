#!/usr/bin/env python3
"""What lies in a bundle as `run`, beside the folder on_device: starts on_device/run.py, which tells the rest."""

import sys

if sys.version_info < (3, 8):
    sys.exit("Error: this needs Python 3.8 or newer, and {} is {}.{}".format(sys.executable, *sys.version_info[:2]))

from on_device.run import main

main(sys.argv[1:])
