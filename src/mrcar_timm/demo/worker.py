"""What the page asks for, computed in a process of its own: the page answers meanwhile, and outlives it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from PIL import Image

from ..drawing import annotate
from ..errors import MRCARError
from ..heatmaps import draw_explanations
from ..images import read_rgb, to_rgb
from ..output import write_csv, write_json
from ..processes import cores, plain_errors
from ..recognizer import FACE_COLUMNS, ExpressionRecognizer, Face, Faces, face_row
from ..tracking import FaceTracker
from ..video import VideoSummary, follow_video

_SHOWN = 1600  # pixels of the longer side of a photo on the page
_FORGOTTEN = 30.0  # seconds after which a camera that sends nothing starts over
_MOST_CAMERAS = 64
_EVERY = 15  # new faces are looked for once a second at 15 frames a second


@dataclass(frozen=True)
class Choice:
    """What a visitor chose.

    Attributes:
        model: Name of the network; None for the default.
        faces: "all" or "largest".
    """

    model: str | None = None
    faces: str = "all"


def begin(choice: Choice) -> None:
    """Load what the first visitor will need."""
    import torch  # the page's process, which knows these functions, does without

    torch.set_num_threads(max(1, cores() - 1))  # one core is for the page
    with suppress(MRCARError):  # it will be raised again for who asks for something
        _recognizer(choice)(np.full((64, 64, 3), 128, np.uint8))


@plain_errors
def check(models: Sequence[str]) -> None:
    """Raise where one of the networks cannot be loaded."""
    for model in models:
        _loaded(model)


@lru_cache(maxsize=8)
def _loaded(model: str | None) -> ExpressionRecognizer:
    return ExpressionRecognizer(model)


def _recognizer(choice: Choice) -> ExpressionRecognizer:
    recognizer = copy(_loaded(choice.model))
    recognizer.faces = choice.faces
    return recognizer


@plain_errors
def recognize(path: Path, choice: Choice, folder: Path) -> dict[str, Any]:
    """The faces of a photo, and files of them in a folder: photo.jpg, reduced, faces.csv and faces.json.

    Returns:
        faces: Plain values of each face, see :meth:`~mrcar_timm.recognizer.Faces.to_dicts`.
        scale: Size of photo.jpg over that of the photo.
    """
    recognizer = _recognizer(choice)
    image, size = read_rgb(path)
    # A photo that was reduced is read again, so that boxes are in pixels of its own.
    faces = recognizer(Image.fromarray(image) if image.shape[1::-1] == size else path)
    reduced = Image.fromarray(image)
    reduced.thumbnail((_SHOWN, _SHOWN))
    reduced.save(folder / "photo.jpg", quality=95)
    values = faces.to_dicts()
    write_csv(folder / "faces.csv", [*FACE_COLUMNS, *recognizer.labels], map(face_row, values))
    write_json(folder / "faces.json", {"width": size[0], "height": size[1], "faces": values})
    return {"faces": values, "scale": reduced.width / size[0]}


def draw(folder: Path, values: list[dict[str, Any]], scale: float, layers: list[str], chosen: int) -> Path:
    """Draw layers over the photo in a folder; the chosen face stands out.

    Returns:
        A new PNG file.
    """
    image = to_rgb(folder / "photo.jpg")
    size = (round(image.shape[1] / scale), round(image.shape[0] / scale))
    faces = Faces((_face(each) for each in values), not values, size)
    drawn = annotate(image, faces, with_regions=False, layers=layers, chosen=chosen)
    path = folder / f"annotated-{secrets.token_hex(4)}.png"
    drawn.save(path, compress_level=1)
    return path


def _face(values: dict[str, Any]) -> Face:
    fields = {key: value for key, value in values.items() if key != "number"}
    return Face(**{**fields, "landmarks": tuple(map(tuple, values["landmarks"]))})


@plain_errors
def explain(path: Path, choice: Choice, number: int, folder: Path) -> dict[str, Any]:
    """Draw where the evidence for the expression of one face lies; the drawing's path and the numbers."""
    explanations = _recognizer(choice).explain(path)
    if not 0 <= number < len(explanations):
        raise MRCARError(f"no face {number + 1}; there are {len(explanations)}")
    explanation = explanations[number]
    drawn = folder / f"evidence-{secrets.token_hex(4)}.png"
    draw_explanations([explanation]).save(drawn)
    return {**explanation.to_dict(), "drawn": drawn}


@dataclass
class _Camera:
    tracker: FaceTracker
    choice: Choice
    time: float
    seen: float


_cameras: dict[str, _Camera] = {}


@plain_errors
def follow(visitor: str, choice: Choice, frame: bytes, time: float) -> list[dict[str, Any]] | None:
    """The faces of the next frame of a visitor's camera; None if a later frame was there before.

    Args:
        visitor: Whose camera it is.
        choice: A change of it starts over.
        frame: An image file.
        time: When it was taken, in seconds.
    """
    now = monotonic()
    for name in [name for name, camera in _cameras.items() if now - camera.seen > _FORGOTTEN]:
        del _cameras[name]
    camera = _cameras.pop(visitor, None)
    if camera is None or camera.choice != choice:
        camera = _Camera(FaceTracker(_recognizer(choice), _EVERY), choice, -1.0, now)
    while len(_cameras) >= _MOST_CAMERAS:
        del _cameras[next(iter(_cameras))]  # the one that was silent the longest
    _cameras[visitor] = camera
    camera.seen = now
    if time <= camera.time:
        return None
    faces = camera.tracker(frame, time)
    camera.time = time
    return [face.to_dict() for face in faces]


@dataclass
class _Film:
    """A film on its way.

    Attributes:
        done: Frames that were followed.
        total: How many there are, if it is known.
        stop: Whether the visitor has gone or thought better of it.
        result: What is shown at the end.
        error: Why there is no result.
    """

    done: int = 0
    total: int | None = None
    stop: bool = False
    result: dict[str, Any] | None = None
    error: str | None = None


_films: dict[str, _Film] = {}


def start_film(path: Path, choice: Choice, folder: Path) -> str:
    """Begin to follow the faces of a film, into film.mp4, faces.csv and timeline.png in a folder.

    Returns:
        Its name, for the functions below.
    """
    film, name = _Film(), secrets.token_hex(8)

    def counted(frames: Iterable[Any], total: int | None) -> Iterator[Any]:
        film.total = total
        for frame in frames:
            if film.stop:
                raise KeyboardInterrupt
            yield frame
            film.done += 1

    def run() -> None:
        try:
            places = {"out": folder / "film.mp4", "table": folder / "faces.csv", "plot": folder / "timeline.png"}
            summary = follow_video(path, FaceTracker(_recognizer(choice)), **places, track=counted)
            files = {key: str(place) for key, place in places.items() if place.exists()}
            film.result = {**_summary(summary), "files": files}
        except Exception as error:  # nobody would hear of it in a thread
            film.error = str(error) if isinstance(error, MRCARError) else f"{type(error).__name__}: {error}"

    _films[name] = film
    threading.Thread(target=run, daemon=True).start()
    return name


def look_at_film(name: str) -> dict[str, Any]:
    """How far a film is, or what came out."""
    film = _films.get(name) or _Film(error="the computation broke off, perhaps for want of memory")
    return {"done": film.done, "total": film.total, "result": film.result, "error": film.error}


def stop_film(name: str) -> None:
    """End a film early; its result is that of the frames until then."""
    if name in _films:
        _films[name].stop = True


def forget_film(name: str) -> None:
    """End a film whose result nobody will ask for, or has asked for already."""
    stop_film(name)
    _films.pop(name, None)


def _summary(summary: VideoSummary) -> dict[str, Any]:
    rows = []
    for number, face in summary.faces.items():
        parts = ", ".join(f"{name} {count / face.frames:.0%}" for name, count in face.expressions.items())
        rows.append([number, face.frames, round(face.first, 1), round(face.last, 1), parts])
    return {"rows": rows, "frames": summary.frames, "speed": summary.frames_per_second, "damages": summary.damages()}
