"""The packaged weights' numbers: from a run and its scores to results/, to their record and to the README.

python -m results.collect training runs/third     # how the weights were made
python -m results.collect scores runs/third       # validation/ and test/, as mrcar eval writes them
python -m results.collect readme
"""

import csv
import dataclasses
import json
import shutil
import sys
from pathlib import Path

from mrcar_timm.models.checkpoints import CHECKPOINTS, WEIGHTS_DIR
from mrcar_timm.plots import curves
from mrcar_timm.training.engine import read_log

from .readme import section, write_section

HERE = Path(__file__).parent
NAME = "mrcar_resnet.fer2013"
TITLES = {"one": "one crop", "mirror": "mirrored pair", "ten": "ten crops"}
PAPER = "74.50%"
SPLITS = ("validation", "test")


def chain(run: Path) -> list[tuple[dict, list[dict[str, float]]]]:
    """Config and log of a run, behind those of the runs it started from."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    init = config["recipe"].get("init")
    return [*(chain(Path(init)) if init else []), (config, read_log(run / "log.csv"))]


def read(name: str):
    """What a JSON file of this folder holds."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def write(name: str, values: object) -> None:
    (HERE / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def landmark_rows() -> list[str]:
    """Rows of the README's table from landmarks.csv."""
    with open(HERE / "landmarks.csv", newline="", encoding="utf-8") as file:
        return [
            f"| {row['data']} | {row['count']} | "
            + " | ".join(f"{int(row[source]) / int(row['count']):.1%}" for source in ("onet", "cascade", "template"))
            + " |"
            for row in csv.DictReader(file)
        ]


def calibration_rows(records: dict[str, dict]) -> list[str]:
    """Rows of the README's table: before and after the temperature."""
    return [
        f"| {split}, {TITLES[row['protocol']]} | {row['raw_ece']:.1%} | {row['ece']:.1%} | "
        f"{row['raw_nll']:.3f} | {row['nll']:.3f} |"
        for split, record in records.items()
        for row in record["rows"]
        if row["pictures"] == "all" and row["protocol"] != "mirror"
    ]


def render() -> str:
    """The README's section of numbers, from the files of this folder."""
    records = {split: read(f"fer2013_{split}") for split in SPLITS}
    epochs = [str(run["recipe"]["epochs"]) for run in read("fer2013_training")]
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
            f"The network has {CHECKPOINTS[NAME].num_params / 1e6:.2f} million parameters. The paper trains for 200 "
            "epochs and removes images without a face; which and how many it does not say. These weights come from "
            f"runs of {', '.join(epochs[:-1])} and {epochs[-1]} epochs, each from the best weights of the one "
            "before it, on the training split, less the pictures that stand in another split too.",
            "",
            f"Probabilities are calibrated: the logits are divided by a temperature, {records['test']['temperature']}, "
            "fitted on the validation split, one crop. Expected calibration error (ECE, 15 bins) and negative "
            "log-likelihood before and after ([diagram](results/fer2013_test_reliability_one.png)):",
            "",
            "| | ECE before | after | NLL before | after |",
            "|---|---|---|---|---|",
            *calibration_rows(records),
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


def training(run: Path) -> None:
    """Copy what says how the weights were made."""
    runs = chain(run)
    write("fer2013_training", [config for config, _ in runs])
    rows = [row for _, log in runs for row in log]
    log = [{**row, "epoch": number} for number, row in enumerate(rows, 1)]
    with open(HERE / "fer2013_log.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(log[-1]), restval="")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in log)
    curves(log, HERE / "fer2013_curves.png")


def scores(folder: Path) -> None:
    """Copy the scores, and write them into the weights' record."""
    checkpoint = CHECKPOINTS[NAME]
    records = {split: json.loads((folder / split / "scores.json").read_text(encoding="utf-8")) for split in SPLITS}
    for split, record in records.items():
        if record["weights_sha256"] != checkpoint.sha256:
            sys.exit(f"{folder / split} was scored with other weights than the packaged ones")
        write(f"fer2013_{split}", record)
    for name in ("confusion_ten.csv", "confusion_ten.png", "reliability_one.png"):
        shutil.copy(folder / "test" / name, HERE / f"fer2013_test_{name}")

    def of_rows(*keys: str) -> dict[str, dict[str, dict[str, float]]]:
        return {
            split: {f"{row['protocol']}, {row['pictures']}": {key: row[key] for key in keys} for row in record["rows"]}
            for split, record in records.items()
        }

    accuracy = {
        split: {name: row["accuracy"] for name, row in rows.items()} for split, rows in of_rows("accuracy").items()
    }
    checkpoint = dataclasses.replace(
        checkpoint, scores=accuracy, calibration=of_rows("raw_ece", "ece", "raw_nll", "nll")
    )
    (WEIGHTS_DIR / f"{NAME}.json").write_text(checkpoint.to_json(), encoding="utf-8")


def readme() -> None:
    write_section("scores", section("scores", "collect", render()))


if __name__ == "__main__":
    {"training": training, "scores": scores, "readme": readme}[sys.argv[1]](*map(Path, sys.argv[2:]))
