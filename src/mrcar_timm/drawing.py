"""Annotated photos."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .exposure import normalize_exposure
from .regions.cut import cut_regions
from .regions.geometry import REGIONS, corners, region_matrices

if TYPE_CHECKING:
    from .recognizer import Face

#: What :func:`annotate` draws of a face.
LAYERS = ("boxes", "labels", "landmarks", "regions")
_COLORS = {"face": "#ffb000", "eyes": "#00b7c7", "mouth": "#dc267f"}
_SMALLEST_TEXT = 10  # pixels
_PAD = 3
_CAPTION = 14  # height of the text above what the network sees of a face

Rectangle = tuple[float, float, float, float]


def annotate(
    image: np.ndarray,
    faces: Sequence[Face],
    with_regions: bool = True,
    layers: Collection[str] = LAYERS,
    chosen: int | None = None,
) -> Image.Image:
    """Draw box, expression, landmarks and the outlines of the regions of each face on a photo.

    Several faces are numbered in their order, faces of a video have their own numbers. The size of the text follows the
    face, and no label covers another face: where there is no room for the expression, the number stands alone.

    Args:
        image: RGB, uint8, (H, W, 3), in its own size or reduced.
        faces: The faces that :class:`~mrcar_timm.ExpressionRecognizer` returned for it.
        with_regions: Show below the photo what the network sees of each face, as :func:`seen_regions` does.
        layers: What is drawn, a choice of :data:`LAYERS`.
        chosen: Index of a face whose box stands out.
    """
    height, width = image.shape[:2]
    scale = width / getattr(faces, "size", (width, height))[0]
    line = max(1, round(max(width, height) / 400))
    strip = seen_regions(image, faces, width) if faces and with_regions else None
    canvas = Image.new("RGB", (width, height + (strip.height if strip else 0)), "white")
    canvas.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(canvas)
    for index, face in enumerate(faces):
        thin = max(1, min(line, round((face.box[2] - face.box[0]) * scale / 40)))
        landmarks = np.array(face.landmarks) * scale
        if "regions" in layers:
            outlines = corners(region_matrices(landmarks[None])[0]).tolist()
            for name, outline in zip(REGIONS, outlines, strict=True):
                draw.line([(x, y) for x, y in (*outline, outline[0])], fill=_COLORS[name], width=thin)
        if "landmarks" in layers:
            for x, y in landmarks.tolist():
                draw.ellipse([x - thin, y - thin, x + thin, y + thin], fill="white", outline="black")
        if "boxes" in layers:
            x1, y1, x2, y2 = (v * scale for v in face.box)
            color, width_of_line = ("#ff5ca8", 2 * thin + 1) if index == chosen else ("white", thin)
            draw.rectangle([x1, y1, max(x1, x2), max(y1, y2)], outline=color, width=width_of_line)
    if "labels" in layers:
        boxes = np.array([face.box for face in faces]).reshape(-1, 4) * scale
        for (x, y, right, bottom), text, size in _labels(_texts(faces), boxes, width, height):
            font = _font(size)
            left, top, _, _ = font.getbbox(text)
            draw.rectangle([x, y, right - 1, bottom - 1], fill="black")
            draw.text((x + _PAD - left, y + _PAD - top), text, fill="white", font=font)
    if strip:
        canvas.paste(strip, (0, height))
    return canvas


def seen_regions(image: np.ndarray, faces: Sequence[Face], width: int = 528) -> Image.Image:
    """Draw what the network sees of each face: its regions, aligned and evenly exposed, with their landmarks.

    Several faces have their numbers and expressions above them.

    Args:
        image: RGB, uint8, (H, W, 3), in its own size or reduced.
        faces: The faces that :class:`~mrcar_timm.ExpressionRecognizer` returned for it.
        width: Width of the drawing in pixels; each row has as many faces as fit.
    """
    scale = image.shape[1] / getattr(faces, "size", (image.shape[1], 0))[0]
    side = max(1, min(88, width // 3))
    caption = _CAPTION if len(faces) > 1 else 0
    columns = max(1, width // (3 * side + 6))
    rows = -(-len(faces) // columns)
    strip = Image.new("RGB", (width, rows * (caption + side + 6)), "white")
    canvas = ImageDraw.Draw(strip)
    for index, (face, text) in enumerate(zip(faces, _texts(faces), strict=True)):
        landmarks = np.array(face.landmarks) * scale
        (crops,) = normalize_exposure(cut_regions(image, landmarks[None], size=(side, side)))
        x, y = index % columns * (3 * side + 6), index // columns * (caption + side + 6) + caption + 3
        if caption:
            canvas.text((x + 2, y - caption), text[0], fill="black", font=_font(_CAPTION - 3))
        matrices = region_matrices(landmarks[None])[0]
        points = np.concatenate([landmarks, np.ones((5, 1))], 1).T  # (3, 5)
        for k, (crop, matrix) in enumerate(zip(crops, matrices, strict=True)):
            region = Image.fromarray((crop.transpose(1, 2, 0) * 255).round().astype(np.uint8))
            draw = ImageDraw.Draw(region)
            for u, v in (np.linalg.inv(matrix) @ points)[:2].T.tolist():
                draw.ellipse([u * side - 1.5, v * side - 1.5, u * side + 1.5, v * side + 1.5], fill=_COLORS["face"])
            strip.paste(region, (x + k * side, y))
    return strip


def _texts(faces: Sequence[Face]) -> list[tuple[str, ...]]:
    """What can stand beside each face, the longest first."""
    texts: list[tuple[str, ...]] = []
    for index, face in enumerate(faces, start=1):
        number = getattr(face, "number", index if len(faces) > 1 else None)
        expression = f"{face.expression} {face.probability:.0%}"
        texts.append((expression,) if number is None else (f"{number} {expression}", str(number)))
    return texts


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _extent(text: str, size: int) -> tuple[float, float]:
    """Width and height of a label."""
    left, top, right, bottom = _font(size).getbbox(text)
    return right - left + 2 * _PAD, bottom - top + 2 * _PAD


def _labels(
    texts: Sequence[tuple[str, ...]], boxes: np.ndarray, width: int, height: int
) -> Iterator[tuple[Rectangle, str, int]]:
    """Rectangle, text and font size of each face's label, clear of other faces and labels.

    Where there is no room around a face, its number lies in a corner of its own box.
    """
    taken = boxes.copy()
    for own, (choices, box) in enumerate(zip(texts, boxes, strict=True)):
        rectangle, text, size = next(_free_places(choices, box, np.delete(taken, own, 0), width, height))
        taken = np.concatenate([taken, [rectangle]])
        yield rectangle, text, size


def _free_places(
    choices: tuple[str, ...], box: np.ndarray, taken: np.ndarray, width: int, height: int
) -> Iterator[tuple[Rectangle, str, int]]:
    """Places for a face's label, the best first; the last is always there."""
    x1, y1, x2, y2 = box.tolist()
    largest = max(_SMALLEST_TEXT, min(round((x2 - x1) / 6), round(max(width, height) / 42)))
    sizes = sorted({largest, (largest + _SMALLEST_TEXT) // 2, _SMALLEST_TEXT}, reverse=True)
    for text in choices:
        for size in sizes:
            w, h = _extent(text, size)
            middle = (x1 + x2 - w) / 2
            for x, y in ((x1, y1 - h), (middle, y1 - h), (middle, y2), (x1, y2)):
                x = min(max(0, x), width - w)
                rectangle = (x, y, x + w, y + h)
                if x >= 0 and y >= 0 and y + h <= height and not _touches(rectangle, taken):
                    yield rectangle, text, size
    # Within the face: its number, or all there is to say, in the first corner that no other face shares.
    text, size = choices[-1], _SMALLEST_TEXT if len(choices) > 1 else largest
    w, h = _extent(text, size)
    corners = [(x1, y1), (x2 - w, y1), (x1, y2 - h), (x2 - w, y2 - h)]
    inside = [(min(max(0, x), max(0, width - w)), min(max(0, y), max(0, height - h))) for x, y in corners]
    free = [(x, y) for x, y in inside if not _touches((x, y, x + w, y + h), taken)]
    x, y = (free or inside)[0]
    yield (x, y, x + w, y + h), text, size


def _touches(rectangle: Rectangle, others: np.ndarray) -> bool:
    low, high = np.array(rectangle[:2]), np.array(rectangle[2:])
    return bool(((low < others[:, 2:]) & (high > others[:, :2])).all(1).any())
