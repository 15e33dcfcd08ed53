"""The command line: ``mrcar predict``, ``video``, ``train``, ``eval``, ``package`` and ``bench``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .errors import MRCARError
from .version import __version__

app = typer.Typer(
    name="mrcar",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Facial expressions with [bold]MrCAR[/bold]: recognise them in photos, train networks, score them.\n\n"
    "An expression is what a face shows, not what a person feels. Do not use this at work or in schools to "
    "infer emotions: the EU forbids it.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")
app.add_typer(bench, name="bench")
# Results go to stdout, all else to stderr, so that `mrcar predict --json … | jq` works.
_out = Console()
_err = Console(stderr=True)

Largest = Annotated[bool, typer.Option("--largest", help="The largest face alone; several times faster.")]
MinSize = Annotated[float, typer.Option(min=0, help="Height in pixels that a face must have.")]
MinScore = Annotated[float, typer.Option(min=0, max=1, help="Score that the detector must give a face.")]
Model = Annotated[
    str | None, typer.Option(help="Registered network or run folder; the packaged weights if left out.")
]
Device = Annotated[str, typer.Option(help="Where networks run: cpu, cuda, cuda:1, mps, …")]
Data = Annotated[Path, typer.Option(help="FER2013: its folder, or Kaggle's fer2013.csv.", exists=True)]


def _bar(iterable: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
    """Show a progress bar on stderr while a loop runs; the total is the length where it has one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True) as progress:
        yield from progress.track(iterable, total=total, description=description)


def _version(show: bool) -> None:
    if show:
        _out.print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def predict(
    pictures: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON, an object a picture.")] = False,
    annotate: Annotated[
        Path | None,
        typer.Option(help="Write a picture with boxes, labels and regions; a folder for several photos."),
    ] = None,
    model: Model = None,
    missing: Annotated[
        str, typer.Option(help="Where no face is found: [b]none[/b], [b]raise[/b] or [b]full_image[/b].")
    ] = "none",
    largest: Largest = False,
    min_size: MinSize = 0,
    min_score: MinScore = 0,
    device: Device = "cpu",
) -> None:
    """Find the faces of photos and name their expressions.

    A picture that cannot be read does not stop the others; the exit code is 1 then.

    [dim]mrcar predict photo.jpg --annotate out.png[/dim]
    """
    from .pictures import to_rgb
    from .recognizer import ExpressionRecognizer

    files = list(_expand(pictures))
    if not files:
        raise MRCARError(f"no pictures in {', '.join(map(str, pictures))}")
    into_folder = annotate is not None and (len(files) > 1 or annotate.is_dir())
    if annotate is not None:
        (annotate if into_folder else annotate.parent).mkdir(parents=True, exist_ok=True)
    recognizer = ExpressionRecognizer(
        model,
        missing=missing,
        faces="largest" if largest else "all",
        min_size=min_size,
        min_score=min_score,
        device=device,
    )
    results: list[dict[str, Any]] = []
    stream = recognizer.stream(files)
    for file, faces in zip(files, _bar(stream, "recognising", len(files)), strict=True):
        if isinstance(faces, Exception):
            results.append({"file": str(file), "error": str(faces)})
            continue
        results.append({"file": str(file), "missing": faces.missing, "faces": [face.to_dict() for face in faces]})
        if annotate is not None:
            from .plots import annotate as draw

            target = annotate / f"{file.stem}{file.suffix.replace('.', '_')}.png" if into_folder else annotate
            draw(to_rgb(file), faces).save(target)
    if json_output:
        print(json.dumps(results, indent=2))
    else:
        _print_faces(results)
    failed = [result for result in results if "error" in result]
    for result in failed:
        # Errors about a file name it already; others are given its name.
        text = result["error"]
        _err.print(text if result["file"] in text else f"{result['file']}: {text}", style="red", markup=False)
    if failed:
        raise typer.Exit(1)


def _expand(paths: list[Path]) -> Iterable[Path]:
    from .pictures import find_pictures

    for path in paths:
        if path.is_dir():
            yield from find_pictures(path)
        else:
            yield path


def _print_faces(results: list[dict[str, Any]]) -> None:
    table = Table("picture", "face", "box x1 y1 x2 y2", "expression", "probability", "found by")
    for result in results:
        name = Path(result["file"]).name
        if "error" in result:
            table.add_row(name, "", "", "[red]cannot be used[/red]", "", "")
        elif not result["faces"]:
            table.add_row(name, "0", "", "[dim]no face found[/dim]", "", "")
        for number, face in enumerate(result.get("faces", ()), start=1):
            box = " ".join(f"{v:.0f}" for v in face["box"])
            table.add_row(name, str(number), box, face["expression"], f"{face['probability']:.1%}", face["source"])
    _out.print(table)


@app.command()
def video(
    source: Annotated[Path | None, typer.Argument(help="Video file.")] = None,
    camera: Annotated[int | None, typer.Option(min=0, help="Number of a camera, instead of a file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Annotated video: .mp4, .mov or .mkv; without sound.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Table with a line for each face of each frame.")] = None,
    every: Annotated[int, typer.Option(min=1, help="New faces are sought in every so many frames.")] = 10,
    smoothing: Annotated[float, typer.Option(min=0, help="Seconds over which expressions are averaged.")] = 0.5,
    model: Model = None,
    largest: Largest = False,
    min_size: MinSize = 0,
    min_score: MinScore = 0,
    device: Device = "cpu",
) -> None:
    """Follow the faces of a video, or of a camera until Ctrl-C, and name their expressions.

    What was done until Ctrl-C is in the files.

    [dim]mrcar video talk.mp4 --out annotated.mp4 --csv faces.csv[/dim]
    """
    from .recognizer import ExpressionRecognizer
    from .tracking import FaceTracker
    from .video import follow_video

    film = source if camera is None else camera
    if film is None or (source is not None and camera is not None):
        raise MRCARError("expected a video file or --camera, and not both")
    if source is not None and out is not None and out.exists() and source.exists() and out.samefile(source):
        raise MRCARError(f"{out} is the video itself")
    recognizer = ExpressionRecognizer(
        model, faces="largest" if largest else "all", min_size=min_size, min_score=min_score, device=device
    )
    tracker = FaceTracker(recognizer, every, smoothing)
    summary = follow_video(film, tracker, out, table, lambda frames, total: _bar(frames, "following", total))
    rows = Table("face", "frames", "seconds", "expressions, in parts of the frames")
    for number, face in summary.faces.items():
        parts = ", ".join(f"{name} {count / face.frames:.0%}" for name, count in face.expressions.items())
        rows.add_row(str(number), str(face.frames), f"{face.first:.1f}–{face.last:.1f}", parts)
    _out.print(rows)
    _out.print(f"{summary.frames} frames, {summary.frames_per_second:.1f} frames a second")
    if summary.damaged:
        _err.print(f"{summary.damaged} damaged packets were left out", style="red")
    if summary.announced is not None and summary.frames < summary.announced and not summary.interrupted:
        _err.print(f"the file says that it has {summary.announced} frames", style="red")
    if summary.interrupted:
        _err.print("stopped; what was done until then is written")
        raise typer.Exit(0 if source is None else 130)


@bench.command("faces")
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

    from .bench import SIZES, time_faces
    from .provenance import provenance

    table = Table("picture", "size", "search", "facenet", "ours", "ratio", "faces", "only theirs", "only ours")
    rows = []
    for row in _bar(time_faces(pictures, repeats), "timing", len(pictures) * len(SIZES) * 2):
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
    _out.print(table)
    if out is not None:
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in pictures}
        record = {"pictures_sha256": digests, "made_by": provenance(), "rows": rows}
        out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command()
def train(
    data: Data,
    run: Annotated[Path, typer.Option(help="Run folder; training goes on where it stands.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pictures a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate of the cycle.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    margin: Annotated[float | None, typer.Option(help="ArcFace margin in radians.")] = None,
    scale: Annotated[float | None, typer.Option(help="ArcFace scale.")] = None,
    balance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Weight of rare classes: 0 as they come, 1 all classes alike.")
    ] = None,
    regions: Annotated[str | None, typer.Option(help="Regions, such as face or face,eyes,mouth.")] = None,
    attn: Annotated[str | None, typer.Option(help="Attention of the blocks: coord, se, …, none.")] = None,
    head: Annotated[str | None, typer.Option(help="arcface or linear.")] = None,
    init: Annotated[str | None, typer.Option(help="Run folder whose best weights are the start.")] = None,
    augment: Annotated[float, typer.Option(help="Factor on all ranges of the augmentation.")] = 1.0,
    device: Device = "cpu",
) -> None:
    """Train on FER2013, or go on with a run that was stopped.

    The folder gets config.json, log.csv, curves.png, last.pt and best.safetensors.

    [dim]mrcar train --data fer2013 --run runs/first[/dim]
    """
    from .plots import curves
    from .training.engine import Trainer, read_log
    from .training.recipe import Augmentation, Recipe

    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "margin": margin,
        "scale": scale,
        "balance": balance,
    }
    given["init"] = init
    model_args: dict[str, Any] = {}
    if regions is not None:
        model_args["regions"] = regions.split(",")
    if attn is not None:
        model_args["attn_layer"] = None if attn == "none" else attn
    if head is not None:
        model_args["head"] = head
    recipe = replace(
        Recipe(model_args=model_args, augmentation=Augmentation().times(augment)),
        **{name: value for name, value in given.items() if value is not None},
    )
    trainer = Trainer(recipe, data, run, device=device, progress=_bar)
    sources: Any = trainer.config["data"]
    for split in ("train", "validation"):
        _err.print(f"{split}: {sources[split]['count']} pictures, landmarks {sources[split]['landmarks']}")
    if trainer.epoch:
        _err.print(f"going on after epoch {trainer.epoch} of {recipe.epochs}")

    def tell(row: dict[str, float]) -> None:
        curves(read_log(run / "log.csv"), run / "curves.png")
        _out.print(
            f"epoch {row['epoch']:.0f}/{recipe.epochs}  loss {row['train_loss']:.3f}  "
            f"validation {row['val_accuracy']:.2%}  {row['seconds']:.0f} s"
        )

    trainer.fit(tell)
    _out.print(f"best on validation: {trainer.best:.2%}, in {run / 'best.safetensors'}")


@app.command("eval")
def evaluate(
    data: Data,
    model: Model = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    protocol: Annotated[str, typer.Option(help="one crop, mirror pair, the paper's ten crops, or all.")] = "all",
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json and confusion matrices.")] = None,
    device: Device = "cpu",
) -> None:
    """Score a network on FER2013: accuracy, macro-F1, recall by class, confusion matrix.

    On the test split a second row leaves out the pictures that stand in the training split too.

    [dim]mrcar eval --data fer2013 --model runs/first --split validation[/dim]
    """
    import torch

    from .data.fer2013 import read_fer2013
    from .data.images import contained_in
    from .models.loading import load_network
    from .plots import confusion_matrix
    from .provenance import provenance
    from .training.engine import load_split
    from .training.evaluate import PROTOCOLS, predict_logits, score

    protocols = PROTOCOLS if protocol == "all" else (protocol,)
    network = load_network(model, device)
    images, batches, sources = load_split(data, split, network.model.regions, network.size[0], device, progress=_bar)
    _check_labels(network.labels, images.classes)
    subsets = {"all": torch.ones(len(images), dtype=torch.bool)}
    if split == "test":
        subsets["not in train"] = ~torch.from_numpy(contained_in(images, read_fer2013(data, "train")))
    rows: list[dict[str, Any]] = []
    table = Table("protocol", "pictures", "count", "accuracy", "macro-F1", "nll")
    for name in protocols:
        logits = predict_logits(
            network.model,
            batches,
            name,
            track=partial(_bar, description=f"{split}, {name}"),
        )
        for subset, mask in subsets.items():
            scores = score(logits[:, mask], batches.labels.cpu()[mask], images.classes, network.temperature)
            rows.append({"protocol": name, "pictures": subset, **scores.to_dict()})
            table.add_row(
                name,
                subset,
                str(scores.count),
                f"{scores.accuracy:.2%}",
                f"{scores.macro_f1:.2%}",
                f"{scores.nll:.3f}",
            )
            if out is not None and subset == "all":
                out.mkdir(parents=True, exist_ok=True)
                confusion_matrix(scores.confusion, images.classes, out / f"confusion_{name}.png", f"{split}, {name}")
                with open(out / f"confusion_{name}.csv", "w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(["truth \\ predicted", *images.classes])
                    writer.writerows([c, *r] for c, r in zip(images.classes, scores.confusion.tolist(), strict=True))
    _out.print(table)
    recall = Table("recall of", *(row["protocol"] for row in rows if row["pictures"] == "all"))
    for label in rows[0]["recall"]:
        recall.add_row(label, *(f"{row['recall'][label]:.1%}" for row in rows if row["pictures"] == "all"))
    _out.print(recall)
    if out is not None:
        record = {
            "model": network.name,
            "weights_sha256": network.sha256,
            "split": split,
            "data_sha256": images.digest(),
            "landmarks": sources,
            "made_by": provenance(),
            "rows": rows,
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _check_labels(labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    if labels != classes:
        raise MRCARError(f"the network knows {labels}, the data set has {classes}")


@app.command()
def package(
    run: Annotated[Path, typer.Argument(help="Finished run folder.", exists=True)],
    name: Annotated[str, typer.Option(help="Architecture and tag.")] = "mrcar_resnet.fer2013",
    folder: Annotated[Path | None, typer.Option(help="Where to write; the package's weights if left out.")] = None,
) -> None:
    """Write a run's best weights and their record as package data (half precision, three channels)."""
    from .models.checkpoints import WEIGHTS_DIR
    from .training.package import package_run

    checkpoint = package_run(run, folder or WEIGHTS_DIR, name)
    _out.print(f"{checkpoint.name}: {checkpoint.num_params:,} parameters, sha256 {checkpoint.sha256}")


def main() -> None:
    """Run the command line; errors of the package end with a line and exit code 1."""
    try:
        app()
    except (MRCARError, ValueError, OSError) as error:
        _err.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
