"""Weights for ``mrcar_resnet``, interpolated between the students of results/distil and the network taught further.

    python -m tools.blend data/fer WEIGHTS faceres-deep.bin

A student saw clean images only and is more accurate on them; the network that ``tools.everyday`` made of both students
saw spoiled ones, too, and withstands blur and noise. Weights between the two keep much of either advantage, as in
`Robust fine-tuning of zero-shot models <https://arxiv.org/abs/2109.01903>`_. The rule in results/everyday/README.md
chooses the share of the taught network on the validation splits. WEIGHTS gets a calibrated folder for each head for
which a share keeps to the rule, results/everyday/mrcar_resnet/blend.json all scores.
"""

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
from mrcar_timm.training.evaluate import predict_logits

NETWORK = "mrcar_resnet"
FOLDER = Path("results/everyday/mrcar_resnet")
SHARES = (0.5, 0.625, 0.75, 0.875, 1.0)  # of the taught network
BOUND = 0.12  # what blur, and noise, may cost


def between(head: str, share: float) -> dict[str, torch.Tensor]:
    """The weights of one head's network for grey images, a share of the way from the student to the taught network."""
    student, taught = Taught(NETWORK), Taught(NETWORK)
    take_mean(student, {head: read(STUDENTS[head])})
    taught.load_state_dict(read(FOLDER / f"{NETWORK}.safetensors"))
    first, last = (
        {**model.backbone.state_dict(), "head.weight": model.heads[head].weight.detach()} for model in (student, taught)
    )
    return {k: torch.lerp(first[k], v, share) if v.is_floating_point() else v for k, v in last.items()}


def network_with(state: dict[str, torch.Tensor], head: str) -> Any:
    network: Any = timm.create_model(NETWORK, in_chans=1, num_classes=OWN[head])
    network.load_state_dict(state)
    return network.eval().to(memory_format=torch.channels_last)


def accuracies(network: Any, parts: dict[str, RegionBatches], classes: tuple[str, ...]) -> dict[str, float]:
    """Accuracy on clean images, one crop and mirrored, and on damaged ones, one crop."""
    clean = predict_logits(network, parts["none"], "mirror")
    logits = {"one": clean[:1], "mirror": clean}
    logits |= {name: predict_logits(network, parts[name]) for name in ("blur", "noise")}
    return {name: score(values, parts["none"].labels, classes).accuracy for name, values in logits.items()}


def chosen_share(rows: list[dict[str, float]]) -> float | None:
    """The share with the best accuracy on mirror images among those at which blur and noise stay within the bound."""
    robust = [row for row in rows if min(row["blur"], row["noise"]) >= row["one"] - BOUND]
    return max(robust, key=lambda row: row["mirror"])["share"] if robust else None


def runs_behind(head: str, share: float) -> tuple[dict[str, Any], ...]:
    """All runs behind the weights of one head, the mean at the end."""
    students = {name: Record.read(file.parent) for name, file in STUDENTS.items()}
    first, further = (json.loads(file.read_text()) for file in (FOLDER / "first/scores.json", FOLDER / "scores.json"))
    model = Taught(NETWORK)
    taught = taught_run(model, [student.runs[-1]["id"] for student in students.values()], first)
    behind = with_parents(taught, students.values())
    taught = taught_run(model, [taught["id"]], further)
    mean = {
        "parents": [students[head].runs[-1]["id"], taught["id"]],
        "recipe": {"program": "tools/blend.py", "network": NETWORK, "share": share},
        "data": {"name": head}, "epoch": None, "made_by": provenance(),
    }  # fmt: skip
    return (*behind, taught, {"id": run_id(mean), **mean})


def blend(head: str, data: Path, weights: Path, digest: str) -> dict[str, Any]:
    """Score the shares of one head, and write the network of the best."""
    images = read_split(head, data, "validation")
    size = PLANS[NETWORK].size
    parts = {
        name: make_split(damaged(images, name, data), data, REGIONS, size).batches for name in ("none", "blur", "noise")
    }
    rows = []
    for share in SHARES:
        network = network_with(between(head, share), head)
        rows.append({"share": share, **accuracies(network, parts, images.classes)})
        print(head, rows[-1], flush=True)
    share = chosen_share(rows)
    if share is None:
        return {"rows": rows, "share": None}
    state = between(head, share)
    network = network_with(state, head)
    temperature = fit_temperature(predict_logits(network, parts["none"])[0], parts["none"].labels)
    own = Record.read(STUDENTS[head].parent)
    record = Record(
        name=f"{NETWORK}.{head}", sha256="", num_params=0, license="other", labels=own.labels,
        notes=NOTES.format("taught by networks"), data=own.data, runs=runs_behind(head, share),
        starts=({**START, "sha256": digest},),
    )  # fmt: skip
    half = {key: value.half() if value.ndim >= 2 else value for key, value in state.items()}
    record = write_folder(weights / record.name, network, record, half, temperature)
    return {"rows": rows, "share": share, "temperature": temperature, "sha256": record.sha256}


def main(data: Path, weights: Path, start: Path) -> None:
    """Write the weights; ``start`` is faceres-deep.bin, for its digest."""
    digest = hashlib.sha256(start.read_bytes()).hexdigest()
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = {head: pool.submit(blend, head, data, weights, digest) for head in OWN}
        found = {head: job.result() for head, job in jobs.items()}
    result = {"made_by": provenance(), "split": "validation", "bound": BOUND, "heads": found}
    (FOLDER / "blend.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
