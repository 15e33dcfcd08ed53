"""The packaged weights: one program from archives to weights, logs and validation scores.

python -m results.weights ../archives runs/weights --hours 2 --minutes 9     # again and again, until it says "done"

The archives are fer2013-{train,validation,test}.zip and ferplus.csv; landmarks.zip, where there is one, holds the
cache of landmarks (data/.mrcar-cache of another run), and facenet-pytorch is not needed. Each call ends within its
minutes, but for one epoch at least, and goes on where the last one stopped. The plan (how many epochs fit into the
hours) comes from the speed of the first steps and is kept. The test split is not read.
"""

import json
import shutil
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from mrcar_timm.cli.console import bar, out
from mrcar_timm.models.loading import load_network
from mrcar_timm.training.engine import Trainer
from mrcar_timm.training.evaluate import PROTOCOLS, predict_logits, score
from mrcar_timm.training.load import Split, load_training
from mrcar_timm.training.package import package_run
from mrcar_timm.training.recipe import Recipe, load_recipe
from mrcar_timm.training.speed import time_training

#: In order; each starts from the one before it. The share of the time that each gets.
RECIPES = {"ferplus": 0.6, "fer2013-votes": 0.4}


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


def planned(file: Path, pictures: int, hours: float, runs: int, device: str) -> dict[str, int]:
    """Epochs of each recipe, so that all runs together take the hours; what the file says, if there is one."""
    if not file.exists():
        # The last of the ways that training uses here is the fastest.
        seconds = [row.ms for row in time_training(128, device=device) if row.used][-1] / 1000
        epochs = {
            name: max(1, int(share * hours * 3600 / runs / seconds / pictures)) for name, share in RECIPES.items()
        }
        plan = {"ms_a_picture": 1000 * seconds, "pictures": pictures, "hours": hours, "epochs": epochs}
        file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))["epochs"]


def main(
    archives: Annotated[Path, typer.Argument(exists=True)],
    work: Path,
    hours: Annotated[float, typer.Option(help="Of training, all seeds together.")] = 2,
    minutes: Annotated[float, typer.Option(help="Of this call.")] = 9,
    seeds: str = "0",
    limit: Annotated[int | None, typer.Option(help="Pictures that are trained on, for a rehearsal.")] = None,
    device: str = "cpu",
) -> None:
    """Go on until the minutes are over or all is done."""
    deadline = time.monotonic() + 60 * minutes
    work.mkdir(parents=True, exist_ok=True)
    data = unpack(archives, work / "data")
    splits = {name: load_training(replace(load_recipe(name), limit=limit), data, device, bar) for name in RECIPES}
    numbers = [int(seed) for seed in seeds.split(",")]
    epochs = planned(work / "plan.json", len(splits["ferplus"][0].data), hours, len(numbers), device)
    scores, trained = {}, False
    for seed in numbers:
        init = load_recipe(next(iter(RECIPES))).init
        for name in RECIPES:
            recipe = replace(load_recipe(name), epochs=epochs[name], seed=seed, init=init, limit=limit)
            run = work / f"{name}-{seed}"
            trainer = Trainer(recipe, *splits[name], run, device=device, progress=bar)
            if trainer.epoch < recipe.epochs:
                if trained and time.monotonic() > deadline:
                    finish(f"stopped before {run}")
                trained = True
            if not trainer.fit(partial(tell, run, recipe), (deadline - time.monotonic()) / 60):
                finish(f"stopped after epoch {trainer.epoch} of {recipe.epochs} in {run}")
            init = str(run)
            scores[run.name] = accuracies(run, splits[name][1], device)
    (work / "validation.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    best = max((name for name in scores if name.startswith("fer2013")), key=lambda name: scores[name]["one"])
    for run, tag in ((work / best.replace("fer2013-votes", "ferplus"), "ferplus"), (work / best, "fer2013")):
        package_run(run, work / "weights", f"mrcar_resnet.{tag}")
    out.print(scores)
    out.print(f"done: weights in {work / 'weights'}, by the best validation split those of {best}")


def accuracies(run: Path, validation: Split, device: str) -> dict[str, float]:
    """Of a run's best weights, by protocol."""
    network, batches = load_network(run, device), validation.batches
    logits = {protocol: predict_logits(network.model, batches, protocol) for protocol in PROTOCOLS}
    return {protocol: score(values, batches.labels, network.labels).accuracy for protocol, values in logits.items()}


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
