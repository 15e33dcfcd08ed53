"""From five landmarks to the matrices that cut face, eyes and mouth; arithmetic only.

Coordinates are continuous: an image of W×H pixels spans 0…W and 0…H, the centre of its first pixel
is (0.5, 0.5). The *canonical frame* spans 0…1 in x and y and holds an upright face whose landmarks lie
at :data:`TEMPLATE`. Each region is a box in that frame. A region's matrix takes a point of the region
(0…1 in x and y) to a point of the image:

    region --box--> canonical frame --augmentation--> canonical frame --similarity--> image
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

#: Eyes, nose and mouth corners, the image's left first: the mean over the faces of FER2013.
TEMPLATE = np.array([[0.317, 0.378], [0.683, 0.378], [0.5, 0.593], [0.344, 0.781], [0.656, 0.781]])

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
) -> np.ndarray:
    """Matrices (R, 3, 3) from each region's unit square to the canonical frame.

    Args:
        regions: Names of the regions.
        boxes: Their boxes x1, y1, x2, y2 inside the face region, in its 44ths.

    Example:
        >>> box_matrices(("face",), {"face": (-2, -2, 46, 46)})[0].diagonal().tolist()  # the whole frame
        [1.0, 1.0, 1.0]
    """
    margin = (_FRAME - _FACE) / 2
    matrices = []
    for name in check_regions(regions):
        x1, y1, x2, y2 = ((edge + margin) / _FRAME for edge in boxes[name])
        matrices.append([[x2 - x1, 0, x1], [0, y2 - y1, y1], [0, 0, 1]])
    return np.array(matrices)


def similarity_from_landmarks(landmarks: npt.ArrayLike) -> np.ndarray:
    """The similarity (rotation, scale, shift; no reflection) from the canonical frame to an image.

    Least squares over the five points: with points as complex numbers and their means taken off, the
    factor a that minimises Σ|q - a·p|² is Σ p̄·q / Σ|p|².

    Args:
        landmarks: (N, 5, 2) in pixels, in the order of :data:`TEMPLATE`.

    Returns:
        (N, 3, 3).

    Raises:
        ValueError: If the shape differs, a value is not finite, or all five points fall together.
    """
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise ValueError(f"expected landmarks of shape (N, 5, 2), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("landmarks must be finite")
    p_mean, q_mean = TEMPLATE.mean(0), points.mean(1)
    p, q = TEMPLATE - p_mean, points - q_mean[:, None]
    squared = (p**2).sum()
    real = (p * q).sum((1, 2)) / squared  # (N,)
    imaginary = (p[:, 0] * q[..., 1] - p[:, 1] * q[..., 0]).sum(1) / squared
    if (np.hypot(real, imaginary) < 1e-6).any():
        raise ValueError("landmarks of one face all lie in one point")
    matrices = np.zeros((len(points), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = real
    matrices[:, 1, 0] = imaginary
    matrices[:, 0, 1] = -imaginary
    matrices[:, :2, 2] = q_mean - matrices[:, :2, :2] @ p_mean
    matrices[:, 2, 2] = 1
    return matrices


def template_landmarks(width: float, height: float) -> np.ndarray:
    """Landmarks (5, 2) of the template laid over the central square of an image, in pixels."""
    side = min(width, height)
    return TEMPLATE * side + np.array([width - side, height - side]) / 2


def frame_transform(
    *,
    degrees: npt.ArrayLike = 0.0,
    zoom: npt.ArrayLike = 1.0,
    shift: npt.ArrayLike = (0.0, 0.0),
    mirror: npt.ArrayLike = False,
) -> np.ndarray:
    """Similarities (N, 3, 3) of the canonical frame about its centre, to stand between box and landmarks.

    Arguments are scalars or of length N.

    Args:
        degrees: Angle by which the content turns clockwise.
        zoom: Factor by which the content grows.
        shift: x and y by which the content moves, in frames; (N, 2).
        mirror: Whether left and right change places.
    """
    shift = np.asarray(shift, np.float64).reshape(-1, 2)
    angle, zoom, mirror, _ = np.broadcast_arrays(
        *(np.asarray(v, np.float64).reshape(-1) for v in (degrees, zoom, mirror)), shift[:, 0]
    )
    # The content turns by +degrees where the sampling points turn by -degrees; likewise for the rest.
    angle = np.deg2rad(-angle)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    flip = 1 - 2 * mirror
    matrices = np.zeros((len(angle), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = cos * flip, -sin
    matrices[:, 1, 0], matrices[:, 1, 1] = sin * flip, cos
    centre = 0.5 + np.broadcast_to(shift, (len(angle), 2))
    matrices[:, :2, 2] = 0.5 - np.einsum("nij,nj->ni", matrices[:, :2, :2], centre)
    matrices[:, 2, 2] = 1
    return matrices


def region_matrices(landmarks: npt.ArrayLike, regions: tuple[str, ...] = REGIONS) -> np.ndarray:
    """Matrices (N, R, 3, 3) from each region's unit square to the image.

    Args:
        landmarks: (N, 5, 2) in pixels.
        regions: Names of the regions.

    Example:
        >>> region_matrices(template_landmarks(48, 48)[None]).shape
        (1, 3, 3, 3)
    """
    return similarity_from_landmarks(landmarks)[:, None] @ box_matrices(regions)


def corners(matrices: np.ndarray) -> np.ndarray:
    """Corners (…, 4, 2) of unit squares under matrices (…, 3, 3), in turn around each."""
    unit_square = np.array([[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    return np.swapaxes(matrices[..., :2, :] @ unit_square, -1, -2)


def pixels_per_unit(matrices: np.ndarray) -> np.ndarray:
    """Lengths (…, 2), in pixels, of the x and y edges of the region's unit square."""
    return np.linalg.norm(matrices[..., :2, :2], axis=-2)
