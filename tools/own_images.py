"""Fine-tuning on images of one's own, played through with CK+: class folders, a table with subjects, own class names.

    python -m tools.own_images folds data/ck/CK+48 runs/own    # goes on where it was stopped
    python -m tools.own_images speed                           # on a quiet machine; then python -m tools.tables

The names of the classes are German, so that the head has no row to take over. Every fold leaves whole subjects out.
"""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from mrcar_timm.checkpoints.folder import write_text
from mrcar_timm.data.ckplus import read_ckplus
from mrcar_timm.data.face_crops import find_faces
from mrcar_timm.experiments.crossval import cross_validate
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


#: Trains a program's images and prints milliseconds an image and epoch, and the memory at its peak in MB.
TRAIN = """
import resource, sys, time
from pathlib import Path
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import Trainer
from mrcar_timm.provenance import provenance
from mrcar_timm.training.recipe import load_recipe

folder = Path(sys.argv[1])
recipe = load_recipe("finetune").changed({"epochs": 2, "faces": "crop", "freeze": sys.argv[2]})
train, validation = load_training(recipe, folder)
trainer = Trainer(recipe, train, None, folder.parent / (folder.name + "-run"))
rows = []
trainer.fit(rows.append)
print(rows[-1]["seconds"] / len(train.data) * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def trained(folder: Path, freeze: str) -> tuple[float, float]:
    """Milliseconds an image and epoch, and MB at the peak, of a process that trains."""
    shutil.rmtree(folder.parent / f"{folder.name}-run", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), freeze], check=True, capture_output=True, text=True
    )  # fmt: skip
    ms, peak = map(float, done.stdout.split())
    return ms, peak


@app.command()
def speed() -> None:
    """Time of training and of finding faces, and memory for each image more."""
    rng = np.random.default_rng(0)
    with Image.open(ROOT / "examples" / "collins.jpg") as image:
        face = image.convert("RGB").crop((120, 0, 330, 230))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        for number in range(12):
            (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            photo = Image.new("RGB", (4000, 3000), tuple(int(v) for v in rng.integers(60, 200, 3)))
            photo.paste(face.resize((1050, 1150)), (int(rng.integers(2900)), int(rng.integers(1800))))
            photo.save(folder / "ab"[number % 2] / f"{number}.jpg", quality=90)
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.jpg"))]
        find_faces(folder, names[:2])
        begin = time.perf_counter()
        crops = find_faces(folder, names)
        photo_ms = (time.perf_counter() - begin) / (len(names) - 2) * 1000
        assert (crops.found == 1).all()
        counts, peaks, train_ms = (500, 2500), [], {}
        for count in counts:
            folder = Path(place) / f"crops-{count}"
            for number in range(count):
                (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
                pixels = np.asarray(face) + rng.normal(0, 8, (1, 1, 3))
                crop = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).rotate(float(rng.uniform(-9, 9)))
                crop.save(folder / "ab"[number % 2] / f"{number}.jpg")
            ms, peak = trained(folder, "none")
            peaks.append(peak)
            train_ms["all layers"] = round(ms, 2)
        train_ms["backbone frozen"] = round(trained(Path(place) / f"crops-{counts[0]}", "backbone")[0], 2)
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    found["speed"] = {
        "photo_ms": round(photo_ms, 1),
        "train_ms": train_ms,
        "memory_mb": round((peaks[1] - peaks[0]) / (counts[1] - counts[0]) * 1000, 1),
        "made_by": provenance(),
    }
    print(json.dumps(found["speed"]))
    write_text(OUT, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app()
