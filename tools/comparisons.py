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
python -m results.comparisons subjects CK+48         # to results/subjects.json
# runs/face-alone is runs/face of CONTRIBUTING.md, made by the recipe ferplus-face
mrcar robustness --data fer2013 --name ferplus --split test --model mrcar_resnet.ferplus --model runs/face-alone \
    --out results/robustness.json
python -m results.comparisons regions fer2013      # to results/regions.json
mrcar bench network --out results/network_speed.json
python -m results.comparisons readme
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mrcar_timm.checkpoints.record import CHECKPOINTS
from mrcar_timm.data.sets import read_split
from mrcar_timm.data.splits import make_split, read_validation
from mrcar_timm.network import load_network
from mrcar_timm.provenance import provenance
from mrcar_timm.regions.geometry import REGIONS
from mrcar_timm.training.evaluate import macro_f1, predict_logits, score
from mrcar_timm.training.recipe import load_recipe

from .readme import section, write_section

HERE = Path(__file__).parent
MODELS = ("fer2013", "ferplus")
#: Before the face's branch was trained alone first, and after.
OF_REGIONS = ("ferplus_v2", "ferplus")
SEEN = {", ".join(seen): seen for seen in (REGIONS, *((region,) for region in REGIONS), REGIONS[1:])}
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


class Covered(nn.Module):
    """A network that sees some of its regions; the others are filled with their mean."""

    def __init__(self, model: Any, seen: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.in_chans = model, model.in_chans
        self.covered = [index for index, region in enumerate(REGIONS) if region not in seen]

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        regions = regions.clone()
        regions[:, self.covered] = regions[:, self.covered].mean((3, 4), keepdim=True)
        return self.model(regions)


def regions(folder: str) -> None:
    """Score FER+'s weights on the validation split when they see some of the regions."""
    data = read_validation(load_recipe("ferplus"), Path(folder))
    batches = make_split(data, Path(folder), REGIONS, 44).batches
    accuracy: dict[str, dict[str, float]] = {}
    for tag in OF_REGIONS:
        network = load_network(f"mrcar_resnet.{tag}")
        for name, seen in SEEN.items():
            logits = predict_logits(Covered(network.model, seen), batches)
            accuracy.setdefault(name, {})[tag] = score(logits, batches.labels, network.labels).accuracy
    record = {
        "weights_sha256": {tag: CHECKPOINTS[f"mrcar_resnet.{tag}"].sha256 for tag in OF_REGIONS},
        "data": "ferplus", "split": "validation", "data_sha256": data.digest(), "count": len(data),
        "accuracy": accuracy, "made_by": provenance(),
    }  # fmt: skip
    (HERE / "regions.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def regions_table() -> list[str]:
    """A row a choice of regions."""
    record = read("regions.json")
    lines = [f"| seen | {' | '.join(f'`{tag}`' for tag in OF_REGIONS)} |", "|---" * (len(OF_REGIONS) + 1) + "|"]
    for name, row in record["accuracy"].items():
        lines.append(f"| {name} | {' | '.join(f'{row[tag]:.1%}' for tag in OF_REGIONS)} |")
    return lines


def subjects(folder: str) -> None:
    """How far the two networks differ on CK+, and how much of that is which subjects were photographed."""
    classes = tuple(read("cross.json")[f"{MODELS[0]}-ckplus"]["classes"])
    data = read_split("ckplus", Path(folder), "all").of_classes(classes)
    batches = make_split(data, Path(folder), REGIONS, 44).batches
    names, of = np.unique(data.subjects, return_inverse=True)
    confusion = {}
    for tag in MODELS:
        network = load_network(f"mrcar_resnet.{tag}")
        logits = predict_logits(network.model, batches)[0, :, [network.labels.index(name) for name in classes]]
        confusion[tag] = np.zeros((len(names), len(classes), len(classes)), np.int64)
        np.add.at(confusion[tag], (of, data.labels, logits.argmax(1).numpy()), 1)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), 10_000)
    gains = {}
    for metric in (accuracy, macro_f1):
        first, second = (metric(confusion[tag].sum(0)) for tag in MODELS)
        redrawn = [metric(np.tensordot(drawn, confusion[tag], 1)) for tag in MODELS]
        interval = np.percentile(redrawn[0] - redrawn[1], [2.5, 97.5])
        gains[metric.__name__] = {"gain": float(first - second), "interval": interval.tolist()}
    record = {
        "weights_sha256": {tag: CHECKPOINTS[f"mrcar_resnet.{tag}"].sha256 for tag in MODELS},
        "data": "ckplus", "subjects": len(names), "count": len(data), "data_sha256": data.digest(),
        "of": f"{MODELS[0]} over {MODELS[1]}, one crop; 95 % of 10,000 draws of as many subjects with replacement",
        **gains, "made_by": provenance(),
    }  # fmt: skip
    (HERE / "subjects.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Of confusion matrices (..., K, K)."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def cross_table() -> list[str]:
    """A row a data set: accuracy and macro-F1 of each network, by the classes that both know."""
    found = read("cross.json")
    lines = ["| one crop, accuracy (macro-F1) | " + " | ".join(f"`{m}`" for m in MODELS) + " |", "|---|---|---|"]
    for data, title in DATA.items():
        rows = [found[f"{model}-{data}"]["rows"][0] for model in MODELS]
        lines.append(f"| {title} | " + " | ".join(f"{r['accuracy']:.2%} ({r['macro_f1']:.1%})" for r in rows) + " |")
    return lines


def difference() -> str:
    """One sentence on CK+."""
    record = read("subjects.json")
    parts = []
    for metric, name in {"accuracy": "accuracy", "macro_f1": "macro-F1"}.items():
        gain, low, high = (100 * value for value in (record[metric]["gain"], *record[metric]["interval"]))
        parts.append(f"{gain:+.1f} points of {name} ({low:+.1f} to {high:+.1f})")
    return (
        f"`{MODELS[0]}` over `{MODELS[1]}` on CK+, in brackets what 95 % of draws of its {record['subjects']} subjects "
        f"give: {', '.join(parts)}."
    )


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
            "Which weights for everyday images: each network on images that the other was trained for, by the "
            "classes that both know.",
            "",
            *cross_table(),
            "",
            difference(),
            "",
            f"Accuracy on the {damage['split']} split of FER+, one crop, when images are damaged; "
            "`face-alone` sees no eyes and mouth and was trained from random weights (recipe `ferplus-face`):",
            "",
            *robustness_table(),
            "",
            "What FER+'s weights make of some of the regions, the others covered; FER+, validation split, one crop:",
            "",
            *regions_table(),
            "",
            f"One face on one thread in float32, in one run ({speed['repeats']} times in turn):",
            "",
            *speed_table(),
        ]
    )


def readme() -> None:
    write_section("comparisons", section("comparisons", "comparisons", render()))


if __name__ == "__main__":
    {"cross": cross, "subjects": subjects, "regions": regions, "readme": readme}[sys.argv[1]](*sys.argv[2:])
