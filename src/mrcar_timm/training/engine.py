"""The training loop: a run folder that can be killed and resumed at any time."""

from __future__ import annotations

import csv
import io
import math
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3

from ..checkpoints.folder import write_folder
from ..devices import as_device
from ..errors import DataError, MRCARError, WeightsError
from ..layers import ArcFaceHead, soft_cross_entropy
from ..layers.loss import label_probabilities, logits_by_label
from ..lock import FolderLock
from ..metrics import fit_temperature, score
from ..output import remove_partial, write_bytes, write_csv, write_text
from ..precision import autocast
from ..progress import Progress, silent
from ..provenance import provenance
from .batches import Split, mixup
from .distil import Teachers
from .evaluate import predict_logits
from .group import Group
from .history import history_of_run
from .recipe import Recipe, load_recipe
from .start import load_branch, load_start, make_network
from .step import PHASES, Gradients, Stopwatch

_SECONDS_BETWEEN_CHECKPOINTS = 20  # on a GPU, where an epoch takes two and writing a checkpoint a good part of one
_LOG_FIELDS = (
    "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1", "seconds", *PHASES,
)  # fmt: skip


class Trainer:
    """Trains a recipe in a run folder.

    The folder gets ``recipe.yaml``, ``log.csv`` (a row an epoch), ``last.pt`` (all that resuming needs), and the
    network: ``config.json``, ``model.safetensors`` and ``record.json``, with the averaged weights of the epoch with
    the best validation accuracy, or of the last epoch where there is no validation split. Order and augmentation of an
    epoch depend on seed and epoch alone, so that a resumed run repeats what an uninterrupted one would have done.

    Args:
        recipe: How to train.
        train: Images to train on.
        validation: Images that choose the epoch; None keeps the last one.
        run: Run folder; :meth:`fit` makes it, or resumes what is in it.
        device: Device to train on.
        progress: Wrapper of long loops.
        compiled: Whether the network's branches go through ``torch.compile``, which takes a minute or more and
            pays on GPUs.
        group: The processes that train together. Each step's images are shared out to them, and their gradients
            averaged, so that a recipe means the same for any number of them; but each has batch statistics, changes of
            the images and dropout of its own. The first one writes.

    Raises:
        DataError: If there are too few images.
        MRCARError: If there are more processes than a step can be shared out to.
        RecipeError: If the recipe's network cannot be made.
        WeightsError: If the weights to start from are missing or do not fit.
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
        group: Group | None = None,
    ) -> None:
        if len(train.batches) < 2:
            raise DataError(f"{len(train.batches)} images are too few to train on")
        self.group = group or Group()
        step = min(recipe.batch_size, len(train.batches))
        if step < 2 * self.group.size:
            raise MRCARError(f"{step} images a step are too few for {self.group.size} processes, two for each")
        recipe = recipe.for_images(len(train.batches))
        self.recipe, self.run, self.device, self.progress = recipe, run, as_device(device), progress
        self.train, self.validation = train, validation
        self.classes = train.data.classes
        torch.manual_seed(recipe.seed)
        model = make_network(recipe, train.data.channels, self.classes)
        self.model: Any = model.to(self.device, memory_format=torch.channels_last)
        if recipe.init is not None:
            load_start(self.model, recipe.init, self.classes)
        for region, start in recipe.branches.items():
            load_branch(self.model, region, start)
        self.teachers = Teachers(recipe.teachers, self.classes, self.device) if recipe.teachers else None
        self.gradients = Gradients(self.model, self._loss)
        self.class_weights = class_weights(train.batches.labels, len(self.classes), recipe.balance)
        self.steps = max(1, len(train.batches) // recipe.batch_size)
        self.optimizer = make_optimizer(self.model, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, self.steps)
        # A decay of 1 with a warm-up of power 1 is the mean of all steps.
        decay, power = (1.0, 1.0) if recipe.average_all else (recipe.average, 2 / 3)
        self.average = ModelEmaV3(self.model, decay=decay, use_warmup=True, warmup_power=power)
        if compiled:  # after the copy that the average is, which sees batches of other sizes
            for branch in self.model.branches.values():
                branch.compile(dynamic=False)
        self.history = history_of_run(recipe, train, validation)
        self.made_by = provenance()
        self.epoch, self.best, self.best_epoch = 0, -1.0, 0
        self._lock = FolderLock(run)
        self._resumed = False

    def resume(self) -> None:
        """Make the run folder, or go on with what is in it; :meth:`fit` does so by itself.

        Raises:
            MRCARError: If the folder holds a run of another recipe, or of other data, or another process trains there.
            WeightsError: If the run's last state is damaged.
        """
        state = self.group.tell(self._open() if self.group.is_first else None)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.average.module.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.epoch, self.best, self.made_by = state["epoch"], state["best"], state["made_by"]
            self.best_epoch = state["best_epoch"]
        self._resumed = True

    def _open(self) -> dict[str, Any] | None:
        """Make the run folder, and take it for this process; the last state of a run that is in it."""
        recipe_file = self.run / "recipe.yaml"
        if recipe_file.exists():
            if differing := self.recipe.differences(load_recipe(recipe_file)):
                raise MRCARError(
                    f"{self.run} holds a run with another recipe: {'; '.join(differing)}. Give the same settings, name "
                    "another folder, or delete it"
                )
        elif (self.run / "config.json").exists():
            raise MRCARError(f"{self.run} holds a network that was not trained there; name another folder or delete it")
        self.run.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        remove_partial(self.run)
        if not recipe_file.exists():
            write_text(recipe_file, yaml.safe_dump(self.recipe.to_dict(), sort_keys=False))
        if not (self.run / "last.pt").exists():
            return None
        state = read_last(self.run, self.device if self.group.size == 1 else "cpu")
        for key, value in {"classes": list(self.classes), "data": self.history.data}.items():
            if state[key] != value:
                raise MRCARError(f"{self.run} holds a run with other {key}; name another folder or delete it")
        return state

    def fit(
        self, on_epoch: Callable[[dict[str, float]], None] = lambda row: None, minutes: float | None = None
    ) -> bool:
        """Train from where the run is to the recipe's last epoch, or until its patience ends.

        Args:
            on_epoch: Gets the row of the log after each epoch, in the first process.
            minutes: Stop before an epoch that would end later, to continue in another call. One epoch is always
                trained, so that calls make progress.

        Returns:
            Whether the last epoch is done.
        """
        if not self._resumed:
            self.resume()
        try:
            return self._fit(on_epoch, minutes)
        finally:
            self._lock.release()

    @property
    def done(self) -> bool:
        """Whether the last epoch is done."""
        patience = self.recipe.patience
        tired = patience is not None and self.best_epoch and self.epoch - self.best_epoch >= patience
        return self.epoch == self.recipe.epochs or bool(tired)

    def _fit(self, on_epoch: Callable[[dict[str, float]], None], minutes: float | None) -> bool:
        begin = saved = time.perf_counter()
        last = 0.0
        while not self.done:
            start = time.perf_counter()
            if self.group.tell(minutes is not None and last > 0 and start - begin + last > 60 * minutes):
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
                self._keep(1.0)
            row["seconds"] = round(time.perf_counter() - start, 1)
            if self.group.is_first:
                self._log(row)
                between = _SECONDS_BETWEEN_CHECKPOINTS if self.device.type == "cuda" else 0
                if self.done or time.perf_counter() - saved > between:
                    self._save_last()
                    saved = time.perf_counter()
                on_epoch(row)
            last = time.perf_counter() - start
        return True

    def _validate(self, split: Split) -> dict[str, float]:
        rank, size = self.group.share if len(split.batches) >= self.group.size else (0, 1)
        own = split.batches.select(torch.arange(len(split.batches)).tensor_split(size)[rank])
        parts = self.group.gather(predict_logits(self.average.module, own))
        logits = torch.cat(parts[:size], dim=1)
        val = self.group.tell(score(logits, split.batches.labels, self.classes))
        if val.accuracy > self.best:
            self.best, self.best_epoch = val.accuracy, self.epoch
            self._keep(fit_temperature(logits[0], split.batches.labels))
        return {"val_loss": val.nll, "val_accuracy": val.accuracy, "val_macro_f1": val.macro_f1}

    def _keep(self, temperature: float) -> None:
        """Write the averaged weights as the network of the run."""
        if not self.group.is_first:
            return
        name = f"{self.recipe.model}.{self.run.name}"
        record = self.history.record(name, self.classes, self.epoch, self.made_by)
        write_folder(self.run, self.average.module, record, temperature=temperature)

    def _freeze(self) -> None:
        """Keep the branches as they are for this epoch, or set them free again."""
        frozen = self.recipe.freeze == "backbone" and self.epoch < (self.recipe.freeze_epochs or math.inf)
        if frozen:
            self.model.branches.eval()  # nor may their statistics change
        if any(p.requires_grad == frozen for p in self.model.branches.parameters()):
            self.model.branches.requires_grad_(not frozen)
            self.gradients = Gradients(self.model, self._loss)  # what a GPU has recorded is another step

    def _train_epoch(self) -> dict[str, float]:
        self.model.train()
        self._freeze()
        generator = torch.Generator().manual_seed(self.recipe.seed * 100_003 + self.epoch)
        torch.manual_seed(self.recipe.seed * 100_003 + self.epoch + self.group.rank * 1_000_003)  # dropout
        total, right, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device), 0
        batches = self.train.batches.training(
            self.recipe.batch_size, self.recipe.augmentation, generator, self.group.share
        )
        watch = Stopwatch(self.device)
        watch.start()
        for regions, labels in self.progress(batches, f"epoch {self.epoch + 1}/{self.recipe.epochs}", self.steps):
            targets = label_probabilities(labels, len(self.classes))
            if self.recipe.mixup:
                regions, targets = mixup(regions, targets, self.recipe.mixup, generator)
            watch.lap("data")
            loss, logits, weight = self.gradients(regions, targets, watch.lap)
            self.group.average(self.model, weight)
            total += loss * len(labels)
            likeliest = targets.argmax(1)
            guessed = logits[torch.arange(len(labels), device=self.device), likeliest].argmax(1)
            watch.lap("backward")
            self.optimizer.step()
            self.schedule.step()
            self.average.update(self.model, step=self.schedule.last_epoch)
            right += (guessed == likeliest).sum()
            count += len(labels)
            watch.lap("optimizer")
        total, right, count = self.group.sum(torch.stack([total, right, torch.full_like(total, count)])).tolist()
        mean_loss = total / count
        if mean_loss != mean_loss:
            raise MRCARError(f"the loss is not a number in epoch {self.epoch + 1}; lower the learning rate")
        return {"train_loss": mean_loss, "train_accuracy": right / count, **watch.seconds()}

    def _loss(self, regions: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The loss, the logits, and by how much this batch weighs against others."""
        with autocast(self.device):
            logits = training_logits(self.model, regions.expand(-1, -1, self.model.in_chans, -1, -1))
            if self.teachers is not None:
                targets = torch.lerp(targets, self.teachers(regions), self.recipe.distil)
        loss = soft_cross_entropy(logits, targets, self.class_weights, self.recipe.label_smoothing)
        return loss, logits, (targets * self.class_weights).sum()

    def _log(self, row: dict[str, float]) -> None:
        file = self.run / "log.csv"
        rows = read_log(file) if file.exists() else []
        rows = [*(r for r in rows if r["epoch"] < row["epoch"]), row]
        write_csv(file, _LOG_FIELDS, ([f"{r[k]:.6g}" if k in r else "" for k in _LOG_FIELDS] for r in rows))

    def _save_last(self) -> None:
        if not self.group.is_first:
            return
        content = io.BytesIO()  # PyTorch does not say why it cannot write to a file
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "epoch": self.epoch,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "classes": list(self.classes),
                "data": self.history.data,
                "made_by": self.made_by,
            },
            content,
        )
        write_bytes(self.run / "last.pt", content.getvalue())


def read_last(run: Path, device: torch.device | str) -> dict[str, Any]:
    """The state of a run after its last epoch: "model", "average", "optimizer", "schedule", "epoch", "best".

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


def training_logits(model: Any, regions: torch.Tensor) -> torch.Tensor:
    """Logits for the loss, (B, K, K), float32: row k holds those for the label k, with the head's margin if any."""
    embedding = model.forward_head(model.forward_features(regions), pre_logits=True)
    head = model.get_classifier()
    if isinstance(head, ArcFaceHead):
        return logits_by_label(head.cosine(embedding), margin=head.margin, scale=head.scale)
    logits = head(embedding).float()
    return logits[:, None].expand(-1, logits.shape[1], -1)


def make_optimizer(model: Any, recipe: Recipe) -> Any:
    """The optimizer of a recipe; groups of parameters have learning rates of their own where it asks for them."""
    settings: dict[str, Any] = {"lr": recipe.lr, "momentum": 0.9, "foreach": True}
    if recipe.layer_decay == recipe.backbone_lr == 1:
        return create_optimizer_v2(model, opt=recipe.optimizer, weight_decay=recipe.weight_decay, **settings)
    groups = param_groups_layer_decay(model, recipe.weight_decay, layer_decay=recipe.layer_decay, min_scale=0.0)
    of_branches = set(map(id, model.branches.parameters()))
    parts = []
    for group in groups:
        for inside in (True, False):
            own = [p for p in group["params"] if (id(p) in of_branches) == inside]
            factor = group["lr_scale"] * (recipe.backbone_lr if inside else 1.0)
            if own:
                parts.append({"params": own, "lr": recipe.lr * factor, "weight_decay": group["weight_decay"]})
    return create_optimizer_v2(parts, opt=recipe.optimizer, weight_decay=0.0, **settings)


def make_schedule(optimizer: Any, recipe: Recipe, steps: int) -> Any:
    """The learning rate over a recipe's epochs of so many steps."""
    if recipe.schedule == "cycle":
        # Not a quarter: four steps in all would make torch divide by the first phase's length of zero.
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            total_steps=steps * (recipe.epochs or 1),
            pct_start=0.3,
            cycle_momentum=not optimizer.defaults.keys().isdisjoint(("momentum", "betas")),
        )

    def factor(step: int) -> float:
        beyond = step // steps - recipe.decay_after
        return recipe.decay ** (beyond // recipe.decay_every + 1) if beyond >= 0 else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def class_weights(labels: torch.Tensor, num_classes: int, balance: float) -> torch.Tensor:
    """Weights (num_classes,) of the loss that rise as classes get rarer; over the images their mean is 1.

    A class with a part p of the images weighs in proportion to p to the power of -balance.
    """
    parts = torch.bincount(labels, minlength=num_classes) / len(labels)
    weights = torch.where(parts > 0, parts.clamp(min=1 / len(labels)) ** -balance, 0)
    return weights / (weights * parts).sum()


def read_log(file: Path) -> list[dict[str, float]]:
    """The rows of a run's log.csv.

    Raises:
        DataError: If it is none.
    """
    try:
        with open(file, newline="", encoding="utf-8") as source:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(source)]
        if not rows or not all({"epoch", "train_loss", "seconds"} <= row.keys() for row in rows):
            raise ValueError("rows or columns are missing")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{file} is no log of a training ({error}); training goes on without it, too") from error
    return rows
