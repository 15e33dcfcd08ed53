"""Entry points for torch.hub, from a checkout or from GitHub, without installation."""

import sys as _sys
from pathlib import Path as _Path

import timm as _timm

_src = str(_Path(__file__).resolve().parent / "src")
_sys.path.insert(0, _src)

import mrcar_timm as _mrcar_timm  # noqa: E402 - found by the line above; registers the networks

_sys.path.remove(_src)

# What the network needs; the recognizer and the transform need facenet-pytorch, too.
dependencies = ["torch", "torchvision", "timm", "safetensors", "numpy", "PIL", "wrapt"]


def mrcar_mobilenet(pretrained=False, **kwargs):
    """MrCAR on MobileNet: logits of a face's expression from the face, its eyes and its mouth; for photos.

    Takes an aligned face (B, 3, 112, 112), or regions (B, 3, 3, 112, 112) as multi_region_transform(size=112) gives
    them: image, region, channel, height, width; values 0…1, minus 0.5, divided by 0.25. Gives logits (B, 8), whose
    softmax is calibrated. The names of the classes are in model.pretrained_cfg["label_names"].

    >>> model = torch.hub.load(checkout, "mrcar_mobilenet", source="local", pretrained=True).eval()
    >>> model(torch.zeros(1, 3, 3, 112, 112)).shape
    torch.Size([1, 8])

    Args:
        pretrained: Load the weights of the checkout, or those that ``tag`` names; they are checked.
        **kwargs: tag ("everyday", "fer2013", "ferplus"), and arguments of mrcar_timm.models.MRCARMobileNet.
    """
    tag = kwargs.pop("tag", None)
    return _timm.create_model(f"mrcar_mobilenet.{tag}" if tag else "mrcar_mobilenet", pretrained=pretrained, **kwargs)


def mrcar_resnet(pretrained=False, **kwargs):
    """MrCAR: logits of a face's expression from the face, its eyes and its mouth.

    Takes an aligned face (B, 3, 44, 44), or regions (B, 3, 3, 44, 44) as multi_region_transform gives them: image,
    region, channel, height, width; values 0…1, minus 0.5, divided by 0.25. Gives logits (B, 7), whose softmax is
    calibrated. The names of the classes are in model.pretrained_cfg["label_names"].

    >>> model = torch.hub.load(checkout, "mrcar_resnet", source="local", pretrained=True).eval()
    >>> model(torch.zeros(1, 3, 3, 44, 44)).shape
    torch.Size([1, 7])

    Args:
        pretrained: Load the weights of the checkout, or those that ``tag`` names; they are checked.
        **kwargs: tag ("fer2013", "ferplus", …), and arguments of mrcar_timm.models.MRCARResNet.
    """
    tag = kwargs.pop("tag", None)
    return _timm.create_model(f"mrcar_resnet.{tag}" if tag else "mrcar_resnet", pretrained=pretrained, **kwargs)


def expression_recognizer(model=None, **kwargs):
    """Photo in, faces with their expressions and calibrated probabilities out. Needs facenet-pytorch.

    >>> recognizer = torch.hub.load(checkout, "expression_recognizer", source="local")
    >>> [face.expression for face in recognizer("photo.jpg")]
    ['happiness']

    Args:
        model: Name of weights, "hf-hub:ORG/NAME", or a module; the weights of the checkout if None.
        **kwargs: Arguments of mrcar_timm.ExpressionRecognizer.
    """
    return _mrcar_timm.ExpressionRecognizer(model, **kwargs)


def multi_region_transform(**kwargs):
    """Image in, its largest face's regions out, aligned: a tensor (3, 3, 44, 44). Needs facenet-pytorch.

    Region (face, eyes, mouth), channel, height, width; values 0…1, minus 0.5, divided by 0.25, as mrcar_resnet takes
    them.

    >>> transform = torch.hub.load(checkout, "multi_region_transform", source="local")
    >>> transform("photo.jpg").shape
    torch.Size([3, 3, 44, 44])

    Args:
        **kwargs: Arguments of mrcar_timm.MultiRegionTransform.
    """
    return _mrcar_timm.MultiRegionTransform(**kwargs)
