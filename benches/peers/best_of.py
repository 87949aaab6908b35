#!/usr/bin/env python3
"""What selection by the run's own critic buys: of K candidates an image, the one that the critic scores best.

    gan-infer --n 20000 --out all.npy --model RUN --precision f32
    python benches/peers/best_of.py RUN all.npy --k 4 --out DIR
    gan-train eval DIR/plain.npy --data DATA --n 5000
    gan-train eval DIR/best.npy --data DATA --n 5000

Image i is chosen from candidates K·i to K·i + K − 1; plain.npy has the first of each. Beside them it writes sheets of 100: worst.png
(the lowest scored 5 % of the first 2,000), random.png (the first 100) and best.png (the first 100 chosen). Takes runs whose critic
is a DCGAN's: convolutions, batch norms (with running statistics, as in sampling) and leaky ReLUs. Needs torch 2, numpy, pillow, safetensors.
"""

import argparse
import pathlib
import tomllib

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file


def critic(run):
    layers = tomllib.loads((run / "config.toml").read_text())["critic"]["layers"]
    best = run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip()
    weights = load_file(best / "critic.safetensors")
    channels, net, state = 3, [], {}
    for at, layer in enumerate(layers):
        mine = {key.split(".")[-1]: value for key, value in weights.items() if key.split(".")[0] == f"{at:02}"}
        if layer == "batch_norm":
            net.append(torch.nn.BatchNorm2d(channels))
        elif "leaky_relu" in layer:
            net.append(torch.nn.LeakyReLU(layer["leaky_relu"]))
        else:
            conv = layer["conv"]
            net.append(torch.nn.Conv2d(channels, conv["out"], conv["kernel"], conv["stride"], conv["padding"], bias="bias" in mine))
            channels = conv["out"]
        state |= {f"{len(net) - 1}.{key}": value for key, value in mine.items()}
    net = torch.nn.Sequential(*net)
    missing, odd = net.load_state_dict(state, strict=False)
    assert not odd and all(key.endswith("num_batches_tracked") for key in missing), (missing, odd)
    return net.eval()


def sheet(images, path):
    side = images.shape[1]
    rows = images[:100].reshape(10, 10, side, side, -1).swapaxes(1, 2).reshape(10 * side, 10 * side, -1)
    Image.fromarray(rows).save(path)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", type=pathlib.Path)
parser.add_argument("images", type=pathlib.Path)
parser.add_argument("--k", type=int, default=4)
parser.add_argument("--out", type=pathlib.Path, required=True)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

images = np.load(args.images)
net = critic(args.run)
with torch.inference_mode():
    of = lambda part: net(torch.from_numpy(part).permute(0, 3, 1, 2).float().div(127.5).sub(1)).flatten(1).mean(1)
    scores = torch.cat([of(images[at : at + 250]) for at in range(0, len(images), 250)]).numpy()
groups = len(images) // args.k
chosen = scores[: groups * args.k].reshape(groups, args.k).argmax(1) + args.k * np.arange(groups)
np.save(args.out / "plain.npy", images[: groups * args.k : args.k])
np.save(args.out / "best.npy", images[chosen])
sheet(images[np.argsort(scores[:2000])[:100]], args.out / "worst.png")
sheet(images, args.out / "random.png")
sheet(images[chosen], args.out / "best.png")
print(f"{len(images)} images, scores {scores.mean():.2f} ± {scores.std():.2f}; of {args.k} the best: {scores[chosen].mean():.2f}")
