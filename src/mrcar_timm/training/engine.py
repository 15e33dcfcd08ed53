"""The training loop: a run folder that can be killed and resumed at any time."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn

from ..data.fer2013 import read_fer2013
from ..data.images import ImageSet, contained_in
from ..data.landmarks import find_landmarks
from ..errors import DataError, MRCARError, WeightsError
from ..layers import ArcFaceHead
from ..models.loading import load_network
from ..provenance import provenance
from .batches import RegionBatches
from .evaluate import fit_temperature, predict_logits, score
from .recipe import Recipe

_LOG_FIELDS = (
    "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1", "seconds",
)  # fmt: skip


class Progress(Protocol):
    """What the loop tells about itself; the command line draws bars from it."""

    def __call__(self, iterable: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]: ...


def _silent(iterable: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
    return iterable


def load_split(
    path: Path, split: str, regions: tuple[str, ...], size: int, device: torch.device | str,
    progress: Progress = _silent, without: tuple[ImageSet, ...] = (),
) -> tuple[ImageSet, RegionBatches, dict[str, int]]:  # fmt: skip
    """A split of FER2013 with its landmarks, less the pictures that stand in other splits too.

    Returns:
        Pictures, batches, and how many pictures' landmarks came from where.
    """
    data = read_fer2013(path, split)
    for other in without:
        data = data.select(~contained_in(data, other))
    beside = (path if path.is_dir() else path.parent) / ".mrcar-cache"
    cache = beside if os.access(beside.parent, os.W_OK) else None
    landmarks = find_landmarks(data.images, cache, partial(progress, description=f"landmarks of {split}"))
    batches = RegionBatches(data, torch.from_numpy(landmarks.points), regions, (size, size), device)
    return data, batches, landmarks.counts()


class Trainer:
    """Trains a recipe on FER2013 in a run folder.

    The folder gets ``config.json`` (recipe, data, versions), ``log.csv`` (a line an epoch),
    ``last.pt`` (all that resuming needs), ``best.safetensors`` (the averaged weights of the epoch with
    the best validation accuracy) and ``best.json``. Order and augmentation of an epoch depend on seed
    and epoch alone, so a resumed run repeats what an uninterrupted one would have done.

    Args:
        recipe: How to train.
        data: FER2013 folder or CSV.
        run: Run folder, made if missing.
        device: Where to train.
        progress: Wrapper of long loops.

    Raises:
        DataError: If the data is not FER2013.
        MRCARError: If the folder holds a run of another recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        run: Path,
        device: torch.device | str = "cpu",
        progress: Progress = _silent,
    ) -> None:
        self.recipe, self.run, self.device, self.progress = recipe, run, torch.device(device), progress
        torch.manual_seed(recipe.seed)
        self.model: Any = timm.create_model(
            recipe.model,
            in_chans=1,  # grey data; the weights are folded to three channels when they are packaged
            drop_rate=recipe.drop_rate,
            margin=recipe.margin,
            scale=recipe.scale,
            **recipe.model_args,
        ).to(self.device, memory_format=torch.channels_last)
        if recipe.init is not None:
            start = load_network(recipe.init, self.device).model
            self.model.load_state_dict(start.state_dict())
        load = partial(
            load_split,
            data,
            regions=self.model.regions,
            size=recipe.size,
            device=self.device,
            progress=progress,
        )
        self.val_data, self.val, val_sources = load("validation")
        held_out = (self.val_data, read_fer2013(data, "test"))
        self.train_data, self.train, train_sources = load("train", without=held_out)
        if len(self.train) < 2:
            raise DataError(f"{data}: too few training pictures")
        self.config = {
            "recipe": recipe.to_dict(),
            "classes": list(self.train_data.classes),
            "data": {
                "train": {
                    "sha256": self.train_data.digest(),
                    "count": len(self.train),
                    "landmarks": train_sources,
                },
                "validation": {
                    "sha256": self.val_data.digest(),
                    "count": len(self.val),
                    "landmarks": val_sources,
                },
            },
        }

        self.class_weights = class_weights(self.train.labels, len(self.train_data.classes), recipe.balance)
        self.steps = max(1, len(self.train) // recipe.batch_size)
        self.optimizer = torch.optim.AdamW(
            param_groups_weight_decay(self.model, recipe.weight_decay), lr=recipe.lr, foreach=True
        )
        # Not a quarter: four steps in all would make torch divide by the first phase's length of zero.
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.lr, total_steps=self.steps * recipe.epochs, pct_start=0.3
        )
        self.average = ModelEmaV3(self.model, decay=recipe.average, use_warmup=True)
        self.epoch, self.best = 0, -1.0
        run.mkdir(parents=True, exist_ok=True)
        self._resume()

    def _resume(self) -> None:
        config_file, last = self.run / "config.json", self.run / "last.pt"
        if config_file.exists():
            stored = json.loads(config_file.read_text(encoding="utf-8"))
            for key in ("recipe", "classes", "data"):
                if stored[key] != json.loads(json.dumps(self.config[key])):
                    raise MRCARError(f"{self.run} holds a run with another {key}; name another folder or delete it")
        else:
            text = json.dumps({**self.config, "made_by": provenance()}, indent=2)
            config_file.write_text(text + "\n", encoding="utf-8")
        if not last.exists():
            return
        try:
            state = torch.load(last, map_location=self.device, weights_only=True)
        except Exception as error:  # a damaged zip raises whatever its damage leads to
            raise WeightsError(f"{last} is damaged ({error}); delete it to start again") from error
        self.model.load_state_dict(state["model"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.best = state["epoch"], state["best"]

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16)

    def fit(self, on_epoch: Callable[[dict[str, float]], None] = lambda row: None) -> None:
        """Train from where the run stands to the recipe's last epoch."""
        while self.epoch < self.recipe.epochs:
            start = time.perf_counter()
            row: dict[str, float] = {
                "epoch": self.epoch + 1,
                "lr": float(self.schedule.get_last_lr()[0]),
                **self._train_epoch(),
            }
            logits = predict_logits(self.average.module, self.val)
            val = score(logits, self.val.labels, self.train_data.classes)
            row |= {"val_loss": val.nll, "val_accuracy": val.accuracy, "val_macro_f1": val.macro_f1}
            row["seconds"] = round(time.perf_counter() - start, 1)
            self.epoch += 1
            if val.accuracy > self.best:
                self.best = val.accuracy
                save_weights(
                    self.average.module,
                    self.run / "best",
                    {
                        "epoch": self.epoch,
                        "val_accuracy_one": val.accuracy,
                        "temperature": fit_temperature(logits[0], self.val.labels),
                    },
                )
            self._log(row)
            self._save_last()
            on_epoch(row)

    def _train_epoch(self) -> dict[str, float]:
        self.model.train()
        generator = torch.Generator().manual_seed(self.recipe.seed * 100_003 + self.epoch)
        torch.manual_seed(self.recipe.seed * 100_003 + self.epoch)  # dropout
        total, right, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device), 0
        batches = self.train.training(self.recipe.batch_size, self.recipe.augmentation, generator)
        for regions, labels in self.progress(batches, f"epoch {self.epoch + 1}/{self.recipe.epochs}", self.steps):
            with self._autocast():
                logits = training_logits(self.model, regions, labels)
                loss = F.cross_entropy(
                    logits.float(), labels, self.class_weights, label_smoothing=self.recipe.label_smoothing
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.average.update(self.model, step=self.schedule.last_epoch)
            total += loss.detach() * len(labels)
            right += (logits.detach().argmax(1) == labels).sum()
            count += len(labels)
        mean_loss = float(total) / count
        if mean_loss != mean_loss:
            raise MRCARError(f"the loss is not a number in epoch {self.epoch + 1}; lower the learning rate")
        return {"train_loss": mean_loss, "train_accuracy": float(right) / count}

    def _log(self, row: dict[str, float]) -> None:
        file = self.run / "log.csv"
        rows = read_log(file) if file.exists() else []
        rows = [*(r for r in rows if r["epoch"] < row["epoch"]), row]
        partial = file.with_suffix(".tmp")
        with open(partial, "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, _LOG_FIELDS)
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" for k, v in r.items()} for r in rows)
        partial.replace(file)

    def _save_last(self) -> None:
        partial = self.run / "last.tmp"
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "epoch": self.epoch,
                "best": self.best,
            },
            partial,
        )
        partial.replace(self.run / "last.pt")


def training_logits(model: Any, regions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits for the loss: with the margin where the head has one."""
    embedding = model.forward_head(model.forward_features(regions), pre_logits=True)
    head = model.get_classifier()
    return head(embedding, labels) if isinstance(head, ArcFaceHead) else head(embedding)


def class_weights(labels: torch.Tensor, num_classes: int, balance: float) -> torch.Tensor:
    """Weights (num_classes,) of the loss that rise as classes get rarer; over the pictures their mean is 1.

    A class with a part p of the pictures weighs in proportion to p to the power of -balance.
    """
    parts = torch.bincount(labels, minlength=num_classes) / len(labels)
    weights = torch.where(parts > 0, parts.clamp(min=1 / len(labels)) ** -balance, 0)
    return weights / (weights * parts).sum()


def save_weights(model: nn.Module, stem: Path, record: dict[str, Any]) -> None:
    """Write ``stem.safetensors`` and ``stem.json``, each at once."""
    from safetensors.torch import save_file

    tensors = {key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}
    partial = stem.with_suffix(".tmp")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(stem.with_suffix(".safetensors"))
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(stem.with_suffix(".json"))


def read_log(file: Path) -> list[dict[str, float]]:
    """The rows of a run's log.csv."""
    with open(file, newline="", encoding="utf-8") as source:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(source)]
