"""Consoles, progress bars, and options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

# Results go to stdout, all else to stderr, so that `mrcar predict --json … | jq` works.
out = Console()
err = Console(stderr=True)

DataName = Literal["fer2013", "ferplus", "rafdb", "ckplus", "jaffe", "imagefolder"]
Model = Annotated[
    str | None,
    typer.Option(help="Registered network, run or exported folder, hf-hub:ORG/NAME; the default weights if left out."),
]
Backend = Annotated[
    Literal["torch", "onnx", "auto"] | None,
    typer.Option(help="What runs the network: PyTorch, ONNX Runtime, or the latter where it is installed."),
]
Device = Annotated[str, typer.Option(help="Where networks run: cpu, cuda, cuda:1, mps, …")]
Data = Annotated[
    Path,
    typer.Option(help="The data set: its folder, a table of paths and labels, or Kaggle's fer2013.csv.", exists=True),
]
FacesOf = Annotated[
    Literal["largest", "all", "crop"] | None,
    typer.Option("--faces", help="Faces of your photos: the largest, all, or each image is a crop of a face."),
]
Name = Annotated[DataName | None, typer.Option("--name", help="Which data set it is; by its layout if left out.")]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="Recipe of the package, or a YAML file; by the data if left out.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the recipe, such as lr=1e-3 or augmentation.degrees=30; can be repeated."),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")]


def bar(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Show a progress bar on stderr while a loop runs; the total is the length where it has one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        yield from progress.track(iterable, total=total, description=description)
