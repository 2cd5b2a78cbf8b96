"""Runs .mmrt files by ctypes; standard library and numpy, Python 3.8. It needs libmmrt.so beside it.

    import mmrt
    model = mmrt.Model("model.mmrt", threads=2)
    logits, = model(image)                       # float32 (1, 3, 224, 224) -> [(1, 1000)]
    logits, = model(images)                      # (N, 3, 224, 224) -> [(N, 1000)], the same bits as one by one
    boxes, scores = model(image, mask)           # in the order of model.inputs and model.outputs

MMRT_LIBRARY is the path of a library elsewhere; MMRT_ISA=avx2 forces the kernels of one instruction set.
"""

import ctypes
import json
import os
import platform

import numpy as np

_HERE = os.path.dirname(os.path.abspath(__file__))
_library = None


class MmrtError(RuntimeError):
    """The library refused a file, or NaN or infinity in the input of a uint8 file; with the library's message."""


def _load_library():
    """The library, loaded once. MmrtError if it is missing or not for this machine."""
    global _library  # noqa: PLW0603  one library per process
    if _library is not None:
        return _library
    path = os.environ.get("MMRT_LIBRARY") or os.path.join(_HERE, "libmmrt.so")
    try:
        lib = ctypes.CDLL(path)
    except OSError as err:
        raise MmrtError("cannot load {} on this {} machine: {}; build it with `mmprune runtime build`, or copy the "
                        "library for this machine there".format(path, platform.machine(), err)) from err
    model, index, dims = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int64)
    arrays = ctypes.c_void_p  # an array of addresses, see _pointers
    signatures = {
        "load": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(model)]),
        "free": (None, [model]),
        "input_count": (ctypes.c_int, [model]), "output_count": (ctypes.c_int, [model]),
        "input_name": (ctypes.c_char_p, [model, index]), "output_name": (ctypes.c_char_p, [model, index]),
        "input_shape": (ctypes.c_int, [model, index, dims]), "output_shape": (ctypes.c_int, [model, index, dims]),
        "run": (ctypes.c_int, [model, arrays, arrays]),
        "run_batch": (ctypes.c_int, [model, ctypes.c_int64, arrays, arrays]),
        "profile": (ctypes.c_int64, [model, arrays, arrays, ctypes.c_char_p, ctypes.c_size_t]),
        "version": (ctypes.c_char_p, []), "kernels": (ctypes.c_char_p, [model]), "last_error": (ctypes.c_char_p, []),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(lib, "mmrt_" + name)
        except AttributeError:
            raise MmrtError("{} is older than {}, for it has no mmrt_{}: build it again, with `mmprune runtime build`"
                            .format(path, os.path.join(_HERE, "mmrt.py"), name)) from None
        function.restype, function.argtypes = result, arguments
    _library = lib
    return lib


def version():
    """The version of the library."""
    return _load_library().mmrt_version().decode()


def compiled_kernels():
    """The instruction sets that the library was built with, best first."""
    return _load_library().mmrt_kernels(None).decode().split(",")


class Model:
    """A .mmrt file, loaded and checked. Only one thread may use it at a time."""

    def __init__(self, path, threads=1):
        self._lib, self._model = _load_library(), ctypes.c_void_p()
        self._check(self._lib.mmrt_load(os.fsencode(path), threads, ctypes.byref(self._model)))
        self.inputs = self._ports("input")  # [(name, shape)]
        self.outputs = self._ports("output")
        self.kernels = self._lib.mmrt_kernels(self._model).decode()

    def _check(self, code):
        if code < 0:
            raise MmrtError(_text(self._lib.mmrt_last_error()))
        return code

    def _ports(self, kind):
        call = {what: getattr(self._lib, "mmrt_{}_{}".format(kind, what)) for what in ("count", "name", "shape")}
        found = []
        for i in range(call["count"](self._model)):
            dims = (ctypes.c_int64 * 8)()
            rank = call["shape"](self._model, i, dims)
            found.append((_text(call["name"](self._model, i)), tuple(dims[:rank])))
        return found

    def _count(self, shapes):
        """How often the file must run for inputs of these shapes: once, or N times for (N, ...) instead of (1, ...)."""
        if shapes == [shape for _, shape in self.inputs]:
            return 1
        counts = []
        for (name, shape), given in zip(self.inputs, shapes):
            if len(given) != len(shape) or given[1:] != shape[1:] or (shape[:1] != (1,) and given != shape):
                raise ValueError("input {} has shape {}{}, got {}".format(
                    name, shape, ", or any number in place of the 1" if shape[:1] == (1,) else "", given))
            counts += [given[0]] if shape[:1] == (1,) else []
        whole = [name for name, shape in self.inputs + self.outputs if shape[:1] != (1,)]
        if whole:
            raise ValueError("this model takes one sample at a time: the shape of {} does not begin with 1, so that "
                             "there is no place for a batch of {}".format(whole[0], max(counts)))
        if len(set(counts)) > 1:
            raise ValueError("the inputs have batches of different sizes: {}".format(
                ", ".join("{} {}".format(name, n) for (name, _), n in zip(self.inputs, counts))))
        return counts[0]

    def _inputs(self, arrays):
        """The inputs as C arrays."""
        if self._model is None:
            raise ValueError("the model is closed")
        if len(arrays) != len(self.inputs):
            raise ValueError("the model has {} input(s), {}; got {}".format(
                len(self.inputs), ", ".join(name for name, _ in self.inputs), len(arrays)))
        # ascontiguousarray would turn a scalar into a vector
        return [np.asarray(given, np.float32, order="C") for given in arrays]

    def __call__(self, *arrays):
        """Run: arrays in the order of `inputs` -> list of float32 arrays in the order of `outputs`.

        Where all shapes begin with 1, inputs may have any N in its place, the same N in all: one inference each.
        """
        ready = self._inputs(arrays)
        count = self._count([array.shape for array in ready])
        if count == 1:
            made = [np.empty(shape, np.float32) for _, shape in self.outputs]
            self._check(self._lib.mmrt_run(self._model, _pointers(ready), _pointers(made)))
        else:
            made = [np.empty((count, *shape[1:]), np.float32) for _, shape in self.outputs]
            self._check(self._lib.mmrt_run_batch(self._model, count, _pointers(ready), _pointers(made)))
        return made

    def profile(self, *arrays):
        """Run one inference; for each step a dict of "name", "op", "kernel", "seconds" and what of its work is done.

        "macs" of the dense layer, "needed_macs" without its zeros, "done_macs" by the kernel; "sparse_below": the share
        of weights (int8: blocks of 1x4) that are not zero, under which a kernel that skips zeros is taken; 0: never;
        "cost": what the choice of kernels takes it to cost, to compare with the same step's done otherwise; 0: unknown.
        """
        ready = self._inputs(arrays)
        if self._count([array.shape for array in ready]) != 1:
            raise ValueError("a profile is of one inference, not of a batch")
        made, size = [np.empty(shape, np.float32) for _, shape in self.outputs], 1 << 20
        while True:
            text = ctypes.create_string_buffer(size)
            needed = self._check(self._lib.mmrt_profile(self._model, _pointers(ready), _pointers(made), text, size))
            if needed <= size:
                return json.loads(_text(text.value))
            size = needed + 4096

    def close(self):
        """Free the memory; this also happens when the object is deleted."""
        if self._model is not None:
            self._lib.mmrt_free(self._model)
            self._model = None

    def __del__(self):
        if getattr(self, "_model", None):
            self.close()


def _text(content):
    """Names come from the file, and need not be UTF-8."""
    return content.decode("utf-8", "replace")


def _pointers(arrays):
    """A C array of their addresses."""
    return (ctypes.c_void_p * len(arrays))(*[_address(array) for array in arrays])


def _address(array):
    """Where it begins. A tenth of the time of array.ctypes.data, which counts where a model takes microseconds."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # it is read-only, or has no elements
        return array.ctypes.data
