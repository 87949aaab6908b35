#!/usr/bin/env python3
"""Checkpoints of PyTorch's standard DCGAN example, for tests/suite/init.rs, written beside this script.

    python tests/golden/dcgan_example.py [--width N] [--out FOLDER]        needs torch 2, safetensors; seconds

The architecture is that of the example that is everywhere (pytorch/examples, dcgan): 64×64 RGB, latents of 100, `ngf` and `ndf`
times 8, 4, 2, 1 feature maps, no normalisation after the critic's first convolution; `netG` and `netD` are saved apart, as there.
Without arguments it is 2 maps wide, where it is 64, to be small in the repository.

example_netG.pth, example_netD.pth    state dicts after a few training steps
example.safetensors                   z [1, 100], images [1, 3, 64, 64] and scores [1], in evaluation mode
"""

import argparse
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent


class Generator(nn.Module):
    def __init__(self, ngf, nz=100):
        super().__init__()
        layers, channels = [], nz
        for out, stride, padding in [(8 * ngf, 1, 0), (4 * ngf, 2, 1), (2 * ngf, 2, 1), (ngf, 2, 1)]:
            layers += [nn.ConvTranspose2d(channels, out, 4, stride, padding, bias=False), nn.BatchNorm2d(out), nn.ReLU(True)]
            channels = out
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z):
        return self.main(z[:, :, None, None])


class Discriminator(nn.Module):
    """Its sigmoid is left to the loss here: it has no parameters."""

    def __init__(self, ndf):
        super().__init__()
        layers = [nn.Conv2d(3, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for channels in (ndf, 2 * ndf, 4 * ndf):
            layers += [nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * channels)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.main = nn.Sequential(*layers, nn.Conv2d(8 * ndf, 1, 4, 1, 0, bias=False))

    def forward(self, x):
        return self.main(x).flatten()


def start(module):
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=2, help="ngf and ndf; 64 in the example")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    args = parser.parse_args()
    torch.manual_seed(7)
    g, d = Generator(args.width), Discriminator(args.width)
    g.apply(start), d.apply(start)
    adam = lambda network: torch.optim.Adam(network.parameters(), 2e-4, betas=(0.5, 0.999))
    adam_g, adam_d, bce = adam(g), adam(d), nn.functional.binary_cross_entropy_with_logits
    for _ in range(4):
        real, fake = torch.rand(8, 3, 64, 64) * 2 - 1, g(torch.randn(8, 100))
        adam_d.zero_grad(), (bce(d(real), torch.ones(8)) + bce(d(fake.detach()), torch.zeros(8))).backward(), adam_d.step()
        adam_g.zero_grad(), bce(d(fake), torch.ones(8)).backward(), adam_g.step()
    torch.save(g.state_dict(), args.out / "example_netG.pth")
    torch.save(d.state_dict(), args.out / "example_netD.pth")
    g.eval(), d.eval()
    z = torch.randn(1, 100)
    with torch.no_grad():
        images = g(z)
        save_file({"z": z, "images": images, "scores": d(images)}, args.out / "example.safetensors")


main()
