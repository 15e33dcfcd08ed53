"""``mrcar score``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from ..errors import MRCARError
from ..output import check_outputs
from .console import Backend, Device, Model, counter, err, printable
from .console import out as console
from .photos import AnyAngle, Largest, MaxPixels, MinScore, MinSize, Without


class ScoreCommand(TyperCommand):
    """A command whose ``--ray`` need not have a value, which Typer cannot say."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place, word in enumerate(args):
            if word == "--ray" and (place + 1 == len(args) or args[place + 1].startswith("-")):
                args = [*args[: place + 1], "local", *args[place + 1 :]]
        return super().parse_args(ctx, args)


def score(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Photos; folders; lists of paths (.txt); tar files; Parquet files; or addresses of these, s3://…, gs://…",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results: Parquet files, a row a face.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, or actors of Ray; one for each core if left out.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="[ADDRESS]", help="Score on Ray: started on this machine, or the cluster at an address."),
    ] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="A column with the embedding of each face.")] = False,
    column: Annotated[str | None, typer.Option(help="Column of Parquet files that has the images.")] = None,
    part_size: Annotated[
        int, typer.Option(min=1, help="Images a file of results. What is not yet in one is scored again after a stop.")
    ] = 1000,
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
    """Score many images on all cores, or on Ray: faces and expressions as Parquet files.

    Rows are in the order of the input, with a row for each face, one with face 0 for an image without, and the error of
    one that cannot be used; the exit code is 1 then. The same command goes on where an earlier one stopped. Addresses
    are opened by fsspec: `pip install s3fs` for s3://, `gcsfs` for gs://.

    Example: `mrcar score photos --out scored`
    """
    try:
        from ..scoring.score import Scoring
        from ..scoring.scorer import Settings
    except ImportError as error:
        raise MRCARError(f'scoring needs pyarrow ({error}): pip install "mrcar-timm[parquet]"') from error
    from ..images import MAX_PIXELS

    check_outputs([out], [Path(each) for each in inputs], "the input")
    settings = Settings(
        model=model, missing=missing, faces="largest" if largest else "all", min_size=min_size, min_score=min_score,
        any_angle=any_angle, without=tuple(without or ()), device=device, backend=backend,
        max_pixels=max_pixels or MAX_PIXELS, embeddings=embeddings,
    )  # fmt: skip
    begin = time.perf_counter()
    with Scoring(
        inputs, out, settings, workers, ray, part_size, column, lambda line: err.print(printable(line))
    ) as scoring:
        counts, new = scoring.before, 0
        if counts.images:
            err.print(f"{counts.images:,} images are done already")
        try:
            with counter("scoring", "images", scoring.total, counts.images) as advance:
                for more in scoring.run():
                    counts, new = counts + more, new + more.images
                    advance(more.images)
        except KeyboardInterrupt:
            err.print(f"stopped after {new + scoring.before.images:,} images; the same command goes on")
            raise typer.Exit(130) from None
    seconds = time.perf_counter() - begin
    errors = f", {counts.errors:,} that could not be used" if counts.errors else ""
    console.print(
        f"{counts.images:,} images{errors}, {counts.faces:,} faces, in {out}; {new / seconds:.1f} images a second"
    )
    if counts.errors:
        raise typer.Exit(1)
