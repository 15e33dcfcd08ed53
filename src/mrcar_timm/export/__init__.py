"""Export networks for ONNX Runtime."""

from .folder import export

__all__ = ["export"]
