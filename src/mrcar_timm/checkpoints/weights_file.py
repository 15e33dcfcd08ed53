"""Weights in safetensors files that carry a digest of their tensors.

safetensors checks lengths, not values: an altered byte loads without a word.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import DamagedWeightsError, UnverifiedWeightsWarning, WeightsError
from ..output import write_bytes


class Weights(NamedTuple):
    """Content of a file of weights.

    Attributes:
        tensors: By name.
        digest: Digest of the tensors, computed.
        labels: Names of the classes, in the order of the logits; None where the file has none.
        stated: Digest that the file says it has, which is the same; None where it says none, as another program wrote
            it.
    """

    tensors: dict[str, torch.Tensor]
    digest: str
    labels: tuple[str, ...] | None
    stated: str | None


def tensor_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, in hex, over the tensors in the order of their names: of each a line of JSON and its bytes.

    The line is ``["name", "float32", [64, 3, 3, 3]]``; the bytes are little-endian, as in the file. What else the file
    says makes no difference, so that the same weights have the same digest wherever they are.

    Example:
        >>> tensor_digest({"bias": torch.zeros(2)}) == tensor_digest({"bias": torch.zeros(2, 1)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        line = json.dumps([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)])
        digest.update(f"{line}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_weights(tensors: Mapping[str, torch.Tensor], path: Path, labels: Sequence[str] | None = None) -> str:
    """Write tensors and their digest, at once; returns the digest.

    Args:
        tensors: By name.
        path: File to write, ``.safetensors``.
        labels: Names of the classes, in the order of the logits.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "digest": tensor_digest(stored)}
    if labels is not None:
        metadata["labels"] = json.dumps(list(labels))
    write_bytes(path, _in_order(save(stored, metadata)))
    return metadata["digest"]


def _in_order(data: bytes) -> bytes:
    """A safetensors file with sorted metadata, which the library writes in an order that changes from call to call."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows
    return len(text).to_bytes(8, "little") + text + data[end:]


def read_weights(
    path: Path, expected: str | None = None, remedy: str = "Write or download it again.", warn: bool = True
) -> Weights:
    """Read a file of weights and check its digest.

    Args:
        path: The file.
        expected: Digest that the tensors must have, in addition to the one in the file.
        remedy: Advice to the user if the file is damaged.
        warn: Whether to warn where there is no digest at all.

    Raises:
        WeightsError: If the file is missing.
        DamagedWeightsError: If its digest is another one, or it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        labels = json.loads(metadata["labels"]) if "labels" in metadata else None
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing. {remedy}") from error
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedWeightsError(path, expected or "in its header", f"none ({error})", remedy) from error
    found = tensor_digest(tensors)
    for digest in (metadata.get("digest"), expected):
        if digest is not None and digest != found:
            raise DamagedWeightsError(path, digest, found, remedy)
    if "digest" not in metadata and expected is None and warn:
        warnings.warn(f"{path} has no digest: its integrity could not be checked", UnverifiedWeightsWarning, 2)
    return Weights(tensors, found, None if labels is None else tuple(labels), metadata.get("digest"))
