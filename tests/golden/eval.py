#!/usr/bin/env python3
"""Reference numbers and foreign feature models for tests/suite/eval.rs, written beside this script:

    python tests/golden/eval.py        needs torch 2, onnx, onnxscript, numpy, scipy, safetensors; a few seconds

eval.safetensors    all f32 but for the scores, which are f64; metadata key `spec`: the versions that made the numbers
    CASE.x, CASE.y      features [n, d] of two sets; `few` has fewer vectors than values, so singular covariances
    CASE.scores         Fréchet distance (scipy.linalg.sqrtm of the product of the covariances), kernel distance (of all
                        vectors at once), precision and recall (k = 3, all distances), density and coverage (k = 5), of
                        y against x
    images              [5, 12, 12, 3] as bytes in f32
    nchw.features       what stranger_features.onnx gives for them as RGB in ImageNet's normalisation, its maps averaged
    nhwc.features       what stranger_features_nhwc.onnx gives for them as grey (ITU-R BT.601, Pillow's) in [0, 1]
stranger_features.onnx       PyTorch's export: image [n, 3, 12, 12] -> [n, 7, 6, 6]
stranger_features_nhwc.onnx  another program's: [2, 12, 12, 1] -> [2, 9], always 2 rows
"""

import json
from pathlib import Path

import numpy as np
import onnx
import scipy
import scipy.linalg
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save_file
from torch import nn

HERE = Path(__file__).resolve().parent


def frechet(x, y):
    """arXiv 1706.08500, eq. 6."""
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cx @ cy)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cx) + np.trace(cy) - 2 * np.trace(root).real


def kernel_distance(x, y):
    """arXiv 1801.01401, section 4, one subset of all vectors."""
    m = len(x)
    assert len(y) == m
    kernel = lambda a, b: (a @ b.T / x.shape[1] + 1) ** 3
    apart = lambda k: (k.sum() - np.trace(k)) / (m * (m - 1))
    return apart(kernel(x, x)) + apart(kernel(y, y)) - 2 * kernel(x, y).mean()


def precision_recall(x, y, k=3):
    """arXiv 1904.06991, algorithm 1."""
    distances = lambda a, b: np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    radii = lambda a: np.sort(distances(a, a), axis=1)[:, k]  # place 0 is the vector itself
    inside = lambda points, balls: (distances(points, balls) <= radii(balls)[None]).any(1).mean()
    return inside(y, x), inside(x, y)


def density_coverage(x, y, k=5):
    """arXiv 2002.09797, equations 3 and 4."""
    distances = lambda a, b: np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    radii = np.sort(distances(x, x), axis=1)[:, k]
    inside = distances(x, y) <= radii[:, None]
    return inside.sum() / (k * len(y)), inside.any(1).mean()


def cases(rng):
    x, y = rng.standard_normal((2, 300, 6))
    mix = rng.standard_normal((6, 6))
    yield "close", x @ mix, (1.1 * y + 0.2) @ mix
    x, y = rng.standard_normal((2, 40, 64))
    yield "few", x, 0.5 * y + 1
    x, y = rng.standard_normal((2, 200, 16))
    y[:, 3:] *= 0.1  # most directions collapsed
    yield "collapsed", 5 * x + 3, 5 * y + 3


tensors = {}
rng = np.random.default_rng(5)
for name, x, y in cases(rng):
    x, y = x.astype(np.float32), y.astype(np.float32)
    tensors |= {f"{name}.x": x, f"{name}.y": y}
    x, y = x.astype(np.float64), y.astype(np.float64)
    tensors[f"{name}.scores"] = np.array([frechet(x, y), kernel_distance(x, y), *precision_recall(x, y), *density_coverage(x, y)])

images = rng.integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
tensors["images"] = images.astype(np.float32)

torch.manual_seed(3)
model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 7, 1)).eval()
example = torch.zeros(2, 3, 12, 12)
path = HERE / "stranger_features.onnx"
torch.onnx.export(
    model, (example,), path, input_names=["pixels"], output_names=["maps"], opset_version=18, dynamo=True,
    dynamic_shapes=({0: torch.export.Dim("n", min=1)},), external_data=False, verbose=False,
)
stranger = onnx.load(path)
for node in stranger.graph.node:
    del node.metadata_props[:]  # stack traces of this machine
    node.doc_string = ""
onnx.save(stranger, path)
values = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
with torch.no_grad():
    maps = model(torch.tensor(values, dtype=torch.float32).permute(0, 3, 1, 2))
tensors["nchw.features"] = maps.mean((2, 3)).numpy()

weight = rng.standard_normal((144, 9)).astype(np.float32)
graph = helper.make_graph(
    [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["out"]),
    ],
    "features",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 12, 12, 1])],
    [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 9])],
    [numpy_helper.from_array(np.array([2, 144], np.int64), "flat"), numpy_helper.from_array(weight, "weight")],
)
fixed = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(fixed)
onnx.save(fixed, HERE / "stranger_features_nhwc.onnx")
grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
tensors["nhwc.features"] = (grey.reshape(5, 144).astype(np.float32) / 255) @ weight

spec = {"torch": torch.__version__, "scipy": scipy.__version__, "numpy": np.__version__}
save_file(tensors, HERE / "eval.safetensors", metadata={"spec": json.dumps(spec)})
for name in sorted(tensors):
    if name.endswith("scores"):
        print(name, tensors[name])
