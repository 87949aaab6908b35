"""What can go wrong. Each message says what, where, what was expected, and how to mend it."""


class Error(Exception):
    """Any error of ganforge's."""


class UsageError(Error, ValueError):
    """The call is wrong: a name, a value, a shape."""


class FileError(Error, OSError):
    """The operating system refused a file."""


class ModelError(Error, ValueError):
    """A model is damaged, is no generator, or gives something that is no image."""


class RuntimeUnavailable(Error, RuntimeError):
    """There is no usable onnxruntime, or no provider of the kind asked for."""


for _error in (Error, UsageError, FileError, ModelError, RuntimeUnavailable):
    _error.__module__ = "ganforge"
