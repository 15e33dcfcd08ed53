"""Weights for ``mrcar_resnet``, interpolated between the students of results/distil and networks taught further.

    python -m tools.blend score fer2013 data/fer                                   # the same for ferplus
    python -m tools.blend package fer2013 data/fer WEIGHTS faceres-deep.bin

A student saw clean images only and is more accurate on them; the network that ``tools.everyday`` made of it saw spoiled
ones, too, and withstands blur and noise. Weights between the two keep much of either advantage, as in
`Robust fine-tuning of zero-shot models <https://arxiv.org/abs/2109.01903>`_. ``score`` writes the accuracies of some
shares of the taught network on the validation split; by them the rule in results/everyday/README.md chooses the share
whose calibrated weights ``package`` writes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import timm
import torch
import typer
from tools.everyday import OWN, PLANS, STUDENTS, Taught, read, take_mean
from tools.everyday_weights import NOTES, START, taught_run

from mrcar_timm.checkpoints.folder import write_folder
from mrcar_timm.checkpoints.record import Record, run_id, with_parents
from mrcar_timm.data.sets import read_split
from mrcar_timm.experiments.robustness import damaged
from mrcar_timm.metrics import fit_temperature, score
from mrcar_timm.provenance import provenance
from mrcar_timm.regions.geometry import REGIONS
from mrcar_timm.training.batches import RegionBatches, make_split
from mrcar_timm.training.evaluate import VIEWS_OF_TEN, predict_logits

NETWORK = "mrcar_resnet"
FOLDER = Path("results/everyday/mrcar_resnet")
TAUGHT = {head: FOLDER / head for head in OWN}  # runs of tools.everyday, each for one data set alone
SCORES = {head: FOLDER / f"blend_{head}.json" for head in OWN}
SHARES = (0.5, 0.625, 0.75, 0.875, 1.0)  # of the taught network
BOUND = 0.12  # what blur, and noise, may cost

app = typer.Typer(add_completion=False)


def taught(head: str) -> Taught:
    """The network that was taught further, as it came from ``tools.everyday``."""
    model = Taught(NETWORK, head)
    model.load_state_dict(read(TAUGHT[head] / f"{NETWORK}.safetensors"))
    return model


def between(head: str, share: float) -> dict[str, torch.Tensor]:
    """The weights of one head's network for grey images, a share of the way from the student to the taught network."""
    student = Taught(NETWORK, head)
    take_mean(student, {head: read(STUDENTS[head])})
    first, last = (
        {**model.backbone.state_dict(), "head.weight": model.heads[head].weight.detach()}
        for model in (student, taught(head))
    )
    return {k: torch.lerp(first[k], v, share) if v.is_floating_point() else v for k, v in last.items()}


def network_with(state: dict[str, torch.Tensor], head: str) -> Any:
    network: Any = timm.create_model(NETWORK, in_chans=1, num_classes=OWN[head])
    network.load_state_dict(state)
    return network.eval().to(memory_format=torch.channels_last)


def batches_of(head: str, data: Path, damage: str = "none") -> RegionBatches:
    images = damaged(read_split(head, data, "validation"), damage, data)
    return make_split(images, data, REGIONS, PLANS[NETWORK].size).batches


def accuracies(network: Any, parts: dict[str, RegionBatches], classes: tuple[str, ...]) -> dict[str, float]:
    """Accuracy on clean images by each protocol, and on damaged ones with one crop."""
    ten = predict_logits(network, parts["none"], "ten")
    logits = {protocol: ten[views] for protocol, views in VIEWS_OF_TEN.items()}
    logits |= {name: predict_logits(network, parts[name]) for name in ("blur", "noise")}
    return {name: score(values, parts["none"].labels, classes).accuracy for name, values in logits.items()}


def cost(row: dict[str, float]) -> float:
    """What the worse of blur and noise costs."""
    return row["one"] - min(row["blur"], row["noise"])


def chosen_share(rows: list[dict[str, float]], before: dict[str, float]) -> float | None:
    """The share that enters the package by its rule, given the accuracies of the weights that it replaces.

    The best on mirror images of those at which damage stays within the bound; if that is not as accurate as the weights
    before, the most robust of those that are.
    """
    as_good = [row for row in rows if row["mirror"] >= before["mirror"] and row["ten"] >= before["ten"]]
    robust = [row for row in rows if cost(row) <= BOUND]
    best = max(robust, key=lambda row: row["mirror"], default=None)
    if best not in as_good:
        best = min(as_good, key=cost, default=None)
    return best["share"] if best else None


def runs_behind(head: str, share: float) -> tuple[dict[str, Any], ...]:
    """All runs behind the weights of one head, the mean at the end."""
    student = Record.read(STUDENTS[head].parent)
    first = student.runs[-1]["id"]
    further = taught_run(Taught(NETWORK, head), [first], json.loads((TAUGHT[head] / "scores.json").read_text()))
    mean = {
        "parents": [first, further["id"]],
        "recipe": {"program": "tools/blend.py", "network": NETWORK, "share": share},
        "data": {"name": head}, "epoch": None, "made_by": provenance(),
    }  # fmt: skip
    return (*with_parents(further, [student]), {"id": run_id(mean), **mean})


def accuracies_before(head: str) -> dict[str, float]:
    """Of the weights that the chosen ones replace, on the validation split."""
    history = json.loads(Path("results/history.json").read_text())
    found = history[f"{NETWORK}.{head}_v3"]["scores"]["validation"]
    return {protocol: found[f"{protocol}, all"] for protocol in ("mirror", "ten")}


@app.command("score")
def score_shares(head: str, data: Path) -> None:
    """Score the shares of one head, and say which of them enters the package."""
    parts = {name: batches_of(head, data, name) for name in ("none", "blur", "noise")}
    classes = read_split(head, data, "validation").classes
    rows = []
    for share in SHARES:
        rows.append({"share": share, **accuracies(network_with(between(head, share), head), parts, classes)})
        print(rows[-1], flush=True)
    found = {
        "made_by": provenance(), "split": "validation", "bound": BOUND,
        "taught_sha256": hashlib.sha256((TAUGHT[head] / f"{NETWORK}.safetensors").read_bytes()).hexdigest(),
        "rows": rows, "share": chosen_share(rows, accuracies_before(head)),
    }  # fmt: skip
    SCORES[head].write_text(json.dumps(found, indent=2) + "\n")


@app.command()
def package(head: str, data: Path, weights: Path, start: Path) -> None:
    """Write the chosen weights, calibrated; ``start`` is faceres-deep.bin, for its digest."""
    share = json.loads(SCORES[head].read_text())["share"]
    state = between(head, share)
    network = network_with(state, head)
    batches = batches_of(head, data)
    temperature = fit_temperature(predict_logits(network, batches)[0], batches.labels)
    own = Record.read(STUDENTS[head].parent)
    record = Record(
        name=f"{NETWORK}.{head}", sha256="", num_params=0, license="other", labels=own.labels,
        notes=NOTES.format("taught by networks"), data=own.data, runs=runs_behind(head, share),
        starts=({**START, "sha256": hashlib.sha256(start.read_bytes()).hexdigest()},),
    )  # fmt: skip
    half = {key: value.half() if value.ndim >= 2 else value for key, value in state.items()}
    write_folder(weights / record.name, network, record, half, temperature)


if __name__ == "__main__":
    app()
