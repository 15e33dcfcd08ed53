"""``mrcar predict``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import MRCARError
from ..output import check_outputs, replacing
from .console import Backend, Device, Model, bar, err, printable
from .lines import FaceTable, JsonLines, Lines

if TYPE_CHECKING:
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
    table: Annotated[
        Path | None, typer.Option("--csv", help="Write a table with a line for each face, and for each image without.")
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
    from ..images import MAX_PIXELS
    from ..recognizer import ExpressionRecognizer

    photos = Photos(images)
    targets = [None] * len(photos.files) if annotate is None else annotated_files(photos, annotate)
    check_outputs([table, *targets], photos.files, "the image")
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
    show = JsonLines() if json_output else Lines(recognizer.labels)
    stream = bar(recognizer.stream(photos.files), "recognizing", len(photos.files))
    failed, stopped, done = bool(photos.unreadable), False, 0
    with FaceTable(table, recognizer.labels) as lines:
        try:
            for file, target, faces in zip(photos.files, targets, stream, strict=True):
                result = _result(file, faces)
                if target is not None and not isinstance(faces, MRCARError):
                    result |= _drawn(file, limit, faces, target)
                show(result)
                lines.add(result)
                done += 1
                if "error" in result:
                    failed = True
                    # Errors about a file name it already; others are given its name.
                    text = result["error"]
                    err.print(printable(text if result["file"] in text else f"{result['file']}: {text}"), style="red")
        except KeyboardInterrupt:
            stopped = True
    if stopped:
        err.print(f"stopped after {done} of {len(photos.files)} images")
        raise typer.Exit(130)
    photos.tell_left_out()
    if failed:
        raise typer.Exit(1)


def _result(file: Path, faces: Faces | MRCARError) -> dict[str, Any]:
    """What is printed of a photo."""
    if isinstance(faces, MRCARError):
        return {"file": str(file), "error": str(faces)}
    return {"file": str(file), "missing": faces.missing, "faces": faces.to_dicts()}


def _drawn(file: Path, max_pixels: int, faces: Faces, target: Path) -> dict[str, str]:
    """Write the annotated image: where it is, or why it is not."""
    from PIL import Image

    from ..drawing import annotate
    from ..images import to_rgb

    try:
        with replacing(target) as partial:
            kind = Image.registered_extensions()[target.suffix.lower()]
            annotate(to_rgb(file, max_pixels), faces).save(partial, kind)
    except MRCARError as error:
        return {"error": str(error)}
    return {"annotated": str(target)}


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


def annotated_files(photos: Photos, target: Path) -> list[Path]:
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
    if is_file:
        targets = [target]
    else:
        targets = list(_places(photos.names, target))
    check_outputs(targets, photos.files, "the image")
    return targets


def _places(names: list[Path], folder: Path) -> Iterator[Path]:
    """A place in a folder for the annotated image of each photo, also where two differ in case alone."""
    taken: set[str] = set()
    for name in names:
        stem = f"{name.stem}{name.suffix.replace('.', '_')}"
        numbered = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        places = (folder / name.parent / f"{each}.png" for each in numbered)
        place = next(place for place in places if str(place).casefold() not in taken)
        taken.add(str(place).casefold())
        yield place
