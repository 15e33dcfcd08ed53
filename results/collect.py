"""Copy the scores of a packaged run into results/, into the record of the weights and into the README.

python results/collect.py runs/second
"""

import csv
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

from mrcar_timm.models.checkpoints import CHECKPOINTS, WEIGHTS_DIR, Checkpoint
from mrcar_timm.plots import curves
from mrcar_timm.training.engine import read_log

HERE = Path(__file__).parent
NAME = "mrcar_resnet.fer2013"
TITLES = {"one": "one crop", "mirror": "mirrored pair", "ten": "ten crops"}
PAPER = "74.50%"


def chain(run: Path) -> list[tuple[dict, list[dict[str, float]]]]:
    """Config and log of a run, behind those of the runs it started from."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    init = config["recipe"].get("init")
    return [*(chain(Path(init)) if init else []), (config, read_log(run / "log.csv"))]


def landmark_rows() -> list[str]:
    """Rows of the README's table from landmarks.csv."""
    with open(HERE / "landmarks.csv", newline="", encoding="utf-8") as file:
        return [
            f"| {row['data']} | {row['count']} | "
            + " | ".join(f"{int(row[source]) / int(row['count']):.1%}" for source in ("onet", "cascade", "template"))
            + " |"
            for row in csv.DictReader(file)
        ]


def scores_table(records: dict[str, dict], checkpoint: Checkpoint, epochs: list[int]) -> str:
    """The README's section of numbers."""
    lines = ["| FER2013, accuracy | validation | test | the paper, test |", "|---|---|---|---|"]
    cells = {
        split: {(row["protocol"], row["pictures"]): f"{row['accuracy']:.2%}" for row in record["rows"]}
        for split, record in records.items()
    }
    for (protocol, pictures), test in cells["test"].items():
        title = TITLES[protocol]
        if pictures != "all":
            title += ", without duplicates of the training set"
        validation = cells["validation"].get((protocol, pictures), "")
        paper = PAPER if (protocol, pictures) == ("ten", "all") else ""
        lines.append(f"| {title} | {validation} | {test} | {paper} |")
    ten = next(r for r in records["test"]["rows"] if (r["protocol"], r["pictures"]) == ("ten", "all"))
    recall = ", ".join(f"{name} {value:.0%}" for name, value in ten["recall"].items())
    made = records["test"]["made_by"]
    return "\n".join(
        [
            *lines,
            "",
            f"Recall by class with ten crops, test: {recall}. Macro-F1: {ten['macro_f1']:.1%}.",
            "",
            f"The network has {checkpoint.num_params / 1e6:.2f} million parameters. The paper trains for 200 epochs "
            "and removes images without a face; which and how many it does not say. These weights come from runs of "
            f"{', '.join(map(str, epochs[:-1]))} and {epochs[-1]} epochs, each from the best weights of the one "
            "before it, on the training split, less the pictures that stand in another split too.",
            "",
            "Where the landmarks of tight face crops come from: the O-Net on the whole picture, else the cascade "
            "on the enlarged picture, else the template.",
            "",
            "| pictures | count | O-Net | cascade | template |",
            "|---|---|---|---|---|",
            *landmark_rows(),
            "",
            f"Measured on: {made['machine']}. Commands, digests and confusion matrix: "
            "[results/](results), [curves](results/fer2013_curves.png).",
        ]
    )


def main(run: Path) -> None:
    checkpoint = CHECKPOINTS[NAME]
    records = {}
    for split in ("validation", "test"):
        record = json.loads((run / split / "scores.json").read_text(encoding="utf-8"))
        if record["weights_sha256"] != checkpoint.sha256:
            sys.exit(f"{run / split} was scored with other weights than the packaged ones")
        (HERE / f"fer2013_{split}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        records[split] = record
    for name in ("confusion_ten.csv", "confusion_ten.png"):
        shutil.copy(run / "test" / name, HERE / f"fer2013_test_{name}")
    runs = chain(run)
    (HERE / "fer2013_training.json").write_text(
        json.dumps([config for config, _ in runs], indent=2) + "\n", encoding="utf-8"
    )
    rows = [row for _, log in runs for row in log]
    log = [{**row, "epoch": number} for number, row in enumerate(rows, 1)]
    with open(HERE / "fer2013_log.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(log[0]))
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in log)
    curves(log, HERE / "fer2013_curves.png")
    scores = {
        split: {f"{row['protocol']}, {row['pictures']}": row["accuracy"] for row in record["rows"]}
        for split, record in records.items()
    }
    checkpoint = dataclasses.replace(checkpoint, scores=scores)
    (WEIGHTS_DIR / f"{NAME}.json").write_text(checkpoint.to_json(), encoding="utf-8")
    readme = HERE.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    table = scores_table(records, checkpoint, [config["recipe"]["epochs"] for config, _ in runs])
    text = re.sub(r"(<!-- scores: .*? -->\n).*?(<!-- /scores -->)", rf"\1{table}\n\2", text, flags=re.S)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
