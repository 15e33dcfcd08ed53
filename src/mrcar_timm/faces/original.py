"""The cascade with facenet-pytorch's own pyramid, crops and mapping: slower, for comparison with its results."""

from __future__ import annotations

import sys

import numpy as np

from ..averaging import averaged
from .cascade import Cascade, Found
from .networks import CELL, STRIDE
from .pyramid import Halves


class OriginalCascade(Cascade):
    """Gives what ``facenet_pytorch.MTCNN.detect`` gives, oddities and all.

    Boxes of cells are rounded down, boxes are cut off to whole pixels inside the image for cropping but not
    for mapping back, and pixels are counted from one.
    """

    overlaps = (0.7, 0.7)
    leniency = (1.0, 1.0)
    most_cells = sys.maxsize
    pixel = 1

    def _promising(self, scores: np.ndarray) -> int:
        return len(scores)

    def _cells(
        self, image: Halves, min_face_size: float, threshold: float, factor: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixels = image.levels[0].astype(np.float32)
        scale = CELL / min_face_size
        shorter = min(image.height, image.width) * scale
        found = [(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))]
        while shorter >= CELL:
            size = (int(image.height * scale + 1), int(image.width * scale + 1))
            scores, offsets = self.networks.pnet(_reduced(pixels, *size))
            passed = scores >= threshold
            corners = (np.argwhere(passed)[:, ::-1] * STRIDE).astype(np.float32)
            boxes = np.floor(np.concatenate([(corners + 1) / scale, (corners + CELL) / scale], 1))
            keep = self.networks.nms(boxes, scores[passed], 0.5)
            found.append((boxes[keep], scores[passed][keep], offsets[passed][keep]))
            scale, shorter = scale * factor, shorter * factor
        boxes, scores, offsets = (np.concatenate(x) for x in zip(*found, strict=True))
        return boxes, scores, offsets

    def _rated(self, image: Halves, squares: np.ndarray, again: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return super()._rated(image, squares, again=False)

    def _crops(self, images: list[Halves], squares: np.ndarray, index: np.ndarray, side: int) -> np.ndarray:
        crops = np.zeros((len(squares), side, side, 3), np.float32)
        for crop, box, k in zip(crops, np.trunc(squares).astype(int).tolist(), index.tolist(), strict=True):
            image = images[k]
            x1, y1 = max(box[0], 1) - 1, max(box[1], 1) - 1
            window = image.levels[0][y1 : max(0, min(box[3], image.height)), x1 : max(0, min(box[2], image.width))]
            if window.size:
                crop[:] = _reduced(window.astype(np.float32), side, side)
        return crops

    def _confirmed(self, images: list[Halves], found: Found, threshold: float) -> Found:
        return found


def _reduced(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (H, W, 3) in another size: each pixel the mean of those that it replaces."""
    return averaged(averaged(image, height, axis=0), width, axis=1)
