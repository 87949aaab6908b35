"""Finds the library of the onnxruntime package, whose import it does not need."""

import importlib.util
import os
import re

_LIBRARY = re.compile(r"(?:lib)?onnxruntime(?:\.so(?:\.[0-9.]+)?|(?:\.[0-9.]+)?\.dylib|\.dll)")


def find():
    """The path of the library, or None where the package or the library in it is missing."""
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except (ImportError, ValueError):
        return None
    for folder in (spec and spec.submodule_search_locations) or ():
        folder = os.path.join(folder, "capi")
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            if _LIBRARY.fullmatch(name):
                return os.path.join(folder, name)
    return None
