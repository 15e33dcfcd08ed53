"""Copy the scores of a packaged run into results/ and into the record of the weights.

    python results/collect.py runs/second
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

from mrcar_timm.models.checkpoints import CHECKPOINTS, WEIGHTS_DIR

run, here = Path(sys.argv[1]), Path(__file__).parent
checkpoint = CHECKPOINTS["mrcar_resnet.fer2013"]
scores = {}
for split in ("validation", "test"):
    record = json.loads((run / split / "scores.json").read_text(encoding="utf-8"))
    if record["weights_sha256"] != checkpoint.sha256:
        sys.exit(f"{run / split} was scored with other weights than the packaged ones")
    (here / f"fer2013_{split}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    scores[split] = {f"{row['protocol']}, {row['pictures']}": row["accuracy"] for row in record["rows"]}
for name in ("confusion_ten.csv", "confusion_ten.png"):
    shutil.copy(run / "test" / name, here / f"fer2013_test_{name}")
shutil.copy(run / "log.csv", here / "fer2013_log.csv")
shutil.copy(run / "curves.png", here / "fer2013_curves.png")
updated = dataclasses.replace(checkpoint, scores=scores)
(WEIGHTS_DIR / f"{checkpoint.name}.json").write_text(updated.to_json(), encoding="utf-8")
