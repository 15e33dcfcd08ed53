"""Makes a network of regions for timm, and the cfgs of the weights in the package."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models import FeatureDictNet, build_model_with_cfg, resolve_pretrained_cfg
from timm.models._features import FeatureGetterNet

from ..checkpoints.folder import CONFIG_NAME, WEIGHTS_NAME, read_json
from ..checkpoints.packaged import DEFAULT_TAGS, PACKAGED, WEIGHTS_DIR
from ..checkpoints.verify import verified_source
from .region_network import checkpoint_filter_fn

_FEATURE_CLASSES = ("getter", "list", "dict", "hook", "fx")


def build_region_network(
    model_cls: Any,
    variant: str,
    pretrained: bool,
    stages: int | None = None,
    default_out_indices: int | tuple[int, ...] = 4,
    **kwargs: Any,
) -> Any:
    """A network with its weights, which are verified where they come from.

    Args:
        model_cls: Class of the network.
        variant: Its name.
        pretrained: Whether to load weights.
        stages: How many stages are used, where that is not all.
        default_out_indices: Feature maps that ``features_only`` gives by default.
        kwargs: Further arguments of :func:`timm.create_model`.
    """
    overlay = kwargs.pop("pretrained_cfg_overlay", None) or {}
    # All ways to take features come to this one: those that look for modules would find one branch's.
    feature_cls = FeatureDict if gives_dict(kwargs.pop("feature_cls", None)) else FeatureGetterNet
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay)
        name = f"{cfg.architecture}.{cfg.tag}"
        if name in PACKAGED and not cfg.source and kwargs.get("num_classes", cfg.num_classes) == cfg.num_classes:
            config = read_json(WEIGHTS_DIR / name / CONFIG_NAME)
            kwargs.setdefault("scale", config["model_args"]["scale"])  # it holds the calibration
        overlay = {**overlay, **verified_source(cfg, kwargs.get("cache_dir"))}
    return build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=partial(checkpoint_filter_fn, stages=stages),
        feature_cfg={"out_indices": default_out_indices, "feature_cls": feature_cls},
        **kwargs,
    )


class FeatureDict(FeatureGetterNet):
    """Features by the name of their module in the first branch, as ``feature_cls="dict"`` gives them."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.feature_info.module_name(), super().forward(x), strict=True))


def gives_dict(feature_cls: str | type | None) -> bool:
    """Whether a way to take features gives a dictionary; None is the usual way.

    Raises:
        ValueError: If timm knows no such way.
    """
    if isinstance(feature_cls, str) and feature_cls.lower() not in _FEATURE_CLASSES:
        raise ValueError(f"feature_cls must be one of {', '.join(_FEATURE_CLASSES)}, got {feature_cls!r}")
    return feature_cls == "dict" or feature_cls is FeatureDictNet


def packaged_cfgs(architecture: str, cfg: Callable[..., dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The cfgs of the packaged weights of an architecture, the default ones marked as timm marks them.

    Args:
        architecture: Name of the architecture.
        cfg: Makes a cfg of the architecture, given what else it has.
    """
    cfgs = {}
    for name, record in PACKAGED.items():
        if name.split(".")[0] != architecture:
            continue
        mark = "*" if name == f"{architecture}.{DEFAULT_TAGS[architecture]}" else ""
        cfgs[name + mark] = cfg(
            file=str(WEIGHTS_DIR / name / WEIGHTS_NAME),
            license=record.license,
            num_classes=len(record.labels),
            label_names=list(record.labels),
            notes=(record.notes,),
        )
    return cfgs or {f"{architecture}.untrained": cfg()}
