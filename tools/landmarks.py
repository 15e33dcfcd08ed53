"""Count where the landmarks of data sets of face crops come from, into landmarks.csv.

python results/landmarks.py FER2013_FOLDER CKPLUS_FOLDER
"""

import csv
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mrcar_timm.data.fer2013 import read_fer2013
from mrcar_timm.data.landmarks import find_landmarks
from mrcar_timm.provenance import provenance

HERE = Path(__file__).parent


def main(fer2013: Path, ckplus: Path) -> None:
    sets = {f"FER2013 {split}": read_fer2013(fer2013, split).images for split in ("train", "validation", "test")}
    sets["CK+, 48×48"] = np.stack([np.asarray(Image.open(file).convert("L")) for file in sorted(ckplus.rglob("*.png"))])
    with open(HERE / "landmarks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "count", "onet", "cascade", "template"])
        for name, images in sets.items():
            writer.writerow([name, len(images), *find_landmarks(images).counts().values()])
    digests = {name: hashlib.sha256(images.tobytes()).hexdigest() for name, images in sets.items()}
    record = {"pixels_sha256": digests, "made_by": provenance()}
    (HERE / "landmarks.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
