"""An image in, its main face's regions out: a callable for ``transforms.Compose``."""

from __future__ import annotations

import torch

from .errors import NoFaceError
from .exposure import normalize_exposure
from .faces.detector import FaceDetector
from .faces.locate import check_missing, locate_faces, template_face
from .faces.mtcnn import MTCNNDetector
from .images import ImageLike, to_rgb
from .inputs import INPUT_MEAN, INPUT_STD
from .regions.cut import cut_regions
from .regions.geometry import REGIONS, check_regions


class MultiRegionTransform:
    """Finds the largest face of an image and cuts its regions, aligned by five landmarks and evenly exposed.

    It is deterministic, can be pickled, and works in ``torchvision.transforms.Compose`` like any
    other transform. Its defaults are what the networks of this package expect.

    Args:
        size: Height and width of a region in pixels, or one number for both.
        regions: Names of the regions, in the order of the network's.
        missing: What to do where no face is found: "raise" a :class:`~mrcar_timm.NoFaceError`, take
            the "full_image" for an aligned face, or return None ("none").
        detector: Finds faces; MTCNN if None.
        mean: Taken off each channel of values 0…1; None leaves them 0…1.
        std: Divides each channel then.

    Returns:
        When called with an image (see :func:`~mrcar_timm.images.to_rgb` for what that may be): a
        tensor (R, 3, h, w), float32.

    Raises:
        ImageError: If the image cannot be read.
        NoFaceError: If no face is found and ``missing`` is "raise".

    Example:
        >>> transform = MultiRegionTransform(missing="full_image")
        >>> transform(torch.zeros(3, 96, 96)).shape
        torch.Size([3, 3, 44, 44])
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 44,
        regions: tuple[str, ...] = REGIONS,
        missing: str = "raise",
        detector: FaceDetector | None = None,
        mean: tuple[float, ...] | None = INPUT_MEAN,
        std: tuple[float, ...] | None = INPUT_STD,
    ) -> None:
        if (mean is None) != (std is None):
            raise ValueError("mean and std go together")
        height, width = (size, size) if isinstance(size, int) else size
        if height < 1 or width < 1:
            raise ValueError(f"size must be a positive height and width, got {size}")
        self.size = (height, width)
        self.regions = check_regions(regions)
        self.missing = check_missing(missing)
        self.detector = detector if detector is not None else MTCNNDetector()
        self.mean, self.std = mean, std

    def __call__(self, image: ImageLike) -> torch.Tensor | None:
        image = to_rgb(image)
        (located,) = locate_faces([image], self.detector, largest=True)
        if not located.sources:
            if self.missing == "none":
                return None
            if self.missing == "raise":
                raise NoFaceError(f"no face found in an image of {image.shape[1]}×{image.shape[0]} pixels")
            located = template_face(image)
        (regions,) = normalize_exposure(cut_regions(image, located.faces.landmarks[:1], self.regions, self.size))
        regions = torch.from_numpy(regions)
        if self.mean is None or self.std is None:
            return regions
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (regions - mean) / std

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(size={self.size}, regions={self.regions}, missing={self.missing!r}, "
            f"detector={self.detector!r}, mean={self.mean}, std={self.std})"
        )
