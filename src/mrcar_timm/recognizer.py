"""Photo in, faces with their expressions out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from .errors import MRCARError, NoFaceError
from .models.checkpoints import INPUT_MEAN, INPUT_STD, LUMA
from .models.loading import load_network
from .pictures import Picture, to_rgb
from .regions.cut import cut_regions
from .regions.detector import FaceDetector
from .regions.locate import check_missing, locate_faces, template_face
from .regions.mtcnn import MTCNNDetector


class ColorOrderWarning(UserWarning):
    """A face that is bluer than red: the array is probably BGR, as OpenCV reads pictures."""


@dataclass(frozen=True)
class Face:
    """A face and what it expresses.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        landmarks: Five (x, y) in pixels: eyes, nose, mouth corners, the picture's left first.
        score: The detector's, 0…1; None where the whole picture was taken for the face.
        expression: The likeliest expression.
        probability: Its probability, calibrated on the validation split.
        probabilities: Of every expression, by name.
        source: Where the landmarks came from: "detector", "crop" (the picture is a tight face crop) or
            "template" (no face was found, and ``missing="full_image"`` asked to go on).
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    score: float | None
    expression: str
    probability: float
    probabilities: dict[str, float]
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "box": [round(v, 1) for v in self.box],
            "expression": self.expression,
            "probability": round(self.probability, 4),
            "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
            "landmarks": [[round(x, 1), round(y, 1)] for x, y in self.landmarks],
            "score": None if self.score is None else round(self.score, 4),
            "source": self.source,
        }


class ExpressionRecognizer:
    """Finds faces in pictures and names their expressions.

    An expression is what a face shows, not what a person feels.

    Args:
        model: Name of a network, a run folder, or a module; the packaged weights if None.
        detector: Finds faces; MTCNN if None.
        missing: What to do where no face is found: "none" gives an empty list, "raise" a
            :class:`~mrcar_timm.NoFaceError`, "full_image" takes the picture for an aligned face.
        device: Where networks run.
        batch_size: Faces that go through the network at once.

    Raises:
        WeightsError: If the network's weights are missing or damaged.

    Example:
        >>> recognizer = ExpressionRecognizer()
        >>> recognizer(np.zeros((64, 64, 3), np.uint8))
        []
    """

    def __init__(
        self,
        model: str | Path | nn.Module | None = None,
        detector: FaceDetector | None = None,
        missing: str = "none",
        device: torch.device | str = "cpu",
        batch_size: int = 64,
    ) -> None:
        self.network = load_network(model, device)
        self.device = torch.device(device)
        self.detector = detector if detector is not None else MTCNNDetector(device=device)
        self.missing = check_missing(missing)
        self.batch_size = batch_size

    @overload
    def __call__(self, pictures: list[Picture]) -> list[list[Face]]: ...

    @overload
    def __call__(self, pictures: Picture) -> list[Face]: ...

    def __call__(self, pictures: Picture | list[Picture]) -> list[Face] | list[list[Face]]:
        """Faces of a picture, largest first; or of each picture of a list, in order.

        Raises:
            ImageError: If a picture cannot be read.
            NoFaceError: If no face is found and ``missing`` is "raise".
        """
        if isinstance(pictures, (list, tuple)):
            return [self._recognize(picture) for picture in pictures]
        return self._recognize(pictures)

    def stream(self, pictures: Iterable[Picture]) -> Iterator[list[Face] | MRCARError]:
        """Faces of one picture after the other; a picture that fails gives its error instead."""
        return map(self._faces_or_error, pictures)

    def _faces_or_error(self, picture: Picture) -> list[Face] | MRCARError:
        try:
            return self._recognize(picture)
        except MRCARError as error:
            return error

    def _recognize(self, picture: Picture) -> list[Face]:
        image = to_rgb(picture)
        located = locate_faces(image, self.detector)
        if not len(located.faces):
            if self.missing == "none":
                return []
            if self.missing == "raise":
                name = f"{picture}: " if isinstance(picture, (str, Path)) else ""
                raise NoFaceError(f"{name}no face found")
            located = template_face(image)
        faces = located.faces
        regions = torch.stack(
            [cut_regions(image, points, self._regions, self.network.size) for points in faces.landmarks]
        )  # (N, R, 3, h, w)
        if isinstance(picture, np.ndarray):
            _warn_of_bgr(regions)
        probabilities = self._classify(regions).numpy()
        labels = self.network.labels
        return [
            Face(
                box=tuple(map(float, box)),  # type: ignore[arg-type]
                landmarks=tuple((float(x), float(y)) for x, y in points),
                score=None if np.isnan(score) else float(score),
                expression=labels[int(row.argmax())],
                probability=float(row.max()),
                probabilities=dict(zip(labels, map(float, row), strict=True)),
                source=located.source,
            )
            for box, score, points, row in zip(faces.boxes, faces.scores, faces.landmarks, probabilities, strict=True)
        ]

    @property
    def _regions(self) -> tuple[str, ...]:
        return self.network.model.regions

    @torch.inference_mode()
    def _classify(self, regions: torch.Tensor) -> torch.Tensor:
        model = self.network.model
        if model.in_chans == 1:
            regions = (regions * torch.tensor(LUMA)[:, None, None]).sum(2, keepdim=True)
        regions = (regions - INPUT_MEAN[0]) / INPUT_STD[0]
        logits = [model(batch.to(self.device)).float().cpu() for batch in regions.split(self.batch_size)]
        return (torch.cat(logits) / self.network.temperature).softmax(1)


def _warn_of_bgr(regions: torch.Tensor) -> None:
    """Skin of every tone is redder than blue in white light."""
    red, _, blue = regions[:, 0].mean((0, 2, 3)).tolist()
    if blue > 1.15 * red + 0.02:
        warnings.warn(
            "the faces are bluer than red; if OpenCV read the picture, turn BGR to RGB: image[:, :, ::-1]",
            ColorOrderWarning,
            stacklevel=4,
        )
