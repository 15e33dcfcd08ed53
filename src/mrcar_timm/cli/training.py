"""``mrcar train``, ``eval``, ``average`` and ``package``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from ..errors import OutputError
from ..output import check_outputs, write_json
from .console import Data, Device, Epochs, FacesOf, Model, Name, RecipeName, Settings, bar, err
from .console import out as console
from .data import findings

if TYPE_CHECKING:
    from ..data.imagefolder import LabelledFaces
    from ..training.batches import Split
    from ..training.recipe import Recipe


#: What training writes into a run folder.
RUN_FILES = (
    "config.json", "model.safetensors", "record.json", "recipe.yaml", "log.csv", "curves.png", "last.pt",
    "left_out.csv",
)  # fmt: skip


def chosen_recipe(name: str | None, data: Path, settings: list[str] | None, given: dict[str, Any]) -> Recipe:
    """The recipe that is named, or goes with the data, with the settings of the command line.

    Args:
        name: Name of a recipe, or a YAML file.
        data: Path of the data set.
        settings: "key=value".
        given: Values of options; None where an option was left out. They win over ``settings``.
    """
    from ..data.sets import DATA_SETS, recognize
    from ..training.recipe import load_recipe, parse_settings

    if name is None:
        data_set = recognize(data)
        name = DATA_SETS[data_set].recipe or data_set
    recipe = load_recipe(name)
    if given.get("model") not in (None, recipe.model):
        recipe = recipe.changed({"init": None})  # it is of another network
    recipe = recipe.changed(parse_settings(settings or ()))
    return recipe.changed({key: value for key, value in given.items() if value is not None})


def check_run(run: Path, data: Path, data_set: str) -> None:
    """Raise where a folder to write is the data set, has it in it under a name that is written, or is in it.

    Raises:
        OutputError: Naming both.
    """
    check_outputs([run, *(run / name for name in RUN_FILES)], [data], "the data set")
    if data_set == "imagefolder" and data.is_dir() and data.resolve() in run.resolve().parents:
        raise OutputError(f"{run} is in the data set {data}, whose images its plots would be; name another folder")


def train(
    context: typer.Context,
    data: Data,
    # torchrun takes --run for an option of its own, wherever it stands.
    run: Annotated[Path, typer.Option("--run", "--run-folder", help="Run folder; training goes on where it stands.")],
    recipe_name: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")] = None,
    margin: Annotated[float | None, typer.Option(help="ArcFace margin in radians.")] = None,
    scale: Annotated[float | None, typer.Option(help="ArcFace scale.")] = None,
    balance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Weight of rare classes: 0 as they come, 1 all classes alike.")
    ] = None,
    regions: Annotated[str | None, typer.Option(help="Regions, such as face or face,eyes,mouth.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="mrcar_resnet, mrcar_mobilenet, or multi_region with --set model_args.backbone=NAME."),
    ] = None,
    attn: Annotated[str | None, typer.Option(help="Attention of the network: coord, se, …, none.")] = None,
    head: Annotated[Literal["arcface", "linear"] | None, typer.Option(help="Head of the network.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Network to start from, such as mrcar_resnet.fer2013 or a run folder.")
    ] = None,
    faces: FacesOf = None,
    freeze: Annotated[
        Literal["none", "backbone"] | None, typer.Option(help="Train the embedding and the head alone.")
    ] = None,
    freeze_epochs: Annotated[
        int | None, typer.Option(min=1, help="--freeze holds for the first so many epochs.")
    ] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor of the learning rate for each layer further from the head.")
    ] = None,
    backbone_lr: Annotated[float | None, typer.Option(help="Factor of the learning rate before the embedding.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without a better one on validation.")
    ] = None,
    augment: Annotated[float | None, typer.Option(help="Factor on all ranges of the augmentation.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop before an epoch that would end later; the same command goes on.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile: minutes to start, then faster on a GPU.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Train a recipe, or resume a run that was stopped.

    Images of your own lie in folders that name their classes (mydata/smile/*.jpg), perhaps with train, val and test
    above, or in a table with the columns path and label. A data set without a validation split has a tenth held out,
    whole subjects where they are known. The folder gets the network (config.json, model.safetensors, record.json), and
    recipe.yaml, log.csv, curves.png, last.pt and left_out.csv.

    Several processes, and GPUs, share each step:
    `torchrun --nproc-per-node 4 -m mrcar_timm train --data mydata --run-folder runs/mine`

    Example: `mrcar train --data mydata --run runs/mine`
    """
    from ..data.listing import LEFT_OUT, write_left_out
    from ..plots import curves
    from ..training.batches import load_training
    from ..training.engine import Trainer, read_log
    from ..training.group import joined_group
    from ..training.step import PHASES

    attention = "attention" if model == "multi_region" else "attn_layer"
    model_args = {"regions": regions and regions.split(","), attention: attn, "head": head}
    given = {
        "model": model,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "margin": margin,
        "scale": scale,
        "balance": balance,
        "init": init,
        "faces": faces,
        "freeze": freeze,
        "freeze_epochs": freeze_epochs,
        "layer_decay": layer_decay,
        "backbone_lr": backbone_lr,
        "patience": patience,
        "model_args": {key: value for key, value in model_args.items() if value is not None},
    }
    recipe = chosen_recipe(recipe_name, data, settings, given)
    if augment is not None:
        recipe = recipe.changed({"augmentation": recipe.augmentation.times(augment)})
    check_run(run, data, recipe.data)
    group = context.with_resource(joined_group())
    err.quiet = console.quiet = not group.is_first
    device = group.own(device)
    left_out: dict[str, str] = {}
    tested = False

    def tell_findings(own: LabelledFaces) -> None:
        nonlocal tested
        err.print(findings(own))
        for line in own.warnings:
            err.print(f"note: {line}", style="yellow")
        left_out.update(own.left_out)
        tested = "test" in own.splits

    with group.one_by_one():
        train, validation = load_training(recipe, data, device, bar, tell_findings)
    trainer = Trainer(recipe, train, validation, run, device, bar, compiled, group)
    trainer.resume()
    recipe = trainer.recipe
    if left_out and group.is_first:
        write_left_out(left_out, run / LEFT_OUT)
        err.print(f"{len(left_out)} files are left out, see {run / LEFT_OUT}")
    for name, split in (("train", train), ("validation", validation)):
        err.print(f"{name}: {len(split.data)} images, landmarks {split.landmarks}")
    if trainer.epoch:
        err.print(f"going on after epoch {trainer.epoch} of {recipe.epochs}")

    def tell(row: dict[str, float]) -> None:
        curves(read_log(run / "log.csv"), run / "curves.png")
        parts = ", ".join(f"{phase} {row[phase] / row['seconds']:.1%}" for phase in PHASES)
        console.print(
            f"epoch {row['epoch']:.0f}/{recipe.epochs}  loss {row['train_loss']:.3f}  "
            f"validation {row['val_accuracy']:.2%}  {row['seconds']:.0f} s ({parts})"
        )

    if not trainer.fit(tell, minutes):
        console.print(f"stopped after epoch {trainer.epoch} of {recipe.epochs}; the same command goes on")
        return
    if group.is_first:
        _report(run, validation, data, tested)


def _report(run: Path, validation: Split, data: Path, tested: bool) -> None:
    """What a run reached on validation, and what to do with it."""
    from ..metrics import score
    from ..network import load_network
    from ..training.evaluate import predict_logits

    network = load_network(run)
    found = score(predict_logits(network.model, validation.batches), validation.batches.labels.cpu(), network.labels)
    table = Table("truth, validation", *network.labels, "recall")
    for name, row in zip(network.labels, found.confusion.tolist(), strict=True):
        table.add_row(name, *map(str, row), f"{found.recall[name]:.1%}" if name in found.recall else "")
    console.print(table)
    console.print(
        f"best on validation: {found.accuracy:.2%} of {found.count} images, macro-F1 {found.macro_f1:.2%}, "
        f"ECE {found.calibration.ece:.1%}, in {run / 'model.safetensors'}\n"
        f"  mrcar predict photo.jpg --model {run}\n"
        f"  mrcar eval --data {data} --model {run} --split {'test' if tested else 'validation'}\n"
        f"  mrcar publish {run} --repo-id ORG/NAME",
    )


def evaluate(
    data: Data,
    model: Model = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"], typer.Option(help="all is for a data set without splits.")
    ] = "validation",
    protocol: Annotated[
        Literal["one", "mirror", "ten", "all"], typer.Option(help="One crop, a mirrored pair, the paper's ten crops.")
    ] = "all",
    name: Name = None,
    classes: Annotated[
        str | None, typer.Option(help="Score these alone, such as anger,fear: other images and logits are left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json and plots.")] = None,
    faces: FacesOf = None,
    device: Device = "cpu",
) -> None:
    """Score a network: accuracy, macro-F1, recall by class, confusion matrix, calibration.

    On the test split of FER2013 and FER+ a second row leaves out the images that are in the training split too. With
    classes, a network can be scored on a data set that has others.

    Example: `mrcar eval --data fer2013 --model runs/first --split validation`
    """
    from ..data.sets import recognize
    from ..network import load_network
    from ..training import evaluate as evaluation

    protocols = evaluation.PROTOCOLS if protocol == "all" else (protocol,)
    chosen = None if classes is None else tuple(classes.split(","))
    if out is not None:
        check_run(out, data, name or recognize(data))
    network = load_network(model, device)
    found = evaluation.evaluate(network, data, split, protocols, name, chosen, device, bar, faces or "largest")
    table = Table("protocol", "images", "count", "accuracy", "macro-F1", "NLL", "ECE")
    for (one, subset), scores in found.scores.items():
        rates = [f"{scores.accuracy:.2%}", f"{scores.macro_f1:.2%}"]
        table.add_row(one, subset, str(scores.count), *rates, f"{scores.nll:.3f}", f"{scores.calibration.ece:.1%}")
    console.print(table)
    whole = {one: scores for (one, subset), scores in found.scores.items() if subset == "all"}
    recall = Table("recall of", *whole)
    for label in next(iter(whole.values())).recall:
        recall.add_row(label, *(f"{scores.recall[label]:.1%}" for scores in whole.values()))
    console.print(recall)
    if out is not None:
        found.draw(out)
        write_json(out / "scores.json", found.to_dict())


def average(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders.", exists=True)],
    data: Data,
    run: Annotated[Path, typer.Option(help="Folder to write.")],
    last: Annotated[bool, typer.Option("--last", help="Weights after the last epoch, not the best ones.")] = False,
    device: Device = "cpu",
) -> None:
    """Average the weights of runs that continued one another, or started from the same weights.

    Example: `mrcar average runs/first runs/second --data fer2013 --run runs/mean`
    """
    from ..data.sets import recognize
    from ..training.average import average_runs

    check_run(run, data, recognize(data))
    accuracy = average_runs(runs, data, run, device, bar, last)
    console.print(f"validation {accuracy:.2%}, in {run / 'model.safetensors'}")


def package(
    source: Annotated[str, typer.Argument(help="A network, such as a run folder.")],
    name: Annotated[str, typer.Option(help="Architecture and tag, such as mrcar_resnet.mine.")],
    folder: Annotated[Path, typer.Option(help="Where the folder of that name goes.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write a network in half precision, in the shape of the weights in this package.

    Example: `mrcar package runs/first --name mrcar_resnet.mine --folder weights`
    """
    from ..hub import package as write_package

    record = write_package(source, folder, name, force)
    console.print(f"{record.name}: {record.num_params:,} parameters, sha256 {record.sha256}")
