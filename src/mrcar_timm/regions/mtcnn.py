"""MTCNN, with the networks of facenet-pytorch. The one file that knows that package."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .detector import Detections
from .geometry import TEMPLATE, similarity_from_landmarks

#: A picture of which neither side is longer than this may be nothing but a face, as in FER2013 (48),
#: RAF-DB (100) or ArcFace's crops (112). Its landmarks are sought in the picture as a whole, too.
TIGHT_CROP_SIDE = 128


class MTCNNDetector:
    """Finds faces and five landmarks with MTCNN; a :class:`~mrcar_timm.regions.detector.FaceDetector`.

    The networks are made on the first call; before it the detector is light and can be pickled, and
    after it too (they are left out).

    Args:
        min_face_size: Height in pixels of the smallest face to be found.
        thresholds: Scores that the P-, R- and O-Net must pass.
        factor: Ratio of one size of the picture pyramid to the one before.
        max_side: Longer pictures are reduced to this before the search, so that memory and time stay
            bounded; coordinates are those of the original.
        device: Where the networks run.

    Example:
        >>> MTCNNDetector()(np.zeros((64, 64, 3), np.uint8)).boxes.shape
        (0, 4)
    """

    def __init__(
        self,
        min_face_size: int = 20,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
        max_side: int = 1600,
        device: torch.device | str = "cpu",
    ) -> None:
        self.min_face_size = min_face_size
        self.thresholds = tuple(thresholds)
        self.factor = factor
        self.max_side = max_side
        self.device = torch.device(device)
        self._net: Any = None

    def __repr__(self) -> str:
        return f"MTCNNDetector({', '.join(f'{k}={v!r}' for k, v in self.settings.items())})"

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on besides the picture."""
        names = ("min_face_size", "thresholds", "factor", "max_side")
        return {name: getattr(self, name) for name in names}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_net": None}

    @property
    def net(self) -> Any:
        if self._net is None:
            from facenet_pytorch import MTCNN

            net = MTCNN(
                keep_all=True,
                min_face_size=self.min_face_size,
                thresholds=list(self.thresholds),
                factor=self.factor,
                device=self.device,
            )
            # Max pooling in NCHW is half the time of each net.
            self._net = net.to(memory_format=torch.channels_last).requires_grad_(False)
        return self._net

    @overload
    def __call__(self, images: np.ndarray) -> Detections: ...

    @overload
    def __call__(self, images: list[np.ndarray]) -> list[Detections]: ...

    def __call__(self, images: np.ndarray | list[np.ndarray]) -> Detections | list[Detections]:
        if isinstance(images, list):
            return [self._detect(image, self.thresholds) for image in images]
        return self._detect(images, self.thresholds)

    def _detect(self, image: np.ndarray, thresholds: tuple[float, ...]) -> Detections:
        check_picture(image)
        height, width = image.shape[:2]
        reduction = max(1.0, max(height, width) / self.max_side)
        if reduction > 1:
            size = (max(1, round(width / reduction)), max(1, round(height / reduction)))
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        if min(image.shape[:2]) < self.min_face_size:
            return Detections.none()  # the first net needs 12 pixels, and no face could fit
        net = self.net
        net.thresholds = list(thresholds)
        with torch.inference_mode():
            boxes, scores, landmarks = net.detect(image, landmarks=True)
        if boxes is None:
            return Detections.none()
        stretch = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
        return Detections(
            boxes.astype(np.float32) * np.tile(stretch, 2),
            scores.astype(np.float32),
            landmarks.astype(np.float32) * stretch,
        )

    def landmarks_of_crops(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks of pictures that are tight face crops already.

        The O-Net alone looks at the whole picture; where its answer is unsure or no face's shape, the
        cascade searches the picture enlarged to twice the size, inside a border of the mean colour (a
        reflected border would invent faces).

        Args:
            images: (N, H, W, 3), uint8.

        Returns:
            Landmarks (N, 5, 2) in pixels, NaN where nothing was found; and where they came from (N,):
            "onet", "cascade" or "".
        """
        n, height, width = images.shape[:3]
        landmarks = np.full((n, 5, 2), np.nan, np.float32)
        sources = np.full(n, "", dtype="<U8")
        for start in range(0, n, 512):
            batch = torch.from_numpy(images[start : start + 512].copy())
            with torch.inference_mode():
                batch = batch.to(self.device).permute(0, 3, 1, 2).float()
                if (height, width) != (48, 48):
                    batch = F.interpolate(batch, size=(48, 48), mode="bilinear", antialias=True)
                _, points, score = self.net.onet((batch - 127.5) * 0.0078125)
            points = points.reshape(-1, 2, 5).transpose(1, 2).cpu()  # x of all five, then y
            found = ((score[:, 1].cpu() > 0.5) & plausible(points)).numpy()
            rows = start + np.flatnonzero(found)
            landmarks[rows] = points.numpy()[found] * np.array([width, height], np.float32)
            sources[rows] = "onet"
        for row in np.flatnonzero(sources == ""):
            points = self._landmarks_enlarged(images[row])
            if points is not None:
                landmarks[row], sources[row] = points, "cascade"
        return landmarks, sources

    def _landmarks_enlarged(self, image: np.ndarray) -> np.ndarray | None:
        height, width = image.shape[:2]
        scale = max(2.0, 96 / min(height, width))
        pad = round(max(height, width) * scale / 4)
        size = (round(width * scale), round(height * scale))
        mean = np.round(image.mean((0, 1))).astype(np.uint8)
        canvas = np.tile(mean, (size[1] + 2 * pad, size[0] + 2 * pad, 1))
        canvas[pad:-pad, pad:-pad] = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        found = self._detect(canvas, (0.4, 0.5, 0.5))
        if not len(found):
            return None
        stretch = np.array([width / size[0], height / size[1]])
        points = (found.landmarks[0] - pad) * stretch
        relative = torch.from_numpy(points / [width, height])[None]
        return points if bool(plausible(relative)) else None


def check_picture(image: np.ndarray) -> None:
    """Raise unless a picture is an RGB array of type uint8.

    Raises:
        ValueError: Saying what was expected and what came.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected an RGB uint8 array (H, W, 3), got {image.dtype} {image.shape}")


def plausible(landmarks: torch.Tensor) -> torch.Tensor:
    """Whether landmarks may be those of a face that fills its picture.

    Args:
        landmarks: (N, 5, 2), the picture spanning 0…1.

    Returns:
        (N,), bool: they lie in or near the picture, have the template's shape within a tenth of the
        picture's side, a third to 1.8 times its size, and are turned by less than 60°.
    """
    spread = (landmarks - landmarks.mean(1, keepdim=True)).norm(dim=2).amax(1)
    usable = torch.isfinite(landmarks).all((1, 2)) & (spread > 0.05)
    safe = torch.where(usable[:, None, None], landmarks.double(), TEMPLATE)
    frame = similarity_from_landmarks(safe)
    fitted = torch.einsum("nij,kj->nki", frame[:, :2, :2], TEMPLATE) + frame[:, None, :2, 2]
    size = frame[:, :2, 0].norm(dim=1)
    residual = (fitted - safe).norm(dim=2).mean(1)
    inside = (safe > -0.15).all((1, 2)) & (safe < 1.15).all((1, 2))
    upright = frame[:, 0, 0] > 0.5 * size
    return usable & inside & upright & (residual < 0.1) & (size > 1 / 3) & (size < 1.8)
