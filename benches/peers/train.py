#!/usr/bin/env python3
r"""PyTorch's side of `cargo bench --bench train`: trains the networks of a ganforge config on random images.

    gan-train presets dcgan-fashion > config.toml
    printf '8\n8\n8\n' | python train.py --config config.toml --threads 2     # three measurements; needs torch 2

First prints a line that describes the networks; then, for every line on stdin, measures for as many seconds as it says and
prints one line. All lines are JSON; what goes wrong is one, too: {"error": …}.

Networks and steps are those of common.py; the fastest implementation of the optimisers is found by trial, and the allocator
keeps its memory.
"""

import argparse
import json
import resource
import sys
import time
import tomllib
import warnings

try:
    import torch

    from common import Training, count, keep_memory
except ImportError as error:
    print(json.dumps({"error": f"{sys.executable} has no PyTorch ({error}): pip install torch"}))
    sys.exit(1)

IMAGES = 4096  # or a few less: whole batches


# --- measuring


def peak_rss():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure(training, seconds):
    cuda = training.device.type == "cuda"
    training.step()  # the other side had the machine
    training.sums.zero_()
    training.sync()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        training.step()
        steps += 1
        if training.replay and steps % 16 == 0:
            training.sync()  # captured steps are launched far ahead of the device
    training.sync()
    seconds = time.perf_counter() - start
    if not torch.isfinite(training.sums).all():
        raise ArithmeticError("the losses are not finite")
    return {
        "images_per_second": steps * training.schedule["critic_steps"] * training.batch / seconds,
        "peak_mb": peak_rss(),
        "peak_device_mb": torch.cuda.max_memory_allocated() / 1e6 if cuda else None,
    }


def prepare(args):
    with open(args.config, "rb") as file:
        config = tomllib.load(file)
    if args.batch_size:
        config["schedule"]["batch_size"] = args.batch_size
    keep_memory()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.precision != "f32"
    batch, size = config["schedule"]["batch_size"], config["data"]["size"]
    images = torch.randint(256, (max(IMAGES // batch, 1) * batch, config["data"]["channels"], size, size), dtype=torch.uint8)
    training = Training(config, images, args.device, args.variant, args.precision, trial=True)
    for _ in range(args.warmup):
        training.step()
    about = {
        "about": f"PyTorch {torch.__version__}",
        "generator_parameters": count(training.generator),
        "critic_parameters": count(training.critic),
        "optimizers": training.forms,
    }
    return training, about


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, help="a resolved config, as `gan-train presets NAME` prints")
    parser.add_argument("--batch-size", type=int, help="instead of the config's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--warmup", type=int, default=3, help="generator steps before the first measurement")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--variant", default="eager")
    parser.add_argument("--precision", default="f32", choices=["f32", "tf32", "bf16"], help="bf16: autocast")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    try:
        training, about = prepare(args)
        print(json.dumps(about), flush=True)
        for seconds in sys.stdin:
            print(json.dumps(measure(training, float(seconds))), flush=True)
    except Exception as error:  # whatever it is, the other end is to know
        lines = str(error).strip().splitlines() or [""]
        print(json.dumps({"error": f"{type(error).__name__}: {lines[0]}"}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
