"""Coordinate attention, the CAR and DS blocks and the ArcFace head as timm layers, and attention in other networks."""

import timm  # noqa: F401 - first, as it registers the networks, whose modules import those of this package

from .arcface import ArcFaceHead, arcface_logits
from .car_block import CARBlock, DSBlock
from .coord_attn import CoordAttn
from .insert import Insertion, attention_parameters, insert_at, insert_attention, insertions, remove_attention
from .loss import arcface_loss, soft_cross_entropy

__all__ = [
    "ArcFaceHead",
    "CARBlock",
    "CoordAttn",
    "DSBlock",
    "Insertion",
    "arcface_logits",
    "arcface_loss",
    "attention_parameters",
    "insert_at",
    "insert_attention",
    "insertions",
    "remove_attention",
    "soft_cross_entropy",
]
