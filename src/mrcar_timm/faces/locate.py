"""Locate the faces of an image, be it a photo or a tight face crop, from what is known already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..regions.geometry import corners, similarity_from_landmarks, template_landmarks
from .detector import Detections, FaceDetector
from .mtcnn import TIGHT_CROP_SIDE, MTCNNDetector

MISSING = ("raise", "full_image", "none")

# What a face in a crop of it keeps to: its centre within so much of the crop's, its height at least so much of the
# crop's, and the cosine of its turn at least this.
_OFF_CENTRE, _FILLED, _UPRIGHT = 0.2, 0.45, 0.5


@dataclass(frozen=True)
class Located:
    """Faces of an image, and how their landmarks were found.

    Attributes:
        faces: Boxes, scores, landmarks.
        sources: One a face: "detector"; "crop" where the whole image is a tight face crop; "box" or
            "landmarks" where the caller gave these; "template" where nothing was found and the template lies
            over a box or over the image's central square.
    """

    faces: Detections
    sources: tuple[str, ...]


def check_missing(missing: str) -> str:
    """Return the policy.

    Raises:
        ValueError: If there is no such policy.
    """
    if missing not in MISSING:
        raise ValueError(f"missing must be one of {MISSING}, got {missing!r}")
    return missing


def locate_faces(images: list[np.ndarray], detector: FaceDetector, largest: bool = False) -> list[Located]:
    """Find the faces of RGB images (H, W, 3), uint8, of any sizes.

    An image of at most 128 pixels a side may be a tight face crop, in which a detector made for photos finds less. It
    is taken for one unless the detector finds several faces in it, or one that does not fill it.

    Args:
        images: Images.
        detector: Finds faces.
        largest: Look for the largest face of each image only.
    """
    if not isinstance(detector, MTCNNDetector):
        every = [_found(detector, image) for image in images]
        return [_located(faces.choose(slice(1)) if largest else faces, "detector") for faces in every]
    small = [max(image.shape[:2]) <= TIGHT_CROP_SIDE for image in images]
    # In small images all faces are looked for: how many there are decides what the image is.
    searched = [k for k in range(len(images)) if small[k] or not largest]
    found: dict[int, Detections] = dict(zip(searched, detector([images[k] for k in searched]), strict=True))
    located: list[Located] = []
    for k, image in enumerate(images):
        faces = found[k] if k in found else detector.largest(image)
        crop = _crop(image, faces, detector) if small[k] else None
        located.append(crop or _located(faces.choose(slice(1)) if largest else faces, "detector"))
    return located


def _crop(image: np.ndarray, found: Detections, detector: MTCNNDetector) -> Located | None:
    """The face that a small image is a crop of, given what the detector finds in it; None if it is none."""
    size = np.array(image.shape[1::-1])
    if len(found) > 1:
        return None
    if len(found):
        low, high = found.boxes[0, :2] / size, found.boxes[0, 2:] / size
        frame = similarity_from_landmarks(found.landmarks)[0]
        turned = frame[0, 0] < _UPRIGHT * np.linalg.norm(frame[:2, 0])
        if turned or (np.abs((low + high) / 2 - 0.5) > _OFF_CENTRE).any() or high[1] - low[1] < _FILLED:
            return None
    landmarks, sources = detector.landmarks_of_crops(image[None])
    if not sources[0] or (not len(found) and not detector.upright(image, landmarks)[0]):
        return None
    return _located(_whole_image(image, landmarks), "crop")


def _found(detector: FaceDetector, image: np.ndarray) -> Detections:
    found = detector(image)
    if not isinstance(found, Detections):
        raise TypeError(f"a detector gives Detections for an image, not {type(found).__name__}")
    return found.largest_first()


def locate_in_boxes(image: np.ndarray, boxes: np.ndarray, detector: MTCNNDetector) -> Located:
    """Faces in boxes (N, 4), x1 y1 x2 y2, that the caller knows: a face a box, in the same order."""
    found = detector.in_boxes(image, boxes)
    seen = ~np.isnan(found.scores)
    landmarks = found.landmarks.copy()
    for row in np.flatnonzero(~seen):
        landmarks[row] = template_landmarks(*(boxes[row, 2:] - boxes[row, :2])) + boxes[row, :2]
    return Located(Detections(boxes, found.scores, landmarks), tuple(np.where(seen, "box", "template").tolist()))


def locate_by_landmarks(landmarks: np.ndarray, boxes: np.ndarray | None) -> Located:
    """Faces whose landmarks (N, 5, 2) the caller knows; if boxes are not given, they span the canonical frames."""
    if boxes is None:
        places = corners(similarity_from_landmarks(landmarks))  # (N, 4, 2)
        boxes = np.concatenate([places.min(1), places.max(1)], 1).astype(np.float32)
    scores = np.full(len(landmarks), np.nan, np.float32)
    return _located(Detections(boxes, scores, landmarks), "landmarks")


def template_face(image: np.ndarray) -> Located:
    """The whole image taken for an aligned face."""
    height, width = image.shape[:2]
    landmarks = template_landmarks(width, height).astype(np.float32)[None]
    return _located(_whole_image(image, landmarks), "template")


def _located(faces: Detections, source: str) -> Located:
    return Located(faces, (source,) * len(faces))


def _whole_image(image: np.ndarray, landmarks: np.ndarray) -> Detections:
    height, width = image.shape[:2]
    box = np.array([[0, 0, width, height]], np.float32)
    return Detections(box, np.full(1, np.nan, np.float32), landmarks)
