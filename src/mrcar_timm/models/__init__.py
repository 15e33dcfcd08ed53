"""Networks, registered with timm, and their fast copies for inference."""

import timm  # noqa: F401 - first, as it imports this package

from .attended import attended
from .mrcar_mobilenet import MRCARMobileNet, mrcar_mobilenet
from .mrcar_resnet import MRCARResNet, mrcar_resnet
from .multi_region import MultiRegionNet, from_classifier, multi_region
from .region_network import RegionNetwork

__all__ = [
    "MRCARMobileNet",
    "MRCARResNet",
    "MultiRegionNet",
    "RegionNetwork",
    "attended",
    "from_classifier",
    "mrcar_mobilenet",
    "mrcar_resnet",
    "multi_region",
]
