"""``mrcar predict`` and ``mrcar video``."""

from __future__ import annotations

import json
import os
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from ..errors import MRCARError
from ..output import check_outputs, replacing
from .console import Backend, Device, Model, bar, emit, err, printable
from .console import out as console

if TYPE_CHECKING:
    import numpy as np

    from ..recognizer import Faces

_SHOWN = 5  # files that are named, of which the rest is counted

Largest = Annotated[bool, typer.Option("--largest", help="Only the largest face; several times faster.")]
MinSize = Annotated[float, typer.Option(min=0, help="Lowest height of a face in pixels.")]
AnyAngle = Annotated[
    bool, typer.Option("--any-angle", help="Also faces upside down or lying; takes four times as long.")
]
Without = Annotated[
    list[str] | None, typer.Option(help="An expression that is not asked for, such as contempt; can be repeated.")
]
MinScore = Annotated[float, typer.Option(min=0, max=1, help="Lowest score of the detector for a face.")]


MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="Most pixels of an image, 2.8 times as many in JPEG; 178,956,970 if left out.")
]


def predict(
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", readable=False)],
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON Lines: for each image an object on a line.")
    ] = False,
    annotate: Annotated[
        Path | None,
        typer.Option(help="Write an image with boxes, labels and regions; a folder for several photos."),
    ] = None,
    model: Model = None,
    missing: Annotated[
        Literal["none", "raise", "full_image"],
        typer.Option(help="Where no face is found: no faces, an error, or the whole image is taken for a face."),
    ] = "none",
    largest: Largest = False,
    min_size: MinSize = 0,
    min_score: MinScore = 0,
    any_angle: AnyAngle = False,
    without: Without = None,
    max_pixels: MaxPixels = None,
    backend: Backend = None,
    device: Device = "cpu",
) -> None:
    """Detect faces in photos and recognize their expressions.

    A line for each face is printed as soon as it is known; into a pipe or file, its columns are separated by tabs. An
    image that cannot be read does not stop the others; the exit code is 1 then, and 130 after Ctrl-C.

    Example: `mrcar predict photo.jpg --annotate out.png`
    """
    from ..images import MAX_PIXELS, to_rgb
    from ..recognizer import ExpressionRecognizer

    photos = Photos(images)
    targets = {} if annotate is None else annotated_files(photos, annotate)
    limit = max_pixels or MAX_PIXELS
    recognizer = ExpressionRecognizer(
        model,
        missing=missing,
        faces="largest" if largest else "all",
        min_size=min_size,
        min_score=min_score,
        any_angle=any_angle,
        without=without or (),
        device=device,
        backend=backend,
        max_pixels=limit,
    )
    printer = JsonLines() if json_output else Lines(recognizer.labels)
    failed = bool(photos.unreadable)
    done = 0
    try:
        for file, faces in zip(photos.files, bar(recognizer.stream(photos.files), "recognizing", len(photos.files)),
                               strict=True):  # fmt: skip
            result: dict[str, Any] = {"file": str(file)}
            if isinstance(faces, Exception):
                result["error"] = str(faces)
            else:
                result["missing"] = faces.missing
                result["faces"] = [{"number": number, **face.to_dict()} for number, face in enumerate(faces, start=1)]
                if file in targets:
                    try:
                        _draw(to_rgb(file, limit), faces, targets[file])
                        result["annotated"] = str(targets[file])
                    except MRCARError as error:
                        result["error"] = str(error)
            printer(result)
            done += 1
            if "error" in result:
                failed = True
                # Errors about a file name it already; others are given its name.
                text = result["error"]
                err.print(printable(text if result["file"] in text else f"{result['file']}: {text}"), style="red")
    except KeyboardInterrupt:
        err.print(f"stopped after {done} of {len(photos.files)} images")
        raise typer.Exit(130) from None
    photos.tell_left_out()
    if failed:
        raise typer.Exit(1)


class Photos:
    """The photos of a command.

    Args:
        paths: Photos, and folders of photos.

    Attributes:
        files: Their files.
        names: The place of each below the folder that was named, or its name.
        left_out: Files of folders that are no images, with the reason.
        unreadable: Folders that could not be looked into, with the error.

    Raises:
        MRCARError: If there are none.
    """

    def __init__(self, paths: list[Path]) -> None:
        from ..images import find_images

        self.files: list[Path] = []
        self.names: list[Path] = []
        self.left_out: dict[Path, str] = {}
        self.unreadable: dict[Path, str] = {}
        self.has_folder = False
        for path in paths:
            if not os.path.isdir(path):
                self.files.append(path)
                self.names.append(Path(path.name))
                continue
            self.has_folder = True
            found = find_images(path)
            self.files += found.files
            self.names += [file.relative_to(path) for file in found.files]
            self.left_out |= found.left_out
            self.unreadable |= found.unreadable
        if not self.files:
            self.tell_left_out()
            raise MRCARError(f"no images in {', '.join(map(str, paths))}")

    def tell_left_out(self) -> None:
        """Say which files of folders are no images, and which folders could not be looked into."""
        reasons: dict[str, list[str]] = {}
        for path, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(printable(str(path)))
        for reason, names in reasons.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            err.print(f"{len(names)} left out, {reason}: {', '.join(names[:_SHOWN])}{more}")
        for path, reason in self.unreadable.items():
            err.print(printable(f"{path}: {reason}"), style="red")


def annotated_files(photos: Photos, target: Path) -> dict[Path, Path]:
    """Where each photo's annotated image goes.

    Args:
        photos: The photos.
        target: A file for one photo, or a folder, in which subfolders of the photos are kept.

    Raises:
        OutputError: If a photo would be written over, or several into one file.
        MRCARError: If the target is a file of no known format.
    """
    from PIL import Image

    suffix = target.suffix.lower()
    is_file = Image.registered_extensions().get(suffix) in Image.SAVE and not os.path.isdir(target)
    if is_file and len(photos.files) > 1:
        raise MRCARError(f"{target} is a file, for one photo; name a folder for {len(photos.files)}")
    if suffix and not is_file and not photos.has_folder and len(photos.files) == 1 and not os.path.isdir(target):
        raise MRCARError(f"{target}: no format of images is called {suffix}; .png, for example")
    targets: dict[Path, Path] = {}
    taken: set[str] = set()
    for file, name in zip(photos.files, photos.names, strict=True):
        if is_file:
            targets[file] = target
            continue
        stem = f"{name.stem}{name.suffix.replace('.', '_')}"
        numbered = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        place = next(p for p in (target / name.parent / f"{each}.png" for each in numbered)
                     if str(p).casefold() not in taken)  # fmt: skip
        taken.add(str(place).casefold())
        targets[file] = place
    check_outputs(targets.values(), photos.files, "the image")
    return targets


def _draw(image: np.ndarray, faces: Faces, target: Path) -> None:
    from PIL import Image

    from ..drawing import annotate

    with replacing(target) as partial:
        annotate(image, faces).save(partial, Image.registered_extensions()[target.suffix.lower()])


class JsonLines:
    """Prints a result as a line of JSON, in ASCII."""

    def __call__(self, result: dict[str, Any]) -> None:
        emit(json.dumps(result))


class Lines:
    """Prints a line for each face of a result: aligned columns with a header on a terminal, else separated by tabs.

    Args:
        labels: The expressions that there are.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._aligned = sys.stdout.isatty()
        self._widths = (4, 19, max(14, *map(len, labels)), 11, 9)
        if self._aligned:
            self._print("face", "box x1 y1 x2 y2", "expression", "probability", "source", "image")

    def __call__(self, result: dict[str, Any]) -> None:
        name = printable(result["file"])
        faces = result.get("faces")
        if faces is None:
            self._print("", "", "cannot be used", "", "", name)
        elif not faces:
            self._print("0", "", "no face found", "", "", name)
        for face in faces or ():
            box = " ".join(f"{v:.0f}" for v in face["box"])
            self._print(
                str(face["number"]), box, face["expression"], f"{face['probability']:.1%}", face["source"], name
            )

    def _print(self, *values: str) -> None:
        if self._aligned:
            *columns, last = values
            padded = (value.ljust(width) for value, width in zip(columns, self._widths, strict=True))
            emit("  ".join([*padded, last]))
        else:
            emit("\t".join(values))


def video(
    source: Annotated[Path | None, typer.Argument(help="Video file.", readable=False)] = None,
    camera: Annotated[int | None, typer.Option(min=0, help="Number of a camera, instead of a file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Annotated video: .mp4, .mov or .mkv; without sound.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Table with a line for each face of each frame.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Detect new faces in every n-th frame.")] = 10,
    smoothing: Annotated[float, typer.Option(min=0, help="Seconds over which expressions are averaged.")] = 0.5,
    model: Model = None,
    largest: Largest = False,
    min_size: MinSize = 0,
    min_score: MinScore = 0,
    any_angle: AnyAngle = False,
    without: Without = None,
    backend: Backend = None,
    device: Device = "cpu",
) -> None:
    """Track the faces of a video, or of a camera until Ctrl-C, and recognize their expressions.

    After Ctrl-C the files hold what was done until then. Damaged frames are left out and named; the exit code is then
    1.

    Example: `mrcar video talk.mp4 --out annotated.mp4 --csv faces.csv`
    """
    from ..recognizer import ExpressionRecognizer
    from ..tracking import FaceTracker
    from ..video import follow_video

    film = source if camera is None else camera
    if film is None or (source is not None and camera is not None):
        raise MRCARError("expected a video file or --camera, and not both")
    check_outputs([out, table], [] if source is None else [source], "the video")
    recognizer = ExpressionRecognizer(
        model,
        faces="largest" if largest else "all",
        min_size=min_size,
        min_score=min_score,
        any_angle=any_angle,
        without=without or (),
        device=device,
        backend=backend,
    )
    tracker = FaceTracker(recognizer, every, smoothing)
    summary = follow_video(film, tracker, out, table, lambda frames, total: bar(frames, "following", total))
    rows = Table("face", "frames", "seconds", "expressions, in parts of the frames")
    for number, face in summary.faces.items():
        parts = ", ".join(f"{name} {count / face.frames:.0%}" for name, count in face.expressions.items())
        rows.add_row(str(number), str(face.frames), f"{face.first:.1f}–{face.last:.1f}", parts)
    console.print(rows)
    console.print(f"{summary.frames} frames, {summary.frames_per_second:.1f} frames a second")
    for sentence in summary.damages():
        err.print(f"{source}: {sentence}", style="red")
    if summary.interrupted:
        err.print("stopped; what was done until then is written")
        raise typer.Exit(0 if source is None else 130)
    if summary.damages():
        raise typer.Exit(1)
