"""Write a network, what finds faces, and an example as a folder that needs no PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoints.resolve import resolve
from ..errors import ExportError, MRCARError
from ..exported import (
    DETECTOR_NAMES,
    FACE_NETWORK_NAME,
    FORMAT,
    NETWORK_NAME,
    RECORD_NAME,
    ExportedNetwork,
    Session,
    read_export,
)
from ..graphs.detector import detector_graphs
from ..graphs.int8 import quantized
from ..graphs.network import face_graph, network_graph, require_onnx, with_metadata
from ..network import Network, load_network
from ..output import output_error
from ..progress import Progress, silent
from ..provenance import provenance
from .photos import regions_of_photos
from .scores import LabelledFaces

EXAMPLE_NAME = "example.py"


def export(
    source: str | Path | nn.Module | None,
    folder: Path,
    int8: bool = False,
    data: Path | None = None,
    name: str | None = None,
    images: Sequence[Path] = (),
    progress: Progress = silent,
) -> ExportedNetwork:
    """Export a network for ONNX Runtime.

    The folder has the network for regions (``network.onnx``) and for aligned faces (``network_face.onnx``), MTCNN's
    three networks and non-maximum suppression, ``example.py``, and ``export.json``: labels, normalization, the digest
    of each file, and scores.

    Args:
        source: See :func:`~mrcar_timm.load_network`.
        folder: Folder to write; another export in it is replaced.
        int8: Compute in 8 bits, for which ``data`` or ``images`` show what values occur.
        data: A labelled data set. The network is scored on its validation split, 200 images of which calibrate.
        name: Name of the data set; by its layout if None.
        images: Photos whose faces calibrate, instead of the data set's.
        progress: Wrapper of long loops.

    Raises:
        ExportError: If the network cannot be exported, the folder holds something else, or there is nothing to
            calibrate with.
        WeightsError: If there is no such network, or its weights are damaged.
        MRCARError: If ONNX is not installed.
    """
    onnx = require_onnx()
    network = load_network(source)
    if int8 and data is None and not images:
        raise ExportError("8 bits need faces that show what values occur: a data set, or photos")
    if folder.exists() and not (folder / RECORD_NAME).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} holds something else than an exported network; name another folder")
    faces = None if data is None else LabelledFaces(network, data, name, progress)
    calibration = None
    if not int8:
        graph = network_graph(network)
    else:
        if images:
            regions, title = regions_of_photos(network, images, progress), "photos"
        else:
            assert faces is not None
            regions, title = faces.calibrating(), f"{faces.title}, validation"
        graph = with_metadata(quantized(network_graph(network, pooled=False), regions), network)
        calibration = {"faces": len(regions), "of": title}
    scores = None
    if faces is not None:
        compared = {"float32": network_graph(network), "int8": graph} if int8 else {"float32": graph}
        scores = faces.score({key: Session(content=each.SerializeToString()) for key, each in compared.items()})

    graphs = {NETWORK_NAME: graph, FACE_NETWORK_NAME: face_graph(graph, network)}
    graphs |= {DETECTOR_NAMES[key]: each for key, each in detector_graphs().items()}
    files = {file: each.SerializeToString() for file, each in graphs.items()}
    files[EXAMPLE_NAME] = Path(__file__).with_name("standalone.py").read_bytes()
    record = {
        "format": FORMAT,
        "name": network.name,
        "sha256": network.sha256,
        **_terms(source, network),
        "precision": "int8" if int8 else "float32",
        "labels": network.labels,
        "regions": network.regions,
        "in_chans": network.in_chans,
        "size": network.size,
        "mean": network.mean,
        "std": network.std,
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
        "calibration": calibration,
        "scores": scores,
        "made_by": {**provenance(), "onnx": onnx.__version__},
    }
    files[RECORD_NAME] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    _write(folder, files)
    return read_export(folder)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files at once where there is no folder yet; over those of another export one by one, the last one last."""
    partial = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        partial.mkdir(parents=True)
        for file, content in files.items():
            (partial / file).write_bytes(content)
        if (folder / RECORD_NAME).exists():
            for file in files:
                (partial / file).replace(folder / file)
        else:
            if folder.exists():
                folder.rmdir()  # empty
            partial.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _terms(source: str | Path | nn.Module | None, network: Network) -> dict[str, Any]:
    """License and notes of the weights."""
    if not isinstance(source, nn.Module):
        try:
            record = resolve(source).record()
            return {"license": record.license, "notes": record.notes}
        except MRCARError:
            pass  # weights that another program wrote have no record
    cfg: Any = network.model.pretrained_cfg
    return {"license": cfg.get("license") or "unknown", "notes": " ".join(cfg.get("notes") or ())}
