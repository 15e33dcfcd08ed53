"""MTCNN's networks in ONNX Runtime, from a folder that ``mrcar export`` wrote. Nothing here needs PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..exported import DETECTOR_NAMES, ExportedNetwork
from .networks import CELL, STRIDE
from .pyramid import pillow_resize

# Rows of cells that go through the P-Net at once, and crops that go through the others: what stays in the cache.
_STRIP, _BATCH = 64, 16


class OnnxNetworks:
    """P-, R- and O-Net; :class:`~mrcar_timm.faces.networks.Networks`.

    Args:
        exported: The folder that they are in.
    """

    rows = 16

    def __init__(self, exported: ExportedNetwork) -> None:
        self._pnet, self._rnet, self._onet, self._nms = (exported.session(file) for file in DETECTOR_NAMES.values())

    def to(self, device: Any) -> OnnxNetworks:
        if str(device) != "cpu":
            raise ValueError(f"ONNX Runtime runs on the CPU here, not on {device}")
        return self

    def propose(self, pixels: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cells, scores, offsets = [], [], []
        rows = (len(pixels) - CELL) // STRIDE + 1
        for row in range(0, rows, _STRIP):
            strip = pixels[STRIDE * row : STRIDE * (min(row + _STRIP, rows) - 1) + CELL]
            score, offset = self.pnet(strip)
            found = np.argwhere(score >= threshold)
            at = tuple(found.T)
            cells.append(found + np.array([row, 0]))
            scores.append(score[at])
            offsets.append(offset[at])
        return np.concatenate(cells), np.concatenate(scores), np.concatenate(offsets)

    def pnet(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, offsets = self._pnet(pixels=pixels.astype(np.float32))
        return scores, offsets

    def rnet(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets, scores = self._run(self._rnet, crops)
        return offsets, scores

    def onet(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        offsets, points, scores = self._run(self._onet, crops)
        return offsets, points, scores

    def nms(self, boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
        if not len(boxes):
            return np.zeros(0, int)
        most, overlaps = np.array([len(boxes)]), np.array([overlap], np.float32)
        (kept,) = self._nms(boxes=boxes[None], scores=scores[None, None], most=most, overlap=overlaps)
        return kept[:, 2]

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        return pillow_resize(image, height, width)

    def _run(self, net: Any, crops: np.ndarray) -> list[np.ndarray]:
        """What a network gives for crops (N, side, side, 3), a row each."""
        if not len(crops):  # an empty batch is nothing that all exporters think of
            return [values[:0] for values in net(crops=np.zeros((1, *crops.shape[1:]), np.float32))]
        starts = range(0, len(crops), _BATCH)
        results = [net(crops=crops[start : start + _BATCH].astype(np.float32)) for start in starts]
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]
