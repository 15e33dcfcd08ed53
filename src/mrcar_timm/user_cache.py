"""Where the package keeps what it would compute again, and what happens where nothing can be kept."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CacheWarning(UserWarning):
    """Something cannot be kept, and will be computed again the next time."""


def user_cache() -> Path:
    """Folder of this package in the user's cache; in the system's temporary folder where the user has no home."""
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("mrcar_timm")
        if folder.is_absolute():
            return folder
    except RuntimeError:  # newer releases of platformdirs say so where there is no home, others give a relative path
        pass
    return Path(tempfile.gettempdir(), "mrcar_timm")


@contextmanager
def optional(what: str, folder: Path) -> Iterator[None]:
    """Go on with a :class:`CacheWarning` where a file of a cache cannot be written.

    Args:
        what: What is not kept then.
        folder: The cache.
    """
    try:
        yield
    except OSError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.strerror or error
        warnings.warn(
            f"{what} cannot be kept in {folder} ({reason}); set XDG_CACHE_HOME to a place that can be written",
            CacheWarning,
            stacklevel=4,
        )
