#!/usr/bin/env python3
"""How many of StackedMNIST's 1,000 modes a generator reaches, and how evenly: the measure of arXiv 1611.02163 and 1712.04086.

    gan-train --preset r3gan-28 --data stacked-mnist --set data.channels=3 --out RUN
    gan-infer --model RUN/generator.onnx --n 26000 --out samples.npy
    python benches/peers/stacked.py MNIST samples.npy …

MNIST is the folder with the IDX files (.gz or not). A classifier of digits (that of recognisable.py, trained on MNIST's training images
in some minutes) says which digit is red, green and blue: the mode is 100·red + 10·green + blue. Printed are, for each file, the modes that at
least one of the first 26,000 images shows, and KL(generated ‖ data) in nats. The data's distribution is that from which `stacked-mnist` is
drawn: the product of the digits' shares among MNIST's training labels, three times. Real images come first, drawn likewise
from MNIST's test digits, which the classifier has not seen: with 26,000 images even perfect ones have about 999 / (2 · 26,000) = 0.019.
Seeded; needs torch 2 and numpy.
"""

import argparse
import pathlib
import sys

import numpy as np
import torch

from recognisable import classifier, idx, recognise

SAMPLES = 26_000


def images(path):
    """The images of a file, [n, 28, 28, 3]."""
    array = np.load(path)
    if not isinstance(array, np.ndarray):
        array = array[array.files[0]]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (28, 28, 3):
        sys.exit(f"{path} holds {array.dtype} {list(array.shape)}; expected are uint8 images [n, 28, 28, 3], as gan-infer writes them")
    return array[:SAMPLES]


def tell(name, net, stacked, data):
    digits = [recognise(net, torch.from_numpy(np.ascontiguousarray(stacked[..., colour])))[1] for colour in range(3)]
    modes = (100 * digits[0] + 10 * digits[1] + digits[2]).numpy()
    made = np.bincount(modes, minlength=1000) / len(modes)
    there = made > 0
    divergence = (made[there] * np.log(made[there] / data[there])).sum()
    print(f"{name}: {len(modes)} images, {there.sum()} of 1000 modes, KL(generated || data) {divergence:.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="How many of StackedMNIST's 1,000 modes generated images reach.")
    parser.add_argument("mnist", type=pathlib.Path)
    parser.add_argument("samples", nargs="*", help="uint8 images [n, 28, 28, 3] as .npy or .npz")
    args = parser.parse_args()
    torch.manual_seed(0)
    labels = idx(args.mnist, "train-labels")
    net = classifier(idx(args.mnist, "train-images"), labels)
    share = np.bincount(labels.numpy(), minlength=10) / len(labels)
    data = np.einsum("r,g,b->rgb", share, share, share).reshape(1000)
    test = idx(args.mnist, "t10k-images").numpy()
    tell("real images", net, np.stack(test[np.random.default_rng(0).integers(len(test), size=(3, SAMPLES))], -1), data)
    for path in args.samples:
        tell(path, net, images(path), data)


if __name__ == "__main__":
    main()
