#!/usr/bin/env python3
"""Penalties on the critic's input gradient, by PyTorch's autograd with create_graph=True, for tests/suite/penalty.rs:

    python tests/golden/penalty.py        as make.py beside it, whose form the file has

penalty.safetensors    (cases: name -> list of layers)
    real, fake, alpha            images and α of the interpolation
    param.NAME, before.NAME      parameters; the vectors of spectral normalisation at the beginning
  Three training passes, one behind the other, each of which moves running statistics and those vectors on:
    plain/grad.NAME              gradients of mean D(real); plain/after.NAME: the vectors behind it
    gradient/value, /norm, /x    WGAN-GP's penalty of weight 10 at α·real + (1 − α)·fake, mean ‖g‖, g
    gradient/grad.NAME           its gradients
    r1/…                         R1 of weight 10 at real, likewise
    after.NAME                   running statistics and vectors behind all three
"""

import torch
from make import LEAKY, RESIDUAL, build, conv, conv_transpose, grouped, kind_of, linear, normal, place, prefixed, reshape, residual, save
from make import seeded

WEIGHT, EPS = 10.0, 1e-12


def conv_critic(norm, second=LEAKY):
    middle = [norm] if norm in ("batch_norm", "layer_norm") else []
    layers = [conv(3, 4, 2, 1, bias=True), *middle, LEAKY, conv(4, 3, 2, 1, bias=True), *middle, second, conv(1, 2, bias=True)]
    return (3, (2, 8, 8), spectral(layers) if norm == "spectral" else layers)


def mlp_critic(norm):
    middle = [norm] if norm in ("batch_norm", "layer_norm") else []
    layers = [linear(7), *middle, LEAKY, linear(5), *middle, "tanh", linear(1)]
    return (6, (1, 3, 3), spectral(layers) if norm == "spectral" else layers)


def spectral(layers):
    return [{kind: layer[kind] | {"spectral": True}} if (kind := kind_of(layer)) in ("conv", "linear") else layer for layer in layers]


NORMS = ["none", "batch_norm", "layer_norm", "spectral"]
CASES = {f"conv-{norm}": conv_critic(norm) for norm in NORMS}
CASES |= {f"conv-{norm}-sigmoid": conv_critic(norm, "sigmoid") for norm in NORMS}
CASES |= {f"mlp-{norm}": mlp_critic(norm) for norm in NORMS}
CASES["up"] = (
    3, (2, 4, 4),
    [linear(12), "tanh", reshape(3, 2, 2), conv_transpose(4, 4, 2, 1, bias=True), "layer_norm", LEAKY, conv(2, 3, 1, 1), "batch_norm"]
    + ["sigmoid", linear(1)],
)
# Residual critics as R3GAN's and WGAN-GP's.
CASES |= {f"residual-{name}": RESIDUAL[f"critic-{name}"] for name in ("r3gan", "resnet")}
CASES["residual-smooth"] = (
    3, (2, 4, 4),
    [residual([conv(4, 3, 1, 1), "tanh", grouped(6, 3, 2, 1), {"downsample": "average"}], [conv(6, 1), {"downsample": "binomial"}])]
    + ["bias", "sigmoid", residual(["layer_norm", "tanh"]), linear(4), {"basis": 2}, "tanh", {"upsample": "nearest"}, {"pool": "sum"}]
    + [linear(1)],
)


def is_spectral(layer):
    return not isinstance(layer, str) and isinstance(layer[kind_of(layer)], dict) and layer[kind_of(layer)].get("spectral", False)


def without_spectral(layer):
    if not is_spectral(layer):
        return layer
    kind = kind_of(layer)
    return {kind: {key: value for key, value in layer[kind].items() if key != "spectral"}}


def names(layers, items):
    for name, value in items:
        *path, suffix = name.split(".")
        if suffix != "num_batches_tracked":
            index, kind = place(layers, path)
            yield f"{index:02}.{kind}.{suffix.removesuffix('_orig')}", value


def vectors(layers, network):
    return [(name, value.clone()) for name, value in names(layers, network.named_buffers()) if name[-2:] in ("_u", "_v")]


def gradients(layers, network, value):
    named = list(network.named_parameters())
    by_parameter = torch.autograd.grad(value, [p for _, p in named], allow_unused=True)
    filled = [(name, torch.zeros_like(p) if g is None else g) for (name, p), g in zip(named, by_parameter)]
    return {f"grad.{name}": g for name, g in names(layers, filled)}


def penalised(layers, network, x, penalty):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    squares = g.flatten(1).square().sum(1)
    norms = (squares + EPS).sqrt()
    value = penalty(squares, norms)
    return {"value": value, "norm": norms.mean(), "x": g} | gradients(layers, network, value)


def case(name, batch, shape, layers):
    generator = seeded("penalty", name)
    network = build([without_spectral(layer) for layer in layers], shape, generator)
    for index, layer in enumerate(layers):
        if is_spectral(layer):
            torch.nn.utils.spectral_norm(network[index])
            for vector in (network[index].weight_u, network[index].weight_v):
                vector.copy_(torch.nn.functional.normalize(normal(vector.shape, generator), dim=0))
    real, fake = normal((batch, *shape), generator), normal((batch, *shape), generator)
    alpha = torch.rand(batch, generator=generator, dtype=torch.float64)
    tensors = {"real": real, "fake": fake, "alpha": alpha}
    tensors |= {f"param.{n}": p.clone() for n, p in names(layers, network.named_parameters())}
    tensors |= {f"before.{n}": v for n, v in vectors(layers, network)}

    plain = gradients(layers, network, network(real).mean()) | {f"after.{n}": v for n, v in vectors(layers, network)}
    scale = alpha.reshape(-1, *[1] * len(shape))
    gradient = penalised(
        layers, network, scale * real + (1 - scale) * fake, lambda squares, norms: WEIGHT * ((norms - 1) ** 2).mean()
    )
    r1 = penalised(layers, network, real, lambda squares, norms: WEIGHT / 2 * squares.mean())
    tensors |= prefixed({"plain": plain, "gradient": gradient, "r1": r1})
    return tensors | {f"after.{n}": b for n, b in names(layers, network.named_buffers())}


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    tensors = {name: case(name, *spec) for name, spec in CASES.items()}
    save("penalty", {name: layers for name, (_, _, layers) in CASES.items()}, prefixed(tensors))


if __name__ == "__main__":
    main()
