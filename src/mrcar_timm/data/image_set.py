"""A labelled set of small images, in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Images of one size with their labels.

    Attributes:
        images: (N, H, W) grey or (N, H, W, 3) RGB, uint8.
        labels: (N,), int64, indices into ``classes``.
        classes: Names of the expressions.
        names: (N,), where each image came from.
        targets: (N, K), float32, probabilities of the classes where annotators disagree; None where each
            image has one label.
        subjects: (N,), who is shown, where the data set says so.
        landmarks: (N, 5, 2), float32, in pixels, where they are known already.
        weights: (N,), float32, how often an image is drawn in training, against the others; None for all alike.
        title: Name of a user's data set.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    names: np.ndarray
    targets: np.ndarray | None = None
    subjects: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    weights: np.ndarray | None = None
    title: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return 1 if self.images.ndim == 3 else 3

    def select(self, keep: np.ndarray) -> ImageSet:
        """The images that a mask or an index array picks."""
        arrays = [each.name for each in fields(self) if isinstance(getattr(self, each.name), np.ndarray)]
        chosen: dict[str, Any] = {name: getattr(self, name)[keep] for name in arrays}
        return replace(self, **chosen)

    def of_classes(self, classes: tuple[str, ...]) -> ImageSet:
        """The images with one of these labels, which then count in this order.

        Raises:
            DataError: If there is no such class.
        """
        unknown = [name for name in classes if name not in self.classes]
        if unknown:
            raise DataError(f"no class {unknown[0]!r}; there are {', '.join(self.classes)}")
        index = np.full(len(self.classes), -1)
        index[[self.classes.index(name) for name in classes]] = np.arange(len(classes))
        part = self.select(index[self.labels] >= 0)
        return replace(part, labels=index[part.labels], classes=classes, targets=None)

    def counts(self) -> dict[str, int]:
        """Number of images a class."""
        return dict(zip(self.classes, np.bincount(self.labels, minlength=len(self.classes)).tolist(), strict=True))

    def digest(self) -> str:
        """SHA-256 over pixels and labels, in hex."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").tobytes())
        if self.targets is not None:
            digest.update(self.targets.astype("<f4").tobytes())
        if self.weights is not None:
            digest.update(self.weights.astype("<f4").tobytes())
        return digest.hexdigest()


def contained_in(images: ImageSet, others: ImageSet) -> np.ndarray:
    """Mask (N,) of the images that stand, pixel for pixel, among the others."""
    known = {image.tobytes() for image in others.images}
    return np.array([image.tobytes() in known for image in images.images], dtype=bool)


def repeated(images: ImageSet) -> np.ndarray:
    """Mask (N,) of the images that stand, pixel for pixel, earlier in the same set."""
    seen: set[bytes] = set()
    mask = np.zeros(len(images), dtype=bool)
    for index, image in enumerate(images.images):
        key = image.tobytes()
        mask[index] = key in seen
        seen.add(key)
    return mask
