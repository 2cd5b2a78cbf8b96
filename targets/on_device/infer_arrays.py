"""Runs the model beside it on arrays: python3 infer.py inputs.npz --out outputs.npz.

inputs.npz has an array for each input, by its name in model.json; where the model's begin with 1, any number of
samples. A model with one input also takes an .npy file. From Python, with this folder in sys.path: infer.load() returns
a Model.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
import zipfile
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

# Neighbouring modules and pip packages are imported where they are used, to report a missing one in one sentence
if TYPE_CHECKING:
    import numpy

HERE = pathlib.Path(__file__).resolve().parent
MODEL = "model.json"
RUNS = 100  # of --bench


class Model(NamedTuple):
    """The model of a folder."""

    inputs: List[str]  # names
    outputs: List[str]
    run: Callable[..., List["numpy.ndarray"]]  # an array for each input -> a list of arrays
    shapes: List[Tuple[Any, ...]]  # of one run's inputs


class Refused(Exception):
    """The arrays are not what the model takes; the message says what it takes."""


def load() -> Model:
    """The model of this folder."""
    import runtimes
    model = json.loads((HERE / MODEL).read_text(encoding="utf-8"))
    opened = runtimes.RUNTIMES[model["runtime"]].open(str(HERE / model["model"]), model["threads"])
    return Model(model["inputs"], model["outputs"], runtimes.all_answers(opened), [tuple(s) for s in opened.shapes])


def run(model: Model, given: Mapping[str, "numpy.ndarray"]) -> Dict[str, "numpy.ndarray"]:
    """{name: array} of the outputs; given: {name: array} of the inputs. Samples run one by one. Refused."""
    import numpy
    if set(given) != set(model.inputs):
        raise Refused("the model takes {}, got {}".format(", ".join(model.inputs), ", ".join(given) or "nothing"))
    arrays = [numpy.asarray(given[name], numpy.float32) for name in model.inputs]
    if [array.shape for array in arrays] == model.shapes:
        return dict(zip(model.outputs, model.run(*arrays)))  # noqa: B905  Python 3.8 has no `strict`
    for name, array, shape in zip(model.inputs, arrays, model.shapes):  # noqa: B905
        if shape[:1] != (1,) or array.shape[1:] != shape[1:] or len(array) != len(arrays[0]) or not len(array):
            raise Refused("{} has shape {}; the model takes {}{}".format(
                name, array.shape, shape, " or the same N in place of the 1 of all" if shape[:1] == (1,) else ""))
    parts = [model.run(*[array[i:i + 1] for array in arrays]) for i in range(len(arrays[0]))]
    whole = [numpy.stack if part.shape[:1] != (1,) else numpy.concatenate for part in parts[0]]
    return {name: join(list(arrays)) for name, join, arrays in zip(model.outputs, whole, zip(*parts))}  # noqa: B905


def read(path: str, model: Model) -> Dict[str, "numpy.ndarray"]:
    """{name: array} of an .npz file, or of an .npy file for a model with one input."""
    import numpy
    try:
        loaded = numpy.load(path)  # never pickled objects
    except (OSError, ValueError) as err:
        raise Refused("{} is no .npz or .npy file: {}".format(path, err)) from err
    if isinstance(loaded, numpy.ndarray):
        if len(model.inputs) > 1:
            raise Refused("the model has several inputs, {}: give an .npz file".format(", ".join(model.inputs)))
        return {model.inputs[0]: loaded}
    return dict(loaded)


def bench(model: Model) -> str:
    """A line with the latency of one inference on noise."""
    import numpy
    random, seconds = numpy.random.default_rng(0), []
    arrays = [random.standard_normal(shape).astype(numpy.float32) for shape in model.shapes]
    for i in range(-RUNS // 10, RUNS):
        began = time.perf_counter()
        model.run(*arrays)
        seconds += [time.perf_counter() - began] if i >= 0 else []
    p90 = sorted(seconds)[len(seconds) * 9 // 10]
    return "p50 {:.3f} ms, p90 {:.3f} ms over {} runs".format(statistics.median(seconds) * 1e3, p90 * 1e3, RUNS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the model on arrays.")
    parser.add_argument("inputs", metavar="INPUTS", nargs="?", help="such as inputs.npz, an array for each input")
    parser.add_argument("--out", help="such as outputs.npz, for an array for each output")
    parser.add_argument("--bench", action="store_true", help="print the latency of this machine")
    asked = parser.parse_args()
    if not asked.inputs and not asked.bench:
        parser.error("give INPUTS or --bench")
    try:
        model = load()
        if asked.bench:
            print(bench(model))
        if not asked.inputs:
            return
        found: Dict[str, Any] = run(model, read(asked.inputs, model))
    except ModuleNotFoundError as err:
        packages = json.loads((HERE / MODEL).read_text(encoding="utf-8"))["packages"]
        sys.exit("infer.py: {}; it needs {}: pip install {}".format(err, ", ".join(packages), " ".join(packages)))
    except Refused as err:
        sys.exit("infer.py: {}".format(err))
    for name, array in found.items():
        print("{} {}: {:.6g} to {:.6g}".format(name, array.shape, array.min(), array.max()))
    if asked.out:
        import numpy
        with zipfile.ZipFile(asked.out, "w") as archive:  # an output may be called as a parameter of numpy.savez is
            for name, array in found.items():
                with archive.open(name + ".npy", "w", force_zip64=True) as f:
                    numpy.lib.format.write_array(f, array, allow_pickle=False)


if __name__ == "__main__":
    main()
