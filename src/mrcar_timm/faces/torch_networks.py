"""MTCNN's networks in PyTorch, with the weights of facenet-pytorch. The one file that knows that package."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import nms

from ..devices import as_device
from ..forked import inference
from ..precision import fast_precision
from .pnet import StripPNet

# Sizes of batches: few, so that nothing is cached again for every count.
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class TorchNetworks:
    """P-, R- and O-Net; :class:`~mrcar_timm.faces.networks.Networks`. They are loaded when first used.

    Args:
        device: Device of the networks.
    """

    rows = 16

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = as_device(device)

    def __getstate__(self) -> dict[str, Any]:
        return {"device": self.device}  # light when pickled

    def to(self, device: torch.device | str) -> TorchNetworks:
        return TorchNetworks(device)

    @cached_property
    def modules(self) -> Any:
        """facenet-pytorch's networks ``pnet``, ``rnet`` and ``onet``."""
        from facenet_pytorch import MTCNN

        return MTCNN(device=self.device).to(memory_format=torch.channels_last).requires_grad_(False)

    @cached_property
    def _strip_pnet(self) -> StripPNet:
        strips = (64, 32, self.rows) if self.device.type == "cpu" else (1024, 256, self.rows)
        # Only processors gain from it: a GPU has more of a thin layer's work in its launch.
        precision = fast_precision(self.device) if self.device.type == "cpu" else torch.float32
        return StripPNet(self.modules.pnet, strips, precision)

    @inference
    def propose(self, pixels: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cells, scores, offsets = self._strip_pnet(torch.from_numpy(pixels).to(self.device), threshold)
        return cells.cpu().numpy(), scores.cpu().numpy(), offsets.cpu().numpy()

    @inference
    def pnet(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets, scores = self.modules.pnet(self._input(pixels[None]))
        return scores[0, 1].cpu().numpy(), offsets[0].permute(1, 2, 0).cpu().numpy()

    def rnet(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets, scores = self._run(self.modules.rnet, crops)
        return offsets, scores[:, 1]

    def onet(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        offsets, points, scores = self._run(self.modules.onet, crops)
        return offsets, points, scores[:, 1]

    @inference
    def nms(self, boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
        return nms(torch.from_numpy(boxes), torch.from_numpy(scores), overlap).numpy()

    @inference
    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        # For uint8 this is several times as fast as Pillow, with the same result but for a grey value here and there.
        # A copy where the array is read-only, of which PyTorch would warn.
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
        resized = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()

    def _input(self, pixels: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(pixels).to(self.device).float().permute(0, 3, 1, 2) - 127.5) / 128

    @inference
    def _run(self, net: nn.Module, crops: np.ndarray) -> list[np.ndarray]:
        """What a network gives for crops (N, side, side, 3), a row each."""
        results = []
        for start in range(0, max(1, len(crops)), _BATCHES[-1]):
            part = crops[start : start + _BATCHES[-1]]
            size = next(b for b in _BATCHES if b >= max(1, len(part)))
            batch = np.zeros((size, *part.shape[1:]), part.dtype)
            batch[: len(part)] = part
            results.append([y[: len(part)].cpu().numpy() for y in net(self._input(batch))])
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]
