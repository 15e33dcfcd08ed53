"""Track faces from frame to frame, with expressions smoothed over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .faces.detector import overlaps
from .faces.mtcnn import MTCNNDetector
from .images import ImageLike, to_rgb
from .recognizer import ExpressionRecognizer, Face, face_values
from .regions.cut import cut_regions

# Overlap, in parts of the union, from which two boxes are taken for the same face.
_SAME = 0.2


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
    logarithms: torch.Tensor | None = None


class FaceTracker:
    """Tracks faces through the frames of a video and recognizes their expressions.

    Faces are detected in every n-th frame, and in a frame in which one was lost. In between, the O-Net alone looks
    where they were, which takes a millisecond or two a face. A detector of your own is called in every frame.

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
        if self._until_search <= 0 or not self._follow(image):
            self._search(image, time)
            self._until_search = self.every
        self._until_search -= 1
        return self._recognize(image, time)

    def _follow(self, image: np.ndarray) -> bool:
        """Move the tracks to where their faces went; False if one was lost."""
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
        for track, box, score, landmarks in zip(self._tracks, found.boxes, found.scores, found.landmarks, strict=True):
            track.box, track.score, track.landmarks = box, float(score), landmarks
        return True

    def _search(self, image: np.ndarray, time: float) -> None:
        (located,) = self.recognizer.locate([image])
        faces = located.faces
        known = [*self._tracks, *(track for track in self._lost if time - track.seen <= self.memory)]
        shared = overlaps(np.array([track.box for track in known]).reshape(-1, 4), faces.boxes)
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
                track = _Track(self._numbers, box, score, landmarks, "", time)
            track.box, track.score, track.landmarks, track.source = box, float(score), landmarks, located.sources[k]
            self._tracks.append(track)
        self._tracks.sort(key=lambda track: track.number)
        numbers = {track.number for track in self._tracks}
        self._lost = [track for track in known if track.number not in numbers]

    def _recognize(self, image: np.ndarray, time: float) -> list[TrackedFace]:
        if not self._tracks:
            return []
        network = self.recognizer.network
        landmarks = np.stack([track.landmarks for track in self._tracks])
        regions = cut_regions(image, landmarks, network.model.regions, network.size)
        now = self.recognizer.probabilities(regions).clamp(min=1e-6).log()
        faces = []
        for track, logarithms in zip(self._tracks, now, strict=True):
            if track.logarithms is not None and self.smoothing:
                old = math.exp(-max(0.0, time - track.seen) / self.smoothing)
                logarithms = old * track.logarithms + (1 - old) * logarithms
            track.logarithms, track.seen = logarithms, time
            values = face_values(
                track.box, track.score, track.landmarks, track.source, logarithms.softmax(0).tolist(), network.labels
            )
            faces.append(TrackedFace(number=track.number, **values))
        return faces
