"""An image in many sizes: halves to cut crops from, sheets to search in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

Resize: TypeAlias = Callable[[np.ndarray, int, int], np.ndarray]

# Pixels from which a size is worth a sheet of its own.
_LARGE = 256 * 256


class Halves:
    """An image, its half, its quarter and so on.

    Args:
        image: (H, W, 3), uint8.
        smallest: No shorter side is below it, but the image's own.
        resize: Resizes images, see :meth:`~mrcar_timm.faces.networks.Networks.resize`.
    """

    def __init__(self, image: np.ndarray, smallest: int, resize: Resize) -> None:
        self.height, self.width = image.shape[:2]
        self._resize = resize
        self.levels = [np.ascontiguousarray(image)]  # each (h, w, 3)
        while min(self.levels[-1].shape[:2]) >= 2 * smallest:
            height, width = self.levels[-1].shape[:2]
            self.levels.append(resize(self.levels[-1], (height + 1) // 2, (width + 1) // 2))
        self._images: dict[int, Image.Image] = {}

    def at(self, height: int, width: int) -> np.ndarray:
        """The image in a size no larger than its own."""
        source = next(x for x in reversed(self.levels) if x.shape[0] >= height and x.shape[1] >= width)
        return self._resize(source, height, width)

    def crop(self, box: Sequence[float], side: int) -> Image.Image:
        """Crop a box x1 y1 x2 y2 as a square image; black where the box leaves the image."""
        image, sx, sy = self._reduced(max(box[2] - box[0], box[3] - box[1]) / side)
        x1, y1, x2, y2 = box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy
        if x1 < 0 or y1 < 0 or x2 > image.width or y2 > image.height:
            left, top = math.floor(x1), math.floor(y1)
            image = image.crop((left, top, math.ceil(x2), math.ceil(y2)))
            x1, y1, x2, y2 = x1 - left, y1 - top, x2 - left, y2 - top
        return image.resize((side, side), Image.Resampling.BILINEAR, box=(x1, y1, x2, y2))

    def turned_crop(self, frame: np.ndarray, side: int) -> Image.Image:
        """Crop the image of the unit square under a similarity (3, 3), as a square; black outside of the image."""
        image, sx, sy = self._reduced(math.hypot(frame[0, 0], frame[1, 0]) / side)
        (a, b, x), (c, d, y), _ = frame.tolist()
        matrix = (a * sx / side, b * sx / side, x * sx, c * sy / side, d * sy / side, y * sy)
        return image.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    def _reduced(self, reduction: float) -> tuple[Image.Image, float, float]:
        """The image reduced by less than so much, by half of it at least; and its scale in x and y."""
        level = min(max(0, math.floor(math.log2(max(1, reduction)))), len(self.levels) - 1)
        if level not in self._images:
            self._images[level] = Image.fromarray(self.levels[level])
        image = self._images[level]
        return image, image.width / self.width, image.height / self.height


@dataclass(frozen=True)
class Tile:
    """One size of an image, in a sheet.

    Attributes:
        x, y: Its corner in the sheet; even.
        width, height: In the sheet.
    """

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Sheet:
    """Sizes of an image side by side; its own size is one of few, whatever the image's.

    Attributes:
        pixels: (H, W, 3), uint8.
        tiles: Position of each image.
    """

    pixels: np.ndarray
    tiles: list[Tile]


def pyramid_sizes(height: int, width: int, scale: float, factor: float, smallest: int) -> list[tuple[int, int]]:
    """Heights and widths of an image times ``scale``, ``scale · factor``, …, down to ``smallest`` pixels."""
    sizes = []
    while min(height, width) * scale >= smallest:
        sizes.append((max(smallest, round(height * scale)), max(smallest, round(width * scale))))
        scale *= factor
    return sizes


def sheets(image: Halves, sizes: list[tuple[int, int]], rows: int, overlap: int, grid: int = 32) -> Iterator[Sheet]:
    """Lay out sizes of an image, each of the large ones on a sheet of its own.

    Args:
        image: The image.
        sizes: Heights and widths, the largest first.
        rows, overlap: A sheet's height is a multiple of ``rows``, and ``overlap`` more.
        grid: A sheet's width is a multiple of it.
    """
    large = [size for size in sizes if size[0] * size[1] > _LARGE]
    for some in (*([size] for size in large), sizes[len(large) :]):
        if not some:
            continue
        sheet_width = -(-max(w for _, w in some) // grid) * grid
        tiles, height = _pack(some, sheet_width)
        pixels = np.zeros((-(-max(1, height - overlap) // rows) * rows + overlap, sheet_width, 3), np.uint8)
        for t in tiles:
            pixels[t.y : t.y + t.height, t.x : t.x + t.width] = image.at(t.height, t.width)
        yield Sheet(pixels, tiles)


def _pack(sizes: list[tuple[int, int]], sheet_width: int) -> tuple[list[Tile], int]:
    """Each size into the first free rectangle that holds it, else below all others."""
    tiles: list[Tile] = []
    free: list[tuple[int, int, int, int]] = []  # x, y, width, height
    bottom = 0
    for height, width in sizes:
        high, wide = height + height % 2, width + width % 2
        place = next((f for f in free if f[2] >= wide and f[3] >= high), None)
        if place is None:
            place = (0, bottom, sheet_width, high)
            bottom += high
        else:
            free.remove(place)
        x, y, room_x, room_y = place
        free += [(x + wide, y, room_x - wide, room_y), (x, y + high, wide, room_y - high)]
        tiles.append(Tile(x, y, width, height))
    return tiles, bottom


def pillow_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (H, W, 3) of type uint8 in another size, antialiased."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def stacked(crops: list[Image.Image], side: int) -> np.ndarray:
    """Square images as one array (N, side, side, 3), uint8."""
    # Each through an array of its own would take as long as cutting it.
    column = Image.new("RGB", (side, side * len(crops)))
    for row, crop in enumerate(crops):
        column.paste(crop, (0, row * side))
    return np.asarray(column).reshape(len(crops), side, side, 3)
