"""A network as a folder that can be published as it is: the three files of every network, and a model card."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
from timm.models._features import FeatureGetterNet
from torch import nn

from ..checkpoints.folder import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    network_of,
    read_config,
    read_folder_weights,
    write_folder,
)
from ..checkpoints.record import RECORD_NAME, SCORES_NAME, Record, with_scores
from ..checkpoints.resolve import resolve
from ..data.sets import SPLITS
from ..errors import WeightsError
from ..network import load_network
from ..output import replacing, write_text
from .card import IMAGE, render_card

#: A name, as :func:`~mrcar_timm.checkpoints.resolve.resolve` takes it, or a module.
Source = str | Path | nn.Module


def save(
    source: Source,
    folder: Path,
    repo_id: str,
    labels: Sequence[str] | None = None,
    temperature: float = 1.0,
    license: str | None = None,
    data: str | None = None,
) -> Record:
    """Write model.safetensors, config.json, record.json, README.md and, of scored weights, confusion.png.

    Args:
        source: A network by its name or folder, such as a run folder; or a module made by :func:`timm.create_model`,
            also one that gives features.
        folder: Folder to write.
        repo_id: "ORG/NAME", for the model card.
        labels: Names of a module's classes, in the order of the logits. The ``pretrained_cfg`` is not asked for them:
            it was written before the module was trained.
        temperature: Divides a module's logits; it goes into the head.
        license: License of a module's weights.
        data: Description of a module's training data.

    Returns:
        The record of the weights.

    Raises:
        WeightsError: If there are no such weights, they are damaged, or the module cannot be described in JSON.
        ValueError: If there is not one label for each class.

    Example:
        >>> import tempfile, timm, mrcar_timm
        >>> model = timm.create_model("mrcar_resnet", pretrained=True, num_classes=2)
        >>> folder = Path(tempfile.mkdtemp())
        >>> save(model, folder, "me/smiles", labels=["smile", "other"]).labels
        ('smile', 'other')
        >>> timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes
        2
    """
    name = repo_id.split("/")[-1]
    if isinstance(source, nn.Module):
        record = _record_of_module(source, name, tuple(labels or ()), license, data)
        record = write_folder(folder, source, record, temperature=temperature)
    elif (labels, license, data, temperature) != (None, None, None, 1.0):
        raise ValueError("labels, temperature, license and data go with a module; weights on disk have their own")
    else:
        record = _copy(source, folder, name)
    write_text(folder / "README.md", render_card(record, read_config(folder), repo_id))
    if "test" in record.confusion:
        from ..plots import confusion_matrix

        counts = np.array(record.confusion["test"])
        confusion_matrix(counts, record.labels, folder / IMAGE, f"{record.name}, test, ten crops")
    return record


def _copy(source: str | Path, folder: Path, name: str) -> Record:
    found = resolve(source)
    if found.repository is not None:
        raise WeightsError(f"{source} is published already")
    original = found.folder()
    read_folder_weights(original)
    if folder.resolve() == original.resolve():
        raise WeightsError(f"{folder} is the network itself; name another folder")
    record = replace(scored_record(original), name=name)
    for file in (WEIGHTS_NAME, CONFIG_NAME):
        with replacing(folder / file) as partial:
            shutil.copyfile(original / file, partial)
    write_text(folder / RECORD_NAME, record.to_json())
    return record


def scored_record(folder: Path) -> Record:
    """The record in a folder, with what ``mrcar eval --out FOLDER/SPLIT`` wrote beside it."""
    found = {split: folder / split for split in SPLITS if (folder / split / SCORES_NAME).exists()}
    record = Record.read(folder)
    return with_scores(record, found) if found else record


def package(source: str | Path, folder: Path, name: str, force: bool = False) -> Record:
    """Write a network into ``folder/name`` in half precision, in the shape of the weights in this package.

    Convolutions and matrices are stored in half precision, which halves the file; vectors (biases, normalization
    statistics) stay float32.

    Args:
        source: A network, such as a run folder.
        folder: Parent of the folder to write.
        name: Architecture and tag, such as "mrcar_resnet.mine".
        force: Overwrite what is there.

    Raises:
        WeightsError: If there is something already, or the name does not say everything about the network.
    """
    target = folder / name
    found = resolve(source)
    if found.local is not None and target.resolve() == found.local.resolve():
        raise WeightsError(f"{target} is the network itself; name another folder")
    if target.exists() and not force:
        raise WeightsError(f"{target} exists already; --force overwrites it")
    network = load_network(source)
    architecture, _, tag = name.partition(".")
    if not tag or not timm.is_model(architecture):
        raise WeightsError(f"{name!r} is no architecture with a tag, such as mrcar_resnet.mine")
    plain: Any = timm.create_model(architecture)
    args, expected = network.model.model_args(), plain.model_args()
    for key in sorted(args.keys() - {"scale", "margin"}):
        if args[key] != expected[key]:
            raise WeightsError(
                f"{source} has {key} {args[key]}, which the name {name} does not say; mrcar publish writes both"
            )
    if network.size != tuple(plain.pretrained_cfg["input_size"][1:]):
        raise WeightsError(f"{source} takes regions of {network.size}, which the name {name} does not say")
    tensors = {key: value.half() if value.ndim >= 2 else value for key, value in network.model.state_dict().items()}
    record = replace(Record.read(resolve(source).folder()), name=name, scores={}, confusion={})
    return write_folder(target, network.model, record, tensors)


def _record_of_module(
    model: nn.Module, name: str, labels: tuple[str, ...], license: str | None, data: str | None
) -> Record:
    net = network_of(model)
    if isinstance(model, FeatureGetterNet) and net.num_classes == 0:
        labels = ()
    elif not labels and not hasattr(net, "regions"):
        pass  # a network of timm's with attention inserted need not name its classes
    elif not len(labels) == len(set(labels)) == net.num_classes:
        raise ValueError(f"expected {net.num_classes} different labels, one for each class, got {list(labels)}")
    return Record(
        name=name,
        sha256="",
        num_params=0,
        license=license or "unknown",
        labels=labels,
        data=({"title": data},) if data else (),
    )
