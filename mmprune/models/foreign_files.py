"""Files that are not weights that mmprune reads: what each is (by its first bytes or name) and what to do instead."""

import json
import tarfile
import zipfile
from pathlib import Path

STATE_DICT = "give its weights as torch.save(model.state_dict(), 'weights.pt')"
ORIGINAL = f"mmprune prunes the original PyTorch model: {STATE_DICT}"
SCRIPT = "is a TorchScript archive; get its weights by torch.save(torch.jit.load({0!r}).state_dict(), 'weights.pt')"
EXPORTED = "is a torch.export program; get its weights by torch.save(torch.export.load({0!r}).state_dict, 'weights.pt')"
ARRAYS = ("holds numpy arrays; rename them as in the model and save them with safetensors.numpy.save_file(arrays, "
          "'weights.safetensors')")
PACKED = "is a compressed archive; unpack it and give the weights file inside"
# This includes torch's own tar format from before 0.1.10: reading it could run code from the file.
TAR = ("is a tar archive: unpack it and give the weights file inside; if torch.save of torch 0.1 wrote it, load it and "
       "save it again with torch of that time")
# first bytes -> what it is
HEADS = {
    b"\x89HDF\r\n\x1a\n": f"is an HDF5 file (Keras or TensorFlow); {ORIGINAL}",
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
    ".pb": f"is a TensorFlow graph (or ONNX); {ORIGINAL}",
    ".h5": f"is an HDF5 file (Keras or TensorFlow); {ORIGINAL}",
    ".hdf5": f"is an HDF5 file (Keras or TensorFlow); {ORIGINAL}",
    ".xml": f"is an XML file (such as OpenVINO's); {ORIGINAL}",
    ".mlmodel": f"is a Core ML model; {ORIGINAL}",
    ".engine": f"is a TensorRT engine; {ORIGINAL}",
    ".plan": f"is a TensorRT engine; {ORIGINAL}",
    ".mmrt": f"is an mmrt file; {ORIGINAL}",
    ".msgpack": f"is a Flax file; {ORIGINAL}",
    ".pdparams": f"is a Paddle file; {ORIGINAL}",
    ".caffemodel": f"is a Caffe file; {ORIGINAL}",
    ".py": "is Python code: pass it as --model path/to/file.py:factory; --weights expects a file of tensors",
    ".yaml": "is a text file of settings; give the weights file instead",
    ".yml": "is a text file of settings; give the weights file instead",
}
HEAD_BYTES = 512
PICKLE = 0x80  # the first byte, of protocol 2 on


def foreign(path: Path) -> str | None:
    """The rest of the sentence "it ..." for a file that is not from torch.save or safetensors; None if it may be."""
    with open(path, "rb") as f:
        head = f.read(HEAD_BYTES)
    if not head:
        return "is empty: downloading or saving it was interrupted; repeat that"
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
    return words or "does not begin like either of these, so it is damaged or something else; " + STATE_DICT


def folder(path: Path) -> str:
    """The rest of the sentence "<path> ..." for a folder that was given as weights."""
    if (path / "saved_model.pb").is_file():
        return f"is a TensorFlow SavedModel; {ORIGINAL}"
    if any(path.glob("*.index.json")):
        return _shards(next(path.glob("*.index.json")))
    if (path / ".metadata").is_file():
        return ("is a torch.distributed.checkpoint folder; convert it to one file: "
                f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pt")
    files = sorted(p for s in (".safetensors", ".pt", ".pth", ".bin", ".ckpt") for p in path.glob(f"*{s}"))
    return f"is a folder; give a file in it{f', such as {files[0]}' if files else ''}"


def is_safetensors(path: Path) -> bool:
    """Whether it is a safetensors file, by its first bytes (the length of a JSON header) or, if cut off, its name."""
    with open(path, "rb") as f:
        head = f.read(9)
    begins = head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40
    return begins or (path.suffix.lower() == ".safetensors" and head[:1] not in b"\x80<{P")


def _zip(path: Path) -> str | None:
    try:
        names = zipfile.ZipFile(path).namelist()
    except Exception:  # cut off, or damaged in one of many ways: torch.load's message says so
        return None
    inside = {*names, *(name.partition("/")[2] for name in names)}  # with or without a common top folder
    is_script = "constants.pkl" in inside or any(n.startswith("code/") for n in inside)
    is_exported = any("exported_program" in n or n.startswith("models/") for n in inside)
    if is_script or is_exported:
        return (SCRIPT if is_script else EXPORTED).format(str(path))
    return None if "data.pkl" in inside else _zip_of_others(names)


def _zip_of_others(names: list[str]) -> str:
    if names and all(n.endswith(".npy") for n in names):
        return ARRAYS
    if "config.json" in names and any(n.endswith(".h5") for n in names):
        return f"is a Keras model; {ORIGINAL}"
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"is a zip archive with {first or 'nothing'}; unpack it and give the weights file"


def _is_tar(path: Path) -> bool:
    """Whether it is a tar archive, by the checksum of its first header (torch.load detects its oldest format so)."""
    try:
        with tarfile.open(path, mode="r:"):
            return True
    except Exception:  # of tarfile, and of what a damaged header leads it to
        return False


def _text(path: Path, head: bytes) -> str | None:
    if head[:1] == b"{":
        return _shards(path)
    if head[:1] == b"<":
        return SUFFIXES[".xml"] if b"<net" in head else "is a web page; download the file itself"
    return None


def _shards(path: Path) -> str:
    """The message for a JSON file: an index of weights in several files, or something else."""
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "is a JSON file; give the weights file instead"
    return (f"is the index of weights stored in {len(names)} files ({names[0]} ...); join them: state = {{}}; "
            f"[state.update(safetensors.torch.load_file(f)) for f in files]; torch.save(state, 'weights.pt')")


def _onnx(head: bytes) -> str | None:
    """Recognizes ONNX under any file name: ir_version (field 1), then the producer's name (field 2)."""
    return SUFFIXES[".onnx"] if head[0] == 8 and head[2:3] in (b"\x12", b"\x1a", b"\x3a") else None
