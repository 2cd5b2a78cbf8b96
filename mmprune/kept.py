"""What a build keeps until it is done, with a digest: a file that was damaged meanwhile is made again, not believed."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from mmprune import folder
from mmprune.progress import say_notes

DIGEST = "sha256"  # in the metadata of a safetensors file, of the same file without metadata
DIGEST_BYTES = 32  # at the end of other files


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with a digest."""
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    folder.write_bytes(path, save(content, {DIGEST: hashlib.sha256(save(content)).hexdigest()}))


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """None if there is no such file, or if it was damaged, which is said; one without a digest is believed."""
    if not path.is_file():
        return None
    try:
        tensors = load(path.read_bytes())
        with safe_open(path, "pt") as opened:
            digest = (opened.metadata() or {}).get(DIGEST)
        intact = digest is None or hashlib.sha256(save(tensors)).hexdigest() == digest
    except SafetensorError:
        intact = False
    if intact:
        return tensors
    _say_damaged(path)
    return None


def write_state(path: Path, state: Any) -> None:
    """Write what torch.save takes, with a digest."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    folder.write_bytes(path, content + hashlib.sha256(content).digest())


def read_state(path: Path, device: str) -> Any:
    """None if there is no such file, or if it was damaged, which is said."""
    if not path.is_file():
        return None
    whole = path.read_bytes()
    content, digest = whole[:-DIGEST_BYTES], whole[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        _say_damaged(path)
        return None
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def _say_damaged(path: Path) -> None:
    say_notes((f"{path} is damaged; it is made again",))
