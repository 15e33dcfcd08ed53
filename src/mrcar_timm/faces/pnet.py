"""MTCNN's P-Net over an image of any size, several times faster than layer by layer.

The layers are those of Zhang et al., *Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks* (2016); what differs is the order of the arithmetic:

- normalization is folded into the first convolution, which reads pixels 0…255;
- PReLU and max pooling change places, so that PReLU sees a quarter of the values. Where a slope a is
  negative PReLU is not monotonic; there max(prelu(x)) = max(max(x), max(a · x)), and the first
  convolution gives a · x as a channel of its own;
- memory is channels last, and an image goes through in strips that stay in the processor's cache and
  whose shape does not follow the image's, so that nothing is cached again for every image;
- boxes are regressed for the cells that pass alone;
- where the processor multiplies in bfloat16, the second and third convolution do so; a proposal's score moves
  by about a hundredth.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from .networks import CELL, STRIDE


class StripPNet:
    """The P-Net's scores and boxes for the cells that pass a threshold.

    Args:
        net: facenet-pytorch's P-Net.
        strips: Numbers of rows of cells that go through at once, the largest first.
        precision: Type in which the second and third convolution multiply.
    """

    def __init__(self, net: Any, strips: tuple[int, ...], precision: torch.dtype = torch.float32) -> None:
        self.strips = strips
        self.precision = precision
        slope = net.prelu1.weight
        negative, others = (slope < 0).nonzero()[:, 0], (slope >= 0).nonzero()[:, 0]
        self.negative = len(negative)
        self.channels = len(slope)
        order = torch.cat([negative, others])
        weight = net.conv1.weight / 128
        bias = net.conv1.bias - 127.5 * weight.sum((1, 2, 3))
        self.weight1 = _packed(torch.cat([weight[order], slope[negative, None, None, None] * weight[negative]]))
        self.bias1 = torch.cat([bias[order], slope[negative] * bias[negative]])
        self.slope1 = slope[others]
        self.weight2, self.bias2 = _packed(net.conv2.weight[:, order].to(precision)), net.conv2.bias.to(precision)
        self.slope2 = net.prelu2.weight
        self.weight3, self.bias3 = _packed(net.conv3.weight.to(precision)), net.conv3.bias.to(precision)
        self.slope3 = net.prelu3.weight
        # A softmax over two classes depends only on the difference of the logits.
        self.weight_score = (net.conv4_1.weight[1] - net.conv4_1.weight[0]).flatten()
        self.bias_score = float(net.conv4_1.bias[1] - net.conv4_1.bias[0])
        self.weight_box, self.bias_box = net.conv4_2.weight.flatten(1).T, net.conv4_2.bias

    def __call__(self, pixels: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Look at one image.

        Args:
            pixels: (H, W, 3), values 0…255, of any type, W even, H 10 more than a multiple of twice the
                smallest strip.
            threshold: Least score of a cell, 0…1.

        Returns:
            Cells (N, 2), row and column; scores (N,), 0…1; offsets (N, 4) of the box's edges x1 y1 x2 y2 from
            the cell's, in parts of its side.
        """
        logit = math.log(threshold / (1 - threshold)) - self.bias_score
        cells, scores, offsets = [], [], []
        rows, row = (len(pixels) - CELL) // STRIDE + 1, 0
        while row < rows:
            strip = next(s for s in self.strips if s <= rows - row)
            top = STRIDE * row
            x = self._features(pixels[top : top + STRIDE * strip + CELL - STRIDE])  # (h, w, 32)
            score = x @ self.weight_score
            found = (score >= logit).nonzero()
            x = x[found[:, 0], found[:, 1]]
            cells.append(found + found.new_tensor([row, 0]))
            scores.append((score[found[:, 0], found[:, 1]] + self.bias_score).sigmoid())
            offsets.append(torch.addmm(self.bias_box, x, self.weight_box))
            row += strip
        return torch.cat(cells), torch.cat(scores), torch.cat(offsets)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(pixels[None].permute(0, 3, 1, 2).float(), self.weight1, self.bias1)
        x = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
        x = torch.maximum(x[..., 0::2], x[..., 1::2])  # (1, 10 + negative, h, w), pooled
        y = x.new_empty(1, *x.shape[2:], self.channels).permute(0, 3, 1, 2)
        torch.maximum(x[:, : self.negative], x[:, self.channels :], out=y[:, : self.negative])
        y[:, self.negative :] = F.prelu(x[:, self.negative : self.channels], self.slope1)
        x = F.prelu(F.conv2d(y.to(self.precision), self.weight2, self.bias2).float(), self.slope2)
        x = F.prelu(F.conv2d(x.to(self.precision), self.weight3, self.bias3).float(), self.slope3)
        return x[0].permute(1, 2, 0)


def _packed(weight: torch.Tensor) -> torch.Tensor:
    return weight.contiguous(memory_format=torch.channels_last)
