"""Fine-tuning on images of one's own, played through with CK+: class folders, a table with subjects, own class names.

    python -m tools.own_images folds data/ck/CK+48 runs/own    # goes on where it was stopped
    python -m tools.own_images speed                           # on a quiet machine
    python -m tools.own_images memory                          # then python -m tools.tables

The names of the classes are German, so that the head has no row to take over. Every fold leaves whole subjects out.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image

from mrcar_timm.data.ckplus import read_ckplus
from mrcar_timm.data.face_crops import find_faces
from mrcar_timm.experiments.crossval import cross_validate
from mrcar_timm.output import write_text
from mrcar_timm.provenance import provenance
from mrcar_timm.training.recipe import load_recipe

ROOT = Path(__file__).parent.parent
OUT = ROOT / "results" / "own_images.json"
NAMES = {
    "anger": "Wut", "disgust": "Ekel", "fear": "Angst", "happiness": "Freude", "sadness": "Trauer",
    "surprise": "Staunen", "contempt": "Hohn",
}  # fmt: skip
VARIANTS = {"all layers": {}, "backbone frozen": {"freeze": "backbone"}}


app = typer.Typer(add_completion=False)


@app.command()
def folds(ckplus: Path, run: Path, count: int = 10) -> None:
    """Ten folds by subject for each variant."""
    images = read_ckplus(ckplus)
    assert images.subjects is not None
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "faces.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "subject"])
        for name, label, subject in zip(images.names, images.labels, images.subjects, strict=True):
            writer.writerow([(ckplus / str(name)).resolve(), NAMES[images.classes[label]], subject])
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    for variant, changes in VARIANTS.items():
        if variant in found:
            continue
        result = cross_validate(
            load_recipe("finetune").changed(changes), run / "faces.csv", run / variant.replace(" ", "-"), count=count,
            on_fold=lambda fold: print(fold["fold"], round(fold["accuracy"], 4), flush=True),
        )  # fmt: skip
        keep = ("protocol", "folds", "data_sha256", "accuracies", "accuracy", "spread", "images", "recipe", "made_by")
        found[variant] = {key: result[key] for key in keep}
        write_text(OUT, json.dumps(found, indent=2) + "\n")


#: Trains on a folder and prints milliseconds an image and epoch.
TRAIN = """
import sys
from pathlib import Path
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import Trainer
from mrcar_timm.training.recipe import load_recipe

folder = Path(sys.argv[1])
recipe = load_recipe("finetune").changed({"epochs": 2, "faces": "crop", "freeze": sys.argv[2]})
train, validation = load_training(recipe, folder)
rows = []
Trainer(recipe, train, None, folder.parent / sys.argv[2]).fit(rows.append)
print(rows[-1]["seconds"] / len(train.data) * 1000)
"""

#: Loads a folder as training does, and prints the peak of its memory in MB.
LOAD = """
import re, sys
from pathlib import Path
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.recipe import load_recipe

splits = load_training(load_recipe("finetune"), Path(sys.argv[1]))
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def run(program: str, *args: object) -> float:
    """The number that a program prints."""
    command = [sys.executable, "-c", program, *map(str, args)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def face() -> Image.Image:
    with Image.open(ROOT / "examples" / "collins.jpg") as image:
        return image.convert("RGB").crop((120, 0, 330, 230))


def write_crops(folder: Path, count: int) -> Path:
    """So many color images of a face, all different."""
    rng, pixels = np.random.default_rng(0), np.asarray(face())
    for number in range(count):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        colored = (pixels + rng.normal(0, 8, (1, 1, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(colored).rotate(float(rng.uniform(-9, 9))).save(folder / "ab"[number % 2] / f"{number}.jpg")
    return folder


def write_photos(folder: Path, count: int) -> list[str]:
    """So many photos of 12 megapixels with a face each; their names."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        photo = Image.new("RGB", (4000, 3000), tuple(int(v) for v in rng.integers(60, 200, 3)))
        photo.paste(face().resize((1050, 1150)), (int(rng.integers(2900)), int(rng.integers(1800))))
        photo.save(folder / f"{number}.jpg", quality=90)
    return [f"{number}.jpg" for number in range(count)]


def keep(name: str, values: dict[str, Any]) -> None:
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    found[name] = values | {"made_by": provenance()}
    print(json.dumps(found[name]))
    write_text(OUT, json.dumps(found, indent=2) + "\n")


@app.command()
def speed() -> None:
    """Milliseconds of training and of finding faces."""
    with tempfile.TemporaryDirectory() as place:
        names = write_photos(Path(place) / "photos", 12)
        find_faces(Path(place) / "photos", names[:2])
        begin = time.perf_counter()
        crops = find_faces(Path(place) / "photos", names)
        photo_ms = (time.perf_counter() - begin) / (len(names) - 2) * 1000
        assert (crops.found == 1).all()
        folder = write_crops(Path(place) / "crops", 500)
        freezes = {"all layers": "none", "backbone frozen": "backbone"}
        train_ms = {name: round(run(TRAIN, folder, freeze), 2) for name, freeze in freezes.items()}
    keep("speed", {"photo_ms": round(photo_ms, 1), "train_ms": train_ms})


@app.command()
def memory() -> None:
    """What a process needs for each image more, from its peaks with few and with many."""
    counts = (500, 2500)
    with tempfile.TemporaryDirectory() as place:
        few, many = (run(LOAD, write_crops(Path(place) / str(count), count)) for count in counts)
    keep("memory", {"mb_for_1000": round((many - few) / (counts[1] - counts[0]) * 1000, 1)})


if __name__ == "__main__":
    app()
