"""Pickles that mean harm, and those that only hold more than tensors: nothing of either is run."""

import contextlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmprune.models import inert_pickle
from mmprune.models.checkpoints import WeightsError, read_checkpoint

LEGACY = "_use_new_zipfile_serialization"


class Shell:
    """Calls whatever it is given when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def put_pickle(path: Path, data: bytes, legacy: bool = False) -> Path:
    """A file of torch.save whose pickle is `data`."""
    if legacy:
        head = (inert_pickle.LEGACY_MAGIC, 1001, {"little_endian": True})
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in head) + data + pickle.dumps([], 2))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", data)
            archive.writestr("w/version", "3\n")
            archive.writestr("w/byteorder", "little")
    return path


def hostile_pickles(mark: Path) -> dict[str, bytes]:
    """By the way in: each would make the file `mark`."""
    touch = f"touch {mark}".encode()
    text = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w')"

    def string(b: bytes) -> bytes:
        return b"X" + struct.pack("<I", len(b)) + b

    def dotted(module: bytes, name: bytes, args: bytes) -> bytes:  # protocol 4 looks names up along their dots
        return b"\x80\x04" + string(module) + string(name) + b"\x93" + args + b"R."

    one = string(touch) + b"\x85"
    return {
        "os.system": pickle.dumps(Shell(os.system, text), 2),
        "in a state dict": pickle.dumps({"state_dict": {"w": Shell(os.system, text)}}, 2),
        "eval": pickle.dumps(Shell(eval, code), 2),
        "exec": pickle.dumps([Shell(exec, code)], 4),
        "posix by name": b"\x80\x02cposix\nsystem\n" + one + b"R.",
        "python 2": b"\x80\x02c__builtin__\neval\n" + string(code.encode()) + b"\x85R.",
        "INST": b"\x80\x02(" + string(touch) + b"iposix\nsystem\n.",
        "OBJ": b"\x80\x02(cposix\nsystem\n" + string(touch) + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + string(touch) + b"\x85\x81.",
        "dotted": dotted(b"torch", b"serialization.os.system", one),
        "dotted storage": dotted(b"torch", b"FloatStorage.__init__.__globals__", one),
        "dotted rebuild": dotted(b"torch._utils", b"_rebuild_tensor_v2.__globals__.__getitem__", one),
        "getattr": b"\x80\x02cbuiltins\ngetattr\nctorch\nos\n" + string(b"system") + b"\x86R" + one + b"R.",
        "torch gadget": b"\x80\x02ctorch.utils.collect_env\nrun\n" + one + b"R.",
        "torch.hub": b"\x80\x02ctorch.hub\nload\n" + one + b"R.",
        "torch.load": b"\x80\x02ctorch.serialization\nload\n" + one + b"R.",
        "numpy gadget": b"\x80\x02cnumpy.testing._private.utils\nrunstring\n" + one + b"R.",
        "BUILD on a placeholder": b"\x80\x02cargparse\nNamespace\n)\x81}" + string(b"a") + b"cposix\nsystem\n" + one
        + b"Rsb.",
        "BUILD on a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}" + string(b"__defaults__")
        + b"cposix\nsystem\n" + b"\x85s\x86b.",
        "BUILD on a class": b"\x80\x02ccollections\nOrderedDict\n}" + string(b"__setitem__") + b"cposix\nsystem\nsb.",
        "partial": b"\x80\x02cfunctools\npartial\ncposix\nsystem\n" + string(touch) + b"\x86R)R.",
        "map": b"\x80\x02cbuiltins\nlist\ncbuiltins\nmap\ncposix\nsystem\n(" + string(touch) + b"l\x86R\x85R.",
        "__reduce_ex__ of a tensor": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\ncposix\nsystem\nN" + one + b"Nt.",
        "rebuild by a function": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\nN" + one + b"NtR.",
        "default factory": b"\x80\x02ccollections\ndefaultdict\ncposix\nsystem\n\x85R" + string(touch) + b"Ns.",
        "module of the old format": b"\x80\x02(" + string(b"module") + b"cposix\nsystem\n" + string(touch) * 2 + b"tQ.",
        "a memo of 32 GiB": b"\x80\x02cposix\nsystem\nr\xff\xff\xff\x7f" + one + b"R.",
        "4 GiB of nothing": b"\x80\x04cposix\nsystem\nB\xff\xff\xff\xff.",
        "8 EiB of nothing": b"\x80\x05cposix\nsystem\n\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "deep": b"\x80\x02cposix\nsystem\n" + b"(l" * 5000 + b"a" * 4999 + b"\x86.",
        "no opcode": b"\x80\x02cposix\nsystem\n\xff.",
        "extension": b"\x80\x02\x82\x01" + one + b"R.",
    }


NAMES = list(hostile_pickles(Path("x")))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", NAMES)
def test_hostile_pickles_run_nothing_and_are_refused(tmp_path, monkeypatch, name, legacy):
    mark = tmp_path / "mark"
    path = put_pickle(tmp_path / "w.pt", hostile_pickles(mark)[name], legacy)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"w\.pt"):
        read_checkpoint(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.pt"]
    # past torch's own check too
    with contextlib.suppress(inert_pickle.ERRORS):
        inert_pickle.read(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.pt"]


def test_no_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "bites.py").write_text("open('mark', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    put_pickle(tmp_path / "w.pt", b"\x80\x02cbites\nThing\n)R.")
    with pytest.raises(WeightsError, match=r"refused: it holds bites\.Thing"):
        read_checkpoint(tmp_path / "w.pt")
    assert not (tmp_path / "mark").exists()


def test_what_is_named_is_never_the_real_thing():
    reader = inert_pickle._Reader(io.BytesIO(), inert_pickle.Reading())
    for module, name in (("os", "system"), ("builtins", "getattr"), ("torch._utils", "_rebuild_tensor_v2"),
                         ("collections", "OrderedDict"), ("torch", "FloatStorage"), ("torch.nn", "Linear"),
                         ("collections", "defaultdict"), ("_codecs", "encode"), ("pathlib", "PosixPath")):
        found = reader.find_class(module, name)
        ours = type(found) if isinstance(found, inert_pickle.Maker) else found
        assert ours.__mro__[-2 if ours is not inert_pickle.InertDict else 0].__module__ == "mmprune.models.inert_pickle"


def test_weights_beside_a_call_of_the_system_are_refused_by_its_name(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "x": Shell(os.system, "true")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"refused.*posix\.system.*no code of it was run"):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "old"])
def test_every_kind_of_tensor_reads_as_torch_does(tmp_path, legacy):
    base = torch.arange(24.0)
    tied = torch.randn(3, 4)
    content = {
        **{str(t): torch.ones(2, 3).to(t) for t in set(inert_pickle.STORAGE_DTYPES.values())},
        "scalar": torch.tensor(3), "empty": torch.empty(0, 4), "view": base[4:16].view(3, 4),
        "column": base.view(4, 6)[:, 2],
        "transposed": base.view(4, 6).t(), "parameter": nn.Parameter(torch.randn(2, 2)), "tied": tied, "again": tied,
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "frozen": nn.Parameter(torch.ones(3), requires_grad=False), "expanded": torch.ones(1).expand(3),
    }
    if not legacy:
        content["float8"] = torch.ones(4).to(torch.float8_e4m3fn)
        content["uint16"] = torch.ones(4).to(torch.uint16)
    torch.save(OrderedDict(content), tmp_path / "w.pt", **{LEGACY: not legacy})
    reading = inert_pickle.read(tmp_path / "w.pt")
    made = {k: inert_pickle.make(v, reading) for k, v in reading.content.items()}
    assert set(made) == set(content)
    assert not reading.classes.keys() - {("torch", n) for n in ("float8_e4m3fn", "uint16")}
    for name, value in content.items():
        assert made[name].dtype == value.dtype and made[name].stride() == value.stride(), name
        assert torch.equal(made[name].float(), value.detach().float()), name
    assert made["tied"].data_ptr() == made["again"].data_ptr()


def test_numbers_of_numpy_become_tensors(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
              "c": np.array([3, 4], np.int64), "text": np.array(["x"]), "objects": np.array([None, {}], object)}
    torch.save({"model": arrays, "loss": np.float64(0.5)}, tmp_path / "w.pth")
    state = read_checkpoint(tmp_path / "w.pth").state
    assert sorted(state) == ["a", "b", "c"]
    assert all(np.array_equal(state[k].numpy(), arrays[k]) for k in state)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_state_dict_of_plain_pickle_is_read(tmp_path, protocol):
    state = {"a": torch.arange(6.0).view(2, 3).t(), "b": nn.Parameter(torch.ones(2)), "c": torch.tensor(3)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(state, protocol))
    read = read_checkpoint(tmp_path / "w.pkl").state
    assert set(read) == set(state) and all(torch.equal(read[k], state[k]) for k in state)
    inner = pickle.dumps(Shell(os.system, "true"), 2)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Shell(torch.storage._load_from_bytes, inner), protocol))
    with pytest.raises(WeightsError, match=r"w\.pkl"):
        read_checkpoint(tmp_path / "w.pkl")


def test_a_tensor_larger_than_its_bytes_is_damage(tmp_path):
    tensor = torch.ones(4)
    torch.save({"w": tensor, "x": defaultdict(int), "y": Shell(Path, "a")}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    big = {n: d.replace(b"K\x04\x85", b"M\xff\x7f\x85") if n.endswith("data.pkl") else d for n, d in parts.items()}
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as archive:
        for name, data in big.items():
            archive.writestr(name, data)
    with pytest.raises(WeightsError, match=r"big\.pt is not a complete torch\.save file"):
        read_checkpoint(tmp_path / "big.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "old"])
def test_cut_files_are_damage_at_every_length(tmp_path, legacy):
    torch.save({"state_dict": {"w": torch.ones(50)}, "x": Path("a")}, tmp_path / "w.pt", **{LEGACY: not legacy})
    assert read_checkpoint(tmp_path / "w.pt").state["w"].sum() == 50
    whole = (tmp_path / "w.pt").read_bytes()
    for length in (0, 1, 5, 40, len(whole) // 3, len(whole) // 2, len(whole) - 60, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.pt"):
            read_checkpoint(tmp_path / "cut.pt")


def test_a_bytearray_takes_the_memory_of_what_is_there(tmp_path):
    claimed = 2**28
    path = put_pickle(tmp_path / "short.pt", b"\x80\x05" + pickle.BYTEARRAY8 + struct.pack("<Q", claimed) + b"few")
    tracemalloc.start()
    try:
        with pytest.raises(inert_pickle.ERRORS):
            inert_pickle.read(path)
        assert tracemalloc.get_traced_memory()[1] < claimed / 16
    finally:
        tracemalloc.stop()
