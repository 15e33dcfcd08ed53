"""Track faces from frame to frame, with expressions smoothed over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .faces.detector import overlaps
from .faces.mtcnn import MTCNNDetector
from .images import ImageLike, to_rgb
from .recognizer import ExpressionRecognizer, Face, face_values, softmax
from .regions.cut import cut_regions

# Overlap, in parts of the union, from which two boxes are taken for the same face.
_SAME = 0.2

# Correlation of looks below which two faces in one place are two people, right after each other and after a second.
# results/looks.json: of pairs of people 99.9 % are below 0.85 in FER2013, and 89 % below 0.87 in CK+, where all sit in
# the same light; there 99 % of frames in a row are above 0.99, and 94 % of one person's other expressions above 0.8.
_ALIKE, _ALIKE_LATER = 0.87, 0.75
# Side in pixels of the face that is compared, and part of the newest look in the one that is kept.
_LOOK, _NEWEST = 11, 0.3


@dataclass(frozen=True)
class TrackedFace(Face):
    """A face of a frame, and which face it is.

    Attributes:
        number: The same in every frame in which the face is followed; counted from 1.
    """

    number: int

    @property
    def label(self) -> str:
        return f"{self.number} {super().label}"

    def to_dict(self) -> dict[str, Any]:
        return {"number": self.number, **super().to_dict()}


@dataclass
class _Track:
    number: int
    box: np.ndarray
    score: float
    landmarks: np.ndarray
    source: str
    seen: float
    look: np.ndarray
    logarithms: np.ndarray | None = None


class FaceTracker:
    """Tracks faces through the frames of a video and recognizes their expressions.

    Faces are detected in every n-th frame, and in a frame in which one was lost. In between, the O-Net alone looks
    where they were, which takes a millisecond or two a face. A detector of your own is called in every frame.

    A face keeps its number while it stays in place and looks the same. After a cut to another person there is a new
    number, and smoothing starts over.

    Args:
        recognizer: Its network, detector and choice of faces are used.
        every: Detect faces in every n-th frame.
        smoothing: Time in seconds over which a face's probabilities are averaged, exponentially and by their
            logarithms; 0 takes each frame by itself.
        memory: Time in seconds for which a face that was lost keeps its number.

    Example:
        >>> tracker = FaceTracker(ExpressionRecognizer())
        >>> tracker(np.zeros((480, 640, 3), np.uint8), time=0.0)
        []
    """

    def __init__(
        self, recognizer: ExpressionRecognizer, every: int = 10, smoothing: float = 0.5, memory: float = 1.0
    ) -> None:
        if every < 1 or smoothing < 0 or memory < 0:
            raise ValueError(f"expected every ≥ 1, smoothing ≥ 0, memory ≥ 0, got {every}, {smoothing}, {memory}")
        self.recognizer = recognizer
        self.every = every
        self.smoothing = smoothing
        self.memory = memory
        self._tracks: list[_Track] = []
        self._lost: list[_Track] = []
        self._until_search = 0
        self._numbers = 0

    def __call__(self, frame: ImageLike, time: float) -> list[TrackedFace]:
        """Faces of the next frame, by number.

        Args:
            frame: An image, of the size of the frames before.
            time: When it was taken, in seconds, later than the frame before.

        Raises:
            ImageError: If the frame is no image.
        """
        image = to_rgb(frame)
        if self._until_search <= 0 or not self._follow(image, time):
            self._search(image, time)
            self._until_search = self.every
        self._until_search -= 1
        return self._recognize(image, time)

    def _follow(self, image: np.ndarray, time: float) -> bool:
        """Move the tracks to where their faces went; False if one was lost or replaced by another."""
        detector = self.recognizer.detector
        if not isinstance(detector, MTCNNDetector):
            return False
        if not self._tracks:
            return True
        found = detector.follow(image, np.stack([track.landmarks for track in self._tracks]))
        shared = overlaps(found.boxes, found.boxes)
        merged = (shared - np.eye(len(found)) > _SAME).any()
        if merged or not (found.scores > detector.thresholds[-1]).all():
            return False
        looks = looks_of(image, found.landmarks)
        if not _alike(self._tracks, looks, time).diagonal().all():
            return False
        for k, track in enumerate(self._tracks):
            track.box, track.score, track.landmarks = found.boxes[k], float(found.scores[k]), found.landmarks[k]
            track.look = _NEWEST * looks[k] + (1 - _NEWEST) * track.look
        return True

    def _search(self, image: np.ndarray, time: float) -> None:
        (located,) = self.recognizer.locate([image])
        faces = located.faces
        known = [*self._tracks, *(track for track in self._lost if time - track.seen <= self.memory)]
        looks = looks_of(image, faces.landmarks)
        shared = overlaps(np.array([track.box for track in known]).reshape(-1, 4), faces.boxes)
        shared = shared * _alike(known, looks, time)
        owners: dict[int, _Track] = {}
        while shared.size and shared.max() > _SAME:  # the most alike first
            i, k = divmod(int(shared.argmax()), shared.shape[1])
            owners[k] = known[i]
            shared[i], shared[:, k] = 0, 0
        self._tracks = []
        for k, (box, score, landmarks) in enumerate(zip(faces.boxes, faces.scores, faces.landmarks, strict=True)):
            track = owners.get(k)
            if track is None:
                self._numbers += 1
                track = _Track(self._numbers, box, score, landmarks, "", time, looks[k])
            track.box, track.score, track.landmarks, track.source = box, float(score), landmarks, located.sources[k]
            track.look = _NEWEST * looks[k] + (1 - _NEWEST) * track.look
            self._tracks.append(track)
        self._tracks.sort(key=lambda track: track.number)
        numbers = {track.number for track in self._tracks}
        self._lost = [track for track in known if track.number not in numbers]

    def _recognize(self, image: np.ndarray, time: float) -> list[TrackedFace]:
        if not self._tracks:
            return []
        network = self.recognizer.network
        landmarks = np.stack([track.landmarks for track in self._tracks])
        regions = cut_regions(image, landmarks, network.regions, network.size)
        now = np.log(self.recognizer.probabilities(regions).clip(min=1e-6))
        size = (image.shape[1], image.shape[0])
        faces = []
        for track, logarithms in zip(self._tracks, now, strict=True):
            if track.logarithms is not None and self.smoothing:
                old = math.exp(-max(0.0, time - track.seen) / self.smoothing)
                logarithms = old * track.logarithms + (1 - old) * logarithms
            track.logarithms, track.seen = logarithms, time
            probabilities = softmax(logarithms).tolist()
            place = (track.box, track.score, track.landmarks, track.source)
            values = face_values(*place, probabilities, self.recognizer.labels, size)
            faces.append(TrackedFace(number=track.number, **values))
        return faces


def looks_of(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Faces upright and small, as vectors whose inner product is their correlation, whatever the light.

    Args:
        image: RGB, uint8, (H, W, 3).
        landmarks: (N, 5, 2) in pixels.

    Returns:
        (N, D), float32, of mean 0 and length 1.
    """
    if not len(landmarks):
        return np.zeros((0, 3 * _LOOK**2), np.float32)
    faces = cut_regions(image, landmarks, ("face",), (2 * _LOOK, 2 * _LOOK))[:, 0]
    looks = faces.reshape(len(faces), 3, _LOOK, 2, _LOOK, 2).mean((3, 5)).reshape(len(faces), -1)
    looks -= looks.mean(1, keepdims=True)
    return looks / np.linalg.norm(looks, axis=1, keepdims=True).clip(min=1e-12)


def _alike(tracks: Sequence[_Track], looks: np.ndarray, time: float) -> np.ndarray:
    """Which tracks (rows) look like which faces (columns)."""
    if not len(tracks):
        return np.zeros((0, len(looks)), bool)
    kept = np.stack([track.look / max(1e-6, float(np.linalg.norm(track.look))) for track in tracks])
    ages = np.array([min(1.0, max(0.0, time - track.seen)) for track in tracks])
    return kept @ looks.T >= (_ALIKE + (_ALIKE_LATER - _ALIKE) * ages)[:, None]
