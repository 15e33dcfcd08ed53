"""From five landmarks to the matrices that cut face, eyes and mouth; arithmetic only.

Coordinates are continuous: an image of W×H pixels spans 0…W and 0…H, the centre of its first pixel
is (0.5, 0.5). The *canonical frame* spans 0…1 in x and y and holds an upright face whose landmarks lie
at :data:`TEMPLATE`. Each region is a box in that frame. A region's matrix takes a point of the region
(0…1 in x and y) to a point of the image:

    region --box--> canonical frame --augmentation--> canonical frame --similarity--> image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

#: Eyes, nose and mouth corners, the image's left first: the mean over the faces of FER2013.
TEMPLATE = torch.tensor(
    [[0.317, 0.378], [0.683, 0.378], [0.5, 0.593], [0.344, 0.781], [0.656, 0.781]], dtype=torch.float64
)

# A frame of 48 units is a FER2013 image; the face region is its central 44, the paper's crop.
_FRAME = 48
_FACE = 44

#: Boxes x1, y1, x2, y2 inside the face region, in its 44ths. Each is symmetric about the vertical
#: axis, so that mirroring the face mirrors every region.
BOXES_IN_FACE: dict[str, tuple[int, int, int, int]] = {
    "face": (0, 0, 44, 44),
    "eyes": (3, 6, 41, 25),
    "mouth": (9, 26, 35, 44),
}
REGIONS: tuple[str, ...] = tuple(BOXES_IN_FACE)
UNITS_OF_FACE = _FACE


def check_regions(regions: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return the names as a tuple.

    Raises:
        ValueError: If there is none, one is unknown, or one stands twice.
    """
    names = tuple(regions)
    if not names or len(set(names)) != len(names) or not set(names) <= set(REGIONS):
        raise ValueError(f"regions must be a choice of {REGIONS} without repetition, got {names}")
    return names


def box_matrices(
    regions: tuple[str, ...] = REGIONS, boxes: Mapping[str, tuple[float, float, float, float]] = BOXES_IN_FACE
) -> torch.Tensor:
    """Matrices (R, 3, 3), float64, from each region's unit square to the canonical frame.

    Args:
        regions: Names of the regions.
        boxes: Their boxes x1, y1, x2, y2 inside the face region, in its 44ths.

    Example:
        >>> box_matrices(("face",), {"face": (-2, -2, 46, 46)})[0].diagonal()  # the whole frame
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    margin = (_FRAME - _FACE) / 2
    matrices = torch.zeros(len(regions), 3, 3, dtype=torch.float64)
    for matrix, name in zip(matrices, check_regions(regions), strict=True):
        x1, y1, x2, y2 = ((edge + margin) / _FRAME for edge in boxes[name])
        matrix[0, 0], matrix[0, 2] = x2 - x1, x1
        matrix[1, 1], matrix[1, 2] = y2 - y1, y1
        matrix[2, 2] = 1
    return matrices


def similarity_from_landmarks(landmarks: torch.Tensor) -> torch.Tensor:
    """The similarity (rotation, scale, shift; no reflection) from the canonical frame to an image.

    Least squares over the five points: with points as complex numbers and their means taken off, the
    factor a that minimises Σ|q - a·p|² is Σ p̄·q / Σ|p|².

    Args:
        landmarks: (N, 5, 2) in pixels, in the order of :data:`TEMPLATE`.

    Returns:
        (N, 3, 3) in float64.

    Raises:
        ValueError: If the shape differs, a value is not finite, or all five points fall together.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (5, 2):
        raise ValueError(f"expected landmarks of shape (N, 5, 2), got {tuple(landmarks.shape)}")
    points = landmarks.double()
    if not torch.isfinite(points).all():
        raise ValueError("landmarks must be finite")
    template = TEMPLATE.to(points.device)
    p_mean, q_mean = template.mean(0), points.mean(1)
    p = torch.complex(*(template - p_mean).unbind(-1))  # (5,)
    q = torch.complex(*(points - q_mean[:, None]).unbind(-1))  # (N, 5)
    a = (p.conj() * q).sum(1) / (p.abs() ** 2).sum()  # (N,)
    if (a.abs() < 1e-6).any():
        raise ValueError("landmarks of one face all lie in one point")
    matrices = torch.zeros(len(points), 3, 3, dtype=torch.float64, device=points.device)
    matrices[:, 0, 0] = matrices[:, 1, 1] = a.real
    matrices[:, 1, 0] = a.imag
    matrices[:, 0, 1] = -a.imag
    matrices[:, :2, 2] = q_mean - torch.einsum("nij,j->ni", matrices[:, :2, :2], p_mean)
    matrices[:, 2, 2] = 1
    return matrices


def template_landmarks(width: float, height: float) -> torch.Tensor:
    """Landmarks (5, 2) of the template laid over the central square of an image, in pixels."""
    side = min(width, height)
    corner = torch.tensor([(width - side) / 2, (height - side) / 2], dtype=torch.float64)
    return TEMPLATE * side + corner


def frame_transform(
    *,
    degrees: torch.Tensor | float = 0.0,
    zoom: torch.Tensor | float = 1.0,
    shift: torch.Tensor | tuple[float, float] = (0.0, 0.0),
    mirror: torch.Tensor | bool = False,
) -> torch.Tensor:
    """Similarities (N, 3, 3) of the canonical frame about its centre, to stand between box and landmarks.

    Arguments are scalars or of length N.

    Args:
        degrees: Angle by which the content turns clockwise.
        zoom: Factor by which the content grows.
        shift: x and y by which the content moves, in frames; (N, 2).
        mirror: Whether left and right change places.

    Returns:
        (N, 3, 3) in float64.
    """
    angle, zoom, mirror = torch.broadcast_tensors(
        *(torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (degrees, zoom, mirror))
    )
    shift = torch.as_tensor(shift, dtype=torch.float64).reshape(-1, 2)
    n = max(len(angle), len(shift))
    # The content turns by +degrees where the sampling points turn by -degrees; likewise for the rest.
    angle = torch.deg2rad(-angle.expand(n))
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    flip = 1 - 2 * mirror
    matrices = torch.zeros(n, 3, 3, dtype=torch.float64)
    matrices[:, 0, 0], matrices[:, 0, 1] = cos * flip, -sin
    matrices[:, 1, 0], matrices[:, 1, 1] = sin * flip, cos
    centre = torch.full((2,), 0.5, dtype=torch.float64)
    matrices[:, :2, 2] = centre - torch.einsum("nij,nj->ni", matrices[:, :2, :2], centre + shift)
    matrices[:, 2, 2] = 1
    return matrices


def region_matrices(landmarks: torch.Tensor, regions: tuple[str, ...] = REGIONS) -> torch.Tensor:
    """Matrices (N, R, 3, 3), float64, from each region's unit square to the image.

    Args:
        landmarks: (N, 5, 2) in pixels.
        regions: Names of the regions.

    Example:
        >>> region_matrices(template_landmarks(48, 48)[None]).shape
        torch.Size([1, 3, 3, 3])
    """
    frame = similarity_from_landmarks(landmarks)
    return frame[:, None] @ box_matrices(regions).to(frame.device)


def warp(images: torch.Tensor, matrices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut regions out of images: one bilinear sampling for all of them.

    Points outside the image take the nearest pixel of its border.

    Args:
        images: (N, C, H, W), floating point.
        matrices: (N, R, 3, 3) from :func:`region_matrices`.
        size: Height h and width w of every region, in pixels.

    Returns:
        (N, R, C, h, w), of the type of ``images``.
    """
    n, r = matrices.shape[:2]
    h, w = size
    grid = sampling_grid(matrices, images.shape[:1:-1], size)  # (N, R, h, w, 2)
    grid = grid.to(images.device, images.dtype).reshape(n, r * h, w, 2)
    out = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return out.reshape(n, -1, r, h, w).transpose(1, 2)  # (N, R, C, h, w)


def sampling_grid(matrices: torch.Tensor, image: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
    """Positions of the pixels of regions in an image, in the coordinates of ``grid_sample``.

    Args:
        matrices: (…, 3, 3) from the region's unit square to the image.
        image: Width and height of the image.
        size: Height h and width w of a region, in pixels.

    Returns:
        (…, h, w, 2), float32; the image spans -1…1.
    """
    h, w = size
    y = (torch.arange(h, device=matrices.device, dtype=torch.float32) + 0.5) / h
    x = (torch.arange(w, device=matrices.device, dtype=torch.float32) + 0.5) / w
    scale = torch.tensor([[2 / side] for side in image], dtype=matrices.dtype, device=matrices.device)
    affine = (matrices[..., :2, :] * scale).float()  # in float64 up to here, so that huge images lose nothing
    return (
        affine[..., 0][..., None, None, :] * x[:, None]
        + affine[..., 1][..., None, None, :] * y[:, None, None]
        + (affine[..., 2] - 1)[..., None, None, :]
    )


def pixels_per_unit(matrices: torch.Tensor) -> torch.Tensor:
    """Lengths (…, 2), in pixels, of the x and y edges of the region's unit square."""
    return matrices[..., :2, :2].norm(dim=-2)
