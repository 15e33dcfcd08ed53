"""Cross-validation of a data set without splits, under three protocols."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.folder import read_json
from ..data.folds import image_folds, subject_folds
from ..data.image_set import ImageSet
from ..data.sets import DATA_SETS
from ..data.splits import read_part
from ..errors import DataError, MRCARError
from ..metrics import score
from ..network import load_network
from ..output import write_json
from ..processes import cores, map_in_processes, plain_errors
from ..progress import Progress, silent
from ..provenance import provenance
from ..training.batches import Split, make_split, random_changes, search_for
from ..training.engine import Trainer
from ..training.evaluate import predict_logits
from ..training.recipe import Recipe

#: The protocols, and why two of the three promise too much.
FOLD_PROTOCOLS = {
    "subject": "no subject in two folds",
    "image": "leaky: other frames of a test image's sequence are trained on",
    "paper": "leaky: other augmented copies of a test image are trained on",
}
#: Copies of each image under "paper": 981 images of CK+ become 7,848; the paper says 7,881.
COPIES = 8


@dataclass(frozen=True)
class Folds:
    """How samples are cut; a sample is an image, or under "paper" one of its augmented copies.

    Attributes:
        protocol: One of :data:`FOLD_PROTOCOLS`.
        seed: Seed of the folds and of the copies.
        copies: Samples an image.
        tests: Indices of the samples that each fold tests, in ascending order.
    """

    protocol: str
    seed: int
    copies: int
    tests: list[np.ndarray]

    def train(self, number: int) -> np.ndarray:
        """The samples that are trained on while this fold is tested."""
        return np.setdiff1d(np.concatenate(self.tests), self.tests[number])

    def digest(self) -> str:
        """SHA-256 over the cut, in hex."""
        text = json.dumps([self.protocol, self.seed, self.copies, [fold.tolist() for fold in self.tests]])
        return hashlib.sha256(text.encode()).hexdigest()


def cut_folds(data: ImageSet, protocol: str, count: int, seed: int) -> Folds:
    """Cut a data set into folds; the same arguments give the same folds.

    Args:
        data: All images.
        protocol: "subject" keeps all images of a subject in one fold. "image" deals the images out at
            random. "paper" makes augmented copies first and deals these out, as the paper does.
        count: Number of folds.
        seed: Seed of the folds.

    Raises:
        DataError: If there are too few images or subjects, or subjects are not known.
    """
    if protocol not in FOLD_PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(FOLD_PROTOCOLS)}, got {protocol!r}")
    if protocol == "subject":
        tests = subject_folds(data, count, seed)
    elif protocol == "image":
        tests = image_folds(data, count, seed)
    else:
        tests = image_folds(data.select(np.arange(len(data)).repeat(COPIES)), count, seed)
    return Folds(protocol, seed, COPIES if protocol == "paper" else 1, [np.sort(fold) for fold in tests])


def fold_splits(whole: Split, folds: Folds, number: int, recipe: Recipe) -> tuple[Split, Split]:
    """Training and test split of one fold."""
    batches = whole.batches
    if folds.copies > 1:
        # The first copy of each image is the image.
        generator = torch.Generator().manual_seed(folds.seed)
        changes = random_changes(len(whole.data) * folds.copies, recipe.augmentation, generator)
        changes = changes.unflatten(0, (len(whole.data), folds.copies))
        changes[:, 0] = torch.eye(3, dtype=changes.dtype)
        batches = batches.copies(changes)

    def part(rows: np.ndarray) -> Split:
        return Split(whole.data, batches.select(torch.from_numpy(rows)), whole.landmarks)

    return part(folds.train(number)), part(folds.tests[number])


def train_fold(
    whole: Split,
    folds: Folds,
    number: int,
    recipe: Recipe,
    run: Path,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train and test one fold in ``run/fold_<number>``, unless that is done; its scores."""
    folder = run / f"fold_{number}"
    scores_file = folder / "scores.json"
    if not scores_file.exists():
        train, test = fold_splits(whole, folds, number, recipe)
        Trainer(recipe, train, None, folder, device, progress).fit()
        network = load_network(folder, device)
        logits = predict_logits(network.model, test.batches, "ten", track=partial(progress, description="ten crops"))
        scores = score(logits, test.batches.labels, whole.data.classes)
        write_json(scores_file, {**scores.to_dict(), "confusion": scores.confusion.tolist()})
        (folder / "last.pt").unlink()  # only needed to resume
    return read_json(scores_file)


#: What a process that trains folds of another one's has loaded.
_here: list[tuple[Split, Folds]] = []


def _load_here(recipe: Recipe, path: Path, protocol: str, count: int, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    data = read_part(recipe.data, path, "all", search_for(recipe))
    whole = make_split(data, path, recipe.regions, recipe.size, device, silent, recipe.landmarks)
    _here.append((whole, cut_folds(data, protocol, count, recipe.seed)))


@plain_errors
def _train_fold_here(recipe: Recipe, run: Path, number: int, device: str) -> dict[str, Any]:
    ((whole, folds),) = _here
    return train_fold(whole, folds, number, recipe, run, device)


def cross_validate(
    recipe: Recipe,
    path: Path,
    run: Path,
    protocol: str = "subject",
    count: int = 10,
    only: int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    on_fold: Callable[[dict[str, Any]], None] = lambda fold: None,
    workers: int = 1,
) -> dict[str, Any]:
    """Train and test every fold; finished folds are kept, so that a stopped run resumes.

    Every fold trains for the recipe's epochs and is scored by its last epoch with ten crops; no test image
    chooses anything. The run folder gets ``folds.json`` (which images each fold tests), a run folder for
    each fold with ``scores.json`` in it, and ``crossval.json``.

    Args:
        recipe: How each fold is trained; its seed cuts the folds too.
        path: A data set without splits.
        run: Run folder, made if missing.
        protocol: One of :data:`FOLD_PROTOCOLS`.
        count: Number of folds.
        only: Train the first so many folds alone; all if None.
        device: Device to train on.
        progress: Wrapper of long loops.
        on_fold: Called with the scores of each fold.
        workers: How many folds are trained at once, each in a process of its own, which share the cores.

    Returns:
        What ``crossval.json`` holds: accuracy of each fold, their mean and standard deviation (over the folds,
        n - 1), and the sum of the confusion matrices.

    Raises:
        DataError: If the data set has splits of its own, or cannot be cut so.
        MRCARError: If the folder holds a run of something else.
    """
    if DATA_SETS[recipe.data].splits not in (("all",), ()):
        raise DataError(f"{DATA_SETS[recipe.data].title} has splits of its own; use train and eval")
    data = read_part(recipe.data, path, "all", search_for(recipe, progress))
    folds = cut_folds(data, protocol, count, recipe.seed)
    config = {
        "recipe": recipe.to_dict(),
        "protocol": protocol,
        "meaning": FOLD_PROTOCOLS[protocol],
        "folds": count,
        "data_sha256": data.digest(),
        "folds_sha256": folds.digest(),
    }
    config_file = run / "crossval_config.json"
    if config_file.exists():
        stored = read_json(config_file)
        if {key: stored.get(key) for key in config} != json.loads(json.dumps(config)):
            raise MRCARError(f"{run} holds a cross-validation of something else; name another folder or delete it")
    else:
        names = [[f"{data.names[i // folds.copies]}#{i % folds.copies}" for i in fold] for fold in folds.tests]
        write_json(run / "folds.json", {**asdict(folds), "tests": names})
        write_json(config_file, {**config, "made_by": provenance()})  # last: it says that the folder is a run's

    whole = make_split(data, path, recipe.regions, recipe.size, device, progress, recipe.landmarks)
    numbers = range(count if only is None else min(only, count))
    if workers > 1:
        del whole  # each process has its own
        jobs = [(recipe, run, number, device) for number in numbers]
        loading = (recipe, path, protocol, count, device, max(1, cores() // workers))
        results: Iterable[dict[str, Any]] = map_in_processes(_train_fold_here, jobs, workers, _load_here, *loading)
        results = progress(results, "folds", len(jobs))
    else:
        results = (train_fold(whole, folds, number, recipe, run, device, progress) for number in numbers)
    done = []
    for number, fold in enumerate(results):
        done.append(fold)
        on_fold({"fold": number, **fold})
    accuracies = [fold["accuracy"] for fold in done]
    result = {
        **read_json(config_file),
        "classes": list(data.classes),
        "folds_done": len(done),
        "accuracies": accuracies,
        "accuracy": float(np.mean(accuracies)),
        "spread": float(np.std(accuracies, ddof=1)) if len(done) > 1 else None,
        "images": sum(fold["count"] for fold in done),
        "confusion": np.sum([fold["confusion"] for fold in done], axis=0).tolist(),
    }
    write_json(run / "crossval.json", result)
    return result
