#!/usr/bin/env python3
"""Of how many digits a classifier is sure: a count of what a person would recognise, by a net that has seen no generated image.

    gan-infer --model digits --n 5000 --format npy --out DIR
    python benches/peers/recognisable.py MNIST DIR/samples.npy …

MNIST is the folder with the IDX files (.gz or not). Trains a small convolutional net on its training images for three epochs (a
minute on one core), then prints for its test images and for each file the share whose most likely class has a probability
above 0.8 and above 0.95, and how the classes are spread. Seeded; needs torch 2 and numpy.
"""

import argparse
import gzip
import pathlib
import sys

import numpy as np
import torch
from torch import nn


def idx(folder, part):
    paths = sorted(folder.glob(f"{part}*"))
    if not paths:
        sys.exit(f"{folder} holds no {part}…: name the folder with MNIST's IDX files")
    path = paths[0]
    data = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
    dims = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(dims).copy())


def classifier(images, labels):
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(3):
        for batch in torch.randperm(len(images)).split(128):
            loss = nn.functional.cross_entropy(net(images[batch, None].float() / 255), labels[batch].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def recognise(net, images):
    """Of each grey image of 28 × 28 pixels the probability and the number of its most likely class."""
    return torch.cat([net(part.float() / 255).softmax(1) for part in images.reshape(-1, 1, 28, 28).split(500)]).max(1)


def tell(name, net, images):
    chances, classes = recognise(net, images)
    spread = np.bincount(classes, minlength=10) / len(classes)
    shares = " ".join(f"{(chances > bound).float().mean():.3f}" for bound in (0.8, 0.95))
    print(f"{name}: above 0.8 and 0.95: {shares}; classes {' '.join(f'{share:.3f}' for share in spread)}")


def main():
    parser = argparse.ArgumentParser(description="Of how many digits a classifier is sure.")
    parser.add_argument("mnist", type=pathlib.Path)
    parser.add_argument("samples", nargs="*", help="uint8 images [n, 28, 28, 1] as .npy")
    args = parser.parse_args()
    torch.manual_seed(0)
    net = classifier(idx(args.mnist, "train-images"), idx(args.mnist, "train-labels"))
    tell("test images", net, idx(args.mnist, "t10k-images"))
    for path in args.samples:
        tell(path, net, torch.from_numpy(np.load(path)))


if __name__ == "__main__":
    main()
