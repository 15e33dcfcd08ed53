"""The packaged weights: one program from archives to weights, logs and validation scores.

python -m tools.weights ../archives runs/weights --hours 2 --minutes 9     # again and again, until it says "done"

The archives are fer2013-{train,validation,test}.zip and ferplus.csv; landmarks.zip, where there is one, holds the
cache of landmarks (data/.mrcar-cache of another run), and facenet-pytorch is not needed. Each call ends within its
minutes, but for one epoch at least, and goes on where the last one stopped. The plan (how many epochs fit into the
hours) comes from the speed of a first short training and is kept. The test split is not read, but to leave its images
out of what is trained on.
"""

import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from mrcar_timm.cli.console import bar, out
from mrcar_timm.hub import package
from mrcar_timm.metrics import score
from mrcar_timm.network import load_network
from mrcar_timm.output import write_json
from mrcar_timm.regions.geometry import REGIONS
from mrcar_timm.training.batches import Split, load_training
from mrcar_timm.training.engine import Trainer
from mrcar_timm.training.evaluate import PROTOCOLS, VIEWS_OF_TEN, predict_logits
from mrcar_timm.training.recipe import Recipe, load_recipe
from mrcar_timm.training.step import PHASES


@dataclass(frozen=True)
class Stage:
    """What is trained with every seed before the next stage begins.

    Attributes:
        recipe: A recipe of the package.
        share: Share of the time.
        lr: Highest learning rate.
        init: Stage whose run of the same seed it starts from; else the recipe's.
        branches: Regions whose branch comes from another stage's run of the same seed.
        teachers: Stage whose runs of all seeds teach.
        regions: What the network looks at.
    """

    recipe: str
    share: float
    lr: float
    init: str | None = None
    branches: Mapping[str, str] = field(default_factory=dict)
    teachers: str | None = None
    regions: tuple[str, ...] = REGIONS


#: In order. Each region learns alone first: beside eyes and mouth, which are learned faster, the face would learn
#: nothing, and results/steps.md shows that it is worth most if all three do. The networks that see the face alone also
#: show what the regions are worth.
STAGES = {
    "ferplus-face": Stage("ferplus-face", 0.1, 0.003, regions=("face",)),
    "ferplus-eyes": Stage("ferplus-face", 0.07, 0.003, regions=("eyes",)),
    "ferplus-mouth": Stage("ferplus-face", 0.07, 0.003, regions=("mouth",)),
    "ferplus-first": Stage("ferplus", 0.15, 0.0015, branches={region: f"ferplus-{region}" for region in REGIONS}),
    "fer2013-first": Stage("fer2013-finetune", 0.24, 0.0015, init="ferplus-first"),
    "fer2013": Stage("fer2013-finetune", 0.21, 0.001, init="fer2013-first", teachers="fer2013-first"),
    "ferplus": Stage("ferplus", 0.13, 0.001, init="ferplus-first", teachers="ferplus-first"),
    "fer2013-face": Stage("fer2013-finetune", 0.03, 0.0015, init="ferplus-face", regions=("face",)),
}
PACKAGED = ("fer2013", "ferplus")
BATCH_SIZE = 256
#: What a teacher's look at an image costs beside a student's training on it: a third of the operations, folded.
TEACHER = 0.25
_PROBE = 4096  # images of the short training that the plan comes from


def unpack(archives: Path, folder: Path) -> Path:
    """The data set's folder, whole or not there."""
    if not folder.exists():
        partial_folder = folder.with_suffix(".partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        for split in ("train", "validation", "test"):
            with zipfile.ZipFile(archives / f"fer2013-{split}.zip") as archive:
                archive.extractall(partial_folder)
        shutil.copy(archives / "ferplus.csv", partial_folder)
        if (archives / "landmarks.zip").exists():
            with zipfile.ZipFile(archives / "landmarks.zip") as archive:
                archive.extractall(partial_folder / ".mrcar-cache")
        partial_folder.rename(folder)
    return folder


def planned(
    file: Path, splits: tuple[Split, Split], hours: float, seeds: int, device: str, compiled: bool = False
) -> dict[str, Any]:
    """Epochs of each stage, so that all runs together take the hours; what the file says, if there is one.

    Beside the epochs: how long one of all regions takes, and how long scoring such a network does.
    """
    if not file.exists():
        train, validation = splits
        probe = train.select(torch.arange(min(_PROBE, len(train.data))).numpy())
        rows: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            recipe = load_recipe("ferplus").changed(
                {"epochs": 2, "batch_size": min(BATCH_SIZE, len(probe.data)), "init": None}
            )
            Trainer(recipe, probe, validation, Path(folder), device, compiled=compiled).fit(rows.append)
        training = sum(rows[-1][phase] for phase in PHASES)  # the first epoch has started the device
        one_crop = rows[-1]["seconds"] - training
        epoch = training * len(train.data) / len(probe.data) + one_crop
        epochs = {
            name: max(1, round(stage.share * hours * 3600 / seeds / epoch / cost(stage, seeds)))
            for name, stage in STAGES.items()
        }
        plan = {
            "seconds_an_epoch": epoch, "seconds_of_scoring": 10 * one_crop, "images": len(train.data),
            "hours": hours, "epochs": epochs,
        }  # fmt: skip
        file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def cost(stage: Stage, seeds: int) -> float:
    """Cost of an epoch, relative to one without teachers that sees all regions."""
    taught = 1 + TEACHER * seeds if stage.teachers else 1
    return taught * len(stage.regions) / len(REGIONS)


def runs(work: Path, epochs: dict[str, int], seeds: list[int]) -> Iterator[tuple[str, Path, Recipe]]:
    """Stage, folder and recipe of each run, in order."""
    for name, stage in STAGES.items():
        for seed in seeds:
            values = {"epochs": epochs[name], "seed": seed, "batch_size": BATCH_SIZE, "lr": stage.lr}
            recipe = load_recipe(stage.recipe).changed(values)
            if stage.regions != REGIONS:
                recipe = recipe.changed({"model_args": {"regions": list(stage.regions)}})
            if stage.branches:
                branches = {region: str(work / f"{before}-{seed}") for region, before in stage.branches.items()}
                recipe = recipe.changed({"branches": branches})
            if stage.init:
                recipe = recipe.changed({"init": str(work / f"{stage.init}-{seed}")})
            if stage.teachers:
                recipe = recipe.changed({"teachers": [str(work / f"{stage.teachers}-{s}") for s in seeds]})
            yield name, work / f"{name}-{seed}", recipe


def main(
    archives: Annotated[Path, typer.Argument(exists=True)],
    work: Path,
    hours: Annotated[float, typer.Option(help="Of training, all seeds together.")] = 2,
    minutes: Annotated[float, typer.Option(help="Of this call.")] = 9,
    seeds: str = "0",
    limit: Annotated[int | None, typer.Option(help="Images that are trained on, for a rehearsal.")] = None,
    device: str = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile, for a GPU.")] = False,
) -> None:
    """Go on until the minutes are over or all is done."""
    deadline = time.monotonic() + 60 * minutes
    work.mkdir(parents=True, exist_ok=True)
    data = unpack(archives, work / "data")
    splits = {
        name: load_training(load_recipe(name).changed({"limit": limit}), data, device, bar)
        for name in {stage.recipe for stage in STAGES.values()}
    }
    numbers = [int(seed) for seed in seeds.split(",")]
    plan = planned(work / "plan.json", splits["ferplus"], hours, len(numbers), device, compiled)
    file = work / "validation.json"  # what is done, with its scores
    scores = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    trained = False
    for name, run, recipe in runs(work, plan["epochs"], numbers):
        if run.name in scores:
            continue
        scoring = plan["seconds_of_scoring"] * len(recipe.regions) / len(REGIONS)
        left = deadline - time.monotonic() - scoring
        if trained and left < plan["seconds_an_epoch"] * cost(STAGES[name], len(numbers)):
            finish(f"stopped before {run}")
        trained = True
        train, validation = (split.of_regions(recipe.regions) for split in splits[STAGES[name].recipe])
        trainer = Trainer(recipe.changed({"limit": limit}), train, validation, run, device, bar, compiled)
        if not trainer.fit(partial(tell, run, recipe), left / 60):
            finish(f"stopped after epoch {trainer.epoch} of {recipe.epochs} in {run}")
        scores[run.name] = accuracies(run, validation, device)
        write_json(file, scores)
    out.print(scores)
    for tag in PACKAGED:
        best = max((f"{tag}-{seed}" for seed in numbers), key=lambda name: scores[name]["ten"])
        package(work / best, work / "weights", f"mrcar_resnet.{tag}")
        out.print(f"done: mrcar_resnet.{tag} from {best}, the best on validation, in {work / 'weights'}")


def accuracies(run: Path, validation: Split, device: str) -> dict[str, float]:
    """Accuracy of a run's best weights, by protocol."""
    network, batches = load_network(run, device), validation.batches
    logits = predict_logits(network.model, batches, "ten")
    return {
        protocol: score(logits[VIEWS_OF_TEN[protocol]], batches.labels, network.labels).accuracy
        for protocol in PROTOCOLS
    }


def tell(run: Path, recipe: Recipe, row: dict[str, float]) -> None:
    """A line an epoch."""
    out.print(f"{run.name}: epoch {row['epoch']:.0f}/{recipe.epochs}, validation {row['val_accuracy']:.2%}")


def finish(reason: str) -> None:
    """End this call; the next goes on."""
    out.print(f"{reason}; run again to go on")
    raise typer.Exit(3)


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    typer.run(main)
