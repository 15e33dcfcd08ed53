"""Networks, registered with timm, and their fast copies for inference."""

import timm  # noqa: F401 - first, as it imports this package

from .attended import attended
from .mrcar_resnet import MRCARResNet, mrcar_resnet

__all__ = ["MRCARResNet", "attended", "mrcar_resnet"]
