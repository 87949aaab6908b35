"""Makes the .onnx files beside it: python3 tests/golden/generators.py (needs onnx and numpy).

sealed.onnx            keeps ganforge's contract: z [n, 16] -> uint8 [n, 8, 6, 3], with metadata and checksum
stranger_nchw_f32.onnx another program's: noise [n, 16, 1, 1] -> float32 [n, 3, 8, 6] in [-1, 1]
stranger_fixed_u8.onnx another program's: [5, 16] -> uint8 [5, 8, 6, 1], always 5 rows
stranger_nhwc_f16.onnx another program's: float16 [n, 16] -> float16 [n, 8, 6, 3] in [-1, 1], of the weights of sealed.onnx
"""

import hashlib
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

LATENT, HEIGHT, WIDTH = 16, 8, 6
HERE = Path(__file__).parent


def build(input_name, input_dims, image_dims, pixels, half=False):
    """tanh(z W) in the given shape; as uint8 pixels or as it is; in float16 or float32."""
    size = int(np.prod(image_dims[1:]))
    weight = np.random.default_rng(7).standard_normal((LATENT, size)).astype(np.float32) * np.float32(0.4)
    constants = {
        "flat": np.array([-1, LATENT], np.int64),
        "weight": weight.astype(np.float16) if half else weight,
        "scale": np.array(127.5, np.float32),
        "shift": np.array(128, np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(255, np.float32),
        "shape": np.array([-1, *image_dims[1:]], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", [input_name, "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["linear"]),
        helper.make_node("Tanh", ["linear"], ["values"]),
    ]
    last = "values"
    if pixels:
        nodes += [
            helper.make_node("Mul", ["values", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["shifted"]),
            helper.make_node("Clip", ["shifted", "low", "high"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["bytes"], to=TensorProto.UINT8),
        ]
        last = "bytes"
    nodes.append(helper.make_node("Reshape", [last, "shape"], ["image"]))
    used = {name for node in nodes for name in node.input}
    real = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info(input_name, real, input_dims)],
        [helper.make_tensor_value_info("image", TensorProto.UINT8 if pixels else real, image_dims)],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model


def seal(model):
    """Adds the metadata of src/contract.rs; the checksum is over the file with the checksum's digits as zeros."""
    metadata = {
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
        "ganforge.channels": "3",
        "ganforge.contract": "1",
        "ganforge.data": "none",
        "ganforge.data.sha256": "0" * 64,
        "ganforge.height": str(HEIGHT),
        "ganforge.images_seen": "0",
        "ganforge.latent.law": "normal",
        "ganforge.latent.size": str(LATENT),
        "ganforge.layout": "nhwc-u8",
        "ganforge.loss": "none",
        "ganforge.preset": "none",
        "ganforge.range": "tanh",
        "ganforge.seed": "7",
        "ganforge.sha256": "0" * 64,
        "ganforge.weights": "raw",
        "ganforge.width": str(WIDTH),
    }
    model.producer_name = "ganforge"
    helper.set_model_props(model, metadata)
    file = bytearray(model.SerializeToString())
    key = b"ganforge.sha256\x12\x40"
    at = file.rindex(key) + len(key)
    file[at : at + 64] = hashlib.sha256(file).hexdigest().encode()
    return bytes(file)


sealed = build("z", ["n", LATENT], ["n", HEIGHT, WIDTH, 3], pixels=True)
nchw = build("noise", ["n", LATENT, 1, 1], ["n", 3, HEIGHT, WIDTH], pixels=False)
fixed = build("z", [5, LATENT], [5, HEIGHT, WIDTH, 1], pixels=True)
half = build("z", ["n", LATENT], ["n", HEIGHT, WIDTH, 3], pixels=False, half=True)
(HERE / "sealed.onnx").write_bytes(seal(sealed))
(HERE / "stranger_nchw_f32.onnx").write_bytes(nchw.SerializeToString())
(HERE / "stranger_fixed_u8.onnx").write_bytes(fixed.SerializeToString())
(HERE / "stranger_nhwc_f16.onnx").write_bytes(half.SerializeToString())
