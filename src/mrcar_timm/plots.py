"""Pictures of results: annotated photos, learning curves, confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .regions.cut import cut_regions
from .regions.geometry import REGIONS, region_matrices

if TYPE_CHECKING:
    from .recognizer import Face
    from .training.evaluate import Calibration

_COLOURS = {"face": "#ffb000", "eyes": "#00b7c7", "mouth": "#dc267f"}


def annotate(image: np.ndarray, faces: Sequence[Face], with_regions: bool = True) -> Image.Image:
    """Draw box, expression, landmarks and the outlines of the regions of each face on a photo.

    Args:
        image: RGB, uint8, (H, W, 3).
        faces: As :class:`~mrcar_timm.ExpressionRecognizer` gives them for it.
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
            draw.line([*corners, corners[0]], fill=_COLOURS[name], width=line)
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
    """What the network sees of each face: its regions, aligned, with the landmarks that lie in them.

    Args:
        image: RGB, uint8, (H, W, 3).
        faces: As :class:`~mrcar_timm.ExpressionRecognizer` gives them for it.
        width: Of the picture, in pixels; as many faces as fit stand in a row.
    """
    side = max(1, min(88, width // 3))
    columns = max(1, width // (3 * side + 6))
    rows = -(-len(faces) // columns)
    strip = Image.new("RGB", (width, rows * (side + 6)), "white")
    for index, face in enumerate(faces):
        crops = cut_regions(image, np.array([face.landmarks]), size=(side, side))[0]
        x, y = index % columns * (3 * side + 6), index // columns * (side + 6) + 3
        matrices = region_matrices(torch.tensor(face.landmarks)[None])[0]
        points = torch.cat([torch.tensor(face.landmarks).double(), torch.ones(5, 1)], 1).T  # (3, 5)
        for k, (crop, matrix) in enumerate(zip(crops, matrices, strict=True)):
            region = Image.fromarray((crop.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
            draw = ImageDraw.Draw(region)
            for u, v in (torch.linalg.inv(matrix) @ points)[:2].T.tolist():
                draw.ellipse([u * side - 1.5, v * side - 1.5, u * side + 1.5, v * side + 1.5], fill=_COLOURS["face"])
            strip.paste(region, (x + k * side, y))
    return strip


def _figure(**kwargs: Any) -> Any:
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    return Figure(layout="constrained", **kwargs)


def curves(log: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss and accuracy over epochs, from the rows of a run's ``log.csv``, to a PNG file."""
    figure = _figure(figsize=(9, 3.6))
    epochs = [row["epoch"] for row in log]
    for axis, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, label in (("train", "training, augmented"), ("val", "validation")):
            values = [row.get(f"{part}_{quantity}") for row in log]
            if None not in values:  # a run without validation split has no such curve
                axis.plot(epochs, values, label=label, marker=".")
        axis.set(xlabel="epoch", ylabel=quantity)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], path: Path, title: str = "") -> None:
    """Draw a confusion matrix (rows the truth, each in parts of its sum) to a PNG file."""
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = _figure(figsize=(6, 5))
    axis = figure.subplots()
    axis.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axis.set_xticks(ticks, classes, rotation=45, ha="right")
    axis.set_yticks(ticks, classes)
    axis.set(xlabel="predicted", ylabel="truth", title=title)
    for row, values in enumerate(parts):
        for column, value in enumerate(values):
            axis.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="white" if value > 0.5 else "black",
            )
    figure.savefig(path, dpi=120)


def reliability(calibrations: Mapping[str, Calibration], path: Path, title: str = "") -> None:
    """Draw accuracy over confidence, a panel for each calibration, to a PNG file.

    Bars are the bins' accuracies, their shade the part of the pictures in the bin, the line what a
    perfectly calibrated network would have.
    """
    figure = _figure(figsize=(4.2 * len(calibrations), 4.2))
    axes = figure.subplots(1, len(calibrations), squeeze=False)[0]
    for axis, (name, bins) in zip(axes, calibrations.items(), strict=True):
        share = bins.count / max(1, bins.count.sum())
        shades = [(0.0, 0.3, 0.6, 0.25 + 0.75 * part / max(share.max(), 1e-9)) for part in share]
        axis.bar(bins.edges[:-1], bins.accuracy, np.diff(bins.edges), align="edge", color=shades, edgecolor="white")
        axis.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
        axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axis.set_title(f"{name}: ECE {bins.ece:.1%}")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)
