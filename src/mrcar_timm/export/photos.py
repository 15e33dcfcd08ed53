"""The faces of a user's photos, to calibrate with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import ExportError, ImageError
from ..images import find_images
from ..network import Network
from ..progress import Progress, silent
from ..recognizer import ExpressionRecognizer

# Fewer faces say little about which values occur.
_FEWEST = 20


def regions_of_photos(network: Network, images: Sequence[Path], progress: Progress = silent) -> np.ndarray:
    """Regions (N, R, C, h, w), normalized, of all faces in photos.

    Args:
        network: They are for it.
        images: Photos, and folders of photos. Those that cannot be read are left out.
        progress: Wrapper of the loop over them.

    Raises:
        ExportError: If there are few faces in them.
    """
    recognizer = ExpressionRecognizer(network.model)
    files = [file for path in images for file in (find_images(path).files if path.is_dir() else [path])]
    regions = [np.zeros((0, len(network.regions), network.in_chans, *network.size), np.float32)]
    for file in progress(files, "faces", len(files)):
        with suppress(ImageError):
            regions.append(recognizer.regions(file))
    every = np.concatenate(regions)
    if len(every) < _FEWEST:
        raise ExportError(f"{len(every)} faces in {len(files)} photos; {_FEWEST} at least show what values occur")
    return every
