"""Whether a model is trained with its products in bfloat16, on hardware that multiplies it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

SAME = 0.1  # of the loss: bfloat16 has 8 bits, so a loss far from float32's is a model that cannot take it


def pays(device: str) -> bool:
    """Whether the device multiplies bfloat16 faster than float32: AVX-512 BF16, AMX, arm64's BF16, or a recent GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if torch.device(device).type != "cpu":
        return False
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def stands(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], device: str) -> bool:
    """Whether a copy of the model can take one training step's forward and backward pass in bfloat16, with nearly the
    loss of float32."""
    images, labels = (part.to(device) for part in batch)
    work = copy.deepcopy(model).to(device).train()
    losses = []
    for on in (False, True):
        with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []), torch.enable_grad():
            torch.manual_seed(0)  # for dropout
            try:
                with products(device, on):
                    loss = F.cross_entropy(work(images).float(), labels)
                loss.backward()
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError):
                return False
            losses.append(float(loss.detach()))
    return abs(losses[1] - losses[0]) <= SAME * max(1.0, abs(losses[0]))


@contextmanager
def products(device: str, bfloat16: bool) -> Iterator[None]:
    """Inside, convolutions and products of matrices run in bfloat16 where asked; weights and sums stay float32."""
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
        yield
