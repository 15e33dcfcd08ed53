"""A network together with what its logits mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from .checkpoints.folder import CONFIG_NAME, FOLDER, read_folder_weights
from .checkpoints.packaged import PACKAGED
from .checkpoints.resolve import resolve
from .checkpoints.weights_file import tensor_digest
from .devices import as_device
from .errors import MRCARError, WeightsError
from .models import RegionNetwork


@dataclass(frozen=True)
class Network:
    """A network ready to infer.

    Attributes:
        model: Softmax of its logits gives calibrated probabilities.
        labels: Names of the classes, in the order of the logits.
        name: The name that was given, with its tag.
        sha256: Digest of its weights.
    """

    model: RegionNetwork
    labels: tuple[str, ...]
    name: str
    sha256: str

    @property
    def _cfg(self) -> Any:
        return self.model.pretrained_cfg

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions that it looks at."""
        return self.model.regions

    @property
    def in_chans(self) -> int:
        """Channels of the input."""
        return self.model.in_chans

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        _, height, width = self._cfg["input_size"]
        return height, width

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean that is subtracted from the channels of the input, values in 0…1."""
        return tuple(self._cfg["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation that the channels of the input are divided by."""
        return tuple(self._cfg["std"])


def load_network(spec: str | Path | nn.Module | None = None, device: torch.device | str = "cpu") -> Network:
    """Load a network by name, from a folder, or from the Hub.

    Args:
        spec: A name, as :func:`~mrcar_timm.checkpoints.resolve.resolve` takes it; or an
            network of regions whose ``pretrained_cfg`` names its labels, which stays as and where
            it is.
        device: Device of a network that is loaded.

    Raises:
        WeightsError: If there is no such network, or its weights are missing or damaged.
        HubError: If the Hub does not give it.
        DeviceError: If there is no such device.
    """
    device = as_device(device)
    if isinstance(spec, nn.Module):
        model = _checked(spec, type(spec).__name__)
        return Network(model, _labels(model, "pretrained_cfg"), type(spec).__name__, tensor_digest(model.state_dict()))
    source = resolve(spec)
    if source.registered:
        model, place = timm.create_model(source.name, pretrained=True), source.name
    else:
        folder = source.folder()
        place = str(folder / CONFIG_NAME)
        try:
            model = timm.create_model(f"{FOLDER}{folder}", pretrained=True)
        except MRCARError:
            raise
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            raise WeightsError(f"{place} describes no network that the weights fit: {error}") from error
    model = _checked(model, source.name)
    labels = _labels(model, place)
    if source.registered and source.name in PACKAGED:
        sha256 = PACKAGED[source.name].sha256
    elif source.registered:
        sha256 = tensor_digest(model.state_dict())
    else:
        sha256 = read_folder_weights(folder).digest
    # Channels-last weights are nearly twice as fast on the CPU.
    return Network(model.to(device, memory_format=torch.channels_last).eval(), labels, source.name, sha256)  # type: ignore[call-overload]


def _checked(model: Any, name: str) -> RegionNetwork:
    if not isinstance(model, RegionNetwork) or model.num_classes == 0:
        raise WeightsError(
            f"{name} gives no expressions: expected an MRCARMobileNet, MRCARResNet or multi_region with classes; "
            "mrcar_timm.models.from_classifier makes one from a classifier of faces"
        )
    return model


def _labels(model: RegionNetwork, place: str) -> tuple[str, ...]:
    labels = tuple((getattr(model, "pretrained_cfg", None) or {}).get("label_names") or ())
    if len(labels) != model.num_classes:
        raise WeightsError(
            f"{place} must have label_names, one for each class; it has {len(labels)} of {model.num_classes}"
        )
    return labels
