#!/usr/bin/env python3
"""Reference numbers for tests/suite/augment.rs: DiffAugment (arXiv 2006.10738) with given draws, written beside this script.

    python tests/golden/augment.py        needs torch 2, numpy, safetensors; a second

augment.safetensors, float64, maps in PyTorch's order of axes [n, c, h, w]. Its metadata key `spec` is a JSON object whose
`cases` holds by name the steps with their draws, one an image:
    {"color": [[brightness, saturation, contrast], …]}, {"translation": [[rows, columns], …]}, {"cutout": [[row, column], …]}
Tensors are called `CASE/TENSOR`:
    x, dy     images, and the gradient of some loss with respect to the augmented ones
    y, dx     the augmented images, and the gradient with respect to x (by autograd)

The formulas are the published ones. A shift takes ⅛ of the side at most, a cut is a square of half the side around a place
drawn from 0 to the side (one less if the square's side is odd), both rounded half up; what falls outside is cut off.
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent


def color(x, draws):
    brightness, saturation, contrast = torch.tensor(draws, dtype=x.dtype).T.reshape(3, -1, 1, 1, 1)
    x = x + brightness
    grey = x.mean(1, keepdim=True)
    x = saturation * x + (1 - saturation) * grey
    level = x.mean((1, 2, 3), keepdim=True)
    return contrast * x + (1 - contrast) * level


def translation(x, draws):
    side = x.shape[-1]
    padded = F.pad(x, [side] * 4)
    shifted = [padded[i, :, side + r : 2 * side + r, side + c : 2 * side + c] for i, (r, c) in enumerate(draws)]
    return torch.stack(shifted)


def cutout(x, draws):
    side = x.shape[-1]
    cut = int(side * 0.5 + 0.5)
    mask = torch.ones(len(x), 1, side, side, dtype=x.dtype)
    for i, middle in enumerate(draws):
        rows, columns = (sorted({min(max(m - cut // 2 + k, 0), side - 1) for k in range(cut)}) for m in middle)
        mask[i, 0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 0
    return x * mask


STEPS = {"color": color, "translation": translation, "cutout": cutout}


def main():
    rng = np.random.default_rng(7)
    colors = [[-0.5, 0.0, 0.5], [0.5, 2.0, 1.5], [0.25, 1.0, 1.0], [-0.125, 0.375, 1.25]]
    cases = {
        "color": (8, 3, [{"color": colors}]),
        "grey": (6, 1, [{"color": colors}]),
        "translation": (8, 3, [{"translation": [[1, 1], [-1, 0], [0, -1], [0, 0]]}]),
        "far": (5, 2, [{"translation": [[2, -3], [-5, 1], [4, 4], [0, 5]]}]),
        "cutout": (8, 3, [{"cutout": [[0, 0], [8, 8], [4, 0], [3, 5]]}]),
        "cutout-of-odd-side": (5, 1, [{"cutout": [[0, 4], [2, 2], [4, 1], [1, 3]]}]),
        "all": (
            8,
            3,
            [{"color": colors}, {"translation": [[1, 0], [-1, 1], [0, 0], [1, -1]]}, {"cutout": [[2, 6], [8, 0], [4, 4], [1, 1]]}],
        ),
    }
    tensors, spec = {}, {}
    for name, (side, channels, steps) in cases.items():
        x = torch.tensor(rng.uniform(-1, 1, (4, channels, side, side)), requires_grad=True)
        y = x
        for step in steps:
            ((kind, draws),) = step.items()
            y = STEPS[kind](y, draws)
        dy = torch.tensor(rng.normal(size=y.shape))
        (y * dy).sum().backward()
        for key, value in {"x": x, "y": y, "dy": dy, "dx": x.grad}.items():
            tensors[f"{name}/{key}"] = value.detach().numpy().copy()
        spec[name] = steps
    save_file(tensors, HERE / "augment.safetensors", {"spec": json.dumps({"torch": torch.__version__, "cases": spec})})


if __name__ == "__main__":
    main()
