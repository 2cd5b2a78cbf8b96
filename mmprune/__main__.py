"""`python -m mmprune`: the command line."""

from mmprune.cli.commands import main

main()
