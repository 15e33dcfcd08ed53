"""Geometry by hand, and regions of a real photo under changes that must not matter."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms

from mrcar_timm import Detections, MTCNNDetector, MultiRegionTransform, NoFaceError
from mrcar_timm.faces.mtcnn import plausible
from mrcar_timm.regions.cut import cut_matrices, cut_regions
from mrcar_timm.regions.geometry import (
    BOXES_IN_FACE,
    TEMPLATE,
    box_matrices,
    frame_transform,
    region_matrices,
    similarity_from_landmarks,
    template_landmarks,
)
from mrcar_timm.regions.warp import warp

RAW = {"mean": None, "std": None}


def similarity(degrees, scale, x, y):
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]])


def test_similarity_is_recovered():
    expected = similarity(25, 80, 30, -7)
    points = TEMPLATE @ expected[:2, :2].T + expected[:2, 2]
    actual = similarity_from_landmarks(points[None])[0]
    np.testing.assert_allclose(actual, expected, atol=1e-10)


def test_similarity_is_least_squares():
    rng = np.random.default_rng(0)
    points = TEMPLATE * 50 + rng.normal(0, 3, (5, 2))
    # x' = a·x - b·y + tx, y' = b·x + a·y + ty, solved as a linear system.
    rows, target = [], []
    for (x, y), (u, v) in zip(TEMPLATE, points, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        target += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(target), rcond=None)[0]
    actual = similarity_from_landmarks(points[None])[0]
    np.testing.assert_allclose(actual, [[a, -b, tx], [b, a, ty], [0, 0, 1]], atol=1e-9)


@pytest.mark.parametrize("points", [np.zeros((1, 5, 2)), np.full((1, 5, 2), np.nan), np.zeros((5, 2))])
def test_impossible_landmarks(points):
    with pytest.raises(ValueError, match="landmarks"):
        similarity_from_landmarks(points)


def test_boxes():
    for name, matrix in zip(BOXES_IN_FACE, box_matrices(), strict=True):
        x1, y1, x2, y2 = BOXES_IN_FACE[name]
        corners = (matrix @ np.array([[0, 1], [0, 1], [1, 1]]))[:2]
        np.testing.assert_allclose(corners.T.flatten() * 48 - 2, [x1, y1, x2, y2], atol=1e-12)
        assert x1 + x2 == 44


def test_frame_transform_moves_the_content():
    point = np.array([0.7, 0.5, 1])
    turned = np.linalg.inv(frame_transform(degrees=90, zoom=2)[0]) @ point
    np.testing.assert_allclose(turned[:2], [0.5, 0.9], atol=1e-12)  # right of the centre goes below it
    moved = np.linalg.inv(frame_transform(shift=(0.1, -0.2), mirror=True)[0]) @ point
    np.testing.assert_allclose(moved[:2], [0.4, 0.3], atol=1e-12)


def test_template_crop_of_fer2013_copies_pixels():
    """At 48×48 the face region is the central 44×44, pixel for pixel."""
    image = torch.rand(1, 1, 48, 48)
    matrices = region_matrices(template_landmarks(48, 48)[None], ("face",))
    out = warp(image, torch.from_numpy(matrices), (44, 44))
    torch.testing.assert_close(out[0, 0], image[0, :, 2:46, 2:46], atol=1e-5, rtol=0)


def test_mirroring_the_matrices_mirrors_every_region():
    image = torch.rand(1, 3, 60, 60)
    landmarks = template_landmarks(60, 60)[None]
    plain = warp(image, torch.from_numpy(region_matrices(landmarks)), (44, 44))
    frame = similarity_from_landmarks(landmarks) @ frame_transform(mirror=True)
    mirrored = warp(image, torch.from_numpy(frame[:, None] @ box_matrices()), (44, 44))
    torch.testing.assert_close(mirrored, plain.flip(-1), atol=1e-4, rtol=0)


def test_reduction_is_antialiased():
    """A fine checkerboard becomes even grey, not a pattern."""
    board = (np.indices((880, 880)).sum(0) % 2 * 255).astype(np.uint8)
    out = cut_regions(np.repeat(board[..., None], 3, 2), template_landmarks(880, 880)[None])
    assert np.abs(out - 0.5).max() < 0.02


@pytest.mark.parametrize("side", [44, 112])
@pytest.mark.parametrize(
    ("shape", "degrees", "zoom"), [((40, 50), 0, 1.0), ((40, 50), 25, 0.7), ((1, 1), 0, 1.0), ((1, 9), 3, 2.0)]
)
def test_regions_of_one_image_as_of_a_batch(shape, degrees, zoom, side):
    """Two ways to sample give the same: NumPy's in use, PyTorch's in training; also across the border of an image."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    frame = similarity_from_landmarks(template_landmarks(*shape[::-1])[None])
    matrices = frame[:, None] @ frame_transform(degrees=degrees, zoom=zoom, shift=(0.3, -0.1)) @ box_matrices()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    expected = warp(pixels, torch.from_numpy(matrices), (side, side))[0]
    actual = cut_matrices(image, matrices[0], (side, side))
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.fixture(scope="module")
def regions(portrait):
    return MultiRegionTransform(**RAW)(portrait)


def exif_rotated(image):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it by 90° clockwise
    image.rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


# Mean absolute difference of values 0…1.
CHANGES = {
    "mirrored": (ImageOps.mirror, 0.04),
    "rotated +20°": (lambda i: i.rotate(20, Image.Resampling.BICUBIC), 0.025),
    "rotated -20°": (lambda i: i.rotate(-20, Image.Resampling.BICUBIC), 0.025),
    "half": (lambda i: i.resize((256, 256), Image.Resampling.LANCZOS), 0.025),
    "double": (lambda i: i.resize((1024, 1024), Image.Resampling.LANCZOS), 0.025),
    "triple": (lambda i: i.resize((1536, 1536), Image.Resampling.LANCZOS), 0.025),
    "shifted": (lambda i: i.transform(i.size, Image.Transform.AFFINE, (1, 0, 17, 0, 1, -9)), 0.025),
    "EXIF": (exif_rotated, 0.005),
}


@pytest.mark.parametrize("change", CHANGES)
def test_regions_of_a_changed_photo(portrait, regions, change):
    apply, bound = CHANGES[change]
    actual = MultiRegionTransform(**RAW)(apply(portrait))
    if change == "mirrored":
        actual = actual.flip(-1)
    difference = (actual - regions).abs().mean((1, 2, 3))
    assert difference.max() < bound, difference


def test_transform_contract(portrait, regions):
    transform = MultiRegionTransform(**RAW)
    assert regions.shape == (3, 3, 44, 44)
    assert regions.dtype == torch.float32
    assert 0 <= regions.min() < regions.max() <= 1
    array = np.asarray(portrait)
    for same in (
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        pickle.loads(pickle.dumps(transform))(portrait),
    ):
        actual = same if isinstance(same, torch.Tensor) and same.ndim == 4 else transform(same)
        torch.testing.assert_close(actual, regions, atol=0, rtol=0)
    composed = transforms.Compose([transform, transforms.Normalize([0.5] * 3, [0.25] * 3)])
    torch.testing.assert_close(composed(portrait), MultiRegionTransform()(portrait))
    sized = MultiRegionTransform(size=(64, 48), regions=("mouth", "face"))(portrait)
    assert sized.shape == (2, 3, 64, 48)


def test_missing_face():
    grey = np.full((200, 300, 3), 128, np.uint8)
    with pytest.raises(NoFaceError, match="300×200"):
        MultiRegionTransform()(grey)
    assert MultiRegionTransform(missing="none")(grey) is None
    out = MultiRegionTransform(missing="full_image", **RAW)(grey)
    torch.testing.assert_close(out, torch.full((3, 3, 44, 44), 128 / 255))
    with pytest.raises(ValueError, match="missing must be"):
        MultiRegionTransform(missing="ignore")


@pytest.mark.parametrize("side", [48, 100, 112])
def test_tight_crops(portrait, regions, side):
    crop = portrait.crop((168, 52, 284, 168)).resize((side, side), Image.Resampling.LANCZOS)
    out = MultiRegionTransform(**RAW)(crop)
    assert (out - regions).abs().mean() < 0.07


def test_own_detector(portrait, regions):
    found = MTCNNDetector()(np.asarray(portrait))
    transform = MultiRegionTransform(detector=lambda image: found, **RAW)
    assert (transform(portrait) - regions).abs().mean((1, 2, 3)).max() < 0.02
    with pytest.raises(NoFaceError):
        MultiRegionTransform(detector=lambda image: Detections.none())(portrait)
    small = Detections(found.boxes[:, [0, 1, 0, 1]] + (0, 0, 9, 9), found.scores, np.zeros_like(found.landmarks))
    both = Detections(*(np.concatenate([getattr(d, k) for d in (small, found)]) for k in vars(found)))
    torch.testing.assert_close(MultiRegionTransform(detector=lambda image: both, **RAW)(portrait), transform(portrait))
    with pytest.raises(TypeError, match="gives Detections for an image, not tuple"):
        MultiRegionTransform(detector=lambda image: (found.boxes, found.scores))(portrait)
    with pytest.raises(ValueError, match=r"landmarks \(N, 5, 2\)"):
        Detections(found.boxes, found.scores, found.landmarks[:, :4])


def test_plausible_landmarks():
    good = TEMPLATE[None]
    upside_down = 1 - TEMPLATE[None]
    points = np.concatenate([good, good * 1.2 - 0.1, upside_down, good * 0.2, np.roll(good, 1, 1), good * np.nan])
    assert plausible(points).tolist() == [True, True, False, False, False, False]
