"""Faults of files with weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from mrcar_timm.checkpoints.packaged import WEIGHTS_DIR


def flipped(at: int):
    """A change of one bit."""
    return lambda data: data[: at % len(data)] + bytes([data[at] ^ 1]) + data[at % len(data) + 1 :]


def with_other_labels(config: bytes) -> bytes:
    values = json.loads(config)
    values["label_names"][:2] = values["label_names"][1::-1]
    return json.dumps(values, indent=2).encode() + b"\n"


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def swap_labels(folder: Path) -> None:
    rewritten(folder / "config.json", with_other_labels)


def put_pickle(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")


def put_other_weights(folder: Path) -> None:
    shutil.copy(WEIGHTS_DIR / "mrcar_resnet.ferplus/model.safetensors", folder / "model.safetensors")


#: Faults of a folder, and what is said then.
OF_A_FOLDER: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of a tensor": (lambda f: rewritten(f / "model.safetensors", flipped(-9)), "is damaged: expected the digest"),
    "a bit of the header": (lambda f: rewritten(f / "model.safetensors", flipped(700)), "is damaged: expected the"),
    "a bit of the digest": (
        lambda f: rewritten(f / "model.safetensors", flipped(50)),
        "is damaged: expected the digest",
    ),
    "cut off": (
        lambda f: rewritten(f / "model.safetensors", lambda data: data[:-1]),
        "is damaged: expected the digest",
    ),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged: expected the digest"),
    "gone": (lambda f: (f / "model.safetensors").unlink(), "is missing"),
    "a pickle under its name": (put_pickle, "is damaged: expected the digest"),
    "other weights": (put_other_weights, "beside it is of other weights"),
    "labels in another order": (swap_labels, "know the classes anger, disgust, .* says disgust, anger"),
}
