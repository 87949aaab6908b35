#!/usr/bin/env python3
"""gan-infer against what one writes in Python: the same generator, as many images, in turn.

    python benches/peers/infer.py RUN --out DIR [--n 20000] [--rounds 3] [--bin target/release] [--provider cuda] [--precisions f32,int8]

RUN is a run folder (models/faces, or what gan-train has made): its config tells PyTorch the network, and gan-train exports it.
Needs torch 2, torchvision, numpy, onnx, onnxruntime and pillow, and openvino where it is to be compared with; built gan-train and gan-infer (--bin).

Measured in every round, in images a second of --n images (--files of PNGs), files included where there are any (they go to DIR, a new folder, which is deleted at the end):

    raw              onnxruntime in Python on gan-train's file of a precision, outputs thrown away: the best of sessions × threads ×
                     batches, which a search before the rounds has found
    raw of PyTorch's the same on the file that torch.onnx.export writes of the same network
    openvino         OpenVINO in Python on the files that it takes, its throughput hint, in f32 and (where the processor has it) bf16;
                     one of them is our file with its transposed convolutions in phases
    npy, npz, png    gan-infer --format … on the file of a precision, the whole process
    pillow           onnxruntime, then Pillow, image by image in one thread: what a script does
    save_image       PyTorch's own network, then torchvision's save_image
    create           a bare loop that creates files of the sizes of gan-infer's PNGs, a process a core

and gan-infer's own time to encode a PNG, from `gan-infer bench`. Machines change their speed from minute to minute, so raw is measured
again around each of the others, and a ratio is of what was measured side by side.

With --provider cuda both sides run the network on the GPU by the same choice of algorithms, in f32 (no TF32), tf32 and f16 by default; npz is
left out, and gan-infer's rate is by its own clock as well, for the start of a process and of CUDA is longer than many a job. Beside raw stands
one session of onnxruntime with a CUDA graph: all kernels of a run are one launch, and copies to and from the host are part of it as they are of raw.
What one does in Python with Pillow or torchvision is left out. onnxruntime's CUDA libraries must be found (LD_LIBRARY_PATH), for gan-infer by ORT_DYLIB_PATH. PyTorch's side
is only its export. Files of many images go to /dev/shm, where there is room: no disk writes gigabytes a second.
"""

import argparse
import atexit
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is loaded

import numpy as np
import onnxruntime
import torch
from PIL import Image

from common import network

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCHES = {"cpu": (1, 4, 8, 16, 32, 64, 128, 256, 512), "cuda": (256, 512, 1024)}
PRECISIONS = {"cpu": "f32,int8", "cuda": "f32,tf32,f16"}
KNOWN = {"cpu": ("f32", "f16", "int8"), "cuda": ("f32", "tf32", "f16", "int8")}


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def call(*command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout


# --- the models


def torch_generator(run):
    """The run's generator in PyTorch, with the weights that gan-train exports."""
    from safetensors.torch import load_file

    config = tomllib.loads((run / "config.toml").read_text())
    generator = network(config["generator"]["layers"], (config["latent"]["size"],), config["init"])
    checkpoints = run / "checkpoints"
    name = next(path for path in (checkpoints / "best", checkpoints / "latest") if path.exists()).read_text().strip()
    averaged = checkpoints / name / "ema.safetensors"
    state = load_file(averaged if averaged.exists() else checkpoints / name / "generator.safetensors")
    # Both sides list parameters and buffers layer by layer; `num_batches_tracked` is PyTorch's alone.
    ours = sorted(state.items(), key=lambda item: natural(item[0]))
    theirs = [key for key in generator.state_dict() if not key.endswith("num_batches_tracked")]
    by_layer = {}
    for key, value in ours:
        by_layer.setdefault(key.rsplit(".", 1)[0], {})[key.rsplit(".", 1)[1]] = value
    layers = iter(by_layer.values())
    loaded, current = {}, None
    for key in theirs:
        prefix, part = key.rsplit(".", 1)
        if prefix != current:
            current, values = prefix, next(layers)
        loaded[key] = values[part].reshape(generator.state_dict()[key].shape)
    generator.load_state_dict(loaded, strict=False)
    return config, generator.eval()


def natural(text):
    return [int(part) if part.isdigit() else part for part in text.replace("-", ".").split(".")]


def export_by_torch(generator, latent, path):
    z = torch.zeros(2, latent)
    torch.onnx.export(generator, (z,), str(path), input_names=["z"], dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},))


def phase_form(path, to):
    """The same network with each transposed convolution of kernel 4, stride 2, padding 1 as four of 2×2 and a DepthToSpace; None without one."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, found = [], False
    for node in model.graph.node:
        form = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type != "ConvTranspose" or (form["strides"], form["pads"]) != ([2, 2], [1, 1, 1, 1]) or form.get("output_padding", [0, 0]) != [0, 0]:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        if weight.shape[2:] != (4, 4):
            nodes.append(node)
            continue
        found, name, taps = True, node.output[0], ((3, 1), (2, 0))
        for a, c in itertools.product((0, 1), (0, 1)):
            part = weight[:, :, taps[a]][:, :, :, taps[c]].transpose(1, 0, 2, 3)
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(part), f"{name}.{a}{c}.weight"))
            inputs = [node.input[0], f"{name}.{a}{c}.weight", *node.input[2:]]
            nodes.append(helper.make_node("Conv", inputs, [f"{name}.{a}{c}"], kernel_shape=[2, 2], pads=[1 - a, 1 - c, a, c]))
        nodes.append(helper.make_node("Concat", [f"{name}.{a}{c}" for a in (0, 1) for c in (0, 1)], [f"{name}.all"], axis=1))
        nodes.append(helper.make_node("DepthToSpace", [f"{name}.all"], [name], blocksize=2, mode="DCR"))
    if not found:
        return None
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, to)
    return to


# --- onnxruntime in Python


def session(path, threads, provider, precision="f32", graph=False):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    wanted = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": int(precision == "tf32"), "enable_cuda_graph": int(graph)}
    cuda = ("CUDAExecutionProvider", wanted)
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider" if provider == "cpu" else cuda])
    assert provider == "cpu" or made.get_providers()[0] == cuda[0], "onnxruntime's CUDA provider does not start"
    return made


def raw_rate(sessions, batch, latent, seconds):
    """Images a second of sessions in threads; outputs are thrown away."""
    z = np.random.default_rng(0).standard_normal((batch, latent), dtype=np.float32)
    counts, stop, failed = [0] * len(sessions), threading.Event(), []
    name = sessions[0].get_inputs()[0].name

    def work(index):
        try:
            while not stop.is_set():
                sessions[index].run(None, {name: z})
                counts[index] += batch
        except Exception as error:  # a thread's own would be lost
            failed.append(error)

    for one in sessions:
        one.run(None, {name: z})
    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(sessions))]
    start = time.perf_counter()
    try:
        for worker in workers:
            worker.start()
        time.sleep(seconds)
    finally:
        stop.set()  # or the interpreter would wait for them for ever
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return sum(counts) / (time.perf_counter() - start)


def graph_rate(path, batch, latent, seconds, precision):
    """Images a second of one session that runs as a CUDA graph; onnxruntime's serve one thread, and want input and output to stay on the device."""
    z = np.random.default_rng(0).standard_normal((batch, latent), dtype=np.float32)
    one = session(path, 1, "cuda", precision, graph=True)
    (source,), (result,) = one.get_inputs(), one.get_outputs()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(z, "cuda", 0)
    shape, kind = [batch, *result.shape[1:]], np.uint8 if result.type == "tensor(uint8)" else np.float32
    out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cuda", 0)
    binding = one.io_binding()
    binding.bind_ortvalue_input(source.name, value)
    binding.bind_ortvalue_output(result.name, out)

    def run():
        value.update_inplace(z)
        one.run_with_iobinding(binding)
        out.numpy()

    for _ in range(4):
        run()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        count += batch
    return count / (time.perf_counter() - start)


def best_raw(path, latent, cores, seconds, provider, precision):
    """The fastest (sessions, threads of each, batch)."""
    best = (0.0, None)
    for number, threads in {(1, 1), (1, cores), (cores, 1)} if provider == "cpu" else ((1, 1), (2, 1), (4, 1)):
        sessions = [session(path, threads, provider, precision) for _ in range(number)]
        for batch in BATCHES[provider]:
            best = max(best, (raw_rate(sessions, batch, latent, seconds), (number, threads, batch)))
    return best[1]


def best_in_a_graph(path, latent, seconds, precision):
    """The batch size with which a CUDA graph makes the most images a second; None where onnxruntime refuses."""
    rates = {}
    for batch in BATCHES["cuda"]:
        try:
            rates[graph_rate(path, batch, latent, seconds, precision)] = batch
        except Exception as error:  # onnxruntime has no exception of its own for it
            print(f"a CUDA graph of {precision} in batches of {batch}: {str(error).splitlines()[0]}", file=sys.stderr)
    return rates[max(rates)] if rates else None


# --- OpenVINO in Python


def openvino_models(paths, batch, latent):
    """(name, compiled model) of every file and precision that OpenVINO takes."""
    try:
        import openvino
    except ImportError:
        print("openvino is not installed: left out", file=sys.stderr)
        return []
    core = openvino.Core()
    precisions = [p for p in ("f32", "bf16") if p == "f32" or "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")]
    models = []
    for name, path in paths.items():
        for precision in precisions:
            try:
                model = core.read_model(path)
                model.reshape([batch, latent])
                hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
                models.append((f"OpenVINO {precision} on {name}", core.compile_model(model, "CPU", hints)))
            except RuntimeError as error:
                print(f"OpenVINO {precision} refuses {name}: {str(error).splitlines()[-1]}", file=sys.stderr)
    return models


def openvino_rate(compiled, batch, latent, seconds):
    import openvino

    queue = openvino.AsyncInferQueue(compiled)
    z = np.random.default_rng(0).standard_normal((batch, latent), dtype=np.float32)
    for _ in range(4):
        queue.start_async(z)
    queue.wait_all()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        queue.start_async(z)  # waits for a free request
        count += batch
    queue.wait_all()
    return count / (time.perf_counter() - start)


# --- the sides


def with_pillow(path, latent, n, folder, provider):
    """A session, then Image.save for each: onnxruntime may use all cores, Pillow one."""
    one = session(path, os.cpu_count(), provider)
    name = one.get_inputs()[0].name
    random = np.random.default_rng(0)
    for first in range(0, n, 64):
        images = one.run(None, {name: random.standard_normal((min(64, n - first), latent), dtype=np.float32)})[0]
        for index, image in enumerate(images):
            Image.fromarray(image.squeeze()).save(folder / f"{first + index:06}.png")


def with_save_image(generator, config, n, folder):
    from torchvision.utils import save_image

    tanh = config["data"]["range"] == "tanh"
    flat = (config["data"]["channels"], config["data"]["size"], config["data"]["size"])
    with torch.no_grad():
        for first in range(0, n, 64):
            z = torch.randn(min(64, n - first), config["latent"]["size"], device=next(generator.parameters()).device)
            values = generator(z).reshape(-1, *flat)
            values = values * 0.5 + 0.5 if tanh else values
            for index, image in enumerate(values):
                save_image(image, folder / f"{first + index:06}.png")


def create_files(arguments):
    folder, part, sizes = arguments
    data = os.urandom(max(sizes))
    for number, size in enumerate(sizes):
        with open(f"{folder}/{part}-{number:06}.png", "wb", buffering=0) as file:
            file.write(data[:size])


def timed(n, work):
    start = time.perf_counter()
    work()
    return n / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description="gan-infer against Python, in images a second.")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder, which is deleted at the end")
    parser.add_argument("--n", type=positive, default=20_000, help="images of a file of many")
    parser.add_argument("--files", type=positive, help="PNG files of gan-infer (default: --n)")
    parser.add_argument("--few", type=positive, default=2_000, help="images of the slow sides")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each raw measurement")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precisions", help="of gan-infer's files; f32 is always among them (default: f32,int8 on CPUs, f32,tf32,f16 with CUDA)")
    parser.add_argument("--bin", type=pathlib.Path, default=target / "release")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is to be deleted at the end is
    if args.out.exists():
        parser.error(f"--out {args.out} is there already: it is deleted at the end, so name a new folder")
    if unknown := [name for name in (args.precisions or "").split(",") if name and name not in KNOWN[args.provider]]:
        parser.error(f"--precisions: {', '.join(unknown)} is none of {', '.join(KNOWN[args.provider])}")
    if args.provider == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        parser.error("--provider cuda: Python's onnxruntime has no CUDA (pip install onnxruntime-gpu)")
    for needed in (args.run / "config.toml", args.bin / "gan-train", args.bin / "gan-infer"):
        if not needed.exists():
            parser.error(f"there is no {needed}")
    args.out.mkdir(parents=True)
    atexit.register(shutil.rmtree, args.out, ignore_errors=True)
    args.files = args.files or args.n
    precisions = list(dict.fromkeys(["f32", *(args.precisions or PRECISIONS[args.provider]).split(",")]))
    cores, on_cuda = os.cpu_count(), args.provider == "cuda"
    torch.set_num_threads(cores)
    torch.backends.cudnn.allow_tf32 = False

    config, generator = torch_generator(args.run)
    latent = config["latent"]["size"]
    ours, theirs = args.out / "ours.onnx", args.out / "pytorch.onnx"
    files_of = {precision: args.out / f"ours.{precision}.onnx" for precision in precisions}
    files_of["f32"] = ours
    if "tf32" in files_of:
        files_of["tf32"] = ours
    for precision, path in files_of.items():
        if precision != "tf32":  # the file of f32, rounded otherwise
            call(args.bin / "gan-train", "export", args.run, "--out", path, "--dtype", precision)
    export_by_torch(generator, latent, theirs)
    z = np.random.default_rng(1).standard_normal((4, latent), dtype=np.float32)
    with torch.no_grad():
        network_values = generator(torch.from_numpy(z)).flatten(1).numpy()
    other = session(theirs, 1, "cpu").run(None, {"z": z})[0].reshape(4, -1)
    assert np.abs(network_values - other).max() < 1e-3, "PyTorch's own export computes something else"
    same = session(ours, 1, "cpu").run(None, {"z": z})[0]
    channels = config["data"]["channels"]
    planes = network_values.reshape(4, channels, -1).transpose(0, 2, 1).reshape(4, -1)
    scale, shift = (127.5, 128.0) if config["data"]["range"] == "tanh" else (255.0, 0.5)
    assert np.abs(np.floor(np.clip(planes * scale + shift, 0, 255)) - same.reshape(4, -1)).max() <= 1, "other weights"

    for_openvino = {**files_of, "pytorch": theirs}
    if phases := phase_form(ours, args.out / "phases.onnx"):
        assert np.abs(session(phases, 1, "cpu").run(None, {"z": z})[0].astype(int) - same).max() <= 1, "the phases are another network"
        for_openvino["our phases in f32"] = phases
    paths = {**files_of, "pytorch": theirs}
    settings = {name: best_raw(path, latent, cores, args.seconds / 3, args.provider, name) for name, path in paths.items()}
    sessions = {
        name: [session(path, settings[name][1], args.provider, name) for _ in range(settings[name][0])]
        for name, path in paths.items()
    }
    openvino = openvino_models(for_openvino, 32, latent) if args.provider == "cpu" else []

    places = itertools.count()
    in_memory = None
    pixels = channels * config["data"]["size"] ** 2
    if on_cuda and os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 2 * args.n * pixels:
        in_memory = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm"))
        atexit.register(shutil.rmtree, in_memory, ignore_errors=True)

    def fresh():
        """A folder of its own. Many small files stay until the end: ext4 is slow to create files for minutes after others were deleted."""
        place = args.out / f"files-{next(places)}"
        place.mkdir()
        return place

    def gan_infer(kind, precision):
        """Images a second, the sizes of the files, and images a second by its own clock."""
        place = fresh() if kind == "png" or not in_memory else in_memory / f"files-{next(places)}"
        n = args.files if kind == "png" else args.n
        flags = ["--model", files_of[precision], "--n", n, "--out", place, "--format", kind, "--provider", args.provider, "--quiet", "--json"]
        flags += ["--tf32"] if precision == "tf32" else []
        said = []
        rate = timed(n, lambda: said.append(call(args.bin / "gan-infer", *flags)))
        sizes = [path.stat().st_size for path in place.rglob("*.png")]
        if kind != "png":
            shutil.rmtree(place)
        return rate, sizes, json.loads(said[0])["images_per_second"]

    def files(work):
        place = fresh()
        return timed(args.few, lambda: work(place))

    def create(sizes):
        place = fresh()
        parts = [(place, part, sizes[part::cores]) for part in range(cores)]
        with multiprocessing.Pool(cores) as pool:
            pool.map(abs, range(cores))  # the workers are there
            return timed(len(sizes), lambda: pool.map(create_files, parts, chunksize=1))

    rates, ratios = {}, {}

    def measured(name, rate):
        rates.setdefault(name, []).append(rate)
        print(f"{name}: {rate:,.0f} images/s", file=sys.stderr)  # whatever may end this program
        return rate

    def raw(side):
        rate = raw_rate(sessions[side], settings[side][2], latent, args.seconds)
        return measured("raw of PyTorch's export" if side == "pytorch" else f"raw {side}", rate)

    def ratio(name, ours, theirs=1.0):
        ratios.setdefault(name, []).append(ours / theirs)

    scratch = args.out
    if os.path.isdir("/dev/shm"):
        scratch = tempfile.mkdtemp(dir="/dev/shm")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    bench = ["bench", ours, "--provider", "cpu", "--batches", 8, "--threads", cores, "--seconds", 0.5, "--scratch", scratch, "--json"]
    stages = {stage["name"]: stage["rate"]["median"] for stage in json.loads(call(args.bin / "gan-infer", *bench))["stages"]}
    encoded = measured(f"gan-infer's PNG encoder, {cores} threads", stages["PNG encoding"])
    in_a_graph = {}
    for precision in precisions if on_cuda else ():
        if batch := best_in_a_graph(files_of[precision], latent, args.seconds / 3, precision):
            in_a_graph[precision] = batch
            print(f"a CUDA graph of {precision} is fastest in batches of {batch}", file=sys.stderr)
    for _ in range(args.rounds):
        f32_before = raw("f32")
        for precision in precisions:
            before = f32_before if precision == "f32" else raw(precision)
            for kind in ("npy",) if on_cuda else ("npy", "npz"):
                whole, _, own = gan_infer(kind, precision)
                rate = measured(f"gan-infer {kind} in {precision}", whole)
                after = raw(precision)
                ratio(f"{kind} in {precision} / raw {precision}", rate, (before + after) / 2)
                if on_cuda:
                    measured(f"gan-infer {kind} in {precision}, own clock", own)
                    ratio(f"{kind} in {precision}, own clock / raw {precision}", own, (before + after) / 2)
                before = after
                if precision != "f32" and kind == "npy":
                    f32 = (f32_before + raw("f32")) / 2
                    ratio(f"{kind} in {precision} / raw f32", rate, f32)
                    ratio(f"raw {precision} / raw f32", after, f32)
            whole, sizes, own = gan_infer("png", precision)
            png = measured(f"gan-infer png in {precision}{', own clock' * on_cuda}", own if on_cuda else whole)
            created = measured("bare creation of files", create(sizes))
            after = raw(precision)
            # On a CPU the three take turns in each thread; with a GPU others encode and write what the sessions make.
            network, writing = 2 / (before + after), 1 / encoded + 1 / created
            ratio(f"png in {precision} / what raw, encoding and creation allow", png * (max(network, writing) if on_cuda else network + writing))
            if precision in in_a_graph:
                graph = measured(f"raw {precision} in a CUDA graph", graph_rate(files_of[precision], in_a_graph[precision], latent, args.seconds, precision))
                ratio(f"raw {precision} in a CUDA graph / raw {precision}", graph, after)
            if on_cuda:
                f32_before = raw("f32")
                continue  # with Python's start and CUDA's, a script of few images would be no yardstick
            ratio(f"png in {precision} / onnxruntime f32 + Pillow", png, measured(
                "onnxruntime f32 + Pillow", files(lambda place: with_pillow(ours, latent, args.few, place, args.provider))
            ))
            ratio(f"png in {precision} / PyTorch + save_image", png, measured(
                "PyTorch + save_image", files(lambda place: with_save_image(generator, config, args.few, place))
            ))
            f32_before = raw("f32")
        ratio("raw f32 / raw of PyTorch's export", f32_before, raw("pytorch"))
        for name, compiled in openvino:
            rate = measured(name, openvino_rate(compiled, 32, latent, args.seconds))
            for precision in precisions:
                ratio(f"raw {precision} / {name}", raw(precision), rate)

    def row(name, values, form):
        print(f"| {name} | {statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}}) |")

    print(f"{args.run}: {args.n} images, {args.provider}, {cores} cores, onnxruntime {onnxruntime.__version__}, PyTorch {torch.__version__}")
    print(f"raw: (sessions, threads, batch) by file: {settings}")
    print("\n| side | images/s: median (least–most) |\n|---|---|")
    for name, values in rates.items():
        row(name, values, ",.0f")
    print("\n| ratio, of what was measured side by side | median (least–most) |\n|---|---|")
    for name, values in ratios.items():
        row(name, values, ".2f")


if __name__ == "__main__":
    main()
