"""Scores of a network on a data set: protocols, metrics, and the temperature."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..precision import autocast
from ..regions.geometry import frame_transform
from .batches import RegionBatches

_CORNER = 2 / 48  # from the centre crop of 44 in 48 pixels to a corner crop
_SHIFTS = {
    "one": ((0.0, 0.0),),
    "mirror": ((0.0, 0.0),),
    "ten": (
        (0.0, 0.0),
        (-_CORNER, -_CORNER),
        (_CORNER, -_CORNER),
        (-_CORNER, _CORNER),
        (_CORNER, _CORNER),
    ),
}
#: "one": the centre crop; "mirror": it and its mirror image; "ten": the paper's ten crops (four corners
#: and the centre, each mirrored). Probabilities are averaged.
PROTOCOLS = tuple(_SHIFTS)
#: Which of the ten views each protocol looks at: looked at once, they give all.
VIEWS_OF_TEN = {"one": [0], "mirror": [0, 5], "ten": list(range(10))}


def protocol_changes(protocol: str) -> torch.Tensor:
    """The changes of the canonical frame (V, 3, 3) that a protocol averages over."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {PROTOCOLS}, got {protocol!r}")
    mirrors = (False,) if protocol == "one" else (False, True)
    return torch.cat([frame_transform(shift=shift, mirror=mirror) for mirror in mirrors for shift in _SHIFTS[protocol]])


@torch.inference_mode()
def predict_logits(
    model: Any,
    batches: RegionBatches,
    protocol: str = "one",
    batch_size: int = 256,
    track: Callable[[Iterable[torch.Tensor]], Iterable[torch.Tensor]] = iter,
) -> torch.Tensor:
    """Logits (V, N, K), float32, of every view of every picture.

    A network with three input channels gets the grey picture three times.
    """
    training = model.training
    model.eval()
    chans = model.in_chans
    changes = protocol_changes(protocol)
    outputs = []
    with autocast(batches.device):
        for rows in track(torch.arange(len(batches)).split(batch_size)):
            views = [model(batches.view(rows, change).expand(-1, -1, chans, -1, -1)) for change in changes]
            outputs.append(torch.stack(views).float().cpu())
    model.train(training)
    return torch.cat(outputs, dim=1)


@dataclass(frozen=True)
class Calibration:
    """How sure a network is and how often it is right, by its confidence: the part of the likeliest class.

    Source: `On Calibration of Modern Neural Networks` - https://arxiv.org/abs/1706.04599

    Attributes:
        edges: (bins + 1,), of equal bins of 0…1; a bin holds its upper edge.
        count: (bins,), pictures whose confidence lies in the bin.
        confidence: (bins,), their mean confidence; 0 for an empty bin.
        accuracy: (bins,), the part of them that is right; 0 for an empty bin.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean gap between confidence and accuracy, by the bins' counts."""
        return float((self.count * np.abs(self.confidence - self.accuracy)).sum() / max(1, self.count.sum()))


def calibration(probabilities: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> Calibration:
    """Confidence against accuracy of probabilities (N, K)."""
    confidence, predicted = (v.cpu().numpy() for v in probabilities.double().max(1))
    right = predicted == labels.cpu().numpy()
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    sums = (np.bincount(index, weights=values, minlength=bins) for values in (confidence, right))
    return Calibration(edges, count, *(total / np.maximum(count, 1) for total in sums))


@dataclass(frozen=True)
class Scores:
    """What a network scored.

    Attributes:
        accuracy: Part of the pictures that is right, 0…1.
        macro_f1: Mean of the classes' F1.
        recall: Recall of each class that occurs.
        confusion: (K, K), counts, rows the truth.
        classes: Names.
        count: Number of pictures.
        nll: Mean negative log-likelihood of the averaged probabilities.
        calibration: How sure the network is, and how often right.
    """

    accuracy: float
    macro_f1: float
    recall: dict[str, float]
    confusion: np.ndarray
    classes: tuple[str, ...]
    count: int
    nll: float
    calibration: Calibration

    def to_dict(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "nll": self.nll,
            "ece": self.calibration.ece,
            "count": self.count,
            "recall": self.recall,
        }


def score(logits: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...], temperature: float = 1.0) -> Scores:
    """Scores of logits (V, N, K): probabilities are averaged over the V views, then argmax."""
    probabilities = (logits.double() / temperature).softmax(-1).mean(0)  # (N, K)
    labels = labels.cpu()
    predicted = probabilities.argmax(1)
    k = len(classes)
    confusion = torch.bincount(labels * k + predicted, minlength=k * k).reshape(k, k).numpy()
    right, occurring = confusion.diagonal(), confusion.sum(1)
    nll = -probabilities[torch.arange(len(labels)), labels].clamp_min(1e-12).log().mean()
    return Scores(
        accuracy=float(right.sum() / max(1, confusion.sum())),
        macro_f1=float(macro_f1(confusion)),
        recall={name: float(hit / total) for name, hit, total in zip(classes, right, occurring, strict=True) if total},
        confusion=confusion,
        classes=classes,
        count=len(labels),
        nll=float(nll),
        calibration=calibration(probabilities, labels),
    )


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes, of confusion matrices (..., K, K) with the truth in rows.

    A class that neither occurs nor is guessed has no F1; it does not count.
    """
    occurring_and_guessed = confusion.sum(-1) + confusion.sum(-2)
    f1 = 2 * np.diagonal(confusion, axis1=-2, axis2=-1) / np.maximum(occurring_and_guessed, 1)
    return f1.sum(-1) / (occurring_and_guessed > 0).sum(-1)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature T at which softmax(logits / T) is likeliest, for logits (N, K).

    Source: `On Calibration of Modern Neural Networks` - https://arxiv.org/abs/1706.04599
    """
    logits, labels = logits.double().clone(), labels.cpu().clone()  # out of inference mode
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_t.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_t.detach().exp())
