"""The training loop: a run folder that can be killed and resumed at any time."""

from __future__ import annotations

import csv
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn

from ..errors import DataError, MRCARError, RecipeError, WeightsError
from ..layers import ArcFaceHead, soft_cross_entropy
from ..layers.loss import label_probabilities, logits_by_label
from ..models.checkpoints import to_grey
from ..models.loading import load_network
from ..models.weights_file import write_weights
from ..precision import autocast
from ..provenance import provenance
from .batches import cutmix, mixup
from .distil import Teachers
from .evaluate import fit_temperature, predict_logits, score
from .gradients import Gradients, climb, descend
from .load import Progress, Split, silent
from .recipe import Recipe
from .timing import PHASES, Stopwatch

_SECONDS_BETWEEN_CHECKPOINTS = 20  # on a GPU, where an epoch takes two and writing a checkpoint a good part of one
_LOG_FIELDS = (
    "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1", "seconds", *PHASES,
)  # fmt: skip


class Trainer:
    """Trains a recipe in a run folder.

    The folder gets ``config.json`` (recipe, data, versions), ``recipe.yaml`` (the recipe alone, for another
    run), ``log.csv`` (a line an epoch), ``last.pt`` (all that resuming needs), ``model.safetensors`` and
    ``model.json``: the averaged weights of the epoch with the best validation accuracy, or of the last epoch
    where there is no validation split. Order and augmentation of an epoch depend on seed and epoch alone, so
    a resumed run repeats what an uninterrupted one would have done.

    Args:
        recipe: How to train.
        train: What is trained on.
        validation: What chooses the epoch; None keeps the last one.
        run: Run folder, made if missing.
        device: Where to train.
        progress: Wrapper of long loops.
        compiled: Whether the network's branches go through ``torch.compile``, which takes a minute or more and
            pays on GPUs.

    Raises:
        DataError: If there are too few pictures.
        MRCARError: If the folder holds a run of another recipe, or of other data.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Split,
        validation: Split | None,
        run: Path,
        device: torch.device | str = "cpu",
        progress: Progress = silent,
        compiled: bool = False,
    ) -> None:
        self.recipe, self.run, self.device, self.progress = recipe, run, torch.device(device), progress
        self.train, self.validation = train, validation
        if len(train.batches) < 2:
            raise DataError(f"{len(train.batches)} pictures are too few to train on")
        self.classes = train.data.classes
        torch.manual_seed(recipe.seed)
        model = make_network(recipe, train.data.channels, len(self.classes))
        self.model: Any = model.to(self.device, memory_format=torch.channels_last)
        if recipe.init is not None:
            load_start(self.model, recipe.init, self.classes)
        for region, start in recipe.branches.items():
            load_branch(self.model, region, start)
        self.teachers = Teachers(recipe.teachers, self.classes, self.device) if recipe.teachers else None
        self.gradients = Gradients(self.model, self._loss)
        self.config = {
            "recipe": recipe.to_dict(),
            "classes": list(self.classes),
            "in_chans": train.data.channels,
            "data": {"train": {**train.summary(), "samples": len(train.batches)}}
            | ({} if validation is None else {"validation": validation.summary()}),
        }

        self.class_weights = class_weights(train.batches.labels, len(self.classes), recipe.balance)
        self.steps = max(1, len(train.batches) // recipe.batch_size)
        self.optimizer = create_optimizer_v2(
            self.model, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=0.9, foreach=True
        )
        self.schedule = make_schedule(self.optimizer, recipe, self.steps)
        power = 1 if recipe.average == 1 else 2 / 3  # at 1 the warm-up is the mean of all steps
        self.average = ModelEmaV3(self.model, decay=recipe.average, use_warmup=True, warmup_power=power)
        if compiled:  # after the copy that the average is, which sees batches of other sizes
            for branch in self.model.branches.values():
                branch.compile(dynamic=False)
        self.epoch, self.best = 0, -1.0
        run.mkdir(parents=True, exist_ok=True)
        self._resume()

    def _resume(self) -> None:
        config_file, last = self.run / "config.json", self.run / "last.pt"
        if config_file.exists():
            stored = json.loads(config_file.read_text(encoding="utf-8"))
            if "averaged" in stored:
                raise MRCARError(f"{self.run} holds the mean of other runs; name another folder or delete it")
            for key in ("recipe", "classes", "data"):
                if stored[key] != json.loads(json.dumps(self.config[key])):
                    raise MRCARError(f"{self.run} holds a run with another {key}; name another folder or delete it")
        else:
            write_json(config_file, {**self.config, "made_by": provenance()})
            text = yaml.safe_dump(json.loads(json.dumps(self.config["recipe"])), sort_keys=False)
            (self.run / "recipe.yaml").write_text(text, encoding="utf-8")
        if not last.exists():
            return
        state = read_last(self.run, self.device)
        self.model.load_state_dict(state["model"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.best = state["epoch"], state["best"]

    def fit(
        self, on_epoch: Callable[[dict[str, float]], None] = lambda row: None, minutes: float | None = None
    ) -> bool:
        """Train from where the run stands to the recipe's last epoch.

        Args:
            on_epoch: Gets the log's line after each epoch.
            minutes: Stop before an epoch that would end later, to go on in another call. One epoch is
                trained whatever it takes, so that calls get on.

        Returns:
            Whether the last epoch is done.
        """
        begin = saved = time.perf_counter()
        last = 0.0
        while self.epoch < self.recipe.epochs:
            start = time.perf_counter()
            if minutes is not None and last and start - begin + last > 60 * minutes:
                self._save_last()
                return False
            row: dict[str, float] = {
                "epoch": self.epoch + 1,
                "lr": float(self.schedule.get_last_lr()[0]),
                **self._train_epoch(),
            }
            self.epoch += 1
            if self.validation is not None:
                row |= self._validate(self.validation)
            elif self.epoch == self.recipe.epochs:
                self._keep({})
            row["seconds"] = round(time.perf_counter() - start, 1)
            self._log(row)
            between = _SECONDS_BETWEEN_CHECKPOINTS if self.device.type == "cuda" else 0
            if self.epoch == self.recipe.epochs or time.perf_counter() - saved > between:
                self._save_last()
                saved = time.perf_counter()
            on_epoch(row)
            last = time.perf_counter() - start
        return True

    def _validate(self, split: Split) -> dict[str, float]:
        logits = predict_logits(self.average.module, split.batches)
        val = score(logits, split.batches.labels, self.classes)
        if val.accuracy > self.best:
            self.best = val.accuracy
            temperature = fit_temperature(logits[0], split.batches.labels)
            self._keep({"val_accuracy_one": val.accuracy, "temperature": temperature})
        return {"val_loss": val.nll, "val_accuracy": val.accuracy, "val_macro_f1": val.macro_f1}

    def _keep(self, record: dict[str, Any]) -> None:
        """Write the averaged weights as the run's result."""
        record = {"epoch": self.epoch, "temperature": 1.0, **record}
        save_weights(self.average.module, self.run / "model", self.classes, record)

    def _train_epoch(self) -> dict[str, float]:
        self.model.train()
        generator = torch.Generator().manual_seed(self.recipe.seed * 100_003 + self.epoch)
        torch.manual_seed(self.recipe.seed * 100_003 + self.epoch)  # dropout
        total, right, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device), 0
        batches = self.train.batches.training(self.recipe.batch_size, self.recipe.augmentation, generator)
        watch = Stopwatch(self.device)
        watch.start()
        for regions, labels in self.progress(batches, f"epoch {self.epoch + 1}/{self.recipe.epochs}", self.steps):
            targets = label_probabilities(labels, len(self.classes))
            if self.recipe.mixup:
                regions, targets = mixup(regions, targets, self.recipe.mixup, generator)
            if self.recipe.cutmix:
                regions, targets = cutmix(regions, targets, self.recipe.cutmix, generator)
            watch.lap("data")
            loss, logits = self.gradients(regions, targets, watch.lap)
            total += loss * len(labels)
            likeliest = targets.argmax(1)
            guessed = logits[torch.arange(len(labels), device=self.device), likeliest].argmax(1)
            if self.recipe.sam:
                steps = climb(self.model, self.recipe.sam)
                self.gradients(regions, targets)
                descend(self.model, steps)
            watch.lap("backward")
            self.optimizer.step()
            self.schedule.step()
            self.average.update(self.model, step=self.schedule.last_epoch)
            right += (guessed == likeliest).sum()
            count += len(labels)
            watch.lap("optimizer")
        mean_loss = float(total) / count
        if mean_loss != mean_loss:
            raise MRCARError(f"the loss is not a number in epoch {self.epoch + 1}; lower the learning rate")
        return {"train_loss": mean_loss, "train_accuracy": float(right) / count, **watch.seconds()}

    def _loss(self, regions: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(self.device):
            logits = training_logits(self.model, regions)
            if self.teachers is not None:
                targets = torch.lerp(targets, self.teachers(regions), self.recipe.distil)
        return soft_cross_entropy(logits, targets, self.class_weights, self.recipe.label_smoothing), logits

    def _log(self, row: dict[str, float]) -> None:
        file = self.run / "log.csv"
        rows = read_log(file) if file.exists() else []
        rows = [*(r for r in rows if r["epoch"] < row["epoch"]), row]
        partial = file.with_suffix(".tmp")
        with open(partial, "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, _LOG_FIELDS, restval="")
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


def read_last(run: Path, device: torch.device | str) -> dict[str, Any]:
    """Where a run stands after its last epoch: "model", "average", "optimizer", "schedule", "epoch", "best".

    Raises:
        WeightsError: If it is missing, as in the mean of other runs, or damaged.
    """
    file = run / "last.pt"
    try:
        with zipfile.ZipFile(file) as archive:  # torch.load does not look at the sums that torch.save writes
            if part := archive.testzip():
                raise zipfile.BadZipFile(f"the sum of {part} is wrong")
        return torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{run} has no last epoch: last.pt is missing") from error
    except Exception as error:  # an altered header may ask for any way of unpacking: zlib.error and others
        raise WeightsError(f"{file} is damaged ({error}); delete it to start again") from error


def make_network(recipe: Recipe, channels: int, num_classes: int) -> Any:
    """A recipe's network with random weights.

    Args:
        recipe: Names the network and its arguments.
        channels: Of the pictures. Where it is 1, weights are folded to three channels when they are packaged.
        num_classes: Of the data set.

    Raises:
        RecipeError: If there is no such network, or it does not take the arguments.
    """
    try:
        return timm.create_model(
            recipe.model,
            in_chans=channels,
            num_classes=num_classes,
            drop_rate=recipe.drop_rate,
            margin=recipe.margin,
            scale=recipe.scale,
            **recipe.model_args,
        )
    except (TypeError, RuntimeError, ValueError) as error:
        raise RecipeError(f"no network {recipe.model} with {recipe.model_args}: {error}") from error


def training_logits(model: Any, regions: torch.Tensor) -> torch.Tensor:
    """Logits for the loss, (B, K, K), float32: row k holds those for the label k, with the head's margin if any."""
    embedding = model.forward_head(model.forward_features(regions), pre_logits=True)
    head = model.get_classifier()
    if isinstance(head, ArcFaceHead):
        return logits_by_label(head.cosine(embedding), margin=head.margin, scale=head.scale)
    logits = head(embedding).float()
    return logits[:, None].expand(-1, logits.shape[1], -1)


def make_schedule(optimizer: Any, recipe: Recipe, steps: int) -> Any:
    """The learning rate over a recipe's epochs of so many steps."""
    if recipe.schedule == "cycle":
        # Not a quarter: four steps in all would make torch divide by the first phase's length of zero.
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            recipe.lr,
            total_steps=steps * recipe.epochs,
            pct_start=0.3,
            cycle_momentum=not optimizer.defaults.keys().isdisjoint(("momentum", "betas")),
        )

    def factor(step: int) -> float:
        beyond = step // steps - recipe.decay_after
        return recipe.decay ** (beyond // recipe.decay_every + 1) if beyond >= 0 else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def load_start(model: Any, init: str, classes: tuple[str, ...]) -> None:
    """Put the weights of a run folder, or of the package, into a network of the same shape.

    Of the head come along the classes that both know; the first convolutions are folded to grey for a
    network with one channel. A network that looks at fewer regions takes their branches, and of the layer that
    fuses them their columns.

    Raises:
        WeightsError: If the start is missing, or is a network of another shape.
    """
    start = load_network(init)
    state = _state_for(model, start.model)
    if getattr(model, "regions", None) != getattr(start.model, "regions", None):
        state = _of_regions(state, start.model.regions, model.regions)
    own = {key: value.cpu() for key, value in model.state_dict().items()}
    for key in [key for key in state if key.startswith("head.")]:
        if key in own and own[key].shape[1:] == state[key].shape[1:]:
            known = dict(zip(start.labels, state[key], strict=True))
            state[key] = torch.stack([known.get(name, row) for name, row in zip(classes, own[key], strict=True)])
        else:
            del state[key]  # an embedding of another width, or another kind of head
    odd = [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
    odd += [key for key in own if key not in state and not key.startswith("head.")]
    if odd:
        raise WeightsError(f"{init} is a network of another shape; {len(odd)} tensors differ, such as {odd[0]}")
    model.load_state_dict(state, strict=False)


def load_branch(model: Any, region: str, init: str) -> None:
    """Put the branch of one region of a run folder, or of weights of the package, into a network.

    Raises:
        WeightsError: If that network is missing or has no such branch, or one of another shape.
    """
    prefix = f"branches.{region}."
    state = {key: value for key, value in _state_for(model, load_network(init).model).items() if key.startswith(prefix)}
    own = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
    if not own or {key: value.shape for key, value in state.items()} != {key: v.shape for key, v in own.items()}:
        raise WeightsError(f"{init} has no branch for {region!r} of this network's shape")
    model.load_state_dict(state, strict=False)


def _state_for(model: Any, start: Any) -> dict[str, torch.Tensor]:
    """The weights of a network as another one with as many input channels, or one, takes them."""
    state = start.state_dict()
    return to_grey(state) if model.in_chans == 1 and start.in_chans == 3 else state


def _of_regions(
    state: dict[str, torch.Tensor], known: tuple[str, ...], wanted: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The part of a state dict that belongs to some of its regions."""
    fusion = dict(zip(known, state["fusion.0.weight"].chunk(len(known), 1), strict=True))
    unseen = tuple(f"branches.{name}." for name in known if name not in wanted)
    state = {key: value for key, value in state.items() if not key.startswith(unseen)}
    return {**state, "fusion.0.weight": torch.cat([fusion[name] for name in wanted if name in fusion], 1)}


def class_weights(labels: torch.Tensor, num_classes: int, balance: float) -> torch.Tensor:
    """Weights (num_classes,) of the loss that rise as classes get rarer; over the pictures their mean is 1.

    A class with a part p of the pictures weighs in proportion to p to the power of -balance.
    """
    parts = torch.bincount(labels, minlength=num_classes) / len(labels)
    weights = torch.where(parts > 0, parts.clamp(min=1 / len(labels)) ** -balance, 0)
    return weights / (weights * parts).sum()


def save_weights(model: nn.Module, stem: Path, classes: Sequence[str], record: dict[str, Any]) -> None:
    """Write ``stem.safetensors`` and ``stem.json``, each at once."""
    write_weights(model.state_dict(), stem.with_suffix(".safetensors"), classes)
    write_json(stem.with_suffix(".json"), record)


def read_log(file: Path) -> list[dict[str, float]]:
    """The rows of a run's log.csv."""
    with open(file, newline="", encoding="utf-8") as source:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(source)]


def write_json(file: Path, values: Any) -> None:
    """Write a JSON file at once, so that a killed run leaves no half of one."""
    partial = file.with_suffix(".tmp")
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)
