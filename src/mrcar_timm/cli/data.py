"""``mrcar data``: check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from .console import Name, bar
from .console import out as console

if TYPE_CHECKING:
    from ..data.imagefolder import LabelledFaces

app = typer.Typer(no_args_is_help=True, help="Look at data sets.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set, or Kaggle's fer2013.csv.")],
    name: Name = None,
    faces: Annotated[
        Literal["largest", "all", "crop", "none"], typer.Option(help="As in mrcar train; none looks for no faces.")
    ] = "largest",
    out: Annotated[Path | None, typer.Option(help="Write the files that training would leave out, as CSV.")] = None,
) -> None:
    """Say what was found: images by split and class, duplicates, images without a detectable face.

    Example: `mrcar data check mydata`
    """
    from ..data.check import check_data
    from ..data.listing import check_beside
    from ..data.sets import DATA_SETS, recognize

    check_beside(out, path)
    data_set = name or recognize(path)
    if data_set == "imagefolder":
        _check_labelled(path, faces, out)
        return
    found = check_data(data_set, path, faces != "none", bar)
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
    if faces != "none":
        lines["without a detectable face"] = [split.faceless for split in splits]
    for title, values in lines.items():
        if any(value != "" for value in values):
            table.add_row(title, *map(str, values))
    console.print(table)


_SHOWN = 10  # files that are left out, of which the rest is counted


def _check_labelled(path: Path, faces: Literal["largest", "all", "crop", "none"], out: Path | None) -> None:
    """Say what was found in images of a user."""
    from ..data.imagefolder import FaceSearch, read_labelled
    from ..data.listing import list_files, write_left_out

    if faces == "none":
        listing = list_files(path)
        left_out, warnings = listing.left_out, listing.warnings
        splits = sorted({file.split for file in listing.files})
        table = Table("files", *(split or "all" for split in splits))
        for label in listing.classes:
            counts = [sum((f.label, f.split) == (label, split) for f in listing.files) for split in splits]
            table.add_row(label, *map(str, counts))
        console.print(table)
    else:
        found = read_labelled(path, FaceSearch(faces, progress=bar))
        left_out, warnings = found.left_out, found.warnings
        console.print(findings(found))
    for line in warnings:
        console.print(f"note: {line}", style="yellow")
    for file, reason in list(left_out.items())[:_SHOWN]:
        console.print(f"left out: {file}: {reason}")
    if len(left_out) > _SHOWN:
        console.print(f"and {len(left_out) - _SHOWN} more; --out FILE writes all")
    if out is not None:
        write_left_out(left_out, out)


def findings(found: LabelledFaces) -> Table:
    """What was found in images of a user, by split."""
    table = Table("", *found.splits)
    for label in next(iter(found.splits.values())).classes:
        table.add_row(label, *(str(data.counts()[label]) for data in found.splits.values()))
    table.add_section()
    lines = {
        "faces": {name: len(data) for name, data in found.splits.items()},
        "subjects": {name: 0 if d.subjects is None else len(set(d.subjects)) for name, d in found.splits.items()},
        "photos with several faces": found.several,
        "without a face": found.missing,
        "not readable": found.unreadable,
    }
    for title, counts in lines.items():
        if title == "faces" or any(counts.values()):
            table.add_row(title, *(str(counts.get(name, 0)) for name in found.splits))
    return table
