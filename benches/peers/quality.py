#!/usr/bin/env python3
"""Quality at equal images seen: two sides train the same presets on the same images, and gan-train judges both.

    python benches/peers/quality.py --out DIR [--images 600000] [--samples 10000] [--seeds 0,1,2]
                                    [--systems dcgan-28:mnist,gan-fashion-mlp:fashion-mnist]
                                    [--sides ganforge,pytorch]

Needs torch 2, numpy and pillow, built gan-train and gan-infer (--bin), an onnxruntime that they find, and GANFORGE_DATA.

A side is gan-train (ganforge), gan-train in another precision (ganforge-bf16), or PyTorch in f32. For every system and seed
the sides take turns. Networks, initial laws, loss, optimisers, batch size and rhythm come from what
`gan-train presets NAME` prints, without an average of the weights on either side; each side draws its own initial values,
latents and order of the data. Each then makes as many PNG files, from the generator as it is after the last step, and the same
`gan-train eval FOLDER --data DATA` compares them with the data. Less is better; the first side must not be worse than the second by more
than two standard errors of the difference.

DIR/SYSTEM/SIDE-SEED holds run, images and result.json of one training; what is there already is not done again, so a
comparison that was interrupted goes on. DIR/quality.json and the table on stdout are made of all of them.
"""

import argparse
import functools
import gzip
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
import tomllib

import numpy as np
import torch
from PIL import Image

from common import Training, keep_memory

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Beyond every seed of a training: the latents that the generators are sampled with are new to them.
SAMPLES_SEED = 1_000_000
ALONE = ["schedule.ema_decay=0", "watch.stop=false", "watch.judge_samples=0"]


def call(*command, threads):
    """What a program prints on stdout; what it says on stderr is shown."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {' '.join(command)}")
    return done.stdout


def recipe(args, preset):
    """The config that PyTorch trains: the preset's, without an average."""
    config = tomllib.loads(call(args.bin / "gan-train", "presets", preset, threads=1))
    config["schedule"]["ema_decay"] = 0.0
    return config


def idx_images(name):
    """uint8 [n, 1, h, w] from the training images of a folder in GANFORGE_DATA."""
    folder = pathlib.Path(os.environ.get("GANFORGE_DATA", "data")) / name
    for suffix, opener in (("", open), (".gz", gzip.open)):
        path = folder / f"train-images-idx3-ubyte{suffix}"
        if path.exists():
            with opener(path, "rb") as file:
                magic, n, height, width = np.frombuffer(file.read(16), dtype=">u4").tolist()
                assert magic == 0x0803, f"{path} is no IDX file of images"
                pixels = np.frombuffer(bytearray(file.read(n * height * width)), dtype=np.uint8)
            return torch.from_numpy(pixels.reshape(n, 1, height, width))
    sys.exit(f"{folder} has no train-images-idx3-ubyte: set GANFORGE_DATA")


# --- one training of either side; both leave PNG files in `place / "images"`


def ours(args, system, place, seed, precision):
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    # Nobody ends the run early or picks a checkpoint: the other side has nobody either.
    flags = [flag for change in ALONE for flag in ("--set", change)]
    length = ["--images", args.images, "--checkpoint-every", 10**9, "--sample-every", 10**9]
    train = ["--preset", system.preset, "--data", system.data, "--seed", seed, "--out", run, *length, *flags]
    summary = call(args.bin / "gan-train", *train, "--device", "cpu", "--precision", precision, "--quiet", "--json", threads=args.threads)
    onnx = place / "generator.onnx"
    call(args.bin / "gan-train", "export", run, "--checkpoint", "latest", "--out", onnx, threads=args.threads)
    sample = ["--model", onnx, "--n", args.samples, "--seed", SAMPLES_SEED + seed, "--out", place / "images"]
    call(args.bin / "gan-infer", *sample, "--quiet", threads=args.threads)
    return json.loads(summary)["outcome"]["images"]


def theirs(args, system, place, seed):
    config = recipe(args, system.preset)
    torch.manual_seed(seed)
    torch.set_num_threads(args.threads)
    training = Training(config, idx_images(system.data))
    while training.shown < args.images:
        training.step()
    if not torch.isfinite(training.sums).all():
        raise ArithmeticError("PyTorch's losses are not finite")
    torch.manual_seed(SAMPLES_SEED + seed)
    training.generator.eval()
    scale, offset = (127.5, 127.5) if config["data"]["range"] == "tanh" else (255.0, 0.0)
    (place / "images").mkdir()
    for first in range(0, args.samples, 100):
        with torch.no_grad():
            values = training.generate(training.latents(min(100, args.samples - first)))
        pixels = (values * scale + offset).round().clamp(0, 255).to(torch.uint8).squeeze(1).numpy()
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(place / "images" / f"{first + index:06}.png")
    return training.shown


SIDES = {
    "ganforge": functools.partial(ours, precision="f32"),
    "ganforge-bf16": functools.partial(ours, precision="bf16"),
    "pytorch": theirs,
}


class System:
    def __init__(self, text):
        self.preset, _, self.data = text.partition(":")
        if not self.data:
            raise argparse.ArgumentTypeError(f"'{text}': expected PRESET:DATA")


def measured(args, system, side, seed):
    """The result of one training, made now unless it is there; a result of other lengths is an error."""
    place = args.out / system.preset / f"{side}-{seed}"
    path = place / "result.json"
    asked = {"data": system.data, "images": args.images, "samples": args.samples}
    if path.exists():
        result = json.loads(path.read_text())
        if result["asked"] != asked:
            sys.exit(f"{path} is of {result['asked']}, not of {asked}: choose another --out, or delete it")
        return result
    shutil.rmtree(place / "images", ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    seen = SIDES[side](args, system, place, seed)
    seconds = time.monotonic() - begun
    judge = ["eval", place / "images", "--data", system.data, "--n", args.samples, "--draws", 1, "--no-neighbours", "--json"]
    evaluation = json.loads(call(args.bin / "gan-train", *judge, *args.eval, threads=args.threads))
    result = {"asked": asked, "images_seen": seen, "seconds": round(seconds, 1), "evaluation": evaluation}
    shutil.rmtree(place / "images")
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


# --- the comparison


def distance(result, metric):
    """The number under a path of keys, `a.b.c`, of an evaluation."""
    value = result["evaluation"]
    for key in metric.split("."):
        value = value[key]
    return float(value)


def compare(first, second):
    """Whether the first side's mean is at most the second's plus two standard errors of the difference of both means."""
    error = math.sqrt(sum(statistics.variance(side) / len(side) for side in (first, second)))
    return statistics.mean(first) <= statistics.mean(second) + 2 * error, error


def row(system, results, metric):
    values = {side: [distance(result, metric) for result in of_side] for side, of_side in results.items()}
    seen = {result["images_seen"] for of_side in results.values() for result in of_side}
    if len(seen) != 1:
        sys.exit(f"{system.preset}: the sides saw different numbers of images, {sorted(seen)}")
    good, error = compare(*values.values())
    return {"preset": system.preset, "data": system.data, "metric": metric, "images_seen": seen.pop(), "seeds": values} | {
        "mean": {side: statistics.mean(v) for side, v in values.items()},
        "deviation": {side: statistics.stdev(v) for side, v in values.items()},
        "standard_error": error,
        "not_worse": good,
    }


def table(rows, sides):
    first, second = sides
    lines = [f"| preset | data | images seen | metric | {first} | {second} | standard error | {first} ≤ {second} + 2 errors |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for r in rows:
        values = " | ".join(f"{r['mean'][side]:.3f} ± {r['deviation'][side]:.3f}" for side in sides)
        verdict = "yes" if r["not_worse"] else "**no**"
        about = f"{r['preset']} | {r['data']} | {r['images_seen']:,} | {r['metric']}"
        lines.append(f"| {about} | {values} | {r['standard_error']:.3f} | {verdict} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Quality at equal images seen, two sides in turn.")
    systems = "dcgan-28:mnist,gan-fashion-mlp:fashion-mnist"
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where everything goes, and is found again")
    parser.add_argument("--systems", default=systems, help=f"PRESET:DATA, joined by commas; by default {systems}")
    parser.add_argument("--images", type=int, default=600_000, help="real images shown to the critic")
    parser.add_argument("--samples", type=int, default=10_000, help="generated images that are judged")
    sides = ", ".join(SIDES)
    parser.add_argument("--sides", default="ganforge,pytorch", help=f"two of {sides}; the first must not be worse")
    parser.add_argument("--seeds", default="0,1,2", help="at least two")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--metric", default="frechet.mean", help="the key of the evaluation that is compared, a.b.c for nested ones")
    parser.add_argument("--eval", nargs="*", default=[], help="more flags for gan-train eval")
    parser.add_argument("--bin", type=pathlib.Path, default=target / "release", help="where gan-train and gan-infer are")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    sides = args.sides.split(",")
    if len(set(sides)) != 2 or not set(sides) <= set(SIDES):
        parser.error(f"--sides: expected two of {', '.join(SIDES)}, got {args.sides}")
    if len(seeds) < 2:
        parser.error("--seeds: two at least, or there is no deviation")
    keep_memory()

    rows = []
    for system in map(System, args.systems.split(",")):
        results = {side: [] for side in sides}
        for seed in seeds:
            for side in sides:
                result = measured(args, system, side, seed)
                results[side].append(result)
                value = distance(result, args.metric)
                print(f"{system.preset} {side} seed {seed}: {args.metric} {value:.3f}, {result['seconds']} s", file=sys.stderr)
        rows.append(row(system, results, args.metric))
        # After every system: a later one may be interrupted.
        (args.out / "quality.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows, sides))
    sys.exit(0 if all(r["not_worse"] for r in rows) else 1)


if __name__ == "__main__":
    main()
