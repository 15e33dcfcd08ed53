"""Dark and flat images, and those of few bits, against what they were before."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from mrcar_timm import MTCNNDetector, MultiRegionTransform
from mrcar_timm.averaging import averaged
from mrcar_timm.data.image_set import ImageSet
from mrcar_timm.exposure import exposure_window, exposures, normalize_exposure, stretched_image, to_8_bits
from mrcar_timm.images import to_rgb
from mrcar_timm.regions.geometry import REGIONS, template_landmarks
from mrcar_timm.training import exposure as training_exposure
from mrcar_timm.training.batches import RegionBatches

from .scenes import composed, hopper


def ramp(low, high, count=1001):
    return np.linspace(low, high, count, dtype=np.float32)[None]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (ramp(0, 1), (0, 1)),
        (ramp(0.1, 0.65), (0, 1)),  # spans 0.539 without its tails
        (ramp(0.4, 0.7), (0.403, 0.697)),  # 0.294: all of it
        (ramp(0.3, 0.7), (0.304 * 0.54, 1 - 0.304 * 0.54)),  # 0.392: part of the way
        (ramp(0.0, 0.1), (0.001, 0.099)),
        (ramp(0.3, 0.3), (0.285, 0.335)),  # nothing: 0.3 stays 0.3
        (ramp(0, 0), (0, 0.05)),
        (ramp(1, 1), (0.95, 1)),
    ],
)
def test_window_by_hand(values, expected):
    assert exposure_window(values)[0].tolist() == pytest.approx(expected, abs=2e-3)


def test_window_moves_evenly():
    spans = np.linspace(0.2, 0.6, 81)
    windows = exposure_window(np.concatenate([ramp(0.5 - s / 2, 0.5 + s / 2) for s in spans]))
    wide = windows[:, 1] - windows[:, 0]
    assert (np.diff(wide) >= 0).all()
    assert np.diff(wide).max() < 0.03
    assert wide[0] == pytest.approx(0.98 * 0.2, abs=1e-3)
    assert wide[-1] == 1


@pytest.mark.parametrize("clipped", [0.0, 1.0])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_bars_and_lamps_do_not_count(clipped, part):
    """A flat image stays one inside black or white bars, and a dark room with a lamp in it."""
    values = ramp(0.4, 0.6)
    bars = np.full((1, round(part / (1 - part) * values.shape[1])), clipped, np.float32)
    with_bars = exposure_window(np.concatenate([values, bars], 1))
    np.testing.assert_allclose(with_bars, exposure_window(values), atol=3e-3)
    dark = np.concatenate([ramp(0, 0.2), np.ones((1, 50), np.float32)], 1)
    assert exposure_window(dark)[0].tolist() == pytest.approx((0.002, 0.198), abs=3e-3)


def test_noise_stays_noise():
    noise = np.random.default_rng(0).normal(20, 1, (200, 300, 3)).round().astype(np.uint8)
    assert stretched_image(noise).std() < 25
    assert len(MTCNNDetector()(noise)) == 0


def test_regions_of_a_face_change_together():
    ramps = np.broadcast_to(np.linspace(0, 1, 44, dtype=np.float32), (3, 44, 44)) ** np.float32([[[0.5]], [[1]], [[2]]])
    bright = np.stack([ramps, ramps.swapaxes(1, 2), ramps[..., ::-1]])[None]  # (1, R, C, h, w)
    both = np.concatenate([bright, np.float32(0.1) * bright])
    once = normalize_exposure(both)
    assert once.dtype == np.float32
    assert (once[0] == bright[0]).all()
    luma = (0.1 * bright * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(2)
    low, high = exposure_window(luma.reshape(1, 3, 22, 2, 22, 2).mean((3, 5)).reshape(1, -1))[0]
    np.testing.assert_allclose(once[1], ((0.1 * bright[0] - low) / (high - low)).clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(normalize_exposure(both[1:]), once[1:], atol=1e-6)  # alone as in a batch
    np.testing.assert_allclose(normalize_exposure(both[..., ::-1]), once[..., ::-1], atol=1e-6)
    assert normalize_exposure(both[:0]).shape == (0, 3, 3, 44, 44)
    grey = both[1:, :, :1]
    as_color = normalize_exposure(np.repeat(grey, 3, 2))[:, :, :1]
    np.testing.assert_allclose(as_color, normalize_exposure(grey), atol=1e-6)
    for regions in (both, grey):  # in training, on any device
        in_training = training_exposure.normalize_exposure(torch.from_numpy(regions))
        np.testing.assert_allclose(in_training, normalize_exposure(regions), atol=1e-5)


@pytest.mark.parametrize(("length", "count"), [(112, 22), (44, 22), (37, 24), (22, 48), (1, 7), (100, 3)])
def test_means_are_pytorchs(length, count):
    values = np.random.default_rng(0).random((2, 3, length, 4), np.float32)
    expected = F.adaptive_avg_pool2d(torch.from_numpy(values), (count, 4))
    np.testing.assert_allclose(averaged(values, count, axis=2), expected, atol=1e-6)
    np.testing.assert_allclose(averaged(values[..., ::-1, :], count, axis=2), expected.flip(2), atol=1e-6)


def test_a_well_exposed_image_is_the_very_same(portrait):
    image = np.asarray(portrait)
    assert stretched_image(image) is image
    half = (image * 0.4).astype(np.uint8)
    assert stretched_image(half) is half  # a detector finds its faces as they are


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bits_of_a_camera(portrait, bits):
    """As raw values, as infra-red and medical cameras store them."""
    image = np.asarray(portrait)
    values = (image.astype(np.uint32) * (2**bits - 1) / 255).round().astype(np.uint16)
    assert np.abs(to_rgb(values).astype(int) - image).max() <= 2
    assert np.abs(to_rgb(values.astype(">u2")).astype(int) - image).max() <= 2
    grey = values[..., 1]
    assert np.abs(to_rgb(grey)[..., 0].astype(int) - image[..., 1]).max() <= 2
    assert np.abs(to_rgb(Image.fromarray(grey))[..., 0].astype(int) - image[..., 1]).max() <= 2


def test_infra_red(portrait):
    """A few hundred steps far from black, and a dead pixel."""
    grey = np.asarray(portrait.convert("L"))
    values = 7000 + 3 * grey.astype(np.uint16)
    values[0, 0] = 65535
    seen = to_8_bits(values).astype(int)
    assert np.abs(seen[1:] - grey[1:]).mean() < 3
    assert len(MTCNNDetector()(to_rgb(values))) == 1
    black = np.zeros((20, 30), np.uint16)
    assert not to_8_bits(black).any()
    assert (to_8_bits(black + 65535) == 255).all()


LIGHTS = {
    "×0.3": (0.3, 0), "×0.15": (0.15, 0), "×0.08": (0.08, 0), "flat": (0.2, 180), "flat and dark": (0.2, 10),
    "12 bits in 16": (16 / 257, 0),
}  # fmt: skip


@pytest.mark.parametrize("light", LIGHTS)
def test_the_same_expression_in_any_light(recognizer, portrait, light):
    gain, offset = LIGHTS[light]
    for image in (np.asarray(portrait), np.asarray(hopper())):
        (bright,) = recognizer(image)
        (dim,) = recognizer((image * gain + offset).astype(np.uint8))
        assert dim.expression == bright.expression
        assert dim.probability == pytest.approx(bright.probability, abs=0.2)
        assert np.abs(np.subtract(dim.box, bright.box)).max() < 0.1 * (bright.box[3] - bright.box[1])


def test_light_with_bars_around_it(recognizer, portrait):
    flat = (np.asarray(portrait) * 0.2 + 150).astype(np.uint8)
    for color in (0, 255):
        framed = np.full((712, 712, 3), color, np.uint8)
        framed[100:612, 100:612] = flat
        (face,) = recognizer(framed)
        assert face.expression == "happiness"


def test_a_face_in_a_spotlight(recognizer, portrait):
    """It is what is bright in a dark image: stretched it would be white."""
    night = np.full((720, 1280, 3), 6, np.uint8)
    night[300:384, 600:684] = np.asarray(portrait.crop((130, 10, 330, 210)).resize((84, 84)))
    assert len(exposures(night)) == 2
    assert len(exposures(night[:200])) == 1
    (face,) = recognizer(night)
    assert face.expression == "happiness"


def test_dark_crowds():
    detector = MTCNNDetector()
    for seed, gain in ((0, 0.3), (1, 0.1), (2, 0.06)):
        image, *_ = composed(20, (1000, 750), seed, (40, 100))
        assert len(detector((image * gain).astype(np.uint8))) == 20


def test_in_training_as_in_use(portrait):
    """The network sees the same of a dark image and of a bright one, where it is trained as where it is used."""
    head = portrait.crop((160, 40, 290, 170)).convert("L").resize((48, 48), Image.Resampling.LANCZOS)
    crop = np.asarray(ImageOps.autocontrast(head, cutoff=1))
    images = np.stack([crop, (crop * 0.3).round().astype(np.uint8), (crop * 0.2 + 120).round().astype(np.uint8)])
    data = ImageSet(images, np.zeros(3, int), ("happiness",), np.arange(3))
    batches = RegionBatches(data, np.broadcast_to(template_landmarks(48, 48), (3, 5, 2)), REGIONS, (44, 44))
    seen = batches.view(torch.arange(3), torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    apart = torch.from_numpy(np.abs(images / 255 - images[0] / 255).mean((1, 2)) / 0.25)[1:]
    assert ((seen - seen[:1]).abs().mean((1, 2, 3, 4))[1:] < 0.25 * apart).all()
    transform = MultiRegionTransform()
    bright = transform(portrait)
    dark = transform((np.asarray(portrait) * 0.15).astype(np.uint8))
    assert (bright - dark).abs().mean() < 0.25
