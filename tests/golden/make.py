#!/usr/bin/env python3
"""Reference numbers from PyTorch for tests/suite, written beside this script. Run it again only to change them:

    python tests/golden/make.py        needs torch 2, numpy, safetensors; a few seconds; the same bytes on the same kind of machine

All tensors are float64. Each file has one metadata key, `spec`: a JSON object whose `torch` is the version that made
the numbers and whose `cases` describes them by name. Configs in it have the form that `src/nn/layers` and
`src/config` read with serde. Tensors are called `CASE/TENSOR`.

layers.safetensors, networks.safetensors, residual.safetensors    (cases: name -> list of layers)
    x, dy                 input (batch first) and the gradient of some loss with respect to the output
    y, y_eval             output in training mode; then, after that one pass, in evaluation mode
    dx, grad.NAME         gradients of sum(y · dy), y being the training mode's
    param.NAME            parameters
    after.NAME            running statistics after the one pass; before it they are 0 (mean) and 1 (variance)
  NAME is INDEX.KIND.SUFFIX: the layer's place in the list, counting every entry from 00, a residual block's own behind it, first
  those of its layers, then its shortcut's; its kind in the config; weight, bias, running_mean or running_var. For instance
  `param.03.conv_transpose.weight`.
  Layers are PyTorch's, except that `linear` flattens maps first, and `layer_norm` on a map normalises over C, H and W
  with a gain and an offset a channel. Networks are those of the presets and of the papers behind them, with fewer
  channels and smaller images; without dropout, whose masks are random.

convolutions.json    (torch, cases: list)
  Convolutions of 60 shapes, every third with channels enough for the form with fewer multiplications, on numbers that both
  sides make: element i of array number a is `((i · 2654435761 + a · 40503) mod 2³²) / 2³¹ − 1`, x being array 1, the
  kernels 2 and the output's gradient 3, in PyTorch's order of axes (n, c, h, w).
    n, ci, co, h, w, kernel, stride, padding
    y, dx, dw     of the output, the gradients to x and to the kernels: largest absolute value, sum of the products with
                  array 4, and a few elements as [index, value]

losses.safetensors    (cases: name -> loss)
    real, fake (no case)  the critic's values; ±50 and 0 among them
    critic.loss, critic.grad_real, critic.grad_fake; generator.loss, generator.grad_fake (losses are [1])

optimizers.safetensors    (cases: name -> optimizer)
    param.P, grad.P.STEP (no case)    start of parameter P and its gradient at steps 1 to 5
    after.P.STEP                      parameter P after that step

training.safetensors    (cases: name -> {steps, latent, generator, critic, loss, optimizer, schedule})
  Six generator steps of GAN training. Each of the critic's steps K (from 0) of step STEP (from 1): clip if the loss
  says so, then real images, then fakes through the critic in separate calls. The generator's step leaves the critic in
  training mode: its running statistics move, its parameters do not.
    init.generator.NAME, init.critic.NAME       parameters; running statistics start at 0 and 1
    real.STEP.K, z.STEP.K                       batches of the critic's steps
    z.STEP.generator                            latents of the generator's step, if schedule.generator_latents is "fresh"
    critic_loss [steps, critic_steps], generator_loss [steps]
    final.generator.NAME, final.critic.NAME     parameters and running statistics
"""

import json
import pathlib
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent


# --- layers from configs


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
    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.reshape(len(x), *self.shape)


class Residual(nn.Module):
    """What a body makes, plus the values themselves or what a shortcut makes of them."""

    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


class Resample(nn.Module):
    """A map of twice or half the size."""

    def __init__(self, kind, how):
        super().__init__()
        self.kind, self.how = kind, how

    def forward(self, x):
        if self.how == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        if self.how == "average":
            return F.avg_pool2d(x, 2)
        row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
        kernel = (row[:, None] * row / 64).expand(x.shape[1], 1, 4, 4)
        resample = F.conv2d if self.kind == "downsample" else F.conv_transpose2d
        return resample(x, kernel * (1 if self.kind == "downsample" else 4), stride=2, padding=1, groups=x.shape[1])


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
        self.weight = nn.Parameter(torch.zeros(channels, 1, side, side))

    def forward(self, x):
        return x[:, :, None, None] * self.weight[:, 0]


class Bias(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return x + self.bias.reshape(-1, *[1] * (x.dim() - 2))


def kind_of(layer):
    return layer if isinstance(layer, str) else next(iter(layer))


def parts_of(layer):
    """The lists of layers of a residual block."""
    return [layer["residual"]["layers"], layer["residual"].get("shortcut", [])] if kind_of(layer) == "residual" else []


def count(layers):
    return sum(1 + sum(count(part) for part in parts_of(layer)) for layer in layers)


def place(layers, path):
    """Number and kind of the layer at `3` or `3.body.0` of a network."""
    at = int(path[0])
    before, layer = count(layers[:at]), layers[at]
    if len(path) == 1:
        return before, kind_of(layer)
    body, shortcut = parts_of(layer)
    index, kind = place(body if path[1] == "body" else shortcut, path[2:])
    return before + 1 + (0 if path[1] == "body" else count(body)) + index, kind


def make_layer(layer, shape):
    """The module of one entry of a layer list; `shape` is its input's, without the batch."""
    kind, channels = kind_of(layer), shape[0]
    given = {} if isinstance(layer, str) else layer[kind]
    options = dict(given) if isinstance(given, dict) else {}
    is_map = len(shape) == 3
    if kind == "linear":
        return Linear(int(np.prod(shape)), options["out"], bias=options.get("bias", True))
    if kind in ("conv", "conv_transpose"):
        module = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
        if width := options.pop("group_width", None):
            options["groups"] = channels // width
        options.pop("gain", None)
        return module(channels, options.pop("out"), options.pop("kernel"), **options)
    if kind == "batch_norm":
        return nn.BatchNorm2d(channels) if is_map else nn.BatchNorm1d(channels)
    if kind == "layer_norm":
        return nn.GroupNorm(1, channels) if is_map else nn.LayerNorm(channels)
    if kind == "leaky_relu":
        return nn.LeakyReLU(given)
    if kind == "reshape":
        return Reshape(given)
    if kind == "categorical":
        return Categorical(given)
    if kind == "residual":
        return Residual(*(make_layers(part, shape) for part in parts_of(layer)))
    if kind in ("upsample", "downsample"):
        return Resample(kind, given)
    if kind == "pool":
        return Pool(given)
    if kind == "basis":
        return Basis(channels, given)
    if kind == "bias":
        return Bias(channels)
    return {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[kind]()


def make_layers(spec, shape):
    """A network from its layer list, for values of this shape."""
    modules, probe = [], torch.zeros(2, *shape)
    for layer in spec:
        modules.append(make_layer(layer, tuple(probe.shape[1:])).eval())
        with torch.no_grad():
            probe = modules[-1](probe)
    return nn.Sequential(*modules)


def build(spec, shape, generator):
    """Likewise, with random parameters that make every layer matter."""
    network = make_layers(spec, shape)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            *path, suffix = name.split(".")
            parameter.copy_(random_parameter(suffix, parameter, place(spec, path)[1], generator))
    return network.train()


def random_parameter(name, like, kind, generator):
    noise = normal(like.shape, generator)
    if name == "bias":
        return 0.2 * noise
    if kind.endswith("norm"):
        return 1 + 0.2 * noise
    taps = like[0, 0].numel()
    fan_in = like.shape[0 if kind == "conv_transpose" else 1] * taps
    return noise * (1.5 / fan_in) ** 0.5


def normal(shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def seeded(*name):
    return torch.Generator().manual_seed(zlib.crc32("/".join(name).encode()))


def names(spec, items):
    """PyTorch's `3.weight` as `03.conv.weight`; no batch counters."""
    for name, value in items:
        *path, suffix = name.split(".")
        if suffix != "num_batches_tracked":
            index, kind = place(spec, path)
            yield f"{index:02}.{kind}.{suffix}", value


# --- layers.safetensors, networks.safetensors


def conv(out, kernel, stride=1, padding=0, bias=False):
    return {"conv": {"out": out, "kernel": kernel, "stride": stride, "padding": padding, "bias": bias}}


def conv_transpose(out, kernel, stride=1, padding=0, output_padding=0, bias=False):
    options = {"out": out, "kernel": kernel, "stride": stride, "padding": padding}
    return {"conv_transpose": options | {"output_padding": output_padding, "bias": bias}}


def grouped(out, kernel, width, padding=0, bias=True):
    return {"conv": {"out": out, "kernel": kernel, "padding": padding, "bias": bias, "group_width": width}}


def residual(layers, shortcut=()):
    return {"residual": {"layers": list(layers), "shortcut": list(shortcut)}}


def linear(out, bias=True):
    return {"linear": {"out": out, "bias": bias}}


def reshape(channels, height, width):
    return {"reshape": [channels, height, width]}


LEAKY = {"leaky_relu": 0.2}

# name: (batch, input shape, layers)
LAYERS = {
    "linear": (3, (7,), [linear(5)]),
    "linear-no-bias": (7, (5,), [linear(3, bias=False)]),
    "linear-of-map": (3, (3, 5, 5), [linear(4)]),
    "conv-k4s2p1": (3, (3, 8, 8), [conv(5, 4, 2, 1)]),
    "conv-k4s2p1-odd-size": (1, (3, 7, 7), [conv(5, 4, 2, 1)]),
    "conv-k3s2p1-size-7": (3, (3, 7, 7), [conv(5, 3, 2, 1, bias=True)]),
    "conv-k3s2p1-size-5": (7, (2, 5, 5), [conv(3, 3, 2, 1, bias=True)]),
    "conv-k3s2p1-even-size": (3, (3, 8, 8), [conv(5, 3, 2, 1, bias=True)]),
    "conv-k3s1p1": (3, (3, 5, 5), [conv(2, 3, 1, 1)]),
    "conv-k4-to-1x1": (7, (5, 4, 4), [conv(3, 4)]),
    "conv-k4-to-1x1-batch-1": (1, (5, 4, 4), [conv(1, 4, bias=True)]),
    "conv-1x1": (3, (5, 3, 3), [conv(3, 1, bias=True)]),
    "conv-k3s3": (3, (2, 8, 8), [conv(5, 3, 3)]),
    "conv-k2s3p1": (3, (3, 9, 9), [conv(2, 2, 3, 1)]),
    "conv_transpose-k4-from-1x1": (7, (5, 1, 1), [conv_transpose(3, 4)]),
    "conv_transpose-k7-from-1x1": (3, (5, 1, 1), [conv_transpose(2, 7)]),
    "conv_transpose-k4s2p1": (3, (5, 3, 3), [conv_transpose(3, 4, 2, 1)]),
    "conv_transpose-k4s2p1-batch-1": (1, (3, 5, 5), [conv_transpose(2, 4, 2, 1, bias=True)]),
    "conv_transpose-k3s2p1op1": (3, (3, 3, 3), [conv_transpose(5, 3, 2, 1, 1, bias=True)]),
    "conv_transpose-k5s2p1": (3, (3, 3, 3), [conv_transpose(2, 5, 2, 1)]),
    "conv_transpose-k6s2p1": (3, (3, 5, 5), [conv_transpose(1, 6, 2, 1)]),
    "conv_transpose-k2s3op2": (1, (2, 3, 3), [conv_transpose(3, 2, 3, 0, 2)]),
    "conv_transpose-k3s1p1": (3, (3, 5, 5), [conv_transpose(2, 3, 1, 1)]),
    "batch_norm-map": (3, (5, 3, 3), ["batch_norm"]),
    "batch_norm-map-batch-7": (7, (3, 3, 3), ["batch_norm"]),
    "batch_norm-map-1x1": (7, (3, 1, 1), ["batch_norm"]),
    "batch_norm-features": (7, (5,), ["batch_norm"]),
    "layer_norm-map": (3, (5, 3, 3), ["layer_norm"]),
    "layer_norm-map-batch-1": (1, (3, 5, 5), ["layer_norm"]),
    "layer_norm-features": (7, (5,), ["layer_norm"]),
    "relu": (3, (3, 5, 5), ["relu"]),
    "leaky_relu": (3, (3, 5, 5), [LEAKY]),
    "tanh": (3, (3, 5, 5), ["tanh"]),
    "sigmoid": (3, (7,), ["sigmoid"]),
    "reshape": (3, (12,), [reshape(3, 2, 2)]),
}


def stack(widths, make, norm, activation, first_norm):
    """make(width), norm, activation for each width; the first without norm if so asked."""
    layers = []
    for index, width in enumerate(widths):
        layers += [make(width)] + ([norm] if norm and (index or first_norm) else []) + [activation]
    return layers


def up(widths, first, make, last, bn="batch_norm"):
    """A generator of maps: a first layer, the others, each with BN and ReLU; a last one with tanh."""
    return [first(widths[0]), bn, "relu"] + stack(widths[1:], make, bn, "relu", True) + [last, "tanh"]


def k4s2p1(width):
    return conv(width, 4, 2, 1)


def k4s2p1_up(width):
    return conv_transpose(width, 4, 2, 1)


def mlp(widths, activation, out, *end):
    return stack(widths, linear, None, activation, False) + [linear(out), *end]


# As published, but for fewer channels, shorter latents, 16 or 20 px for 64 (so 1 or 2 px for 4), and 5×5 images for the MLPs.
NETWORKS = {
    "generator-dcgan-anime": (
        3, (5,), [reshape(5, 1, 1)] + up([8, 6, 4, 3], lambda w: conv_transpose(w, 1), k4s2p1_up, k4s2p1_up(3)),
    ),
    "critic-dcgan-anime": (3, (3, 16, 16), stack([3, 4, 6, 8], k4s2p1, "batch_norm", LEAKY, True) + [conv(1, 1)]),
    "generator-wgan-anime": (
        3, (5,),
        [linear(8, bias=False), "batch_norm", "relu", reshape(8, 1, 1)]
        + stack([6, 4, 3], lambda w: conv_transpose(w, 3, 2, 1, 1), "batch_norm", "relu", True)
        + [conv_transpose(3, 3, 2, 1, 1, bias=True), "tanh"],
    ),
    "critic-wgan-anime": (
        3, (3, 20, 20),
        stack([3, 4, 6, 8], lambda w: conv(w, 3, 2, 1, bias=True), "batch_norm", LEAKY, False) + [conv(1, 2, bias=True)],
    ),
    "critic-wgan-gp-anime": (3, (3, 16, 16), stack([3, 4, 6, 8], k4s2p1, None, LEAKY, False) + [conv(1, 1)]),
    "critic-wgan-gp-anime-layer_norm": (
        3, (3, 16, 16), stack([3, 4, 6, 8], k4s2p1, "layer_norm", LEAKY, True) + [conv(1, 1)],
    ),
    "generator-dcgan-28": (
        3, (5,),
        [reshape(5, 1, 1)]
        + up([6, 4], lambda w: conv_transpose(w, 7), k4s2p1_up, conv_transpose(1, 4, 2, 1, bias=True)),
    ),
    "critic-dcgan-28": (3, (1, 28, 28), stack([4, 6], k4s2p1, "batch_norm", LEAKY, False) + [conv(1, 7)]),
    "generator-gan-fashion-mlp": (3, (7,), mlp([8, 12, 16], "relu", 25, "tanh")),
    "critic-gan-fashion-mlp": (3, (1, 5, 5), mlp([16, 12, 8], LEAKY, 1)),
    "generator-dcgan-fashion": (
        3, (5,),
        [reshape(5, 1, 1), conv_transpose(8, 3), "batch_norm", "relu", k4s2p1_up(6), "batch_norm", "relu"]
        + [conv_transpose(4, 5, 2, 1), "batch_norm", "relu", conv_transpose(1, 6, 2, 1), "tanh"],
    ),
    "critic-dcgan-fashion": (3, (1, 28, 28), stack([4, 6, 8], k4s2p1, "batch_norm", LEAKY, False) + [conv(1, 3)]),
    "critic-wgan-gp-fashion": (3, (1, 28, 28), stack([4, 6, 8], k4s2p1, "layer_norm", LEAKY, False) + [conv(1, 3)]),
    "generator-wgan-mnist-mlp": (3, (5,), mlp([8], "relu", 25, "sigmoid")),
    "critic-wgan-mnist-mlp": (3, (1, 5, 5), mlp([8], "relu", 1)),
    "generator-wgan-gp-mnist-mlp": (3, (7,), mlp([12, 16], "relu", 25, "tanh")),
    "critic-wgan-gp-mnist-mlp": (3, (1, 5, 5), mlp([16, 12], LEAKY, 1)),
}


def r3gan_block(width, inner, group):
    return residual([conv(inner, 1, bias=True), LEAKY, grouped(inner, 3, group, 1), LEAKY, conv(width, 1)])


def norm_block(out, kernel, resample, shortcut):
    """A block of WGAN-GP's and SNGAN's residual generators: norm and activation before each convolution."""
    up = [{"upsample": resample}] if resample in ("nearest", "binomial") else []
    down = [{"downsample": "average"}] if resample == "average" else []
    return residual(["batch_norm", "relu", *up, conv(out, kernel, 1, 1), "batch_norm", "relu", conv(out, kernel, 1, 1), *down], shortcut)


RESIDUAL = {
    "grouped": (3, (6, 5, 5), [grouped(9, 3, 2, 1)]),
    "grouped-k4s2p1": (3, (8, 6, 6), [{"conv": {"out": 4, "kernel": 4, "stride": 2, "padding": 1, "group_width": 2}}]),
    "grouped-of-16": (2, (48, 7, 5), [grouped(48, 3, 16, 1)]),
    "depthwise": (3, (5, 4, 4), [grouped(5, 4, 1)]),
    "depthwise-k3p1": (3, (35, 5, 6), [grouped(35, 3, 1, 1, False)]),
    "depthwise-two-each": (3, (3, 4, 4), [grouped(6, 3, 1, 1)]),
    "nearest": (3, (2, 3, 5), [{"upsample": "nearest"}, conv(2, 1)]),
    "binomial-up": (3, (2, 3, 5), [{"upsample": "binomial"}, conv(2, 1)]),
    "average": (3, (2, 6, 4), [conv(2, 1), {"downsample": "average"}]),
    "average-odd-size": (3, (2, 7, 5), [conv(2, 1), {"downsample": "average"}]),
    "binomial-down": (3, (2, 6, 4), [conv(2, 1), {"downsample": "binomial"}]),
    "pool-sum": (3, (2, 3, 3), [conv(3, 1), {"pool": "sum"}]),
    "pool-average": (3, (2, 4, 4), [conv(3, 1), "tanh", {"pool": "average"}, linear(2)]),
    "basis": (3, (5,), [{"basis": 3}]),
    "bias-map": (3, (3, 4, 4), ["bias", LEAKY]),
    "bias-features": (3, (5,), ["bias", "tanh"]),
    "residual": (3, (3, 4, 4), [residual([conv(3, 3, 1, 1), LEAKY, conv(3, 1)])]),
    "residual-ends-in-activation": (3, (3, 4, 4), [residual([conv(3, 3, 1, 1), "tanh"]), conv(2, 1)]),
    "residual-begins-with-activation": (3, (3, 4, 4), [conv(4, 1), residual(["relu", conv(4, 3, 1, 1)]), "relu", conv(2, 1)]),
    "residual-shortcut": (3, (3, 4, 4), [residual([conv(5, 3, 1, 1), "sigmoid"], [conv(5, 1, bias=True)]), conv(2, 1)]),
    "residual-in-residual": (3, (3, 4, 4), [residual([residual([conv(3, 1), LEAKY]), conv(3, 3, 1, 1)], ["tanh"])]),
    "generator-r3gan": (
        2, (4,),
        [linear(8, bias=False), {"basis": 2}, r3gan_block(8, 16, 4), {"upsample": "binomial"}, r3gan_block(8, 16, 4), conv(4, 1)]
        + [{"upsample": "binomial"}, r3gan_block(4, 8, 4), conv(3, 1)],
    ),
    "critic-r3gan": (
        2, (3, 8, 8),
        [conv(4, 1), r3gan_block(4, 8, 4), {"downsample": "binomial"}, conv(8, 1), r3gan_block(8, 16, 4), {"downsample": "binomial"}]
        + [r3gan_block(8, 16, 4), grouped(8, 2, 1, 0, False), linear(1, bias=False)],
    ),
    "generator-resnet": (
        3, (4,),
        [linear(24), reshape(6, 2, 2), norm_block(6, 3, "nearest", [{"upsample": "nearest"}, conv(6, 1, bias=True)])]
        + [norm_block(4, 3, "nearest", [{"upsample": "nearest"}, conv(4, 1, bias=True)]), "batch_norm", "relu", conv(3, 3, 1, 1, True), "tanh"],
    ),
    "critic-resnet": (
        3, (3, 8, 8),
        [conv(4, 3, 1, 1, True), norm_block(6, 3, "average", [{"downsample": "average"}, conv(6, 1, bias=True)]), "relu", {"pool": "sum"}, linear(1)],
    ),
}


def network_case(name, batch, shape, spec):
    generator = seeded(name)
    network = build(spec, shape, generator)
    x = normal((batch, *shape), generator).requires_grad_()
    tensors = {"x": x} | {f"param.{n}": p.clone() for n, p in names(spec, network.named_parameters())}
    y = network(x)
    dy = normal(y.shape, generator)
    (y * dy).sum().backward()
    tensors |= {"y": y, "dy": dy, "dx": x.grad, "y_eval": network.eval()(x)}
    tensors |= {f"grad.{n}": p.grad for n, p in names(spec, network.named_parameters())}
    tensors |= {f"after.{n}": b for n, b in names(spec, network.named_buffers())}
    return tensors


def make_networks(file, networks):
    tensors = {name: network_case(name, *case) for name, case in networks.items()}
    save(file, {name: spec for name, (_, _, spec) in networks.items()}, prefixed(tensors))


# --- losses.safetensors

BCE = {"kind": "bce", "reduction": "mean", "critic_scale": 1.0}
LOSSES = {
    "bce-mean": BCE,
    "bce-sum-half": {"kind": "bce", "reduction": "sum", "critic_scale": 0.5},
    "lsgan": {"kind": "lsgan"},
    "wgan": {"kind": "wgan", "clip": 0.02},
    "relativistic": {"kind": "relativistic"},
}


def critic_loss(loss, real, fake):
    if loss["kind"] == "bce":
        return loss["critic_scale"] * (bce(loss, real, 1.0) + bce(loss, fake, 0.0))
    if loss["kind"] == "lsgan":
        return 0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean()
    if loss["kind"] == "hinge":
        return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    if loss["kind"] == "relativistic":
        return F.softplus(-(real - fake)).mean()
    assert loss["kind"] == "wgan", loss
    reduce = torch.sum if loss.get("reduction") == "sum" else torch.mean
    return reduce(fake) - reduce(real)


def generator_loss(loss, fake, real=None):
    if loss["kind"] == "bce":
        return bce(loss, fake, 1.0)
    if loss["kind"] == "lsgan":
        return 0.5 * ((fake - 1) ** 2).mean()
    if loss["kind"] == "relativistic":
        return F.softplus(-(fake - real)).mean()
    assert loss["kind"] in ("wgan", "hinge"), loss
    return -fake.sum() if loss.get("reduction") == "sum" else -fake.mean()


def bce(loss, logits, label):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction=loss["reduction"])


def make_losses():
    generator = seeded("losses")
    extremes = torch.tensor([50.0, -50.0, 0.0])
    real = torch.cat([extremes, 3 * normal((8,), generator)]).requires_grad_()
    fake = torch.cat([3 * normal((8,), generator), extremes]).requires_grad_()
    tensors = {}
    for name, loss in LOSSES.items():
        critic = critic_loss(loss, real, fake)
        grad_real, grad_fake = torch.autograd.grad(critic, [real, fake])
        tensors[name] = {"critic.loss": critic, "critic.grad_real": grad_real, "critic.grad_fake": grad_fake}
        value = generator_loss(loss, fake, real)
        tensors[name] |= {"generator.loss": value, "generator.grad_fake": torch.autograd.grad(value, fake)[0]}
    save("losses", LOSSES, {"real": real, "fake": fake} | prefixed(tensors))


# --- optimizers.safetensors

OPTIMIZERS = {
    "adam-gan": {"kind": "adam", "lr": 2e-4, "betas": [0.5, 0.999], "eps": 1e-8},
    "adam-gan-large-lr": {"kind": "adam", "lr": 0.05, "betas": [0.5, 0.999], "eps": 1e-8},
    "adam-wgan-gp": {"kind": "adam", "lr": 0.01, "betas": [0.0, 0.9], "eps": 1e-8},
    "adam-default": {"kind": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8},
    "adam-large-eps": {"kind": "adam", "lr": 0.1, "betas": [0.9, 0.999], "eps": 0.1},
    "rmsprop": {"kind": "rmsprop", "lr": 5e-5, "decay": 0.99, "eps": 1e-8},
    "rmsprop-large-lr": {"kind": "rmsprop", "lr": 0.05, "decay": 0.99, "eps": 1e-3},
    "rmsprop-tf": {"kind": "rmsprop-tf", "lr": 1e-4, "decay": 0.9, "eps": 1e-10},
    "rmsprop-tf-large-lr": {"kind": "rmsprop-tf", "lr": 0.05, "decay": 0.9, "eps": 1e-10},
    "rmsprop-tf-large-eps": {"kind": "rmsprop-tf", "lr": 0.05, "decay": 0.9, "eps": 0.1},
    "sgd": {"kind": "sgd", "lr": 0.1, "momentum": 0.0},
    "sgd-momentum": {"kind": "sgd", "lr": 0.1, "momentum": 0.9},
}


class RmspropTf:
    """TensorFlow 1's tf.train.RMSPropOptimizer without momentum, centering or schedule."""

    def __init__(self, parameters, lr, decay, eps):
        self.parameters, self.lr, self.decay, self.eps = list(parameters), lr, decay, eps
        self.mean_square = [np.ones(p.shape) for p in self.parameters]

    def step(self):
        for p, mean_square in zip(self.parameters, self.mean_square):
            g = p.grad.numpy()
            mean_square[...] = self.decay * mean_square + (1 - self.decay) * g * g
            p.data -= torch.from_numpy(self.lr * g / np.sqrt(mean_square + self.eps))


def make_optimizer(config, parameters):
    options = {key: value for key, value in config.items() if key != "kind"}
    if config["kind"] == "adam":
        return torch.optim.Adam(parameters, **options)
    if config["kind"] == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=config["lr"], alpha=config["decay"], eps=config["eps"])
    if config["kind"] == "sgd":
        return torch.optim.SGD(parameters, **options)
    return RmspropTf(parameters, **options)


def make_optimizers(steps=5):
    generator = seeded("optimizers")
    starts = [normal(shape, generator) for shape in [(3, 5), (7,), (2, 3, 1, 5), (1,)]]
    grads = [[normal(p.shape, generator) * scale for p in starts] for scale in (1.0, 0.1, 3.0, 1e-3, 1.0)]
    for step in grads:
        step[1][2] = 0.0  # a weight that nothing depends on
    tensors = {}
    for name, config in OPTIMIZERS.items():
        parameters = [nn.Parameter(start.clone()) for start in starts]
        optimizer = make_optimizer(config, parameters)
        tensors[name] = {}
        for step in range(steps):
            for parameter, grad in zip(parameters, grads[step]):
                parameter.grad = grad.clone()
            optimizer.step()
            tensors[name] |= {f"after.{i}.{step + 1}": p.clone() for i, p in enumerate(parameters)}
    shared = {f"param.{i}": start for i, start in enumerate(starts)}
    shared |= {f"grad.{i}.{s + 1}": grads[s][i] for s in range(steps) for i in range(len(starts))}
    save("optimizers", OPTIMIZERS, shared | prefixed(tensors))


# --- training.safetensors

ADAM = {"kind": "adam", "lr": 5e-3, "betas": [0.5, 0.999], "eps": 1e-8}
RMSPROP = {"kind": "rmsprop", "lr": 1e-3, "decay": 0.99, "eps": 1e-8}


def training_spec(loss, optimizer, generator_latents, critic_steps=1):
    return {
        "steps": 6,
        "latent": 6,
        "generator": {
            "layers": [reshape(6, 1, 1), conv_transpose(8, 2), "batch_norm", "relu", k4s2p1_up(4), "batch_norm", "relu"]
            + [conv_transpose(1, 4, 2, 1, bias=True), "tanh"]
        },
        # A bias at the critic's end would get a gradient of 0 but for rounding, which RMSprop turns into steps.
        "critic": {"layers": [conv(4, 4, 2, 1, bias=True), LEAKY, k4s2p1(8), "batch_norm", LEAKY, conv(1, 2)]},
        "loss": loss,
        "optimizer": {"generator": optimizer, "critic": optimizer},
        "schedule": {"batch_size": 5, "critic_steps": critic_steps, "generator_latents": generator_latents},
    }


TRAINING = {
    "bce-mean-reused-fakes": training_spec(LOSSES["bce-mean"], ADAM, "reused-fakes"),
    "bce-sum-half-reused": training_spec(LOSSES["bce-sum-half"], ADAM, "reused"),
    "lsgan-fresh": training_spec(LOSSES["lsgan"], ADAM, "fresh"),
    "wgan-clip": training_spec(LOSSES["wgan"], RMSPROP, "fresh", critic_steps=2),
}


def training_case(name, spec):
    random, schedule, loss = seeded(name), spec["schedule"], spec["loss"]
    batch, latents = schedule["batch_size"], schedule["generator_latents"]
    layers = {side: spec[side]["layers"] for side in ("generator", "critic")}
    generator = build(layers["generator"], (spec["latent"],), random)
    critic = build(layers["critic"], (1, 8, 8), random)
    networks = {"generator": generator, "critic": critic}
    optimizers = {s: make_optimizer(spec["optimizer"][s], list(n.parameters())) for s, n in networks.items()}
    tensors, critic_losses, generator_losses = {}, [], []
    for side, network in networks.items():
        tensors |= {f"init.{side}.{n}": p.clone() for n, p in names(layers[side], network.named_parameters())}

    for step in range(1, spec["steps"] + 1):
        for k in range(schedule["critic_steps"]):
            if "clip" in loss:
                for parameter in critic.parameters():
                    parameter.data.clamp_(-loss["clip"], loss["clip"])
            real = torch.tanh(normal((batch, 1, 8, 8), random) + 0.5)
            z = normal((batch, spec["latent"]), random)
            tensors |= {f"real.{step}.{k}": real, f"z.{step}.{k}": z}
            fake = generator(z)
            value = critic_loss(loss, critic(real), critic(fake.detach()))
            descend(value, critic, optimizers["critic"])
            critic_losses.append(value)
        if latents == "fresh":
            z = normal((batch, spec["latent"]), random)
            tensors[f"z.{step}.generator"] = z
        if latents != "reused-fakes":
            fake = generator(z)
        value = generator_loss(loss, critic(fake))
        descend(value, generator, optimizers["generator"])
        generator_losses.append(value)

    tensors["critic_loss"] = torch.stack(critic_losses).reshape(spec["steps"], schedule["critic_steps"])
    tensors["generator_loss"] = torch.stack(generator_losses)
    for side, network in networks.items():
        tensors |= {f"final.{side}.{n}": v for n, v in names(layers[side], network.state_dict().items())}
    return tensors


def descend(loss, network, optimizer):
    """One step of one network; the other's parameters keep their values and gradients."""
    parameters = list(network.parameters())
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters)):
        parameter.grad = grad
    optimizer.step()


def make_training():
    save("training", TRAINING, prefixed({name: training_case(name, spec) for name, spec in TRAINING.items()}))


# --- files


# --- convolutions


def made(number, shape):
    count = int(np.prod(shape))
    bits = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(number * 40503)) % np.uint64(2**32)
    return torch.from_numpy(bits.astype(np.float64) / 2.0**31 - 1.0).reshape(shape)


def summary(tensor, rng):
    flat = tensor.detach().reshape(-1)
    picked = sorted(rng.choice(len(flat), size=min(6, len(flat)), replace=False).tolist())
    return {
        "largest": flat.abs().max().item(),
        "product": (flat * made(4, [len(flat)])).sum().item(),
        "elements": [[index, flat[index].item()] for index in picked],
    }


def convolution_case(rng, wide):
    while True:
        low, high = (32, 48) if wide else (1, 9)
        n, ci, co = (int(value) for value in (rng.integers(1, 5), rng.integers(low, high), rng.integers(low, high)))
        h, w = (int(value) for value in rng.integers(1, 18, size=2))
        kernel = int(rng.integers(3, 6) if wide else rng.integers(1, 8))
        stride = 2 if wide else int(rng.integers(1, 4))
        padding = int(rng.integers(0, kernel))
        if min(h, w) + 2 * padding >= kernel:
            break
    x, weight = made(1, [n, ci, h, w]).requires_grad_(), made(2, [co, ci, kernel, kernel]).requires_grad_()
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    y.backward(made(3, list(y.shape)))
    shape = {"n": n, "ci": ci, "co": co, "h": h, "w": w, "kernel": kernel, "stride": stride, "padding": padding}
    return shape | {name: summary(tensor, rng) for name, tensor in [("y", y), ("dx", x.grad), ("dw", weight.grad)]}


def make_convolutions():
    rng = np.random.default_rng(11)
    cases = [convolution_case(rng, index % 3 == 0) for index in range(60)]
    text = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "convolutions.json").write_text(f'{{"torch": "{torch.__version__}", "cases": [\n{text}\n]}}\n')


def prefixed(cases):
    return {f"{case}/{name}": tensor for case, tensors in cases.items() for name, tensor in tensors.items()}


def save(file, cases, tensors):
    arrays = {name: np.ascontiguousarray(t.detach().numpy()) for name, t in tensors.items()}
    assert all(a.dtype == np.float64 and np.isfinite(a).all() for a in arrays.values())
    # One key only: several would be written in random order.
    spec = json.dumps({"torch": torch.__version__.split("+")[0], "cases": cases})
    path = HERE / f"{file}.safetensors"
    save_file(arrays, path, metadata={"spec": spec})
    print(f"{path.name}: {len(cases)} cases, {len(arrays)} tensors, {path.stat().st_size / 1e3:.0f} kB")


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    make_networks("layers", LAYERS)
    make_networks("networks", NETWORKS)
    make_networks("residual", RESIDUAL)
    make_convolutions()
    make_losses()
    make_optimizers()
    make_training()


if __name__ == "__main__":
    main()
