"""What the packaged weights are worth beside each other, and what was tried on the way to them.

for model in fer2013 ferplus; do
  mrcar eval --data CK+48 --split all --protocol one --model mrcar_resnet.$model --out runs/cross/$model-ckplus \
      --classes anger,disgust,fear,happiness,sadness,surprise
  for name in fer2013 ferplus; do
    mrcar eval --data fer2013 --name $name --protocol one --model mrcar_resnet.$model --out runs/cross/$model-$name \
        --classes anger,disgust,fear,happiness,sadness,surprise,neutral
  done
done
python -m results.comparisons cross runs/cross       # to results/cross.json
python -m results.comparisons tried runs/tried …     # runs of mrcar train to results/tried.csv
mrcar robustness …  --out results/robustness.json
mrcar bench network --out results/network_speed.json
python -m results.comparisons readme
"""

import csv
import json
import sys
from pathlib import Path

from mrcar_timm.training.engine import read_log

from .readme import section, write_section

HERE = Path(__file__).parent
MODELS = ("fer2013", "ferplus")
DATA = {"ckplus": "CK+, all, six classes", "fer2013": "FER2013, validation", "ferplus": "FER+, validation"}


def read(name: str) -> dict:
    """What a JSON file of this folder holds."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def cross(folder: str) -> None:
    """Gather the scores of each network on each data set."""
    found = {}
    for model in MODELS:
        for data in DATA:
            record = json.loads((Path(folder) / f"{model}-{data}/scores.json").read_text(encoding="utf-8"))
            found[f"{model}-{data}"] = record
    (HERE / "cross.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def cross_table() -> list[str]:
    """A row a data set: accuracy and macro-F1 of each network, by the classes that both know."""
    found = read("cross.json")
    lines = ["| one crop, accuracy (macro-F1) | " + " | ".join(f"`{m}`" for m in MODELS) + " |", "|---|---|---|"]
    for data, title in DATA.items():
        rows = [found[f"{model}-{data}"]["rows"][0] for model in MODELS]
        lines.append(f"| {title} | " + " | ".join(f"{r['accuracy']:.2%} ({r['macro_f1']:.1%})" for r in rows) + " |")
    return lines


def robustness_table() -> list[str]:
    """A row a damage."""
    rows = read("robustness.json")["rows"]
    models = list(rows[0]["accuracy"])
    cells = {row["damage"]: [f"{row['accuracy'][model]:.1%}" for model in models] for row in rows}
    lines = ["| damage | " + " | ".join(f"`{Path(model).name}`" for model in models) + " |"]
    lines += ["|---" * (len(models) + 1) + "|"]
    return [*lines, *(f"| {damage} | {' | '.join(row)} |" for damage, row in cells.items())]


def speed_table() -> list[str]:
    """A row a network."""
    record = read("network_speed.json")
    lines = ["| network | input | parameters | median | fastest | resnet18 over it |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['network']} | {row['pixels']} | {row['parameters'] / 1e6:.2f} M | {row['ms']:.1f} ms | "
        f"{row['fastest_ms']:.1f} ms | ×{row['ratio']:.2f} |"
        for row in record["rows"]
    ]
    return [*lines, "", f"Measured on: {record['made_by']['machine']}."]


FIELDS = ("step", "what", "data", "epochs", "pictures", "val_accuracy", "gain", "seconds", "cost", "command", "commit")


def tried(folder: str) -> None:
    """A row a run: its validation accuracy and time against those of the run "baseline" in the same folder."""
    rows = []
    for config_file in sorted(Path(folder).glob("*/config.json")):
        config, log = json.loads(config_file.read_text(encoding="utf-8")), read_log(config_file.parent / "log.csv")
        rows.append(
            {
                "step": config_file.parent.name,
                "data": config["recipe"]["data"],
                "epochs": len(log),
                "pictures": config["data"]["train"]["count"],
                "val_accuracy": log[-1]["val_accuracy"],
                "seconds": sum(row["seconds"] for row in log),
                "what": config["made_by"]["command"].split(" --run ")[-1].partition(" ")[2],
                "command": config["made_by"]["command"],
                "commit": config["made_by"]["commit"],
            }
        )
    baseline = next(row for row in rows if row["step"] == "baseline")
    for row in rows:
        row["gain"] = round(row["val_accuracy"] - baseline["val_accuracy"], 4)
        row["cost"] = round(row["seconds"] / baseline["seconds"], 2)
    rows.sort(key=lambda row: -row["val_accuracy"])
    with open(HERE / "tried.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def tried_table() -> list[str]:
    """The steps, ranked by validation."""
    with open(HERE / "tried.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = ["| step | validation | gain, points | time |", "|---|---|---|---|"]
    for row in rows:
        accuracy, gain = 100 * float(row["val_accuracy"]), 100 * float(row["gain"])
        lines.append(f"| {row['step']} | {accuracy:.2f} | {gain:+.2f} | ×{float(row['cost']):.2f} |")
    return lines


def render() -> str:
    """The README's section."""
    speed, damage = read("network_speed.json"), read("robustness.json")
    return "\n".join(
        [
            "Which weights for everyday pictures: each network on pictures that the other was trained for, by the "
            "classes that both know.",
            "",
            *cross_table(),
            "",
            f"Accuracy on the {damage['split']} split of FER2013, one crop, when pictures are damaged:",
            "",
            *robustness_table(),
            "",
            f"One face on one thread in float32, in one run ({speed['repeats']} times in turn):",
            "",
            *speed_table(),
        ]
    )


def readme() -> None:
    write_section("comparisons", section("comparisons", "comparisons", render()))


if __name__ == "__main__":
    {"cross": cross, "tried": tried, "readme": readme}[sys.argv[1]](*sys.argv[2:])
