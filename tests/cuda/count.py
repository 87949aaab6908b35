#!/usr/bin/env python3
"""What the host does for a training step on CUDA, counted on a machine without a GPU by the sham driver beside this file.

    python3 tests/cuda/count.py GAN_TRAIN SHAM [--details PRESET]

GAN_TRAIN is a build with the feature cuda, SHAM the library made of sham.cpp. Trains each preset for 4 and for 5 steps, step by step, or, of a preset
with "captured" behind its name, as CUDA graphs; what the longer run calls more is a step's. Fails where a step takes another number of launches (kernels, products, convolutions, copies on the
device), allocations, copies between host and device, or waits than counts.json says: fewer are to be written down there, and more need
a reason. --details prints the calls of one preset by name.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile

KINDS = ["launch", "allocation", "copy", "wait"]
# Behind the steps that are captured, and so that of each preset either both runs have the 1,000 images from which on their end is looked at, or neither.
SHORT, LONG = 4, 5
QUIET = ["output.log_every", "output.sample_every", "output.checkpoint_every", "watch.every", "watch.judge_every"]
# Where a preset's data come from matters little: images of the right form are made by the program itself.
FLAGS = ["--data", "synthetic", "--device", "cuda", "--set=data.held_out=0.0", "--set=watch.judge_samples=0", "--set=watch.stop=false", "--quiet"]


def calls(program, sham, preset, steps, folder):
    counts = folder / f"{preset}-{steps}.txt"
    never = [f"--set={key}={{ steps = 1000000 }}" for key in QUIET]
    name, _, how = preset.partition(" ")
    name, _, precision = name.partition(":")
    wanted = ["--precision", precision or "tf32", f"--set=schedule.capture={'true' if how == 'captured' else 'false'}"]
    command = [program, "--preset", name, *FLAGS, *wanted, *never, "--steps", str(steps), "--out", folder / f"{preset}-{steps}"]
    environment = os.environ | {
        "LD_PRELOAD": str(sham.resolve()),
        "LD_LIBRARY_PATH": ":".join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")])),
        "SHAM_COUNTS": str(counts),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0 or not counts.exists():
        sys.exit(f"{preset}: gan-train ended with {done.returncode}: {done.stderr}")
    lines = (line.rsplit(" ", 1) for line in counts.read_text().splitlines())
    return collections.Counter({name: int(times) for name, times in lines})


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("program")
parser.add_argument("sham", type=pathlib.Path)
parser.add_argument("--details", metavar="PRESET")
args = parser.parse_args()
known = json.loads((pathlib.Path(__file__).parent / "counts.json").read_text())

failed = False
print(f"{'a step of':26}" + "".join(f"{kind + ('s' if kind[-1] != 'y' else ''):>13}" for kind in KINDS))
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    (folder / "libcuda.so.1").symlink_to(args.sham.resolve())
    for preset in [args.details] if args.details else known:
        short, long = (calls(args.program, args.sham, preset, steps, folder) for steps in (SHORT, LONG))
        a_step = {name: (long[name] - short[name]) / (LONG - SHORT) for name in long}
        sums = {kind: sum(n for name, n in a_step.items() if name.startswith(kind + ":")) for kind in KINDS}
        said = known.get(preset, {})
        other = [f"{kind} {said[kind]}" for kind in KINDS if kind in said and sums[kind] != said[kind]]
        failed |= bool(other)
        print(f"{preset:26}" + "".join(f"{sums[kind]:13g}" for kind in KINDS) + (f"   counts.json says {', '.join(other)}" if other else ""))
        if args.details:
            for name, n in sorted(a_step.items(), key=lambda entry: -entry[1]):
                if n:
                    print(f"  {n:10g}  {name}")
sys.exit(failed)
