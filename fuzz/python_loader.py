"""Fuzzes one loader of fuzz/loaders.py with atheris: python -m fuzz.python_loader LOADER [libFuzzer's options] CORPUS

atheris is libFuzzer for Python: it changes inputs so that more branches of the loader's packages are taken.
"""

import importlib
import logging
import sys
import tempfile
from pathlib import Path

import atheris

from fuzz import loaders

OURS = ("mmprune", "exporters", "targets")


def prepare(name: str) -> None:
    with tempfile.TemporaryDirectory() as room:
        loaders.prepare(name, Path(room))


def main() -> None:
    name, *options = sys.argv[1:]
    modules = loaders.LOADERS[name].modules
    prepare(name)  # what is heavy is imported here, as it is
    for module in [m for m in sys.modules if m.startswith((*modules, *OURS))]:
        del sys.modules[module]
    with atheris.instrument_imports(include=list(modules)):
        for module in modules:
            importlib.import_module(module)
        prepare(name)
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as room:
        def one(content: bytes) -> None:
            loaders.feed(name, content, Path(room))

        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
