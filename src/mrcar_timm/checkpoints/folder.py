"""The one folder format of a network: config.json as timm writes it, model.safetensors, record.json.

``mrcar train`` writes it into its run folder, ``mrcar publish`` to the Hub, and the weights in the package are such
folders, so that the recognizer, timm, transformers and torch.hub load all of them alike.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from ..errors import DamagedWeightsError, UnverifiedWeightsWarning, WeightsError
from ..exported import is_export
from ..inputs import is_first_conv, to_color
from ..layers.insert import insertions
from ..output import write_text
from .record import RECORD_NAME, Record
from .weights_file import Weights, read_weights, tensor_digest, write_weights

WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"

#: Network of timm's with attention inserted, and all networks that a folder may be of.
ATTENDED = "attended"
ARCHITECTURES = ("mrcar_resnet", "mrcar_mobilenet", "multi_region", ATTENDED)
_OF_FEATURES = ("features_only", "out_indices")

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
    args = model_args(net)
    if not hasattr(net, "model_args"):
        _check_described(model, args)
    if args["in_chans"] == 1 and any(map(is_first_conv, state)) and hasattr(net, "regions"):
        state, args["in_chans"] = to_color(state), 3
    if args.get("head") == "arcface":
        args["scale"] = args["scale"] / temperature
    elif temperature != 1:
        head = net.pretrained_cfg["classifier"]
        state |= {key: state[key] / temperature for key in (f"{head}.weight", f"{head}.bias") if key in state}
    record = replace(
        record,
        sha256=tensor_digest({key: value.contiguous() for key, value in state.items()}),
        num_params=sum(state[name].numel() for name, _ in net.named_parameters()),
    )
    config = config_of(model, args, record)
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
    if "base" in args:
        architecture = ATTENDED
    for name in ("tag", "label_names", "label_descriptions", "custom_load"):
        cfg.pop(name, None)
    channels = args["in_chans"]
    for name in ("input_size", "min_input_size"):
        if cfg.get(name):
            cfg[name] = [channels, *cfg[name][1:]]
    for name in ("mean", "std"):  # one value broadcasts where there are not three
        values = list(cfg[name])
        cfg[name] = values if len(values) == channels else [values[0] if len(set(values)) == 1 else fmean(values)]
    if hasattr(net, "first_convs"):
        cfg["first_conv"] = net.first_convs()
    if channels not in (1, 3):
        cfg["first_conv"] = None  # timm adapts them; of others older ones make random ones
    cfg["num_classes"] = net.num_classes
    if record.notes:  # those of the weights, not of others of the same architecture
        cfg["license"], cfg["notes"] = record.license, [record.notes]
    return {
        "architecture": architecture,
        "num_classes": net.num_classes,
        "num_features": net.num_features,
        **({"global_pool": args["global_pool"]} if "global_pool" in args else {}),
        **({"label_names": list(record.labels)} if record.labels else {}),
        "model_args": args,
        "pretrained_cfg": cfg,
        "dtype": "float32",  # of the network, for transformers, which would take that of the first tensor
        "mrcar": {"sha256": record.sha256},
    }


def network_of(model: nn.Module) -> Any:
    """The network itself, or the one behind features.

    Raises:
        WeightsError: If it is no network of this package, nor one with attention inserted, or one optimized for
            inference.
    """
    net = getattr(model, "model", model)
    if not hasattr(net, "model_args") and not insertions(net):
        raise WeightsError(
            f"{type(model).__name__} cannot be saved: expected a network of this package as trained, or one with "
            "attention inserted"
        )
    return net


def model_args(net: Any) -> dict[str, Any]:
    """Arguments for :func:`timm.create_model` that make a network into which this one's weights fit: JSON values.

    Raises:
        WeightsError: If there are arguments that have no name in JSON.
    """
    inserted = [insertion.to_dict() for insertion in insertions(net)]
    if not inserted or getattr(net, "keeps_insertions", False):
        return net.model_args()
    made_with = getattr(net, "base_args", None)
    if made_with is None:  # what timm.create_model was called with, as its newer releases know
        made_with = {"base": net.pretrained_cfg["architecture"], **getattr(net, "_model_args", {})}
    if hasattr(net, "model_args"):
        args = {"base": made_with["base"], **net.model_args()}
    else:
        args = {key: value for key, value in made_with.items() if key not in ("num_classes", *_OF_FEATURES)}
        args.setdefault("in_chans", 3)
    try:
        return json.loads(json.dumps({**args, "insertions": inserted}))
    except TypeError as error:
        raise WeightsError(f"the network cannot be described in JSON: {error}; use what goes by a name") from error


def _check_described(model: nn.Module, args: Mapping[str, Any]) -> None:
    """Raise if the arguments do not make the network: it may have been made by others, which nobody recorded."""
    net = network_of(model)
    shape = (1, args["in_chans"], *net.pretrained_cfg["input_size"][1:])
    example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    features = {"features_only": True, "out_indices": _out_indices(model)} if model is not net else {}
    reason = "its output is another one"
    try:
        with torch.random.fork_rng(devices=[]):
            again = timm.create_model(ATTENDED, num_classes=net.num_classes, **args, **features)
        network_of(again).load_state_dict(net.state_dict())
        with torch.inference_mode():
            copies = [deepcopy(each).cpu().float().eval() for each in (model, again)]
            outputs = [each.to(memory_format=torch.contiguous_format)(example) for each in copies]
        pairs = [outputs] if isinstance(outputs[0], torch.Tensor) else list(zip(*outputs, strict=True))
        if all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs):  # in other memory it may round otherwise
            return
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = str(error)
    raise WeightsError(
        f"a network {args['base']} with attention at the same places is not this one: {reason}. Make it by "
        f'timm.create_model("{ATTENDED}", base={args["base"]!r}, …) with all its arguments'
    )


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
        if is_export(folder):
            raise WeightsError(f"{folder} was exported for ONNX Runtime, to use alone; name what it was made from")
        raise WeightsError(f"{folder} holds no network: no {CONFIG_NAME}")
    config = read_json(file)
    if "architecture" not in config and "recipe" in config:
        raise WeightsError(
            f"{folder} is a run folder of an earlier version, whose weights cannot be loaded; train again"
        )
    if config.get("architecture") not in ARCHITECTURES:
        raise WeightsError(f"{file} is of a network {config.get('architecture')!r}, which takes no regions of faces")
    ours = config.get("mrcar")
    if isinstance(ours, dict) and "temperature" in ours:
        raise WeightsError(
            f"{folder} has the format of an earlier version, with a temperature beside the weights; publish them again"
        )
    return config


def read_folder_weights(folder: Path, weights: Weights | None = None) -> Weights:
    """The weights of a folder, if they are those that its config.json is of.

    Weights without a digest of their own that are not those of config.json's were written by another program, as
    transformers' ``save_pretrained`` does after training: they load with an
    :class:`~mrcar_timm.UnverifiedWeightsWarning`, since nobody knows whether they are whole, nor whether the
    temperature in the head still calibrates them.

    Args:
        folder: Folder with config.json and model.safetensors.
        weights: Content of model.safetensors, if it has been read.

    Raises:
        WeightsError: If a file is missing, or the two name other labels.
        DamagedWeightsError: If a digest does not fit.
    """
    path = folder / WEIGHTS_NAME
    config = read_config(folder)
    ours = config.get("mrcar")
    expected = ours.get("sha256") if isinstance(ours, dict) else None
    weights = weights or read_weights(path, warn=expected is None)
    if expected not in (weights.digest, None):
        if weights.stated is not None:
            raise DamagedWeightsError(path, expected, weights.digest, f"{CONFIG_NAME} beside it is of other weights.")
        warnings.warn(
            f"{path} was rewritten after {CONFIG_NAME} beside it: its integrity could not be checked, and "
            "its probabilities may not be calibrated",
            UnverifiedWeightsWarning,
            stacklevel=2,
        )
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
        what = "it is empty" if path.stat().st_size == 0 else error
        raise WeightsError(f"{path} is damaged: {what}. Write or download it again.") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} is damaged: it holds no object. Write or download it again.")
    return values
