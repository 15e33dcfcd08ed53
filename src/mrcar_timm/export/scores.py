"""What exported networks score on a labelled data set."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..exported import Session
from ..graphs.network import REGIONS
from ..metrics import score
from ..network import Network
from ..progress import Progress, silent
from ..training.batches import Split, make_split
from ..training.evaluate import images_for, predict_logits, protocol_changes

# Images that calibrate, drawn with this seed.
_CALIBRATING, _SEED = 200, 0


class _OnnxModule(nn.Module):
    """An exported network in the place of the network itself."""

    def __init__(self, session: Session, in_chans: int) -> None:
        super().__init__()
        self.session, self.in_chans = session, in_chans

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        (logits,) = self.session(**{REGIONS: regions.float().contiguous().numpy()})
        return torch.from_numpy(logits)


class LabelledFaces:
    """The faces of the validation split of a data set.

    Args:
        network: They are for it.
        path: The data set.
        name: Its name; by its layout if None.
        progress: Wrapper of long loops.

    Raises:
        DataError: If the data set is not what its reader expects, or has no validation split.
        MRCARError: If the network knows other classes.
    """

    def __init__(self, network: Network, path: Path, name: str | None = None, progress: Progress = silent) -> None:
        images, self._columns, _ = images_for(network, path, "validation", name, progress=progress)
        self._network, self._progress = network, progress
        self._split: Split = make_split(images, path, network.regions, network.size[0], progress=progress)
        self.title = images.title or name or path.name

    def calibrating(self) -> np.ndarray:
        """Regions (N, R, C, h, w), normalized, of some of the faces."""
        generator = torch.Generator().manual_seed(_SEED)
        rows = torch.randperm(len(self._split.data), generator=generator)[:_CALIBRATING]
        regions = self._split.batches.view(rows, protocol_changes("one")[0])
        return regions.expand(-1, -1, self._network.in_chans, -1, -1).contiguous().numpy()

    def score(self, sessions: Mapping[str, Session]) -> dict[str, Any]:
        """Accuracy, macro-F1 and calibration of a network in several precisions, one crop an image.

        Where there are two, also how often the likeliest class is the same in both, and how far probabilities are apart
        at most and on average.
        """
        labels, classes = self._split.batches.labels, self._split.data.classes
        scores: dict[str, Any] = {
            "data": self.title,
            "split": "validation",
            "data_sha256": self._split.data.digest(),
            "landmarks": self._split.landmarks,
        }
        probabilities = []
        for precision, session in sessions.items():
            module = _OnnxModule(session, self._network.in_chans)
            track = partial(self._progress, description=precision)
            logits = predict_logits(module, self._split.batches, "one", track)[:, :, self._columns]
            scores[precision] = score(logits, labels, classes).to_dict()
            probabilities.append(logits[0].softmax(1))
        if len(probabilities) == 2:
            first, second = probabilities
            apart = (first - second).abs()
            scores["same_class"] = float((first.argmax(1) == second.argmax(1)).float().mean())
            scores["probabilities_apart"] = {"most": float(apart.max()), "mean": float(apart.mean())}
        return scores
