"""mmprune: trained vision model in, measured sparse models and a choice out.

The command line is `mmprune --help`. From Python, import what you need by name (nothing heavy loads before that):
`from mmprune.family import build_family`.
"""

__version__ = "0.1.0"
