"""The errors that a user may want to catch."""

from __future__ import annotations


class MRCARError(Exception):
    """Base of every error that the package raises on purpose about a file or a picture."""


class ImageError(MRCARError, ValueError):
    """A picture that cannot be read or understood. The message names the file and the cause."""


class VideoError(MRCARError, ValueError):
    """A video or camera that cannot be read, or a video that cannot be written. The message names it and the cause."""


class NoFaceError(MRCARError, ValueError):
    """No face was found, and the policy was ``missing="raise"``."""


class WeightsError(MRCARError, RuntimeError):
    """Weights that are missing, damaged or do not fit the network."""


class DataError(MRCARError, ValueError):
    """A data set whose layout or content is not what its reader expects."""


class RecipeError(MRCARError, ValueError):
    """A recipe with a setting that does not exist, or with a value that it cannot have."""
