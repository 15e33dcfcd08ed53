"""The errors that a user may want to catch."""

from __future__ import annotations

from pathlib import Path


class MRCARError(Exception):
    """Base of every error that the package raises on purpose about a file or an image."""


class ImageError(MRCARError, ValueError):
    """An image cannot be read or understood. The message names the file and the cause."""


class VideoError(MRCARError, ValueError):
    """A video or camera cannot be read, or a video cannot be written. The message names it and the cause."""


class NoFaceError(MRCARError, ValueError):
    """No face was found, and the policy was ``missing="raise"``."""


class WeightsError(MRCARError, RuntimeError):
    """Weights are missing, damaged, or do not fit the network."""


class DamagedWeightsError(WeightsError):
    """A file of weights is not what was written.

    Attributes:
        path: The file.
        expected: Digest that it should have.
        found: Digest that it has, or why it has none.
    """

    def __init__(self, path: Path, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"{path} is damaged: expected the digest {expected}, found {found}. {remedy}")
        self.path, self.expected, self.found = path, expected, found


class HubError(WeightsError):
    """The Hub refuses, or cannot be reached. The message says what to do."""


class UnverifiedWeightsWarning(UserWarning):
    """Weights without a digest were loaded: their integrity could not be checked."""


class ExportError(MRCARError, RuntimeError):
    """A network cannot be exported, or an exported one not be run or explained. The message says why."""


class OutputError(MRCARError, OSError):
    """A file cannot be written, or would be written over what is read. The message names it and the cause."""


class DeviceError(MRCARError, ValueError):
    """There is no such device, or PyTorch cannot use it here. The message says which it can."""


class DataError(MRCARError, ValueError):
    """Layout or content of a data set are not what its reader expects."""


class RecipeError(MRCARError, ValueError):
    """A recipe has a setting that does not exist, or a value that it cannot have."""
