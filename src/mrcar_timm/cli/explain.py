"""``mrcar explain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import MRCARError
from ..output import check_outputs, replacing
from .console import Device, Model, emit, err
from .lines import Columns
from .photos import AnyAngle, Largest, MinScore, MinSize, Without


def explain(
    image: Annotated[Path, typer.Argument(help="A photo.", readable=False)],
    out: Annotated[Path | None, typer.Option(help="Write the heat maps of all faces and regions as an image.")] = None,
    expression: Annotated[
        str | None, typer.Option(help="The expression to explain, such as anger; each face's likeliest if left out.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print a line of JSON.")] = False,
    model: Model = None,
    largest: Largest = False,
    min_size: MinSize = 0,
    min_score: MinScore = 0,
    any_angle: AnyAngle = False,
    without: Without = None,
    device: Device = "cpu",
) -> None:
    """Show where the evidence for the expression of each face lies.

    For each face and region a line: the evidence that the region gives, in log-odds, and the probability of the
    expression without it. With --out an image: Grad-CAM, red for the expression and blue against it, and the maps of
    coordinate attention.

    Example: `mrcar explain photo.jpg --out why.png`
    """
    from PIL import Image

    from ..heatmaps import draw_explanations
    from ..recognizer import ExpressionRecognizer

    check_outputs([out], [image], "the image")
    kind = None if out is None else Image.registered_extensions().get(out.suffix.lower())
    if out is not None and kind not in Image.SAVE:
        raise MRCARError(f"{out}: no format of images is called {out.suffix or 'nothing'}; .png, for example")
    recognizer = ExpressionRecognizer(
        model,
        faces="largest" if largest else "all",
        min_size=min_size,
        min_score=min_score,
        any_angle=any_angle,
        without=without or (),
        device=device,
    )
    explanations = recognizer.explain(image, expression)
    if json_output:
        emit(json.dumps({"file": str(image), "explanations": [each.to_dict() for each in explanations]}))
    if not explanations:
        err.print(f"{image}: no face found", style="red")
        raise typer.Exit(1)
    if not json_output:
        show = Columns("face", "expression", "probability", "region", "evidence", "without it")
        for number, each in enumerate(explanations, start=1):
            for name, region in each.regions.items():
                show(
                    str(number), each.expression, f"{each.probability:.1%}", name, f"{region.drop:+.2f}",
                    f"{region.covered:.1%}",
                )  # fmt: skip
    if not any(region.attention for region in explanations[0].regions.values()):
        err.print("this network has no coordinate attention")
    if out is not None:
        with replacing(out) as partial:
            draw_explanations(explanations).save(partial, kind)
