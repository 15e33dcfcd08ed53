"""``mrcar export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Name, bar
from .console import out as console


def export(
    source: Annotated[
        str,
        typer.Argument(metavar="NETWORK", help="Registered network, run folder, or hf-hub:ORG/NAME."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8 bits: faster again, a third of the size.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="A labelled data set: its validation split scores, and with --int8 calibrates.", exists=True),
    ] = None,
    name: Name = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Photo, or folder of photos, that calibrate instead; can be repeated.", exists=True),
    ] = None,
) -> None:
    """Export a network for ONNX Runtime: a folder that needs no PyTorch.

    It holds the network, what finds faces, an example, and a record with digests, labels and scores.
    `mrcar predict --model FOLDER` and `mrcar_timm.runtime.load` take it.

    Example: `mrcar export mrcar_mobilenet.everyday --out out --int8 --data fer2013`
    """
    from ..export import export as export_network

    exported = export_network(source, out, int8, data, name, images or (), bar)
    scores = exported.record["scores"] or {}
    for precision in ("float32", "int8"):
        if precision in scores:
            row = scores[precision]
            console.print(
                f"{precision}: {row['accuracy']:.2%} of {row['count']} right, macro-F1 {row['macro_f1']:.2%}, "
                f"ECE {row['ece']:.2%}"
            )
    if "same_class" in scores:
        apart = scores["probabilities_apart"]
        console.print(
            f"the likeliest class is the same for {scores['same_class']:.2%}; probabilities are apart by "
            f"{apart['mean']:.3f} on average, {apart['most']:.2f} at most"
        )
    size = sum((out / file).stat().st_size for file in exported.files)
    console.print(f"written to {out}: {exported.name}, {exported.precision}, {size / 1e6:.1f} MB")
