"""Networks of timm with attention inserted, as networks of their own that can be saved and loaded by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import load_pretrained, register_model, resolve_pretrained_cfg
from timm.models._features import FeatureGetterNet, FeatureHookNet
from torch import nn

from ..checkpoints.verify import verified_source
from ..errors import WeightsError
from ..layers.insert import Attention, Insertion, insert_at, insert_attention
from .build import FeatureDict, gives_dict

__all__ = ["attended"]


@register_model
def attended(
    pretrained: bool = False,
    base: str = "resnet18",
    attention: Attention = "coord",
    where: str | Sequence[str] = "residual",
    replace: bool = False,
    neutral: bool = True,
    attention_args: Mapping[str, Any] | None = None,
    insertions: Sequence[Mapping[str, Any]] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network with attention inserted by :func:`mrcar_timm.insert_attention`.

    Args:
        pretrained: Load weights: those of the base, into which attention is inserted, or from a folder or the Hub those
            of the whole.
        base: Name of a network, as :func:`timm.create_model` takes it.
        attention: See :func:`mrcar_timm.insert_attention`, as for the next three.
        where: Where it goes.
        replace: Put it instead of what is there.
        neutral: Whether it starts without effect.
        attention_args: Arguments of the attention.
        insertions: Where attention was inserted in such a network, as its config.json has it; instead of all of these.
        **kwargs: Arguments of the base, and ``features_only`` with ``out_indices`` and ``feature_cls``, of which "dict"
            gives a dictionary and all others a list.

    Example:
        >>> import timm
        >>> model = timm.create_model("attended", base="resnet18", where="stages", num_classes=7)
        >>> model(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 7])
    """
    cfg, overlay = kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
    cache_dir, source_args = kwargs.pop("cache_dir", None), kwargs.pop("pretrained_model_args", None)
    features_only, out_indices = kwargs.pop("features_only", False), kwargs.pop("out_indices", None)
    as_dict = gives_dict(kwargs.pop("feature_cls", None))
    if cfg is None:
        model = timm.create_model(base, pretrained, pretrained_cfg_overlay=overlay, cache_dir=cache_dir, **kwargs)
    else:
        cfg = resolve_pretrained_cfg("attended", cfg, overlay)
        of_base = {**cfg.to_dict(remove_source=True), "architecture": base}
        model = timm.create_model(base, pretrained_cfg=of_base, **kwargs)
    if insertions is None:
        insert_attention(model, attention, where, replace=replace, neutral=neutral, **(attention_args or {}))
    else:
        insert_at(model, [Insertion(**each) for each in insertions])
    made_with = getattr(model, "base_args", {"base": model.pretrained_cfg["architecture"]})  # it may be attended itself
    model.base_args = {**made_with, **kwargs}
    model.pretrained_cfg = model.default_cfg = {
        **(model.pretrained_cfg if cfg is None else cfg.to_dict()),
        "architecture": "attended",
    }
    model.pretrained_model_args = source_args or {}
    features = _features(model, out_indices, as_dict) if features_only else None
    if pretrained and cfg is not None:
        net = model if features is None else getattr(features, "model", model)
        cfg = cfg.to_dict() | verified_source(cfg, cache_dir)
        in_chans = kwargs.get("in_chans", cfg["input_size"][0])
        load_pretrained(net, cfg, net.num_classes, in_chans, checkpoint_filter_fn, cache_dir=cache_dir)
    return model if features is None else features


def _features(model: Any, out_indices: Any, as_dict: bool) -> nn.Module:
    if out_indices is None:
        out_indices = tuple(range(len(model.feature_info)))[-5:]  # as timm's networks do
    if not hasattr(model, "forward_intermediates"):
        return FeatureHookNet(model, out_indices=out_indices, return_dict=as_dict)
    return (FeatureDict if as_dict else FeatureGetterNet)(model, out_indices=out_indices)


def checkpoint_filter_fn(state_dict: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The tensors that a network has, all of them but for a classifier of other classes.

    timm loads leniently where ``num_classes`` differs: inserted attention could be missing without a word.

    Raises:
        WeightsError: Naming the first tensors that are missing.
    """
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    own = list(model.state_dict())
    missing = [key for key in own if key not in state_dict and not key.startswith(tuple(f"{head}." for head in heads))]
    if missing:
        raise WeightsError(f"the weights lack {len(missing)} tensors of this network, among them {missing[:3]}")
    return {key: value for key, value in state_dict.items() if key in own or key.startswith(heads)}
