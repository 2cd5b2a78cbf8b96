"""Train default_model.safetensors on the training split of Fashion-MNIST, less 5,000 images held out for validation.

    python calibration_data/train_default_model.py /usr/share/datasets/fashion-mnist

SGD with Nesterov momentum, one cycle of the learning rate, random crops and flips, fixed seed. The 2,000 test images of
fashion_mnist.npz are looked at once, after the last epoch.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from default_model import CONFIG, fashion_resnet
from make_fashion_mnist import TEST, draw, held_out, read_split
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

EPOCHS, BATCH, LR, WEIGHT_DECAY, SEED, THREADS = 8, 128, 0.1, 5e-4, 0, 1


def to_tensor(images: np.ndarray) -> Tensor:
    """(n, 28, 28) uint8 -> (n, 1, 32, 32) uint8, resized as mmprune.data.preprocess does."""
    height, width = CONFIG["input_size"][1:]
    resized = [np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BILINEAR)) for x in images]
    return torch.from_numpy(np.stack(resized))[:, None]


def normalize(x: Tensor) -> Tensor:
    y = (x.float() / 255 - CONFIG["mean"][0]) / CONFIG["std"][0]
    return y.contiguous(memory_format=torch.channels_last)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each uint8 image by up to 4 pixels into black and mirror every other one."""
    n, _, height, width = x.shape
    padded = F.pad(x, (4, 4, 4, 4))
    top, left = (torch.randint(0, 9, (n, 1), generator=generator) for _ in range(2))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    mirror = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train_batches(x: Tensor, y: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(x), generator=generator)
    for index in order.split(BATCH)[: len(x) // BATCH]:
        yield normalize(augment(x[index], generator)), y[index]


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    hits = sum(int((model(normalize(a)).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    return hits / len(x)


def train(folder: Path, target: Path) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, numbers = read_split(folder, "train")
    seen, out = held_out(numbers)
    x, y = to_tensor(images), torch.from_numpy(numbers)
    model = fashion_resnet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    steps = EPOCHS * (len(seen) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.3)
    start = time.perf_counter()
    for epoch in range(EPOCHS):
        model.train()
        for images_batch, labels in train_batches(x[seen], y[seen], generator):
            loss = F.cross_entropy(model(images_batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        held = accuracy(model, x[out], y[out])
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {loss:.3f}, validation {held:.4f}, {seconds:.0f} s", flush=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, target)
    images, numbers = read_split(folder, "test")
    index = draw(numbers, [TEST])[0]
    result = accuracy(model, to_tensor(images[index]), torch.from_numpy(numbers[index]))
    print(f"test accuracy {result:.4f} on {TEST} images; {target.name}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    train(Path(sys.argv[1]), Path(__file__).with_name("default_model.safetensors"))
