"""Evaluate a network on a data set, by the protocols of the paper and simpler ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.face_crops import FaceChoice, crop_side
from ..data.image_set import ImageSet, contained_in
from ..data.imagefolder import FaceSearch
from ..data.labels import expression_or_name
from ..data.sets import DATA_SETS, read_split, recognize
from ..data.splits import read_part
from ..errors import MRCARError
from ..metrics import Scores, score
from ..network import Network
from ..output import write_csv
from ..plots import confusion_matrix, reliability
from ..precision import autocast
from ..progress import Progress, silent
from ..provenance import provenance
from ..regions.geometry import frame_transform
from .batches import RegionBatches, make_split

_CORNER = 2 / 48  # from the centre crop of 44 in 48 pixels to a corner crop
_SHIFTS = {
    "one": ((0.0, 0.0),),
    "mirror": ((0.0, 0.0),),
    "ten": (
        (0.0, 0.0),
        (-_CORNER, -_CORNER),
        (_CORNER, -_CORNER),
        (-_CORNER, _CORNER),
        (_CORNER, _CORNER),
    ),
}
#: "one": the center crop; "mirror": it and its mirror image; "ten": the paper's ten crops (four corners and the
#: center, each mirrored). Probabilities are averaged.
PROTOCOLS = tuple(_SHIFTS)
#: Which of the ten views each protocol looks at: looked at once, they give all.
VIEWS_OF_TEN = {"one": [0], "mirror": [0, 5], "ten": list(range(10))}


def protocol_changes(protocol: str) -> torch.Tensor:
    """The changes of the canonical frame (V, 3, 3) that a protocol averages over."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {PROTOCOLS}, got {protocol!r}")
    mirrors = (False,) if protocol == "one" else (False, True)
    changes = [frame_transform(shift=shift, mirror=mirror) for mirror in mirrors for shift in _SHIFTS[protocol]]
    return torch.from_numpy(np.concatenate(changes))


@torch.inference_mode()
def predict_logits(
    model: Any,
    batches: RegionBatches,
    protocol: str = "one",
    track: Callable[[Iterable[torch.Tensor]], Iterable[torch.Tensor]] = iter,
) -> torch.Tensor:
    """Logits (V, N, K), float32, of every view of every image.

    A network with three input channels gets the grey image three times.

    Args:
        model: The network.
        batches: The images.
        protocol: One of :data:`PROTOCOLS`.
        track: Wrapper of the loop over batches.
    """
    batch_size = 32 if batches.device.type == "cpu" else 256  # large batches are slow on a CPU
    training = model.training
    model.eval()
    chans = model.in_chans
    changes = protocol_changes(protocol)
    outputs = []
    with autocast(batches.device):
        for rows in track(torch.arange(len(batches)).split(batch_size)):
            views = [model(batches.view(rows, change).expand(-1, -1, chans, -1, -1)) for change in changes]
            outputs.append(torch.stack(views).float().cpu())
    model.train(training)
    return torch.cat(outputs, dim=1)


@dataclass(frozen=True)
class Evaluation:
    """A network's scores on a data set.

    Attributes:
        network: Its name.
        weights_sha256: Digest of its weights.
        data: Name of the data set.
        split: Which part of it.
        classes: Names of the classes that are scored.
        data_sha256: Digest of images and labels.
        landmarks: How many images' landmarks came from where.
        scores: By protocol and subset: "all", or "not in train" without the images that are in the training split too.
    """

    network: str
    weights_sha256: str
    data: str
    split: str
    classes: tuple[str, ...]
    data_sha256: str
    landmarks: dict[str, int]
    scores: dict[tuple[str, str], Scores]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``scores.json`` has them."""
        return {
            "model": self.network,
            "weights_sha256": self.weights_sha256,
            "data": self.data,
            "split": self.split,
            "classes": list(self.classes),
            "data_sha256": self.data_sha256,
            "landmarks": self.landmarks,
            "made_by": provenance(),
            "rows": [
                {"protocol": protocol, "subset": subset, **scores.to_dict()}
                for (protocol, subset), scores in self.scores.items()
            ],
        }

    def draw(self, folder: Path) -> None:
        """Write confusion matrices (PNG and CSV) and reliability diagrams of all images into a folder."""
        for (protocol, subset), scores in self.scores.items():
            if subset == "all":
                title = f"{self.split}, {protocol}"
                confusion_matrix(scores.confusion, self.classes, folder / f"confusion_{protocol}.png", title)
                reliability(scores.calibration, folder / f"reliability_{protocol}.png", title)
                rows = ([c, *r] for c, r in zip(self.classes, scores.confusion.tolist(), strict=True))
                write_csv(folder / f"confusion_{protocol}.csv", ["truth \\ predicted", *self.classes], rows)


def evaluate(
    network: Network,
    path: Path,
    split: str = "validation",
    protocols: Sequence[str] = PROTOCOLS,
    data: str | None = None,
    classes: tuple[str, ...] | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    faces: FaceChoice = "largest",
) -> Evaluation:
    """Score a network on a data set.

    Args:
        network: See :func:`~mrcar_timm.network.load_network`.
        path: The data set.
        split: "train", "validation" or "test"; "all" of a data set without splits.
        protocols: Some of :data:`PROTOCOLS`.
        data: Name of the data set; by its layout if None.
        classes: Score these alone: other images and logits are left out.
        device: Device of the network.
        progress: Wrapper of long loops.
        faces: Which faces of a user's photos are used: "largest", "all", or "crop" where each is a crop of a face.

    Raises:
        DataError: If the data set is not what its reader expects, or has no such split.
        MRCARError: If the network knows other classes.
    """
    images, columns, name = images_for(network, path, split, data, classes, progress, faces)
    scored = make_split(images, path, network.model.regions, network.size[0], device, progress)
    labels = scored.batches.labels.cpu()
    subsets = {"all": torch.ones(len(images), dtype=torch.bool)}
    if split == "test" and name != "imagefolder" and "train" in DATA_SETS[name].splits:
        subsets["not in train"] = ~torch.from_numpy(contained_in(images, read_split(name, path, "train")))
    widest = max(protocols, key=lambda protocol: len(VIEWS_OF_TEN[protocol]))
    views = predict_logits(network.model, scored.batches, widest, track=partial(progress, description=widest))
    views = views[:, :, columns]
    return Evaluation(
        network=network.name,
        weights_sha256=network.sha256,
        data=images.title or name,
        split=split,
        classes=images.classes,
        data_sha256=images.digest(),
        landmarks=scored.landmarks,
        scores={
            (protocol, subset): score(_views(views, protocol, widest)[:, mask], labels[mask], images.classes)
            for protocol in protocols
            for subset, mask in subsets.items()
        },
    )


def images_for(
    network: Network,
    path: Path,
    split: str,
    data: str | None = None,
    classes: tuple[str, ...] | None = None,
    progress: Progress = silent,
    faces: FaceChoice = "largest",
) -> tuple[ImageSet, list[int], str]:
    """Images of a data set that a network can be scored on, the columns of its logits for their classes, and the name
    of the data set.

    See :func:`evaluate` for arguments and errors.
    """
    name = data or recognize(path)
    images = read_part(name, path, split, FaceSearch(faces, crop_side(network.size[0]), progress))
    if name == "imagefolder":
        meant = tuple(_known_as(label, network.labels) for label in images.classes)
        images = replace(images, classes=meant if len(set(meant)) == len(meant) else images.classes)
        classes = classes or (network.labels if set(images.classes) == set(network.labels) else None)
    if classes is not None:
        images = images.of_classes(classes)
    else:
        check_labels(network.labels, images.classes)
    missing = [label for label in images.classes if label not in network.labels]
    if missing:
        raise MRCARError(f"the network does not know {missing[0]!r}, but {', '.join(network.labels)}")
    columns = [network.labels.index(label) for label in images.classes]
    return images, columns, name


def _views(logits: torch.Tensor, protocol: str, looked_at: str) -> torch.Tensor:
    """The views of one protocol among those of a wider one."""
    if protocol == looked_at:
        return logits
    return logits[VIEWS_OF_TEN[protocol]] if looked_at == "ten" else logits[:1]


def _known_as(label: str, labels: tuple[str, ...]) -> str:
    """What a network calls a class: "happy" may be its "happiness"."""
    if label in labels:
        return label
    meant = next((each for each in labels if expression_or_name(each) == expression_or_name(label)), None)
    return meant or label


def check_labels(labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Raise where a network and a data set have other classes, or another order of them."""
    if labels != classes:
        raise MRCARError(f"the network knows {labels}, the data set has {classes}; --classes scores those they share")
