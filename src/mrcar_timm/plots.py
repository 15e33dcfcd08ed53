"""Plots of results: learning curves, confusion matrices, reliability diagrams, timelines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .output import replacing

if TYPE_CHECKING:
    from .metrics import Calibration

_MOST_ROWS, _MOST_POINTS = 8, 1000  # of a timeline
_GAP = 1.0  # seconds without a face after which its lines begin again


@contextmanager
def _drawing(path: Path, **kwargs: Any) -> Iterator[Any]:
    """A figure to draw, which is then written to a PNG file; dollars in names of classes and runs begin no formula."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    with rc_context({"text.parse_math": False}):
        figure = Figure(layout="constrained", **kwargs)
        yield figure
        with replacing(path) as partial:
            figure.savefig(partial, dpi=120, format="png")


def curves(log: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss and accuracy over epochs, from the rows of a run's ``log.csv``, to a PNG file."""
    epochs = [row["epoch"] for row in log]
    with _drawing(path, figsize=(9, 3.6)) as figure:
        for axis, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for part, label in (("train", "training, augmented"), ("val", "validation")):
                values = [row.get(f"{part}_{quantity}") for row in log]
                if None not in values:  # a run without validation split has no such curve
                    axis.plot(epochs, values, label=label, marker=".")
            axis.set(xlabel="epoch", ylabel=quantity)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
            axis.legend()


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], path: Path, title: str = "") -> None:
    """Draw a confusion matrix (rows the truth, each in parts of its sum) to a PNG file."""
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with _drawing(path, figsize=(6, 5)) as figure:
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


def reliability(bins: Calibration, path: Path, title: str = "") -> None:
    """Draw accuracy over confidence to a PNG file.

    Bars are the accuracies of the bins, their shade the share of the images in the bin; the line is where a perfectly
    calibrated network would be.
    """
    with _drawing(path, figsize=(4.2, 4.2)) as figure:
        axis = figure.subplots()
        share = bins.count / max(1, bins.count.sum())
        shades = [(0.0, 0.3, 0.6, 0.25 + 0.75 * part / max(share.max(), 1e-9)) for part in share]
        axis.bar(bins.edges[:-1], bins.accuracy, np.diff(bins.edges), align="edge", color=shades, edgecolor="white")
        axis.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
        axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axis.set_title(f"{title}: ECE {bins.ece:.1%}" if title else f"ECE {bins.ece:.1%}")


def timeline(
    series: Mapping[int, tuple[np.ndarray, np.ndarray]], labels: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draw the expressions of faces over time to a PNG file: for each face a row of areas that fill it up to 1.

    Of more than eight faces those are drawn that were seen the longest; the title says how many there are.

    Args:
        series: By the number of the face its times (T,) in seconds and its probabilities (T, K).
        labels: Names of the K expressions.
        path: File to write.
        title: Text above the plot.
    """
    longest = sorted(series, key=lambda number: -len(series[number][0]))[:_MOST_ROWS]
    if len(series) > len(longest):
        title = f"{title} ({len(longest)} of {len(series)} faces)".strip()
    with _drawing(path, figsize=(10, 1.2 + 1.3 * max(1, len(longest)))) as figure:
        axes = figure.subplots(max(1, len(longest)), sharex=True, squeeze=False)[:, 0]
        colors = [f"C{index}" for index in range(len(labels))]
        for axis, number in zip(axes, sorted(longest), strict=False):
            times, probabilities = series[number]
            breaks = np.flatnonzero(np.diff(times) > _GAP) + 1
            for t, p in zip(np.split(times, breaks), np.split(probabilities, breaks), strict=True):
                # What is too fine to be seen is averaged.
                bins = np.array_split(np.arange(len(t)), min(len(t), _MOST_POINTS))
                axis.stackplot(
                    [t[index].mean() for index in bins],
                    np.stack([p[index].mean(0) for index in bins], 1),
                    colors=colors,
                )
            axis.set(ylabel=f"face {number}", ylim=(0, 1), yticks=(0, 0.5, 1))
        axes[-1].set_xlabel("seconds")
        if not longest:
            axes[0].text(0.5, 0.5, "no face found", ha="center", va="center", transform=axes[0].transAxes)
        from matplotlib.patches import Patch

        patches = [Patch(color=color, label=label) for color, label in zip(colors, labels, strict=True)]
        figure.legend(handles=patches, loc="outside right upper", fontsize="small")
        figure.suptitle(title)
