"""Folders that ``mrcar export`` writes, and ONNX Runtime sessions of their files. Nothing here needs PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DamagedWeightsError, ExportError, MRCARError, WeightsError
from .processes import cores

RECORD_NAME = "export.json"
#: The network for regions (B, R, C, h, w) and for aligned faces (B, C, H, W); and what finds faces.
NETWORK_NAME, FACE_NETWORK_NAME = "network.onnx", "network_face.onnx"
DETECTOR_NAMES = {name: f"{name}.onnx" for name in ("pnet", "rnet", "onet", "nms")}
FORMAT = 1
_REMEDY = "Export the network again."


class Session:
    """A graph that ONNX Runtime runs on the CPU. It is opened when first used, once in each process.

    Args:
        file: Its file.
        expected: SHA-256 that the file must have, in hex; not checked if None.
        content: Content of the file, instead of both.

    Raises:
        MRCARError: If ONNX Runtime is not installed.

    Shape:
        Called with arrays by the names of the inputs, it gives a list of the outputs.
    """

    def __init__(self, file: Path | None = None, expected: str | None = None, content: bytes | None = None) -> None:
        require_onnxruntime()
        self.file, self.expected, self.content = file, expected, content
        self._opened: dict[int, Any] = {}  # by process: threads do not survive a fork

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, inputs)

    @property
    def session(self) -> Any:
        """ONNX Runtime's own session.

        Raises:
            WeightsError: If there is no such file.
            DamagedWeightsError: If it is not what was written.
        """
        process = os.getpid()
        if process not in self._opened:
            self._opened[process] = self._open()
        return self._opened[process]

    def _open(self) -> Any:
        onnxruntime = require_onnxruntime()
        graph: bytes | str | None = self.content
        if self.file is not None:
            read_checked(self.file, self.expected)
            graph = str(self.file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.log_severity_level = 3
        # Threads that wait in a loop for the next call would take the cores from what is done in between.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of ONNX Runtime's own, which have no base
            raise ExportError(f"{self.file or 'the network'} cannot be run by ONNX Runtime: {error}") from error


def require_onnxruntime() -> Any:
    """The module ``onnxruntime``.

    Raises:
        MRCARError: If it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its newer builds report their use to their maker
    try:
        import onnxruntime
    except ImportError as error:
        raise MRCARError(f'ONNX Runtime is not installed ({error}): pip install "mrcar-timm[onnx]"') from error
    return onnxruntime


def _threads() -> int:
    """As many threads as PyTorch has, where it is loaded; else as OpenMP is told; else one for each core."""
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told):
        return int(told)
    return cores()


def read_checked(file: Path, expected: str | None) -> bytes:
    """Content of a file.

    Raises:
        WeightsError: If it is missing, or cannot be read.
        DamagedWeightsError: If its SHA-256 is another one.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(f"{file} is missing. {_REMEDY}") from error
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror})") from error
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected:
        raise DamagedWeightsError(file, expected, found, _REMEDY)
    return content


@dataclass(frozen=True)
class ExportedNetwork:
    """A network in a folder that ``mrcar export`` wrote.

    Attributes:
        folder: The folder.
        name: Name of the network that was exported.
        sha256: Digest of its weights.
        labels: Names of the classes, in the order of the logits.
        regions: Names of the regions that it looks at.
        in_chans: Channels of the input.
        size: Height and width of a region.
        mean, std: Taken off the channels of the input, values in 0…1, and dividing them then.
        precision: "float32" or "int8".
        files: SHA-256 of each file, by name.
        record: All that export.json says.
    """

    folder: Path
    name: str
    sha256: str
    labels: tuple[str, ...]
    regions: tuple[str, ...]
    in_chans: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str
    files: Mapping[str, str]
    record: Mapping[str, Any]

    def session(self, name: str = NETWORK_NAME) -> Session:
        """A file of the folder.

        Raises:
            WeightsError: If the record does not name it.
            MRCARError: If ONNX Runtime is not installed.
        """
        if name not in self.files:
            raise WeightsError(f"{self.folder / RECORD_NAME} says nothing of {name}. {_REMEDY}")
        return Session(self.folder / name, self.files[name])


def is_export(folder: Path) -> bool:
    """Whether a folder was written by ``mrcar export``."""
    return (folder / RECORD_NAME).is_file() or (folder / NETWORK_NAME).is_file()


def read_export(folder: Path) -> ExportedNetwork:
    """A network that ``mrcar export`` wrote.

    Raises:
        WeightsError: If there is none, or its record is damaged or of another version.
    """
    file = folder / RECORD_NAME
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{folder} holds no exported network: {file.name}: {error.strerror}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise WeightsError(f"{file} is damaged: {error}. {_REMEDY}") from error
    try:
        if record["format"] != FORMAT:
            raise ExportError(f"{file} has format {record['format']}, this version reads {FORMAT}. {_REMEDY}")
        height, width = record["size"]
        return ExportedNetwork(
            folder,
            record["name"],
            record["sha256"],
            tuple(record["labels"]),
            tuple(record["regions"]),
            int(record["in_chans"]),
            (int(height), int(width)),
            tuple(record["mean"]),
            tuple(record["std"]),
            record["precision"],
            dict(record["files"]),
            record,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{file} is damaged: {type(error).__name__} {error}. {_REMEDY}") from error
