"""What runs a network: PyTorch, or ONNX Runtime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from .errors import ExportError
from .exported import Session, is_export, read_export

if TYPE_CHECKING:
    import torch
    from torch import nn

BackendName = Literal["torch", "onnx", "auto"]
_NAMES = ("torch", "onnx", "auto")
_FOLDER = "local-dir:"  # as timm has it


class Classifier(Protocol):
    """What must be known of a network to use it: a :class:`~mrcar_timm.Network`, or an exported one."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def sha256(self) -> str: ...

    @property
    def regions(self) -> tuple[str, ...]: ...

    @property
    def in_chans(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


class Backend(Protocol):
    """Logits (N, K) of normalized regions (N, R, C, h, w), both float32; with them embeddings (N, D), float32."""

    name: str

    @property
    def embedding_size(self) -> int: ...

    def __call__(self, regions: np.ndarray) -> np.ndarray: ...

    def with_embeddings(self, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def to(self, device: Any) -> Any: ...


def no_embeddings() -> ExportError:
    """What to say where embeddings are asked of a network that ONNX Runtime runs."""
    return ExportError('a network in ONNX Runtime gives no embeddings; one in PyTorch (backend="torch") does')


class OnnxBackend:
    """A network that ONNX Runtime runs on the CPU."""

    name = "onnx"

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, regions: np.ndarray) -> np.ndarray:
        (logits,) = self.session(regions=regions)
        return logits

    def with_embeddings(self, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise no_embeddings()

    @property
    def embedding_size(self) -> int:
        raise no_embeddings()

    def to(self, device: torch.device | str) -> OnnxBackend:
        if str(device) != "cpu":
            raise ValueError(f'ONNX Runtime runs on the CPU here; backend="torch" runs on {device}')
        return self


def load_backend(
    model: str | Path | nn.Module | None, backend: BackendName | None = None, device: torch.device | str = "cpu"
) -> tuple[Classifier, Backend]:
    """A network, and what runs it.

    Args:
        model: See :func:`~mrcar_timm.load_network`; or a folder written by ``mrcar export``.
        backend: "torch", "onnx", or "auto" for ONNX Runtime where it is installed and can run the network on the CPU;
            None is ONNX Runtime for an exported folder, else PyTorch.
        device: Device of the network.

    Raises:
        ValueError: If there is no such backend, or it cannot run on the device.
        MRCARError: If it is not installed.
        ExportError: If the network cannot be exported.
        WeightsError: If there is no such network, or its weights are missing or damaged.
    """
    if backend not in (*_NAMES, None):
        raise ValueError(f"backend must be one of {_NAMES}, got {backend!r}")
    folder = _exported_folder(model)
    if folder is not None:
        if backend == "torch":
            raise ValueError(f"{folder} was exported for ONNX Runtime; PyTorch runs the network that it was made from")
        network = read_export(folder)
        return network, OnnxBackend(network.session()).to(device)
    if backend == "onnx" and str(device) != "cpu":
        raise ValueError(f'ONNX Runtime runs on the CPU here; backend="torch" runs on {device}')
    from .network import load_network

    loaded = load_network(model, device)
    if backend == "onnx" or (backend == "auto" and str(device) == "cpu" and _can_export()):
        from .graphs.cache import cached_session

        try:
            return loaded, OnnxBackend(cached_session(loaded))
        except ExportError:
            if backend == "onnx":
                raise
    from .models.inference import TorchBackend

    return loaded, TorchBackend(loaded.model, device)


def _exported_folder(model: Any) -> Path | None:
    """The folder that a model is, if ``mrcar export`` wrote it. A registered name means the registered network."""
    if isinstance(model, str):
        path = Path(model.removeprefix(_FOLDER))
        if not is_export(path):
            return None
        if path.name == model:
            import timm

            if timm.is_model(model.split(".")[0]):
                return None
        return path
    return model if isinstance(model, Path) and is_export(model) else None


def _can_export() -> bool:
    return all(find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript"))
