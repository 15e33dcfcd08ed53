"""``mrcar train``, ``crossval``, ``ablate``, ``report``, ``eval``, ``average`` and ``package``."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..errors import MRCARError
from ..training.timing import PHASES
from .console import Data, DataName, Device, Epochs, Folds, Model, Only, Protocol, RecipeName, Settings, bar, err
from .console import out as console


def chosen_recipe(name: str | None, data: Path, settings: list[str] | None, given: dict[str, Any]) -> Any:
    """The recipe that is named, or goes with the data, with the settings of the command line.

    Args:
        name: Of a recipe or a YAML file.
        data: Path of the data set.
        settings: "key=value".
        given: Values of options; None where an option was left out. They win over ``settings``.
    """
    from ..data.sets import recognise
    from ..training.recipe import changed, load_recipe, parse_settings

    recipe = load_recipe(name or recognise(data))
    recipe = changed(recipe, parse_settings(settings or ()))
    return changed(recipe, {key: value for key, value in given.items() if value is not None})


def train(
    data: Data,
    run: Annotated[Path, typer.Option(help="Run folder; training goes on where it stands.")],
    recipe_name: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pictures a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    margin: Annotated[float | None, typer.Option(help="ArcFace margin in radians.")] = None,
    scale: Annotated[float | None, typer.Option(help="ArcFace scale.")] = None,
    balance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Weight of rare classes: 0 as they come, 1 all classes alike.")
    ] = None,
    regions: Annotated[str | None, typer.Option(help="Regions, such as face or face,eyes,mouth.")] = None,
    attn: Annotated[str | None, typer.Option(help="Attention of the blocks: coord, se, …, none.")] = None,
    head: Annotated[str | None, typer.Option(help="arcface or linear.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Run folder, or weights such as mrcar_resnet.fer2013, to start from.")
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
    """Train a recipe, or go on with a run that was stopped.

    A data set without a validation split has a tenth held out, whole subjects where they are known.
    The folder gets config.json, recipe.yaml, log.csv, curves.png, last.pt, model.json and model.safetensors.

    [dim]mrcar train --data fer2013 --recipe fer2013-paper --run runs/paper --device cuda[/dim]
    """
    from ..plots import curves
    from ..training.engine import Trainer, read_log
    from ..training.load import load_training

    model_args = {"regions": regions and regions.split(","), "attn_layer": attn, "head": head}
    given = {
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
        recipe = replace(recipe, augmentation=recipe.augmentation.times(augment))
    splits = dict(zip(("train", "validation"), load_training(recipe, data, device, bar), strict=True))
    trainer = Trainer(recipe, splits["train"], splits["validation"], run, device, bar, compiled)
    for name, split in splits.items():
        err.print(f"{name}: {len(split.data)} pictures, landmarks {split.landmarks}")
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


def crossval(
    data: Data,
    run: Annotated[Path, typer.Option(help="Run folder; it goes on with the fold at which it was stopped.")],
    folds: Folds = 10,
    protocol: Protocol = "subject",
    recipe_name: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    seed: Annotated[int | None, typer.Option(help="Of the folds, weights, order and augmentation.")] = None,
    only: Only = None,
    device: Device = "cpu",
) -> None:
    """Cross-validate a data set without splits, such as CK+ and JAFFE.

    [b]subject[/b] keeps all pictures of a subject in one fold: what to expect of a new face. [b]image[/b] deals
    the pictures out at random, [b]paper[/b] augmented copies of them, as the paper does; both are leaky, since a
    picture that is tested has its like among those trained on. The last epoch is scored, with ten crops.

    [dim]mrcar crossval --data CK+48 --folds 10 --split subject --run runs/ckplus-subject[/dim]
    """
    from ..training.crossval import FOLD_PROTOCOLS, cross_validate

    recipe = chosen_recipe(recipe_name, data, settings, {"epochs": epochs, "seed": seed})
    err.print(f"folds by {protocol}: {FOLD_PROTOCOLS.get(protocol, '')}")

    def tell(fold: dict[str, Any]) -> None:
        console.print(f"fold {fold['fold']}: {fold['accuracy']:.2%} of {fold['count']}")

    result = cross_validate(recipe, data, run, protocol, folds, only, device, bar, tell)
    spread = "" if result["spread"] is None else f" ± {result['spread']:.2%} over the folds"
    console.print(f"{result['accuracy']:.2%}{spread}; {protocol} folds, {FOLD_PROTOCOLS[protocol]}")


def ablate(
    data: Data,
    run: Annotated[Path, typer.Option(help="Folder of the runs; what is done is kept.")],
    variants: Annotated[
        str | None, typer.Option(help="Variants, separated by commas; the paper's four if left out, or all.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    folds: Folds = 10,
    protocol: Protocol = "subject",
    recipe_name: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    only: Only = None,
    device: Device = "cpu",
) -> None:
    """Train a recipe with one part changed at a time: without regions, without ArcFace, without attention, …

    Data sets without splits are cross-validated; on others the last epoch is scored on the validation split.

    [dim]mrcar ablate --data fer2013 --run runs/ablation --seeds 0,1,2[/dim]
    """
    from ..training import ablate as ablation

    recipe = chosen_recipe(recipe_name, data, settings, {"epochs": epochs})
    names = list(ablation.VARIANTS) if variants == "all" else variants.split(",") if variants else ablation.PAPERS

    def tell(variant: str, seed: int, accuracy: float) -> None:
        console.print(f"{variant}, seed {seed}: {accuracy:.2%}")

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise MRCARError(f"seeds are whole numbers, separated by commas, got {seeds!r}") from None
    ablation.ablate(recipe, data, run, names, numbers, protocol, folds, only, device, bar, tell)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders with runs in them, at any depth.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder for runs.csv, report.md, curves and confusion matrices.")],
) -> None:
    """Tables and pictures from finished runs: Markdown, CSV and PNG.

    [dim]mrcar report runs --out report[/dim]
    """
    from ..training.report import write_report

    table = Table("experiment", "data", "protocol", "seed", "accuracy")
    for row in write_report(runs, out):
        table.add_row(row.experiment, row.data, row.protocol, str(row.seed), f"{row.accuracy:.2%}")
    console.print(table)
    console.print(f"written to {out}")


def evaluate(
    data: Data,
    model: Model = None,
    split: Annotated[
        str, typer.Option(help="train, validation or test; all of a data set without splits.")
    ] = "validation",
    protocol: Annotated[str, typer.Option(help="one crop, mirror pair, the paper's ten crops, or all.")] = "all",
    name: DataName = None,
    classes: Annotated[
        str | None, typer.Option(help="Score these alone, such as anger,fear: other pictures and logits are left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json, confusion and reliability.")] = None,
    device: Device = "cpu",
) -> None:
    """Score a network: accuracy, macro-F1, recall by class, confusion matrix, calibration.

    ECE is the expected calibration error over 15 bins, nll the negative log-likelihood; "raw" are those of the
    logits as they are, the others those with the temperature of the network's record. On the test split of
    FER2013 and FER+ a second row leaves out the pictures that stand in the training split too. With classes, a
    network can be scored on a data set that has others.

    [dim]mrcar eval --data fer2013 --model runs/first --split validation[/dim]
    [dim]mrcar eval --data CK+48 --split all --classes anger,disgust,fear,happiness,sadness,surprise[/dim]
    """
    import torch

    from ..data.images import contained_in
    from ..data.sets import DATA_SETS, read_split, recognise
    from ..models.loading import load_network
    from ..plots import confusion_matrix, reliability
    from ..provenance import provenance
    from ..training.evaluate import PROTOCOLS, VIEWS_OF_TEN, predict_logits, score
    from ..training.load import make_split, read_part

    protocols = PROTOCOLS if protocol == "all" else (protocol,)
    name = name or recognise(data)
    network = load_network(model, device)
    pictures = read_part(name, data, split)
    if classes is None:
        _check_labels(network.labels, pictures.classes)
    else:
        pictures = pictures.of_classes(tuple(classes.split(",")))
    columns = _columns(network.labels, pictures.classes)
    scored = make_split(pictures, data, network.model.regions, network.size[0], device, bar)
    labels = scored.batches.labels.cpu()
    subsets = {"all": torch.ones(len(pictures), dtype=torch.bool)}
    if split == "test" and "train" in DATA_SETS[name].splits:
        subsets["not in train"] = ~torch.from_numpy(contained_in(pictures, read_split(name, data, "train")))
    rows: list[dict[str, Any]] = []
    table = Table("protocol", "pictures", "count", "accuracy", "macro-F1")
    calibrated = Table("protocol", "pictures", "raw nll", "nll", "raw ECE", "ECE")
    widest = protocols[-1]
    views = predict_logits(network.model, scored.batches, widest, track=partial(bar, description=widest))[:, :, columns]
    for protocol in protocols:
        logits = views[VIEWS_OF_TEN[protocol]] if widest == "ten" else views
        for subset, mask in subsets.items():
            raw = score(logits[:, mask], labels[mask], pictures.classes)
            scores = score(logits[:, mask], labels[mask], pictures.classes, network.temperature)
            row = {"protocol": protocol, "pictures": subset, **scores.to_dict()}
            rows.append({**row, "raw_nll": raw.nll, "raw_ece": raw.calibration.ece})
            table.add_row(protocol, subset, str(scores.count), f"{scores.accuracy:.2%}", f"{scores.macro_f1:.2%}")
            errors = [f"{s.calibration.ece:.1%}" for s in (raw, scores)]
            calibrated.add_row(protocol, subset, f"{raw.nll:.3f}", f"{scores.nll:.3f}", *errors)
            if out is not None and subset == "all":
                out.mkdir(parents=True, exist_ok=True)
                title = f"{split}, {protocol}"
                confusion_matrix(scores.confusion, pictures.classes, out / f"confusion_{protocol}.png", title)
                before_after = {"raw": raw.calibration, "with the temperature": scores.calibration}
                reliability(before_after, out / f"reliability_{protocol}.png", title)
                with open(out / f"confusion_{protocol}.csv", "w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(["truth \\ predicted", *pictures.classes])
                    writer.writerows([c, *r] for c, r in zip(pictures.classes, scores.confusion.tolist(), strict=True))
    console.print(table)
    console.print(calibrated)
    recall = Table("recall of", *(row["protocol"] for row in rows if row["pictures"] == "all"))
    for label in rows[0]["recall"]:
        recall.add_row(label, *(f"{row['recall'][label]:.1%}" for row in rows if row["pictures"] == "all"))
    console.print(recall)
    if out is not None:
        record = {
            "model": network.name,
            "weights_sha256": network.sha256,
            "temperature": network.temperature,
            "data": name,
            "split": split,
            "classes": list(pictures.classes),
            "data_sha256": pictures.digest(),
            "landmarks": scored.landmarks,
            "made_by": provenance(),
            "rows": rows,
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _columns(labels: tuple[str, ...], classes: tuple[str, ...]) -> list[int]:
    """Where the logits of these classes stand."""
    missing = [name for name in classes if name not in labels]
    if missing:
        raise MRCARError(f"the network does not know {missing[0]!r}, but {', '.join(labels)}")
    return [labels.index(name) for name in classes]


def _check_labels(labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    if labels != classes:
        raise MRCARError(f"the network knows {labels}, the data set has {classes}; --classes scores those they share")


def robustness(
    data: Data,
    models: Annotated[list[str], typer.Option("--model", help="Network or run folder; repeat it to compare several.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    name: DataName = None,
    out: Annotated[Path | None, typer.Option(help="Write the table and what made it, as JSON.")] = None,
    device: Device = "cpu",
) -> None:
    """Score networks on damaged pictures: blur, noise, JPEG, light, rotation, covered eye or mouth, half size.

    Landmarks are sought anew in each damaged picture, as they would be in use. One crop; all networks see the
    same damage.

    [dim]mrcar robustness --data fer2013 --model mrcar_resnet.fer2013 --model runs/face-only[/dim]
    """
    from ..data.sets import recognise
    from ..models.loading import load_network
    from ..provenance import provenance
    from ..training.evaluate import predict_logits, score
    from ..training.load import make_split, read_part
    from ..training.robustness import DAMAGES, damaged

    name = name or recognise(data)
    networks = {model: load_network(model, device) for model in models}
    pictures = read_part(name, data, split)
    for network in networks.values():
        _check_labels(network.labels, pictures.classes)
    table = Table("damage", *models)
    rows = []
    for damage in DAMAGES:
        changed = damaged(pictures, damage, data, bar)
        row: dict[str, Any] = {"damage": damage, "accuracy": {}}
        for model, network in networks.items():
            scored = make_split(changed, data, network.model.regions, network.size[0], device, bar)
            logits = predict_logits(network.model, scored.batches, track=partial(bar, description=damage))
            row["accuracy"][model] = score(logits, scored.batches.labels, pictures.classes).accuracy
            row["landmarks"] = scored.landmarks
        rows.append(row)
        table.add_row(damage, *(f"{accuracy:.2%}" for accuracy in row["accuracy"].values()))
    console.print(table)
    if out is not None:
        record = {
            "models": {model: network.sha256 for model, network in networks.items()},
            "data": name,
            "split": split,
            "data_sha256": pictures.digest(),
            "made_by": provenance(),
            "rows": rows,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def average(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders.", exists=True)],
    data: Data,
    run: Annotated[Path, typer.Option(help="Folder to write.")],
    last: Annotated[bool, typer.Option("--last", help="Weights after the last epoch, not the best ones.")] = False,
    device: Device = "cpu",
) -> None:
    """Average the weights of runs that went on from one another, or from the same weights.

    The folder can be scored, packaged and gone on from like that of a run.

    [dim]mrcar average runs/first runs/second --data fer2013 --run runs/mean[/dim]
    """
    from ..training.average import average_runs

    accuracy = average_runs(runs, data, run, device, bar, last)
    console.print(f"validation {accuracy:.2%}, in {run / 'model.safetensors'}")


def package(
    run: Annotated[Path, typer.Argument(help="Finished run folder.", exists=True)],
    name: Annotated[str, typer.Option(help="Architecture and tag.")] = "mrcar_resnet.fer2013",
    folder: Annotated[Path | None, typer.Option(help="Where to write; the package's weights if left out.")] = None,
) -> None:
    """Write a run's best weights and their record as package data (half precision, three channels)."""
    from ..models.checkpoints import WEIGHTS_DIR
    from ..training.package import package_run

    checkpoint = package_run(run, folder or WEIGHTS_DIR, name)
    console.print(f"{checkpoint.name}: {checkpoint.num_params:,} parameters, sha256 {checkpoint.sha256}")
