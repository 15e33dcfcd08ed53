"""Frames out of videos and cameras, and videos out of frames. The one file that knows PyAV."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .errors import MRCARError, OutputError, VideoError
from .output import replacing

# How FFmpeg names cameras, by operating system: input format, name of camera number n.
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("vfwcap", "{}")}
# How FFmpeg names what is written, by suffix.
_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_TICKS = 90_000  # a second, as in MPEG


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MRCARError('videos need PyAV: pip install "mrcar-timm[video]"') from error
    av.logging.set_level(av.logging.PANIC)  # errors come as exceptions, or are counted
    return av


class VideoReader:
    """Frames of a video file or of a camera, upright.

    Iterating gives pairs: the frame (H, W, 3), RGB, uint8, and its time in seconds, a camera's from its first frame
    on. Frames that FFmpeg marks as damaged are left out and counted.

    Args:
        source: A file, or the number of a camera.

    Attributes:
        announced: Number of frames that the file says it has; None if it does not say.
        count: The same, or an estimate from its length; None for a camera.
        duration: Seconds that the file says it lasts; None if it does not say.
        rate: Frames a second.
        damaged: Packets that could not be decoded so far.
        left_out: Times of frames that were decoded, but are damaged.
        ended: Time at which the last frame so far ends.

    Raises:
        VideoError: If there is no such file or camera, or nothing in it can be shown.

    Example:
        >>> with VideoReader("talk.mp4") as video:        # doctest: +SKIP
        ...     for frame, time in video: ...
    """

    def __init__(self, source: str | Path | int) -> None:
        av = _av()
        self._live = isinstance(source, int)
        self.name = f"camera {source}" if self._live else str(source)
        try:
            if isinstance(source, int):
                kind, device = _CAMERAS[sys.platform]
                self._container = av.open(device.format(source), format=kind)
            else:
                self._container = av.open(_place(source))
        except KeyError as error:
            raise VideoError(f"{self.name}: cameras are not known on {sys.platform}") from error
        except av.FFmpegError as error:
            raise VideoError(f"{self.name}: cannot be opened ({error.strerror})") from error
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{self.name}: no video stream in it")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = float(self._stream.average_rate or 25)
        self.announced: int | None = self._stream.frames or None
        own, whole = self._stream.duration, self._container.duration  # whole: in microseconds
        self.duration: float | None = float(own * self._stream.time_base) if own else whole / 1e6 if whole else None
        self.count = self.announced or (max(1, round(self.duration * self.rate)) if self.duration else None)
        self.damaged = 0
        self.left_out: list[float] = []
        self.ended = 0.0

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        last, shown = -1 / self.rate, 0
        start = None if self._live else 0.0  # a camera's clock may run since the machine was started
        for frame in self._frames():
            if start is None:
                start = frame.time or 0.0
            time = -1.0 if frame.time is None else frame.time - start
            # Where times are missing or go back, frames follow each other at the usual distance.
            last = time = time if time > last else last + 1 / self.rate
            self.ended = last + 1 / self.rate
            if frame.is_corrupt:
                self.left_out.append(time)
                continue
            image = frame.to_ndarray(format="rgb24")
            yield np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))), time
            shown += 1
        if not shown:
            raise VideoError(f"{self.name}: no frame in it can be decoded")

    def _frames(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                yield from self._decoded(packet)
        except _av().FFmpegError:  # the file breaks off
            self.damaged += 1

    def _decoded(self, packet: Any) -> list[Any]:
        av = _av()
        try:
            return packet.decode()
        except av.error.EOFError:
            return []
        except av.FFmpegError:
            self.damaged += 1
            return []


class VideoWriter:
    """Writes frames to an H.264 video.

    Used in a ``with`` statement; leaving it for whatever reason, Ctrl-C among them, ends the file properly and moves it
    into its place. Where it cannot be written, or there is no frame, what was there before stays.

    Args:
        path: The file, .mp4, .mov or .mkv. One that is there is replaced.
        rate: Frames a second, as far as it is known.

    Raises:
        VideoError: If the file's name or place will not do.
    """

    def __init__(self, path: str | Path, rate: float = 25) -> None:
        self.path = Path(path)
        kind = _FORMATS.get(self.path.suffix.lower())
        if kind is None:
            raise VideoError(f"{path}: expected a name that ends in {', '.join(_FORMATS)}")
        av = _av()
        self._beside = ExitStack()
        try:
            self._container = av.open(f"file:{self._beside.enter_context(replacing(path))}", "w", format=kind)
        except OutputError as error:
            raise VideoError(str(error)) from error
        except (av.FFmpegError, OSError) as error:
            self._give_up()
            raise self._error(error) from error
        self._rate = Fraction(rate).limit_denominator(1001)
        self._stream: Any = None
        self._ticks = -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is None:
            self._give_up()
            return
        self._mux(None)
        try:
            self._container.close()
            self._beside.close()
        except (_av().FFmpegError, OSError) as error:
            self._give_up()
            raise self._error(error) from error

    def _give_up(self) -> None:
        """Leave what was there before."""
        with suppress(VideoError):
            self._beside.__exit__(VideoError, VideoError(), None)

    def write(self, image: np.ndarray, time: float) -> None:
        """Add a frame.

        Args:
            image: RGB, uint8, (H, W, 3), all of one size.
            time: In seconds, later than the frame before.
        """
        av = _av()
        height, width = image.shape[:2]
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            # Colors are stored at half the size, so sides are even.
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
            self._stream.options = {"preset": "veryfast", "crf": "20"}
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        self._ticks = max(self._ticks + 1, round(time * _TICKS))
        frame.pts, frame.time_base = self._ticks, Fraction(1, _TICKS)
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        """Encode and write a frame, or with None what is left."""
        try:
            self._container.mux(self._stream.encode(frame))
        except _av().FFmpegError as error:
            self._stream = None  # nothing more can be written; trying would crash
            raise self._error(error) from error

    def _error(self, error: Any) -> VideoError:
        return VideoError(f"{self.path}: cannot be written ({error.strerror or error}); what was there is unchanged")


def _place(source: str | Path) -> str:
    """A name that FFmpeg takes for a file; it would take what stands before a colon for a protocol.

    Raises:
        VideoError: If it is neither a file nor a stream's address.
    """
    if isinstance(source, str) and "://" in source:
        return source
    with suppress(OSError):
        mode = os.stat(source).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a named pipe, socket or device"
            raise VideoError(f"{source}: {what}, not a video file")
    return f"file:{source}"
