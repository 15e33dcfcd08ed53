"""Video in; annotated video, a table of its faces, and a summary out."""

from __future__ import annotations

import csv
import time as clock
from array import array
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .drawing import annotate
from .frames import VideoReader, VideoWriter
from .output import replacing
from .plots import timeline
from .recognizer import FACE_COLUMNS, face_row
from .tracking import FaceTracker, TrackedFace


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
        left_out: Times of frames that were decoded, but are damaged.
        ended: Time at which the last frame ends.
        duration: Seconds that the file says it lasts; None if it does not say.
        announced: Number of frames that the file says it has; None if it does not say.
        interrupted: Whether Ctrl-C ended it; what was done until then is in the files.
        faces: By number.
    """

    frames: int = 0
    seconds: float = 0.0
    damaged: int = 0
    left_out: list[float] = field(default_factory=list)
    ended: float = 0.0
    duration: float | None = None
    announced: int | None = None
    interrupted: bool = False
    faces: dict[int, FaceSummary] = field(default_factory=dict)

    @property
    def frames_per_second(self) -> float:
        """Frames read, followed, drawn and written in a second."""
        return self.frames / self.seconds if self.seconds else 0.0

    def damages(self) -> list[str]:
        """What is missing from the video, a sentence each."""
        said = []
        if self.left_out:
            said.append(f"{_frames(len(self.left_out))} damaged and left out, at {_spans(self.left_out)}")
        if self.damaged:
            said.append(f"{self.damaged} packets could not be decoded")
        read = self.frames + len(self.left_out)
        if self.interrupted:
            pass
        elif self.announced is not None and read < self.announced:
            said.append(f"the file says that it has {_frames(self.announced)}, {read} were read")
        elif self.duration is not None and self.ended < self.duration - max(1, 0.02 * self.duration):
            said.append(f"the file says that it lasts {self.duration:.1f} s, its last frame ends at {self.ended:.1f} s")
        return said

    def add(self, faces: Iterable[TrackedFace], time: float) -> None:
        """Count the faces of one more frame."""
        self.frames += 1
        for face in faces:
            seen = self.faces.setdefault(face.number, FaceSummary(0, time, time, {}))
            seen.frames, seen.last = seen.frames + 1, time
            seen.expressions[face.expression] = seen.expressions.get(face.expression, 0) + 1
            seen.expressions = dict(sorted(seen.expressions.items(), key=lambda item: -item[1]))


class Timeline:
    """The expressions of each face over time.

    Args:
        labels: The expressions that there are.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._times: dict[int, array[float]] = {}
        self._probabilities: dict[int, array[float]] = {}

    def add(self, faces: Iterable[TrackedFace], time: float) -> None:
        """Note the faces of one more frame."""
        for face in faces:
            self._times.setdefault(face.number, array("d")).append(time)
            self._probabilities.setdefault(face.number, array("f")).extend(face.probabilities.values())

    def draw(self, path: Path, title: str = "") -> None:
        """Draw a PNG file; see :func:`~mrcar_timm.plots.timeline`.

        Raises:
            OutputError: If it cannot be written.
        """
        series = {
            number: (np.array(times), np.array(self._probabilities[number]).reshape(-1, len(self.labels)))
            for number, times in self._times.items()
        }
        timeline(series, self.labels, path, title)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _spans(times: list[float], gap: float = 1.0, most: int = 5) -> str:
    """Times in seconds, those that are near each other together."""
    spans: list[list[float]] = []
    for time in times:
        if spans and time - spans[-1][1] <= gap:
            spans[-1][1] = time
        else:
            spans.append([time, time])
    named = [f"{start:.1f} s" if start == end else f"{start:.1f}–{end:.1f} s" for start, end in spans[:most]]
    return ", ".join(named) + (f" and {len(spans) - most} more places" if len(spans) > most else "")


def follow_video(
    source: str | Path | int,
    tracker: FaceTracker,
    out: Path | None = None,
    table: Path | None = None,
    plot: Path | None = None,
    track: Callable[[Iterable[Any], int | None], Iterable[Any]] | None = None,
) -> VideoSummary:
    """Follow the faces of a video, frame by frame, until it ends or Ctrl-C stops it.

    Args:
        source: A file, or the number of a camera.
        tracker: Follows the faces.
        out: Video with boxes, numbers and expressions; see :class:`~mrcar_timm.frames.VideoWriter`.
        table: CSV file with a line for each face of each frame.
        plot: PNG file, the expressions of each face over time; see :class:`Timeline`.
        track: Wrapper of the loop over frames, given their number if it is known, for a progress bar.

    Raises:
        VideoError: If the source cannot be read or ``out`` not be written.
        OutputError: If ``table`` or ``plot`` cannot be written. What was there before stays in either case.
    """
    summary = VideoSummary()
    labels = tracker.recognizer.labels
    drawn = Timeline(labels)
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(source))
        writer = stack.enter_context(VideoWriter(out, reader.rate)) if out is not None else None
        lines = None
        if table is not None:
            partial = stack.enter_context(replacing(table))
            file = stack.enter_context(open(partial, "w", newline="", encoding="utf-8"))
            lines = csv.writer(file)
            lines.writerow(["frame", "time", *FACE_COLUMNS, *labels])
        start = clock.perf_counter()
        try:
            for image, time in track(reader, reader.count) if track is not None else reader:
                faces = tracker(image, time)
                if lines is not None:
                    rows = (face_row(face.to_dict()) for face in faces)
                    lines.writerows([summary.frames, f"{time:.3f}", *row] for row in rows)
                if writer is not None:
                    writer.write(np.asarray(annotate(image, faces, with_regions=False)), time)
                if plot is not None:
                    drawn.add(faces, time)
                summary.add(faces, time)
        except KeyboardInterrupt:
            summary.interrupted = True
        summary.seconds = clock.perf_counter() - start
        summary.damaged, summary.announced = reader.damaged, reader.announced
        summary.left_out, summary.ended, summary.duration = reader.left_out, reader.ended, reader.duration
        if plot is not None:
            drawn.draw(plot, Path(reader.name).name)
    return summary
