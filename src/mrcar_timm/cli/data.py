"""``mrcar data``: check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .console import Name, bar
from .console import out as console

app = typer.Typer(no_args_is_help=True, help="Look at data sets.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set, or Kaggle's fer2013.csv.")],
    name: Name = None,
    faces: Annotated[bool, typer.Option(help="Look for a face in every image.")] = True,
) -> None:
    """Say what was found: images by split and class, duplicates, images without a detectable face.

    Example: `mrcar data check fer2013`
    """
    from ..data.check import check_data
    from ..data.sets import DATA_SETS, recognize

    data_set = name or recognize(path)
    found = check_data(data_set, path, faces, bar)
    console.print(f"{DATA_SETS[data_set].title} in {path}")
    table = Table("", *found.splits)
    first = next(iter(found.splits.values()))
    for label in first.classes:
        table.add_row(label, *(str(split.classes[label]) for split in found.splits.values()))
    table.add_section()
    splits = found.splits.values()
    lines: dict[str, list[Any]] = {
        "images": [split.count for split in splits],
        "repeated within the split": [split.repeated for split in splits],
        **{
            f"also in {other}": [split.also_in.get(other, "") for split in splits]
            for other in (found.splits if len(found.splits) > 1 else ())
        },
        "same image, other label": [split.contradictory for split in splits],
        "subjects": [split.subjects or "" for split in splits],
    }
    if faces:
        lines["without a detectable face"] = [split.faceless for split in splits]
    for title, values in lines.items():
        if any(value != "" for value in values):
            table.add_row(title, *map(str, values))
    console.print(table)
