"""Fine-tuning on images of one's own, played through with CK+: class folders, a table with subjects, own class names.

    python -m tools.own_images data/ck/CK+48 runs/own    # goes on where it was stopped; then python -m tools.tables

The names of the classes are German, so that the head has no row to take over. Every fold leaves whole subjects out.
"""

import csv
import json
import time
from pathlib import Path

import typer

from mrcar_timm.checkpoints.folder import write_text
from mrcar_timm.data.ckplus import read_ckplus
from mrcar_timm.experiments.crossval import cross_validate
from mrcar_timm.training.recipe import load_recipe

OUT = Path(__file__).parent.parent / "results" / "own_images.json"
NAMES = {
    "anger": "Wut", "disgust": "Ekel", "fear": "Angst", "happiness": "Freude", "sadness": "Trauer",
    "surprise": "Staunen", "contempt": "Hohn",
}  # fmt: skip
VARIANTS = {"all layers": {}, "backbone frozen": {"freeze": "backbone"}}


def main(ckplus: Path, run: Path, folds: int = 10) -> None:
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
        begin = time.time()
        result = cross_validate(
            load_recipe("finetune").changed(changes), run / "faces.csv", run / variant.replace(" ", "-"), count=folds,
            on_fold=lambda fold: print(fold["fold"], round(fold["accuracy"], 4), flush=True),
        )  # fmt: skip
        keep = ("protocol", "folds", "data_sha256", "accuracies", "accuracy", "spread", "images", "recipe", "made_by")
        found[variant] = {key: result[key] for key in keep} | {"minutes": round((time.time() - begin) / 60, 1)}
        write_text(OUT, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
