"""Makes strangers/: generators as PyTorch exports them, and what PyTorch itself computes with them.

    python3 tests/golden/strangers.py        (needs torch 2.15, onnx, onnxscript, safetensors)

legacy-11.onnx … legacy-20.onnx   the exporter of torch.jit (dynamo=False), every opset: a DCGAN, noise [n, 8, 1, 1]
dynamo-16.onnx … dynamo-20.onnx   the exporter of torch.export (dynamo=True), the opsets that it can convert to: an
                                  upsampling network, z [n, 8]
external.onnx, external.onnx.data the same exporter with its defaults: weights in a file of their own
grey.onnx                         a sigmoid, one channel
nhwc.onnx                         channels last
byte.onnx                         uint8, made in the graph
half.onnx                         float16
fixed.onnx                        exported without dynamic axes: 4 rows
values.safetensors                for each: the network's output for the latents 0 to 5 of seed 0
"""

import warnings
from pathlib import Path

import onnx
import torch
from safetensors.torch import save
from streams import normal
from torch import nn

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent / "strangers"
LATENT, IMAGES = 8, 6
VALUES = {}


def latents():
    return torch.from_numpy(normal(0, b"latent", range(IMAGES), LATENT))


def settled(network):
    """With statistics as after some training: nothing is left at its default."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def dcgan(channels=3, last=nn.Tanh):
    return settled(
        nn.Sequential(
            nn.ConvTranspose2d(LATENT, 6, 3, 1, 0, bias=False), nn.BatchNorm2d(6), nn.ReLU(True),
            nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True),
            nn.ConvTranspose2d(4, channels, (3, 4), (1, 2), 1), last(),
        )
    )  # fmt: skip


def upsampling():
    """Other operators: a linear layer, reshaping, resizing, group norm, SiLU, pixel shuffling."""
    return settled(
        nn.Sequential(
            nn.Linear(LATENT, 8 * 3 * 2), nn.Unflatten(1, (8, 3, 2)), nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 8, 3, 1, 1), nn.GroupNorm(2, 8), nn.SiLU(),
            nn.Conv2d(8, 12, 3, 1, 1), nn.PixelShuffle(2), nn.Tanh(),
        )
    )  # fmt: skip


class Then(nn.Module):
    """A network and what is done with its images."""

    def __init__(self, network, last):
        super().__init__()
        self.network, self.last = network, last
        self.eval()

    def forward(self, z):
        return self.last(self.network(z))


def note(name, network, z):
    with torch.no_grad():
        VALUES[name] = network(z).float().contiguous()


def forget_places(path):
    """Takes out where on this machine the Python code lay, the only change to what PyTorch wrote. Gives the opset."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key != "pkg.torch.onnx.stack_trace"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    path.write_bytes(model.SerializeToString())
    return model.opset_import[0].version


def legacy(name, network, z, opset=17, open_batch=True):
    axes = {"noise": {0: "n"}, "image": {0: "n"}} if open_batch else {}
    path = HERE / f"{name}.onnx"
    torch.onnx.export(
        network, (z[:4],), str(path), dynamo=False, opset_version=opset, input_names=["noise"], output_names=["image"],
        dynamic_axes=axes,
    )  # fmt: skip
    assert onnx.load(path).opset_import[0].version == opset
    note(name, network, z)


def dynamo(name, network, z, opset=None, **flags):
    path = HERE / f"{name}.onnx"
    torch.onnx.export(
        network, (z[:4],), str(path), dynamo=True, opset_version=opset, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("n")},), **flags,
    )  # fmt: skip
    assert opset in (None, forget_places(path))
    note(name, network, z)


def main():
    torch.manual_seed(0)
    HERE.mkdir(exist_ok=True)
    z = latents()
    wide = z[:, :, None, None]
    network = dcgan()
    for opset in range(11, 21):
        legacy(f"legacy-{opset}", network, wide, opset)
    network = upsampling()
    for opset in range(16, 21):
        dynamo(f"dynamo-{opset}", network, z, opset, external_data=False)
    dynamo("external", network, z)
    legacy("grey", dcgan(1, nn.Sigmoid), wide)
    legacy("nhwc", Then(dcgan(), lambda image: image.permute(0, 2, 3, 1)), wide)
    legacy("byte", Then(dcgan(), lambda image: (image * 127.5 + 128).clamp(0, 255).to(torch.uint8)), wide)
    legacy("half", dcgan().half(), wide.half())
    legacy("fixed", dcgan(), wide, open_batch=False)
    (HERE / "values.safetensors").write_bytes(save(VALUES))


main()
