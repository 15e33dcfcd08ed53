"""A small network of your own: blocks with coordinate attention under an ArcFace head."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mrcar_timm.layers import ArcFaceHead, CARBlock, DSBlock

features = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1),
    CARBlock(32, 64),
    DSBlock(64, 64),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
)
head = ArcFaceHead(64, 7, margin=0.1, scale=16)

faces, labels = torch.rand(8, 3, 44, 44), torch.randint(0, 7, (8,))
loss = cross_entropy(head(features(faces), labels), labels)  # the margin acts where labels are given
loss.backward()
print(tuple(head(features(faces)).shape), bool(torch.isfinite(loss)))
