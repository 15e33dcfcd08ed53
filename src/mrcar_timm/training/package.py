"""From a finished run to the weights and the record that the package carries."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file, save_file

from ..data.sets import DATA_SETS
from ..errors import WeightsError
from ..models.checkpoints import CHECKPOINTS, Checkpoint, file_digest, to_colour

LICENSE = "other"  # no data set that can be read lets weights be used commercially


def package_run(run: Path, folder: Path, name: str) -> Checkpoint:
    """Write a run's best weights and their record, still without scores, as package data.

    Convolutions and matrices are stored in half precision, which halves the file; vectors (biases,
    normalisation statistics) stay float32.

    Raises:
        WeightsError: If the folder holds no finished run.
    """
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        result = json.loads((run / "model.json").read_text(encoding="utf-8"))
        state = load_file(run / "model.safetensors")
    except FileNotFoundError as error:
        raise WeightsError(f"{run} is not a run folder of mrcar train: {error.filename} is missing") from error
    state = {key: (value.half() if value.ndim >= 2 else value).contiguous() for key, value in to_colour(state).items()}
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"{name}.safetensors"
    save_file(state, weights, metadata={"format": "pt", "name": name})
    weights.chmod(0o644)  # safetensors writes for the owner alone
    recipe = config["recipe"]
    model = timm.create_model(recipe["model"], num_classes=len(config["classes"]), **recipe["model_args"])
    model.load_state_dict({key: value.float() for key, value in state.items()})
    whole = _whole_recipe(run)
    data = list(_data_of(whole))
    described = {name: f"{DATA_SETS[name].title}, {_PART[DATA_SETS[name].splits]}" for name in data}
    checkpoint = Checkpoint(
        name=name,
        sha256=file_digest(weights),
        num_params=sum(p.numel() for p in model.parameters()),
        license=LICENSE,
        labels=tuple(config["classes"]),
        temperature=round(result["temperature"], 4),
        data="; before that: ".join(described[name] for name in data),
        notes=f"Trained on {' and '.join(DATA_SETS[name].title for name in data)}: for non-commercial research. "
        "An expression is what a face shows, not what a person feels.",
        recipe=whole,
    )
    (folder / f"{name}.json").write_text(checkpoint.to_json(), encoding="utf-8")
    return checkpoint


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


def _data_of(recipe: dict[str, Any]) -> dict[str, None]:
    """Names of the data sets behind a whole recipe, the last first."""
    before = [_data_of(start) for start in starts_of(recipe)]
    # Records from before there were other data sets name none.
    return dict.fromkeys((recipe.get("data", "fer2013"), *chain.from_iterable(before)))


def _whole_recipe(run: Path) -> dict[str, Any]:
    """A run's recipe, with those of the runs or weights it started from in place of their names.

    Where weights are the mean of several runs, the recipe is the last one's, with the others' own parts: what was
    before them was before the last, too, or is one of them.
    """
    if str(run) in CHECKPOINTS:
        return CHECKPOINTS[str(run)].recipe
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
