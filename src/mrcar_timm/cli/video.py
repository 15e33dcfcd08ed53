"""``mrcar video``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..errors import MRCARError
from ..output import check_outputs
from .console import Backend, Device, Model, bar, err
from .console import out as console
from .photos import AnyAngle, Largest, MinScore, MinSize, Without


def video(
    source: Annotated[Path | None, typer.Argument(help="Video file.", readable=False)] = None,
    camera: Annotated[int | None, typer.Option(min=0, help="Number of a camera, instead of a file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Annotated video: .mp4, .mov or .mkv; without sound.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Table with a line for each face of each frame.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot of each face's expressions over time, a PNG image.")] = None,
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
    check_outputs([out, table, plot], [] if source is None else [source], "the video")
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
    summary = follow_video(film, tracker, out, table, plot, lambda frames, total: bar(frames, "following", total))
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
