"""Several runs' weights averaged into one network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from ..checkpoints.folder import write_folder
from ..checkpoints.record import Record
from ..data.splits import read_validation
from ..errors import MRCARError, WeightsError
from ..metrics import fit_temperature, score
from ..network import load_network
from ..progress import Progress, silent
from ..provenance import provenance
from .batches import make_split_for
from .engine import read_last
from .evaluate import predict_logits
from .history import History
from .recipe import load_recipe
from .start import state_for


def average_runs(
    runs: list[Path],
    path: Path,
    out: Path,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    last_epoch: bool = False,
) -> float:
    """Write a run folder with the mean of several runs' weights; its validation accuracy, one crop.

    The mean is as good as its parts, or better, where one run continued the other, or both started from the same
    weights: far from each other, networks have no use for it. It costs nothing at inference, where an ensemble costs as
    much as all its networks. Its temperature is fitted on the validation split.

    Source: `Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference
    time` - https://arxiv.org/abs/2203.05482

    Args:
        runs: Finished run folders of one network and one set of classes; the recipe comes from the last one.
        path: The data set that the last run was trained on.
        out: Folder to write.
        device: Device that scores the validation split.
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
    if (out / "recipe.yaml").exists():
        raise MRCARError(f"{out} holds a run that was trained; name another folder")
    networks = [load_network(run, device) for run in runs]
    records = tuple(Record.read(run) for run in runs)
    if last_epoch:
        for run, network in zip(runs, networks, strict=True):
            state = read_last(run, device)["average"]
            network.model.load_state_dict(state_for(network.model, state))
    last = networks[-1]
    mean: Any = AveragedModel(last.model, use_buffers=True)
    for run, network in zip(runs, networks, strict=True):
        if network.labels != last.labels or _shapes(network.model) != _shapes(last.model):
            raise WeightsError(f"{run} is of another network, or of other classes, than {runs[-1]}")
        mean.update_parameters(network.model)
    model = mean.module.eval()
    recipe = load_recipe(_recipe_file(runs[-1]))
    images = read_validation(recipe.data, path, recipe.labels)
    validation = make_split_for(recipe, images, path, device, progress)
    logits = predict_logits(model, validation.batches)
    scores = score(logits, validation.batches.labels, last.labels)
    temperature = fit_temperature(logits[0], validation.batches.labels)
    history = History(records, None, records[-1].runs[-1]["data"])
    record = history.record(f"{recipe.model}.{out.name}", last.labels, None, provenance())
    write_folder(out, model, record, temperature=temperature)
    return scores.accuracy


def _recipe_file(run: Path) -> Path:
    if not (run / "recipe.yaml").exists():
        raise WeightsError(f"{run} has no recipe.yaml; the last folder must be one that was trained")
    return run / "recipe.yaml"


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}
