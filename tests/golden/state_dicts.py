#!/usr/bin/env python3
"""PyTorch checkpoints as strangers write them, for tests/suite/init.rs, written beside this script.

    python tests/golden/state_dicts.py        needs torch 2, safetensors; a second

A narrow DCGAN of 32×32 RGB images in the manner of PyTorch's tutorial, after a few training steps.
netG.pth          the generator's state dict
checkpoint.pth    {epoch, netG: half precision, wrapped in DataParallel; netD: double precision, kernels channels last;
                  optimizerG: Adam's state}
spectral.pth      a discriminator without normalisation but the spectral one, after a few passes
object.pth        a whole module, not a state dict
state_dicts.safetensors    what they compute:
    netG.NAME     the tensors of netG.pth
    z, images     latents [n, 8], and the generator's images [n, 3, 32, 32] in evaluation mode
    images_half   those of checkpoint.pth's generator
    scores        checkpoint.pth's netD of `images`, in evaluation mode
    spectral.NAME, scores_spectral    the tensors of spectral.pth, and its scores likewise
"""

import pathlib

import torch
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        layers, channels = [nn.Identity()], 8
        for out, stride, padding in [(8, 1, 0), (6, 2, 1), (4, 2, 1)]:
            layers += [nn.ConvTranspose2d(channels, out, 4, stride, padding, bias=False), nn.BatchNorm2d(out), nn.ReLU(True)]
            channels = out
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z):
        return self.main(z[:, :, None, None])


class Discriminator(nn.Module):
    # The normalisations before the convolutions: only by kind can they be put in their places.
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(8)
        self.conv0, self.conv1 = nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.Conv2d(4, 6, 4, 2, 1, bias=False)
        self.conv2, self.conv3 = nn.Conv2d(6, 8, 4, 2, 1, bias=False), nn.Conv2d(8, 1, 4, bias=True)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.conv0(x), 0.2)
        x = nn.functional.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        x = nn.functional.leaky_relu(self.norm2(self.conv2(x)), 0.2)
        return self.conv3(x).flatten()


def main():
    torch.manual_seed(11)
    g, d = Generator(), Discriminator()
    for module in [*g.modules(), *d.modules()]:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.3)
    adam_g, adam_d = torch.optim.Adam(g.parameters(), 1e-2), torch.optim.Adam(d.parameters(), 1e-2)
    bce = nn.functional.binary_cross_entropy_with_logits
    for _ in range(5):
        real, fake = torch.rand(8, 3, 32, 32) * 2 - 1, g(torch.randn(8, 8))
        loss = bce(d(real), torch.ones(8)) + bce(d(fake.detach()), torch.zeros(8))
        adam_d.zero_grad(), loss.backward(), adam_d.step()
        adam_g.zero_grad(), bce(d(fake), torch.ones(8)).backward(), adam_g.step()

    state = g.state_dict()
    torch.save(state, HERE / "netG.pth")
    torch.save(nn.ReLU(), HERE / "object.pth")
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    netd = {name: value.double() if value.is_floating_point() else value for name, value in d.state_dict().items()}
    netd = {name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value for name, value in netd.items()}
    assert not all(value.is_contiguous() for value in netd.values())
    torch.save(
        {
            "epoch": 3,
            "netG": {f"module.{name}": value for name, value in half.items()},
            "netD": netd,
            "optimizerG": adam_g.state_dict(),
        },
        HERE / "checkpoint.pth",
    )

    g.eval(), d.eval()
    z = torch.randn(7, 8)
    with torch.no_grad():
        images = g(z)
        scores = d.double()(images.double())
        g.load_state_dict({name: value.to(state[name].dtype) for name, value in half.items()})
        made = {"z": z, "images": images, "images_half": g(z), "scores": scores}
    conv = lambda i, o, bias: nn.utils.parametrizations.spectral_norm(nn.Conv2d(i, o, 4, 2, 1, bias=bias))
    last = nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 1, 4))
    leaky = nn.LeakyReLU(0.2)
    s = nn.Sequential(conv(3, 4, False), leaky, conv(4, 6, True), leaky, conv(6, 8, True), leaky, last)
    for _ in range(3):
        s(torch.rand(2, 3, 32, 32))
    torch.save(s.state_dict(), HERE / "spectral.pth")
    with torch.no_grad():
        made["scores_spectral"] = s.eval()(images).flatten()
    made |= {f"spectral.{name}": value.clone() for name, value in s.state_dict().items()}
    save_file(made | {f"netG.{name}": value.clone() for name, value in torch.load(HERE / "netG.pth").items()},
              HERE / "state_dicts.safetensors")


main()
