"""Networks for photos of every day: face-trained, on all labels, against equal priors, within minutes on one GPU.

    python -m tools.everyday prepare runs/distil/prepared.npz.xz data/ck/CK+48 runs/everyday/prepared.npz.xz
    python -m tools.everyday run runs/everyday/prepared.npz.xz runs/everyday/out --seconds 540 --device cuda

``prepare`` adds CK+ and the mean of the soft targets (results/distil) to the file of ``tools.distil``. Nothing is
trained on CK+: it chooses. ``run`` trains all of ``NETWORKS`` at once, each until a time. The rule by which one is
chosen is :func:`mean_recall`; results/everyday/README.md gives the reasons.

A MobileNet here has three heads on one embedding: for photos (eight classes, both sets of labels and the teachers,
against equal priors), for FER2013 and for FER+.
"""

import io
import json
import lzma
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from sklearn.metrics import recall_score
from tools.distil import (
    RANGES,
    Cutter,
    FaceMobileNet,
    Images,
    Look,
    Plan,
    calibrate,
    changes,
    logger,
    logits_of,
    mirror_pair,
    mixed,
    normalize,
    setup,
    soft_loss,
    spoil,
    ten_crops,
    train,
    unpack,
)  # fmt: skip
from torch import nn

from mrcar_timm.layers import ArcFaceHead, insert_attention
from mrcar_timm.metrics import fit_temperature
from mrcar_timm.precision import autocast
from mrcar_timm.regions.geometry import REGIONS

HEADS = {"everyday": 8, "fer2013": 7, "ferplus": 8}
PARTS = {"fer2013": 0.25, "ferplus": 0.375, "taught": 0.375}  # of the targets of the head for photos
STUDENT = "results/distil/mrcar_resnet.ferplus_student"

app = typer.Typer(add_completion=False)


# The networks


class RegionMobileNet(nn.Module):
    """MobileNet v1 on the face, its first eleven layers on eyes and mouth at half the size, CA behind four stages.

    Shape:
        Regions (B, R, 1, 96, 96) to the logits of all heads in turn, (B, 23).
    """

    def __init__(self, regions: tuple[str, ...], embed_dim: int = 192) -> None:
        super().__init__()
        self.branches = nn.ModuleDict()
        for name in regions:
            branch = FaceMobileNet()
            if name != "face":
                branch.layers = branch.layers[:11]  # to 256 channels at an eighth
            self.branches[name] = branch
        width = sum(branch.layers[-1][0].out_channels for branch in self.branches.values())
        self.fusion = nn.Sequential(nn.Linear(width, embed_dim, bias=False), nn.BatchNorm1d(embed_dim))
        self.drop = nn.Dropout(0.2)
        self.heads = nn.ModuleDict({name: ArcFaceHead(embed_dim, k, margin=0.0) for name, k in HEADS.items()})

    def load_start(self, start: dict[str, torch.Tensor], faces: torch.Tensor) -> None:
        """Take the face-trained weights, calibrate them on regions (N, R, 1, h, w), and put neutral CA behind."""
        for i, (name, branch) in enumerate(self.branches.items()):
            branch.load_state_dict({key: start[key] for key in branch.state_dict()})
            x = self._sized(name, faces[:, i])
            calibrate(branch.eval(), x)
            places = [f"layers.{i}" for i in (6, 10, 22, 26) if i < len(branch.layers)]
            insert_attention(branch, "coord", where=places, neutral=True, example=x[:1])

    @staticmethod
    def _sized(name: str, x: torch.Tensor) -> torch.Tensor:
        return x if name == "face" else F.avg_pool2d(x, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [branch(self._sized(name, x[:, i])) for i, (name, branch) in enumerate(self.branches.items())]
        embedding = self.drop(self.fusion(torch.cat(features, 1)))
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([head(embedding.float()) for head in self.heads.values()], 1)


def student() -> nn.Module:
    return timm.create_model(f"local-dir:{STUDENT}", pretrained=True, in_chans=1, margin=0.0, scale=16.0, drop_rate=0.2)


FACE_AT = 96
NETWORKS = {
    **{
        f"mobilenet_{seed}": Plan(partial(RegionMobileNet, REGIONS), Look(REGIONS, FACE_AT), 1e-3, seed)
        for seed in range(3)
    },
    "mobilenet_face": Plan(partial(RegionMobileNet, ("face",)), Look(("face",), FACE_AT), 1e-3, 0),
    "student": Plan(student, Look(REGIONS, 44), 1e-3, 0),
}


# What photos have that the training images have not


class Spoiler:
    """Images (B, 1, h, w) in 0…1, each halved, blurred, sharpened, noisy, darker, brighter or in JPEG's blocks."""

    def __init__(self, side: int, device: torch.device) -> None:
        at = torch.arange(side, device=device, dtype=torch.float32)
        self.apart = (at[:, None] - at) ** 2
        k = torch.arange(8, device=device, dtype=torch.float32)
        self.dct = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) * 0.5
        self.dct[0] *= 0.5**0.5
        # Annex K of the JPEG standard, luminance
        table = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
                   18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101
                   72 92 95 98 112 100 103 99"""
        self.table = torch.tensor([float(v) for v in table.split()], device=device).view(8, 8)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        u = torch.rand(10, len(x), 1, 1, 1, device=x.device)
        small = F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="bilinear", align_corners=False)
        x = torch.where(u[0] < 0.12, small, x)
        x = self.sharpen(x, 0.4 + 1.6 * u[1], torch.where(u[2] < 0.3, -1.0, torch.where(u[2] > 0.75, 1.5 * u[3], 0.0)))
        x = x + torch.randn_like(x) * (u[4] - 0.6).clamp_min(0) * 0.25  # to a tenth, four images in ten
        x = x.clamp(1e-3, 1) ** (u[5] - 0.5).exp() * (1 - 0.5 * (u[6] - 0.7).clamp_min(0) / 0.3)
        return torch.where(u[7] < 0.35, self.jpeg(x, 10 + 60 * u[8]), x)

    def sharpen(self, x: torch.Tensor, sigma: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
        """x further from its Gaussian blur by a part of the difference: -1 is the blur, 0 is x."""
        weights = (-self.apart / (2 * sigma**2)).exp()
        weights = weights / weights.sum(-1, keepdim=True)  # (B, 1, h, h)
        blurred = weights @ x @ weights.mT
        return torch.lerp(blurred, x, 1 + amount)

    def jpeg(self, x: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
        table = ((self.table * scale + 50) / 100).floor().clamp_min(1)[:, :, None, None]  # (B, 1, 1, 1, 8, 8)
        blocks = x.view(b, 1, h // 8, 8, w // 8, 8).transpose(3, 4) * 255 - 128  # (B, 1, h/8, w/8, 8, 8)
        coefficients = self.dct @ blocks @ self.dct.mT
        blocks = self.dct.mT @ ((coefficients / table).round() * table) @ self.dct
        return ((blocks + 128) / 255).transpose(3, 4).reshape(x.shape).clamp(0, 1)


def damages(spoiler: Spoiler) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The blur and noise of `mrcar robustness`."""
    one = torch.ones((), device=spoiler.table.device)
    return {
        "none": lambda x: x,
        "blur": lambda x: spoiler.sharpen(x, 1.5 * one, -one),
        "noise": lambda x: (x + torch.randn_like(x) * 20 / 255).clamp(0, 1),
    }


# Scores


@dataclass(frozen=True)
class Known:
    """Images whose labels are known to the end."""

    images: Images
    labels: torch.Tensor  # (N,), of those that have one
    has: torch.Tensor  # (N,), bool

    @classmethod
    def of(cls, images: Images, name: str) -> "Known":
        has = images.labels[name].sum(1) > 0
        return cls(images, images.labels[name][has].argmax(1).cpu(), has)


def recall(logits: torch.Tensor, known: Known, classes: list[int]) -> dict[str, float]:
    """Accuracy and mean recall of the classes of a data set; an answer that it does not know is not asked for."""
    found = torch.tensor(classes)[logits.cpu()[:, classes].argmax(1)]
    return {
        "accuracy": float((found == known.labels).float().mean()),
        "recall": float(recall_score(known.labels, found, average="macro", labels=sorted(set(known.labels.tolist())))),
    }


KNOWN = {"ckplus": [0, 1, 2, 3, 4, 5, 7], "fer2013": list(range(7)), "ferplus": list(range(8))}


def mean_recall(scores: dict[str, Any]) -> float:
    """What chooses: the mean recall of the classes of CK+, FER2013 and FER+ (validation), averaged over the three."""
    return sum(scores["everyday"][name]["recall"] for name in KNOWN) / len(KNOWN)


# Programs


@app.command()
def network(name: str, file: Path, out: Path, until: float, device: str = "cpu") -> None:
    """Train one network until a time in seconds since 1970."""
    plan = NETWORKS[name]
    images, validation, on = setup(file, device, plan.seed)
    known = {
        "ckplus": Known.of(Images(file, "ckplus", on), "everyday"),
        **{head: Known.of(validation, head) for head in ("fer2013", "ferplus")},
    }
    model = plan.make()
    cutter = Cutter(images, plan.look)
    if isinstance(model, RegionMobileNet):
        with np.load(file) as data:
            start = {k.removeprefix("start_"): torch.tensor(data[k]) for k in data.files if k.startswith("start_")}
        some = torch.arange(0, len(images), max(1, len(images) // 512), device=on)
        model.to(on).load_start(
            {k: v.float() if v.is_floating_point() else v for k, v in start.items()},
            normalize(cutter(some, mirror_pair(on)[0].expand(len(some), 3, 3))),
        )
    model.to(on, memory_format=torch.channels_last).train()
    heads = HEADS if isinstance(model, RegionMobileNet) else {"everyday": HEADS["everyday"]}
    targets_of = everyday_targets(images)
    log_prior = targets_of["everyday"].mean(0).log()
    spoiler = Spoiler(images.pixels.shape[-1], on)

    def loss_of(rows: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u = torch.rand(len(rows), 5, device=on) * 2 - 1
        regions = spoil(cutter(rows, changes(u, **RANGES, mirror=(u[:, 4] > 0).float()), spoiler))
        regions, targets = mixed(rows, normalize(regions), [targets_of[head][rows] for head in heads], lam)
        with autocast(on):
            logits = model(regions).float()
        parts = dict(zip(heads, zip(logits.split(list(heads.values()), 1), targets, strict=True), strict=True))
        own, target = parts.pop("everyday")
        return soft_loss(own + log_prior, target) + 0.5 * sum(soft_loss(*part) for part in parts.values()), logits

    def scores(average: nn.Module, views: list[torch.Tensor] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {"everyday": {}}
        for source, those in known.items():
            logits = logits_of(average, Cutter(those.images, plan.look), views or mirror_pair(on))[:, those.has]
            probabilities = {
                head: v.softmax(2).mean(0).log()
                for head, v in zip(heads, logits.split(list(heads.values()), 2), strict=True)
            }
            found["everyday"][source] = recall(probabilities["everyday"], those, KNOWN[source])
            if source in probabilities:
                found[source] = recall(probabilities[source], those, list(range(HEADS[source])))
        return {**found, "mean_recall": mean_recall(found)}

    average = train(model, plan, loss_of, len(images), on, until, logger(out, name, scores), 8)
    result = {
        "mirror": scores(average),
        "one": scores(average, mirror_pair(on)[:1]),
        "ten": scores(average, ten_crops(on)),
    }
    result |= {"damaged": damaged(average, plan, known, spoiler, heads), "temperatures": {}}
    for head, classes in heads.items():
        those = known["ferplus" if head == "everyday" else head]
        logits = logits_of(average, Cutter(those.images, plan.look), mirror_pair(on)[:1])[0, those.has]
        values = logits.split(list(heads.values()), 1)[list(heads).index(head)]
        assert values.shape[1] == classes
        result["temperatures"][head] = fit_temperature(values.cpu(), those.labels)
    result["log_prior"] = log_prior.tolist()
    state = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in average.state_dict().items()}
    save_file(state, out / f"{name}.safetensors", {"record": json.dumps(result)})
    (out / f"{name}.json").write_text(json.dumps(result))


def everyday_targets(images: Images) -> dict[str, torch.Tensor]:
    """By head, probabilities of the classes (N, K)."""
    fer2013, votes, taught = (images.labels[name] for name in ("fer2013", "ferplus", "taught"))
    taught = taught.float() / taught.sum(1, keepdim=True)
    voted = votes.sum(1, keepdim=True) > 0
    votes = torch.where(voted, votes, taught)  # without votes the teachers alone
    return {
        "everyday": PARTS["fer2013"] * F.pad(fer2013, (0, 1)) + PARTS["ferplus"] * votes + PARTS["taught"] * taught,
        "fer2013": 0.9 * fer2013 + 0.1 / 7,
        "ferplus": 0.5 * votes + 0.5 * taught,
    }


def damaged(
    model: nn.Module, plan: Plan, known: dict[str, Known], spoiler: Spoiler, heads: dict[str, int]
) -> dict[str, Any]:
    """Accuracy of each head under blur and noise of the validation images; the frames are those of the clean ones."""
    found: dict[str, Any] = {}
    for damage, change in damages(spoiler).items():
        found[damage] = {}
        for head in heads:
            those = known["ferplus" if head == "everyday" else head]
            cutter = Cutter(those.images, plan.look)
            whole = partial(Cutter.__call__, cutter, spoil=change)
            logits = _logits(model, whole, those)
            values = logits.split(list(heads.values()), 1)[list(heads).index(head)]
            found[damage][head] = recall(values, those, list(range(HEADS[head])))["accuracy"]
    return found


@torch.no_grad()
def _logits(model: nn.Module, cut: Callable[..., torch.Tensor], known: Known) -> torch.Tensor:
    on = known.images.device
    same, parts = mirror_pair(on)[0], []
    for rows in torch.arange(len(known.images), device=on).split(1024):
        regions = normalize(cut(rows, same.expand(len(rows), 3, 3)))
        with autocast(on):
            parts.append(model(regions).float())
    return torch.cat(parts)[known.has]


@app.command()
def prepare(
    distil: Path, ckplus: Path, out: Path, soft_targets: Path = Path("results/distil/soft_targets.npz")
) -> None:
    """Add CK+ and the mean of the soft targets to the file of tools.distil."""
    from mrcar_timm.data.ckplus import read_ckplus
    from mrcar_timm.data.labels import EXPRESSIONS
    from mrcar_timm.data.landmarks import cache_beside, find_landmarks
    from mrcar_timm.regions.geometry import similarity_from_landmarks

    with np.load(io.BytesIO(lzma.decompress(distil.read_bytes()))) as data:
        stored = {key: data[key] for key in data.files}
    with np.load(soft_targets) as data:
        taught = data["ferplus"].astype(np.float64).mean(1)  # (N, V, K) to (N, K)
    stored["train_taught"] = np.round(taught).astype(np.uint8)
    rows = stored["train_ferplus"].sum(1) > 0
    agree = (stored["train_ferplus"].argmax(1) == taught.argmax(1))[rows].mean()
    assert len(taught) == len(rows)
    assert agree > 0.8, agree  # the same images in the same order
    images = read_ckplus(ckplus)
    frames = similarity_from_landmarks(torch.from_numpy(find_landmarks(images.images, cache_beside(ckplus)).points))
    labels = np.array([EXPRESSIONS.index(images.classes[i]) for i in images.labels])
    files = [(ckplus / name).read_bytes() for name in images.names]
    stored |= {
        "ckplus_files": np.frombuffer(b"".join(files), np.uint8),
        "ckplus_lengths": np.array([len(f) for f in files]),
        "ckplus_frames": frames.numpy(),
        "ckplus_everyday": np.eye(8, dtype=np.float32)[labels],
    }
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(lzma.compress(buffer.getvalue(), preset=6))
    print(f"{out.stat().st_size / 2**20:.1f} MiB, teachers and votes agree on {agree:.3f}")


@app.command()
def run(file: Path, out: Path, seconds: float = 540, device: str = "cpu") -> None:
    """All networks at once, within the seconds."""
    begin = time.time()
    work = Path("/tmp/everyday")
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    unpack(file, work / "data.npz")
    print(f"unpacked after {time.time() - begin:.0f} s", flush=True)
    rest = [str(work / "data.npz"), str(out), str(begin + 0.94 * seconds), "--device", device]
    base = [sys.executable, "-m", "tools.everyday", "network"]
    processes = {name: subprocess.Popen([*base, name, *rest]) for name in NETWORKS}
    for name, process in processes.items():
        print(f"{name}: exit {process.wait()} after {time.time() - begin:.0f} s", flush=True)
    collect(out, begin, seconds)


def collect(out: Path, begin: float, seconds: float) -> None:
    """One log and one file of scores; the network that the rule chooses."""
    logs, records = sorted(out.glob("log_*.jsonl")), {n: out / f"{n}.json" for n in NETWORKS}
    (out / "log.jsonl").write_text("".join(log.read_text() for log in logs))
    found = {name: json.loads(record.read_text()) for name, record in records.items() if record.exists()}
    seeds = [name for name in found if name.removeprefix("mobilenet_").isdigit()]
    summary = {
        "networks": found,
        "chosen": max(seeds, key=lambda name: mean_recall(found[name]["mirror"]), default=None),
        "total_seconds": time.time() - begin, "planned_seconds": seconds, "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
    }  # fmt: skip
    (out / "scores.json").write_text(json.dumps(summary, indent=2) + "\n")
    for file in [*logs, *records.values()]:
        file.unlink(missing_ok=True)
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    app()
