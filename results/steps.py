"""Every step that was tried: its gain over one baseline, and its cost.

mrcar train --data data/fer2013 --recipe ferplus-face --run runs/steps/ferplus-face
python -m results.steps run data/fer2013 runs/steps --minutes 9                # again and again, until it says "done"
python -m results.steps report runs/steps                                      # to results/steps.csv and steps.md

Networks are trained as steps.yaml says and scored on the validation split by the averaged weights of the last epoch;
the test split is not read. What is done stands in steps.csv in the folder of the runs. Limits and epochs in steps.yaml
are for two processor cores; a GPU (--device cuda --compile) has time for more.
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
from mrcar_timm.models.folding import fold_for_inference
from mrcar_timm.models.speed import time_in_turn
from mrcar_timm.provenance import machine, provenance
from mrcar_timm.regions import geometry
from mrcar_timm.training.engine import Trainer, make_network
from mrcar_timm.training.evaluate import VIEWS_OF_TEN, predict_logits, score
from mrcar_timm.training.load import make_split_for, read_training, read_validation
from mrcar_timm.training.recipe import Recipe, changed

HERE = Path(__file__).parent
BASELINE = "baseline"
app = typer.Typer()


def plan() -> dict[str, dict[str, Any]]:
    """What steps.yaml says of each table: what it is about, its baseline and what each step changes."""
    return yaml.safe_load((HERE / "steps.yaml").read_text(encoding="utf-8"))


def recipes(runs: Path) -> dict[tuple[str, str], tuple[Recipe, dict[str, tuple[int, ...]]]]:
    """Recipe and changed boxes of each step, by table and step."""
    steps = {}
    for table, content in plan().items():

        def placed(start: str, table: str = table, own: dict[str, Any] = content["steps"]) -> str:
            return str(runs / table / start if start in own else runs / start)

        for name, change in content["steps"].items():
            boxes = {region: tuple(box) for region, box in change.pop("boxes", {}).items()}
            recipe = changed(Recipe.from_dict(content["baseline"]), change)
            starts = {
                "init": recipe.init and placed(recipe.init),
                "teachers": [placed(start) for start in recipe.teachers],
                "branches": {region: placed(start) for region, start in recipe.branches.items()},
            }
            steps[table, name] = changed(recipe, starts), boxes
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
def pictures(data: str, labels: str, limit: int | None, seed: int, path: Path) -> tuple[ImageSet, ImageSet]:
    """What is trained and validated on, read once."""
    recipe = Recipe(data=data, labels=labels, limit=limit, seed=seed)
    return read_training(recipe, path), read_validation(recipe, path)


def train(recipe: Recipe, path: Path, run: Path, device: str, compiled: bool) -> dict[str, Any]:
    """Train a step; its scores and seconds."""
    compiled = compiled and recipe.size == 44 and recipe.model_args.keys() <= {"regions"}  # one compilation for all
    train, validation = (
        make_split_for(recipe, data, path, device)
        for data in pictures(recipe.data, recipe.labels, recipe.limit, recipe.seed, path)
    )
    trainer = Trainer(recipe, train, None, run, device, compiled=compiled)
    rows: list[dict[str, float]] = []
    trainer.fit(rows.append)
    logits = predict_logits(trainer.average.module, validation.batches, "mirror")
    one, both = (score(views, validation.batches.labels, trainer.classes) for views in (logits[:1], logits))
    (run / "last.pt").unlink()  # 60 MB a run
    return {
        "one": one.accuracy,
        "mirror": both.accuracy,
        "macro_f1": both.macro_f1,
        "pictures": len(train.data),
        "scored": len(validation.data),
        "train_loss": rows[-1]["train_loss"],
        "seconds_an_epoch": median(row["seconds"] for row in rows),
        "compiled": compiled,
    }


def read_steps(file: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of a steps.csv by table and step."""
    with open(file, newline="", encoding="utf-8") as source:
        return {(row["table"], row["step"]): row for row in csv.DictReader(source)}


@app.command()
def run(
    path: Annotated[Path, typer.Argument(exists=True)],
    runs: Path,
    minutes: Annotated[float, typer.Option(help="Start no step after so many.")] = 9,
    only: Annotated[str, typer.Option(help="Steps that hold this in the name of their table or in their own.")] = "",
    device: str = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile, for a GPU.")] = False,
) -> None:
    """Train what is not done yet."""
    deadline = time.monotonic() + 60 * minutes
    runs.mkdir(parents=True, exist_ok=True)
    file = runs / "steps.csv"
    done = read_steps(file) if file.exists() else {}
    for (table, name), (recipe, boxes) in recipes(runs).items():
        if (table, name) in done or only not in f"{table}: {name}":
            continue
        if time.monotonic() > deadline:
            typer.echo(f"stopped before {name}; run again to go on")
            raise typer.Exit(3)
        with changed_boxes(boxes):
            result = train(recipe, path, runs / table / name, device, compiled)
        made_by = provenance()
        row = {
            "table": table,
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
        scores = f"one crop {result['one']:.2%}, and mirrored {result['mirror']:.2%}"
        typer.echo(f"{table}, {name}: {scores}, {result['seconds_an_epoch']:.2f} s an epoch")
    typer.echo("done")


def timed(steps: dict[tuple[str, str], dict[str, str]], repeats: int = 50) -> dict[tuple[str, str], float]:
    """Milliseconds of each step's network for one face: the median on one thread, folded, all networks in turn."""
    networks, of_step = {}, {}
    for name, row in steps.items():
        recipe = Recipe.from_dict({k: v for k, v in json.loads(row["recipe"]).items() if k != "boxes"})
        key = json.dumps([recipe.model_args, recipe.size])
        of_step[name] = key
        if key not in networks:
            model = make_network(recipe, 3, 7).eval()
            fold_for_inference(model)
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
    """The tables from steps.csv, the best first, and what crops at test time are worth."""
    steps = read_steps(HERE / "steps.csv")
    lines = [
        "# What was tried",
        "",
        "One factor at a time from one baseline, scored on the validation split by the averaged weights of the last "
        "epoch: the centre crop, and its mean with its mirror image, by which the rows are ranked. Gains are in points "
        "over the mean of the baselines. What is smaller than the span of the baselines' seeds means nothing, and what "
        "pays in a short training on few pictures need not pay in a long one on all. Training time and the time "
        "for one face (one thread, float32, folded) are relative to the baseline's; that of other steps that one goes "
        "on from, or is taught by, is not counted.",
    ]
    for table, content in plan().items():
        rows = {name: row for (of, name), row in steps.items() if of == table}
        if rows:
            lines += ["", f"## {table.capitalize()}", "", *_table(content, rows)]
    crops = json.loads((HERE / "fer2013_validation.json").read_text(encoding="utf-8"))
    accuracies = {row["protocol"]: row["accuracy"] for row in crops["rows"] if row["pictures"] == "all"}
    machines = (sorted({row[key] for row in steps.values()}) for key in ("machine", "ms_machine"))
    trained, timed_on = (", ".join(names) for names in machines)
    lines += [
        "",
        "## Crops at test time",
        "",
        f"`{crops['model']}` on the validation split of FER2013:",
        "",
        "| crops | accuracy | gain | one face |",
        "|---|---|---|---|",
        *(
            f"| {protocol} | {accuracy:.2%} | {100 * (accuracy - accuracies['one']):+.2f} | "
            f"×{len(VIEWS_OF_TEN[protocol])} |"
            for protocol, accuracy in accuracies.items()
        ),
        "",
        f"Trained on: {trained}; a face timed on: {timed_on}.",
    ]
    return "\n".join(lines) + "\n"


def _table(content: dict[str, Any], rows: dict[str, dict[str, str]]) -> list[str]:
    """What a table's plan says, and its rows by step."""
    recipe = json.loads(rows[BASELINE]["recipe"])
    baselines = [row for name, row in rows.items() if name.startswith(BASELINE)]
    middle = {key: mean(float(row[key]) for row in baselines) for key in ("one", "mirror", "ms")}
    seconds = median(float(row["seconds_an_epoch"]) for row in baselines)
    seeds = [float(row["mirror"]) for row in baselines]
    lines = [
        f"{content['about']} {rows[BASELINE]['pictures']} pictures, {recipe['epochs']} epochs; scored on "
        f"{rows[BASELINE]['scored']}. Done are {len(rows)} of {len(content['steps'])} steps. "
        f"{len(seeds)} baselines span {min(seeds):.2%} to {max(seeds):.2%}; a face takes {middle['ms']:.1f} ms. "
        "Beside the defaults of `Recipe`: "
        f"`{yaml.safe_dump(content['baseline'], default_flow_style=True, sort_keys=False, width=1000).strip()}`.",
        "",
        "| step | one crop | and mirrored | gain, one | gain, mirrored | training | one face |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: -float(item[1]["mirror"])):
        one, mirror = float(row["one"]), float(row["mirror"])
        epochs = int(row["epochs"]) / recipe["epochs"]
        training = f"×{epochs * float(row['seconds_an_epoch']) / seconds:.2f}"
        if row["compiled"] != rows[BASELINE]["compiled"]:
            training = "not compared"
        lines.append(
            f"| {name} | {one:.2%} | {mirror:.2%} | {100 * (one - middle['one']):+.2f} | "
            f"{100 * (mirror - middle['mirror']):+.2f} | {training} | ×{float(row['ms']) / middle['ms']:.2f} |"
        )
    return lines


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    app()
