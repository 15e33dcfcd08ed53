"""The face path against facenet-pytorch's own, on the same pictures, in one run, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .pictures import to_rgb
from .regions.cut import cut_regions
from .regions.detector import Detections, overlaps
from .regions.mtcnn import MTCNNDetector

SIZES = ((640, 480), (1280, 720), (1920, 1080))
_MIN_FACE = 20
_SAME = 0.4


@dataclass(frozen=True)
class FaceTiming:
    """One picture in one size.

    Attributes:
        picture: Its name.
        size: Width×height.
        search: "all faces" or "main face".
        facenet_ms: ``facenet_pytorch.MTCNN.detect(landmarks=True)``, which has no search for the main face alone.
        ours_ms: Boxes, landmarks and regions.
        facenet_faces, our_faces: How many were found.
        only_facenet, only_ours: Faces that the other has not found; of the main face: whether it is none of
            facenet-pytorch's.
    """

    picture: str
    size: str
    search: str
    facenet_ms: float
    ours_ms: float
    facenet_faces: int
    our_faces: int
    only_facenet: int
    only_ours: int

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.facenet_ms / self.ours_ms


def time_faces(pictures: Iterable[Path], repeats: int = 7) -> Iterator[FaceTiming]:
    """Time both on pictures, each fitted to 640×480, 1280×720 and 1920×1080 pixels.

    Each time is the median over repetitions in which all take their turn.

    Args:
        pictures: Files.
        repeats: Repetitions.
    """
    from facenet_pytorch import MTCNN

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        facenet = MTCNN(keep_all=True, min_face_size=_MIN_FACE)
        ours = MTCNNDetector(min_face_size=_MIN_FACE)
        for file in pictures:
            photo = Image.fromarray(to_rgb(file))
            for size in SIZES:
                image = np.asarray(ImageOps.fit(photo, size, Image.Resampling.LANCZOS, centering=(0.5, 0.25)))
                yield from _time_one(file.name, image, facenet, ours, repeats)
    finally:
        torch.set_num_threads(threads)


def _time_one(
    name: str, image: np.ndarray, facenet: Any, ours: MTCNNDetector, repeats: int
) -> Iterator[FaceTiming]:
    def every() -> Detections:
        found = ours(image)
        cut_regions(image, found.landmarks)
        return found

    def main() -> Detections:
        found = ours.largest(image)
        cut_regions(image, found.landmarks)
        return found

    def theirs() -> Any:
        return facenet.detect(image, landmarks=True)

    calls: dict[str, Callable[[], Any]] = {"facenet": theirs, "all faces": every, "main face": main}
    times: dict[str, list[float]] = {key: [] for key in calls}
    results: dict[str, Any] = {key: call() for key, call in calls.items()}  # warms up, too
    for _ in range(repeats):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            times[key].append((time.perf_counter() - start) * 1000)
    boxes = results["facenet"][0]
    boxes = np.zeros((0, 4)) if boxes is None else boxes.astype(np.float64)
    for key in ("all faces", "main face"):
        same = overlaps(results[key].boxes, boxes) > _SAME
        yield FaceTiming(
            picture=name,
            size=f"{image.shape[1]}×{image.shape[0]}",
            search=key,
            facenet_ms=median(times["facenet"]),
            ours_ms=median(times[key]),
            facenet_faces=len(boxes),
            our_faces=len(results[key]),
            only_facenet=int((~same.any(0)).sum()) if key == "all faces" else int(len(boxes) > 0 and not len(same)),
            only_ours=int((~same.any(1)).sum()),
        )
