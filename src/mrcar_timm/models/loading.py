"""A network together with what its logits mean."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..errors import WeightsError
from . import mrcar_resnet  # noqa: F401 - registers the networks
from .checkpoints import CHECKPOINTS, Checkpoint, file_digest


@dataclass(frozen=True)
class Network:
    """A network ready to infer.

    Attributes:
        model: In evaluation mode.
        labels: Names of the classes, in the order of the logits.
        temperature: Logits are divided by it before softmax.
        name: What it is called.
        sha256: Digest of the file of its weights; None for a module of the user's.
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
    """Load a network by name, or from a run folder of ``mrcar train``.

    Args:
        spec: A registered name such as "mrcar_resnet" or "mrcar_resnet.fer2013"; a run folder or the
            ``model.safetensors`` in it; a module whose ``pretrained_cfg`` names its labels; None for the
            packaged default.
        device: Where the network is put.

    Raises:
        WeightsError: If there is no such network, or its weights are missing or damaged.
    """
    if isinstance(spec, nn.Module):
        labels = (getattr(spec, "pretrained_cfg", None) or {}).get("label_names")
        if not labels or len(labels) != spec.num_classes:
            raise WeightsError("the network's pretrained_cfg must have label_names, one for each class")
        return Network(spec.to(device).eval(), tuple(labels), 1.0, type(spec).__name__)
    name = str(spec) if spec is not None else default_checkpoint().name
    if Path(name).exists():
        return _load_run(Path(name), device)
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise WeightsError(f"{name!r} is neither a registered network nor a run folder")
    record = CHECKPOINTS.get(name) if "." in name else default_checkpoint(architecture)
    if record is None:
        raise WeightsError(f"no weights {name!r}; installed are {', '.join(CHECKPOINTS)}")
    if not record.path.exists():
        raise WeightsError(f"{record.path} is missing; install the package again")
    if file_digest(record.path) != record.sha256:
        raise WeightsError(f"{record.path} is damaged (its digest is not {record.sha256}); install the package again")
    model = timm.create_model(record.name, pretrained=True)
    model.to(device, memory_format=torch.channels_last)  # nearly twice as fast on the CPU
    return Network(model.eval(), record.labels, record.temperature, record.name, record.sha256)


def _load_run(path: Path, device: torch.device | str) -> Network:
    folder = path.parent if path.is_file() else path
    weights = folder / "model.safetensors"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        state = load_file(weights)
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is not a run folder of mrcar train: {error.filename} is missing") from error
    except (SafetensorError, json.JSONDecodeError) as error:
        raise WeightsError(f"{folder} is damaged: {error}") from error
    recipe = config["recipe"]
    model = timm.create_model(
        recipe["model"],
        in_chans=config["in_chans"],
        num_classes=len(config["classes"]),
        margin=recipe["margin"],
        scale=recipe["scale"],
        pretrained_cfg_overlay={"input_size": (config["in_chans"], recipe["size"], recipe["size"])},
        **recipe["model_args"],
    )
    model.load_state_dict(state)
    model.to(device, memory_format=torch.channels_last)
    return Network(
        model.eval(),
        tuple(config["classes"]),
        record["temperature"],
        str(path),
        file_digest(weights),
    )
