"""The compiled network against PyTorch on real images: every exit's logits, and which class is first.

    python benchmarks/accuracy.py [MODEL ...] [--weights auto|default|none|FILE] [--json]

Images: 12 photographs from scikit-image and scikit-learn, three crops each as torchvision's preset makes them; and,
for the bundled network with its trained weights, the test images of the five bundled users (750 of Fashion-MNIST).
Ours is the artifact's library, `perse_observe_u8`; PyTorch runs the same program in float32, without batching.
  difference  the greatest |ours - PyTorch| of an image at an exit / that exit's greatest |logit|. Bound 1e-4, or 1e-3
              where a kernel of the network is a Winograd convolution
  top-1       images for which some exit's first class is another than PyTorch's. Bound 0
  margin      the least (first - second logit) / greatest |logit| in PyTorch: what a difference would have to reach
Weights: pretrained where they can be had. Random ones would make the test easy to pass: activations vanish and all
images get one class. So batch norms get their statistics from the images, ConvNeXt's layer scales (1e-6 at first)
become 1, and with any weights every untrained head is standardised on the images and spread to logits that differ
(the network's own classifier only when it is random). The output says which weights. `classes`: how many
different ones are first on these images, at the exit where they are fewest. Exit status 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import photos
import torch
import torchvision
from engines import MODELS
from ours import Ours, Result

from perse_compile import driver
from perse_compile.lowering.network import Network
from perse_compile.personalise.data import read_images
from perse_compile.personalise.features import extract_features, normalise
from perse_compile.personalise.learning import standardise
from perse_compile.personalise.train_exits import read_head
from perse_compile.program import Program
from perse_compile.weights import pretrained

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BUNDLED = "fashion_shufflenet"
DIRECT, WINOGRAD = 1e-4, 1e-3  # bounds
Images = np.ndarray[Any, Any]  # uint8 (N,H,W,C)


# --- networks and their images ----------------------------------------------------------------------------


def of_torchvision(name: str, weights: str, folder: Path) -> tuple[Program, Images]:
    known = torchvision.models.get_model_weights(name).DEFAULT
    images = photos.crops(known.transforms())
    random = weights == "none" or (weights == "auto" and isinstance(pretrained(known.url), str))
    if random:
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None)
        calibrate(network, normalise(torch.from_numpy(images), photos.spec_of(known.transforms())))
        torch.save(network.state_dict(), folder / "calibrated.pth")
        weights = str(folder / "calibrated.pth")
    program = driver.insert_exits(name, weights=weights)
    if random:
        program.provenance["weights"] = {"source": "random, calibrated"}
    spread_heads(program, images, len(program.exits) - (0 if random else 1))
    return program, images


@torch.no_grad()
def calibrate(network: torch.nn.Module, x: torch.Tensor) -> None:
    """Statistics of batch norms from these images; layer scales to 1."""
    for name, parameter in network.named_parameters():
        if name.endswith("layer_scale"):
            parameter.fill_(1)
    network.eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    network(x)
    network.eval()


def spread_heads(program: Program, images: Images, count: int) -> None:
    """The first heads see features of mean 0 and spread 1 on these images."""
    features = extract_features(program, images, "cpu", lambda what, done, total: None)
    for exit, x in list(zip(program.exits, features, strict=True))[:count]:
        head = standardise(read_head(program, exit), x)
        program.set_tensor(f"{exit.name}.shift", head.shift)
        program.set_tensor(f"{exit.name}.scale", head.scale)


def bundled(folder: Path) -> tuple[Program, Images]:
    """Trained, and its exits trained as examples/demo.py does."""
    sys.path.insert(0, str(EXAMPLES))  # where model.py is
    program = driver.insert_exits(
        f"model:{BUNDLED}", weights=str(EXAMPLES / "fashion_mnist_shufflenet.safetensors"), output=folder / "b.perse"
    )
    driver.train_exits(folder / "b.perse", EXAMPLES / "fashion_mnist_train.npz")
    program = Program.load(folder / "b.perse")
    tests = sorted((EXAMPLES / "users").glob("*-test.npz"))
    return program, np.concatenate([read_images(path, program.input, program.classes).pixels for path in tests])


# --- comparing --------------------------------------------------------------------------------------------


def ours_on(ours: Ours, images: Images) -> np.ndarray[Any, Any]:
    """Logits (N, exits, classes)."""
    logits = np.empty((len(images), ours.exits, ours.classes), np.float32)
    results = (Result * ours.exits)()
    with ours.session(1) as handle:
        for pixels, row in zip(images, logits, strict=True):
            image = np.ascontiguousarray(pixels)
            addresses = ctypes.c_void_p(image.ctypes.data), results, ctypes.c_void_p(row.ctypes.data)
            status = ours.library.perse_observe_u8(handle, *addresses, None)
            assert status == 0, status
    return logits


@torch.no_grad()
def torch_on(program: Program, images: Images) -> np.ndarray[Any, Any]:
    """Logits (N, exits, classes)."""
    rows = []
    for pixels in images:
        exits = program.module(normalise(torch.from_numpy(pixels[None]), program.input))
        rows.append(torch.cat(exits).numpy())
    return np.stack(rows)


def winograd(network: Network) -> list[str]:
    """Kinds of Winograd kernels in it, such as F(4)."""
    whats = [str((func.attrs or {}).get("what", "")) for func in network.kernels.values()]
    return sorted({what.split()[2] for what in whats if what.startswith("winograd out")})


def compare(program: Program, images: Images, folder: Path) -> dict[str, Any]:
    ours = Ours(program, folder)
    mine, theirs = ours_on(ours, images), torch_on(program, images)
    largest = np.abs(theirs).max(2)
    difference = np.abs(mine - theirs).max(2) / largest
    second, first = np.moveaxis(np.sort(theirs, 2)[..., -2:], 2, 0)
    kinds = winograd(ours.network)
    return {
        "model": program.name,
        "weights": program.provenance["weights"]["source"],
        "images": len(images),
        "winograd": kinds,
        "bound": WINOGRAD if kinds else DIRECT,
        "difference": float(difference.max()),
        "difference_of_exit": {e.name: float(d) for e, d in zip(program.exits, difference.max(0), strict=True)},
        "top1_changed": int((mine.argmax(2) != theirs.argmax(2)).any(1).sum()),
        "margin": float(((first - second) / largest).min()),
        "classes_of_exit": {e.name: len(np.unique(c)) for e, c in zip(program.exits, theirs.argmax(2).T, strict=True)},
    }


HEADS = ("network", "weights", "images", "classes", "Winograd", "difference", "bound", "margin", "top-1 changed")


def row(result: dict[str, Any]) -> str:
    r, kinds = result, ", ".join(result["winograd"]) or "no"
    who = r["model"], r["weights"], r["images"], min(r["classes_of_exit"].values()), kinds
    figures = (f"{r[key]:.1e}" for key in ("difference", "bound", "margin"))
    return f"| {' | '.join(map(str, (*who, *figures, r['top1_changed'])))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[*MODELS, BUNDLED])
    parser.add_argument("--weights", default="auto", help="of torchvision's networks")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    if not options.json:
        print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            made = bundled(Path(folder)) if name == BUNDLED else of_torchvision(name, options.weights, Path(folder))
            results.append(compare(*made, Path(folder)))
        if not options.json:
            print(row(results[-1]), flush=True)
    if options.json:
        print(json.dumps(results, indent=2))
    broken = [r["model"] for r in results if not r["difference"] <= r["bound"] or r["top1_changed"]]
    if broken:
        raise SystemExit(f"beyond the bound, or another class first: {', '.join(broken)}")


if __name__ == "__main__":
    main()
