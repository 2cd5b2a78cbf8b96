"""Runs .mmrt files by ctypes; standard library and numpy, Python 3.8. It needs libmmrt.so beside it.

    import mmrt
    model = mmrt.Model("model.mmrt", threads=2)
    logits, = model(image)                       # float32 (1, 3, 224, 224) -> [(1, 1000)]

MMRT_LIBRARY is the path of a library elsewhere; MMRT_ISA=avx2 forces the kernels of one instruction set.
"""

import ctypes
import json
import os
import platform

import numpy as np

_HERE = os.path.dirname(os.path.abspath(__file__))
_FLOATS = ctypes.POINTER(ctypes.c_float)
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
    arrays = ctypes.POINTER(_FLOATS)
    signatures = {
        "load": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(model)]),
        "free": (None, [model]),
        "input_count": (ctypes.c_int, [model]), "output_count": (ctypes.c_int, [model]),
        "input_name": (ctypes.c_char_p, [model, index]), "output_name": (ctypes.c_char_p, [model, index]),
        "input_shape": (ctypes.c_int, [model, index, dims]), "output_shape": (ctypes.c_int, [model, index, dims]),
        "run": (ctypes.c_int, [model, arrays, arrays]),
        "profile": (ctypes.c_int64, [model, arrays, arrays, ctypes.c_char_p, ctypes.c_size_t]),
        "version": (ctypes.c_char_p, []), "kernels": (ctypes.c_char_p, [model]), "last_error": (ctypes.c_char_p, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, "mmrt_" + name)
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

    def _arrays(self, arrays):
        """The checked, contiguous inputs, the outputs, and C arrays of pointers to both."""
        if len(arrays) != len(self.inputs):
            raise ValueError("the model has {} input(s), got {}".format(len(self.inputs), len(arrays)))
        if self._model is None:
            raise ValueError("the model is closed")
        ready = []
        for (name, shape), given in zip(self.inputs, arrays):
            array = np.asarray(given, np.float32, order="C")  # ascontiguousarray would turn a scalar into a vector
            if array.shape != shape:
                raise ValueError("input {} has shape {}, got {}".format(name, shape, array.shape))
            ready.append(array)
        made = [np.empty(shape, np.float32) for _, shape in self.outputs]
        return ready, made, _pointers(ready), _pointers(made)

    def __call__(self, *arrays):
        """Run one inference: arrays in the order of `inputs` -> list of float32 arrays in the order of `outputs`."""
        _inputs, made, pointers_in, pointers_out = self._arrays(arrays)
        self._check(self._lib.mmrt_run(self._model, pointers_in, pointers_out))
        return made

    def profile(self, *arrays):
        """Run one inference; for each step a dict of "name", "op", "kernel", "seconds" and what of its work is done.

        "macs" of the dense layer, "needed_macs" without its zeros, "done_macs" by the kernel; "sparse_below": the share
        of weights (int8: blocks of 1x4) that are not zero, under which a kernel that skips zeros is taken; 0: never.
        """
        _inputs, _made, pointers_in, pointers_out = self._arrays(arrays)
        size = 1 << 20
        while True:
            text = ctypes.create_string_buffer(size)
            needed = self._check(self._lib.mmrt_profile(self._model, pointers_in, pointers_out, text, size))
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
    return (_FLOATS * len(arrays))(*(a.ctypes.data_as(_FLOATS) for a in arrays))
