"""The packaged weights' numbers: from a run and its scores to results/, to their record and to the README.

python -m results.collect training ferplus runs/ferplus   # how the weights were made
python -m results.collect scores ferplus runs/ferplus     # validation/ and test/, as mrcar eval writes them
python -m results.collect readme
"""

import csv
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

from mrcar_timm.training.package import starts_of, with_scores, without_starts

from mrcar_timm.checkpoints.record import CHECKPOINTS, WEIGHTS_DIR
from mrcar_timm.drawing import curves
from mrcar_timm.training.engine import read_log

from .readme import section, write_section

HERE = Path(__file__).parent
ARCHITECTURE = "mrcar_resnet"
TAGS = {"fer2013": "FER2013", "ferplus": "FER+, majority of the votes"}
TITLES = {"one": "one crop", "mirror": "mirrored pair", "ten": "ten crops"}
PAPER = "74.50%"
SPLITS = ("validation", "test")


def chain(run: Path) -> list[tuple[dict, list[dict[str, float]]]]:
    """Config and log of a run, behind those of the runs it started from; not of packaged weights, which have theirs.

    Of a mean, as in its record: the last run's chain, with the other runs alone before its end.
    """
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    if "averaged" in config:
        *others, (*before, (last, log)) = [chain(Path(part["run"])) for part in config["averaged"]]
        mean = {**last, "averaged": config["averaged"], "averaged_by": config["made_by"]}
        return [*before, *(other[-1] for other in others), (mean, log)]
    starts = [*config["recipe"].get("branches", {}).values(), config["recipe"].get("init")]
    before = [part for start in starts if start and start not in CHECKPOINTS for part in chain(Path(start))]
    return [*before, (config, read_log(run / "log.csv"))]


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


def calibration_rows(tag: str) -> list[str]:
    """Rows of the README's table: before and after the temperature."""
    return [
        f"| {tag}, {split}, {TITLES[row['protocol']]} | {row['raw_ece']:.1%} | {row['ece']:.1%} | "
        f"{row['raw_nll']:.3f} | {row['nll']:.3f} |"
        for split in SPLITS
        for row in read(f"{tag}_{split}")["rows"]
        if row["images"] == "all" and row["protocol"] != "mirror"
    ]


def accuracies(tag: str, split: str) -> dict[tuple[str, str], str]:
    """Accuracy as it is printed, by protocol and images."""
    rows = read(f"{tag}_{split}")["rows"]
    return {(row["protocol"], row["images"]): f"{row['accuracy']:.2%}" for row in rows}


def accuracy_table(tag: str, more: dict[str, dict[tuple[str, str], str]]) -> list[str]:
    """Validation and test, and further columns."""
    columns = {**{split: accuracies(tag, split) for split in SPLITS}, **more}
    lines = [f"| {TAGS[tag]}, accuracy | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for protocol, images in columns["test"]:
        title = TITLES[protocol]
        if images != "all":
            title += ", without duplicates of the training set"
        cells = [column.get((protocol, images), "") for column in columns.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def recall(tag: str) -> str:
    """One sentence on the classes."""
    ten = next(r for r in read(f"{tag}_test")["rows"] if (r["protocol"], r["images"]) == ("ten", "all"))
    by_class = ", ".join(f"{name} {value:.0%}" for name, value in ten["recall"].items())
    return f"Recall by class with ten crops, test: {by_class}. Macro-F1: {ten['macro_f1']:.1%}."


def runs_behind(recipe: dict) -> list[dict]:
    """The runs that a recipe comes from and its own, each once, without what they started from."""
    runs = [run for start in starts_of(recipe) for run in runs_behind(start)]
    runs.append(without_starts(recipe))
    return [run for number, run in enumerate(runs) if run not in runs[:number]]


def made(tag: str) -> str:
    """How many epochs on what are behind weights."""
    runs = runs_behind(CHECKPOINTS[f"{ARCHITECTURE}.{tag}"].recipe)
    epochs = Counter[str]()
    for run in runs:
        on = "FER+" if run.get("data") == "ferplus" else "FER2013"
        alone = run.get("model_args", {}).get("regions", [])
        epochs[f"{on}, {alone[0]} alone" if len(alone) == 1 else on] += run["best_epoch"]
    return f"`{ARCHITECTURE}.{tag}`: {len(runs)} runs, {'; '.join(f'{n} epochs on {on}' for on, n in epochs.items())}"


def render() -> str:
    """The README's section of numbers, from the files of this folder."""
    machines = sorted({read(f"{tag}_{split}")["made_by"]["machine"] for tag in TAGS for split in SPLITS})
    temperatures = [f"{CHECKPOINTS[f'{ARCHITECTURE}.{tag}'].temperature} (`{tag}`)" for tag in TAGS]
    return "\n".join(
        [
            *accuracy_table("fer2013", {"the paper, test": {("ten", "all"): PAPER}}),
            "",
            recall("fer2013"),
            "",
            *accuracy_table("ferplus", {}),
            "",
            recall("ferplus"),
            "",
            f"The network has {CHECKPOINTS[f'{ARCHITECTURE}.fer2013'].num_params / 1e6:.2f} million parameters. The "
            "paper trains for 200 epochs and removes images without a face; which and how many "
            "it does not say. The epochs behind these weights, of each run up to its best, where the next goes on, on "
            "training splits less the images that stand in another split too: "
            f"{'; '.join(made(tag) for tag in TAGS)}.",
            "",
            "Probabilities are calibrated: the logits are divided by a temperature, "
            f"{' and '.join(temperatures)}, fitted on the validation split, one crop. Expected calibration error "
            "(ECE, 15 bins) and negative log-likelihood before and after "
            "([diagram](results/ferplus_test_reliability_one.png)):",
            "",
            "| | ECE before | after | NLL before | after |",
            "|---|---|---|---|---|",
            *(row for tag in TAGS for row in calibration_rows(tag)),
            "",
            "Where the landmarks of tight face crops come from: the O-Net on the whole image, else the cascade "
            "on the enlarged image, else the template.",
            "",
            "| images | count | O-Net | cascade | template |",
            "|---|---|---|---|---|",
            *landmark_rows(),
            "",
            f"Measured on: {', '.join(machines)}. Commands, digests and confusion matrices: [results/](results); "
            "curves of the last run on [FER2013](results/fer2013_curves.png) and [FER+](results/ferplus_curves.png).",
        ]
    )


def training(tag: str, run: str) -> None:
    """Copy what says how the weights were made."""
    runs = chain(Path(run))
    write(f"{tag}_training", [{**config, "epochs_trained": len(log)} for config, log in runs])
    rows = [row for _, log in runs for row in log]
    log = [{**row, "epoch": number} for number, row in enumerate(rows, 1)]
    with open(HERE / f"{tag}_log.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(log[-1]), restval="")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in log)
    curves(runs[-1][1], HERE / f"{tag}_curves.png")  # those before may have been scored on other data


def scores(tag: str, run: str) -> None:
    """Copy the scores, and write them into the weights' record."""
    folder = Path(run)
    checkpoint = with_scores(CHECKPOINTS[f"{ARCHITECTURE}.{tag}"], {split: folder / split for split in SPLITS})
    for split in SPLITS:
        shutil.copy(folder / split / "scores.json", HERE / f"{tag}_{split}.json")
    for name in ("confusion_ten.csv", "confusion_ten.png", "reliability_one.png"):
        shutil.copy(folder / "test" / name, HERE / f"{tag}_test_{name}")
    (WEIGHTS_DIR / f"{checkpoint.name}.json").write_text(checkpoint.to_json(), encoding="utf-8")


def readme() -> None:
    write_section("scores", section("scores", "collect", render()))


if __name__ == "__main__":
    {"training": training, "scores": scores, "readme": readme}[sys.argv[1]](*sys.argv[2:])
