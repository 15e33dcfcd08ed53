"""Everything that decides how a training runs, in one serialisable place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a picture; each is drawn evenly.

    Attributes:
        degrees: The face turns by up to this angle, either way.
        zoom: The face grows by up to this part, or shrinks.
        shift: The face moves by up to this part of the frame, in x and in y.
        brightness: Added to values of 0…1, either way.
        contrast: Factors of 1 ± this, about the picture's mean.
        erase: Probability that a region loses a random rectangle.
    """

    degrees: float = 12.0
    zoom: float = 0.12
    shift: float = 0.06
    brightness: float = 0.15
    contrast: float = 0.3
    erase: float = 0.3

    def times(self, factor: float) -> Augmentation:
        """The same with every range multiplied."""
        return Augmentation(**{name: value * factor for name, value in asdict(self).items()})


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the first cycle of the packaged weights.

    Attributes:
        model: Name of a registered network.
        model_args: Further arguments of the network, such as ``regions`` or ``attn_layer``.
        epochs: Passes over the training split.
        batch_size: Pictures a step.
        lr: Highest learning rate of the cycle.
        weight_decay: AdamW's.
        label_smoothing: Of the cross-entropy.
        balance: Power of a class's rarity that weighs its pictures in the loss: 0 counts every picture
            alike, 1 every class.
        margin: ArcFace margin in radians.
        scale: ArcFace scale.
        drop_rate: Dropout before the head.
        average: Decay of the moving average of the weights, a step.
        size: Side of the regions in pixels.
        seed: Of weights, order and augmentation.
        init: Run folder whose best weights are the start; random weights if None.
        augmentation: Random changes to the pictures.
    """

    model: str = "mrcar_resnet"
    model_args: dict[str, Any] = field(default_factory=dict)
    epochs: int = 14
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    balance: float = 0.0
    margin: float = 0.1
    scale: float = 16.0
    drop_rate: float = 0.2
    average: float = 0.998
    size: int = 44
    seed: int = 0
    init: str | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
