"""Where the package keeps what it would compute again."""

from __future__ import annotations

from pathlib import Path


def user_cache() -> Path:
    """Folder of this package in the user's cache."""
    from platformdirs import user_cache_path

    return user_cache_path("mrcar_timm")
