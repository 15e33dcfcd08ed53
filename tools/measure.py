r"""Measurements behind docs/results.md that no command of mrcar makes; each writes a file in results/.

python -m tools.measure scores mrcar_mobilenet.ferplus runs/ferplus     # what mrcar eval wrote to validation/, test/
python -m tools.measure landmarks fer2013 CK+48
python -m tools.measure regions fer2013
python -m tools.measure cross runs/cross                 # what the loop below writes
python -m tools.measure subjects CK+48
python -m tools.measure light fer2013
python -m tools.measure calibration fer2013
python -m tools.measure embeddings fer2013
python -m tools.measure looks fer2013 CK+48
python -m tools.measure faces                            # beside mrcar bench faces
python -m tools.tables                                   # then, docs/results.md

for model in mrcar_mobilenet.everyday mrcar_mobilenet.fer2013 …; do
  mrcar eval --data CK+48 --split all --protocol one --model $model --out runs/cross/$model-ckplus \
      --classes anger,disgust,fear,happiness,sadness,surprise
  for name in fer2013 ferplus; do
    mrcar eval --data fer2013 --name $name --protocol one --model $model --out runs/cross/$model-$name \
        --classes anger,disgust,fear,happiness,sadness,surprise,neutral
  done
done
"""

import csv
import hashlib
import json
import math
import shutil
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import combinations, product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from PIL import Image
from torch import nn

from mrcar_timm import ExpressionRecognizer, FaceTracker
from mrcar_timm.checkpoints.packaged import PACKAGED, WEIGHTS_DIR, default_name
from mrcar_timm.checkpoints.record import RECORD_NAME, with_scores
from mrcar_timm.data.fer2013 import read_fer2013
from mrcar_timm.data.image_set import ImageSet
from mrcar_timm.data.landmarks import cache_beside, find_landmarks
from mrcar_timm.data.sets import SPLITS, read_split
from mrcar_timm.data.splits import read_validation
from mrcar_timm.experiments.robustness import LIGHT, damaged
from mrcar_timm.frames import VideoWriter
from mrcar_timm.metrics import macro_f1, score
from mrcar_timm.network import load_network
from mrcar_timm.output import write_text
from mrcar_timm.provenance import provenance
from mrcar_timm.regions.geometry import REGIONS
from mrcar_timm.tracking import looks_of
from mrcar_timm.training.batches import make_split
from mrcar_timm.training.evaluate import VIEWS_OF_TEN, predict_logits, protocol_changes
from mrcar_timm.video import follow_video

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
TAGS = ("fer2013", "ferplus")
SCALE = 16.0  # of the ArcFace heads in training, before the temperature went into it
SEEN = {", ".join(seen): seen for count in (3, 2, 1) for seen in combinations(REGIONS, count)}

app = typer.Typer(add_completion=False)


def write(name: str, values: object) -> None:
    write_text(RESULTS / f"{name}.json", json.dumps(values, indent=2) + "\n")


class Covered(nn.Module):
    """A network that sees some of its regions; the others are filled with their mean."""

    def __init__(self, model: Any, seen: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.in_chans = model, model.in_chans
        self.covered = [index for index, region in enumerate(REGIONS) if region not in seen]

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        regions = regions.clone()
        regions[:, self.covered] = regions[:, self.covered].mean((3, 4), keepdim=True)
        return self.model(regions)


@app.command()
def regions(folder: Path) -> None:
    """Score mrcar_resnet's weights on the validation split when they see some of the regions; older columns stay."""
    before = json.loads((RESULTS / "regions.json").read_text(encoding="utf-8"))
    digests, accuracy = before["weights_sha256"], {name: before["accuracy"].get(name, {}) for name in SEEN}
    data_digests, frequent = {}, {}
    for tag in TAGS:
        data = read_validation(tag, folder)
        batches = make_split(data, folder, REGIONS, 44).batches
        network = load_network(f"mrcar_resnet.{tag}")
        for name, seen in SEEN.items():
            logits = predict_logits(Covered(network.model, seen), batches)
            accuracy[name][tag] = score(logits, batches.labels, network.labels).accuracy
        digests[tag], data_digests[tag] = network.sha256, data.digest()
        frequent[tag] = float(np.bincount(data.labels).max() / len(data))
    found = {"weights_sha256": digests, "data_sha256": data_digests, "most_frequent_class": frequent}
    write("regions", {**found, "split": "validation", "accuracy": accuracy, "made_by": provenance()})


@app.command()
def cross(folder: Path) -> None:
    """Gather the scores of all weights on each data set."""
    names = [f"{name}-{data}" for name in PACKAGED for data in ("ckplus", "fer2013", "ferplus")]
    write("cross", {name: json.loads((folder / name / "scores.json").read_text(encoding="utf-8")) for name in names})


@app.command()
def subjects(folder: Path) -> None:
    """How far the default weights are ahead of the others on CK+, and how much of that is who was photographed."""
    crossed = json.loads((RESULTS / "cross.json").read_text(encoding="utf-8"))
    first = default_name()
    classes = tuple(crossed[f"{first}-ckplus"]["classes"])
    data = read_split("ckplus", folder, "all").of_classes(classes)
    names, of = np.unique(data.subjects, return_inverse=True)
    confusion = {}
    for name in PACKAGED:
        network = load_network(name)
        batches = make_split(data, folder, REGIONS, network.size[0]).batches
        logits = predict_logits(network.model, batches)[0, :, [network.labels.index(name) for name in classes]]
        confusion[name] = np.zeros((len(names), len(classes), len(classes)), np.int64)
        np.add.at(confusion[name], (of, data.labels, logits.argmax(1).numpy()), 1)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), 10_000)
    over: dict[str, dict[str, Any]] = {}
    for other in (name for name in PACKAGED if name != first):
        over[other] = {}
        for metric in (accuracy, macro_f1):
            ours, theirs = (metric(confusion[name].sum(0)) for name in (first, other))
            redrawn = [metric(np.tensordot(drawn, confusion[name], 1)) for name in (first, other)]
            interval = np.percentile(redrawn[0] - redrawn[1], [2.5, 97.5])
            over[other][metric.__name__] = {"gain": float(ours - theirs), "interval": interval.tolist()}
    record = {
        "weights_sha256": {name: record.sha256 for name, record in PACKAGED.items()},
        "data": "ckplus", "subjects": len(names), "count": len(data), "data_sha256": data.digest(),
        "of": f"{first} over the others, one crop; 95 % of 10,000 draws of as many subjects with replacement",
        "over": over, "made_by": provenance(),
    }  # fmt: skip
    write("subjects", record)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Accuracy of confusion matrices (..., K, K)."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


@app.command()
def landmarks(fer2013: Path, ckplus: Path) -> None:
    """Count where the landmarks of face crops come from."""
    sets = {f"FER2013 {split}": read_fer2013(fer2013, split).images for split in ("train", *SPLITS)}
    sets["CK+, 48×48"] = np.stack([np.asarray(Image.open(file).convert("L")) for file in sorted(ckplus.rglob("*.png"))])
    with open(RESULTS / "landmarks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "count", "onet", "cascade", "template"])
        for name, images in sets.items():
            writer.writerow([name, len(images), *find_landmarks(images).counts().values()])
    digests = {name: hashlib.sha256(images.tobytes()).hexdigest() for name, images in sets.items()}
    write("landmarks", {"pixels_sha256": digests, "made_by": provenance()})


@app.command()
def scores(name: str, run: Path) -> None:
    """Copy the scores of packaged weights, and write them into their record."""
    record = with_scores(PACKAGED[name], {split: run / split for split in SPLITS})
    folder = RESULTS / "scores" / name
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        shutil.copy(run / split / "scores.json", folder / f"{split}.json")
    for file in ("confusion_ten.csv", "confusion_ten.png", "reliability_one.png"):
        shutil.copy(run / "test" / file, folder / file)
    write_text(WEIGHTS_DIR / name / RECORD_NAME, record.to_json())
    history = json.loads((RESULTS / "history.json").read_text(encoding="utf-8"))
    found = {split: {key: row["accuracy"] for key, row in rows.items()} for split, rows in record.scores.items()}
    trained_on = "; ".join(f"{each['title']}, {each['part']}" for each in record.data)
    write("history", {**history, name: {"sha256": record.sha256, "data": trained_on, "scores": found}})


def accuracy_in(damage: str, tag: str, data: Path, stretch: bool) -> dict[str, Any]:
    """Accuracy of packaged weights on the validation split of their own data, with or without exposure normalized."""
    network = load_network(f"mrcar_resnet.{tag}")
    images = damaged(read_split(tag, data, "validation"), damage, data)
    with ExitStack() as stack:
        if not stretch:
            for place in ("training.batches.normalize_exposure", "faces.mtcnn.stretched_image"):
                stack.enter_context(patch(f"mrcar_timm.{place}", lambda values: values))
        # Landmarks of their own for each way: the cache knows images, not how they were searched.
        with TemporaryDirectory() as cache:
            stack.enter_context(patch("mrcar_timm.training.batches.cache_beside", lambda path: Path(cache)))
            scored = make_split(images, data, network.model.regions, network.size[0])
            labels = scored.batches.labels
            accuracy = score(predict_logits(network.model, scored.batches), labels, images.classes).accuracy
    return {"accuracy": accuracy, "landmarks": scored.landmarks}


@app.command()
def light(data: Path) -> None:
    """Images in other light, with exposure normalized and as they are."""
    cells = [(damage, tag, data, stretch) for damage in ("none", *LIGHT) for tag in TAGS for stretch in (True, False)]
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        found = pool.map(accuracy_in, *zip(*cells, strict=True))
        rows = [
            {"damage": damage, "network": tag, "normalized": stretch} | result
            for (damage, tag, _, stretch), result in zip(cells, found, strict=True)
        ]
    write(
        "light",
        {
            "weights_sha256": {tag: PACKAGED[f"mrcar_resnet.{tag}"].sha256 for tag in TAGS},
            "data_sha256": {tag: read_split(tag, data, "validation").digest() for tag in TAGS},
            "split": "validation",
            "made_by": provenance(),
            "rows": rows,
        },
    )


@app.command()
def calibration(data: Path) -> None:
    """What the temperature in the heads of mrcar_resnet changes, on validation and test."""
    rows = []
    for tag, split in product(TAGS, SPLITS):
        network = load_network(f"mrcar_resnet.{tag}")
        temperature = SCALE / network.model.head.scale
        images = read_split(tag, data, split)
        batches = make_split(images, data, network.model.regions, network.size[0]).batches
        logits = predict_logits(network.model, batches, "ten")
        for protocol, views in VIEWS_OF_TEN.items():
            row: dict[str, Any] = {"network": tag, "split": split, "protocol": protocol, "temperature": temperature}
            for name, factor in {"without": temperature, "with": 1.0}.items():
                found = score(logits[views] * factor, batches.labels, images.classes)
                row[name] = {"ece": found.calibration.ece, "nll": found.nll}
            rows.append(row)
    digests = {tag: PACKAGED[f"mrcar_resnet.{tag}"].sha256 for tag in TAGS}
    write("calibration", {"weights_sha256": digests, "made_by": provenance(), "rows": rows})


@app.command()
def embeddings(data: Path) -> None:
    """How often the faces next to one have its expression: FER+'s validation split, each image against the others."""
    images = read_split("ferplus", data, "validation")
    rows = []
    for network in map(load_network, PACKAGED):
        if network.labels != images.classes:
            continue
        model = network.model
        batches = make_split(images, data, model.regions, network.size[0]).batches
        embedded = []
        with torch.inference_mode():
            for some in torch.arange(len(batches)).split(32):
                regions = batches.view(some, protocol_changes("one")[0]).expand(-1, -1, model.in_chans, -1, -1)
                embedded.append(model.forward_head(model.forward_features(regions), pre_logits=True))
            everything = torch.cat(embedded)
            guessed = model.get_classifier()(everything).argmax(1)
            units = torch.nn.functional.normalize(everything)
        cosines = (units @ units.T).fill_diagonal_(-1)
        same = batches.labels[cosines.topk(10).indices] == batches.labels[:, None]
        parts = torch.bincount(batches.labels).double() / len(batches)
        rows.append(
            {
                "network": network.name,
                "count": len(batches),
                "nearest": float(same[:, 0].double().mean()),
                "ten": float(same.double().mean()),
                "chance": float(parts.square().sum()),
                "classified": float((guessed == batches.labels).double().mean()),
            }
        )
    digests = {row["network"]: PACKAGED[row["network"]].sha256 for row in rows}
    write("embeddings", {"weights_sha256": digests, "made_by": provenance(), "rows": rows})


def correlations(images: ImageSet, data: Path) -> np.ndarray:
    """(N, N), how alike the faces of a data set are to those who track them."""
    points = find_landmarks(images.images, cache_beside(data)).points
    crops = np.repeat(images.images[..., None], 3, 3)
    looks = np.concatenate([looks_of(crop, at[None]) for crop, at in zip(crops, points, strict=True)])
    return looks @ looks.T


@app.command()
def looks(fer2013: Path, ckplus: Path) -> None:
    """How alike two people, and one person's frames and expressions, look to `mrcar video`."""
    people = correlations(read_split("fer2013", fer2013, "validation"), fer2013)
    sequences = read_split("ckplus", ckplus, "all")
    alike = correlations(sequences, ckplus)
    assert sequences.subjects is not None
    same = sequences.subjects[:, None] == sequences.subjects
    frames = [str(name).rsplit("/", 1)[-1].split(".")[0].split("_") for name in sequences.names]
    sequence = np.array([frame[0] + frame[1] for frame in frames])
    number = np.array([int(frame[2]) for frame in frames])
    in_a_row = (sequence[:, None] == sequence) & (abs(number[:, None] - number) == 1)
    pairs = {
        "two people, FER2013": people[np.triu_indices(len(people), 1)],
        "two people, CK+": alike[~same],
        "one person, other expressions, CK+": alike[same & (sequence[:, None] != sequence)],
        "frames in a row, CK+": alike[in_a_row],
    }
    rows = [
        {
            "pairs": name,
            "below": {str(limit): float((values < limit).mean()) for limit in (0.75, 0.8, 0.87)},
            "percentiles": {str(q): float(np.percentile(values, q)) for q in (0.1, 1, 5, 50, 95, 99, 99.9)},
        }
        for name, values in pairs.items()
    ]
    write("looks", {"made_by": provenance(), "rows": rows})


def film(file: Path, frames: int = 300) -> None:
    """A camera that moves and turns over the portrait, 640×480."""
    with Image.open(ROOT / "examples" / "collins.jpg") as portrait, VideoWriter(file, 30) as writer:
        for k in range(frames):
            zoom, angle = 0.55 + 0.1 * math.sin(k / 25), math.radians(8 * math.sin(k / 20))
            x, y = 256 + 60 * math.sin(k / 18), 180 + 30 * math.cos(k / 13)
            c, s = zoom * math.cos(angle), zoom * math.sin(angle)
            affine = (c, -s, x - c * 320 + s * 240, s, c, y - s * 320 - c * 240)
            frame = portrait.transform((640, 480), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
            writer.write(np.asarray(frame), k / 30)


def frames_per_second() -> list[float]:
    """Speed of decoding, tracking, recognizing, drawing and encoding together, with the table; five runs."""
    recognizer = ExpressionRecognizer()
    with TemporaryDirectory() as folder:
        here = Path(folder)
        film(here / "film.mp4")
        runs = [
            follow_video(here / "film.mp4", FaceTracker(recognizer), here / "out.mp4", here / "faces.csv")
            for _ in range(5)
        ]
    assert all(set(run.faces) == {1} and run.faces[1].frames == run.frames == 300 for run in runs)
    return [round(run.frames_per_second, 1) for run in runs]


@app.command()
def faces() -> None:
    """The speed of a video."""
    write("faces_more", {"made_by": provenance(), "video_frames_per_second": frames_per_second()})


if __name__ == "__main__":
    app()
