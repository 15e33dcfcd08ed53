"""Images with many faces whose places are known, made from two public-domain portraits.

python -m tests.scenes five_faces.png    # the one that is timed
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from .conftest import EXAMPLES


@dataclass(frozen=True)
class Head:
    """A head cut out of a portrait: the image, and where in it the face's centre is, and its height."""

    image: Image.Image
    centre: tuple[float, float]
    height: float


@cache
def hopper() -> Image.Image:
    """Grace Hopper (US Navy, from matplotlib's sample data)."""
    with get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB")


@cache
def heads() -> tuple[Head, Head]:
    """Eileen Collins (NASA) and Grace Hopper (US Navy, from matplotlib's sample data)."""
    with Image.open(EXAMPLES / "collins.jpg") as collins:
        return (
            Head(collins.convert("RGB").crop((150, 5, 305, 185)), (73, 112), 108),
            Head(hopper().crop((150, 20, 370, 300)), (113, 205), 215),
        )


def texture(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Random colors at every scale, as a background that is not flat."""
    width, height = size
    canvas = np.full((height, width, 3), 128.0)
    for side in (4, 8, 16, 32, 64):
        noise = rng.normal(0, 18, (side, side, 3)).clip(-127, 127) + 128
        layer = Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        canvas += np.asarray(layer) - 128.0
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def crowd(
    count: int, size: tuple[int, int], seed: int, degrees: float = 15, scale: tuple[float, float] = (0.5, 0.95)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of faces in a grid, of random sizes, turned at random.

    Returns:
        The image (H, W, 3), the centres of the faces (count, 2), and their heights (count,).
    """
    rng = np.random.default_rng(seed)
    canvas = texture(size, rng)
    columns = int(np.ceil(np.sqrt(count * size[0] / size[1])))
    wide, high = size[0] / columns, size[1] / -(-count // columns)
    centres, heights = [], []
    for k in range(count):
        head = heads()[k % 2]
        zoom = rng.uniform(*scale) * min(wide / head.image.width, high / head.image.height)
        turned, centre = turn(head, zoom, rng.uniform(-degrees, degrees), rng.random() < 0.5)
        corner = np.round([(k % columns + 0.5) * wide, (k // columns + 0.5) * high]).astype(int)
        corner -= np.array(turned.size) // 2
        canvas.paste(turned, tuple(corner.tolist()), turned.getchannel("A"))
        centres.append(centre + corner)
        heights.append(head.height * zoom)
    return np.asarray(canvas), np.array(centres), np.array(heights)


def clutter(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Pieces of both portraits without their faces, side by side: a background that is rich, as a crowded room."""
    with Image.open(EXAMPLES / "collins.jpg") as collins:
        first, second = collins.convert("RGB"), hopper()
    sources = [first.crop((0, 190, 512, 512)), second.crop((0, 370, 512, 600)), first.crop((280, 0, 512, 180))]
    canvas = Image.new("RGB", size)
    y = 0
    while y < size[1]:
        x, high = 0, int(rng.integers(20, 61))
        while x < size[0]:
            source, wide = sources[rng.integers(3)], int(rng.integers(20, 61))
            left, top = (int(rng.integers(side - 30)) for side in source.size)
            right, bottom = left + int(rng.integers(20, 91)), top + int(rng.integers(20, 91))
            piece = source.crop((left, top, min(right, source.width), min(bottom, source.height)))
            canvas.paste((ImageOps.mirror(piece) if rng.random() < 0.5 else piece).resize((wide, high)), (x, y))
            x += wide
        y += high
    return canvas


Scene = tuple[np.ndarray, np.ndarray, np.ndarray]
"""An image (H, W, 3), the centres of its faces (N, 2), and their heights (N,)."""


def composed(
    count: int,
    size: tuple[int, int],
    seed: int,
    heights: tuple[float, float],
    degrees: tuple[float, float] = (0, 15),
    cluttered: bool = False,
    glasses: float = 0,
) -> Scene:
    """Faces in a grid, of random heights, turned to either side by an angle within bounds.

    Args:
        count: Number of faces.
        size: Width and height.
        seed: Of the random numbers.
        heights: Bounds of the faces' heights in pixels.
        degrees: Bounds of the angle.
        cluttered: Pieces of photos for a background in place of random colors.
        glasses: Part of the faces that wears dark glasses.
    """
    rng = np.random.default_rng(seed)
    canvas = clutter(size, rng) if cluttered else texture(size, rng)
    columns = int(np.ceil(np.sqrt(max(1, count) * size[0] / size[1])))
    wide, high = size[0] / columns, size[1] / -(-max(1, count) // columns)
    centres, tall = [], []
    for k in range(count):
        head = heads()[k % 2]
        if rng.random() < glasses:
            head = with_glasses(head)
        height, angle = rng.uniform(*heights), rng.uniform(*degrees) * rng.choice([-1, 1])
        turned, centre = turn(head, height / head.height, angle, rng.random() < 0.5)
        corner = np.round([(k % columns + 0.5) * wide, (k // columns + 0.5) * high] - centre).astype(int)
        canvas.paste(turned, tuple(corner.tolist()), turned.getchannel("A"))
        centres.append(centre + corner)
        tall.append(height)
    return np.asarray(canvas), np.array(centres).reshape(-1, 2), np.array(tall)


def with_glasses(head: Head) -> Head:
    """A head with dark glasses."""
    image, (x, y), h = head.image.copy(), head.centre, head.height
    draw = ImageDraw.Draw(image)
    for side in (-1, 1):
        middle = x + side * 0.18 * h
        draw.rounded_rectangle((middle - 0.13 * h, y - 0.2 * h, middle + 0.13 * h, y - 0.06 * h), h / 25, fill="black")
    return Head(image, head.centre, head.height)


def turn(head: Head, zoom: float, degrees: float, mirrored: bool = False) -> tuple[Image.Image, np.ndarray]:
    """A head resized, mirrored and turned (RGBA), and where its face's centre came to lie."""
    image, (x, y) = head.image, head.centre
    if mirrored:
        image, x = ImageOps.mirror(image), image.width - x
    size = (max(1, round(image.width * zoom)), max(1, round(image.height * zoom)))
    reduced = image.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    turned = reduced.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    angle = np.radians(degrees)
    offset = np.array([x * zoom - size[0] / 2, y * zoom - size[1] / 2])
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # y points down
    return turned, rotation @ offset + np.array(turned.size) / 2


def hard_scenes(count: int) -> dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Crowds of twenty turned by up to 50°, blurred, or dark and noisy; ``count`` of each kind."""
    rng = np.random.default_rng(0)
    scenes: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {"turned": [], "blurred": [], "dark": []}
    for seed in range(1000, 1000 + count):
        for kind, some in scenes.items():
            degrees = 50 if kind == "turned" else 25
            image, centres, heights = crowd(20, (800, 600), seed, degrees=degrees, scale=(0.5, 0.95))
            if kind == "blurred":
                image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
            if kind == "dark":
                image = (image * 0.25 + rng.normal(0, 10, image.shape)).clip(0, 255).astype(np.uint8)
            some.append((image, centres, heights))
    return scenes


def found_ones(boxes: np.ndarray, centres: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, int]:
    """Which of the faces have a box, and how many boxes have no face."""
    middle = boxes.reshape(-1, 2, 2).mean(1)
    near = np.linalg.norm(middle[:, None] - centres, axis=2) < 0.3 * heights
    return near.any(0), int((~near.any(1)).sum())


def found_and_invented(boxes: np.ndarray, centres: np.ndarray, heights: np.ndarray) -> tuple[int, int]:
    """How many of the faces have a box, and how many boxes have no face."""
    found, invented = found_ones(boxes, centres, heights)
    return int(found.sum()), invented


if __name__ == "__main__":
    Image.fromarray(crowd(5, (1920, 1080), 0, scale=(0.4, 0.8))[0]).save(sys.argv[1])
