"""Stretch the values of dark and flat images, whose values span a small part of their range.

The span is that from the 1st to the 99th percentile of luma. An image that spans 0.5 of its range or more stays as it
is; one that spans 0.3 or less is stretched until it spans all of it, up to twenty times, so that noise stays noise; in
between the change grows evenly. Clipped values, such as black bars or a lamp, count only where the others come near.
"""

from __future__ import annotations

import numpy as np

from .averaging import averaged
from .inputs import LUMA

_TAIL = 0.01
_STRETCHED, _KEPT = 0.3, 0.5
_MOST_GAIN = 20
# Distance from black or white up to which a value is clipped, and up to which the others make it count.
_CLIPPED, _NEAR = 3.5 / 255, 16 / 255
# About as many pixels of an image are looked at.
_SAMPLES = 40 * 40
# How far outside of the span, in parts of it, values are lost in a stretched image, and what part of it must be lost.
_FAR, _LOST = 0.25, 0.001
# Height and width that regions are reduced to before they are looked at.
REGION_SAMPLES = 22
# Of 16-bit images more is looked at, and less is left out at the ends: what is clipped there is lost for good.
_SAMPLES_OF_16_BITS, _TAIL_OF_16_BITS, _GAIN_OF_16_BITS = 256 * 256, 0.001, 257


def exposure_window(values: np.ndarray, tail: float = _TAIL, most_gain: float = _MOST_GAIN) -> np.ndarray:
    """Which values are to become black and white.

    Args:
        values: (N, K), luma in 0…1.
        tail: Part of the values at either end that does not count.
        most_gain: How much values are stretched at most.

    Returns:
        (N, 2): 0 and 1 where nothing is to change.

    Example:
        >>> exposure_window(np.linspace(0.5, 0.6, 101)[None]).round(3).tolist()
        [[0.501, 0.599]]
    """
    ordered = np.sort(values, 1)
    everything = np.full(len(ordered), ordered.shape[1])
    dark, bright = (clipped.sum(1) for clipped in (ordered < _CLIPPED, ordered > 1 - _CLIPPED))
    others = everything - dark - bright

    def quantile(part: float, start: np.ndarray | int, count: np.ndarray) -> np.ndarray:
        index = np.round(start + part * (count - 1)).clip(0, ordered.shape[1] - 1).astype(int)
        return ordered[np.arange(len(ordered)), index]

    low, high = quantile(tail, 0, everything), quantile(1 - tail, 0, everything)
    low_others, high_others = quantile(tail, dark, others), quantile(1 - tail, dark, others)
    low = np.where((others > 0) & (low_others > _NEAR), low_others, low)
    high = np.where((others > 0) & (high_others < 1 - _NEAR), high_others, high)
    change = ((_KEPT - (high - low)) / (_KEPT - _STRETCHED)).clip(0, 1)
    span = (high - low).clip(min=1 / most_gain)
    filled = (high - low) / span
    middle = (low + high) / 2
    low = middle - (0.5 * filled + middle * (1 - filled)) * span  # what spans nothing stays as bright as it is
    return np.stack([change * low, 1 - change * (1 - low - span)], 1)


def normalize_exposure(regions: np.ndarray) -> np.ndarray:
    """Stretch the regions of each face together.

    Args:
        regions: (N, R, C, h, w), values in 0…1, C = 1 or 3.

    Returns:
        The same shape and range. Faces that span enough of it come back as they are.
    """
    if not len(regions):
        return regions
    luma = regions[:, :, 0]  # (N, R, h, w)
    if regions.shape[2] == 3:
        luma = (regions * np.array(LUMA, np.float32)[:, None, None]).sum(2)
    samples = averaged(averaged(luma, REGION_SAMPLES, axis=2), REGION_SAMPLES, axis=3)
    low, high = exposure_window(samples.reshape(len(luma), -1)).T[:, :, None, None, None, None]
    return ((regions - low) / (high - low)).clip(0, 1)


def stretched_image(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) of type uint8, stretched if it spans 0.3 of its range or less; else the very same."""
    return exposures(image)[-1]


def exposures(image: np.ndarray) -> list[np.ndarray]:
    """An image (H, W, 3) of type uint8 in the exposures in which all of it can be seen.

    The image itself where it spans more than 0.3 of its range; else the stretched one, after the image itself if
    something in it lies far outside of its span, such as a face in a spotlight.
    """
    step = max(1, round((image.shape[0] * image.shape[1] / _SAMPLES) ** 0.5))
    samples = image[::step, ::step] @ (np.array(LUMA, np.float32) / 255)
    low, high = exposure_window(samples.reshape(1, -1))[0].tolist()
    if high - low > _STRETCHED:
        return [image]
    table = ((np.arange(256) / 255 - low) / (high - low)).clip(0, 1) * 255
    stretched = table.round().astype(np.uint8)[image]
    far = (samples < low - _FAR * (high - low)) | (samples > high + _FAR * (high - low))
    return [image, stretched] if far.mean() > _LOST else [stretched]


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Convert uint16 to uint8; values that use few of their bits, as in infra-red images, are stretched."""
    height, width = values.shape[:2]
    step = max(1, round((height * width / _SAMPLES_OF_16_BITS) ** 0.5))
    samples = values[::step, ::step] / 65535
    low, high = exposure_window(samples.reshape(1, -1), _TAIL_OF_16_BITS, _GAIN_OF_16_BITS)[0].tolist()
    scaled = values / np.float32(65535)
    scaled -= np.float32(low)  # in place: images are large
    scaled *= np.float32(255 / (high - low))
    return scaled.round(out=scaled).clip(0, 255, out=scaled).astype(np.uint8)
