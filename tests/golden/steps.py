#!/usr/bin/env python3
"""The losses of the first 20 generator steps of every preset, by PyTorch in float64, for tests/suite/steps.rs.

    python tests/golden/steps.py [--gan-train FILE] [--only CASE…]      needs torch 2, numpy, safetensors, and gan-train for the presets

Networks, losses and steps are written here from the formulas of the papers and write-ups, in PyTorch's own layers and
autograd. Weights, images, latents, masks and the order of the data are drawn from the addressed streams (streams.py), as
training draws them, so nothing but the losses needs to be kept. So that it takes seconds, all is small: `BATCH`, `IMAGES`
(whose last batch in an epoch is smaller), and hidden widths divided by `DIVISOR`, see `narrow`.

steps.json: `torch`, `batch_size`, `images`, `divisor`, `least`, `seed` as used; `streams`, draws that say whether streams.py
still draws as src/random.rs does; and `cases`, name -> {preset, set, rounds}: `set` are assignments as `gan-train --set` takes
them, and a round has lists of losses: `critic` (all of it), `penalty` (its part, weighted; 0 without one) and `generator`.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import tomllib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

import augment
import streams
from make import Residual, count, critic_loss, descend, generator_loss, kind_of, make_layer, make_optimizer, parts_of

HERE = pathlib.Path(__file__).resolve().parent
STEPS, BATCH, IMAGES, DIVISOR, LEAST, SEED = 20, 6, 20, 16, 4, 7

# Beyond the presets as they are: name -> (preset, assignments).
GP, R1 = 'penalty={ kind = "gradient", weight = 10.0 }', 'penalty={ kind = "r1", weight = 10.0 }'
RELATIVISTIC, R1_R2 = 'loss={ kind = "relativistic" }', 'penalty={ kind = "r1-r2", weight = 2.0 }'
VARIANTS = {
    "hinge": ("dcgan-fashion", ['loss={ kind = "hinge" }']),
    "hinge-spectral": ("dcgan-fashion", ['loss={ kind = "hinge" }', 'critic.norm="spectral"']),
    "hinge-spectral-mlp": ("gan-fashion-mlp", ['loss={ kind = "hinge" }', 'critic.norm="spectral"']),
    "wgan-gp-spectral": ("wgan-gp-fashion", ['critic.norm="spectral"']),
    "wgan-gp-no-norm": ("wgan-gp-fashion", ['critic.norm="none"']),
    "lsgan-layer-norm": ("lsgan-fashion", ['critic.norm="layer"']),
    "wgan-sum": ("wgan-fashion", ['loss={ kind = "wgan", clip = 0.01, reduction = "sum" }']),
    "bce-gp-dropout": ("gan-fashion-mlp", [GP]),
    "bce-r1-batch-norm": ("dcgan-28", [R1]),
    "lsgan-r1-layer-norm": ("lsgan-fashion", [R1, 'critic.norm="layer"']),
    "wgan-gp-batch-norm": ("wgan-gp-fashion", ['critic.norm="batch"']),
    "critic-warmup": ("gan-fashion-mlp", ["schedule.critic_warmup={ critic_steps = 3, first = 4, every = 7 }"]),
    "generator-steps": ("gan-fashion-mlp", ["schedule.generator_steps=2", "schedule.critic_steps=2"]),
    "generator-steps-reused": ("dcgan-28", ["schedule.generator_steps=4"]),
    "categorical": (
        "dcgan-28",
        [
            "generator.layers=[{ categorical = 5 }, { reshape = [100, 1, 1] }, { conv_transpose = { out = 64, kernel = 7, bias = false } }, "
            "'batch_norm', 'relu', { conv_transpose = { out = 64, kernel = 4, stride = 2, padding = 1 } }, 'relu', "
            "{ conv_transpose = { out = 1, kernel = 4, stride = 2, padding = 1 } }, 'tanh']",
        ],
    ),
    "classes": ("dcgan-28", ["data.classes=10"]),
    "classes-r1": ("dcgan-28", ["data.classes=10", R1]),
    "classes-fresh": ("gan-fashion-mlp", ["data.classes=10"]),
    "classes-spectral": ("dcgan-fashion", ["data.classes=10", "schedule.critic_steps=2", 'critic.norm="spectral"']),
    "relativistic": ("dcgan-fashion", ['loss={ kind = "relativistic" }', R1, 'critic.norm="layer"']),
    "relativistic-classes": ("dcgan-28", ['loss={ kind = "relativistic" }', R1, "data.classes=10", "schedule.generator_steps=2"]),
    "relativistic-mlp": ("gan-fashion-mlp", ['loss={ kind = "relativistic" }', R1]),
    "r1-r2": ("dcgan-fashion", [RELATIVISTIC, R1_R2, 'critic.norm="layer"']),
    "r1-r2-augmented": (
        "dcgan-fashion",
        [RELATIVISTIC, R1_R2, 'critic.norm="layer"', 'augment=["color", "translation", "cutout"]'],
    ),
    "r1-r2-lazy": (
        "gan-fashion-mlp",
        [RELATIVISTIC, 'penalty={ kind = "r1-r2", weight = 1.0, every = 3 }', "data.classes=10", "schedule.critic_steps=2"],
    ),
    "r1-lazy-augmented": ("dcgan-fashion", ['penalty={ kind = "r1", weight = 0.1, every = 4 }', 'augment=["color"]']),
    "ramps": (
        "dcgan-fashion",
        [
            RELATIVISTIC,
            R1_R2,
            'critic.norm="layer"',
            'augment=["translation", "color", "cutout"]',
            "augment_probability=0.1",
            "schedule.critic_steps=2",
            "optimizer.generator.betas=[0.0, 0.9]",
            "optimizer.critic.betas=[0.0, 0.8]",
            "schedule.ema_half_life=0",
            'schedule.lr_decay={ curve = "cosine", begin = { steps = 1 }, end = { steps = 16 }, to = 0.25 }',
            "schedule.ramp={ over = { steps = 16 }, beta2_to = 0.99, penalty_to = 0.2, augment_to = 0.7, ema_half_life_to = 60 }",
        ],
    ),
    "san": ("dcgan-64", ["critic.san=true"]),
    "san-hinge-spectral": ("dcgan-fashion", ['loss={ kind = "hinge" }', 'critic.norm="spectral"', "critic.san=true"]),
    "san-relativistic": ("dcgan-fashion", [RELATIVISTIC, R1_R2, 'critic.norm="layer"', "critic.san=true"]),
    "san-r1-classes": ("dcgan-28", ["data.classes=10", R1, "critic.san=true"]),
    "san-gp-mlp": ("gan-fashion-mlp", ['loss={ kind = "hinge" }', GP, "critic.san=true"]),
    "san-r3gan": ("r3gan-28", ["critic.san=true"]),
    "top-k": ("dcgan-28", ["schedule.generator_top_k=0.4"]),
    "top-k-wgan": ("wgan-fashion", ["schedule.generator_top_k=0.75"]),
    "lr-linear": (
        "dcgan-28",
        [
            "schedule.lr_warmup={ steps = 5 }",
            'schedule.lr_decay={ curve = "linear", begin = { steps = 8 }, end = { steps = 18 }, to = 0.1 }',
        ],
    ),
    "lr-cosine": (
        "wgan-mnist-mlp",
        ['schedule.lr_decay={ curve = "cosine", begin = { steps = 2 }, end = { steps = 30 }, to = 0.0 }'],
    ),
    "sgd-momentum": (
        "gan-fashion-mlp",
        [f'optimizer.{side}={{ kind = "sgd", lr = 0.05, momentum = 0.9 }}' for side in ("generator", "critic")],
    ),
}


# --- configs


def resolved(program, preset, assignments):
    """A preset as gan-train resolves it."""
    if assignments:
        flags = [flag for assignment in assignments for flag in ("--set", assignment)]
        command = ["--preset", preset, *flags, "--data=synthetic", "--device=cpu", "--dry-run", "--quiet"]
    else:
        command = ["presets", preset]
    text = subprocess.run([program, *command], check=True, capture_output=True, text=True).stdout
    return tomllib.loads(text)


def narrow(layers):
    """Hidden widths divided by DIVISOR, at least LEAST, and groups of as many channels at most; a linear layer in front of a reshape
    gives what that then takes."""
    layers = json.loads(json.dumps(layers))
    options = [layer[kind_of(layer)] for layer in layers if kind_of(layer) in ("linear", "conv", "conv_transpose")]
    for option in options[:-1] + inner_options(layers):
        option["out"] = max(option["out"] // DIVISOR, LEAST)
        if width := option.get("group_width"):
            option["group_width"] = min(width, LEAST)
    linear = None
    for layer in layers:
        kind = kind_of(layer)
        if kind == "linear":
            linear = layer[kind]
        elif kind == "reshape" and linear:
            layer[kind][0] = max(layer[kind][0] // DIVISOR, LEAST)
            linear["out"] = math.prod(layer[kind])
    return layers


def inner_options(layers):
    """Of all layers with kernels in residual blocks."""
    inner = [layer for block in layers for part in parts_of(block) for layer in part]
    here = [layer[kind_of(layer)] for layer in inner if kind_of(layer) in ("linear", "conv", "conv_transpose")]
    return here + (inner_options(inner) if inner else [])


# --- networks


class Dropout(nn.Module):
    """The masks of the streams; `passes` knows the number of the pass under way."""

    def __init__(self, p, index, passes):
        super().__init__()
        self.p, self.index, self.passes = p, index, passes

    def forward(self, x):
        draws = streams.uniform(SEED, b"dropout", [self.passes.number * 1024 + self.index], x.numel())[0]
        kept = np.where(draws.astype(np.float64) < self.p, np.float32(0), np.float32(1 / (1 - self.p)))
        mask = torch.from_numpy(kept).to(x.dtype)
        if x.dim() == 4:  # drawn with the channels last
            n, c, h, w = x.shape
            return x * mask.reshape(n, h, w, c).permute(0, 3, 1, 2)
        return x * mask.reshape(x.shape)


class Passes:
    """Numbers the training passes of both networks, which address the dropout masks: so many numbers are set aside for a step
    as a round has at most."""

    def restart(self, config, step):
        """A round begins: three passes a critic step and one or two for a penalty, at most two a generator step and one
        for real images."""
        schedule = config["schedule"]
        most = max(schedule["critic_steps"], schedule.get("critic_warmup", {}).get("critic_steps", 0))
        of_penalty = {"gradient": 1, "r1": 1, "r1-r2": 2}.get(config.get("penalty", {}).get("kind"), 0)
        self.a_round = (3 + of_penalty) * most + (2 + (config["loss"]["kind"] == "relativistic")) * schedule.get("generator_steps", 1)
        self.step, self.made = step, 0

    def next(self, later=0):
        return self.step * self.a_round + self.made + later

    def begin(self):
        self.number = self.next()
        self.made += 1


def build(layers, shape, init, purpose, passes, index=-1):
    """Layers are numbered in the order of reading: those in a residual block behind it."""
    modules, probe, before = [], torch.zeros(2, *shape), index
    for at, layer in enumerate(layers):
        index = before + 1 + count(layers[:at])
        if kind_of(layer) == "residual":
            (body, shortcut), inside = parts_of(layer), tuple(probe.shape[1:])
            beside = build(shortcut, inside, init, purpose, passes, index + count(body))
            module = Residual(build(body, inside, init, purpose, passes, index), beside).eval()
            with torch.no_grad():
                probe = module(probe)
            modules.append(module)
            continue
        if kind_of(layer) == "dropout":
            modules.append(Dropout(layer["dropout"], index, passes))
            continue
        options = layer[kind_of(layer)] if isinstance(layer, dict) else {}
        spectral = isinstance(options, dict) and options.pop("spectral", False)
        module = make_layer(layer, tuple(probe.shape[1:])).eval()
        with torch.no_grad():
            start(module, layer, init, purpose, index)
            probe = module(probe)
        if spectral:
            module = spectrally_normalised(module, index)
        modules.append(module)
    return nn.Sequential(*modules).train()


def start(module, layer, init, purpose, index):
    """Initial values: a parameter's stream is twice its layer's place in the list, one more for a bias."""
    parameters, kind = dict(module.named_parameters()), kind_of(layer)
    gain = layer[kind].get("gain") if kind in ("linear", "conv") else None
    for name, parameter in parameters.items():
        slot = 2 * index + (name == "bias")
        if kind.endswith("norm"):
            rule = init[f"norm_{name}"]
            fan_in = parameter.numel()
        else:
            rule = {"normal": {"mean": 0.0, "std": 1.0}} if kind == "basis" else init["bias" if name == "bias" else kind.removesuffix("_transpose")]
            if gain is not None and name == "weight":
                rule = {"gain": gain}
            fan_in = nn.init._calculate_fan_in_and_fan_out(parameters["weight"])[0] if "weight" in parameters else parameter.numel()
        if rule == "pytorch" and kind.endswith("norm"):
            continue  # PyTorch's own 1 and 0
        parameter.copy_(torch.from_numpy(initial(rule, fan_in, purpose, slot, parameter.numel())).reshape(parameter.shape))


def spectrally_normalised(module, index):
    """PyTorch's own (arXiv 1802.05957): a power iteration in each training pass, from directions of ours."""
    module = spectral_norm(module, n_power_iterations=1, eps=1e-12)
    for slot, vector in enumerate((module.weight_u, module.weight_v)):
        draws = streams.normal(SEED, b"spectral", [2 * index + slot], len(vector))[0].astype(np.float64)
        direction = (draws / np.sqrt((draws**2).sum())).astype(np.float32)
        vector.copy_(torch.from_numpy(direction.astype(np.float64)))
    return module


def initial(rule, fan_in, purpose, slot, count):
    one, fan_in = np.float32(1), np.float32(fan_in)
    if rule == "zeros":
        return np.zeros(count)
    if rule == "pytorch":  # kaiming-uniform with a = √5, and PyTorch's biases: both U(±1/√fan_in)
        bound = one / np.sqrt(fan_in)
        return streams.uniform(SEED, purpose, [slot], count, -bound, bound)[0].astype(np.float64)
    if rule == "fan-in-normal":  # standard deviation 1/√(fan_in/2)
        return streams.normal(SEED, purpose, [slot], count, 0.0, one / np.sqrt(fan_in / np.float32(2)))[0].astype(np.float64)
    if "gain" in rule:  # standard deviation gain/√fan_in
        return streams.normal(SEED, purpose, [slot], count, 0.0, np.float32(rule["gain"] / math.sqrt(fan_in)))[0].astype(np.float64)
    return streams.normal(SEED, purpose, [slot], count, **rule["normal"])[0].astype(np.float64)


# --- augmentation: what src/augment.rs draws of the words of an image's stream, in this order


def draw_color(words, _):
    brightness, saturation, contrast = (streams.unit(np.array([next(words)], dtype=np.uint32))[0] for _ in range(3))
    return [float(np.float32(low) + np.float32(width) * u) for low, width, u in ((-0.5, 1, brightness), (0, 2, saturation), (0.5, 1, contrast))]


def draw_translation(words, side):
    most = int(side / 8 + 0.5)
    return [streams.next_below(words, 2 * most + 1) - most for _ in range(2)]


def draw_cutout(words, side):
    places = side + 1 - int(side / 2 + 0.5) % 2
    return [streams.next_below(words, places) for _ in range(2)]


DRAW = {"color": draw_color, "translation": draw_translation, "cutout": draw_cutout}


# --- training


class Training:
    def __init__(self, config):
        self.config, self.schedule, self.loss = config, config["schedule"], config["loss"]
        self.passes, init = Passes(), config["init"]
        size, channels = config["data"]["size"], config["data"]["channels"]
        self.shape, self.san = (channels, size, size), config["critic"].get("san", False)
        latent = (config["latent"]["size"],)
        self.generator = build(narrow(config["generator"]["layers"]), latent, init, b"init-gen", self.passes)
        self.critic = build(narrow(config["critic"]["layers"]), self.shape, init, b"init-cri", self.passes)
        optimizers = config["optimizer"]
        self.generator_optimizer = make_optimizer(optimizers["generator"], list(self.generator.parameters()))
        self.critic_optimizer = make_optimizer(optimizers["critic"], list(self.critic.parameters()))
        words = streams.bits(SEED, b"synthet", range(IMAGES), math.prod(self.shape))
        pixels = (words >> np.uint32(24)).astype(np.float32)
        sigmoid = config["data"]["range"] == "sigmoid"
        values = pixels / np.float32(255) if sigmoid else pixels / np.float32(127.5) - np.float32(1)
        self.images = torch.from_numpy(values.astype(np.float64)).reshape(IMAGES, *self.shape)
        # Labels in turn. The first latents of an image choose its class: the largest of them.
        self.classes = config["data"].get("classes", 0)
        self.labels = torch.arange(IMAGES) % max(self.classes, 1)
        self.step, self.critic_steps = 0, 0

    def run(self):
        """Losses of each round."""
        rounds = []
        while self.step < STEPS:
            self.set_rates()
            self.passes.restart(self.config, self.step)
            critic = [self.critic_step() for _ in range(self.critic_steps_at(self.step))]
            generator = [self.generator_step() for _ in range(self.schedule.get("generator_steps", 1))]
            losses, penalties = zip(*critic)
            rounds.append({"critic": losses, "penalty": penalties, "generator": generator})
        return rounds

    def critic_steps_at(self, step):
        """The warm-up is the WGAN authors': more critic steps for the first generator steps, and then every so many."""
        warmup = self.schedule.get("critic_warmup")
        if warmup and (step < warmup["first"] or step % warmup["every"] == 0):
            return warmup["critic_steps"]
        return self.schedule["critic_steps"]

    def set_rates(self):
        """The learning rates climb in a straight line, and fall on a straight line or half a cosine wave. Other values go on half
        a cosine wave from where they are to where the ramp says."""
        factor = 1.0
        if warmup := self.schedule.get("lr_warmup"):
            factor = min((self.step + 1) / self.in_steps(warmup), 1.0)
        if decay := self.schedule.get("lr_decay"):
            begin, end = self.in_steps(decay["begin"]), self.in_steps(decay["end"])
            way = min(max((self.step - begin) / (end - begin), 0.0), 1.0)
            left = 1 - way if decay["curve"] == "linear" else (1 + math.cos(math.pi * way)) / 2
            factor *= decay["to"] + (1 - decay["to"]) * left
        for side, optimizer in (("generator", self.generator_optimizer), ("critic", self.critic_optimizer)):
            rate = factor * self.config["optimizer"][side]["lr"]
            for group in getattr(optimizer, "param_groups", []):
                group["lr"] = rate
                if betas := self.config["optimizer"][side].get("betas"):
                    group["betas"] = (betas[0], self.ramped(betas[1], "beta2_to"))
            optimizer.lr = rate  # where the optimiser is not PyTorch's own
        self.probability = self.ramped(self.config.get("augment_probability", 1.0), "augment_to")

    def in_steps(self, span):
        """Steps that a length in steps or images takes, of one critic step each; the last batch of an epoch is smaller."""
        if "steps" in span:
            return span["steps"]
        assert self.schedule["critic_steps"] == 1, "a length in images with several critic steps"
        epochs, rest = divmod(span["images"], IMAGES)
        return epochs * math.ceil(IMAGES / BATCH) + math.ceil(rest / BATCH)

    def ramped(self, start, key):
        """value(t) = to + (from - to) · ½(1 + cos(π · min(1, t/T)))"""
        ramp = self.schedule.get("ramp", {})
        if key not in ramp:
            return start
        way = min(1.0, self.step / self.in_steps(ramp["over"]))
        return ramp[key] + (start - ramp[key]) * 0.5 * (1 + math.cos(math.pi * way))

    def critic_step(self):
        if clip := self.loss.get("clip"):
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-clip, clip)
        real, labels = self.real()
        self.z = self.latents(b"z-critic", self.critic_steps, len(real))
        self.fakes = self.generate(self.z)
        fakes = self.fakes.detach()
        of_real, of_fakes = (real, labels, self.draws(len(real))), (fakes, self.chosen(self.z), self.draws(len(real), later=1))
        (score_real, sliced_real), (score_fake, sliced_fake) = self.both_scores(*of_real), self.both_scores(*of_fakes)
        loss = critic_loss(self.loss, score_real, score_fake)
        penalty = self.penalty(of_real, of_fakes)
        of_direction = sliced_fake.mean() - sliced_real.mean() if self.san else 0
        descend(loss + penalty + of_direction, self.critic, self.critic_optimizer)
        self.critic_steps += 1
        return (loss + penalty).item(), penalty.item()

    def penalty(self, of_real, of_fakes):
        """WGAN-GP's (arXiv 1704.00028, with a root that has a gradient at 0), R1 or R1 + R2 (arXiv 1801.04406, 2501.05441), each
        in a pass of its own; the latter with respect to the images before they are augmented, and perhaps lazily (arXiv
        1912.04958): each so many steps."""
        penalty = self.config.get("penalty")
        every = penalty.get("every", 1) if penalty else 1
        if not penalty or self.critic_steps % every:
            return torch.zeros(())
        weight = self.ramped(penalty["weight"], "penalty_to") * every
        if penalty["kind"] == "gradient":
            (real, labels, draws), (fakes, _, _) = of_real, of_fakes
            assert not draws
            indices = np.arange(len(real)) + self.critic_steps * BATCH
            alpha = torch.from_numpy(streams.uniform(SEED, b"interpol", indices, 1).astype(np.float64)).reshape(-1, 1, 1, 1)
            squares = self.squared_slopes(alpha * real + (1 - alpha) * fakes, labels, draws)
            return weight * ((squares + 1e-12).sqrt() - 1).square().mean()
        value = weight / 2 * self.squared_slopes(*of_real).mean()
        if penalty["kind"] == "r1-r2":
            value = value + weight / 2 * self.squared_slopes(*of_fakes).mean()
        return value

    def squared_slopes(self, images, labels, draws):
        """Of the score of each image to its pixels."""
        x = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.score(x, labels, draws).sum(), x, create_graph=True)
        return slope.flatten(1).square().sum(1)

    def draws(self, n, later=0):
        """How the images of the critic's next pass, or a later one, are augmented: a list of (kind, draws, whether at all)."""
        policy, side = self.config.get("augment", []), self.shape[1]
        assert not policy or self.config["data"]["range"] == "tanh"
        numbers = np.arange(n) + self.passes.next(later) * BATCH
        images = [iter(words.tolist()) for words in streams.bits(SEED, b"augment", numbers, 64)]
        chances = streams.uniform(SEED, b"aug-prob", numbers, len(policy)).astype(np.float64)
        steps = []
        for place, kind in enumerate(policy):
            drawn = [DRAW[kind](words, side) for words in images]
            steps.append((kind, drawn, torch.from_numpy(chances[:, place] < self.probability).reshape(-1, 1, 1, 1)))
        return steps

    def generator_step(self):
        latents, fakes = self.schedule["generator_latents"], self.fakes
        z = self.z
        if latents == "fresh":
            z = self.latents(b"z-gen", self.step, len(self.z))
            fakes = self.generate(z)
        elif latents == "reused" or fakes is None:
            fakes = self.generate(self.z)
        self.fakes = None  # used up: another generator step of the round makes its own
        scores = self.score(fakes, self.chosen(z), self.draws(len(z)))
        kept = math.ceil(self.schedule.get("generator_top_k", 1.0) * len(scores) - 1e-9)
        real = self.real_scores(len(scores))
        # Pairs keep their order; without, it plays no part.
        chosen = scores if real is not None else scores[scores.flatten().topk(kept).indices]
        loss = generator_loss(self.loss, chosen, real)
        descend(loss, self.generator, self.generator_optimizer)
        self.step += 1
        self.passes.step = self.step
        return loss.item()

    def real_scores(self, n):
        """Of images drawn one by one from all, for a loss that pairs them."""
        if self.loss["kind"] != "relativistic":
            return None
        words = iter(streams.bits(SEED, b"real-gen", [self.step], 16 * n)[0].tolist())
        numbers = [streams.next_below(words, IMAGES) for _ in range(n)]
        images = self.flipped(self.images[numbers], lambda _: streams.next_below(words, 2))
        return self.score(images, self.labels[numbers], self.draws(n)).detach()

    def flipped(self, images, drawn):
        """Mirrored where `drawn(place in the batch)` is 1, if images are mirrored at all."""
        if not self.config["data"].get("flip", False):
            return images
        flips = torch.tensor([drawn(at) == 1 for at in range(len(images))]).reshape(-1, 1, 1, 1)
        return torch.where(flips, images.flip(3), images)

    def real(self):
        epoch, batch = divmod(self.critic_steps, -(-IMAGES // BATCH))
        order = streams.permutation(SEED, b"shuffle", epoch, IMAGES)
        numbers = order[batch * BATCH : (batch + 1) * BATCH]
        first = epoch * IMAGES + batch * BATCH
        images = self.flipped(self.images[numbers], lambda at: streams.below(SEED, b"flip", first + at, 2, 1)[0])
        return images, self.labels[numbers]

    def latents(self, purpose, step, n):
        latent, indices = self.config["latent"], np.arange(n) + step * BATCH
        if latent["law"] == "normal":
            rows = streams.normal(SEED, purpose, indices, latent["size"])
        else:
            rows = streams.uniform(SEED, purpose, indices, latent["size"], -1.0, 1.0)
        return torch.from_numpy(rows.astype(np.float64))

    def generate(self, z):
        self.passes.begin()
        return self.generator(z).reshape(len(z), *self.shape)

    def chosen(self, z):
        return z[:, : self.classes].argmax(1) if self.classes else torch.zeros(len(z), dtype=torch.long)

    def score(self, images, labels, draws):
        return self.both_scores(images, labels, draws)[0]

    def both_scores(self, images, labels, draws):
        """Of the critic's values of an image that of its class; without classes there is one. Under SAN twice: for the loss, and for
        the last layer's direction."""
        self.passes.begin()
        for kind, drawn, is_changed in draws:
            images = torch.where(is_changed, augment.STEPS[kind](images, drawn), images)
        values = sliced(self.critic[:-1](images), self.critic[-1]) if self.san else (self.critic(images),) * 2
        return [value.flatten(1).gather(1, labels.unsqueeze(1)).flatten() for value in values]


def sliced(features, last):
    """The values of a linear layer or a convolution of the whole map, by SAN's paper (arXiv 2301.12811) and its authors' code
    (simple-san/models/discriminator.py): with the direction held constant, and with all but the direction."""
    last(features)  # spectral normalisation makes its weight there
    if isinstance(last, nn.Conv2d):
        features = F.unfold(features, last.kernel_size, padding=last.padding, stride=last.stride).squeeze(2)
    features, weight = features.flatten(1), last.weight.flatten(1)
    direction, scale = F.normalize(weight, dim=1), weight.norm(dim=1)
    bias = 0 if last.bias is None else last.bias
    return F.linear(features, direction.detach()) * scale + bias, F.linear(features.detach(), direction) * scale.detach()


# --- the file


def checks():
    """Sums over draws, with every function of streams.py in them."""
    normals = streams.normal(SEED, b"latent", [3, 2**40 + 5], 1001).view(np.uint32)
    return {
        "normal_bits": int(normals.astype(np.uint64).sum()),
        "permutation": streams.permutation(SEED, b"shuffle", 2, IMAGES),
    }


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target"))
    parser = argparse.ArgumentParser(description="Writes steps.json.")
    parser.add_argument("--gan-train", default=target / "release/gan-train", help="the program that knows the presets")
    parser.add_argument("--only", nargs="+", default=[], help="cases to compute; the others stay as they are in steps.json")
    args = parser.parse_args()
    kept = json.loads((HERE / "steps.json").read_text())["cases"] if args.only else {}
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)

    listed = subprocess.run([args.gan_train, "presets"], check=True, capture_output=True, text=True).stdout
    presets = {line.split()[0]: (line.split()[0], []) for line in listed.splitlines()}
    cases = []
    for name, (preset, assignments) in (presets | VARIANTS).items():
        if args.only and name not in args.only:
            cases.append(f"{json.dumps(name)}: {json.dumps(kept[name])}")
            continue
        rounds = Training(resolved(args.gan_train, preset, assignments)).run()
        values = [value for losses in rounds for kind in losses.values() for value in kind]
        assert np.isfinite(values).all(), name
        cases.append(f"{json.dumps(name)}: {json.dumps({'preset': preset, 'set': assignments, 'rounds': rounds})}")
        ends = ", ".join(f"{kind} {rounds[0][kind][0]:.6} to {rounds[-1][kind][-1]:.6}" for kind in rounds[0])
        print(f"{name}: {ends}")
    about = {"torch": torch.__version__.split("+")[0], "batch_size": BATCH, "images": IMAGES, "divisor": DIVISOR}
    about |= {"least": LEAST, "seed": SEED, "streams": checks()}
    head = json.dumps(about).removesuffix("}")
    (HERE / "steps.json").write_text(head + ', "cases": {\n' + ",\n".join(cases) + "\n}}\n")


if __name__ == "__main__":
    main()
