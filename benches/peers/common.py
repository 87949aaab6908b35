"""PyTorch's side of the comparisons: the networks, losses, optimisers and steps of a ganforge config, as PyTorch has them.

A step does what `src/train/step.rs` does, with PyTorch's own means: layers, losses and optimisers of PyTorch where it has
them, activations in place, gradients of the critic's parameters left out in the generator's step, real and generated images
in separate passes.
"""

import contextlib
import copy
import ctypes
import itertools
import math
import time

import torch
import torch.nn.functional as F
from torch import nn


# --- networks


class Linear(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1))


class Categorical(nn.Module):
    """The first so many features as a one-hot vector of the largest."""

    def __init__(self, categories):
        super().__init__()
        self.categories = categories

    def forward(self, x):
        code = x[:, : self.categories]
        chosen = (code >= code.max(1, keepdim=True).values).to(x.dtype)
        return torch.cat([chosen, x[:, self.categories :]], 1)


class Reshape(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.reshape(x.shape[0], *self.shape)  # not len(x): torch.export would take it for a constant


class Residual(nn.Module):
    """What a body makes, plus the values themselves or what a shortcut makes of them."""

    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


class Resample(nn.Module):
    """A map of twice or half the size."""

    def __init__(self, kind, how, channels):
        super().__init__()
        self.kind, self.how, self.channels = kind, how, channels
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = row[:, None] * row / (64 if kind == "downsample" else 16)
        self.register_buffer("kernel", kernel.expand(channels, 1, 4, 4).contiguous(), persistent=False)

    def forward(self, x):
        if self.how == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        if self.how == "average":
            return F.avg_pool2d(x, 2)
        resample = F.conv2d if self.kind == "downsample" else F.conv_transpose2d
        return resample(x, self.kernel.to(x.dtype), stride=2, padding=1, groups=self.channels)


class Pool(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return x.sum((2, 3)) if self.how == "sum" else x.mean((2, 3))


class Basis(nn.Module):
    """Each feature times a map of its own."""

    def __init__(self, channels, side):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, side, side))

    def forward(self, x):
        return x[:, :, None, None] * self.weight


class Bias(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return x + self.bias.reshape(-1, *[1] * (x.dim() - 2))


def layer(spec, shape, first, init):
    """The module of one entry of a layer list; `shape` is its input's, without the batch."""
    kind, given = (spec, None) if isinstance(spec, str) else next(iter(spec.items()))
    if kind == "residual":
        parts = (given["layers"], given.get("shortcut", []))
        return Residual(*(network(part, shape, init) for part in parts))
    if kind in ("upsample", "downsample"):
        return Resample(kind, given, shape[0])
    if kind == "pool":
        return Pool(given)
    if kind == "basis":
        return Basis(shape[0], given)
    if kind == "bias":
        return Bias(shape[0])
    if kind in ("linear", "conv", "conv_transpose"):
        options = dict(given)
        spectral, gain = options.pop("spectral", False), options.pop("gain", None)
        if width := options.pop("group_width", None):
            options["groups"] = shape[0] // width
        if kind == "linear":
            module = Linear(math.prod(shape), options["out"], bias=options["bias"])
        else:
            module = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
            module = module(shape[0], options.pop("out"), options.pop("kernel"), **options)
        module.gain = gain
        with torch.no_grad():
            start(module, init)
        return nn.utils.spectral_norm(module) if spectral else module
    if kind in ("batch_norm", "layer_norm"):
        if kind == "batch_norm":
            module = (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(shape[0])
        else:
            module = nn.GroupNorm(1, shape[0]) if len(shape) == 3 else nn.LayerNorm(shape[0])
        with torch.no_grad():
            start(module, init)
        return module
    if kind == "leaky_relu":
        return nn.LeakyReLU(given, inplace=not first)
    if kind == "relu":
        return nn.ReLU(inplace=not first)
    if kind == "dropout":
        return nn.Dropout(given)
    if kind == "reshape":
        return Reshape(*given)
    if kind == "categorical":
        return Categorical(given)
    return {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[kind]()


def network(specs, shape, init):
    modules, probe = [], torch.zeros(2, *shape)
    for spec in specs:
        modules.append(layer(spec, tuple(probe.shape[1:]), not modules, init))
        with torch.no_grad():
            probe = modules[-1].eval()(probe)
    return nn.Sequential(*modules).train()


def start(module, init):
    """Initial values, as the config's `init` says; `pytorch` is what they are already."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    for name, parameter in module.named_parameters():
        if isinstance(module, norms):
            rule = init[f"norm_{name}"]
        else:
            rule = init["bias" if name == "bias" else "linear" if isinstance(module, nn.Linear) else "conv"]
            if name == "weight" and module.gain is not None:
                rule = {"gain": module.gain}
        if "gain" in rule:
            fan_in = nn.init._calculate_fan_in_and_fan_out(module.weight)[0]
            nn.init.normal_(parameter, 0.0, rule["gain"] * fan_in**-0.5)
        elif rule == "zeros":
            nn.init.zeros_(parameter)
        elif rule == "fan-in-normal":
            fan_in = nn.init._calculate_fan_in_and_fan_out(module.weight)[0]
            nn.init.normal_(parameter, 0.0, (fan_in / 2) ** -0.5)
        elif rule != "pytorch":
            nn.init.normal_(parameter, **rule["normal"])


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
    if loss["kind"] == "wgan" and loss.get("reduction", "mean") == "mean":
        return lambda s: -s.mean(), lambda s: s.mean(), lambda s: -s.mean()
    if loss["kind"] == "hinge":
        return lambda s: F.relu(1 - s).mean(), lambda s: F.relu(1 + s).mean(), lambda s: -s.mean()
    if loss["kind"] == "relativistic":
        return None, None, None  # of pairs: see the steps
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


def fastest_form(spec, net, sync, counts):
    """Which of PyTorch's implementations of an optimiser is the fastest on parameters like these; `counts` is given to each."""

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

    forms = [form | counts for form in FORMS[spec["kind"]]]
    return forms[0] if len(forms) == 1 else min(forms, key=seconds)


# --- training


def refuse_unknown(config, trial):
    """What this side does not do, it must not pass over; but where only its speed is tried, rates and ramps may stay as they begin."""
    schedule = config["schedule"]
    for key in ("lr_warmup", "lr_decay", "ramp"):
        if schedule.get(key) and not trial:
            raise ValueError(f"schedule.{key} is not known here")
    for key, plain in (("critic_warmup", None), ("generator_steps", 1)):
        if schedule.get(key, plain) != plain:
            raise ValueError(f"schedule.{key} is not known here")
    if config.get("penalty", {}).get("every", 1) != 1:
        raise ValueError("penalty.every is not known here")
    for section, key in ((config, "augment"), (config["data"], "classes"), (config["critic"], "san")):
        if section.get(key):
            raise ValueError(f"{key} is not known here")


class Training:
    """Trains the networks of a config on `images`, uint8 [n, c, h, w].

    `variant` is a list joined by +: `eager`, `compile` (torch.compile) or `graphs` (the same with CUDA graphs); `captured`, on CUDA
    the whole step as one CUDA graph, by hand, eager or compiled; `channels_last` for that memory format. `precision` bf16 is
    PyTorch's autocast. `trial`: for speed alone; finds the fastest
    implementation of the optimisers.
    """

    def __init__(self, config, images, device="cpu", variant="eager", precision="f32", trial=False):
        refuse_unknown(config, trial)
        self.config, self.schedule, self.device = config, config["schedule"], torch.device(device)
        self.batch = self.schedule["batch_size"]
        variant = set(variant.split("+"))
        if unknown := variant - {"eager", "compile", "graphs", "captured", "channels_last"}:
            raise ValueError(f"--variant: {', '.join(unknown)} is not known")
        self.format = torch.channels_last if "channels_last" in variant else torch.contiguous_format
        self.autocast = lambda: contextlib.nullcontext()
        if precision == "bf16":
            self.autocast = lambda: torch.autocast(self.device.type, torch.bfloat16)

        self.shape, init = tuple(images.shape[1:]), config["init"]
        self.generator = self.place(network(config["generator"]["layers"], (config["latent"]["size"],), init))
        self.critic = self.place(network(config["critic"]["layers"], self.shape, init))
        self.run_generator, self.run_critic = self.generator, self.critic
        self.graphs = "graphs" in variant
        if variant & {"compile", "graphs"}:
            mode = "reduce-overhead" if "graphs" in variant else "default"
            self.run_generator, self.run_critic = (torch.compile(n, mode=mode) for n in (self.generator, self.critic))
        self.critic_parameters = list(self.critic.parameters())
        self.forms, optimizers = {}, config["optimizer"]
        # A captured step counts its steps on the device, too, where the optimiser has need of a count.
        if "captured" in variant and self.device.type != "cuda":
            raise ValueError("steps are captured on CUDA only")
        if "captured" in variant and not trial:
            raise ValueError("captured steps keep the decay of the average that they begin with: for speed alone")
        for role, net in (("generator", self.generator), ("critic", self.critic)):
            counted = "captured" in variant and optimizers[role]["kind"] in ("adam", "rmsprop")
            counts = {"capturable": True} if counted else {}
            self.forms[role] = fastest_form(optimizers[role], net, self.sync, counts) if trial else {}
        self.generator_optimizer = optimizer(optimizers["generator"], self.generator.parameters(), **self.forms["generator"])
        self.critic_optimizer = optimizer(optimizers["critic"], self.critic.parameters(), **self.forms["critic"])
        self.cost_real, self.cost_fake, self.cost_generator = losses(config)

        self.pairs, self.penalty = config["loss"]["kind"] == "relativistic", config.get("penalty")
        self.flip = config["data"].get("flip", False)
        half_life = self.schedule.get("ema_half_life")
        decay = self.schedule.get("ema_decay", 0.0) if half_life is None else 0.5 ** (self.batch / max(half_life, 1))
        self.decay = decay
        self.average = copy.deepcopy(list(self.generator.state_dict().values())) if decay > 0 else None
        self.images = images.to(self.device).to(memory_format=self.format)
        self.order, self.next, self.steps, self.shown = None, len(images), 0, 0
        self.sums = torch.zeros(4, device=self.device)
        self.replay = None
        if "captured" in variant:
            self.capture()

    def place(self, net):
        return net.to(self.device).to(memory_format=self.format)

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def choose(self):
        """Which images are next in the epoch's order; the last batch of an epoch may be smaller."""
        if self.next >= len(self.images):
            self.order, self.next = torch.randperm(len(self.images), device=self.device), 0
        chosen = self.order[self.next : self.next + self.batch]
        self.next += len(chosen)
        self.shown += len(chosen)
        return chosen

    def capture(self):
        """From now on a step is one launch. Every batch must be whole, and rates stay as they are."""
        batches = self.schedule["critic_steps"] + self.pairs
        self.places = torch.zeros(batches, self.batch, dtype=torch.long, device=self.device)
        self.turn = itertools.cycle(range(batches))
        self.replay = self.step_once
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step_once()
        self.replay = graph.replay

    def real(self):
        """The next batch, in the networks' range."""
        chosen = self.choose() if self.replay is None else self.places[next(self.turn)]
        images = self.images[chosen].to(torch.float32, memory_format=self.format)
        if self.flip:
            images = torch.where(torch.rand(len(images), 1, 1, 1, device=self.device) < 0.5, images, images.flip(3))
        return images.mul_(1 / 127.5).sub_(1) if self.config["data"]["range"] == "tanh" else images.mul_(1 / 255)

    def latents(self, n):
        shape = (n, self.config["latent"]["size"])
        if self.config["latent"]["law"] == "normal":
            return torch.randn(shape, device=self.device)
        return torch.rand(shape, device=self.device).mul_(2).sub_(1)

    def generate(self, z):
        with self.autocast():
            return self.run_generator(z).reshape(len(z), *self.shape)

    def score(self, images):
        with self.autocast():
            return self.run_critic(images).flatten().float()

    def step(self):
        if self.replay is None:
            return self.step_once()
        for place in self.places:
            chosen = self.choose()
            assert len(chosen) == len(place), "a captured step wants whole batches"
            place.copy_(chosen)
        self.replay()

    def step_once(self):
        if self.graphs:
            # What a graph has made lives until here: a step passes the critic three times.
            torch.compiler.cudagraph_mark_step_begin()
        reuse = self.schedule["generator_latents"]
        for turn in range(self.schedule["critic_steps"]):
            last = turn + 1 == self.schedule["critic_steps"]
            real = self.real()
            z = self.latents(len(real))
            with contextlib.nullcontext() if last and reuse == "reused-fakes" else torch.no_grad():
                fakes = self.generate(z)
            self.critic_step(real, fakes.detach())
        if reuse != "reused-fakes":
            fakes = self.generate(z if reuse == "reused" else self.latents(len(z)))
        self.generator_step(fakes)

    def critic_step(self, real, fakes):
        self.clip()
        self.critic_optimizer.zero_grad()
        if self.pairs or self.penalty:
            return self.penalised_step(real, fakes)
        # A pass and its gradients at a time, as PyTorch's own DCGAN example does: less memory, and as fast as both at once.
        score_real = self.score(real)
        loss_real = self.cost_real(score_real)
        loss_real.backward()
        score_fake = self.score(fakes)
        loss_fake = self.cost_fake(score_fake)
        loss_fake.backward()
        self.critic_optimizer.step()
        self.count(0, loss_real + loss_fake, score_real.mean(), score_fake.mean())

    def penalised_step(self, real, fakes):
        """Of losses that pair scores, and with penalties: R1 and R2 are taken of the very passes that are scored, as R3GAN's code does."""
        kind = (self.penalty or {}).get("kind")
        real, fakes = real.detach().requires_grad_(kind in ("r1", "r1-r2")), fakes.requires_grad_(kind == "r1-r2")
        score_real, score_fake = self.score(real), self.score(fakes)
        loss = F.softplus(score_fake - score_real).mean() if self.pairs else self.cost_real(score_real) + self.cost_fake(score_fake)
        slopes = []
        if kind == "gradient":
            alpha = torch.rand(len(real), 1, 1, 1, device=self.device)
            between = (alpha * real + (1 - alpha) * fakes).requires_grad_()
            slopes.append((between, self.score(between)))
        if kind in ("r1", "r1-r2"):
            slopes.append((real, score_real))
        if kind == "r1-r2":
            slopes.append((fakes, score_fake))
        total = loss
        for x, score in slopes:
            (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
            squares = slope.float().square().sum((1, 2, 3))
            weight = self.penalty["weight"]
            total = total + (weight * (squares.add(1e-12).sqrt() - 1).square().mean() if kind == "gradient" else weight / 2 * squares.mean())
        total.backward()
        self.critic_optimizer.step()
        self.count(0, total, score_real.mean(), score_fake.mean())

    def generator_step(self, fakes):
        for p in self.critic_parameters:
            p.requires_grad_(False)
        self.generator_optimizer.zero_grad()
        score = self.score(fakes)
        if self.pairs:
            with torch.no_grad():
                real = self.score(self.real())
            loss = F.softplus(real - score).mean()
        else:
            loss = self.cost_generator(score)
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
        clip = self.config["loss"].get("clip")
        if clip is None:
            return
        if self.device.type == "cuda":
            torch._foreach_clamp_max_(self.critic_parameters, clip)
            torch._foreach_clamp_min_(self.critic_parameters, -clip)
        else:
            for p in self.critic_parameters:
                p.clamp_(-clip, clip)

    @torch.no_grad()
    def update_average(self):
        keep = min(self.decay, self.steps / (self.steps + 10))
        values = list(self.generator.state_dict().values())
        pairs = [(a, v) for a, v in zip(self.average, values) if v.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in pairs], [v for _, v in pairs], 1 - keep)


def keep_memory():
    """Tells glibc not to give freed memory back to the kernel: up to 15 % faster, for no more memory at the peak.
    gan-train has mimalloc for the same reason."""
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 64 << 20)
