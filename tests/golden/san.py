#!/usr/bin/env python3
"""Critics that learn their last layer's direction apart (SAN, arXiv 2301.12811), by PyTorch's autograd, for tests/suite/san.rs:

    python tests/golden/san.py        as make.py beside it, whose form the file has

san.safetensors    (cases: name -> list of layers)
    real, fake                   images
    param.NAME, before.NAME      parameters; the vectors of spectral normalisation at the beginning
  Training passes, one behind the other, each of which moves running statistics and those vectors on:
    hinge/…, bce/…, relativistic/…    of real, then of fake:
      score_real, score_fake     the critic's scores
      grad.NAME                  gradients of the critic's loss, the direction held constant, plus those of the Wasserstein loss to it
    r1/value, r1/grad.NAME       R1 of weight 10 at real, the direction held constant
"""

import torch
from make import RESIDUAL, build, critic_loss, normal, prefixed, save, seeded
from penalty import WEIGHT, conv_critic, gradients, is_spectral, mlp_critic, names, vectors, without_spectral
from steps import sliced

LOSSES = {"hinge": {"kind": "hinge"}, "bce": {"kind": "bce", "reduction": "mean", "critic_scale": 1.0}, "relativistic": {"kind": "relativistic"}}
CASES = {f"conv-{norm}": conv_critic(norm) for norm in ("none", "batch_norm", "spectral")}
CASES |= {f"mlp-{norm}": mlp_critic(norm) for norm in ("none", "layer_norm", "spectral")}
CASES["residual"] = RESIDUAL["critic-r3gan"]


def scores(network, x):
    return [score.flatten() for score in sliced(network[:-1](x), network[-1])]


def case(name, batch, shape, layers):
    generator = seeded("san", name)
    network = build([without_spectral(layer) for layer in layers], shape, generator)
    for index, layer in enumerate(layers):
        if is_spectral(layer):
            torch.nn.utils.spectral_norm(network[index])
            for vector in (network[index].weight_u, network[index].weight_v):
                vector.copy_(torch.nn.functional.normalize(normal(vector.shape, generator), dim=0))
    real, fake = normal((batch, *shape), generator), normal((batch, *shape), generator)
    tensors = {"real": real, "fake": fake}
    tensors |= {f"param.{n}": p.clone() for n, p in names(layers, network.named_parameters())}
    tensors |= {f"before.{n}": v for n, v in vectors(layers, network)}
    for kind, loss in LOSSES.items():
        (score_real, sliced_real), (score_fake, sliced_fake) = scores(network, real), scores(network, fake)
        value = critic_loss(loss, score_real, score_fake) + sliced_fake.mean() - sliced_real.mean()
        learned = {"score_real": score_real, "score_fake": score_fake} | gradients(layers, network, value)
        tensors |= {f"{kind}/{n}": t for n, t in learned.items()}
    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(scores(network, x)[0].sum(), x, create_graph=True)
    value = WEIGHT / 2 * slope.flatten(1).square().sum(1).mean()
    return tensors | {f"r1/{n}": t for n, t in ({"value": value} | gradients(layers, network, value)).items()}


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    tensors = {name: case(name, *spec) for name, spec in CASES.items()}
    save("san", {name: layers for name, (_, _, layers) in CASES.items()}, prefixed(tensors))


if __name__ == "__main__":
    main()
