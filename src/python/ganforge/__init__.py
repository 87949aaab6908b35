"""Images from GAN generators (ONNX), with onnxruntime.

    import ganforge

    generator = ganforge.Generator("faces")
    images = generator.sample(seed=0, start=0, n=16)  # uint8 [16, 64, 64, 3]

Image i of a seed is the one that `gan-infer` makes.
"""

from ._errors import Error, FileError, ModelError, RuntimeUnavailable, UsageError
from ._ganforge import Batches, Generator, __version__, builtins, load_runtime

__all__ = [
    "Batches",
    "Error",
    "FileError",
    "Generator",
    "ModelError",
    "RuntimeUnavailable",
    "UsageError",
    "__version__",
    "builtins",
    "load_runtime",
]


def _open(model, options):
    """Opens a pickled generator again."""
    return Generator(model, **options)
