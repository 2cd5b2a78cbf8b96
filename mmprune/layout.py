"""Moves a model to a device, with channels-last memory layout if the model supports it."""

import copy

import torch
from torch import Tensor, nn

FEWEST_CHANNELS = 16  # a strided 1x1 convolution with fewer channels is not trained channels last
SAME = 1e-2  # tolerance relative to the largest output, for sums in another order
STANDS = "_mmprune_channels_last"  # attribute of a tested model: whether it works; copies need no new test


def to_device(model: nn.Module, device: str | torch.device, shape: torch.Size) -> nn.Module:
    """Move the model to the device, in place; channels last if safe (convolutions then train 1.3 times as fast on CPU).

    shape  (n, C, H, W) of a batch of images
    """
    model.to(device)
    if not hasattr(model, STANDS):
        setattr(model, STANDS, _stands_channels_last(model, torch.device(device), shape))
    return model.to(memory_format=torch.channels_last) if getattr(model, STANDS) else model


def _stands_channels_last(model: nn.Module, device: torch.device, shape: torch.Size) -> bool:
    """Whether a copy of the model runs channels last on two images, with the same output and with gradients.

    x.view(len(x), -1) fails on a channels-last image; as_strided reads its values in the wrong order.
    """
    if any(map(_corrupts_channels_last, model.modules())) or all(p.ndim < 4 for p in model.parameters()):
        return False  # the last condition: it would change nothing
    images = torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
    work = copy.deepcopy(model).eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        expected = _answer(work, images)
        try:
            work.to(memory_format=torch.channels_last)
            if not _same(_answer(work, images), expected):
                return False
            work.train()
            work(images).sum().backward()
        except torch.OutOfMemoryError:
            raise  # this error has nothing to do with the layout
        except (RuntimeError, ValueError, AssertionError):
            return False
    return True


def _answer(model: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(0)  # for a model that uses random numbers also in eval mode
    with torch.no_grad():
        output: Tensor = model(images)
        return output


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=SAME * float(b.abs().max()), equal_nan=True)


def _corrupts_channels_last(module: nn.Module) -> bool:
    """Whether it is a strided 1x1 convolution with few channels: its backward pass corrupts memory (torch 2.14, CPU).

    Seen with Conv2d(3, 48, 1, stride=2), a branch of MobileOne's stem: "double free or corruption".
    """
    return (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
            and module.in_channels < FEWEST_CHANNELS)
