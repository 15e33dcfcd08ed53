"""The same recipe with one part changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ..data.sets import DATA_SETS
from ..errors import RecipeError
from ..processes import cores, map_in_processes, plain_errors
from ..progress import Progress, silent
from ..training.batches import load_training
from ..training.engine import Trainer, read_log
from ..training.recipe import Recipe
from .crossval import cross_validate

_FILE = Path(__file__).with_name("variants.yaml")

#: What each variant changes in a recipe, by its name.
VARIANTS: dict[str, dict[str, Any]] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
#: Those of the paper's table: all of it, without regions, without ArcFace, without attention.
PAPERS = ("mrcar", "no-regions", "no-arcface", "no-attention")


def ablate(
    recipe: Recipe,
    path: Path,
    run: Path,
    variants: Sequence[str] = PAPERS,
    seeds: Sequence[int] = (0, 1, 2),
    protocol: str = "subject",
    count: int = 10,
    only: int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    on_result: Callable[[str, int, float], None] = lambda variant, seed, accuracy: None,
    workers: int = 1,
) -> None:
    """Train every variant with every seed, one seed after the other; what is done is kept.

    Data sets without splits are cross-validated; on others the validation split is scored by the last epoch.
    The runs are in ``run/<variant>/seed_<n>``.

    Args:
        recipe: The common recipe.
        path: The data set.
        run: Folder of the runs, made if missing.
        variants: Names from :data:`VARIANTS`.
        seeds: Seeds of weights, order, augmentation, limit and folds.
        protocol: Protocol of cross-validation.
        count: Number of folds.
        only: Train the first so many folds alone.
        device: Device to train on.
        progress: Wrapper of long loops.
        on_result: Called with each variant, seed and accuracy.
        workers: How many folds, or variants, are trained at once, each in a process of its own, which share the cores.

    Raises:
        RecipeError: If there is no such variant.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise RecipeError(f"no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    runs = [(name, seed) for seed in seeds for name in variants]
    jobs = [
        (recipe.changed({**VARIANTS[name], "seed": seed}), path, run / name / f"seed_{seed}", device)
        for name, seed in runs
    ]
    accuracies: Iterable[float]
    if DATA_SETS[recipe.data].splits == ("all",):
        accuracies = (
            cross_validate(varied, path, folder, protocol, count, only, device, progress, workers=workers)["accuracy"]
            for varied, _, folder, _ in jobs
        )
    elif workers > 1:
        load_training(jobs[0][0], path, progress=progress)  # finds the landmarks, which the processes then have
        threads = max(1, cores() // workers)
        found = map_in_processes(_train_here, jobs, workers, torch.set_num_threads, threads)
        accuracies = progress(found, "variants", len(jobs))
    else:
        accuracies = (_train(*job, progress) for job in jobs)
    for (name, seed), accuracy in zip(runs, accuracies, strict=True):
        on_result(name, seed, accuracy)


def _train(recipe: Recipe, path: Path, run: Path, device: torch.device | str, progress: Progress = silent) -> float:
    """Train a variant; its accuracy after the last epoch, on the validation split."""
    Trainer(recipe, *load_training(recipe, path, device, progress), run, device, progress).fit()
    return read_log(run / "log.csv")[-1]["val_accuracy"]


@plain_errors
def _train_here(recipe: Recipe, path: Path, run: Path, device: str) -> float:
    return _train(recipe, path, run, device)
