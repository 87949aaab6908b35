"""Writes seeds/TARGET/: one small valid file of every kind, where the fuzzer begins. Needs numpy, onnx and Pillow."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

HERE = Path(__file__).parent
random = np.random.default_rng(0)
pixels = random.integers(0, 256, (3, 4, 4), dtype=np.uint8).tobytes()


def write(name, data):
    path = HERE / "seeds" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def image(form, mode, **options):
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8)).convert(mode).save(file, form, **options)
    return file.getvalue()


def archive(files, method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, data in files.items():
            out.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, method)
    return file.getvalue()


grey = struct.pack(">4B3I", 0, 0, 8, 3, 3, 4, 4) + pixels
write("idx/plain", grey)
write("idx/gz", gzip.compress(grey, mtime=0))
write("idx/colour", struct.pack(">4B4I", 0, 0, 8, 4, 1, 4, 4, 3) + pixels)
write("idx/labels", struct.pack(">4BI", 0, 0, 8, 1, 3) + b"\1\2\3")

write("archive/png", archive({"a/1.png": image("PNG", "RGB"), "a/2.png": image("PNG", "L")}, zipfile.ZIP_STORED))
others = {"1.png": image("PNG", "RGBA"), "2.bmp": image("BMP", "RGB"), "readme.txt": b"no image"}
write("archive/deflated", archive(others, zipfile.ZIP_DEFLATED))
write("archive/jpg", archive({"1.jpg": image("JPEG", "RGB", quality=50)}, zipfile.ZIP_STORED))
webp = {"1.webp": image("WEBP", "RGB", lossless=True), "2.gif": image("GIF", "P")}
write("archive/webp", archive(webp, zipfile.ZIP_STORED))

# Beside it lies a link to the file itself.
model = onnx.load(HERE / "../golden/sealed.onnx")
write("metadata/entries", "\n".join(f"{entry.key}={entry.value}" for entry in model.metadata_props).encode())


def generator(place):
    """A generator whose image is in a constant, a function, a branch, or in weights beside it."""
    here = onnx.numpy_helper.from_array(np.zeros((1, 2, 2, 1), np.uint8), "w")
    beside = onnx.TensorProto(name="w", data_type=2, dims=[1, 2, 2, 1], data_location=1)
    for key, value in {"location": "weights", "offset": "3", "length": "4"}.items():
        beside.external_data.add(key=key, value=value)
    constant = onnx.helper.make_node("Constant", [], ["image"], value=here)
    branch = onnx.helper.make_graph([constant], "b", [], [onnx.helper.make_tensor_value_info("image", 2, [1, 2, 2, 1])])
    yes = onnx.helper.make_node("Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.array(True)))
    nodes = {
        "constant": [constant],
        "function": [onnx.helper.make_node("F", [], ["image"], domain="local")],
        "branch": [yes, onnx.helper.make_node("If", ["yes"], ["image"], then_branch=branch, else_branch=branch)],
        "weights": [onnx.helper.make_node("Identity", ["w"], ["image"])],
        "beside": [onnx.helper.make_node("Identity", ["w"], ["image"])],
    }[place]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("z", 1, [1, 4])],
        [onnx.helper.make_tensor_value_info("image", 2, [1, 2, 2, 1])],
        {"weights": [here], "beside": [beside]}.get(place, []),
    )
    opset = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("local", 1)]
    function = onnx.helper.make_function("local", "F", [], ["image"], [constant], opset)
    functions = [function] if place == "function" else []
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8, functions=functions).SerializeToString()


for place in ["constant", "function", "branch", "weights", "beside"]:
    write(f"onnx/{place}", generator(place))

with zipfile.ZipFile(HERE / "../golden/netG.pth") as whole:
    [pickle] = [name for name in whole.namelist() if name.endswith("data.pkl")]
    write("pickle/netG", whole.read(pickle))

# The first byte says which file of a run the rest is.
preset = (HERE / "../../src/presets/wgan-mnist-mlp.toml").read_bytes()
state = {"step": 1, "images": 8, "generator_optimizer_steps": 1, "critic_optimizer_steps": 5, "data": "a", "data_sha256": "b"}
header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
change = {"step": 1, "key": "seed", "was": "0", "now": "1"}
files = [
    b"00000001\n",
    json.dumps(state | {"files": {"config.toml": "ab"}}).encode(),
    preset,
    b"ab  config.toml\n",
    struct.pack("<Q", len(header)) + header + bytes(8),
]
for number, data in enumerate(files):
    write(f"checkpoint/{number}", bytes([number]) + data)
write("checkpoint/7", b"\7" + json.dumps(change).encode() + b"\n")

job = {"format": "png", "journal": 2, "n": 300, "replaces": False, "seed": 0, "start": 0}
lines = [json.dumps(job, separators=(",", ":")), "pid 7", "0 256 0000000a 900 00000002", "256 44 0000000b 90 00000003"]
write("journal/begun", b"".join(f"{line} {zlib.crc32(line.encode()):08x}\n".encode() for line in lines))

write("config/preset", preset)
write("config/flags", b"schedule.batch_size=32\nloss={ kind = \"hinge\" }\naugment=[\"color\"]\n")
