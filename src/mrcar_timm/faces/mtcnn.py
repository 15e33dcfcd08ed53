"""MTCNN as a detector: for photos, for faces followed from frame to frame, and for crops of faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from ..exposure import stretched_image
from ..regions.geometry import TEMPLATE, similarity_from_landmarks
from .cascade import Cascade
from .detector import Detections
from .networks import O_SIDE, Networks
from .original import OriginalCascade
from .pyramid import Halves
from .views import View, merged, views_of

if TYPE_CHECKING:
    import torch

#: An image of which neither side is longer than this may be nothing but a face, as in FER2013 (48),
#: RAF-DB (100) or ArcFace's crops (112). Its landmarks are searched in the image as a whole, too.
TIGHT_CROP_SIDE = 128

# Longest side in pixels to which small crops are enlarged; of narrow ones the shorter side alone would want more.
_MOST_ENLARGED = 1024

# How many images of a list are processed together.
_TOGETHER = 8


class MTCNNDetector:
    """Finds faces and five landmarks with MTCNN; a :class:`~mrcar_timm.faces.detector.FaceDetector`.

    The networks are facenet-pytorch's, the driver is our own: several times faster, and with landmarks that
    lie better (see :mod:`~mrcar_timm.faces.cascade`). They are loaded when first used; the detector is light
    before that and when pickled.

    A dark or flat image is searched stretched (see :mod:`~mrcar_timm.exposure`). Boxes may leave
    the image, where faces do.

    Args:
        min_face_size: Height in pixels of the smallest face to be found.
        thresholds: Scores that the P-, R- and O-Net must pass, 0…1.
        factor: Ratio of one size of the image pyramid to the one before.
        max_side: Longer images are reduced to this before the search, so that memory and time stay
            bounded; coordinates are those of the original.
        any_angle: Find faces that are turned by any angle, in four searches. Without it, faces turned by more than 45°
            are often missed, and those upside down are left out. Landmarks are in the order of the upright face.
        exact: Give what facenet-pytorch's own driver gives, to within 1e-3 pixels; slower.
        device: Device of the networks.
        networks: P-, R- and O-Net, each on its own device; facenet-pytorch's in PyTorch if None.

    Example:
        >>> MTCNNDetector()(np.zeros((64, 64, 3), np.uint8)).boxes.shape
        (0, 4)
    """

    def __init__(
        self,
        min_face_size: int = 20,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
        max_side: int = 4096,
        any_angle: bool = False,
        exact: bool = False,
        device: torch.device | str = "cpu",
        networks: Networks | None = None,
    ) -> None:
        if min_face_size < 12 or not 0 < factor < 1 or not all(0 < t < 1 for t in thresholds) or max_side < 48:
            raise ValueError(
                "expected min_face_size of at least 12, factor and thresholds between 0 and 1, max_side of at "
                f"least 48, got {min_face_size}, {factor}, {thresholds}, {max_side}"
            )
        self.min_face_size = min_face_size
        first, second, third = thresholds
        self.thresholds = (first, second, third)
        self.factor = factor
        self.max_side = max_side
        self.any_angle = any_angle
        self.exact = exact
        if networks is None:
            from .torch_networks import TorchNetworks

            networks = TorchNetworks(device)
        self.networks = networks

    def __repr__(self) -> str:
        return f"MTCNNDetector({', '.join(f'{k}={v!r}' for k, v in self.settings.items())})"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the result depends on."""
        names = ("min_face_size", "thresholds", "factor", "max_side", "any_angle", "exact")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device | str) -> MTCNNDetector:
        """Move the networks; returns the detector itself."""
        self.networks = self.networks.to(device)
        return self

    def _cascade(self, exact: bool) -> Cascade:
        return OriginalCascade(self.networks) if exact else Cascade(self.networks)

    def _halves(self, image: np.ndarray) -> Halves:
        return Halves(image, O_SIDE, self.networks.resize)

    @overload
    def __call__(self, images: np.ndarray) -> Detections: ...

    @overload
    def __call__(self, images: list[np.ndarray]) -> list[Detections]: ...

    def __call__(self, images: np.ndarray | list[np.ndarray]) -> Detections | list[Detections]:
        """Faces of an image (H, W, 3) of type uint8, or of each of a list, largest first."""
        if not isinstance(images, list):
            return self([images])[0]
        found: list[Detections] = []
        step = _TOGETHER // 4 if self.any_angle else _TOGETHER
        for start in range(0, len(images), step):
            every = [self._views(image) for image in images[start : start + step]]
            halves = [view.halves for views in every for view in views]
            faces = iter(self._cascade(self.exact)(halves, self.min_face_size, self.thresholds, self.factor))
            found += [merged(views, [next(faces) for _ in views]) for views in every]
        return found

    def largest(self, image: np.ndarray) -> Detections:
        """The largest face of an image, or none; a large one is found many times faster than all faces.

        Large faces are searched first, from a fifth of the image's shorter side, then ever smaller ones, until
        the score of one passes 0.95.
        """
        views = self._views(image)
        halves = [view.halves for view in views]
        size = max(self.min_face_size, 0.2 * min(halves[0].height, halves[0].width))
        while True:
            last = size == self.min_face_size
            most = None if last else 3 * len(views)
            found = merged(views, self._cascade(self.exact)(halves, size, self.thresholds, self.factor, most))
            sure = np.flatnonzero(found.scores > 0.95)
            if len(sure) or last:
                return found.choose(sure[:1] if len(sure) else slice(1))
            size = max(self.min_face_size, size / 2)

    def follow(self, image: np.ndarray, landmarks: np.ndarray) -> Detections:
        """Faces near known landmarks (N, 5, 2), such as those of the frame before.

        The O-Net alone looks where they were; a face that has left gets a low score. The order is kept.
        """
        check_image(image)
        centre, reach = landmarks.mean(1), np.ptp(landmarks, axis=1).max(1, keepdims=True) * 2
        low = np.floor((centre - reach).min(0)).clip(0, np.array(image.shape[1::-1]) - 1).astype(int)
        high = np.ceil((centre + reach).max(0)).astype(int)
        part = image[low[1] : max(low[1] + 1, high[1]), low[0] : max(low[0] + 1, high[0])]
        index = np.zeros(len(landmarks), int)
        boxes, scores, points = self._cascade(False).look([self._halves(stretched_image(part))], landmarks - low, index)
        return Detections(boxes + np.tile(low, 2).astype(np.float32), scores, points + low.astype(np.float32))

    def in_boxes(self, image: np.ndarray, boxes: np.ndarray) -> Detections:
        """Landmarks of faces whose boxes (N, 4) are known, by the O-Net alone; the order is kept.

        Where it sees no face in a box, score and landmarks are NaN.
        """
        check_image(image)
        halves, cascade = self._halves(stretched_image(image)), self._cascade(False)
        landmarks = cascade.landmarks_in(halves, boxes)
        _, scores, landmarks = cascade.look([halves], landmarks, np.zeros(len(boxes), int))
        seen = scores > self.thresholds[2]
        nan = np.float32(np.nan)
        return Detections(boxes, np.where(seen, scores, nan), np.where(seen[:, None, None], landmarks, nan))

    def _views(self, image: np.ndarray) -> list[View]:
        check_image(image)
        return views_of(image, self.networks.resize, self.max_side, self.any_angle, stretch=not self.exact)

    def upright(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Which faces (N,), whose landmarks (N, 5, 2) are known, are not upside down."""
        check_image(image)
        halves, cascade = self._halves(stretched_image(image)), self._cascade(False)
        index = np.zeros(len(landmarks), int)
        _, scores, _ = cascade.look([halves], landmarks, index)
        return cascade.upright([halves], landmarks, scores, index)

    def landmarks_of_crops(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks of images that are tight face crops already.

        The O-Net alone looks at the whole image; where its answer is unsure or no face's shape, the
        cascade searches the image enlarged to twice the size, inside a border of the mean color (a
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
            batch = np.stack([stretched_image(image) for image in images[start : start + 512]])
            if (height, width) != (O_SIDE, O_SIDE):
                batch = np.stack([self.networks.resize(image, O_SIDE, O_SIDE) for image in batch])
            _, points, scores = self.networks.onet(batch)
            points = points.reshape(-1, 2, 5).swapaxes(1, 2)  # x of all five, then y
            found = (scores > 0.5) & plausible(points)
            rows = start + np.flatnonzero(found)
            landmarks[rows] = points[found] * np.array([width, height], np.float32)
            sources[rows] = "onet"
        for row in np.flatnonzero(sources == ""):
            enlarged = self._landmarks_enlarged(stretched_image(images[row]))
            if enlarged is not None:
                landmarks[row], sources[row] = enlarged, "cascade"
        return landmarks, sources

    def _landmarks_enlarged(self, image: np.ndarray) -> np.ndarray | None:
        height, width = image.shape[:2]
        scale = max(2.0, min(96 / min(height, width), _MOST_ENLARGED / max(height, width)))
        pad = round(max(height, width) * scale / 4)
        size = (round(width * scale), round(height * scale))
        mean = np.round(image.mean((0, 1))).astype(np.uint8)
        canvas = np.tile(mean, (size[1] + 2 * pad, size[0] + 2 * pad, 1))
        canvas[pad:-pad, pad:-pad] = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        # Exact, because it was by these landmarks that the packaged weights were trained and scored.
        found = self._cascade(True)([self._halves(canvas)], self.min_face_size, (0.4, 0.5, 0.5), self.factor)[0]
        if not len(found):
            return None
        stretch = np.array([width / size[0], height / size[1]])
        points = (found.landmarks[0] - pad) * stretch
        return points if plausible(points[None] / [width, height])[0] else None


def check_image(image: np.ndarray) -> None:
    """Raise unless an image is an RGB array of type uint8.

    Raises:
        ValueError: Saying what was expected and what came.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected an RGB uint8 array (H, W, 3), got {image.dtype} {image.shape}")


def plausible(landmarks: np.ndarray) -> np.ndarray:
    """Whether landmarks may be those of a face that fills its image.

    Args:
        landmarks: (N, 5, 2), the image spanning 0…1.

    Returns:
        (N,), bool: they lie in or near the image, have the template's shape within a tenth of the
        image's side, a third to 1.8 times its size, and are turned by less than 60°.
    """
    spread = np.linalg.norm(landmarks - landmarks.mean(1, keepdims=True), axis=2).max(1)
    usable = np.isfinite(landmarks).all((1, 2)) & (spread > 0.05)
    safe = np.where(usable[:, None, None], landmarks, TEMPLATE)
    frame = similarity_from_landmarks(safe)
    fitted = TEMPLATE @ frame[:, :2, :2].swapaxes(1, 2) + frame[:, None, :2, 2]
    size = np.linalg.norm(frame[:, :2, 0], axis=1)
    residual = np.linalg.norm(fitted - safe, axis=2).mean(1)
    inside = (safe > -0.15).all((1, 2)) & (safe < 1.15).all((1, 2))
    upright = frame[:, 0, 0] > 0.5 * size
    return usable & inside & upright & (residual < 0.1) & (size > 1 / 3) & (size < 1.8)
