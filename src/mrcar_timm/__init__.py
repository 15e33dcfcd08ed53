"""MrCAR for timm: facial expression recognition and the parts it is made of.

Importing this package registers its networks with timm:

    >>> import timm, mrcar_timm
    >>> model = timm.create_model("mrcar_resnet", pretrained=True)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import layers, models
from .errors import (
    DamagedWeightsError,
    DataError,
    HubError,
    ImageError,
    MRCARError,
    NoFaceError,
    RecipeError,
    UnverifiedWeightsWarning,
    VideoError,
    WeightsError,
)
from .version import __version__

if TYPE_CHECKING:
    from . import hub
    from .recognizer import ExpressionRecognizer, Face, Faces
    from .regions.detector import Detections, FaceDetector
    from .regions.mtcnn import MTCNNDetector
    from .regions.transform import MultiRegionTransform
    from .tracking import FaceTracker, TrackedFace

# Loaded when first asked for, so that importing the package costs little more than importing timm.
_LAZY = {
    "Detections": ".regions.detector",
    "ExpressionRecognizer": ".recognizer",
    "Face": ".recognizer",
    "FaceDetector": ".regions.detector",
    "FaceTracker": ".tracking",
    "Faces": ".recognizer",
    "MTCNNDetector": ".regions.mtcnn",
    "MultiRegionTransform": ".regions.transform",
    "TrackedFace": ".tracking",
}

__all__ = [
    "DamagedWeightsError",
    "DataError",
    "Detections",
    "ExpressionRecognizer",
    "Face",
    "FaceDetector",
    "FaceTracker",
    "Faces",
    "HubError",
    "ImageError",
    "MRCARError",
    "MTCNNDetector",
    "MultiRegionTransform",
    "NoFaceError",
    "RecipeError",
    "TrackedFace",
    "UnverifiedWeightsWarning",
    "VideoError",
    "WeightsError",
    "__version__",
    "hub",
    "layers",
    "models",
]


def __getattr__(name: str) -> Any:
    if name == "hub":
        return import_module(".hub", __name__)
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
