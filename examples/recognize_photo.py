"""Name the expressions in a photo, then do the same by hand: regions, network, probabilities."""

import sys
from pathlib import Path

import timm
import torch

import mrcar_timm

photo = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "collins.jpg"

for face in mrcar_timm.ExpressionRecognizer()(photo):
    print(f"{face.expression} {face.probability:.0%} at {[round(v) for v in face.box]}")

regions = mrcar_timm.MultiRegionTransform()(photo)
model = timm.create_model("mrcar_resnet", pretrained=True).eval()
with torch.no_grad():
    logits = model(regions[None])
print(tuple(regions.shape), model.pretrained_cfg["label_names"][logits.argmax()])
