"""The one folder format of a network: config.json as timm writes it, model.safetensors, record.json.

``mrcar train`` writes it into its run folder, ``mrcar publish`` to the Hub, and the weights in the package are such
folders, so that the recognizer, timm, transformers and torch.hub load all of them alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from ..errors import DamagedWeightsError, WeightsError
from ..inputs import is_first_conv, to_color
from .record import RECORD_NAME, Record
from .weights_file import Weights, read_weights, tensor_digest, write_weights

WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"

#: Prefix of a folder's name, as in timm.
FOLDER = "local-dir:"


def write_folder(
    folder: Path,
    model: nn.Module,
    record: Record,
    tensors: Mapping[str, torch.Tensor] | None = None,
    temperature: float = 1.0,
) -> Record:
    """Write a network and its record; each file appears at once.

    The temperature goes into the head: softmax(s·cos θ / T) is softmax((s/T)·cos θ), and a linear head is divided by
    T. A network for grey images is stored for three channels, by the luma weights.

    Args:
        folder: Folder to write, created if missing.
        model: Made by :func:`timm.create_model`; it is not changed.
        record: Its record; digest and number of parameters are filled in.
        tensors: The weights, if they are not those of the model.
        temperature: Divides the logits.

    Returns:
        The record as it is written.

    Raises:
        WeightsError: If the model cannot be described in JSON.
        ValueError: If the temperature is no positive number.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"the temperature must be a positive number, got {temperature}")
    net = network_of(model)
    state = dict(net.state_dict() if tensors is None else tensors)
    args = net.model_args()
    if args["in_chans"] == 1:
        state, args["in_chans"] = to_color(state), 3
    if args["head"] == "arcface":
        args["scale"] = args["scale"] / temperature
    elif temperature != 1:
        state |= {key: state[key] / temperature for key in ("head.weight", "head.bias")}
    record = replace(
        record,
        sha256=tensor_digest({key: value.contiguous() for key, value in state.items()}),
        num_params=sum(state[name].numel() for name, _ in net.named_parameters()),
    )
    config = config_of(model, args, record)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(state, folder / WEIGHTS_NAME, record.labels)
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
    write_text(folder / RECORD_NAME, record.to_json())
    return record


def config_of(model: nn.Module, args: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """Content of config.json: what timm and transformers create the network from, and the digest of its weights.

    Args:
        model: Made by :func:`timm.create_model`, perhaps with ``features_only``.
        args: Arguments that make a network like it.
        record: Record of its weights.
    """
    net: Any = network_of(model)
    given: Any = getattr(net, "pretrained_cfg", None)
    if not given:
        raise WeightsError("the network was not made by timm.create_model, so that its input is not known")
    args = dict(args)
    if model is not net:
        args |= {"features_only": True, "out_indices": _out_indices(model)}
    cfg = PretrainedCfg(**{**given, "state_dict": None}).to_dict(remove_source=True)
    architecture = cfg.pop("architecture")
    for name in ("tag", "label_names", "label_descriptions", "custom_load"):
        cfg.pop(name, None)
    channels = args["in_chans"]
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
        "mrcar": {"sha256": record.sha256},
    }


def network_of(model: nn.Module) -> Any:
    """The network itself, or the one behind features.

    Raises:
        WeightsError: If it is no network of this package, or one optimized for inference.
    """
    net = getattr(model, "model", model)
    if not hasattr(net, "model_args"):
        raise WeightsError(f"{type(model).__name__} cannot be saved: expected a network of this package as trained")
    return net


def _out_indices(features: Any) -> list[int]:
    return list(features.feature_info.out_indices)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a network.

    Raises:
        WeightsError: If there is none, it is damaged, of another format, or of a network of another package.
    """
    file = folder / CONFIG_NAME
    if not file.exists():
        if (folder / "recipe.yaml").exists():
            raise WeightsError(f"{folder} is a run folder of mrcar train without a finished epoch")
        raise WeightsError(f"{folder} holds no network: no {CONFIG_NAME}")
    config = read_json(file)
    if "architecture" not in config and "recipe" in config:
        raise WeightsError(
            f"{folder} is a run folder of an earlier version, whose weights cannot be loaded; train again"
        )
    if config.get("architecture") not in timm.list_models(module="mrcar_resnet"):
        raise WeightsError(f"{file} is of a network {config.get('architecture')!r}, which takes no regions of faces")
    ours = config.get("mrcar")
    if isinstance(ours, dict) and "temperature" in ours:
        raise WeightsError(
            f"{folder} has the format of an earlier version, with a temperature beside the weights; publish them again"
        )
    return config


def read_folder_weights(folder: Path, weights: Weights | None = None) -> Weights:
    """The weights of a folder, if they are those that its config.json is of.

    Args:
        folder: Folder with config.json and model.safetensors.
        weights: Content of model.safetensors, if it has been read.

    Raises:
        WeightsError: If a file is missing, or the two name other labels.
        DamagedWeightsError: If a digest does not fit.
    """
    path = folder / WEIGHTS_NAME
    weights = weights or read_weights(path)
    config = read_config(folder)
    ours = config.get("mrcar")
    expected = ours.get("sha256", weights.digest) if isinstance(ours, dict) else weights.digest
    if expected != weights.digest:
        raise DamagedWeightsError(path, expected, weights.digest, f"{CONFIG_NAME} beside it is of other weights.")
    labels = config.get("label_names")
    if weights.labels and labels and tuple(labels) != weights.labels:
        raise WeightsError(
            f"the weights in {path} know the classes {', '.join(weights.labels)}, in this order, but {CONFIG_NAME} "
            f"beside them says {', '.join(labels)}"
        )
    return weights


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with an object.

    Raises:
        WeightsError: If it is missing, or holds none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise WeightsError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} is damaged: it holds no object")
    return values


def write_text(path: Path, text: str) -> None:
    """Write a file at once, so that a killed program leaves no half of one."""
    partial = path.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
