#!/usr/bin/env python3
r"""PyTorch's side of `cargo bench --bench train`: trains the networks of a ganforge config on random images.

    gan-train presets dcgan-fashion > config.toml
    printf '8\n8\n8\n' | python train.py --config config.toml --threads 2     # three measurements; needs torch 2

First prints a line that describes the networks; then, for every line on stdin, measures for as many seconds as it says and
prints one line. All lines are JSON; what goes wrong is one, too: {"error": …}.

A step does what `src/train/step.rs` does, with PyTorch's own means: layers, losses and optimisers of PyTorch where it has
them (the fastest implementation of the optimiser is found by trial), activations in place, gradients of the critic's
parameters left out in the generator's step, real and generated images in separate passes; an allocator that keeps its
memory. `--variant` is a list joined by +: `eager`, `compile` (torch.compile) or `graphs` (the same with CUDA graphs);
`channels_last` for that memory format.
"""

import argparse
import contextlib
import copy
import ctypes
import json
import math
import resource
import sys
import time
import tomllib
import warnings

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    print(json.dumps({"error": f"{sys.executable} has no PyTorch ({error}): pip install torch"}))
    sys.exit(1)

IMAGES = 4096  # or a few less: whole batches


# --- networks


class Linear(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1))


class Reshape(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.reshape(len(x), *self.shape)


def layer(spec, shape, first):
    """The module of one entry of a layer list; `shape` is its input's, without the batch."""
    kind, given = (spec, None) if isinstance(spec, str) else next(iter(spec.items()))
    if kind == "linear":
        return Linear(math.prod(shape), given["out"], bias=given["bias"])
    if kind in ("conv", "conv_transpose"):
        options = dict(given)
        module = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
        return module(shape[0], options.pop("out"), options.pop("kernel"), **options)
    if kind == "batch_norm":
        return (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(shape[0])
    if kind == "layer_norm":
        return nn.GroupNorm(1, shape[0]) if len(shape) == 3 else nn.LayerNorm(shape[0])
    if kind == "leaky_relu":
        return nn.LeakyReLU(given, inplace=not first)
    if kind == "relu":
        return nn.ReLU(inplace=not first)
    if kind == "dropout":
        return nn.Dropout(given)
    if kind == "reshape":
        return Reshape(*given)
    return {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[kind]()


def network(specs, shape):
    modules, probe = [], torch.zeros(2, *shape)
    for spec in specs:
        modules.append(layer(spec, tuple(probe.shape[1:]), first=not modules))
        with torch.no_grad():
            probe = modules[-1].eval()(probe)
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)  # whatever the config says: it changes no speed
    return nn.Sequential(*modules).train()


def count(net):
    return sum(p.numel() for p in net.parameters())


# --- losses and optimisers


def losses(config):
    """(what real scores cost the critic, what fake ones do, what fake ones cost the generator)"""
    loss = config["loss"]
    if loss["kind"] == "bce":
        reduction, scale = loss["reduction"], loss["critic_scale"]

        def bce(score, target):
            return F.binary_cross_entropy_with_logits(score, torch.full_like(score, target), reduction=reduction)

        return lambda s: scale * bce(s, 1.0), lambda s: scale * bce(s, 0.0), lambda s: bce(s, 1.0)
    if loss["kind"] == "lsgan":
        return lambda s: 0.5 * (s - 1).square().mean(), lambda s: 0.5 * s.square().mean(), lambda s: 0.5 * (s - 1).square().mean()
    if loss["kind"] == "wgan":
        return lambda s: -s.mean(), lambda s: s.mean(), lambda s: -s.mean()
    raise ValueError(f"loss {loss['kind']} is not known here")


class RmspropTf:
    """RMSprop with ε inside the root and the accumulator from 1."""

    def __init__(self, parameters, lr, decay, eps):
        self.parameters, self.lr, self.decay, self.eps = list(parameters), lr, decay, eps
        self.squares = [torch.ones_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self):
        gradients = [p.grad for p in self.parameters]
        torch._foreach_mul_(self.squares, self.decay)
        torch._foreach_addcmul_(self.squares, gradients, gradients, value=1 - self.decay)
        roots = torch._foreach_add(self.squares, self.eps)
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(self.parameters, gradients, roots, value=-self.lr)

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None


def optimizer(spec, parameters, **form):
    kind, lr = spec["kind"], spec["lr"]
    if kind == "adam":
        return torch.optim.Adam(parameters, lr=lr, betas=tuple(spec["betas"]), eps=spec["eps"], **form)
    if kind == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr, alpha=spec["decay"], eps=spec["eps"], **form)
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=spec["momentum"], **form)
    if kind == "rmsprop-tf":
        return RmspropTf(parameters, lr, spec["decay"], spec["eps"])
    raise ValueError(f"optimiser {kind} is not known here")


FORMS = {
    "adam": [{"foreach": False}, {"foreach": True}, {"fused": True}],
    "sgd": [{"foreach": False}, {"foreach": True}, {"fused": True}],
    "rmsprop": [{"foreach": False}, {"foreach": True}],
    "rmsprop-tf": [{}],
}


def fastest_form(spec, net, sync):
    """Which of PyTorch's implementations of an optimiser is the fastest on parameters like these."""

    def seconds(form):
        parameters = [torch.randn_like(p).requires_grad_() for p in net.parameters()]
        for p in parameters:
            p.grad = torch.randn_like(p)
        trial = optimizer(spec, parameters, **form)
        times = []
        for _ in range(6):
            sync()
            start = time.perf_counter()
            trial.step()
            sync()
            times.append(time.perf_counter() - start)
        return min(times)

    forms = FORMS[spec["kind"]]
    return forms[0] if len(forms) == 1 else min(forms, key=seconds)


# --- training


class Training:
    def __init__(self, config, args):
        self.config, self.schedule, self.device = config, config["schedule"], torch.device(args.device)
        self.batch = self.schedule["batch_size"]
        variant = set(args.variant.split("+"))
        if unknown := variant - {"eager", "compile", "graphs", "channels_last"}:
            raise ValueError(f"--variant: {', '.join(unknown)} is not known")
        self.format = torch.channels_last if "channels_last" in variant else torch.contiguous_format
        self.autocast = lambda: contextlib.nullcontext()
        if args.precision == "bf16":
            self.autocast = lambda: torch.autocast(self.device.type, torch.bfloat16)

        size, channels = config["data"]["size"], config["data"]["channels"]
        self.shape = (channels, size, size)
        self.generator = self.place(network(config["generator"]["layers"], (config["latent"]["size"],)))
        self.critic = self.place(network(config["critic"]["layers"], self.shape))
        self.run_generator, self.run_critic = self.generator, self.critic
        if variant & {"compile", "graphs"}:
            mode = "reduce-overhead" if "graphs" in variant else "default"
            self.run_generator, self.run_critic = (torch.compile(n, mode=mode) for n in (self.generator, self.critic))
        self.critic_parameters = list(self.critic.parameters())
        self.forms, optimizers = {}, config["optimizer"]
        for role, net in (("generator", self.generator), ("critic", self.critic)):
            self.forms[role] = fastest_form(optimizers[role], net, self.sync)
        self.generator_optimizer = optimizer(optimizers["generator"], self.generator.parameters(), **self.forms["generator"])
        self.critic_optimizer = optimizer(optimizers["critic"], self.critic.parameters(), **self.forms["critic"])
        self.cost_real, self.cost_fake, self.cost_generator = losses(config)

        decay = self.schedule["ema_decay"]
        self.average = copy.deepcopy(list(self.generator.state_dict().values())) if decay > 0 else None
        images = max(IMAGES // self.batch, 1) * self.batch
        self.images = torch.randint(256, (images, *self.shape), dtype=torch.uint8, device=self.device)
        self.images = self.images.to(memory_format=self.format)
        self.order, self.next, self.steps = None, images, 0
        self.sums = torch.zeros(4, device=self.device)

    def place(self, net):
        return net.to(self.device).to(memory_format=self.format)

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def real(self):
        """The next batch of the epoch's order, in the networks' range."""
        if self.next + self.batch > len(self.images):
            self.order, self.next = torch.randperm(len(self.images), device=self.device), 0
        chosen = self.order[self.next : self.next + self.batch]
        self.next += self.batch
        images = self.images[chosen].to(torch.float32, memory_format=self.format)
        return images.mul_(1 / 127.5).sub_(1) if self.config["data"]["range"] == "tanh" else images.mul_(1 / 255)

    def latents(self):
        shape = (self.batch, self.config["latent"]["size"])
        if self.config["latent"]["law"] == "normal":
            return torch.randn(shape, device=self.device)
        return torch.rand(shape, device=self.device).mul_(2).sub_(1)

    def generate(self, z):
        with self.autocast():
            return self.run_generator(z).reshape(self.batch, *self.shape)

    def score(self, images):
        with self.autocast():
            return self.run_critic(images).flatten().float()

    def step(self):
        reuse = self.schedule["generator_latents"]
        for turn in range(self.schedule["critic_steps"]):
            last = turn + 1 == self.schedule["critic_steps"]
            z = self.latents()
            with contextlib.nullcontext() if last and reuse == "reused-fakes" else torch.no_grad():
                fakes = self.generate(z)
            self.critic_step(self.real(), fakes.detach())
        if reuse != "reused-fakes":
            fakes = self.generate(z if reuse == "reused" else self.latents())
        self.generator_step(fakes)

    def critic_step(self, real, fakes):
        self.clip()
        self.critic_optimizer.zero_grad()
        # A pass and its gradients at a time, as PyTorch's own DCGAN example does: less memory, and as fast as both at once.
        score_real = self.score(real)
        loss_real = self.cost_real(score_real)
        loss_real.backward()
        score_fake = self.score(fakes)
        loss_fake = self.cost_fake(score_fake)
        loss_fake.backward()
        self.critic_optimizer.step()
        self.count(0, loss_real + loss_fake, score_real.mean(), score_fake.mean())

    def generator_step(self, fakes):
        for p in self.critic_parameters:
            p.requires_grad_(False)
        self.generator_optimizer.zero_grad()
        loss = self.cost_generator(self.score(fakes))
        loss.backward()
        self.generator_optimizer.step()
        for p in self.critic_parameters:
            p.requires_grad_(True)
        self.count(3, loss)
        self.steps += 1
        if self.average is not None:
            self.update_average()

    @torch.no_grad()
    def count(self, first, *values):
        """Sums for the log."""
        self.sums[first : first + len(values)] += torch.stack([v.detach() for v in values])

    @torch.no_grad()
    def clip(self):
        if self.config["loss"]["kind"] != "wgan":
            return
        clip = self.config["loss"]["clip"]
        if self.device.type == "cuda":
            torch._foreach_clamp_max_(self.critic_parameters, clip)
            torch._foreach_clamp_min_(self.critic_parameters, -clip)
        else:
            for p in self.critic_parameters:
                p.clamp_(-clip, clip)

    @torch.no_grad()
    def update_average(self):
        keep = min(self.schedule["ema_decay"], self.steps / (self.steps + 10))
        values = list(self.generator.state_dict().values())
        pairs = [(a, v) for a, v in zip(self.average, values) if v.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in pairs], [v for _, v in pairs], 1 - keep)


# --- measuring


def keep_memory():
    """Tells glibc not to give freed memory back to the kernel: up to 15 % faster, for no more memory at the peak.
    gan-train has mimalloc for the same reason."""
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 64 << 20)


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
    training = Training(config, args)
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
