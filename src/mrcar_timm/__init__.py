"""MrCAR for timm: facial expression recognition and the parts it is made of.

Importing this package registers its networks with timm:

    >>> import timm, mrcar_timm
    >>> model = timm.create_model("mrcar_resnet", pretrained=True)
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

from .errors import (
    DamagedWeightsError,
    DataError,
    DeviceError,
    ExportError,
    HubError,
    ImageError,
    MRCARError,
    NoFaceError,
    OutputError,
    RecipeError,
    UnverifiedWeightsWarning,
    VideoError,
    WeightsError,
)
from .version import __version__

if TYPE_CHECKING:
    from . import hub, layers, models
    from .faces.detector import Detections, FaceDetector
    from .faces.mtcnn import MTCNNDetector
    from .layers import attention_parameters, insert_attention, remove_attention
    from .network import Network, load_network
    from .recognizer import Explanation, ExpressionRecognizer, Face, Faces
    from .tracking import FaceTracker, TrackedFace
    from .training.evaluate import Evaluation, evaluate
    from .transform import MultiRegionTransform

# Imported when first used, so that the command line answers at once and nobody waits for what they do not use.
_LAZY = {
    "Detections": ".faces.detector",
    "Evaluation": ".training.evaluate",
    "Explanation": ".recognizer",
    "ExpressionRecognizer": ".recognizer",
    "Face": ".recognizer",
    "FaceDetector": ".faces.detector",
    "FaceTracker": ".tracking",
    "Faces": ".recognizer",
    "MTCNNDetector": ".faces.mtcnn",
    "MultiRegionTransform": ".transform",
    "Network": ".network",
    "TrackedFace": ".tracking",
    "attention_parameters": ".layers",
    "evaluate": ".training.evaluate",
    "insert_attention": ".layers",
    "load_network": ".network",
    "remove_attention": ".layers",
}
_LAZY_MODULES = ("hub", "layers", "models")

__all__ = [
    "DamagedWeightsError",
    "DataError",
    "Detections",
    "DeviceError",
    "Evaluation",
    "Explanation",
    "ExportError",
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
    "Network",
    "NoFaceError",
    "OutputError",
    "RecipeError",
    "TrackedFace",
    "UnverifiedWeightsWarning",
    "VideoError",
    "WeightsError",
    "__version__",
    "attention_parameters",
    "evaluate",
    "hub",
    "insert_attention",
    "layers",
    "load_network",
    "models",
    "remove_attention",
]


@when_imported("timm")
def _register(timm: ModuleType) -> None:
    """Register the networks: now if timm is imported already, else as soon as it is."""
    import_module(".models", __name__)


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return import_module(f".{name}", __name__)
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
