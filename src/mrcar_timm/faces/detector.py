"""What a face detector is: a callable from images to boxes, scores and landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np


@dataclass(frozen=True)
class Detections:
    """Faces of one image, largest first.

    Attributes:
        boxes: (N, 4), x1 y1 x2 y2 in pixels.
        scores: (N,), 0…1.
        landmarks: (N, 5, 2) in pixels: eyes, nose, mouth corners, the image's left first.

    Raises:
        ValueError: If they are no such arrays.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray

    def __post_init__(self) -> None:
        shapes = [np.shape(values) for values in (self.boxes, self.scores, self.landmarks)]
        n = len(self.boxes)
        if shapes != [(n, 4), (n,), (n, 5, 2)]:
            raise ValueError(f"expected boxes (N, 4), scores (N,), landmarks (N, 5, 2), got {shapes}")

    def __len__(self) -> int:
        return len(self.boxes)

    def choose(self, which: np.ndarray | slice) -> Detections:
        """Some of the faces, by index or mask."""
        return Detections(self.boxes[which], self.scores[which], self.landmarks[which])

    def largest_first(self) -> Detections:
        """The faces by the area of their boxes."""
        return self.choose((self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).argsort(kind="stable")[::-1])

    @classmethod
    def none(cls) -> Detections:
        """No face."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


class FaceDetector(Protocol):
    """Anything that finds faces in RGB images of type uint8 and shape (H, W, 3).

    The recognizer and the transform give it one image at a time.
    """

    @overload
    def __call__(self, images: np.ndarray) -> Detections: ...

    @overload
    def __call__(self, images: list[np.ndarray]) -> list[Detections]: ...


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M), the parts that boxes (N, 4) and (M, 4) share of their unions."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
