"""Every step that was tried: its gain over one baseline, and its cost.

python -m results.steps run data/fer2013 runs/steps --minutes 8 --device cuda    # again and again, until it says "done"
python -m results.steps report runs/steps                                      # to results/steps.csv and steps.md

Networks are trained from random weights as steps.yaml says and scored on the validation split by the averaged weights
of the last epoch; the test split is not read. What is done stands in steps.csv in the folder of the runs.
"""

import csv
import json
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import torch
import typer
import yaml

from mrcar_timm.data.images import ImageSet
from mrcar_timm.models.folding import fold_batch_norms
from mrcar_timm.models.speed import time_in_turn
from mrcar_timm.provenance import machine, provenance
from mrcar_timm.regions import geometry
from mrcar_timm.training.engine import Trainer, make_network
from mrcar_timm.training.evaluate import PROTOCOLS, VIEWS_OF_TEN, predict_logits, score
from mrcar_timm.training.load import limited, make_split, read_training, read_validation
from mrcar_timm.training.recipe import Recipe, changed

HERE = Path(__file__).parent
BASELINE = "baseline"
app = typer.Typer()


def recipes(runs: Path) -> dict[str, tuple[Recipe, dict[str, tuple[int, ...]]]]:
    """Recipe and changed boxes of each step."""
    plan = yaml.safe_load((HERE / "steps.yaml").read_text(encoding="utf-8"))
    baseline = changed(Recipe(), plan["baseline"])
    steps = {}
    for name, change in plan["steps"].items():
        boxes = {region: tuple(box) for region, box in change.pop("boxes", {}).items()}
        if "teachers" in change:
            change["teachers"] = [str(runs / teacher) for teacher in change["teachers"]]
        if "branches" in change:
            change["branches"] = {region: str(runs / start) for region, start in change["branches"].items()}
        steps[name] = changed(baseline, change), boxes
    return steps


@contextmanager
def changed_boxes(boxes: dict[str, tuple[int, ...]]):
    """Other regions of the face while it lasts."""
    before = dict(geometry.BOXES_IN_FACE)
    geometry.BOXES_IN_FACE.update(boxes)
    try:
        yield
    finally:
        geometry.BOXES_IN_FACE.update(before)


@cache
def pictures(data: str, labels: str, limit: int | None, path: Path) -> tuple[ImageSet, ImageSet]:
    """What is trained and validated on, read once."""
    recipe = Recipe(data=data, labels=labels, limit=limit)
    return read_training(recipe, path), limited(read_validation(recipe, path), limit, recipe.seed)


def train(recipe: Recipe, path: Path, run: Path, device: str, compiled: bool) -> dict[str, Any]:
    """Train a step; its scores and seconds."""
    compiled = compiled and recipe.size == 44 and recipe.model_args.keys() <= {"regions"}  # one compilation for all
    train, validation = (
        make_split(data, path, recipe.regions, recipe.size, device, landmarks=recipe.landmarks)
        for data in pictures(recipe.data, recipe.labels, recipe.limit, path)
    )
    trainer = Trainer(recipe, train, validation, run, device, compiled=compiled)
    rows: list[dict[str, float]] = []
    trainer.fit(rows.append)
    logits = predict_logits(trainer.average.module, validation.batches, "ten")
    scores = {
        protocol: score(logits[VIEWS_OF_TEN[protocol]], validation.batches.labels, trainer.classes)
        for protocol in PROTOCOLS
    }
    (run / "last.pt").unlink()  # 60 MB a run
    return {
        **{protocol: scores[protocol].accuracy for protocol in PROTOCOLS},
        "macro_f1": scores["ten"].macro_f1,
        "pictures": len(validation.data),
        "train_loss": rows[-1]["train_loss"],
        "seconds_an_epoch": median(row["seconds"] for row in rows),
        "compiled": compiled,
    }


def read_steps(file: Path) -> dict[str, dict[str, str]]:
    """The rows of a steps.csv by their names."""
    with open(file, newline="", encoding="utf-8") as source:
        return {row["step"]: row for row in csv.DictReader(source)}


@app.command()
def run(
    path: Annotated[Path, typer.Argument(exists=True)],
    runs: Path,
    minutes: Annotated[float, typer.Option(help="Start no step after so many.")] = 9,
    limit: Annotated[int | None, typer.Option(help="Pictures of each split, for a rehearsal.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of every step, for a rehearsal.")] = None,
    only: Annotated[str, typer.Option(help="Steps that hold this in their names.")] = "",
    device: str = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile, for a GPU.")] = False,
) -> None:
    """Train what is not done yet."""
    deadline = time.monotonic() + 60 * minutes
    runs.mkdir(parents=True, exist_ok=True)
    file = runs / "steps.csv"
    done = read_steps(file) if file.exists() else {}
    for name, (recipe, boxes) in recipes(runs).items():
        if name in done or only not in name:
            continue
        if time.monotonic() > deadline:
            typer.echo(f"stopped before {name}; run again to go on")
            raise typer.Exit(3)
        rehearsal = {key: value for key, value in {"limit": limit, "epochs": epochs}.items() if value}
        with changed_boxes(boxes):
            recipe = changed(recipe, rehearsal)
            result = train(recipe, path, runs / name, device, compiled)
        made_by = provenance()
        row = {
            "step": name,
            **{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in result.items()},
            "epochs": recipe.epochs,
            "commit": made_by["commit"] or "",
            "torch": made_by["torch"],
            "machine": made_by["machine"],
            "recipe": json.dumps(recipe.to_dict() | {"boxes": boxes}),
        }
        new = not file.exists()
        with open(file, "a", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        accuracy = ", ".join(f"{protocol} {result[protocol]:.2%}" for protocol in PROTOCOLS)
        typer.echo(f"{name}: {accuracy}, {result['seconds_an_epoch']:.2f} s an epoch")
    typer.echo("done")


def timed(steps: dict[str, dict[str, str]], repeats: int = 50) -> dict[str, float]:
    """Milliseconds of each step's network for one face: the median on one thread, folded, all networks in turn."""
    networks, of_step = {}, {}
    for name, row in steps.items():
        recipe = Recipe.from_dict({k: v for k, v in json.loads(row["recipe"]).items() if k != "boxes"})
        key = json.dumps([recipe.model_args, recipe.size])
        of_step[name] = key
        if key not in networks:
            model = make_network(recipe, 3, 7).eval()
            fold_batch_norms(model)
            networks[key] = (model, torch.rand(1, len(recipe.regions), 3, recipe.size, recipe.size))
    times = time_in_turn(networks, repeats)
    return {name: median(times[key]) for name, key in of_step.items()}


@app.command()
def report(runs: Path) -> None:
    """Copy steps.csv with the time that each network takes for a face, measured now, and write its table."""
    steps = read_steps(runs / "steps.csv")
    ms = timed(steps)
    with open(HERE / "steps.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*next(iter(steps.values())), "ms", "ms_machine"])
        writer.writeheader()
        writer.writerows({**row, "ms": f"{ms[name]:.4g}", "ms_machine": machine()} for name, row in steps.items())
    (HERE / "steps.md").write_text(render(), encoding="utf-8")


def render() -> str:
    """The table from steps.csv, the best first."""
    steps = read_steps(HERE / "steps.csv")
    baselines = [row for name, row in steps.items() if name.startswith(BASELINE)]
    whole = {key: mean(float(row[key]) for row in baselines) for key in ("one", "ten", "seconds_an_epoch", "ms")}
    seeds = [float(row["ten"]) for row in baselines]
    recipe = json.loads(steps[BASELINE]["recipe"])
    lines = [
        "# What was tried",
        "",
        f"One factor at a time from one baseline: FER2013, {recipe['epochs']} epochs from random weights, batches of "
        f"{recipe['batch_size']}, the rest as in `Recipe`. Scored on the validation split by the averaged weights of "
        f"the last epoch; gains in points over the mean of {len(seeds)} baselines, whose ten-crop accuracies span "
        f"{min(seeds):.2%} to {max(seeds):.2%}: smaller gains than that span mean nothing, and what pays in a short "
        "training need not pay in a long one. One seed a step. Training time and the time for one face (one thread, "
        "float32, folded) are relative to the baseline's.",
        "",
        "| step | one crop | ten crops | gain, one | gain, ten | training | one face |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(steps.items(), key=lambda item: -float(item[1]["ten"])):
        one, ten = (float(row[protocol]) for protocol in ("one", "ten"))
        gains = f"{100 * (one - whole['one']):+.2f} | {100 * (ten - whole['ten']):+.2f}"
        epochs = int(row["epochs"]) / recipe["epochs"]
        training = f"×{epochs * float(row['seconds_an_epoch']) / whole['seconds_an_epoch']:.2f}"
        if row["compiled"] != steps[BASELINE]["compiled"]:
            training = "not compared"
        lines.append(
            f"| {name} | {one:.2%} | {ten:.2%} | {gains} | {training} | ×{float(row['ms']) / whole['ms']:.2f} |"
        )
    crops = [f"{protocol} {mean(float(row[protocol]) for row in baselines):.2%}" for protocol in PROTOCOLS]
    lines += [
        "",
        f"Crops at test time, the baselines' mean: {', '.join(crops)}.",
        "",
        f"Trained on: {', '.join(sorted({row['machine'] for row in steps.values()}))}; a face timed on: "
        f"{', '.join(sorted({row['ms_machine'] for row in steps.values()}))}, {whole['ms']:.1f} ms for the baseline.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    app()
