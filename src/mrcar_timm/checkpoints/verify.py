"""Weights that timm is about to load, checked first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .folder import WEIGHTS_NAME, read_folder_weights
from .hub_files import Repository, fetch_weights
from .packaged import PACKAGED, WEIGHTS_DIR
from .weights_file import read_weights


def verified_weights(cfg: Any, cache_dir: Any = None) -> Path:
    """The file that a pretrained cfg of timm's points to, once its digest and labels have been checked.

    Args:
        cfg: A :class:`timm.models.PretrainedCfg`.
        cache_dir: The Hub's cache; the usual one if None.

    Raises:
        WeightsError: If there are no weights, they are no safetensors, or their classes are others than the cfg says.
        DamagedWeightsError: If a digest does not fit.
    """
    name = f"{cfg.architecture}.{cfg.tag}"
    if cfg.source == "local-dir":
        path = Path(cfg.file) / WEIGHTS_NAME
        read_folder_weights(path.parent)
    elif cfg.source == "hf-hub":
        path, weights = fetch_weights(Repository.of(cfg.hf_hub_id), cache_dir)
        read_folder_weights(path.parent, weights)
    elif cfg.file and Path(cfg.file).suffix == ".safetensors":
        path = Path(cfg.file)
        if path == WEIGHTS_DIR / name / WEIGHTS_NAME:
            read_weights(path, PACKAGED[name].sha256, "Install the package again.")
        else:
            read_weights(path)
    elif cfg.hf_hub_id and not cfg.file:
        path, _ = fetch_weights(Repository.of(cfg.hf_hub_id), cache_dir)
    else:
        raise WeightsError(f"{name} has no weights in a safetensors file; pickles are not read")
    return path
