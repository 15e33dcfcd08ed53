"""From a finished run to the weights and the record that the package carries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file, save_file

from ..errors import WeightsError
from ..models.checkpoints import Checkpoint, file_digest, to_colour

DATA = "FER2013, split train, less pictures that stand in validation or test"
LICENSE = "other"
NOTES = "Trained on FER2013: for non-commercial research. An expression is what a face shows, not what a person feels."


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
    checkpoint = Checkpoint(
        name=name,
        sha256=file_digest(weights),
        num_params=sum(p.numel() for p in model.parameters()),
        license=LICENSE,
        labels=tuple(config["classes"]),
        temperature=round(result["temperature"], 4),
        data=DATA,
        notes=NOTES,
        recipe=_whole_recipe(run),
    )
    (folder / f"{name}.json").write_text(checkpoint.to_json(), encoding="utf-8")
    return checkpoint


def _whole_recipe(run: Path) -> dict[str, Any]:
    """A run's recipe, with that of the run it started from in place of its name."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    result = json.loads((run / "model.json").read_text(encoding="utf-8"))
    init = config["recipe"].get("init")
    return {
        **config["recipe"],
        "init": None if init is None else _whole_recipe(Path(init)),
        "best_epoch": result["epoch"],
        "made_by": config["made_by"],
    }
