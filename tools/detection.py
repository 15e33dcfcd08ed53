"""How many faces detectors find and invent, by size, angle, blur, light, crowding and clutter.

python -m tools.detection          # results/detection.json and .png, from scenes that the tests compose
python -m tools.tables             # then, docs/results.md
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import typer
from facenet_pytorch import MTCNN
from PIL import Image, ImageFilter
from tests.scenes import Scene, composed, found_and_invented

from mrcar_timm import MTCNNDetector
from mrcar_timm.experiments.benchmark import one_thread
from mrcar_timm.provenance import provenance

from .measure import RESULTS, write

matplotlib.use("agg")
from matplotlib import pyplot as plt

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
DEFAULT = 0.7
IMAGES = 3  # a condition
#: Ours by default and at any angle, our copy of the original driver, and the original.
DRIVERS = ("ours", "any_angle", "exact", "facenet-pytorch")
Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def changed(change: Callable[[np.ndarray, np.random.Generator], np.ndarray], scene: Scene, seed: int) -> Scene:
    image, centres, heights = scene
    values = change(image.astype(np.float32), np.random.default_rng(seed))
    return values.round().clip(0, 255).astype(np.uint8), centres, heights


def blurred(radius: float, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = Image.fromarray(values.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image).astype(np.float32)


def dimmed(gain: float, offset: float, noise: float, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return values * gain + offset + rng.normal(0, noise, values.shape)


def darkened(gamma: float, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255 * (values / 255) ** gamma


def scenes(seed: int) -> Iterator[tuple[str, str, Scene]]:
    """Kind, condition and an image of it."""
    for low, high in ((14, 20), (20, 28), (28, 40), (40, 80), (80, 160)):
        count = 60 if high <= 40 else 20
        yield "height", f"{low} to {high} pixels", composed(count, (1280, 960), seed, (low, high))
    for low, high in ((0, 15), (15, 30), (30, 45), (45, 60), (60, 90), (90, 135), (135, 180)):
        yield "angle", f"{low}° to {high}°", composed(20, (1280, 960), seed, (50, 120), (low, high))
    for radius in (1, 2, 3, 4):
        scene = composed(20, (1280, 960), seed, (60, 100))
        yield "blur", f"σ {radius} pixels, faces of 60 to 100", changed(partial(blurred, radius), scene, seed)
    light: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
        "brightness ×0.3": partial(dimmed, 0.3, 0, 0),
        "brightness ×0.08": partial(dimmed, 0.08, 0, 0),
        "brightness ×0.25, noise 10": partial(dimmed, 0.25, 0, 10),
        "contrast ×0.2": partial(dimmed, 0.2, 150, 0),
        "gamma 3": partial(darkened, 3),
    }
    for name, change in light.items():
        yield "light", name, changed(change, composed(20, (1280, 960), seed, (40, 100)), seed)
    for count in (20, 100, 200):
        yield "crowding", f"{count} faces of 20 to 40 pixels", composed(count, (1024, 768), seed, (20, 40))
    for degrees in (15, 45):
        turned = composed(20, (1600, 1200), seed, (60, 130), (0, degrees), cluttered=True, glasses=0.5)
        yield "clutter", f"half with dark glasses, up to {degrees}°", turned
    yield "no face", "clutter", composed(0, (1600, 1200), seed, (0, 0), cluttered=True)
    yield "no face", "random colors", composed(0, (1280, 960), seed, (0, 0))


def ours(threshold: float, any_angle: bool = False, exact: bool = False) -> Find:
    detector = MTCNNDetector(thresholds=(0.6, 0.7, threshold), any_angle=any_angle, exact=exact)

    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = detector(image)
        return found.boxes, found.scores

    return find


def facenet(threshold: float) -> Find:
    detector = MTCNN(keep_all=True, thresholds=[0.6, 0.7, threshold])

    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes, scores, _ = detector.detect(image, landmarks=True)
        return (np.zeros((0, 4)), np.zeros(0)) if boxes is None else (boxes.astype(float), scores.astype(float))

    return find


def drivers() -> dict[str, dict[float, Find]]:
    """How each driver finds faces, by threshold of the O-Net.

    Where a threshold is missing, the faces of the lowest one are filtered by score, as the original driver does.
    """
    return {
        "ours": {threshold: ours(threshold) for threshold in THRESHOLDS},
        "any_angle": {threshold: ours(threshold, any_angle=True) for threshold in (DEFAULT, THRESHOLDS[0])},
        "exact": {DEFAULT: ours(DEFAULT, exact=True), THRESHOLDS[0]: ours(THRESHOLDS[0], exact=True)},
        "facenet-pytorch": {DEFAULT: facenet(DEFAULT), THRESHOLDS[0]: facenet(THRESHOLDS[0])},
    }


def look(find: dict[float, Find], scene: Scene) -> tuple[dict[str, list[int]], float]:
    """Faces found and invented by threshold; and the seconds that the default takes."""
    image, *truth = scene
    start = time.perf_counter()
    find[DEFAULT](image)
    seconds = time.perf_counter() - start
    boxes, scores = find[THRESHOLDS[0]](image)
    counts = {}
    for threshold in THRESHOLDS:
        some = find[threshold](image)[0] if threshold in find else boxes[scores > threshold]
        counts[str(threshold)] = list(found_and_invented(some, *truth))
    return counts, seconds


def main(images: int = IMAGES) -> None:
    """Count them."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    digest = hashlib.sha256()
    with one_thread():
        every = drivers()
        warm = composed(5, (640, 480), 0, (40, 80))
        for find in every.values():
            for each in find.values():
                each(warm[0])
        for seed in range(images):
            for kind, condition, scene in scenes(seed):
                digest.update(scene[0].tobytes())
                row = rows.setdefault(
                    (kind, condition), {"kind": kind, "condition": condition, "images": 0, "faces": 0}
                )
                row["images"] += 1
                row["faces"] += len(scene[1])
                for name, find in every.items():
                    counts, seconds = look(find, scene)
                    sums = row.setdefault(name, {"seconds": 0.0, "found_invented": {}})
                    sums["seconds"] += seconds
                    for threshold, (found, invented) in counts.items():
                        before = sums["found_invented"].get(threshold, [0, 0])
                        sums["found_invented"][threshold] = [before[0] + found, before[1] + invented]
                print(seed, row, flush=True)
    record = {"scenes_sha256": digest.hexdigest(), "made_by": provenance(), "rows": list(rows.values())}
    write("detection", record)
    draw(record["rows"], RESULTS / "detection.png")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Recall against invented faces an image, over all scenes in which a face is turned by 45° at most."""
    usual = [row for row in rows if row["kind"] != "angle" or row["condition"].endswith((" 15°", " 30°", " 45°"))]
    faces, images = (sum(row[key] for row in usual) for key in ("faces", "images"))
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in DRIVERS:
        sums = np.array([[row[name]["found_invented"][str(t)] for t in THRESHOLDS] for row in usual]).sum(0)
        axes.plot(sums[:, 1] / images, 100 * sums[:, 0] / faces, marker=".", label=name)
    axes.set(xlabel="invented faces an image", ylabel="faces found, %", title="O-Net's threshold from 0.5 to 0.99")
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
