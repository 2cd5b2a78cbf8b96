"""Opens models in ONNX Runtime, OpenVINO and mmrt: on this machine, on a board and in a deployed folder.

Timing, golden outputs, the check of exported files and infer.py all use it, so that threads and settings are the same.
This file imports no other module of ours: Python 3.8, the standard library, numpy and the runtimes.

A runtime is a function (model's path, threads) -> Opened. To add one, add a function and a row in RUNTIMES.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import sys
import time
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

if TYPE_CHECKING:
    import numpy

SEED = 0


class Opened(NamedTuple):
    """A model in its runtime."""

    shapes: Sequence[Sequence[Any]]  # of the inputs in their order; a dimension that is not fixed is not a number
    # a function (one array per input) -> a function () -> outputs, which runs one inference; outputs[0] is the first;
    # in a list, or with OpenVINO in a dict of that order
    step: Callable[..., Callable[[], Any]]
    settings: Dict[str, str]  # the runtime's settings as text, for the record
    model: Any  # the runtime's own object


def open_onnxruntime(model: Union[str, bytes], threads: int, config: Iterable[Tuple[str, str]] = (),
                     profile: Optional[str] = None) -> Opened:
    """Open in ONNX Runtime. `model` may also be a file's bytes. `config`: pairs for its session configuration.

    profile  the beginning of the path of a file that end_profiling() then writes; None: nothing is profiled
    """
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only: warnings about unused initializers do not help users
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    for key, value in config:
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    names = [i.name for i in inputs]

    def step(*arrays: "numpy.ndarray") -> Callable[[], Any]:
        return functools.partial(session.run, None, dict(zip(names, arrays)))  # noqa: B905  Python 3.8 has no `strict`

    return Opened([i.shape for i in inputs], step, {"provider": "CPU", "execution": "sequential"}, session)


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Disable telemetry: OpenVINO and NNCF report to a server of their makers, OpenVINO on every import.

    They then use their stub for the missing package. Their own switches come too late: they are read after a client id
    has been written to the home folder.
    """
    hidden = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it now fails
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]
        if hidden is not None:
            sys.modules["openvino_telemetry"] = hidden


def open_openvino(path: str, threads: int, counting: bool = False) -> Opened:
    """Open in OpenVINO. `counting`: whether it takes the time of every step (PERF_COUNT)."""
    with no_telemetry():
        import openvino
    # f32 is the model's own precision: by default OpenVINO rounds to bf16 on CPUs that have it
    asked = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", dict(asked, PERF_COUNT=True) if counting else asked)
    request = model.create_infer_request()

    def step(*arrays: "numpy.ndarray") -> Callable[[], Any]:
        for port, array in zip(model.inputs, arrays):  # noqa: B905  Python 3.8 has no `strict`
            request.set_tensor(port, openvino.Tensor(array))
        infer: Callable[[], Any] = request.infer
        return infer

    shapes = [[n.get_length() if n.is_static else None for n in port.partial_shape] for port in model.inputs]
    return Opened(shapes, step, {"precision": model.get_property("INFERENCE_PRECISION_HINT").to_string(),
                                 "streams": str(model.get_property("NUM_STREAMS")),
                                 "pinning": str(model.get_property("ENABLE_CPU_PINNING")).lower()}, model)


def open_mmrt(path: str, threads: int, mmrt: Optional[ModuleType] = None) -> Opened:
    """Open in mmrt. `mmrt`: the module, if it is not beside the program and not on PYTHONPATH."""
    model = (mmrt or importlib.import_module("mmrt")).Model(path, threads)
    return Opened([shape for _, shape in model.inputs], lambda *arrays: functools.partial(model, *arrays),
                  {"kernels": model.kernels}, model)


def mmrt_version() -> Optional[str]:
    """mmrt's version; None if there is no library for this machine."""
    try:
        found: str = importlib.import_module("mmrt").version()
        return found
    except Exception as err:  # no module, no library, or one built for another machine
        print("mmrt: {}".format(err), file=sys.stderr)
        return None


def open_null(path: str, threads: int) -> Opened:
    """A runtime that only sleeps 1 ms, for tests without an installed runtime."""
    with open(path, "rb"):
        return Opened([], lambda: lambda: time.sleep(0.001), {"sleep_s": "0.001"}, None)


def version(packages: Iterable[str]) -> Optional[str]:
    """The version of the first installed package of these, else None, without importing, which may be slow or crash."""
    for name in packages:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


class Runtime(NamedTuple):
    """A row of RUNTIMES."""

    open: Callable[[str, int], Opened]
    module: str  # what must be imported
    version: Callable[[], Optional[str]]  # None if it is not installed
    packages: Tuple[str, ...]  # its names for pip


RUNTIMES = {
    "mmrt": Runtime(open_mmrt, "mmrt", mmrt_version, ()),
    "onnxruntime": Runtime(open_onnxruntime, "onnxruntime", lambda: version(["onnxruntime", "onnxruntime-gpu"]),
                           ("onnxruntime",)),
    "openvino": Runtime(open_openvino, "openvino", lambda: version(["openvino"]), ("openvino",)),
    "null": Runtime(open_null, "", lambda: "", ()),
}


def random_input(shape: Sequence[Any]) -> "numpy.ndarray":
    """A float32 array from a fixed seed; an unknown batch size (first dimension) is 1."""
    import numpy
    known = [1 if i == 0 and not isinstance(n, int) else n for i, n in enumerate(shape)]
    if not all(isinstance(n, int) and n > 0 for n in known):
        raise SystemExit("the model's input has no fixed shape: {}; export it for one image size".format(list(shape)))
    return numpy.random.default_rng(SEED).standard_normal(known, dtype=numpy.float32)


def timed_step(opened: Opened) -> Callable[[], Any]:
    """step() on inputs made from a fixed seed."""
    return opened.step(*[random_input(shape) for shape in opened.shapes])


def all_answers(opened: Opened) -> Callable[..., List["numpy.ndarray"]]:
    """A function: an array for each input -> a list with a copy of each output."""
    import numpy

    def run(*arrays: "numpy.ndarray") -> List["numpy.ndarray"]:
        found = opened.step(*arrays)()
        return [numpy.array(one) for one in (found if isinstance(found, (list, tuple)) else found.values())]

    return run


def answers(opened: Opened) -> Callable[["numpy.ndarray"], "numpy.ndarray"]:
    """A function: image (1, C, H, W) float32 -> a copy of the first output, (1, classes)."""
    import numpy
    return lambda image: numpy.array(opened.step(image)()[0])
