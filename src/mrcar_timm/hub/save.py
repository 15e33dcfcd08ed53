"""A network as a folder that timm, transformers and this package load, and that can be published as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models import PretrainedCfg
from timm.models._features import FeatureGetterNet
from torch import nn

from ..errors import WeightsError
from ..models.checkpoints import CHECKPOINTS, Checkpoint, is_first_conv, to_colour
from ..models.loading import load_network
from ..models.mrcar_resnet import MRCARResNet
from ..models.sources import CONFIG_NAME, FOLDER, HUB, RECORD_NAME, WEIGHTS_NAME, read_json
from ..models.weights_file import read_weights, tensor_digest, write_weights
from ..training.package import record_of_run, with_scores
from .card import PICTURE, render_card

#: A registered name; a run folder; a ``.safetensors`` of ``mrcar package``; a folder of :func:`save`; or a module.
Source = str | Path | nn.Module


def save(
    source: Source,
    folder: Path,
    repo_id: str,
    labels: Sequence[str] | None = None,
    temperature: float = 1.0,
    license: str | None = None,
    data: str | None = None,
) -> Checkpoint:
    """Write model.safetensors, config.json, record.json, README.md and, of scored weights, confusion.png.

    The tensors are written as they are. Of a run on grey pictures they are spread over three channels, so that every
    tool for colour pictures can use them.

    Args:
        source: Weights that come with the package, by name; the folder of a run; the ``.safetensors`` file that
            ``mrcar package`` writes; a folder that this function wrote; or a module made by :func:`timm.create_model`,
            also one that gives features.
        folder: Where to write.
        repo_id: "ORG/NAME" that the model card speaks of.
        labels: Names of a module's classes, in the order of the logits. What its ``pretrained_cfg`` says is not taken
            for them: that was written before it was trained.
        temperature: Divides a module's logits before softmax.
        license: Of a module's weights.
        data: What a module was trained on.

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
    if isinstance(source, nn.Module):
        model, tensors = source, dict(_net(source).state_dict())
        record = _record_of_module(source, repo_id.split("/")[-1], tuple(labels or ()), temperature, license, data)
    elif (labels, license, data, temperature) != (None, None, None, 1.0):
        raise ValueError("labels, temperature, license and data go with a module; weights on disk have their own")
    else:
        model, tensors, record = _of_weights(str(source), repo_id.split("/")[-1])
    config = hub_config(model, record)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(tensors, folder / WEIGHTS_NAME, record.labels)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / RECORD_NAME).write_text(record.to_json(), encoding="utf-8")
    (folder / "README.md").write_text(render_card(record, config, repo_id), encoding="utf-8")
    if "test" in record.confusion:
        from ..plots import confusion_matrix

        counts = np.array(record.confusion["test"])
        confusion_matrix(counts, record.labels, folder / PICTURE, f"{record.name}, test, ten crops")
    return record


def hub_config(model: Any, record: Checkpoint) -> dict[str, Any]:
    """What config.json says: what timm and transformers make the network from, and our digest and temperature.

    Raises:
        WeightsError: If the network was not made by :func:`timm.create_model`, or with classes of the caller's.
    """
    net = _net(model)
    given: Any = getattr(net, "pretrained_cfg", None)
    if not given:
        raise WeightsError("the network was not made by timm.create_model, so that its input is not known")
    args = net.model_args()
    if model is not net:
        args |= {"features_only": True, "out_indices": list(model.feature_info.out_indices)}
    cfg = PretrainedCfg(**{**given, "state_dict": None}).to_dict(remove_source=True)
    architecture = cfg.pop("architecture")
    for name in ("tag", "label_names", "label_descriptions", "custom_load"):
        cfg.pop(name, None)
    channels = net.in_chans
    for name in ("input_size", "min_input_size"):
        cfg[name] = [channels, *cfg[name][1:]]
    # The channels' values are alike; one broadcasts where there are not three.
    cfg |= {name: list(cfg[name])[: 3 if channels == 3 else 1] for name in ("mean", "std")}
    first = [key.removesuffix(".weight") for key in net.state_dict() if is_first_conv(key)]
    cfg["first_conv"] = first if channels in (1, 3) else None  # timm adapts them; of others older ones make random ones
    cfg["num_classes"] = net.num_classes
    return {
        "architecture": architecture,
        "num_classes": net.num_classes,
        "num_features": net.num_features,
        "global_pool": args["global_pool"],
        **({"label_names": list(record.labels)} if record.labels else {}),
        "model_args": args,
        "pretrained_cfg": cfg,
        "dtype": "float32",  # of the network, for transformers, which would take that of the first tensor
        "mrcar": {"sha256": record.sha256, "temperature": record.temperature},
    }


def _net(model: nn.Module) -> MRCARResNet:
    """The network itself, or that behind features."""
    net: Any = model.model if isinstance(model, FeatureGetterNet) else model
    if not isinstance(net, MRCARResNet) or "stacked" in net.branches:
        raise WeightsError(f"expected an MRCARResNet that can be trained, got a {type(model).__name__} or one folded")
    return net


def _record_of_module(
    model: nn.Module, name: str, labels: tuple[str, ...], temperature: float, license: str | None, data: str | None
) -> Checkpoint:
    net = _net(model)
    if not len(labels) == len(set(labels)) == net.num_classes:
        raise ValueError(f"expected {net.num_classes} different labels, one for each class, got {list(labels)}")
    return Checkpoint(
        name=name,
        sha256=tensor_digest(net.state_dict()),
        num_params=sum(p.numel() for p in net.parameters()),
        license=license or "unknown",
        labels=labels,
        temperature=temperature,
        data=data or "Not stated",
        notes="",
    )


def _of_weights(source: str, name: str) -> tuple[nn.Module, dict[str, torch.Tensor], Checkpoint]:
    path = Path(source.removeprefix(FOLDER))
    if not path.exists() or source.startswith(HUB):
        network = load_network(source)
        packaged = CHECKPOINTS.get(network.name)
        if packaged is None:
            raise WeightsError(f"{source} is published already")
        return network.model, read_weights(packaged.path).tensors, packaged
    if path.suffix == ".safetensors" and (beside := path.with_suffix(".json")).exists() and path.name != WEIGHTS_NAME:
        record = Checkpoint.read(beside)
        weights = read_weights(path, record.sha256)
        overlay = {"file": str(path), "num_classes": len(record.labels), "label_names": record.labels}
        model = timm.create_model(record.name.split(".")[0], pretrained=True, pretrained_cfg_overlay=overlay)
        return model, weights.tensors, record
    network = load_network(path)
    folder = path.parent if path.is_file() else path
    tensors = read_weights(folder / WEIGHTS_NAME).tensors
    if "architecture" in read_json(folder / CONFIG_NAME):
        return network.model, tensors, Checkpoint.read(folder / RECORD_NAME)
    splits = {split: folder / split for split in ("validation", "test")}
    record = record_of_run(folder, name)
    record = with_scores(record, {split: place for split, place in splits.items() if (place / "scores.json").exists()})
    if network.model.in_chans == 3:
        return network.model, tensors, record
    tensors = to_colour(tensors)
    model = _in_colour(network.model, tensors)
    num_params = sum(p.numel() for p in model.parameters())
    return model, tensors, replace(record, sha256=tensor_digest(tensors), num_params=num_params)


def _in_colour(grey: Any, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A network like one of a run on grey pictures, for three channels and with these tensors."""
    cfg = grey.pretrained_cfg
    overlay = {"input_size": (3, *cfg["input_size"][1:]), "label_names": cfg["label_names"]}
    args = {**grey.model_args(), "in_chans": 3, "num_classes": grey.num_classes}
    model = timm.create_model(cfg["architecture"], pretrained_cfg_overlay=overlay, **args)
    model.load_state_dict(tensors)
    return model
