"""Errors that the library and its command line share with training; needs neither torch nor transformers."""


class CheckpointError(ValueError):
    """A model folder or checkpoint that cannot be read or written; the message names the file and how to fix it."""


class DeviceError(ValueError):
    """A device that cannot be used here; the message names it and how to fix it."""


class NumberError(ValueError):
    """A number that is none, or out of bounds; the message is what it must be."""


class ExplainError(ValueError):
    """A page or figure that cannot be made as it was asked for; the message says what is wrong and how to fix it."""


class ExportError(ValueError):
    """A model that cannot be exported or run by an engine as it was asked for; the message says why, and what to do."""
