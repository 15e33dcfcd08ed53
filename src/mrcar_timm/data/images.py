"""A labelled set of small pictures, in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class ImageSet:
    """Pictures of one size with their labels.

    Attributes:
        images: (N, H, W), uint8, grey.
        labels: (N,), int64, indices into ``classes``.
        classes: Names of the expressions.
        names: (N,), where each picture came from.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def select(self, keep: np.ndarray) -> ImageSet:
        """The pictures that a mask or an index array picks."""
        return replace(self, images=self.images[keep], labels=self.labels[keep], names=self.names[keep])

    def counts(self) -> dict[str, int]:
        """Number of pictures a class."""
        return dict(zip(self.classes, np.bincount(self.labels, minlength=len(self.classes)).tolist(), strict=True))

    def digest(self) -> str:
        """SHA-256 over pixels and labels, in hex."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def contained_in(images: ImageSet, others: ImageSet) -> np.ndarray:
    """Mask (N,) of the pictures that stand, pixel for pixel, among the others."""
    known = {image.tobytes() for image in others.images}
    return np.array([image.tobytes() in known for image in images.images], dtype=bool)
