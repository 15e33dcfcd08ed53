"""``mrcar bench``: speed on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .console import Device, bar
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


@app.command("network")
def bench_network(
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
) -> None:
    """Time the network for one face against timm's resnet18 at 112×112: float32, one run, one thread.

    [dim]mrcar bench network[/dim]
    """
    from dataclasses import asdict

    from ..models.speed import time_networks
    from ..provenance import provenance

    table = Table("network", "input", "parameters", "ms", "fastest", "ratio to resnet18")
    rows = [asdict(row) for row in time_networks(repeats)]
    for row in rows:
        millions = f"{row['parameters'] / 1e6:.2f} M"
        times = [f"{row['ms']:.1f}", f"{row['fastest_ms']:.1f}", f"×{row['ratio']:.2f}"]
        table.add_row(row["network"], row["pixels"], millions, *times)
    console.print(table)
    if out is not None:
        record = {"repeats": repeats, "made_by": provenance(), "rows": rows}
        out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command("training")
def bench_training(
    batch_size: Annotated[int, typer.Option(min=2, help="Pictures a step.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 4,
    compiled: Annotated[bool, typer.Option("--compile", help="Time torch.compile too; it takes minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
    device: Device = "cpu",
) -> None:
    """Time training steps: what channels_last, bfloat16 and torch.compile gain here, and where the time goes.

    [dim]mrcar bench training --device cuda[/dim]
    """
    from dataclasses import asdict

    from ..provenance import provenance
    from ..training.speed import time_training
    from ..training.timing import PHASES

    table = Table("", "ms", "ratio", *PHASES, "used", caption="milliseconds a picture; used by training here")
    rows = []
    for row in bar(time_training(batch_size, steps, device, compiled), "timing", 4 if compiled else 3):
        rows.append(asdict(row))
        parts = [f"{row.phases[phase] / row.ms:.1%}" for phase in PHASES]
        table.add_row(row.way, f"{row.ms:.2f}", f"×{row.ratio:.2f}", *parts, "yes" if row.used else "no")
    console.print(table)
    if out is not None:
        record = {"batch_size": batch_size, "steps": steps, "made_by": provenance(), "rows": rows}
        out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
