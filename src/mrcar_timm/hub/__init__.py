"""Save networks, publish them on the Hugging Face Hub, download them ahead of use, and list what there is."""

from .cache import KnownWeights, download, known_weights
from .publish import Publication, publish
from .save import package, save
from .space import save_space

__all__ = ["KnownWeights", "Publication", "download", "known_weights", "package", "publish", "save", "save_space"]
