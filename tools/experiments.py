"""The paper's experiments: what runs and timings say, and their place in the README.

mrcar report runs/ckplus runs/ckplus-ablation runs/fer2013-ablation --out results/experiments
mrcar bench training --compile --out results/training_speed.json
python -m results.experiments     # both into the README
"""

import json
import math
from pathlib import Path

from mrcar_timm.experiments.report import PAPER, budget, mean_and_spread, paper, read_rows

from .readme import section, write_section

HERE = Path(__file__).parent
RUNS = HERE / "experiments/runs.csv"
SPEED = HERE / "training_speed.json"
PROTOCOLS = {
    "subject": "no subject in two folds",
    "image": "images dealt out at random; **leaky**",
    "paper": "augmented, then dealt out, as the paper does; **leaky**",
}
VARIANTS = {
    "mrcar": "MrCAR",
    "no-regions": "the face alone (−Mfe)",
    "no-arcface": "linear head (−ALoss)",
    "no-attention": "without attention (−CA)",
    "no-attention-matched": "without attention, as many parameters",
    "se": "squeeze-and-excitation in place of CA",
    "shared": "one branch for all regions",
    "no-margin": "scale alone (normalised softmax)",
    "no-scale": "margin alone",
    "template": "regions at fixed places, no landmarks",
}
Rows = list[dict[str, str]]


def by_variant(rows: Rows, folder: str) -> dict[str, Rows]:
    """An ablation's runs, by variant."""
    found: dict[str, Rows] = {}
    for row in rows:
        if row["experiment"].startswith(f"{folder}/"):
            found.setdefault(row["variant"], []).append(row)
    return found


def chance(runs: Rows) -> float:
    """Two standard errors, in points, of the difference of two accuracies on as many images."""
    p, n = float(runs[0]["accuracy"]), sum(int(row["test_images"]) for row in runs)
    return 200 * math.sqrt(2 * p * (1 - p) / n)


def verdict(found: dict[str, Rows], where: str) -> str:
    """Which parts helped, which did not, and which differences are within chance."""
    whole = mean(found["mrcar"])
    limit = chance(found["mrcar"])
    differences = {name: mean(runs) - whole for name, runs in found.items() if name != "mrcar"}

    def said(names: list[str]) -> str:
        return ", ".join(f"{VARIANTS[name]} {differences[name]:+.1f}" for name in names) or "none"

    worse = [name for name, d in differences.items() if d < -limit]
    better = [name for name, d in differences.items() if d > limit]
    same = [name for name, d in differences.items() if abs(d) <= limit]
    return (
        f"{where}, differences from MrCAR in points; up to {limit:.1f} are within chance (two standard errors). "
        f"Clearly worse: {said(worse)}. Clearly better: {said(better)}. Within chance, so that the part is not shown "
        f"to help at this budget: {said(same)}."
    )


def mean(runs: Rows) -> float:
    return 100 * sum(float(row["accuracy"]) for row in runs) / len(runs)


def ablation_table(rows: Rows) -> list[str]:
    """Both data sets side by side, and what they say."""
    columns = {"CK+": by_variant(rows, "ckplus-ablation"), "FER2013": by_variant(rows, "fer2013-ablation")}
    lines = [
        "| | CK+, subject folds | the paper, its protocol | FER2013, validation | the paper, test |",
        "|---|---|---|---|---|",
    ]
    for name, title in VARIANTS.items():
        cells = []
        for data, found in zip(("ckplus", "fer2013"), columns.values(), strict=True):
            cells += [mean_and_spread(found[name]) if name in found else "not run", paper(data, name)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines.append("")
    for data, found in columns.items():
        lines.append(f"Budget on {data}: {budget(found['mrcar'])}, {found['mrcar'][0]['size']} pixels a side.")
    return [*lines, "", *(verdict(found, f"On {data}") for data, found in columns.items())]


def speed_table() -> list[str]:
    """What each way to train gains, and where the time goes."""
    record = json.loads(SPEED.read_text(encoding="utf-8"))
    lines = ["| | ms an image | ratio | data | forward | backward | optimizer |", "|---|---|---|---|---|---|---|"]
    for row in record["rows"]:
        parts = " | ".join(f"{row['phases'][name] / row['ms']:.1%}" for name in row["phases"])
        used = " (used)" if row["used"] else ""
        lines.append(f"| {row['way']}{used} | {row['ms']:.1f} | ×{row['ratio']:.2f} | {parts} |")
    measured = f"Measured on: {record['made_by']['machine']}, batches of {record['batch_size']}."
    if not any(row["used"] for row in record["rows"] if row["way"] == "bfloat16"):
        measured += " This processor has no instructions for bfloat16, so that training leaves it out."
    return [*lines, "", measured]


def render() -> str:
    """The README's section."""
    rows = read_rows(RUNS)
    lines = ["| CK+, folds | accuracy, mean ± spread over folds | the paper | budget |", "|---|---|---|---|"]
    for protocol, meaning in PROTOCOLS.items():
        runs = [row for row in rows if row["experiment"] == protocol]
        reported = f"{PAPER['ckplus']['mrcar']:.2f}" if protocol == "paper" else ""
        lines.append(f"| {meaning} | {mean_and_spread(runs)} | {reported} | {budget(runs)} |")
    machines = sorted({row["machine"] for row in rows})
    return "\n".join(
        [
            *lines,
            "",
            "What each part is worth: the same recipe with one part changed.",
            "",
            *ablation_table(rows),
            "",
            "Where the time of a training step goes, and what each way to train faster gains:",
            "",
            *speed_table(),
            "",
            f"Runs on: {', '.join(machines)}. A line for each run, with command, commit, digests and seconds: "
            "[results/experiments/runs.csv](results/experiments/runs.csv); "
            "[all tables](results/experiments/report.md), curves and confusion matrices beside them.",
        ]
    )


if __name__ == "__main__":
    write_section("experiments", section("experiments", "experiments", render()))
