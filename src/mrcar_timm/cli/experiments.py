"""``mrcar crossval``, ``ablate``, ``report``, ``robustness`` and ``bench``: the paper's experiments, and speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..errors import MRCARError
from ..output import check_outputs, write_text
from .console import Data, Device, Epochs, Name, RecipeName, Settings, bar, err
from .console import out as console
from .training import check_run, chosen_recipe

Folds = Annotated[int, typer.Option(min=2, help="Number of folds, for a data set without splits.")]
By = Annotated[
    Literal["subject", "image", "paper"],
    typer.Option("--by", help="What the folds keep apart; the last two are leaky."),
]
Workers = Annotated[int, typer.Option(min=1, help="How many are trained at once; they share the cores.")]
Only = Annotated[int | None, typer.Option(min=1, help="Train only the first so many folds.")]

bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


def crossval(
    data: Data,
    run: Annotated[Path, typer.Option(help="Run folder; it resumes at the fold where it was stopped.")],
    folds: Folds = 10,
    by: By = "subject",
    recipe_name: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    seed: Annotated[int | None, typer.Option(help="Seed of folds, weights, order and augmentation.")] = None,
    only: Only = None,
    workers: Workers = 1,
    device: Device = "cpu",
) -> None:
    """Cross-validate a data set without splits, such as CK+ and JAFFE.

    **subject** keeps all images of a subject in one fold: what to expect of a new face. **image** deals
    the images out at random, **paper** augmented copies of them, as the paper does; both are leaky, since an
    image that is tested has a near copy among those trained on. The last epoch is scored, with ten crops.

    Example: `mrcar crossval --data CK+48 --folds 10 --by subject --run runs/ckplus-subject`
    """
    from ..experiments.crossval import FOLD_PROTOCOLS, cross_validate

    recipe = chosen_recipe(recipe_name, data, settings, {"epochs": epochs, "seed": seed})
    check_run(run, data, recipe.data)
    err.print(f"folds by {by}: {FOLD_PROTOCOLS[by]}")

    def tell(fold: dict[str, Any]) -> None:
        console.print(f"fold {fold['fold']}: {fold['accuracy']:.2%} of {fold['count']}")

    result = cross_validate(recipe, data, run, by, folds, only, device, bar, tell, workers)
    spread = "" if result["spread"] is None else f" ± {result['spread']:.2%} over the folds"
    console.print(f"{result['accuracy']:.2%}{spread}; {by} folds, {FOLD_PROTOCOLS[by]}")


def ablate(
    data: Data,
    run: Annotated[Path, typer.Option(help="Folder of the runs; what is done is kept.")],
    variants: Annotated[
        str | None, typer.Option(help="Variants, separated by commas; the paper's four if left out, or all.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    folds: Folds = 10,
    by: By = "subject",
    recipe_name: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    only: Only = None,
    workers: Workers = 1,
    device: Device = "cpu",
) -> None:
    """Train a recipe with one part changed at a time: without regions, without ArcFace, without attention, …

    Data sets without splits are cross-validated; on others the last epoch is scored on the validation split.

    Example: `mrcar ablate --data fer2013 --run runs/ablation --seeds 0,1,2`
    """
    from ..experiments import ablate as ablation

    recipe = chosen_recipe(recipe_name, data, settings, {"epochs": epochs})
    check_run(run, data, recipe.data)
    names = list(ablation.VARIANTS) if variants == "all" else variants.split(",") if variants else ablation.PAPERS

    def tell(variant: str, seed: int, accuracy: float) -> None:
        console.print(f"{variant}, seed {seed}: {accuracy:.2%}")

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise MRCARError(f"seeds are whole numbers, separated by commas, got {seeds!r}") from None
    ablation.ablate(recipe, data, run, names, numbers, by, folds, only, device, bar, tell, workers)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders with runs in them, at any depth.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder for runs.csv, report.md, curves and confusion matrices.")],
) -> None:
    """Tables and images from finished runs: Markdown, CSV and PNG.

    Example: `mrcar report runs --out report`
    """
    from ..experiments.report import write_report

    table = Table("experiment", "data", "protocol", "seed", "accuracy")
    for row in write_report(runs, out):
        table.add_row(row.experiment, row.data, row.protocol, str(row.seed), f"{row.accuracy:.2%}")
    console.print(table)
    console.print(f"written to {out}")


def robustness(
    data: Data,
    models: Annotated[list[str], typer.Option("--model", help="Network or run folder; repeat it to compare several.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    name: Name = None,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
    device: Device = "cpu",
) -> None:
    """Score networks on damaged images: blur, noise, JPEG, light, rotation, covered eye or mouth, half size.

    Landmarks are detected in each damaged image, as they would be in use. One crop; all networks see the same damage.

    Example: `mrcar robustness --data fer2013 --model mrcar_resnet.fer2013 --model runs/face-only`
    """
    from ..data.listing import check_beside
    from ..experiments.robustness import score_damaged
    from ..network import load_network

    check_beside(out, data)
    networks = {model: load_network(model, device) for model in models}
    record = score_damaged(networks, data, split, name, device, bar)
    table = Table("damage", *models)
    for row in record["rows"]:
        table.add_row(row["damage"], *(f"{accuracy:.2%}" for accuracy in row["accuracy"].values()))
    console.print(table)
    if out is not None:
        _write(out, record)


def _write(out: Path, record: dict[str, Any]) -> None:
    write_text(out, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


@bench.command("faces")
def bench_faces(
    images: Annotated[list[Path], typer.Argument(help="Photos.")],
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
) -> None:
    """Time detector and regions against facenet-pytorch's MTCNN: the same images, one run, one thread.

    Example: `mrcar bench faces examples/group.jpg`
    """
    import hashlib
    from dataclasses import asdict

    from ..experiments.benchmark import SIZES, time_faces
    from ..provenance import provenance

    check_outputs([out], images, "the image")
    table = Table("image", "size", "search", "facenet", "ours", "ratio", "faces", "only theirs", "only ours")
    rows = []
    for row in bar(time_faces(images, repeats), "timing", len(images) * len(SIZES) * 2):
        rows.append({**asdict(row), "ratio": row.ratio})
        table.add_row(
            row.image,
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
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in images}
        record = {"images_sha256": digests, "made_by": provenance(), "rows": rows}
        _write(out, record)


@bench.command("network")
def bench_network(
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
) -> None:
    """Time the networks in PyTorch and ONNX Runtime, and timm's resnet18 at 112×112: one run, one thread.

    For one face, and a face of 16 at once. *Recognizer* is how many times as fast it is as what the recognizer
    runs by default.

    Example: `mrcar bench network`
    """
    from dataclasses import asdict

    from ..experiments.benchmark import time_networks
    from ..provenance import provenance

    table = Table("network", "parameters", "ms", "fastest", "resnet18", "recognizer", "ms of 16", "recognizer")
    rows = [asdict(row) for row in time_networks(repeats)]
    for row in rows:
        millions = f"{row['parameters'] / 1e6:.2f} M"
        one, some = ("" if row[key] is None else f"×{row[key]:.2f}" for key in ("speedup", "speedup_of_some"))
        times = [f"{row['ms']:.1f}", f"{row['fastest_ms']:.1f}", f"×{row['ratio']:.2f}", one]
        table.add_row(row["network"], millions, *times, f"{row['ms_of_some']:.1f}", some)
    console.print(table)
    if out is not None:
        record = {"repeats": repeats, "made_by": provenance(), "rows": rows}
        _write(out, record)


@bench.command("attention")
def bench_attention(
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 30,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
) -> None:
    """Time what attention inserted into six networks of timm costs: batch 1, one run, one thread.

    Example: `mrcar bench attention`
    """
    from dataclasses import asdict

    from ..experiments.benchmark import NETWORKS, time_attention
    from ..provenance import provenance

    table = Table("network", "places", "ms", "coord", "timm's coord", "se", "parameters added")
    rows = [asdict(row) for row in bar(time_attention(repeats), "timing", len(NETWORKS))]
    for row in rows:
        ratios = [f"{row[key] - 1:+.0%}" for key in ("coord", "timm_coord", "se")]
        added = f"{row['added'] / row['parameters']:+.1%}"
        table.add_row(row["network"], str(row["places"]), f"{row['ms']:.1f}", *ratios, added)
    console.print(table)
    if out is not None:
        _write(out, {"repeats": repeats, "made_by": provenance(), "rows": rows})


@bench.command("training")
def bench_training(
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 4,
    compiled: Annotated[bool, typer.Option("--compile", help="Time torch.compile too; it takes minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
    device: Device = "cpu",
) -> None:
    """Time training steps: what channels_last, bfloat16 and torch.compile gain here, and where the time goes.

    Example: `mrcar bench training --device cuda`
    """
    from dataclasses import asdict

    from ..experiments.benchmark import time_training
    from ..provenance import provenance
    from ..training.step import PHASES

    table = Table("", "ms", "ratio", *PHASES, "used", caption="milliseconds an image; used by training here")
    rows = []
    for row in bar(time_training(batch_size, steps, device, compiled), "timing", 4 if compiled else 3):
        rows.append(asdict(row))
        parts = [f"{row.phases[phase] / row.ms:.1%}" for phase in PHASES]
        table.add_row(row.way, f"{row.ms:.2f}", f"×{row.ratio:.2f}", *parts, "yes" if row.used else "no")
    console.print(table)
    if out is not None:
        record = {"batch_size": batch_size, "steps": steps, "made_by": provenance(), "rows": rows}
        _write(out, record)
