"""Weights on the Hugging Face Hub: written, published, downloaded ahead, found again."""

from .cache import KnownWeights, download, known_weights
from .publish import Publication, publish
from .save import save

__all__ = ["KnownWeights", "Publication", "download", "known_weights", "publish", "save"]
