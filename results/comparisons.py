r"""What the packaged weights are worth beside each other.

for model in fer2013 ferplus; do
  mrcar eval --data CK+48 --split all --protocol one --model mrcar_resnet.$model --out runs/cross/$model-ckplus \
      --classes anger,disgust,fear,happiness,sadness,surprise
  for name in fer2013 ferplus; do
    mrcar eval --data fer2013 --name $name --protocol one --model mrcar_resnet.$model --out runs/cross/$model-$name \
        --classes anger,disgust,fear,happiness,sadness,surprise,neutral
  done
done
python -m results.comparisons cross runs/cross       # to results/cross.json
mrcar robustness --data fer2013 --name ferplus --split test --model mrcar_resnet.ferplus \
    --out results/robustness.json
mrcar bench network --out results/network_speed.json
python -m results.comparisons readme
"""

import json
import sys
from pathlib import Path

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
            f"Accuracy on the {damage['split']} split of FER+, one crop, when pictures are damaged:",
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
    {"cross": cross, "readme": readme}[sys.argv[1]](*sys.argv[2:])
