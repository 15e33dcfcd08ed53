"""The weights that come with the package: one record each, a JSON file beside its safetensors.

The record says which file, its digest, the licence, the label names, how the weights were made and
what they scored. Nothing in it is typed by hand: ``mrcar package`` writes it from a run and its
evaluations, and the tests compute what can be computed again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError

WEIGHTS_DIR = Path(__file__).parent.parent / "weights"

#: What every network of the package expects: values of 0…1, less the mean, over the standard deviation.
#: The channels are alike, so that a grey picture gives the same in one channel and in three.
INPUT_MEAN = (0.5, 0.5, 0.5)
INPUT_STD = (0.25, 0.25, 0.25)

#: Weights of red, green and blue in a grey value (ITU-R BT.601), as Pillow has them.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Checkpoint:
    """A record of weights.

    Attributes:
        name: Architecture and tag, as in ``timm.create_model(name)``.
        sha256: Digest of the tensors, see :func:`~mrcar_timm.models.weights_file.tensor_digest`.
        num_params: Number of parameters.
        license: Licence of the weights.
        labels: Names of the classes, in the order of the logits.
        temperature: Logits are divided by it before softmax; fitted on the validation split.
        data: What the weights were trained on.
        recipe: How they were trained.
        scores: Accuracy by split and protocol, fractions of 1.
        counts: Number of pictures behind each score.
        calibration: Expected calibration error and negative log-likelihood, without the temperature ("raw_…")
            and with it, by split and protocol.
        confusion: Pictures by truth (rows) and answer (columns), in the order of the labels, with ten crops; by split.
        notes: One sentence on what the weights may be used for.
    """

    name: str
    sha256: str
    num_params: int
    license: str
    labels: tuple[str, ...]
    temperature: float
    data: str
    notes: str
    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the weights lie when they are installed."""
        return WEIGHTS_DIR / f"{self.name}.safetensors"

    @property
    def terms(self) -> str:
        """The licence in a word or two, for tables."""
        return "non-commercial research" if self.license == "other" else self.license

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Checkpoint:
        values = json.loads(text)
        return cls(**{**values, "labels": tuple(values["labels"])})

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """From a file.

        Raises:
            WeightsError: If it is missing, or holds no record.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise WeightsError(f"{path} is missing") from error
        except (ValueError, TypeError, KeyError) as error:
            raise WeightsError(f"{path} is no record of weights: {error}") from error


def to_colour(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Spread first convolutions of one channel over three by the luma weights.

    The network then sees of a colour picture what it would of its grey version.
    """
    luma = torch.tensor(LUMA)[:, None, None]
    return {key: value * luma if is_first_conv(key) and value.shape[1] == 1 else value for key, value in state.items()}


def to_grey(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add up first convolutions of three channels: the network then takes grey pictures in one channel."""
    return {key: value.sum(1, keepdim=True) if is_first_conv(key) else value for key, value in state.items()}


def is_first_conv(key: str) -> bool:
    """Whether this tensor of a state dict meets the picture's channels."""
    return key.endswith("conv1.conv.weight")


CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint for checkpoint in (Checkpoint.read(path) for path in sorted(WEIGHTS_DIR.glob("*.json")))
}
