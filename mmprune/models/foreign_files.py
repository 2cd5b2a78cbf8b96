"""Files that hold no weights that mmprune reads: what each is, by its first bytes or its name, and the way out."""

import json
import tarfile
import zipfile
from pathlib import Path

STATE_DICT = "give its weights as torch.save(model.state_dict(), 'weights.pt')"
ORIGINAL = f"mmprune prunes the PyTorch model that it was made from: {STATE_DICT}"
SCRIPT = "is a TorchScript archive; its weights are torch.save(torch.jit.load({0!r}).state_dict(), 'weights.pt')"
EXPORTED = "is a program of torch.export; its weights are torch.save(torch.export.load({0!r}).state_dict, 'weights.pt')"
ARRAYS = ("holds numpy arrays; give them the model's names and save them with safetensors.numpy.save_file(arrays, "
          "'weights.safetensors')")
PACKED = "is a packed archive; unpack it and give the file of weights that is in it"
# torch's own tar format, of before 0.1.10, among them: reading it was a way in for foreign code.
TAR = ("is a tar archive: unpack it and give the file of weights that is in it; one that torch.save of torch 0.1 wrote "
       "must be loaded and saved anew with the torch of that time")
# first bytes -> what it is
HEADS = {
    b"\x89HDF\r\n\x1a\n": f"is an HDF5 file, of Keras or TensorFlow; {ORIGINAL}",
    b"GGUF": f"is a GGUF file; {ORIGINAL}",
    b"\x93NUMPY": ARRAYS,
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself: fetch it with git lfs pull",
    b"\x1f\x8b": PACKED, b"BZh": PACKED, b"\xfd7zXZ": PACKED, b"7z\xbc\xaf": PACKED, b"Rar!": PACKED,
    b"\x28\xb5\x2f\xfd": PACKED,
    b"MMRT": f"is an mmrt file; {ORIGINAL}",
    b"ftrt": f"is a TensorRT engine; {ORIGINAL}",
}
SUFFIXES = {
    ".onnx": f"is an ONNX file; {ORIGINAL}",
    ".tflite": f"is a TensorFlow Lite file; {ORIGINAL}",
    ".pb": f"is a graph of TensorFlow (or ONNX); {ORIGINAL}",
    ".h5": f"is an HDF5 file, of Keras or TensorFlow; {ORIGINAL}",
    ".hdf5": f"is an HDF5 file, of Keras or TensorFlow; {ORIGINAL}",
    ".xml": f"is an XML file, as OpenVINO's; {ORIGINAL}",
    ".mlmodel": f"is a Core ML model; {ORIGINAL}",
    ".engine": f"is a TensorRT engine; {ORIGINAL}",
    ".plan": f"is a TensorRT engine; {ORIGINAL}",
    ".mmrt": f"is an mmrt file; {ORIGINAL}",
    ".msgpack": f"is a file of Flax; {ORIGINAL}",
    ".pdparams": f"is a file of Paddle; {ORIGINAL}",
    ".caffemodel": f"is a file of Caffe; {ORIGINAL}",
    ".py": "is Python code: --model takes it (path/to/file.py:factory), --weights a file of tensors",
    ".yaml": "is a text file of settings; give the file of weights beside it",
    ".yml": "is a text file of settings; give the file of weights beside it",
}
HEAD_BYTES = 512
PICKLE = 0x80  # the first byte, of protocol 2 on


def foreign(path: Path) -> str | None:
    """What a file that neither torch.save nor safetensors wrote is, the rest of a sentence; None if they may have."""
    with open(path, "rb") as f:
        head = f.read(HEAD_BYTES)
    if not head:
        return "is empty: its download or its saving did not end; make it again"
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    known = next((words for magic, words in HEADS.items() if head.startswith(magic)), None)
    if known or is_safetensors(path):
        return known
    if _is_tar(path):
        return TAR
    return None if head[0] == PICKLE else _other(path, head)


def _other(path: Path, head: bytes) -> str:
    if head[4:8] == b"TFL3":
        return SUFFIXES[".tflite"]
    words = _text(path, head.lstrip()) or SUFFIXES.get(path.suffix.lower()) or _onnx(head)
    return words or "begins as neither does, so it is damaged or something else; " + STATE_DICT


def folder(path: Path) -> str:
    """What a folder given as weights holds, as the rest of a sentence."""
    if (path / "saved_model.pb").is_file():
        return f"is a SavedModel of TensorFlow; {ORIGINAL}"
    if any(path.glob("*.index.json")):
        return _shards(next(path.glob("*.index.json")))
    if (path / ".metadata").is_file():
        return ("is a folder of torch.distributed.checkpoint; make one file of it: "
                f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pt")
    files = sorted(p for s in (".safetensors", ".pt", ".pth", ".bin", ".ckpt") for p in path.glob(f"*{s}"))
    return f"is a folder; give the file in it{f', such as {files[0]}' if files else ''}"


def is_safetensors(path: Path) -> bool:
    """By its first bytes, the length of a header in JSON; or by its name, though it may be cut off."""
    with open(path, "rb") as f:
        head = f.read(9)
    begins = head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40
    return begins or (path.suffix.lower() == ".safetensors" and head[:1] not in b"\x80<{P")


def _zip(path: Path) -> str | None:
    try:
        names = zipfile.ZipFile(path).namelist()
    except zipfile.BadZipFile:
        return None  # cut off: torch.load's words say so
    inside = {*names, *(name.partition("/")[2] for name in names)}  # all lies in one folder, or not
    is_script = "constants.pkl" in inside or any(n.startswith("code/") for n in inside)
    is_exported = any("exported_program" in n or n.startswith("models/") for n in inside)
    if is_script or is_exported:
        return (SCRIPT if is_script else EXPORTED).format(str(path))
    return None if "data.pkl" in inside else _zip_of_others(names)


def _zip_of_others(names: list[str]) -> str:
    if names and all(n.endswith(".npy") for n in names):
        return ARRAYS
    if "config.json" in names and any(n.endswith(".h5") for n in names):
        return f"is a model of Keras; {ORIGINAL}"
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"is a zip archive of {first or 'nothing'}; unpack it and give the file of weights"


def _is_tar(path: Path) -> bool:
    """By the checksum of its first header, as torch.load looks for its own oldest format."""
    try:
        with tarfile.open(path, mode="r:"):
            return True
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        return False


def _text(path: Path, head: bytes) -> str | None:
    if head[:1] == b"{":
        return _shards(path)
    if head[:1] == b"<":
        return SUFFIXES[".xml"] if b"<net" in head else "is a web page, not weights: the download gave a page instead"
    return None


def _shards(path: Path) -> str:
    """Of a JSON file: the index of weights in several files, or anything else."""
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "is a JSON file; give the file of weights beside it"
    return (f"is the index of weights that lie in {len(names)} files ({names[0]} ...); join them: state = {{}}; "
            f"[state.update(safetensors.torch.load_file(f)) for f in files]; torch.save(state, 'weights.pt')")


def _onnx(head: bytes) -> str | None:
    """An ONNX file of another name: ir_version (field 1), then the producer's name (field 2) as its exporters write."""
    return SUFFIXES[".onnx"] if head[0] == 8 and head[2:3] in (b"\x12", b"\x1a", b"\x3a") else None
