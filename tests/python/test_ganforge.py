"""The Python package, as it was installed: its images are those of gan-infer, and what is wrong is told.

GANFORGE_ROOT is the checkout, GAN_INFER a gan-infer that was not installed with it.
"""

import concurrent.futures
import importlib.metadata
import os
import pathlib
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import unittest

import ganforge
import numpy

ROOT = pathlib.Path(os.environ["GANFORGE_ROOT"])
PROGRAMS = pathlib.Path(sys.executable).parent


def by_program(program, *flags):
    """What a gan-infer makes, as an array."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "images.npy")
        environment = dict(os.environ, ORT_DYLIB_PATH=str(ganforge.load_runtime()[1]))
        command = [str(program), "--provider", "cpu", "--out", out, "--quiet", *map(str, flags)]
        subprocess.run(command, check=True, env=environment)
        return numpy.load(out)


class Images(unittest.TestCase):
    def test_are_those_of_gan_infer(self):
        for name in ganforge.builtins():
            for precision in ("int8", "f32"):
                generator = ganforge.Generator(name, precision=precision)
                images = generator.sample(seed=2**63 + 5, start=3, n=100)
                expected = by_program(
                    os.environ["GAN_INFER"], "--model", name, "--precision", precision, "--seed", 2**63 + 5, "--start", 3, "--n", 100
                )
                self.assertEqual((images.dtype, images.shape), (numpy.uint8, (100, *generator.image_shape)))
                numpy.testing.assert_array_equal(images, expected)

    def test_of_a_class_and_truncated(self):
        generator = ganforge.Generator("digits")
        images = generator.sample(1, 0, 20, class_=7, truncation=1.5)
        expected = by_program(os.environ["GAN_INFER"], "--model", "digits", "--seed", 1, "--n", 20, "--class", 7, "--truncation", 1.5)
        numpy.testing.assert_array_equal(images, expected)
        numpy.testing.assert_array_equal(generator.sample(1, 0, 20, class_="7", truncation=1.5), images)

    def test_of_latents(self):
        generator = ganforge.Generator("faces")
        z = generator.latents(seed=9, start=0, n=50)
        self.assertEqual((z.dtype, z.shape), (numpy.float32, (50, generator.latent_size)))
        images = generator.sample(9, 0, 50)
        numpy.testing.assert_array_equal(generator.generate(z), images)
        numpy.testing.assert_array_equal(generator.generate(z.astype("float64")), images)
        numpy.testing.assert_array_equal(generator.generate(z.tolist()), images)
        numpy.testing.assert_array_equal(generator.generate(numpy.asfortranarray(z)), images)
        numpy.testing.assert_array_equal(generator.generate(z[4]), images[4:5])
        way = generator.interpolate(z[0], z[1], numpy.linspace(0, 1, 5))
        numpy.testing.assert_allclose(way[[0, -1]], z[:2], atol=1e-5)
        length = numpy.linalg.norm(way, axis=1)
        self.assertTrue(length.min() > 0.95 * min(length[0], length[-1]), length)
        self.assertEqual(generator.interpolate(z[0], z[1], 0.5).shape, (1, generator.latent_size))

    def test_some_at_a_time(self):
        generator = ganforge.Generator("digits")
        parts = list(generator.batches(seed=4, start=7, n=130, size=50))
        self.assertEqual([len(part) for part in parts], [50, 50, 30])
        numpy.testing.assert_array_equal(numpy.concatenate(parts), generator.sample(4, 7, 130))
        endless = generator.batches(seed=4, start=7)
        numpy.testing.assert_array_equal(next(endless), generator.sample(4, 7, 64))
        numpy.testing.assert_array_equal(next(endless), generator.sample(4, 71, 64))

    def test_by_many_threads(self):
        generator = ganforge.Generator("digits", threads=1)
        expected = generator.sample(0, 0, 400)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda k: generator.sample(0, 100 * k, 100), range(4)))
        numpy.testing.assert_array_equal(numpy.concatenate(parts), expected)

    def test_leave_python_free_meanwhile(self):
        generator = ganforge.Generator("faces")
        turns, over = [0], threading.Event()

        def count():
            while not over.is_set():
                turns[0] += 1

        other = threading.Thread(target=count)
        other.start()
        before = turns[0]
        generator.sample(0, 0, 2000)
        made = turns[0] - before
        over.set()
        other.join()
        self.assertGreater(made, 100)

    def test_of_files_bytes_and_copies(self):
        path = ROOT / "onnx/digits.onnx"
        images = ganforge.Generator(path).sample(0, 0, 3)
        for model in (str(path), path.read_bytes()):
            numpy.testing.assert_array_equal(ganforge.Generator(model).sample(0, 0, 3), images)
        generator = ganforge.Generator(path, batch=16, provider="cpu")
        copy = pickle.loads(pickle.dumps(generator))
        self.assertEqual((copy.name, copy.batch, copy.provider), (generator.name, 16, "cpu"))
        numpy.testing.assert_array_equal(copy.sample(0, 0, 3), generator.sample(0, 0, 3))


class Facts(unittest.TestCase):
    def test_of_a_generator(self):
        generator = ganforge.Generator("digits", provider="cpu", batch=8, threads=3)
        self.assertEqual((generator.image_shape, generator.classes, generator.latent_law), ((28, 28, 1), 10, "normal"))
        self.assertEqual((generator.batch, generator.threads, generator.provider, generator.precision), (8, 3, "cpu", "int8"))
        self.assertEqual(generator.metadata["ganforge.height"], "28")
        self.assertRegex(generator.sha256, "^[0-9a-f]{64}$")
        self.assertIn("digits", repr(generator))
        self.assertEqual(ganforge.__version__, importlib.metadata.version("ganforge"))
        self.assertTrue((pathlib.Path(ganforge.__file__).parent / "py.typed").exists())

    def test_the_types_describe_what_there_is(self):
        told = (pathlib.Path(ganforge.__file__).parent / "_ganforge.pyi").read_text(encoding="utf-8")
        names = set(re.findall(r"^    def ([a-z0-9_]+)\(", told, re.M)) - {"__init__"}
        there = {name for kind in (ganforge.Generator, ganforge.Batches) for name in vars(kind) if not name.startswith("__")}
        self.assertEqual({name for name in names if not name.startswith("__")}, there)

    def test_programs(self):
        for program in ("gan-infer", "gan-train"):
            told = subprocess.run([PROGRAMS / program, "--version"], check=True, capture_output=True, text=True).stdout
            self.assertEqual(told.split(), ["ganforge", ganforge.__version__])
        # It finds the onnxruntime of its environment, which is not activated.
        told = subprocess.run([PROGRAMS / "gan-infer", "runtime"], check=True, capture_output=True, text=True).stdout
        self.assertIn(str(PROGRAMS.parent), told)


class Mistakes(unittest.TestCase):
    def refused(self, kind, says, call, *arguments, **named):
        with self.assertRaisesRegex(kind, says) as caught:
            call(*arguments, **named)
        self.assertIsInstance(caught.exception, (ganforge.Error, TypeError, OverflowError, MemoryError))
        self.assertNotIn("`Options::", str(caught.exception))

    def test_are_told(self):
        self.refused(ganforge.UsageError, "Did you mean 'faces'", ganforge.Generator, "facez")
        self.refused(ganforge.FileError, "nowhere.onnx", ganforge.Generator, "nowhere.onnx")
        self.refused(ganforge.ModelError, "not an ONNX model", ganforge.Generator, b"text, not a model")
        self.refused(ValueError, "provider", ganforge.Generator, "faces", provider="gpu")
        self.refused(ValueError, "precision", ganforge.Generator, "faces", precision="f8")
        self.refused(ValueError, "tanh", ganforge.Generator, "faces", range="?")
        self.refused(ValueError, "batch", ganforge.Generator, "faces", batch=0)
        self.refused(ValueError, "threads", ganforge.Generator, "faces", threads=0)
        self.refused(TypeError, "model", ganforge.Generator, 5)
        generator = ganforge.Generator("digits")
        z = generator.latents()[0]
        self.refused(OverflowError, "", generator.sample, -1)
        self.refused(ValueError, "2\\^63", generator.sample, 0, 2**64 - 1, 5)
        self.refused(MemoryError, "batches", generator.sample, 0, 0, 2**62)
        self.refused(ValueError, "class 10", generator.sample, class_=10)
        self.refused(ValueError, "no class 'x'", generator.sample, class_="x")
        self.refused(ValueError, "truncation", generator.sample, truncation=0)
        self.refused(ValueError, r"shape \[3, 5\].*Give \[n, %d\]" % generator.latent_size, generator.generate, numpy.zeros((3, 5)))
        self.refused(ValueError, "value 0 of latent 0 is NaN", generator.generate, numpy.full(generator.latent_size, numpy.nan))
        self.refused(ValueError, "no part of the way", generator.interpolate, z, z, numpy.inf)
        self.refused(ValueError, "0 images", list, generator.batches(n=3, size=0))
        self.refused(ValueError, "knows no classes", ganforge.Generator("faces").sample, class_=1)
        self.assertEqual(generator.sample(n=0).shape, (0, 28, 28, 1))


class Readme(unittest.TestCase):
    def test_its_snippets_run(self):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        snippets = [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "import ganforge" in code]
        self.assertTrue(snippets)
        for code in snippets:
            if "import torch" in code:
                try:
                    import torch  # noqa: F401
                except ImportError:
                    print("skipped: PyTorch is not installed, so the data set of README is not tried")
                    continue
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


if __name__ == "__main__":
    unittest.main(verbosity=1)
