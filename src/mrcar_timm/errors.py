"""The errors that a user may want to catch."""

from __future__ import annotations

from pathlib import Path


class MRCARError(Exception):
    """Base of every error that the package raises on purpose about a file or an image."""


class ImageError(MRCARError, ValueError):
    """An image that cannot be read or understood. The message names the file and the cause."""


class VideoError(MRCARError, ValueError):
    """A video or camera that cannot be read, or a video that cannot be written. The message names it and the cause."""


class NoFaceError(MRCARError, ValueError):
    """No face was found, and the policy was ``missing="raise"``."""


class WeightsError(MRCARError, RuntimeError):
    """Weights that are missing, damaged or do not fit the network."""


class DamagedWeightsError(WeightsError):
    """A file of weights that is not what was written.

    Attributes:
        path: The file.
        expected: Digest that it should have.
        found: Digest that it has, or why it has none.
    """

    def __init__(self, path: Path, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"{path} is damaged: expected the digest {expected}, found {found}. {remedy}")
        self.path, self.expected, self.found = path, expected, found


class HubError(WeightsError):
    """The Hub, or the network before it, that gives or takes no weights. The message says which and what helps."""


class UnverifiedWeightsWarning(UserWarning):
    """Weights without a digest: they were loaded, but whether they are intact nobody can say."""


class DataError(MRCARError, ValueError):
    """A data set whose layout or content is not what its reader expects."""


class RecipeError(MRCARError, ValueError):
    """A recipe with a setting that does not exist, or with a value that it cannot have."""
