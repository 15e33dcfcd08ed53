"""``mrcar train``, ``eval``, ``average`` and ``package``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from .console import Data, Device, Epochs, Model, Name, RecipeName, Settings, bar, err
from .console import out as console

if TYPE_CHECKING:
    from ..training.recipe import Recipe


def chosen_recipe(name: str | None, data: Path, settings: list[str] | None, given: dict[str, Any]) -> Recipe:
    """The recipe that is named, or goes with the data, with the settings of the command line.

    Args:
        name: Name of a recipe, or a YAML file.
        data: Path of the data set.
        settings: "key=value".
        given: Values of options; None where an option was left out. They win over ``settings``.
    """
    from ..data.sets import recognize
    from ..training.recipe import load_recipe, parse_settings

    recipe = load_recipe(name or recognize(data)).changed(parse_settings(settings or ()))
    return recipe.changed({key: value for key, value in given.items() if value is not None})


def train(
    data: Data,
    run: Annotated[Path, typer.Option(help="Run folder; training goes on where it stands.")],
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
        str | None, typer.Option(help="mrcar_resnet, or multi_region with --set model_args.backbone=NAME of timm's.")
    ] = None,
    attn: Annotated[str | None, typer.Option(help="Attention of the network: coord, se, …, none.")] = None,
    head: Annotated[Literal["arcface", "linear"] | None, typer.Option(help="Head of the network.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Network to start from, such as mrcar_resnet.fer2013 or a run folder.")
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

    A data set without a validation split has a tenth held out, whole subjects where they are known.
    The folder gets the network (config.json, model.safetensors, record.json), and recipe.yaml, log.csv, curves.png and
    last.pt.

    Example: `mrcar train --data fer2013 --recipe fer2013-paper --run runs/paper --device cuda`
    """
    from ..plots import curves
    from ..training.batches import load_training
    from ..training.engine import Trainer, read_log
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
        "model_args": {key: value for key, value in model_args.items() if value is not None},
    }
    recipe = chosen_recipe(recipe_name, data, settings, given)
    if augment is not None:
        recipe = recipe.changed({"augmentation": recipe.augmentation.times(augment)})
    splits = dict(zip(("train", "validation"), load_training(recipe, data, device, bar), strict=True))
    trainer = Trainer(recipe, splits["train"], splits["validation"], run, device, bar, compiled)
    trainer.resume()
    for name, split in splits.items():
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
    console.print(f"best on validation: {trainer.best:.2%}, in {run / 'model.safetensors'}")


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
    device: Device = "cpu",
) -> None:
    """Score a network: accuracy, macro-F1, recall by class, confusion matrix, calibration.

    On the test split of FER2013 and FER+ a second row leaves out the images that are in the training split too. With
    classes, a network can be scored on a data set that has others.

    Example: `mrcar eval --data fer2013 --model runs/first --split validation`
    """
    from ..network import load_network
    from ..training import evaluate as evaluation

    protocols = evaluation.PROTOCOLS if protocol == "all" else (protocol,)
    chosen = None if classes is None else tuple(classes.split(","))
    network = load_network(model, device)
    found = evaluation.evaluate(network, data, split, protocols, name, chosen, device, bar)
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
        (out / "scores.json").write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")


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
    from ..training.average import average_runs

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
