"""Photo to expressions by ONNX Runtime alone: no PyTorch in the process.

    >>> recognizer = mrcar_timm.runtime.load("out")  # doctest: +SKIP
    >>> recognizer("photo.jpg")[0].expression        # doctest: +SKIP
    'happiness'

onnxruntime, numpy, Pillow and wrapt are all that must be installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .exported import ExportedNetwork, read_export
from .faces.mtcnn import MTCNNDetector
from .faces.onnx_networks import OnnxNetworks
from .recognizer import ExpressionRecognizer

__all__ = ["ExportedNetwork", "load", "load_detector", "read_export"]


def load(folder: str | Path, *, any_angle: bool = False, **settings: Any) -> ExpressionRecognizer:
    """A recognizer whose network and detector ONNX Runtime runs.

    Args:
        folder: Written by ``mrcar export``.
        any_angle: Also find faces that lie on their side or are upside down; takes four times as long.
        **settings: ``missing``, ``faces``, ``min_size``, ``min_score``, ``without`` and ``batch_size``, as
            :class:`~mrcar_timm.ExpressionRecognizer` takes them.

    Raises:
        WeightsError: If there is no such folder, or it is of another version.
        DamagedWeightsError: If a file in it is not what was written.
        MRCARError: If ONNX Runtime is not installed.
    """
    detector = load_detector(folder, any_angle=any_angle)
    return ExpressionRecognizer(Path(folder), detector, backend="onnx", **settings)


def load_detector(folder: str | Path, **settings: Any) -> MTCNNDetector:
    """The detector of an exported folder.

    Args:
        folder: Written by ``mrcar export``.
        **settings: As :class:`~mrcar_timm.MTCNNDetector` takes them.
    """
    return MTCNNDetector(networks=OnnxNetworks(read_export(Path(folder))), **settings)
