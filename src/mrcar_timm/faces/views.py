"""The ways in which an image is searched: reduced, stretched where it is dark or flat, turned; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..exposure import exposures
from .cascade import nms_by_smaller
from .detector import Detections
from .networks import O_SIDE
from .pyramid import Halves, Resize

# Score that a face in a turned view must have.
_TURNED = 0.9


@dataclass(frozen=True)
class View:
    """An image as it is searched.

    Attributes:
        halves: Its pixels.
        turns: Quarter turns to the left that it was turned by.
        scale: Width and height of the image over those of the view before it was turned.
    """

    halves: Halves
    turns: int
    scale: np.ndarray

    def to_image(self, found: Detections) -> Detections:
        """Faces of the view in the coordinates of the image."""
        width, height = self.halves.width, self.halves.height
        points = np.concatenate([found.boxes.reshape(-1, 2, 2), found.landmarks], 1)  # (N, 7, 2)
        for _ in range(self.turns):
            points = np.stack([height - points[..., 1], points[..., 0]], -1)
            width, height = height, width
        points = points * self.scale
        corners = points[:, :2]
        boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
        return Detections(boxes.astype(np.float32), found.scores, points[:, 2:].astype(np.float32))


def views_of(
    image: np.ndarray, resize: Resize, max_side: int, any_angle: bool = False, stretch: bool = True
) -> list[View]:
    """The views in which an image (H, W, 3) of type uint8 is searched.

    Args:
        image: The image.
        resize: Resizes images.
        max_side: Longest side of a view in pixels.
        any_angle: Turn it by a quarter, a half and three quarters, too.
        stretch: If it is dark or flat, search it stretched, see :func:`~mrcar_timm.exposure.exposures`.
    """
    height, width = image.shape[:2]
    reduction = max(1.0, max(height, width) / max_side)
    if reduction > 1:
        size = (max(1, round(width / reduction)), max(1, round(height / reduction)))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    scale = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
    images = exposures(image) if stretch else [image]
    turns = range(4 if any_angle else 1)
    return [View(Halves(np.rot90(each, k), O_SIDE, resize), k, scale) for each in images for k in turns]


def merged(views: Sequence[View], found: Sequence[Detections]) -> Detections:
    """Merge what was found in the views of an image: each face once, from the view in which it is upright."""
    # Three more searches invent three times as many faces.
    found = [
        faces.choose(faces.scores > _TURNED) if view.turns else faces for view, faces in zip(views, found, strict=True)
    ]
    every = [view.to_image(faces) for view, faces in zip(views, found, strict=True)]
    if len(every) == 1:
        return every[0]
    boxes = np.concatenate([faces.boxes for faces in every])
    scores = np.concatenate([faces.scores for faces in every])
    landmarks = np.concatenate([faces.landmarks for faces in every])
    # Most faces are sure in several views; boxes are best where the face is upright.
    rank = scores + np.concatenate([_cosines(faces.landmarks) for faces in found])
    keep = nms_by_smaller(boxes, rank, np.zeros(len(boxes), int), 0.6, 0)
    return Detections(boxes, scores, landmarks).choose(keep).largest_first()


def _cosines(landmarks: np.ndarray) -> np.ndarray:
    """Cosines (N,) of the angles that faces are turned by."""
    eyes = landmarks[:, 1] - landmarks[:, 0]
    return eyes[:, 0] / np.linalg.norm(eyes, axis=1).clip(1e-6)
