#!/usr/bin/env python3
"""Studies: lists of gan-train runs, one after another, and a table of what came of them.

    python benches/study.py KIND --out DIR [--images N] [--only NAME,…] [--size 32] [--width 0.25]

KIND is one of
    presets        every preset on real data for a short length: time, peak memory, where the losses and the watchdog are
    sweep          learning rates ×0.2, ×1 and ×2 of gan-fashion-mlp, wgan-mnist-mlp and wgan-gp-mnist-mlp
    collapse       wgan-gp-anime-sgd, and what becomes of it when one thing is changed
    correlation    one run of wgan-mnist-mlp and of wgan-gp-mnist-mlp: does the Wasserstein estimate follow the Fréchet distance
                   that picks the best checkpoint?

Needs a built gan-train (--bin), an onnxruntime that it finds, and GANFORGE_DATA; Python 3.11 without packages.

DIR/NAME holds the run in run/, what it said in log.txt, attempts.jsonl (a line for each process that trained it: seconds,
peak memory, exit code), result.json once it has ended, and evaluation.json as `gan-train eval` printed it. What is there is not done again and what was interrupted goes on from its last checkpoint, so the same
command continues a study. DIR/KIND.md is the table.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A run saves so often: what an interruption may cost.
CHECKPOINTS = 20
# What gan-train says of NaN before the first checkpoint.
NO_CHECKPOINT = "no checkpoint in"


@dataclasses.dataclass
class Run:
    name: str
    preset: str
    flags: list = dataclasses.field(default_factory=list)


class Study:
    def __init__(self, args):
        self.args, self.program = args, args.bin / "gan-train"

    def call(self, *command):
        done = subprocess.run([str(part) for part in (self.program, *command)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: gan-train {shlex.join(str(part) for part in command)}")
        return done.stdout

    def config(self, preset):
        return tomllib.loads(self.call("presets", preset))

    def presets(self):
        return [line.split()[0] for line in self.call("presets").splitlines()]

    # --- one run

    def execute(self, run):
        """The result of a run: from result.json, or trained to its end now."""
        place = self.args.out / run.name
        place.mkdir(parents=True, exist_ok=True)
        asked = {"preset": run.preset, "flags": run.flags + self.shape_flags(), "images": self.args.images}
        # The call that began a run decides what it is.
        if not (place / "run/config.toml").exists():
            write_json(place / "asked.json", asked)
        told = json.loads((place / "asked.json").read_text())
        if told != asked:
            sys.exit(f"{place} was begun as {told}, not as {asked}: choose another --out, or delete it")
        path = place / "result.json"
        result = json.loads(path.read_text()) if path.exists() else self.trained(run, place, asked)
        if result["ended"] and not self.args.no_eval:
            result |= self.evaluated(run, place)
        return result

    def trained(self, run, place, asked):
        summary, complaint, code = self.train(run, place, asked)
        outcome = summary.get("outcome") or {}
        verdict, warnings = outcome.get("verdict"), outcome.get("warnings", [])
        # The watchdog's end is an end, too; so is NaN before the first checkpoint.
        ended = code == 0 or verdict is not None or NO_CHECKPOINT in complaint
        result = {"asked": asked, "ended": ended, "exit_code": code, "verdict": verdict, "error": complaint if code else None}
        result["warnings"] = warnings
        result |= totals(place) | {"log": read_lines(place / "run/stats.jsonl")[-1:]}
        if ended:
            write_json(place / "result.json", result)
        return result

    def train(self, run, place, asked):
        folder = place / "run"
        if (folder / "config.toml").exists():
            command = ["--resume", folder]
        else:
            # Without a config nothing has begun.
            shutil.rmtree(folder, ignore_errors=True)
            length = ["--images", self.args.images, "--checkpoint-every", self.checkpoint_every(run)]
            command = ["--preset", run.preset, "--out", folder, "--data", self.data(run.preset), *length]
            command += asked["flags"]
        return attempt([self.program, *command, "--device", self.args.device, "--json"], place)

    def data(self, preset):
        """Fashion-MNIST and MNIST by the preset's name and size, the faces else."""
        if self.config(preset)["data"]["channels"] == 3:
            return pathlib.Path(os.environ.get("GANFORGE_DATA", "data")) / "anime-faces.zip"
        return "fashion-mnist" if "fashion" in preset else "mnist"

    def shape_flags(self):
        flags = ["--size", str(self.args.size)] if self.args.size else []
        return flags + (["--width", str(self.args.width)] if self.args.width else [])

    def checkpoint_every(self, run):
        schedule = self.config(run.preset)["schedule"]
        set_flags = [tomllib.loads(flag) for flag in run.flags if flag.startswith("schedule.")]
        for flag in set_flags:
            schedule |= flag["schedule"]
        images_a_step = schedule["batch_size"] * schedule["critic_steps"] / schedule.get("generator_steps", 1)
        return max(round(self.args.images / images_a_step / CHECKPOINTS), 1)

    def evaluated(self, run, place):
        """What `gan-train eval` says of the run: from the file, or found now."""
        path = place / "evaluation.json"
        if (place / "run/generator.onnx").exists() and not path.exists():
            command = ["eval", place / "run", "--data", self.data(run.preset), "--json", *self.args.eval]
            write_json(path, json.loads(self.call(*command)))
        return {"evaluation": json.loads(path.read_text())} if path.exists() else {}

    # --- tables

    def table(self, runs, results):
        head = ["run", "images", "ended", "critic's loss", "generator's", "critic's input gradient", "diversity"]
        head += ["best Fréchet distance on the way", self.args.metric]
        rows = [head + ["minutes", "peak MB", "processes"]]
        for run, result in zip(runs, results):
            last = result["log"][-1] if result["log"] else {}
            keys = ("loss_critic", "loss_generator", "input_gradient_norm", "diversity")
            figures = [self.latest(run, key) for key in keys] + [min(self.logged(run, "quality"), default=None)]
            evaluation = result.get("evaluation")
            figures.append(number(evaluation, self.args.metric) if evaluation else None)
            cells = [run.name, f"{last.get('images', 0):,}", ending(result), *map(rounded, figures)]
            rows.append(cells + [f"{result['seconds'] / 60:.1f}", f"{result['peak_mb']:.0f}", str(result["attempts"])])
        return markdown(rows)

    def logged(self, run, key):
        """What the log says of it, line by line; lines without it left out."""
        lines = read_lines(self.args.out / run.name / "run/stats.jsonl")
        return [line[key] for line in lines if line.get(key) is not None]

    def latest(self, run, key):
        return next(reversed(self.logged(run, key)), None)

    def correlations(self, runs):
        """Tables of the measured distances, with Pearson's and Spearman's correlation under each."""
        parts = []
        for run in runs:
            points = self.points(run)
            rows = [["images", "mean Wasserstein estimate since the last", "Fréchet distance"]]
            rows += [[f"{images:,}", rounded(estimate), rounded(distance)] for images, estimate, distance in points]
            parts.append(f"{run.name}\n\n{markdown(rows)}")
            if len(points) > 2:
                _, x, y = zip(*points)
                pearson, spearman = correlation(x, y), correlation(ranks(x), ranks(y))
                parts.append(f"{len(points)} measurements: Pearson {pearson:.2f}, Spearman {spearman:.2f}")
        return "\n\n".join(parts)

    def points(self, run):
        """(images, mean of the Wasserstein estimate since the point before, Fréchet distance) wherever that was measured."""
        points, estimates = [], []
        for line in read_lines(self.args.out / run.name / "run/stats.jsonl"):
            estimates.append(line.get("wasserstein", line["score_real"] - line["score_fake"]))
            if line.get("quality") is not None:
                points.append((line["images"], statistics.mean(estimates), line["quality"]))
                estimates = []
        return points


# --- processes and files


def attempt(command, place):
    """Trains in a process of its own: (its summary, its complaint, its exit code). An interruption waits until it has saved."""
    command = [str(part) for part in command]
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    interrupted, begun = False, time.monotonic()
    with tempfile.TemporaryFile("w+") as stdout, (place / "log.txt").open("a+") as stderr:
        start = stderr.seek(0, os.SEEK_END)
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        while True:
            try:
                # Not Popen.wait: this child's peak memory is wanted, not the highest of all children.
                _, status, usage = os.wait4(process.pid, 0)
                break
            except KeyboardInterrupt:
                interrupted = True  # the terminal has told it, too
        process.returncode = code = os.waitstatus_to_exitcode(status)
        stdout.seek(0), stderr.seek(start)
        said, told = stdout.read().strip(), stderr.read()
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    line = {"seconds": round(time.monotonic() - begun, 1), "peak_mb": round(peak, 1), "exit_code": code}
    with (place / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    if interrupted:
        sys.exit("interrupted; the same command goes on")
    complaint = told[told.rfind("error: ") :].strip() if "error: " in told else told.strip()
    return (json.loads(said.splitlines()[-1]) if said else {}), complaint, code


def totals(place):
    attempts = read_lines(place / "attempts.jsonl")
    seconds, peaks = (list(line[key] for line in attempts) for key in ("seconds", "peak_mb"))
    return {"seconds": sum(seconds), "peak_mb": max(peaks), "attempts": len(attempts)}


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_json(path, value):
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.rename(path)


# --- figures


def number(evaluation, metric):
    """The figure under a path of keys, `a.b.c`."""
    for key in metric.split("."):
        evaluation = evaluation[key]
    return float(evaluation)


def ending(result):
    if verdict := result["verdict"]:
        return sentence(verdict)
    if result["exit_code"]:
        error = (result["error"] or f"exit code {result['exit_code']}").splitlines()[0].removeprefix("error: ")
        return error.split(f", and {NO_CHECKPOINT}")[0]
    return "; ".join(["complete", *map(sentence, result["warnings"])])


def sentence(verdict):
    return f"{verdict['trouble']} named at {verdict['images']:,} images, begun at {verdict['since_images']:,}"


def rounded(value):
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def markdown(rows):
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def ranks(values):
    """Ranks; equal values share the mean of theirs."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]


def correlation(x, y):
    try:
        return statistics.correlation(x, y)
    except statistics.StatisticsError:  # one of them never changes
        return math.nan


# --- studies


def assignments(*settings):
    return [flag for setting in settings for flag in ("--set", setting)]


def rate_settings(config, factor):
    return [f"optimizer.{side}.lr={config['optimizer'][side]['lr'] * factor:.6g}" for side in ("generator", "critic")]


def presets(study):
    return [Run(preset, preset) for preset in study.presets()]


def sweep(study):
    runs = []
    for preset in ("gan-fashion-mlp", "wgan-mnist-mlp", "wgan-gp-mnist-mlp"):
        config = study.config(preset)
        for factor in (0.2, 1, 2):
            runs.append(Run(f"{preset}-lr-x{factor}", preset, assignments(*rate_settings(config, factor))))
    return runs


def collapse(study):
    """One factor at a time. The penalty of the sum weighs 1/B of what WGAN-GP means: a sum of B losses beside one mean."""
    base = "wgan-gp-anime-sgd"
    config = study.config(base)
    batch, weight = config["schedule"]["batch_size"], config["penalty"]["weight"]
    bce = 'loss={{ kind = "bce", reduction = "{}", critic_scale = {} }}'
    penalty = 'penalty={{ kind = "gradient", weight = {} }}'

    def both(optimizer):
        return [f"optimizer.{side}={{ {optimizer} }}" for side in ("generator", "critic")]

    changes = {
        "as-reported": [],
        # With SGD, B times the loss is B times the rate: the effective λ alone, both, the length of a step alone.
        "penalty-x-batch": [penalty.format(weight * batch)],
        "mean-loss": [bce.format("mean", 0.5)],
        "mean-loss-same-lambda": [bce.format("mean", 0.5), penalty.format(weight / batch)],
        "wasserstein-sum": ['loss={ kind = "wgan", reduction = "sum" }'],
        "wasserstein-mean": ['loss={ kind = "wgan" }'],
        "no-norm": ['critic.norm="none"'],
        "layer-norm": ['critic.norm="layer"'],
        "adam": both('kind = "adam", lr = 2e-4, betas = [0.5, 0.999]'),
        "adam-wgan-gp": both('kind = "adam", lr = 1e-4, betas = [0.0, 0.9]'),
        "lr-x0.2": rate_settings(config, 0.2),
        "lr-x5": rate_settings(config, 5),
        "two-generator-steps": ["schedule.generator_steps=2"],
        "five-critic-steps": ["schedule.critic_steps=5"],
        "fresh-latents": ['schedule.generator_latents="fresh"'],
    }
    # The watchdog is to say when it begins, and not to end it: what comes after is part of the finding.
    on = ["watch.stop=false"]
    runs = [Run(name, base, assignments(*settings, *on)) for name, settings in changes.items()]
    return [*runs, Run("the-cure", "wgan-gp-anime", assignments(*on))]


def correlate(study):
    return [Run(preset, preset) for preset in ("wgan-mnist-mlp", "wgan-gp-mnist-mlp")]


# kind -> (its runs, images a run)
KINDS = {
    "presets": (presets, 20_000),
    "sweep": (sweep, 500_000),
    "collapse": (collapse, 1_000_000),
    "correlation": (correlate, 1_000_000),
}


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder of the study, new or begun")
    parser.add_argument("--images", type=int, help="real images shown to the critic in each run")
    parser.add_argument("--only", help="these runs, joined by commas")
    parser.add_argument("--list", action="store_true", help="name the runs, and stop")
    parser.add_argument("--size", type=int, help="gan-train's --size: another size of the images")
    parser.add_argument("--width", type=float, help="gan-train's --width: narrower networks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-eval", action="store_true", help="train only")
    parser.add_argument("--eval", nargs="*", default=[], help="more flags for gan-train eval")
    parser.add_argument("--metric", default="frechet.mean", help="the key of the evaluation in the table, a.b.c for nested ones")
    parser.add_argument("--bin", type=pathlib.Path, default=target / "release", help="where gan-train is")
    args = parser.parse_args()
    make, images = KINDS[args.kind]
    args.images = args.images or images

    study = Study(args)
    runs = make(study)
    if args.only:
        names = args.only.split(",")
        if unknown := set(names) - {run.name for run in runs}:
            parser.error(f"--only: there is no {', '.join(sorted(unknown))} in {args.kind}")
        runs = [run for run in runs if run.name in names]
    if args.list:
        print("\n".join(f"{run.name}: {run.preset} {shlex.join(run.flags)}".rstrip() for run in runs))
        return
    results, text = [], ""
    for run in runs:
        results.append(study.execute(run))
        # After each: a study takes hours.
        text = study.table(runs, results)
        if args.kind == "correlation":
            text += "\n\n" + study.correlations(runs)
        (args.out / f"{args.kind}.md").write_text(text + "\n")
    print(text)
    if any(result["exit_code"] and not result["verdict"] for result in results):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:  # gan-train has said why
        sys.exit(str(error))
