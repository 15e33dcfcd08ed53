"""A network together with what its logits mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..errors import MRCARError, WeightsError
from .checkpoints import CHECKPOINTS, Checkpoint
from .mrcar_resnet import MRCARResNet
from .sources import (
    CONFIG_NAME,
    FOLDER,
    HUB,
    WEIGHTS_NAME,
    Repository,
    evict,
    fetch,
    fetch_weights,
    published_config,
    read_json,
)
from .weights_file import read_weights


@dataclass(frozen=True)
class Network:
    """A network ready to infer.

    Attributes:
        model: In evaluation mode.
        labels: Names of the classes, in the order of the logits.
        temperature: Logits are divided by it before softmax.
        name: What it is called.
        sha256: Digest of its weights; None for a module of the user's.
    """

    model: Any
    labels: tuple[str, ...]
    temperature: float
    name: str
    sha256: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        _, height, width = self.model.pretrained_cfg["input_size"]
        return height, width


def default_checkpoint(architecture: str = "mrcar_resnet") -> Checkpoint:
    """The record of the weights that ``pretrained=True`` loads.

    Raises:
        WeightsError: If none are installed.
    """
    for name, checkpoint in CHECKPOINTS.items():
        if name.split(".")[0] == architecture:
            return checkpoint
    raise WeightsError(f"no weights of {architecture!r} are installed with this package")


def load_network(spec: str | Path | nn.Module | None = None, device: torch.device | str = "cpu") -> Network:
    """Load a network by name, from a folder, or from the Hub.

    Args:
        spec: A registered name such as "mrcar_resnet" or "mrcar_resnet.fer2013"; "hf-hub:ORG/NAME", perhaps with
            "@REVISION"; "local-dir:FOLDER", or the folder alone, as ``mrcar publish`` or ``mrcar train`` writes it, or
            the ``model.safetensors`` in it; a module whose ``pretrained_cfg`` names its labels; None for the packaged
            default.
        device: Where the network is put.

    Raises:
        WeightsError: If there is no such network, or its weights are missing or damaged.
        HubError: If the Hub does not give it.
    """
    if isinstance(spec, nn.Module):
        labels = (getattr(spec, "pretrained_cfg", None) or {}).get("label_names")
        if not labels or len(labels) != spec.num_classes:
            raise WeightsError("the network's pretrained_cfg must have label_names, one for each class")
        return Network(spec.to(device).eval(), tuple(labels), 1.0, type(spec).__name__)
    name = str(spec) if spec is not None else default_checkpoint().name
    if name.startswith(HUB):
        return _load_published(_download(Repository.of(name)), name, device)
    path = Path(name.removeprefix(FOLDER))
    if path.exists():
        folder = path.parent if path.is_file() else path
        if not (folder / CONFIG_NAME).exists():
            raise WeightsError(f"{folder} is not a run folder of mrcar train, nor a published one: no {CONFIG_NAME}")
        config = read_json(folder / CONFIG_NAME)
        load = _load_published if "architecture" in config else _load_run
        return load(folder, name, device)
    if name.startswith(FOLDER):
        raise WeightsError(f"{path}: no such folder")
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise WeightsError(f"{name!r} is neither a registered network, nor a run folder, nor {HUB}ORG/NAME")
    record = CHECKPOINTS.get(name) if "." in name else default_checkpoint(architecture)
    if record is None:
        raise WeightsError(f"no weights {name!r}; installed are {', '.join(CHECKPOINTS)}")
    model = timm.create_model(record.name, pretrained=True)
    return Network(_ready(model, device), record.labels, record.temperature, record.name, record.sha256)


def _ready(model: Any, device: torch.device | str) -> Any:
    return model.to(device, memory_format=torch.channels_last).eval()  # nearly twice as fast on the CPU


def _download(repository: Repository) -> Path:
    """The folder of the Hub's cache that has a repository's files, filled with what loading it takes."""
    config = fetch(repository, CONFIG_NAME)
    try:
        read_json(config)
    except WeightsError as error:  # on a file system without links fetch cannot tell
        raise WeightsError(f"{error}. {evict(config)}") from error
    _check_architecture(config.parent)
    fetch_weights(repository.pinned(config.parent))  # though others may publish meanwhile
    return config.parent


def _check_architecture(folder: Path) -> None:
    """Raise before anything is read of a network that is not this package's."""
    architecture = read_json(folder / CONFIG_NAME).get("architecture")
    if architecture not in timm.list_models(module="mrcar_resnet"):
        raise WeightsError(f"{folder / CONFIG_NAME} is of a network {architecture!r}, which takes no regions of faces")


def _load_published(folder: Path, name: str, device: torch.device | str) -> Network:
    """From a folder as :mod:`mrcar_timm.hub` or timm writes it."""
    _check_architecture(folder)
    try:
        model = timm.create_model(f"{FOLDER}{folder}", pretrained=True)
    except MRCARError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        raise WeightsError(f"{folder / CONFIG_NAME} describes no network that the weights fit: {error}") from error
    if not isinstance(model, MRCARResNet):
        raise WeightsError(f"{name} gives features, not expressions")
    cfg: Any = model.pretrained_cfg
    labels = tuple(cfg.get("label_names") or ())
    if not labels or len(labels) != model.num_classes:
        raise WeightsError(f"{folder / CONFIG_NAME} names {len(labels)} classes of {model.num_classes}")
    ours = published_config(folder)
    temperature = ours.get("temperature", 1.0)
    if not isinstance(temperature, (int, float)) or not temperature > 0:
        raise WeightsError(f"{folder / CONFIG_NAME}: the temperature must be a positive number, not {temperature!r}")
    # Ours was compared as the network was made.
    sha256 = ours["sha256"] if "sha256" in ours else read_weights(folder / WEIGHTS_NAME).digest
    return Network(_ready(model, device), labels, temperature, name, sha256)


def _load_run(folder: Path, name: str, device: torch.device | str) -> Network:
    """From a folder as ``mrcar train`` writes it."""
    for file in (WEIGHTS_NAME, "model.json"):
        if not (folder / file).exists():
            raise WeightsError(f"{folder} is not a run folder of mrcar train with a finished epoch: {file} is missing")
    config, record = read_json(folder / CONFIG_NAME), read_json(folder / "model.json")
    weights = read_weights(folder / WEIGHTS_NAME)
    recipe = config["recipe"]
    model = timm.create_model(
        recipe["model"],
        in_chans=config["in_chans"],
        num_classes=len(config["classes"]),
        margin=recipe["margin"],
        scale=recipe["scale"],
        pretrained_cfg_overlay={
            "input_size": (config["in_chans"], recipe["size"], recipe["size"]),
            "label_names": config["classes"],
        },
        **recipe["model_args"],
    )
    model.load_state_dict(weights.tensors)
    return Network(_ready(model, device), tuple(config["classes"]), record["temperature"], name, weights.digest)
