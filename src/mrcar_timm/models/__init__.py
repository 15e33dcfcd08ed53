"""Networks, registered with timm, and the records of their weights."""

from .mrcar_resnet import MRCARResNet, mrcar_resnet

__all__ = ["MRCARResNet", "mrcar_resnet"]
