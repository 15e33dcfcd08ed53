"""Damage that images meet on their way to a recognizer, to see what it costs."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ..data.image_set import ImageSet
from ..data.landmarks import cache_beside, find_landmarks
from ..data.sets import recognize
from ..data.splits import read_part
from ..images import to_rgb
from ..metrics import score
from ..network import Network
from ..progress import Progress, silent
from ..provenance import provenance
from ..training.batches import make_split
from ..training.evaluate import check_labels, predict_logits

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


def _values(change: Callable[[np.ndarray], np.ndarray]) -> _Damage:
    """Change values in 0…1."""

    def changed(image: Image.Image, points: np.ndarray, rng: np.random.Generator) -> Image.Image:
        values = change(np.asarray(image) / 255) * 255
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))

    return changed


def _times(factor: float, about: float, values: np.ndarray) -> np.ndarray:
    return about + factor * (values - about)


def _power(gamma: float, values: np.ndarray) -> np.ndarray:
    return values**gamma


def _bits(bits: int) -> _Damage:
    """As a camera of so many bits stores it in 16, and as it is read again."""

    def few(image: Image.Image, points: np.ndarray, rng: np.random.Generator) -> Image.Image:
        stored = (np.asarray(image) / 255 * (2**bits - 1)).round().astype(np.uint16)
        return Image.fromarray(to_rgb(stored)).convert(image.mode)

    return few


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


#: Light by name: brightness and contrast (about 0.6 of the range) times a factor, gamma, and 10 and 12 bits in 16.
LIGHT: dict[str, _Damage] = {
    **{f"brightness ×{factor}": _values(partial(_times, factor, 0.0)) for factor in (1.4, 0.6, 0.3, 0.15, 0.08)},
    **{f"contrast ×{factor}": _values(partial(_times, factor, 0.6)) for factor in (0.5, 0.2)},
    **{f"gamma {gamma}": _values(partial(_power, gamma)) for gamma in (0.4, 2.5)},
    **{f"{bits} of 16 bits": _bits(bits) for bits in (10, 12)},
}

#: Damages by name. Lengths go with the image: blurred by a 32nd of its width (1.5 of 48
#: pixels); grey values change by a standard deviation of 20 of 255; an eye, one of the two at random, is covered
#: in black by 0.8×0.6 and the mouth by 1.3×0.7 eye distances; half size leaves 24 of 48 pixels.
DAMAGES: dict[str, _Damage] = {
    "none": lambda image, points, rng: image,
    "blur": _blur,
    "noise": _noise,
    "JPEG quality 20": _jpeg,
    **LIGHT,
    "rotation −15°": _turn(15),
    "rotation +15°": _turn(-15),
    "an eye covered": _cover(eye=True),
    "mouth covered": _cover(eye=False),
    "half size": _half,
}


def damaged(data: ImageSet, damage: str, path: Path, progress: Progress = silent) -> ImageSet:
    """The same images under one of :data:`DAMAGES`, which is the same in every call.

    Args:
        data: Images.
        damage: A name.
        path: The data set; landmarks, which say where eyes and mouth are, are cached beside it.
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


def score_damaged(
    networks: Mapping[str, Network],
    path: Path,
    split: str = "validation",
    data: str | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score networks, one crop, under each of :data:`DAMAGES`; landmarks are detected in the damaged images.

    Args:
        networks: By what they are called in the result.
        path: The data set.
        split: "train", "validation" or "test".
        data: Name of the data set; by its layout if None.
        device: Device of the networks.
        progress: Wrapper of long loops.

    Returns:
        "models" (digests of their weights), "data", "split", "data_sha256", "made_by" and "rows": for each damage
        the "accuracy" of each network and where the "landmarks" came from.

    Raises:
        DataError: If the data set is not what its reader expects.
        MRCARError: If a network knows other classes.
    """
    name = data or recognize(path)
    images = read_part(name, path, split)
    for network in networks.values():
        check_labels(network.labels, images.classes)
    rows = []
    for damage in DAMAGES:
        changed = damaged(images, damage, path, progress)
        row: dict[str, Any] = {"damage": damage, "accuracy": {}}
        for called, network in networks.items():
            scored = make_split(changed, path, network.model.regions, network.size[0], device, progress)
            logits = predict_logits(network.model, scored.batches, track=partial(progress, description=damage))
            row["accuracy"][called] = score(logits, scored.batches.labels, images.classes).accuracy
            row["landmarks"] = scored.landmarks
        rows.append(row)
    return {
        "models": {called: network.sha256 for called, network in networks.items()},
        "data": name,
        "split": split,
        "data_sha256": images.digest(),
        "made_by": provenance(),
        "rows": rows,
    }
