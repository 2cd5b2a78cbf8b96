"""All that travels to a board: Python 3.8, the standard library, numpy and the runtimes."""
