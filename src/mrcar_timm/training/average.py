"""Several runs' weights averaged into one network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from ..errors import MRCARError, WeightsError
from ..models.loading import load_network
from ..provenance import provenance
from .engine import read_last, save_weights, write_json
from .evaluate import fit_temperature, predict_logits, score
from .load import Progress, make_split_for, read_validation, silent
from .recipe import Recipe


def average_runs(
    runs: list[Path],
    path: Path,
    out: Path,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    last_epoch: bool = False,
) -> float:
    """Write a run folder with the mean of several runs' weights; its validation accuracy, one crop.

    The mean is as good as its parts, or better, where one run went on from another, or both from the same weights: far
    from each other, networks have no use for it. It costs nothing at inference, where an ensemble costs as much as all
    its networks. Its temperature is fitted on the validation split.

    Source: `Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference
    time` - https://arxiv.org/abs/2203.05482

    Args:
        runs: Finished run folders of one network and one set of classes; the recipe comes from the last one.
        path: The data set that the last run was trained on.
        out: Folder to write, of the shape that ``mrcar train`` gives a run's.
        device: Where the validation split is scored.
        progress: Wrapper of long loops.
        last_epoch: Take each run's weights after its last epoch. Otherwise its best on validation, which among epochs
            that score alike is chosen by chance.

    Raises:
        MRCARError: If there are fewer than two runs, or the folder is one of them or holds another run.
        WeightsError: If a folder holds no finished run, or one of another network or other classes; with
            ``last_epoch`` if it holds a mean, which has no epochs.
    """
    if len(runs) < 2:
        raise MRCARError("one run has no mean; name two or more")
    if out.resolve() in [run.resolve() for run in runs]:
        raise MRCARError(f"{out} would be a mean of itself; name another folder")
    if (out / "config.json").exists() and "averaged" not in _config(out):
        raise MRCARError(f"{out} holds a run that was trained; name another folder")
    networks = [load_network(run, device) for run in runs]
    if last_epoch:
        states = [read_last(run, device) for run in runs]
        for network, state in zip(networks, states, strict=True):
            network.model.load_state_dict(state["average"])
    else:
        states = [json.loads((run / "model.json").read_text(encoding="utf-8")) for run in runs]
    epochs = [state["epoch"] for state in states]
    last = networks[-1]
    mean: Any = AveragedModel(last.model, use_buffers=True)
    for run, network in zip(runs, networks, strict=True):
        if network.labels != last.labels or _shapes(network.model) != _shapes(last.model):
            raise WeightsError(f"{run} is of another network, or of other classes, than {runs[-1]}")
        mean.update_parameters(network.model)
    model = mean.module.eval()
    config = _config(runs[-1])
    recipe = Recipe.from_dict(config["recipe"])
    validation = make_split_for(recipe, read_validation(recipe, path), path, device, progress)
    logits = predict_logits(model, validation.batches)
    scores = score(logits, validation.batches.labels, last.labels)
    temperature = fit_temperature(logits[0], validation.batches.labels)
    out.mkdir(parents=True, exist_ok=True)
    averaged = [{"run": str(run), "epoch": epoch} for run, epoch in zip(runs, epochs, strict=True)]
    write_json(out / "config.json", {**config, "averaged": averaged, "made_by": provenance()})
    record = {"epoch": epochs[-1], "temperature": temperature, "val_accuracy_one": scores.accuracy}
    save_weights(model, out / "model", last.labels, record)
    return scores.accuracy


def _config(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}
