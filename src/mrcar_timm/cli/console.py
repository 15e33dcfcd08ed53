"""Where commands print, the bars of their loops, and the options that several of them have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Results go to stdout, all else to stderr, so that `mrcar predict --json … | jq` works.
out = Console()
err = Console(stderr=True)

Model = Annotated[
    str | None,
    typer.Option(help="Registered network, run folder, or hf-hub:ORG/NAME; the packaged weights if left out."),
]
Device = Annotated[str, typer.Option(help="Where networks run: cpu, cuda, cuda:1, mps, …")]
Data = Annotated[Path, typer.Option(help="The data set: its folder, or Kaggle's fer2013.csv.", exists=True)]
DataName = Annotated[
    str | None, typer.Option("--name", help="fer2013, ferplus, ckplus, jaffe or rafdb; by its layout if left out.")
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="Recipe of the package, or a YAML file; by the data if left out.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the recipe, such as lr=1e-3 or augmentation.degrees=30; can be repeated."),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over what is trained on.")]
Folds = Annotated[int, typer.Option(min=2, help="Number of folds, for a data set without splits.")]
Protocol = Annotated[
    str,
    typer.Option(
        "--split", help="What the folds keep apart: [b]subject[/b]; or, leaky, [b]image[/b]; or the [b]paper[/b]'s."
    ),
]
Only = Annotated[int | None, typer.Option(min=1, help="Train the first so many folds alone.")]


def bar(iterable: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
    """Show a progress bar on stderr while a loop runs; the total is the length where it has one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        yield from progress.track(iterable, total=total, description=description)
