"""Scores of predictions: accuracy, F1, calibration, and the temperature that calibrates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Calibration:
    """How sure a network is and how often it is right, by its confidence: the probability of the likeliest class.

    Source: `On Calibration of Modern Neural Networks` - https://arxiv.org/abs/1706.04599

    Attributes:
        edges: (bins + 1,), of equal bins of 0…1; a bin holds its upper edge.
        count: (bins,), images whose confidence lies in the bin.
        confidence: (bins,), their mean confidence; 0 for an empty bin.
        accuracy: (bins,), the share of them that is right; 0 for an empty bin.
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
    """Scores of a network.

    Attributes:
        accuracy: Share of images that are right, 0…1.
        macro_f1: Mean of the classes' F1.
        recall: Recall of each class that occurs.
        confusion: (K, K), counts, rows the truth.
        classes: Names.
        count: Number of images.
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


def score(logits: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]) -> Scores:
    """Scores of logits (V, N, K): probabilities are averaged over the V views, then argmax."""
    probabilities = logits.double().softmax(-1).mean(0)  # (N, K)
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
