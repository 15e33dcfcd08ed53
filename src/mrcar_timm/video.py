"""Video in; annotated video, a table of its faces, and a summary out."""

from __future__ import annotations

import csv
import time as clock
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .drawing import annotate
from .frames import VideoReader, VideoWriter
from .tracking import FaceTracker, TrackedFace

_COLUMNS = ("frame", "time", "face", "x1", "y1", "x2", "y2", "score", "source", "expression", "probability")


@dataclass
class FaceSummary:
    """Summary of one face in a video.

    Attributes:
        frames: Number of frames with it.
        first, last: Times of the first and the last of them, in seconds.
        expressions: Number of frames with each expression, the most frequent first.
    """

    frames: int
    first: float
    last: float
    expressions: dict[str, int]


@dataclass
class VideoSummary:
    """Summary of a video.

    Attributes:
        frames: Frames that were read.
        seconds: Time that it took, from the first frame to the last.
        damaged: Packets of the file that could not be decoded.
        announced: Number of frames that the file says it has; None if it does not say.
        interrupted: Whether Ctrl-C ended it; what was done until then is in the files.
        faces: By number.
    """

    frames: int = 0
    seconds: float = 0.0
    damaged: int = 0
    announced: int | None = None
    interrupted: bool = False
    faces: dict[int, FaceSummary] = field(default_factory=dict)

    @property
    def frames_per_second(self) -> float:
        """Frames read, followed, drawn and written in a second."""
        return self.frames / self.seconds if self.seconds else 0.0

    def add(self, faces: Iterable[TrackedFace], time: float) -> None:
        """Count the faces of one more frame."""
        self.frames += 1
        for face in faces:
            seen = self.faces.setdefault(face.number, FaceSummary(0, time, time, {}))
            seen.frames, seen.last = seen.frames + 1, time
            seen.expressions[face.expression] = seen.expressions.get(face.expression, 0) + 1
            seen.expressions = dict(sorted(seen.expressions.items(), key=lambda item: -item[1]))


def follow_video(
    source: str | Path | int,
    tracker: FaceTracker,
    out: Path | None = None,
    table: Path | None = None,
    track: Callable[[Iterable[Any], int | None], Iterable[Any]] | None = None,
) -> VideoSummary:
    """Follow the faces of a video, frame by frame, until it ends or Ctrl-C stops it.

    Args:
        source: A file, or the number of a camera.
        tracker: Follows the faces.
        out: Video with boxes, numbers and expressions; see :class:`~mrcar_timm.frames.VideoWriter`.
        table: CSV file with a line for each face of each frame.
        track: Wrapper of the loop over frames, given their number if it is known, for a progress bar.

    Raises:
        VideoError: If the source cannot be read or ``out`` not be written.
    """
    summary = VideoSummary()
    labels = tracker.recognizer.labels
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(source))
        writer = stack.enter_context(VideoWriter(out, reader.rate)) if out is not None else None
        lines = None
        if table is not None:
            table.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(table, "w", newline="", encoding="utf-8"))
            lines = csv.writer(file)
            lines.writerow([*_COLUMNS, *labels])
        start = clock.perf_counter()
        try:
            for image, time in track(reader, reader.count) if track is not None else reader:
                faces = tracker(image, time)
                if lines is not None:
                    lines.writerows(_line(summary.frames, time, face) for face in faces)
                if writer is not None:
                    writer.write(np.asarray(annotate(image, faces, with_regions=False)), time)
                summary.add(faces, time)
        except KeyboardInterrupt:
            summary.interrupted = True
        summary.seconds = clock.perf_counter() - start
        summary.damaged, summary.announced = reader.damaged, reader.announced
    return summary


def _line(frame: int, time: float, face: TrackedFace) -> list[Any]:
    values = face.to_dict()
    return [
        frame,
        f"{time:.3f}",
        face.number,
        *values["box"],
        values["score"],
        face.source,
        face.expression,
        values["probability"],
        *values["probabilities"].values(),
    ]
