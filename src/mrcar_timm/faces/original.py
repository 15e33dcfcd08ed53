"""The cascade with facenet-pytorch's own pyramid, crops and mapping: slower, for comparison with its results."""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import nms

from .cascade import Cascade, Found
from .pnet import CELL, STRIDE
from .pyramid import Halves


class OriginalCascade(Cascade):
    """Gives what ``facenet_pytorch.MTCNN.detect`` gives, oddities and all.

    Boxes of cells are rounded down, boxes are cut off to whole pixels inside the image for cropping but not
    for mapping back, and pixels are counted from one.

    Args:
        pnet, rnet, onet: facenet-pytorch's networks, on ``device``.
        device: Where they run.
    """

    overlaps = (0.7, 0.7)
    leniency = (1.0, 1.0)
    most_cells = sys.maxsize
    pixel = 1

    def __init__(self, pnet: nn.Module, rnet: nn.Module, onet: nn.Module, device: torch.device) -> None:
        super().__init__(pnet, rnet, onet, device)
        self.plain_pnet = pnet

    def _promising(self, scores: torch.Tensor) -> int:
        return len(scores)

    def _cells(
        self, image: Halves, min_face_size: float, threshold: float, factor: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = image.levels[0].to(self.device).permute(2, 0, 1)[None].float()
        scale = CELL / min_face_size
        shorter = min(image.height, image.width) * scale
        found = [(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 4))]
        while shorter >= CELL:
            size = (int(image.height * scale + 1), int(image.width * scale + 1))
            offsets, scores = self.plain_pnet((F.interpolate(x, size=size, mode="area") - 127.5) / 128)
            scores, offsets = scores[0, 1].cpu(), offsets[0].permute(1, 2, 0).cpu()
            passed = scores >= threshold
            corners = passed.nonzero().flip(1) * STRIDE
            boxes = torch.cat([(corners + 1) / scale, (corners + CELL) / scale], 1).floor()
            keep = nms(boxes, scores[passed], 0.5)
            found.append((boxes[keep], scores[passed][keep], offsets[passed][keep]))
            scale, shorter = scale * factor, shorter * factor
        boxes, scores, offsets = (torch.cat(x) for x in zip(*found, strict=True))
        return boxes, scores, offsets

    def _rated(
        self, image: Halves, squares: torch.Tensor, again: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return super()._rated(image, squares, again=False)

    def _crops(self, images: list[Halves], squares: torch.Tensor, index: torch.Tensor, side: int) -> torch.Tensor:
        crops = torch.zeros(len(squares), side, side, 3)
        for crop, box, k in zip(crops, squares.trunc().int().tolist(), index.tolist(), strict=True):
            image = images[k]
            x1, y1 = max(box[0], 1) - 1, max(box[1], 1) - 1
            window = image.levels[0][y1 : min(box[3], image.height), x1 : min(box[2], image.width)]
            if window.numel():
                pixels = F.interpolate(window.permute(2, 0, 1)[None].float(), size=(side, side), mode="area")
                crop[:] = pixels[0].permute(1, 2, 0)
        return crops

    def _confirmed(self, images: list[Halves], found: Found, threshold: float) -> Found:
        return found
