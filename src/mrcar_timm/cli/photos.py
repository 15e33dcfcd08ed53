"""``mrcar predict`` and ``mrcar video``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..errors import MRCARError
from .console import Backend, Device, Model, bar, err
from .console import out as console

Largest = Annotated[bool, typer.Option("--largest", help="Only the largest face; several times faster.")]
MinSize = Annotated[float, typer.Option(min=0, help="Lowest height of a face in pixels.")]
AnyAngle = Annotated[
    bool, typer.Option("--any-angle", help="Also faces upside down or lying; takes four times as long.")
]
Without = Annotated[
    list[str] | None, typer.Option(help="An expression that is not asked for, such as contempt; can be repeated.")
]
MinScore = Annotated[float, typer.Option(min=0, max=1, help="Lowest score of the detector for a face.")]


def predict(
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON, an object an image.")] = False,
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
    backend: Backend = None,
    device: Device = "cpu",
) -> None:
    """Detect faces in photos and recognize their expressions.

    An image that cannot be read does not stop the others; the exit code is 1 then.

    Example: `mrcar predict photo.jpg --annotate out.png`
    """
    from ..images import to_rgb
    from ..recognizer import ExpressionRecognizer

    files = list(_expand(images))
    if not files:
        raise MRCARError(f"no images in {', '.join(map(str, images))}")
    into_folder = annotate is not None and (len(files) > 1 or annotate.is_dir())
    if annotate is not None:
        (annotate if into_folder else annotate.parent).mkdir(parents=True, exist_ok=True)
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
    )
    results: list[dict[str, Any]] = []
    stream = recognizer.stream(files)
    for file, faces in zip(files, bar(stream, "recognizing", len(files)), strict=True):
        if isinstance(faces, Exception):
            results.append({"file": str(file), "error": str(faces)})
            continue
        numbered = [{"number": number, **face.to_dict()} for number, face in enumerate(faces, start=1)]
        results.append({"file": str(file), "missing": faces.missing, "faces": numbered})
        if annotate is not None:
            from ..drawing import annotate as draw

            target = annotate / f"{file.stem}{file.suffix.replace('.', '_')}.png" if into_folder else annotate
            draw(to_rgb(file), faces).save(target)
    if json_output:
        print(json.dumps(results, indent=2))
    else:
        _print_faces(results)
    failed = [result for result in results if "error" in result]
    for result in failed:
        # Errors about a file name it already; others are given its name.
        text = result["error"]
        err.print(text if result["file"] in text else f"{result['file']}: {text}", style="red", markup=False)
    if failed:
        raise typer.Exit(1)


def _expand(paths: list[Path]) -> Iterable[Path]:
    from ..images import find_images

    for path in paths:
        if path.is_dir():
            yield from find_images(path)
        else:
            yield path


def _print_faces(results: list[dict[str, Any]]) -> None:
    table = Table("image", "face", "box x1 y1 x2 y2", "expression", "probability", "source")
    for result in results:
        name = Path(result["file"]).name
        if "error" in result:
            table.add_row(name, "", "", "[red]cannot be used[/red]", "", "")
        elif not result["faces"]:
            table.add_row(name, "0", "", "no face found", "", "")
        for face in result.get("faces", ()):
            box = " ".join(f"{v:.0f}" for v in face["box"])
            table.add_row(
                name, str(face["number"]), box, face["expression"], f"{face['probability']:.1%}", face["source"]
            )
    console.print(table)


def video(
    source: Annotated[Path | None, typer.Argument(help="Video file.")] = None,
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

    After Ctrl-C the files hold what was done until then.

    Example: `mrcar video talk.mp4 --out annotated.mp4 --csv faces.csv`
    """
    from ..recognizer import ExpressionRecognizer
    from ..tracking import FaceTracker
    from ..video import follow_video

    film = source if camera is None else camera
    if film is None or (source is not None and camera is not None):
        raise MRCARError("expected a video file or --camera, and not both")
    if source is not None and out is not None and out.exists() and source.exists() and out.samefile(source):
        raise MRCARError(f"{out} is the video itself")
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
    if summary.damaged:
        err.print(f"{summary.damaged} damaged packets were left out", style="red")
    if summary.announced is not None and summary.frames < summary.announced and not summary.interrupted:
        err.print(f"the file says that it has {summary.announced} frames", style="red")
    if summary.interrupted:
        err.print("stopped; what was done until then is written")
        raise typer.Exit(0 if source is None else 130)
