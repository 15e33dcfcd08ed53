"""Trained networks as teachers of another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..errors import WeightsError
from ..models.inference import optimize_for_inference
from ..network import load_network


class Teachers:
    """Mean calibrated probabilities of networks, as targets of a student.

    The student sees the same augmented regions. Sources: `Distilling the Knowledge in a Neural Network` -
    https://arxiv.org/abs/1503.02531; `Knowledge Distillation: A Good Teacher is Patient and Consistent` -
    https://arxiv.org/abs/2106.05237

    Args:
        names: Networks, as :func:`~mrcar_timm.network.load_network` takes them.
        classes: The student's classes, in its order.
        device: Device of the student.

    Raises:
        WeightsError: If a teacher knows other classes, or cannot be loaded.
    """

    def __init__(self, names: Iterable[str], classes: tuple[str, ...], device: torch.device | str) -> None:
        self._networks: list[tuple[Any, torch.Tensor]] = []
        for name in names:
            network = load_network(name, device)
            if set(network.labels) != set(classes):
                known, needed = ", ".join(network.labels), ", ".join(classes)
                raise WeightsError(f"the teacher {name} knows {known}; needed: {needed}")
            # On the device already: recorded steps copy nothing from the host.
            order = torch.tensor([network.labels.index(label) for label in classes], device=device)
            self._networks.append((optimize_for_inference(network.model), order))

    @torch.no_grad()
    def __call__(self, regions: torch.Tensor) -> torch.Tensor:
        """Regions (B, R, C, h, w) to probabilities (B, K), float32."""
        probabilities = []
        for model, order in self._networks:
            logits = model(regions.expand(-1, -1, model.in_chans, -1, -1)).float()
            probabilities.append(logits.softmax(1).index_select(1, order))
        return torch.stack(probabilities).mean(0)
