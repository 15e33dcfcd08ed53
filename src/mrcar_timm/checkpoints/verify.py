"""Weights that timm is about to load, checked first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .folder import WEIGHTS_NAME, read_folder_weights
from .hub_files import Repository, check_folder, fetch_weights
from .packaged import PACKAGED, WEIGHTS_DIR
from .weights_file import Weights, read_weights


def verified_source(cfg: Any, cache_dir: Any = None) -> dict[str, Any]:
    """The part of a pretrained cfg that says where its weights are, once they have been checked.

    Raises:
        WeightsError: See :func:`verified_weights`.
    """
    if cfg.state_dict and not cfg.source:
        return {}
    return {"file": str(verified_weights(cfg, cache_dir)), "source": None, "state_dict": None}


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
        check_folder(path.parent, weights)
    elif cfg.file and Path(cfg.file).suffix == ".safetensors":
        path = Path(cfg.file)
        if path == WEIGHTS_DIR / name / WEIGHTS_NAME:
            read_packaged_weights(name)
        else:
            read_weights(path)
    elif cfg.hf_hub_id and not cfg.file:
        path, _ = fetch_weights(Repository.of(cfg.hf_hub_id), cache_dir)
    else:
        raise WeightsError(f"{name} has no weights in a safetensors file; pickles are not read")
    return path


def read_packaged_weights(name: str) -> Weights:
    """Read weights of the package and check them against their record.

    Raises:
        WeightsError: If the file is missing.
        DamagedWeightsError: If its digest does not fit.
    """
    return read_weights(WEIGHTS_DIR / name / WEIGHTS_NAME, PACKAGED[name].sha256, "Install the package again.")
