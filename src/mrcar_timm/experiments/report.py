"""From run folders to the tables and images of a report: Markdown, CSV and PNG."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ..checkpoints.folder import read_json
from ..checkpoints.record import RECORD_NAME, Record
from ..data.sets import DATA_SETS
from ..errors import DataError
from ..output import write_csv, write_text
from ..plots import confusion_matrix, curves
from ..training.engine import read_log
from ..training.recipe import load_recipe
from .crossval import FOLD_PROTOCOLS

#: The paper's accuracies in per cent, by data set and variant.
PAPER: dict[str, dict[str, float]] = {
    "ckplus": {"mrcar": 98.78, "no-regions": 94.04, "no-arcface": 97.73, "no-attention": 95.82},
    "fer2013": {"mrcar": 74.50, "no-regions": 72.72, "no-arcface": 74.08, "no-attention": 73.41},
    "jaffe": {"mrcar": 99.02, "no-regions": 94.58, "no-arcface": 98.01, "no-attention": 96.24},
    "rafdb": {"mrcar": 88.26, "no-regions": 87.77, "no-arcface": 86.73, "no-attention": 85.13},
}


@dataclass(frozen=True)
class RunRow:
    """A line of ``runs.csv``: one cross-validation, or one training.

    Attributes:
        experiment: The folder's name without the seed.
        variant: Variant of an ablation, or "mrcar".
        data: Data set.
        protocol: What was scored: "subject", "image" or "paper" folds, or the "validation" split.
        leaky: Why the figure promises too much, if it does.
        accuracy: 0…1, of the last epoch: the folds' mean, ten crops; or on the validation split, one crop.
        spread: Standard deviation over folds.
        folds: Folds that were trained, of how many.
        seed, epochs, batch_size, size, init: From the recipe.
        train_images: Images that were trained on, in the first fold.
        test_images: Images, or augmented copies, that were scored, in all folds.
        parameters: Number of parameters of the network.
        seconds: Duration of training, all folds.
        data_sha256, folds_sha256, command, commit, machine: Provenance.
    """

    experiment: str
    variant: str
    data: str
    protocol: str
    leaky: str
    accuracy: float
    spread: float | None
    folds: str
    seed: int
    epochs: int
    batch_size: int
    size: int
    init: str
    train_images: int
    test_images: int
    parameters: int
    seconds: float
    data_sha256: str
    folds_sha256: str
    command: str
    commit: str
    machine: str


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Folders of finished cross-validations and trainings, at any depth; the folds of one are no runs of their own.

    Raises:
        DataError: If there is none.
    """
    folders = list(folders)
    found = []
    for root in folders:
        crossed = {file.parent for file in root.rglob("crossval_config.json")}
        found += [folder for folder in crossed if (folder / "crossval.json").exists()]
        for file in root.rglob("recipe.yaml"):
            if not any(parent in crossed for parent in file.parents) and _finished(file.parent):
                found.append(file.parent)
    if not found:
        raise DataError(f"no finished runs in {', '.join(map(str, folders))}")
    return sorted(set(found))


def _finished(folder: Path) -> bool:
    """Whether a training has done all its epochs."""
    log = folder / "log.csv"
    epochs = load_recipe(folder / "recipe.yaml").epochs
    return log.exists() and (folder / RECORD_NAME).exists() and read_log(log)[-1]["epoch"] == epochs


def read_run(folder: Path) -> RunRow:
    """The line of one run."""
    crossed = (folder / "crossval.json").exists()
    first = folder / "fold_0" if crossed else folder
    recipe, record = load_recipe(first / "recipe.yaml"), Record.read(first)
    data, made_by = record.runs[-1]["data"], record.runs[-1]["made_by"]
    variant, experiment = "mrcar", folder
    if re.fullmatch(r"seed_\d+", folder.name):
        variant, experiment = folder.parent.name, folder.parent
    logs = [read_log(file) for file in (folder.rglob("log.csv") if crossed else [folder / "log.csv"])]
    if crossed:
        result = read_json(folder / "crossval.json")
        protocol, made_by = result["protocol"], result["made_by"]
        scored = {"accuracy": result["accuracy"], "spread": result["spread"]}
        folds, tested = f"{result['folds_done']} of {result['folds']}", result["images"]
        digests = {"data_sha256": result["data_sha256"], "folds_sha256": result["folds_sha256"]}
    else:
        protocol, folds, tested = "validation", "", data["validation"]["count"]
        scored = {"accuracy": logs[0][-1]["val_accuracy"], "spread": None}
        digests = {"data_sha256": data["sha256"], "folds_sha256": ""}
    meaning = FOLD_PROTOCOLS.get(protocol, "")
    return RunRow(
        experiment=folder.name if folder == experiment else f"{experiment.parent.name}/{variant}",
        variant=variant,
        data=recipe.data,
        protocol=protocol,
        leaky=meaning if meaning.startswith("leaky") else "",
        folds=folds,
        seed=recipe.seed,
        epochs=recipe.epochs or 0,
        batch_size=recipe.batch_size,
        size=recipe.size,
        init=recipe.init or "",
        train_images=data["samples"],
        test_images=tested,
        parameters=record.num_params,
        seconds=round(sum(row["seconds"] for log in logs for row in log), 1),
        command=made_by["command"],
        commit=made_by["commit"] or "",
        machine=made_by["machine"],
        **scored,
        **digests,
    )


def read_rows(file: Path) -> list[dict[str, str]]:
    """The lines of a ``runs.csv``."""
    with open(file, newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def write_report(folders: Iterable[Path], out: Path) -> list[RunRow]:
    """Write ``runs.csv``, ``report.md``, and an image of curves and of the confusion matrix for each run.

    Raises:
        DataError: If there is no finished run.
    """
    runs = find_runs(folders)
    rows = [read_run(folder) for folder in runs]
    write_csv(out / "runs.csv", [field.name for field in fields(RunRow)], (asdict(row).values() for row in rows))
    text = "\n\n".join(["# Runs", *(f"## {title}\n\n{table}" for title, table in tables(read_rows(out / "runs.csv")))])
    write_text(out / "report.md", text + "\n")
    for folder, row in zip(runs, rows, strict=True):
        name = re.sub(r"\W+", "-", f"{row.experiment}-{row.seed}")
        if (folder / "crossval.json").exists():
            result = read_json(folder / "crossval.json")
            folds = f"{row.protocol} folds{', leaky' if row.leaky else ''}"
            title = f"{DATA_SETS[row.data].title}, {folds}: {row.accuracy:.1%}"
            confusion_matrix(np.array(result["confusion"]), result["classes"], out / f"confusion_{name}.png", title)
            folder = folder / "fold_0"
        curves(read_log(folder / "log.csv"), out / f"curves_{name}.png")
    return rows


def tables(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Title and Markdown table of each data set and protocol, runs that differ in their seed in one line."""
    groups: dict[tuple[str, str, str], dict[tuple[str, ...], list[dict[str, str]]]] = {}
    for row in rows:
        group = groups.setdefault((row["data"], row["protocol"], row["leaky"]), {})
        same = (row["experiment"], row["epochs"], row["train_images"], row["folds"], row["init"])
        group.setdefault(same, []).append(row)
    out = []
    for (data, protocol, leaky), group in groups.items():
        scored = "validation split, one crop" if protocol == "validation" else f"{protocol} folds, ten crops"
        title = f"{DATA_SETS[data].title}, {scored}" + (f" — {leaky}" if leaky else "")
        lines = ["| run | accuracy | the paper | budget |", "|---|---|---|---|"]
        lines += [
            "| " + " | ".join([same[0], mean_and_spread(runs), paper(data, runs[0]["variant"]), budget(runs)]) + " |"
            for same, runs in group.items()
        ]
        out.append((title, "\n".join(lines)))
    return out


def mean_and_spread(runs: list[dict[str, str]]) -> str:
    """Mean accuracy in per cent, and the standard deviation over seeds, or over the folds of a lone run."""
    accuracies = [100 * float(row["accuracy"]) for row in runs]
    if len(runs) > 1:
        return f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}"
    spread = runs[0]["spread"]
    return f"{accuracies[0]:.2f}" + (f" ± {100 * float(spread):.2f}" if spread else "")


def paper(data: str, variant: str) -> str:
    """The paper's figure as text; empty where it reports none."""
    figure = PAPER.get(data, {}).get(variant)
    return "" if figure is None else f"{figure:.2f}"


def budget(runs: list[dict[str, str]]) -> str:
    """How much a line was trained."""
    first = runs[0]
    epochs = "1 epoch" if first["epochs"] == "1" else f"{first['epochs']} epochs"
    parts = [f"{epochs} of {first['train_images']}"]
    if first["folds"]:
        parts.append(f"{first['folds']} folds")
    parts.append(f"{len(runs)} seeds" if len(runs) > 1 else "1 seed")
    if first["init"]:
        parts.append(f"from {first['init']}")
    return ", ".join(parts)
