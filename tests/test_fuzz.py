"""Hostile input: the fuzzers' corpus once more, inputs that were findings, and a few seconds of each fuzzer."""

import importlib.util
import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from exporters.mmrt import file as f
from fuzz.loaders import LOADERS, ROOT, Finding, feed
from fuzz.seeds import SEEDS
from mmprune.data import npz
from targets.host import Host

CORPUS = ROOT / "fuzz" / "corpus"
NESTED = 100_000  # lists in lists: more than any reader of JSON or TOML goes down
LARGEST = 300_000  # bytes of all files of the corpus


def onnx_file(nodes, constants=(), output=(1, 3, 4, 4)) -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("input", (1, 3, 4, 4)), ("logits", output))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def filled(*shape) -> bytes:
    """A constant of so many elements, of which the file says no more than its shape."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["c"]), helper.make_node("ReduceSum", ["c"], ["sum"]),
             helper.make_node("Add", ["input", "sum"], ["logits"])]
    return onnx_file(nodes, [onnx.numpy_helper.from_array(np.array(shape), "shape")])


def outside() -> bytes:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../../../../../../etc/passwd")
    return onnx_file([helper.make_node("Mul", ["input", "w"], ["logits"])], [weight])


def padded(count) -> bytes:
    pads = onnx.numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, count, count]), "pads")
    return onnx_file([helper.make_node("Pad", ["input", "pads"], ["logits"])], [pads], "nchw")


def arrays(**named) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def single_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def beyond_unicode() -> np.ndarray:
    """Two names, one with a character that Unicode does not have."""
    return np.array([0x110000, 0x41], np.uint32).view("<U1")


def not_text() -> bytes:
    """An .mmrt file with a node, an input and an output whose names are not UTF-8."""
    view = [0, 0, 0, 1, 4, 1]  # four elements at the arena's start
    name = struct.pack("<i4s", 2, b"\xff\xe9\0\0")
    copy = name + f.pack_words([0, 0, 16, 1, 4, 1, *view])
    plan = (f.pack_words([128, 1]) + name + f.pack_words([*view, 1]) + name
            + f.pack_words([0, 0, 16, 1, 4, 1, 1, f.COPY, len(copy) // 4]) + copy)
    return f.pack_file({"PLAN": plan, "DATA": b"", "META": b"{}"})


def archive(*entries) -> bytes:
    """A tar of (name, kind, what a link leads to)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, link in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, link
            tar.addfile(entry)
    return buffer.getvalue()


def leading_out(number, key) -> bytes:
    """A file of a family, as SEEDS has it, in which a name leads out of the folder."""
    content = next(c for c in SEEDS["records"]() if c[0] == number)
    return bytes([number]) + json.dumps({**json.loads(content[1:]), key: "../elsewhere"}).encode()


IMAGES = np.zeros((2, 4, 4, 3), np.uint8)
# Each was a traceback, a program that ran, or memory without a bound, before it was refused in words
HOSTILE = [
    ("image", next(c for c in SEEDS["image"]() if c.startswith(b"%!PS")), "it is EPS; save it as PNG or JPEG"),
    ("npz", single_array(), "is a single array"),
    ("npz", arrays(images=IMAGES, labels=np.array(1)), "must have the shape"),
    ("npz", arrays(images=IMAGES, labels=np.arange(2), classes=beyond_unicode()), "cannot be read"),
    ("class_names", b"{\"a\": " + b"[" * NESTED, "is not valid JSON"),
    ("class_names", b"{\"a\": " + b"1" * 5000 + b"}", "is not valid JSON"),
    *((name, b"a = " + b"[" * NESTED, "nested too deeply") for name in ("gate", "target", "fleet", "ranges")),
    ("gate", b"a = " + b"1" * 5000, "limit"),
    ("target", b'like = "board.toml"', "no target called 'board.toml'"),
    ("target", b"like = 3", "no target called 3"),
    *(("records", bytes([number]) + b"[" * NESTED + b"\n", "nested too deeply") for number in range(5)),
    *(("records", leading_out(number, key), "leads out of the family's folder")
      for number, key in ((0, "dense"), (3, "id"), (4, "variant"), (4, "path"))),
    ("deployed", b"[" * NESTED, "is damaged"),
    ("host", b"ssh://-oProxyCommand", "is not a valid host"),
    ("host", b"-oProxyCommand=id", "is not a valid host"),
    ("host", b"pi@-l", "is not a valid host"),
    ("onnx", b"\x08", "cannot be read as ONNX"),
    ("onnx", outside(), "cannot be read as ONNX"),
    ("onnx", filled(10**6, 10**6), "would have the shape"),
    ("onnx", padded(10**8), "at most"),
    ("bundle", archive(("b/../../x", tarfile.REGTYPE, "")), "leads out of the bundle's folder"),
    ("bundle", archive(("/x", tarfile.REGTYPE, "")), "leads out of the bundle's folder"),
    ("bundle", archive(("b/x", tarfile.SYMTYPE, "../../x")), "is a link or a device"),
    ("bundle", archive(("b/x", tarfile.LNKTYPE, "/etc/passwd")), "is a link or a device"),
]


@pytest.mark.parametrize("name", LOADERS)
def test_the_corpus_is_read_or_refused(name, tmp_path):
    inputs = [*SEEDS[name](), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]
    words = [feed(name, content, tmp_path) for content in inputs]
    assert "" in words, "nothing is read"


@pytest.mark.parametrize(("name", "content", "words"), HOSTILE, ids=lambda v: v[:30] if isinstance(v, str) else "")
def test_what_is_hostile_is_refused_in_words(name, content, words, tmp_path):
    assert words in feed(name, content, tmp_path)


def test_an_archive_of_arrays_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((3000, 64, 64, 3), np.uint8), labels=np.arange(3000) % 2)
    assert len(buffer.getvalue()) < 100_000
    assert feed("npz", buffer.getvalue(), tmp_path) == ""
    monkeypatch.setattr(npz, "memory_bytes", lambda: 2**25)
    assert "GiB of memory" in feed("npz", buffer.getvalue(), tmp_path)


@pytest.mark.parametrize("name", ["pi@pi5.local", "jetson", "pi@[fe80::1%eth0]", "ssh://pi@10.0.0.7:2222"])
def test_a_good_host_is_taken(name):
    assert Host(name).name == name


def test_the_guard_sees_what_it_forbids(tmp_path, monkeypatch):
    room = tmp_path / "room"
    room.mkdir()
    for does, words in ((lambda path: (tmp_path / "x").write_bytes(b""), "to write, which is outside"),
                        (lambda path: Path("/etc/passwd").read_bytes(), "to read, which is outside"),
                        (lambda path: path.rename(tmp_path / "x"), "os.rename"),
                        (lambda path: subprocess.run(["true"], check=True), "subprocess.Popen"),
                        (lambda path: path.with_name("link").symlink_to("x") or (room / "link").unlink(), "")):
        loader = LOADERS["host"]
        monkeypatch.setitem(LOADERS, "host", type(loader)(does, loader.errors, loader.file, ()))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr("fuzz.loaders.TEMPORARY", "/nowhere")
        if words:
            with pytest.raises(Finding, match=words):
                feed("host", b"", room)
        else:
            assert feed("host", b"", room) == ""


def test_the_corpus_is_small_and_of_loaders_that_there_are():
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < LARGEST
    assert {path.name for path in CORPUS.iterdir()} <= set(SEEDS)


def test_seeds_of_mmrt_have_every_operation(monkeypatch):
    found, pack = set(), f.pack_op
    monkeypatch.setattr(f, "pack_op", lambda opcode, *rest: found.add(opcode) or pack(opcode, *rest))
    assert list(SEEDS["mmrt"]())
    assert found == set(range(f.LINEAR, f.QMATMUL + 1))


RUN_ALL = """
import sys, numpy
from exporters.to_mmrt import load_runtime
mmrt = load_runtime()
for path in sys.argv[1:]:
    try:
        model = mmrt.Model(path, threads=1)
        model(*[numpy.ones(shape, numpy.float32) for _, shape in model.inputs])
        model.profile(*[numpy.ones(shape, numpy.float32) for _, shape in model.inputs])
        print("ran")
    except mmrt.MmrtError as err:
        print("refused", str(err).strip() != "")
"""


def test_the_corpus_of_mmrt_runs_or_is_refused(tmp_path):
    """And a file whose names are not text. In a process of its own, without sanitizers; the fuzzer, which has them,
    begins with the same files."""
    from exporters import ExportError
    from exporters.to_mmrt import load_runtime

    try:
        load_runtime()
    except ExportError as err:
        pytest.skip(str(err))
    (tmp_path / "names").write_bytes(not_text())
    files = [tmp_path / "names", *sorted((CORPUS / "mmrt").glob("*"))]
    done = subprocess.run([sys.executable, "-c", RUN_ALL, *files], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split("\n")[:-1]
    assert len(words) == len(files) and {"ran", "refused True"} == set(words) and words[0] == "ran"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmrt", *LOADERS])
def test_a_short_run_of_each_fuzzer(name, tmp_path):
    """The same inputs every time, so that a finding is of the change that is tested; `make fuzz` looks for new ones."""
    if name == "mmrt" and shutil.which("clang++") is None:
        pytest.skip("needs clang++: apt-get install clang")
    if name != "mmrt" and not importlib.util.find_spec("atheris"):
        pytest.skip("needs atheris: pip install 'mmprune[fuzz]'")
    out = tmp_path / "rows.jsonl"
    only = "mmrt-scalar" if name == "mmrt" else name
    done = subprocess.run([sys.executable, "-m", "fuzz.run", "--seconds", "30", "--runs", "300", "--only", only,
                           "--out", out], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row, = map(json.loads, out.read_text().splitlines())
    assert row["executions"] > 0 and row["found"] == 0
