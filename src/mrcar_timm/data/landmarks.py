"""Landmarks of a data set of face crops: found once, kept in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..faces.mtcnn import MTCNNDetector
from ..output import replacing
from ..regions.geometry import template_landmarks
from ..user_cache import optional, user_cache

_VERSION = 2  # raise when the search gives other landmarks for the same images


@dataclass(frozen=True)
class LandmarkSet:
    """Landmarks of images.

    Attributes:
        points: (N, 5, 2), float32, in pixels.
        sources: (N,): "onet", "cascade", or "template" where no face was found.
    """

    points: np.ndarray
    sources: np.ndarray

    def counts(self) -> dict[str, int]:
        """How many came from where."""
        return {name: int((self.sources == name).sum()) for name in ("onet", "cascade", "template")}


def cache_beside(path: Path) -> Path | None:
    """Folder beside a data set for its landmarks; None where nothing can be written."""
    folder = path if path.is_dir() else path.parent
    return folder / ".mrcar-cache" if os.access(folder, os.W_OK) else None


def find_landmarks(
    images: np.ndarray,
    cache: Path | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> LandmarkSet:
    """Landmarks of tight face crops, from the cache if they are in it.

    The file's name is a digest of the images and the detector's settings; a damaged file is written again. Where none
    can be written, a :class:`~mrcar_timm.user_cache.CacheWarning` says so.

    Args:
        images: (N, H, W) grey or (N, H, W, 3) RGB, uint8.
        cache: Folder for the file; the user's cache folder if None.
        track: Wrapper of the loop over chunks, for a progress bar.
    """
    detector = MTCNNDetector()
    digest = hashlib.sha256(json.dumps([_VERSION, images.shape, detector.settings]).encode())
    digest.update(np.ascontiguousarray(images).data)
    folder = cache or user_cache()
    file = folder / f"landmarks-{digest.hexdigest()[:20]}.npz"
    try:
        with np.load(file, allow_pickle=False) as stored:
            if stored["points"].shape == (len(images), 5, 2):
                return LandmarkSet(stored["points"], stored["sources"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass

    points = np.empty((len(images), 5, 2), np.float32)
    sources = np.empty(len(images), dtype="<U8")
    chunk = 512
    for start in track(range(0, len(images), chunk)):
        rows = slice(start, start + chunk)
        crops = images[rows] if images.ndim == 4 else np.repeat(images[rows, :, :, None], 3, axis=3)
        points[rows], sources[rows] = detector.landmarks_of_crops(crops)
    missing = sources == ""
    points[missing] = template_landmarks(images.shape[2], images.shape[1])
    sources[missing] = "template"

    with optional("landmarks", folder), replacing(file) as partial, open(partial, "wb") as out:
        np.savez(out, points=points, sources=sources)
    return LandmarkSet(points, sources)
