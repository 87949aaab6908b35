"""Images a second from Python, with the package of `make wheel`, beside gan-infer's into an npy file: in one run, in turn.

python benches/peers/package.py GAN_INFER [--n 20000] [--rounds 5]; the Python has the package and onnxruntime installed.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import tempfile
import time

import ganforge


def by_program(program, model, n):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "images.npy")
        environment = dict(os.environ, ORT_DYLIB_PATH=str(ganforge.load_runtime()[1]))
        command = [program, "--model", model, "--provider", "cpu", "--n", str(n), "--out", out, "--quiet", "--json"]
        told = subprocess.run(command, check=True, capture_output=True, env=environment).stdout
        return json.loads(told)["images_per_second"]


def timed(n, work):
    begun = time.perf_counter()
    work()
    return n / (time.perf_counter() - begun)


def by_threads(generator, n, threads):
    part = n // threads
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda k: generator.sample(0, k * part, part), range(threads)))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("program")
    arguments.add_argument("--n", type=int, default=20000)
    arguments.add_argument("--rounds", type=int, default=5)
    told = arguments.parse_args()
    print(f"ganforge {ganforge.__version__}, onnxruntime {ganforge.load_runtime()[0]}, {os.cpu_count()} cores")
    for model in ganforge.builtins():
        whole, alone = ganforge.Generator(model), ganforge.Generator(model, threads=1)
        ways = {
            "gan-infer, npy": lambda: by_program(told.program, model, told.n),
            "sample": lambda: timed(told.n, lambda: whole.sample(0, 0, told.n)),
            "batches of 64": lambda: timed(told.n, lambda: sum(len(images) for images in whole.batches(0, 0, told.n, 64))),
            "threads=1, one thread": lambda: timed(told.n // 2, lambda: by_threads(alone, told.n // 2, 1)),
            "threads=1, two threads": lambda: timed(told.n, lambda: by_threads(alone, told.n, 2)),
        }
        rates = {name: [] for name in ways}
        for _ in range(told.rounds):
            for name, way in ways.items():
                rates[name].append(way())
        first = statistics.median(rates["gan-infer, npy"])
        for name, all_rates in rates.items():
            median = statistics.median(all_rates)
            print(f"{model:8} {name:24} {median:8.0f} ({min(all_rates):.0f}-{max(all_rates):.0f})  {median / first:.3f} of gan-infer")


if __name__ == "__main__":
    main()
