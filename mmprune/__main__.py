"""`python -m mmprune`: the command line."""

from mmprune.cli import main

main()
