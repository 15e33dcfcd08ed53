"""Entry points for torch.hub, from a checkout without installation."""

import sys as _sys
from pathlib import Path as _Path

_sys.path.insert(0, str(_Path(__file__).resolve().parent / "src"))

dependencies = ["torch", "timm", "safetensors"]

import mrcar_timm as _mrcar_timm  # noqa: E402, F401 - registers the networks


def mrcar_resnet(pretrained=False, **kwargs):
    """MrCAR, face, eyes and mouth: (B, 3, 44, 44) or (B, 3, 3, 44, 44) to (B, 7).

    >>> model = torch.hub.load(checkout, "mrcar_resnet", source="local", pretrained=True)

    Args:
        pretrained: Load the weights of the checkout.
        **kwargs: Arguments of mrcar_timm.models.MRCARResNet.
    """
    import timm

    return timm.create_model("mrcar_resnet", pretrained=pretrained, **kwargs)
