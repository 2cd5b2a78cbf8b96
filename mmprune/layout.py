"""Where a model computes, and how its images lie in memory: channels last where the model stands it."""

import copy

import torch
from torch import Tensor, nn

FEWEST_CHANNELS = 16  # of a strided 1x1 convolution that is trained channels last
SAME = 1e-2  # of the largest output: sums in another order, no more
STANDS = "_mmprune_channels_last"  # on a model that was tried: whether it does; copies of it need not be tried again


def to_device(model: nn.Module, device: str | torch.device, shape: torch.Size) -> nn.Module:
    """The model there, in place, channels last where that is safe: convolutions train 1.3 times as fast so on a CPU.

    shape  (n, C, H, W) of a batch of images
    """
    model.to(device)
    if not hasattr(model, STANDS):
        setattr(model, STANDS, _stands_channels_last(model, torch.device(device), shape))
    return model.to(memory_format=torch.channels_last) if getattr(model, STANDS) else model  # type: ignore[call-overload]


def _stands_channels_last(model: nn.Module, device: torch.device, shape: torch.Size) -> bool:
    """Whether two images go through it so, with the same answer, and a gradient comes back; tried on a copy.

    x.view(len(x), -1) does not take an image whose channels lie last; as_strided takes it for another image.
    """
    if any(map(_corrupts_channels_last, model.modules())) or all(p.ndim < 4 for p in model.parameters()):
        return False  # or nothing in it would lie otherwise
    images = torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
    work = copy.deepcopy(model).eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        expected = _answer(work, images)
        try:
            work.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if not _same(_answer(work, images), expected):
                return False
            work.train()
            work(images).sum().backward()
        except torch.OutOfMemoryError:
            raise  # this says nothing of the layout
        except (RuntimeError, ValueError, AssertionError):
            return False
    return True


def _answer(model: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(0)  # of a model that draws numbers also when it does not train
    with torch.no_grad():
        return model(images)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=SAME * float(b.abs().max()), equal_nan=True)


def _corrupts_channels_last(module: nn.Module) -> bool:
    """Strided 1x1 convolutions of few channels: their backward pass writes past its memory (torch 2.14, CPU).

    Seen with Conv2d(3, 48, 1, stride=2), a branch of MobileOne's stem: "double free or corruption".
    """
    return (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
            and module.in_channels < FEWEST_CHANNELS)
