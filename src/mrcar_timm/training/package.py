"""From a finished run to weights that the package carries or that are published, with their record."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import timm

from ..data.sets import DATA_SETS
from ..errors import WeightsError
from ..models.checkpoints import CHECKPOINTS, Checkpoint, to_colour
from ..models.loading import load_network
from ..models.sources import FOLDER, HUB, RECORD_NAME, WEIGHTS_NAME, Repository, fetch, read_json
from ..models.weights_file import read_weights, write_weights

LICENSE = "other"  # no data set that can be read lets weights be used commercially
_MAIN = "ten"  # the protocol whose confusion matrix is kept


def package_run(run: Path, folder: Path, name: str) -> Checkpoint:
    """Write a run's best weights and their record, still without scores, as package data.

    Convolutions and matrices are stored in half precision, which halves the file; vectors (biases,
    normalisation statistics) stay float32.

    Raises:
        WeightsError: If the folder holds no finished run, or one whose network is not that of the name alone.
    """
    record = record_of_run(run, name)
    recipe = read_json(run / "config.json")["recipe"]
    for setting, default in (("model_args", {}), ("scale", 16.0), ("size", 44)):
        if recipe[setting] != default:
            raise WeightsError(
                f"{run} has {setting} {recipe[setting]}, which the name {name} does not say; mrcar publish writes both"
            )
    model = timm.create_model(recipe["model"], num_classes=len(record.labels))
    tensors = to_colour(read_weights(run / WEIGHTS_NAME).tensors)
    tensors = {key: value.half() if value.ndim >= 2 else value for key, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = write_weights(tensors, folder / f"{name}.safetensors", record.labels)
    record = replace(record, sha256=sha256, num_params=sum(p.numel() for p in model.parameters()))
    (folder / f"{name}.json").write_text(record.to_json(), encoding="utf-8")
    return record


def record_of_run(run: Path, name: str) -> Checkpoint:
    """The record of a run's best weights as they lie in its folder, without scores.

    Raises:
        WeightsError: If the folder holds no finished run.
    """
    network = load_network(run)
    whole = _whole_recipe(run)
    data = list(data_of(whole))
    described = {key: f"{DATA_SETS[key].title}, {_PART[DATA_SETS[key].splits]}" for key in data}
    return Checkpoint(
        name=name,
        sha256=str(network.sha256),
        num_params=sum(p.numel() for p in network.model.parameters()),
        license=LICENSE,
        labels=network.labels,
        temperature=round(network.temperature, 4),
        data="; before that: ".join(described[key] for key in data),
        notes=f"Trained on {' and '.join(DATA_SETS[key].title for key in data)}: for non-commercial research. "
        "An expression is what a face shows, not what a person feels.",
        recipe=whole,
    )


def with_scores(record: Checkpoint, folders: dict[str, Path]) -> Checkpoint:
    """A record with what ``mrcar eval --out`` wrote.

    Args:
        record: Of the weights that were scored.
        folders: With scores.json and confusion_ten.csv, by split.

    Raises:
        WeightsError: If other weights were scored.
    """
    scores: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    confusion = {}
    for split, folder in folders.items():
        said = read_json(folder / "scores.json")
        if said["weights_sha256"] != record.sha256:
            raise WeightsError(f"{folder} has the scores of other weights than {record.name}")
        rows = {f"{row['protocol']}, {row['pictures']}": row for row in said["rows"]}
        scores[split] = {key: row["accuracy"] for key, row in rows.items()}
        counts[split] = {key: row["count"] for key, row in rows.items()}
        errors = ("raw_ece", "ece", "raw_nll", "nll")
        calibration[split] = {key: {error: row[error] for error in errors} for key, row in rows.items()}
        if (file := folder / f"confusion_{_MAIN}.csv").exists():
            with open(file, newline="", encoding="utf-8") as source:
                confusion[split] = [[int(count) for count in row[1:]] for row in list(csv.reader(source))[1:]]
    return replace(record, scores=scores, counts=counts, calibration=calibration, confusion=confusion)


_PART = {
    ("train", "validation", "test"): "split train, less pictures that stand in validation or test",
    ("train", "test"): "split train, less a tenth and pictures that stand in test",
    ("all",): "less the subjects held out",
}


def starts_of(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Whole recipes of the weights that a whole recipe's run started from, and of those it is a mean with."""
    starts = (recipe.get("init"), *recipe.get("branches", {}).values(), *recipe.get("averaged_with", []))
    return [start for start in starts if start is not None]


def without_starts(recipe: dict[str, Any]) -> dict[str, Any]:
    """A whole recipe's own part."""
    return {key: value for key, value in recipe.items() if key not in ("init", "branches", "averaged_with")}


def data_of(recipe: dict[str, Any]) -> dict[str, None]:
    """Names of the data sets behind a whole recipe, the last first; a dict for its order."""
    if not recipe:  # of weights of which nothing is recorded
        return {}
    before = [data_of(start) for start in starts_of(recipe)]
    # Records from before there were other data sets name none.
    return dict.fromkeys((recipe.get("data", "fer2013"), *chain.from_iterable(before)))


def _whole_recipe(run: Path) -> dict[str, Any]:
    """A run's recipe, with those of the runs or weights it started from in place of their names.

    Where weights are the mean of several runs, the recipe is the last one's, with the others' own parts: what was
    before them was before the last, too, or is one of them.
    """
    if str(run) in CHECKPOINTS:
        return CHECKPOINTS[str(run)].recipe
    if str(run).startswith(HUB):
        return Checkpoint.read(fetch(Repository.of(str(run)), RECORD_NAME)).recipe
    run = Path(str(run).removeprefix(FOLDER))
    if (run / RECORD_NAME).exists():
        return Checkpoint.read(run / RECORD_NAME).recipe
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    if "averaged" in config:
        parts = [{**_whole_recipe(Path(part["run"])), "best_epoch": part["epoch"]} for part in config["averaged"]]
        *others, last = parts
        own = [without_starts(other) for other in others]
        return {**last, "averaged_with": own, "averaged_by": config["made_by"]}
    result = json.loads((run / "model.json").read_text(encoding="utf-8"))
    recipe = config["recipe"]
    init = recipe.get("init")
    return {
        **recipe,
        "init": None if init is None else _whole_recipe(Path(init)),
        "branches": {region: _whole_recipe(Path(start)) for region, start in recipe.get("branches", {}).items()},
        "best_epoch": result["epoch"],
        "made_by": config["made_by"],
    }
