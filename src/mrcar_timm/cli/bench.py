"""``mrcar bench``: speed on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .console import bar
from .console import out as console

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


@app.command("faces")
def bench_faces(
    pictures: Annotated[list[Path], typer.Argument(help="Photos.")],
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
) -> None:
    """Time detector and regions against facenet-pytorch's MTCNN: the same pictures, one run, one thread.

    [dim]mrcar bench faces examples/group.jpg[/dim]
    """
    import hashlib
    from dataclasses import asdict

    from ..bench import SIZES, time_faces
    from ..provenance import provenance

    table = Table("picture", "size", "search", "facenet", "ours", "ratio", "faces", "only theirs", "only ours")
    rows = []
    for row in bar(time_faces(pictures, repeats), "timing", len(pictures) * len(SIZES) * 2):
        rows.append({**asdict(row), "ratio": row.ratio})
        table.add_row(
            row.picture,
            row.size,
            row.search,
            f"{row.facenet_ms:.0f} ms",
            f"{row.ours_ms:.0f} ms",
            f"×{row.ratio:.1f}",
            f"{row.facenet_faces} / {row.our_faces}",
            str(row.only_facenet),
            str(row.only_ours),
        )
    console.print(table)
    if out is not None:
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in pictures}
        record = {"pictures_sha256": digests, "made_by": provenance(), "rows": rows}
        out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
