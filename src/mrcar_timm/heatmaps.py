"""Explanations as images: heat maps over what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from .explain import RegionExplanation
    from .recognizer import Explanation

_SIDE, _GAP = 112, 6  # pixels of a tile, and between tiles
_TITLE, _CAPTION = 24, 16  # heights of lines of text
_NAMES = 150  # width of the column of numbers
_OPAQUE = 0.75  # of the strongest evidence


def draw_explanations(explanations: Sequence[Explanation]) -> Image.Image:
    """Draw what speaks for and against the expression of each face, a row for each region.

    From left to right: the numbers, the region as the network sees it, the evidence (red for the expression, blue
    against it; one scale for all regions of a face), and the maps of coordinate attention from the first block to the
    last (from the lowest value, dark, to the highest, yellow, which stand below).

    Args:
        explanations: What :meth:`~mrcar_timm.ExpressionRecognizer.explain` returned, at least one.
    """
    several = len(explanations) > 1
    panels = [_panel(each, number if several else None) for number, each in enumerate(explanations, start=1)]
    width = max(panel.width for panel in panels)
    canvas = Image.new("RGB", (width, sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        canvas.paste(panel, (0, top))
        top += panel.height
    return canvas


def _panel(explanation: Explanation, number: int | None) -> Image.Image:
    """The explanation of one face, with its number if there are several."""
    regions = explanation.regions
    maps = max(len(region.attention) for region in regions.values())
    row = _SIDE + _CAPTION + _GAP
    size = (_NAMES + (2 + max(maps, 2)) * (_SIDE + _GAP), _TITLE + _CAPTION + len(regions) * row)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    title = f"{explanation.expression} {explanation.probability:.1%}"
    if number is not None:
        title = f"{number}  {title}"
    draw.text((_GAP, 4), title, fill="black", font=_font(15))
    heads = ["seen", "evidence", "coordinate attention" if maps else "no coordinate attention"]
    for column, head in enumerate(heads):
        draw.text((_NAMES + column * (_SIDE + _GAP), _TITLE), head, fill="black", font=_font(11))
    strongest = max(float(np.abs(region.evidence).max()) for region in regions.values())
    for index, (name, region) in enumerate(regions.items()):
        top = _TITLE + _CAPTION + index * row
        lines = [name, f"evidence: {region.drop:+.2f}", f"{region.covered:.1%} without it"]
        for line, text in enumerate(lines):
            draw.text((_GAP, top + 18 * line), text, fill="black", font=_font(13 if line == 0 else 11))
        for column, (tile, caption) in enumerate(_tiles(region, strongest)):
            left = _NAMES + column * (_SIDE + _GAP)
            canvas.paste(tile, (left, top))
            draw.text((left, top + _SIDE), caption, fill="black", font=_font(10))
    return canvas


def _tiles(region: RegionExplanation, strongest: float) -> list[tuple[Image.Image, str]]:
    """The images of one region and their captions."""
    seen = Image.fromarray(region.image).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    tiles = [(seen, ""), (overlay(region.image, region.evidence, strongest), "")]
    for values in region.attention.values():
        low, high = float(values.min()), float(values.max())
        tiles.append((_attention(seen, values, low, high), f"{low:.2f} to {high:.2f}"))
    return tiles


def overlay(image: np.ndarray, evidence: np.ndarray, strongest: float, side: int = _SIDE) -> Image.Image:
    """Lay evidence over a region: red speaks for the expression, blue against it.

    Args:
        image: RGB, uint8, (h, w, 3).
        evidence: Heat map, (h, w).
        strongest: Value with the strongest color.
        side: Width and height of the result in pixels.
    """
    heat = _enlarged(evidence / max(strongest, 1e-9), side)
    grey = np.asarray(Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BICUBIC))
    colors = np.where(heat[..., None] > 0, np.array([214, 39, 40]), np.array([31, 119, 180]))
    alpha = (np.abs(heat).clip(max=1) * _OPAQUE)[..., None]
    return Image.fromarray(((1 - alpha) * grey[..., None] + alpha * colors).round().astype(np.uint8))


def _attention(seen: Image.Image, values: np.ndarray, low: float, high: float) -> Image.Image:
    from matplotlib import colormaps

    parts = _enlarged((values - low) / max(high - low, 1e-9), _SIDE)
    colors = Image.fromarray((colormaps["viridis"](parts)[..., :3] * 255).round().astype(np.uint8))
    return Image.blend(seen.convert("L").convert("RGB"), colors, 0.6)


def _enlarged(values: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
