"""Train torchvision's shufflenet_v2_x1_0 on Fashion-MNIST: the backbone of the bundled example.

python examples/train_fashion_mnist.py [--epochs 8] [--threads 2]

Writes fashion_mnist_shufflenet.safetensors and, beside it, a .json with the accuracy measured on the
10,000 test images, after every epoch (so an interrupted run leaves usable files). No epoch is picked by its
test accuracy: the last one written is the result.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import fashion_mnist
import numpy as np
import torch
import torchvision  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

MODEL = "shufflenet_v2_x1_0"
SIZE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision's presets
BATCH = 128
PEAK_RATE = 0.08
SHIFT = 2  # pixels of the 28
OUTPUT = Path(__file__).parent / "fashion_mnist_shufflenet.safetensors"


def normalise(gray: Tensor) -> Tensor:
    """(N,1,S,S) in 0..255 -> (N,3,S,S) normalised, channels last."""
    rgb = (gray / 255).expand(-1, 3, -1, -1)
    normalised = (rgb - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return normalised.contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to two pixels, mirror half of them. (N,28,28) -> (N,28,28)."""
    n, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4)
    dy, dx = torch.randint(0, 2 * SHIFT + 1, (2, n, 1), generator=generator)
    rows = (dy + torch.arange(height)).unsqueeze(2)
    columns = dx + torch.arange(width)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns).unsqueeze(1)
    return padded[torch.arange(n).view(n, 1, 1), rows, columns]


def upscale(images: NDArray[np.uint8]) -> Tensor:
    """As perse-compile does it: Pillow's bilinear, to bytes. (N,28,28) -> (N,1,64,64) uint8."""
    resized = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in images]
    return torch.from_numpy(np.stack(resized)).unsqueeze(1)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    guesses = [model(normalise(images[first : first + 250])).argmax(1) for first in range(0, len(images), 250)]
    return float((torch.cat(guesses) == labels).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)

    all_images, all_labels = fashion_mnist.read("train")
    mine, _ = fashion_mnist.split_training(all_labels)
    images, labels = torch.from_numpy(all_images[mine]), torch.from_numpy(all_labels[mine])
    test_pixels, test_labels = fashion_mnist.read("t10k")
    test_images = upscale(test_pixels)

    model = torchvision.models.get_model(MODEL, weights=None, num_classes=len(fashion_mnist.CLASSES))
    model = model.to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 2e-4}, {"params": others, "weight_decay": 0.0}],
        lr=PEAK_RATE, momentum=0.9, nesterov=True,
    )  # fmt: skip
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, arguments.epochs * steps, pct_start=0.25)
    start = time.monotonic()
    for epoch in range(1, arguments.epochs + 1):
        model.train()
        order = torch.randperm(len(images), generator=generator)[: steps * BATCH]
        running = 0.0
        for batch in order.view(steps, BATCH):
            small = augment(images[batch], generator).unsqueeze(1).float()
            x = F.interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False)
            loss = F.cross_entropy(model(normalise(x)), labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            running += loss.item() / steps
        measured = accuracy(model, test_images, torch.from_numpy(test_labels))
        minutes = (time.monotonic() - start) / 60
        print(f"epoch {epoch}: loss {running:.4f}, test accuracy {measured:.4f}, {minutes:.1f} min", flush=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, OUTPUT)
        facts = {
            "model": MODEL,
            "classes": fashion_mnist.CLASSES,
            "input": [SIZE, SIZE, 3],
            "mean": MEAN,
            "std": STD,
            "test_accuracy": measured,
            "test_images": len(test_labels),
            "training_images": len(images),
            "training_loss": round(running, 4),
            "epochs": epoch,
            "epochs_planned": arguments.epochs,
            "seed": arguments.seed,
            "threads": arguments.threads,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "data": "Fashion-MNIST (Zalando SE, MIT), Debian package dataset-fashion-mnist",
        }
        OUTPUT.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
