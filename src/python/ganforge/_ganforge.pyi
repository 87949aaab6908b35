"""The types of the compiled module."""

import os
from collections.abc import Iterator
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy
import numpy.typing

__version__: str

class Generator:
    """An open generator. Threads may share it; a pickled one is opened again where it arrives.

    Args:
        model: a built-in generator ("faces", "digits"), an ONNX file, a training run's folder, or the bytes of an ONNX file;
            None for the first built-in one.
        provider: where to run it: "auto", "cpu", "cuda", "cuda:1", "tensorrt", "openvino", "coreml".
        precision: what to compute with: "auto" (the fastest there is), "f32", "f16", "int8".
        batch: images a run, 1 to 4096; None for what serves best.
        threads: threads that one call may work on; None for one a core (on GPUs two or four). Images do not depend on it.
        range: the value range of a float output, for models that do not say it: "tanh", "sigmoid", "byte".
        tf32: lets CUDA round to TF32: faster, other pixels.
        load_timeout: seconds that a model may take to load and to run once; 0 for no limit, None for 120, with TensorRT 900.
        batch_memory: bytes that the latents of a batch may take, and its images; None for 4 GiB.

    Raises:
        UsageError, FileError, ModelError, RuntimeUnavailable: each says how to mend it.
    """

    def __init__(
        self,
        model: Union[str, "os.PathLike[str]", bytes, None] = None,
        *,
        provider: str = "auto",
        precision: str = "auto",
        batch: Optional[int] = None,
        threads: Optional[int] = None,
        range: Optional[str] = None,
        tf32: bool = False,
        load_timeout: Optional[float] = None,
        batch_memory: Optional[int] = None,
    ) -> None: ...
    def sample(
        self,
        seed: int = 0,
        start: int = 0,
        n: int = 1,
        *,
        class_: Union[int, str, None] = None,
        truncation: Optional[float] = None,
    ) -> "numpy.typing.NDArray[numpy.uint8]":
        """Images start to start + n of a seed: uint8 [n, height, width, channels], the bytes that gan-infer makes.

        class_ makes images of one class only, by its name or its number from 0; truncation draws latents from the part of their
        distribution within ± it. Other Python threads run meanwhile.
        """

    def generate(
        self,
        z: "numpy.typing.ArrayLike",
        *,
        class_: Union[int, str, None] = None,
        truncation: Optional[float] = None,
    ) -> "numpy.typing.NDArray[numpy.uint8]":
        """Images of latents of your own, [n, latent_size] or [latent_size]: uint8 [n, height, width, channels]."""

    def latents(self, seed: int = 0, start: int = 0, n: int = 1) -> "numpy.typing.NDArray[numpy.float32]":
        """The latents that sample makes images start to start + n of: float32 [n, latent_size]."""

    def interpolate(
        self, a: "numpy.typing.ArrayLike", b: "numpy.typing.ArrayLike", t: "numpy.typing.ArrayLike"
    ) -> "numpy.typing.NDArray[numpy.float32]":
        """The latents at t (a number or several) of the way from latent a (0) to latent b (1): float32 [len(t), latent_size].

        Along the great circle for normal latents, straight for uniform ones.
        """

    def batches(
        self,
        seed: int = 0,
        start: int = 0,
        n: Optional[int] = None,
        size: int = 64,
        *,
        class_: Union[int, str, None] = None,
        truncation: Optional[float] = None,
    ) -> "Batches":
        """Images start to start + n of a seed, size at a time, in little memory; without n they do not end."""

    @property
    def name(self) -> str:
        """What it was opened by."""
    @property
    def image_shape(self) -> Tuple[int, int, int]:
        """Height, width and channels (1: grey, 3: RGB)."""
    @property
    def latent_size(self) -> int:
        """Values of a latent."""
    @property
    def latent_law(self) -> str:
        """"normal" or "uniform" (in [-1, 1])."""
    @property
    def classes(self) -> int:
        """Classes that it was told; 0: none."""
    @property
    def class_names(self) -> List[str]:
        """What these are called; empty where nobody has said."""
    @property
    def provider(self) -> str:
        """Where it runs."""
    @property
    def precision(self) -> str:
        """What it computes with."""
    @property
    def batch(self) -> int:
        """Images a run."""
    @property
    def threads(self) -> int:
        """Threads that one call may work on."""
    @property
    def notes(self) -> List[str]:
        """Choices made on opening that one should know of."""
    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
    @property
    def metadata(self) -> Dict[str, str]:
        """What the file says of itself; empty for a file that ganforge did not export."""
    def __reduce__(self) -> Any: ...

class Batches(Iterator["numpy.typing.NDArray[numpy.uint8]"]):
    """Images of a seed, some at a time: Generator.batches."""

    def __iter__(self) -> "Batches": ...
    def __next__(self) -> "numpy.typing.NDArray[numpy.uint8]": ...

def builtins() -> Dict[str, str]:
    """Names and descriptions of the built-in generators."""

def load_runtime(path: Union[str, "os.PathLike[str]", None] = None) -> Tuple[str, "os.PathLike[str]"]:
    """Loads onnxruntime: the library at path, or that of the onnxruntime package. Gives its version and path.

    The first load decides for the whole process; Generator does it where nobody has.
    """
