"""Annotated photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .exposure import normalize_exposure
from .regions.cut import cut_regions
from .regions.geometry import REGIONS, region_matrices

if TYPE_CHECKING:
    from .recognizer import Face

_COLORS = {"face": "#ffb000", "eyes": "#00b7c7", "mouth": "#dc267f"}


def annotate(image: np.ndarray, faces: Sequence[Face], with_regions: bool = True) -> Image.Image:
    """Draw box, expression, landmarks and the outlines of the regions of each face on a photo.

    Args:
        image: RGB, uint8, (H, W, 3).
        faces: The faces that :class:`~mrcar_timm.ExpressionRecognizer` returned for it.
        with_regions: Show below the photo what the network sees of each face, as :func:`seen_regions` does.
    """
    height, width = image.shape[:2]
    line = max(1, round(max(width, height) / 400))
    font = ImageFont.load_default(max(11, round(max(width, height) / 42)))
    strip = seen_regions(image, faces, width) if faces and with_regions else None
    canvas = Image.new("RGB", (width, height + (strip.height if strip else 0)), "white")
    canvas.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(canvas)
    unit_square = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.float64)
    for face in faces:
        matrices = region_matrices(torch.tensor(face.landmarks)[None])[0]
        for name, matrix in zip(REGIONS, matrices, strict=True):
            corners = [(float(x), float(y)) for x, y in (matrix[:2] @ unit_square).T]
            draw.line([*corners, corners[0]], fill=_COLORS[name], width=line)
        for x, y in face.landmarks:
            draw.ellipse([x - line, y - line, x + line, y + line], fill="white", outline="black")
        x1, y1, x2, y2 = face.box
        draw.rectangle([x1, y1, max(x1, x2), max(y1, y2)], outline="white", width=line)
        left, top, right, bottom = draw.textbbox((0, 0), face.label, font=font)
        x = min(max(0.0, x1), max(0.0, width - (right - left) - 6))
        y = max(0.0, y1 - (bottom - top) - 8)
        draw.rectangle([x, y, x + right - left + 6, y + bottom - top + 6], fill="black")
        draw.text((x + 3 - left, y + 3 - top), face.label, fill="white", font=font)
    if strip:
        canvas.paste(strip, (0, height))
    return canvas


def seen_regions(image: np.ndarray, faces: Sequence[Face], width: int = 528) -> Image.Image:
    """Draw what the network sees of each face: its regions, aligned, with their landmarks.

    Args:
        image: RGB, uint8, (H, W, 3).
        faces: The faces that :class:`~mrcar_timm.ExpressionRecognizer` returned for it.
        width: Width of the drawing in pixels; each row has as many faces as fit.
    """
    side = max(1, min(88, width // 3))
    columns = max(1, width // (3 * side + 6))
    rows = -(-len(faces) // columns)
    strip = Image.new("RGB", (width, rows * (side + 6)), "white")
    for index, face in enumerate(faces):
        (crops,) = normalize_exposure(cut_regions(image, np.array([face.landmarks]), size=(side, side)))
        x, y = index % columns * (3 * side + 6), index // columns * (side + 6) + 3
        matrices = region_matrices(torch.tensor(face.landmarks)[None])[0]
        points = torch.cat([torch.tensor(face.landmarks).double(), torch.ones(5, 1)], 1).T  # (3, 5)
        for k, (crop, matrix) in enumerate(zip(crops, matrices, strict=True)):
            region = Image.fromarray((crop.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
            draw = ImageDraw.Draw(region)
            for u, v in (torch.linalg.inv(matrix) @ points)[:2].T.tolist():
                draw.ellipse([u * side - 1.5, v * side - 1.5, u * side + 1.5, v * side + 1.5], fill=_COLORS["face"])
            strip.paste(region, (x + k * side, y))
    return strip
