"""Damage that pictures meet on their way to a recognizer, to see what it costs."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from ..data.images import ImageSet
from ..data.landmarks import cache_beside, find_landmarks
from .load import Progress, silent

_Damage = Callable[[Image.Image, np.ndarray, np.random.Generator], Image.Image]


def _blur(image: Image.Image, points: np.ndarray, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(image.width / 32))


def _noise(image: Image.Image, points: np.ndarray, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32)
    return Image.fromarray((pixels + rng.normal(0, 20, pixels.shape)).round().clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, points: np.ndarray, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer)


def _light(factor: float) -> _Damage:
    return lambda image, points, rng: ImageEnhance.Brightness(image).enhance(factor)


def _turn(degrees: float) -> _Damage:
    def turn(image: Image.Image, points: np.ndarray, rng: np.random.Generator) -> Image.Image:
        # Turned over its own enlargement, so that no black corners tell the angle.
        width, height = image.size
        border = np.pad(np.asarray(image), [(height, height), (width, width)] + [(0, 0)] * (len(image.getbands()) > 1),
                        mode="edge")  # fmt: skip
        turned = Image.fromarray(border).rotate(degrees, Image.Resampling.BILINEAR)
        return turned.crop((width, height, 2 * width, 2 * height))

    return turn


def _cover(eye: bool) -> _Damage:
    def cover(image: Image.Image, points: np.ndarray, rng: np.random.Generator) -> Image.Image:
        apart = np.hypot(*(points[1] - points[0]))
        if eye:
            x, y = points[rng.integers(2)]
            half = np.array([0.4, 0.3]) * apart
        else:
            x, y = points[3:].mean(0)
            half = np.array([0.65, 0.35]) * apart
        box = np.round([x - half[0], y - half[1], x + half[0], y + half[1]]).astype(int)
        covered = image.copy()
        covered.paste(0 if image.mode == "L" else (0, 0, 0), tuple(box.tolist()))
        return covered

    return cover


def _half(image: Image.Image, points: np.ndarray, rng: np.random.Generator) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)


#: What happens to a picture, by name. Lengths go with the picture: blurred by a 32nd of its width (1.5 of 48
#: pixels); grey values change by a standard deviation of 20 of 255; an eye, one of the two at random, is covered
#: in black by 0.8×0.6 and the mouth by 1.3×0.7 eye distances; half size leaves 24 of 48 pixels.
DAMAGES: dict[str, _Damage] = {
    "none": lambda image, points, rng: image,
    "blur": _blur,
    "noise": _noise,
    "JPEG quality 20": _jpeg,
    "brightness −40 %": _light(0.6),
    "brightness +40 %": _light(1.4),
    "rotation −15°": _turn(15),
    "rotation +15°": _turn(-15),
    "an eye covered": _cover(eye=True),
    "mouth covered": _cover(eye=False),
    "half size": _half,
}


def damaged(data: ImageSet, damage: str, path: Path, progress: Progress = silent) -> ImageSet:
    """The same pictures under one of :data:`DAMAGES`, which is the same in every call.

    Args:
        data: Pictures.
        damage: A name.
        path: Where they came from: the cache of landmarks, which say where eyes and mouth are, goes there.
        progress: Wrapper of long loops.
    """
    points = find_landmarks(data.images, cache_beside(path)).points
    rng = np.random.default_rng(0)
    change = DAMAGES[damage]
    images = [
        np.asarray(change(Image.fromarray(image), at, rng))
        for image, at in progress(zip(data.images, points, strict=True), damage, len(data))
    ]
    return replace(data, images=np.stack(images))
