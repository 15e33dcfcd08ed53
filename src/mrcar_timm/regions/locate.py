"""Faces of a picture, whether it is a photo or a tight face crop already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .detector import Detections, FaceDetector
from .geometry import template_landmarks
from .mtcnn import TIGHT_CROP_SIDE, MTCNNDetector

MISSING = ("raise", "full_image", "none")


@dataclass(frozen=True)
class Located:
    """Faces, and how their landmarks were found.

    Attributes:
        faces: Boxes, scores, landmarks.
        source: "detector"; "crop" where the whole picture is taken for a face crop; "template" where
            nothing was found and the template lies over the picture's central square.
    """

    faces: Detections
    source: str


def check_missing(missing: str) -> str:
    """Return the policy.

    Raises:
        ValueError: If there is no such policy.
    """
    if missing not in MISSING:
        raise ValueError(f"missing must be one of {MISSING}, got {missing!r}")
    return missing


def locate_faces(image: np.ndarray, detector: FaceDetector) -> Located:
    """Find the faces of an RGB picture (H, W, 3), uint8.

    A picture of at most 128 pixels a side is first taken for a tight face crop, in which a detector
    made for photos finds less.
    """
    height, width = image.shape[:2]
    if max(height, width) <= TIGHT_CROP_SIDE and isinstance(detector, MTCNNDetector):
        landmarks, sources = detector.landmarks_of_crops(image[None])
        if sources[0]:
            return Located(_whole_picture(width, height, landmarks), "crop")
    return Located(detector(image), "detector")


def template_face(image: np.ndarray) -> Located:
    """The whole picture taken for an aligned face."""
    height, width = image.shape[:2]
    landmarks = template_landmarks(width, height).numpy().astype(np.float32)[None]
    return Located(_whole_picture(width, height, landmarks), "template")


def _whole_picture(width: int, height: int, landmarks: np.ndarray) -> Detections:
    box = np.array([[0, 0, width, height]], np.float32)
    return Detections(box, np.full(1, np.nan, np.float32), landmarks)
