"""Reads torch.save files without running any code from them, whatever objects they hold.

A pickle is a program: it names functions and classes and calls them. Here every name is replaced by a class that stores
its arguments and does nothing (`Inert`), except those that create tensors, parameters and dicts. Tensors are first only
described, and created later when they are needed. Both formats are read: zip (since torch 1.6) and the older one.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of torch before 1.6
STORAGE_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
# Names that a weights file never needs: a file with one of them is malicious or not a weights file. The list only
# decides between a refusal and a note; nothing is called in either case.
HOSTILE_MODULES = {
    "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "pty", "runpy", "ctypes", "importlib", "codeop",
    "webbrowser", "commands", "pickle", "_pickle", "marshal", "pdb", "bdb", "timeit", "cProfile",
}
HOSTILE_NAMES = {"eval", "exec", "execfile", "compile", "__import__", "open", "input", "breakpoint", "globals",
                 "setattr", "delattr", "__getattribute__", "__subclasses__", "load", "load_state_dict_from_url"}
NAMED_THERE = {"builtins", "__builtin__", "io", "_io", "codecs", "numpy", "torch"}
ERRORS = (Exception,)  # a damaged pickle is a program without sense: it may raise whatever the unpickler can


class Inert:
    """Stands in for an object of the file: stores its arguments, state and items and does nothing."""

    args: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]  # the items, if the object is a subclass of dict

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        made = super().__new__(cls)
        made.args, made.state, made.entries = args, None, {}
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        return Inert(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, item: Any) -> None:
        """Called by the unpickler for the items of a subclass of list."""

    extend = add = append


class InertDict(dict[Any, Any]):
    """A dict, OrderedDict or defaultdict; its other attributes (the metadata of a state dict) are dropped."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*[a for a in args[:1] if isinstance(a, list | tuple | Mapping)])

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class Storage(Inert):
    """The bytes of a tensor, by their key in the file."""

    def __init__(self, key: str, dtype: torch.dtype, numel: int, offset: int = 0) -> None:
        self.key, self.dtype, self.numel, self.offset = key, dtype, numel, offset


class Described(Inert):
    """A tensor that is not created yet: size and strides over a storage."""

    def __init__(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...],
                 dtype: torch.dtype | None = None) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)
        self.dtype = dtype or storage.dtype


class Array(Inert):
    """A numpy array; its state is (version, shape, dtype, is_fortran, bytes)."""


class Maker:
    """A function of ours that the file may call, wrapped so that the file cannot modify it."""

    __slots__ = ("_function",)

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it modifies a function that creates tensors")


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Described:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return Described(storage, offset, size, stride)


def _tensor_of_dtype(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Described:
    """rest: whether it wants a gradient, hooks, its dtype, ..."""
    kind = getattr(torch, getattr(rest[2], "__name__", ""), None)
    if not isinstance(storage, Storage) or not isinstance(kind, torch.dtype):
        raise pickle.UnpicklingError("a tensor without a storage, or of a type that torch does not have")
    return Described(storage, offset, size, stride, kind)


def _encode(text: Any, encoding: Any = "") -> bytes:
    """bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in a form that torch.save does not write")
    return text.encode("latin-1")


def _first(value: Any = None, *_: Any) -> Any:
    return value


def _from_type(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    """The tensor inside a subclass of Tensor."""
    return function(*args) if isinstance(function, Maker) else Inert(*args)


MAKERS = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch._tensor", "_rebuild_from_type"): _from_type,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("_codecs", "encode"): _encode,
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy._core.multiarray", "_reconstruct"): Array,
}
DICTS = {("collections", "OrderedDict"), ("builtins", "dict"), ("__builtin__", "dict")}


@dataclass
class Reading:
    """What was read: the content with its tensors still only described, and the names in the pickle."""

    content: Any = None
    classes: dict[tuple[str, str], type] = field(default_factory=dict)  # (module, name) of every Inert class
    widths: dict[str, int] = field(default_factory=dict)  # bytes of one value of each storage
    storages: dict[str, bytearray] = field(default_factory=dict)  # those read so far
    archive: zipfile.ZipFile | None = None
    root: str = ""


class _Reader(pickle._Unpickler):
    """The Python unpickler, not the C one, in which a file of ten bytes can request a memo of 32 GiB."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]  # by the base class

    def __init__(self, file: BinaryIO, reading: Reading) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.reading = reading

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in MAKERS:
            return Maker(MAKERS[module, name])
        if (module, name) in DICTS:
            return InertDict
        if (module, name) == ("collections", "defaultdict"):
            return Maker(lambda *_: InertDict())
        if module.partition(".")[0] == "torch" and name in STORAGE_DTYPES:
            return type(name, (Inert,), {})
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return Maker(self._storage_of)
        known = self.reading.classes
        if (module, name) not in known:
            known[module, name] = type(name, (Inert,), {"__module__": module})
        return known[module, name]

    def _storage_of(self, data: Any) -> Storage:
        """A storage that contains a file of the old format, as written by pickle instead of torch.save."""
        inner = _read_old(io.BytesIO(data), Reading(classes=self.reading.classes))
        if not isinstance(inner.content, Storage):
            raise pickle.UnpicklingError("a storage of a wrong form")
        key = f"bytes {len(self.reading.storages)}"
        self.reading.storages[key] = inner.storages[inner.content.key]
        return Storage(key, inner.content.dtype, inner.content.numel, inner.content.offset)

    def load_bytearray8(self) -> None:
        """A bytearray of what is there; Python's own makes one of the length that the file claims."""
        self.dispatch[pickle.BINBYTES8[0]](self)
        self.stack.append(bytearray(self.stack.pop()))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def persistent_load(self, pid: Any) -> Any:
        """('storage', class, key, device, count) and, in the old format, None or (key, offset, count) of a view."""
        if not isinstance(pid, tuple) or len(pid) < 2 or pid[0] not in ("storage", "module"):
            raise pickle.UnpicklingError("an object that torch.save does not write")
        if pid[0] == "module":
            return pid[1]
        _, kind, key, _, numel, *view = pid
        dtype = STORAGE_DTYPES.get(getattr(kind, "__name__", ""))
        if dtype is None:
            raise pickle.UnpicklingError(f"a storage of the unknown type {getattr(kind, '__name__', kind)}")
        offset = view[0][1] if view and view[0] else 0
        self.reading.widths[str(key)] = dtype.itemsize
        return Storage(str(key), dtype, int(numel), int(offset))


def read(path: Path) -> Reading:
    """Read the file's structure. Raises one of ERRORS if it is damaged or not a torch.save file."""
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return _read_zip(path)
        file.seek(0)
        return _read_old(file, Reading())


def _read_zip(path: Path) -> Reading:
    archive = zipfile.ZipFile(path)
    at = next((n for n in archive.namelist() if n == "data.pkl" or n.endswith("/data.pkl")), None)
    if at is None:
        raise pickle.UnpicklingError("it has no data.pkl")
    reading = Reading(archive=archive, root=at[: -len("data.pkl")])
    if reading.root + "byteorder" in archive.namelist() and _entry(reading, "byteorder") != b"little":
        raise pickle.UnpicklingError("its bytes are in big-endian order")
    reading.content = _Reader(io.BytesIO(_entry(reading, "data.pkl")), reading).load()
    return reading


def _entry(reading: Reading, name: str) -> bytes:
    """One entry of the archive; it must be uncompressed, as torch.save writes it, so that it cannot expand."""
    if reading.archive is None:
        raise KeyError(name)
    if reading.archive.getinfo(reading.root + name).compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"{name} in it is compressed, which torch.save never does")
    return reading.archive.read(reading.root + name)


def _read_old(file: BinaryIO, reading: Reading) -> Reading:
    """The old format: pickles of magic, protocol, machine, content, storage keys; then count and bytes per storage."""
    first = _Reader(file, reading).load()
    if first != LEGACY_MAGIC:
        reading.content = first  # a plain pickle
        return reading
    for _ in range(2):
        _Reader(file, reading).load()
    reading.content = _Reader(file, reading).load()
    for key in _Reader(file, reading).load():
        (numel,) = struct.unpack("<q", file.read(8))
        count = numel * reading.widths[str(key)]
        data = bytearray(file.read(count) if count >= 0 else b"")
        if len(data) != count:
            raise EOFError(f"the storage {key} is cut off")
        reading.storages[str(key)] = data
    return reading


def make(value: Any, reading: Reading) -> Any:
    """The tensor for a described tensor or an array of numbers; anything else unchanged."""
    if isinstance(value, Described):
        key = value.storage.key
        if key not in reading.storages:
            reading.storages[key] = bytearray(_entry(reading, f"data/{key}"))
        data = reading.storages[key]
        flat = torch.frombuffer(data, dtype=value.dtype) if data else torch.empty(0, dtype=value.dtype)
        return flat.as_strided(value.size, value.stride, value.offset + value.storage.offset)  # checks its bounds
    if isinstance(value, Array) and isinstance(value.state, tuple) and len(value.state) == 5:
        return _array(*value.state[1:])
    return value


def _array(shape: tuple[int, ...], dtype: Any, fortran: bool, data: Any) -> Any:
    """A numpy array of numbers as a tensor; unchanged if it holds anything else."""
    words = dtype.args[0] if isinstance(dtype, Inert) and dtype.args else ""
    order = dtype.state[1] if isinstance(dtype, Inert) and isinstance(dtype.state, tuple) else "<"
    if not isinstance(data, bytes | str) or str(words)[:1] not in "biuf" or order == ">":
        return Inert()
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data  # str: written by Python 2
    made = np.frombuffer(raw, dtype=np.dtype(str(words))).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(made.copy(order="C"))


def hostile(reading: Reading) -> str | None:
    """The first name in the file that no weights file needs, such as posix.system; None if there is none."""
    for module, name in reading.classes:
        top = module.partition(".")[0]
        if top in HOSTILE_MODULES or (top in NAMED_THERE and HOSTILE_NAMES.intersection(name.split("."))):
            return f"{module}.{name}"
    return None


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor, or `make` gives a tensor for it."""
    return isinstance(value, Tensor | Described | Array)
