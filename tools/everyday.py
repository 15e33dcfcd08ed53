"""Taught networks: ``mrcar_mobilenet`` for photos of every day, FER2013 and FER+, ``mrcar_resnet`` for the latter two.

    python -m tools.everyday prepare runs/distil/prepared.npz.xz data/ck/CK+48 runs/everyday/prepared.npz.xz
    python -m tools.everyday run runs/everyday/prepared.npz.xz OUT --seconds 3840
    python -m tools.everyday run .gpu/prepared.npz.xz $OUT --work /tmp/everyday --seconds 480 --device cuda
    python -m tools.everyday run runs/everyday/prepared.npz.xz OUT --network mrcar_resnet --seconds 4500
    python -m tools.everyday run runs/everyday/prepared.npz.xz OUT --network mrcar_resnet --head fer2013 --seconds 3600
    python -m tools.everyday_weights OUT data/ck/CK+48 WEIGHTS faceres-deep.bin

``prepare`` adds CK+ to the file of ``tools.distil``. Nothing is trained on CK+: it chooses.

``run`` trains one network with a head for each purpose. ``mrcar_mobilenet`` starts from the best teacher of
results/distil: its MobileNet sees the face; eyes and mouth come from results/everyday/first. ``mrcar_resnet`` starts
from the mean of the two students of results/distil or, when it is taught for one data set alone, from its student.
Learning goes on, at a lower rate, on the labels and the teachers' soft targets under their fixed augmentations, a part
of the images spoiled as photos are. It ends after so many seconds, on a CPU or on a GPU, and goes on where it was
interrupted. Each head is scored on the validation splits and on CK+.

The head for photos answers against priors: its logits are trained with the logarithm of the training set's class
frequencies added (`Long-Tail Learning via Logit Adjustment <https://arxiv.org/abs/2007.07314>`_) times a strength, of
which ``STRENGTHS`` are trained side by side.
"""

import hashlib
import io
import json
import lzma
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from sklearn.metrics import recall_score
from timm.optim import create_optimizer_v2
from tools.distil import (
    RANGES,
    Cutter,
    Images,
    Look,
    changes,
    fixed_numbers,
    logits_of,
    mirror_pair,
    mixed,
    normalize,
    setup,
    soft_loss,
    spoil,
    ten_crops,
    unpack,
)
from tools.distil import _copy as copy_of
from tools.distil import _lerp as move_towards
from torch import nn

from mrcar_timm.layers import ArcFaceHead
from mrcar_timm.precision import autocast
from mrcar_timm.provenance import provenance
from mrcar_timm.regions.geometry import REGIONS
from mrcar_timm.training.step import Gradients

STRENGTHS = {"everyday_50": 0.5, "everyday_75": 0.75, "everyday_100": 1.0}
OWN = {"fer2013": 7, "ferplus": 8}  # heads of the data sets, and their classes
FER2013_PART = 0.2  # of the targets of the heads for photos; the rest is FER+'s
FROZEN = 0.06  # how long what is new learns alone
BATCH = int(os.environ.get("BATCH", 128))
TEACHER = Path("results/distil/teacher_face_mobilenet.safetensors")
SOFT_TARGETS = Path("results/distil/soft_targets.npz")
PARTS = Path("results/everyday/first/eyes_and_mouth.safetensors")
STUDENTS = {head: Path(f"results/distil/mrcar_resnet.{head}_student/model.safetensors") for head in OWN}

app = typer.Typer(add_completion=False)


# The network


@dataclass(frozen=True)
class Plan:
    """How a network is taught: its heads, the side of its regions in pixels, the teachers' part of the targets, and the
    part of the images that is spoiled."""

    heads: dict[str, int]
    size: int
    soft: float
    spoiled: float
    lr: float
    lr_trained: float | None = None  # of a backbone that waits until the new parts have learned


PLANS = {
    "mrcar_mobilenet": Plan(OWN | dict.fromkeys(STRENGTHS, 8), 112, 0.5, 0.5, 1.5e-3, 4e-4),
    "mrcar_resnet": Plan(OWN, 44, 0.8, 0.8, 5e-4),
}


class Taught(nn.Module):
    """A network for grey images with all heads of its plan, or one: regions (B, R, 1, h, w) to their logits in turn."""

    def __init__(self, network: str, head: str | None = None) -> None:
        super().__init__()
        self.network, self.plan = network, PLANS[network]
        if head is not None:
            self.plan = replace(self.plan, heads={head: OWN[head]})
        self.backbone: Any = timm.create_model(network, in_chans=1, num_classes=0, drop_rate=0.2)
        width = self.backbone.head_hidden_size
        self.heads = nn.ModuleDict({name: ArcFaceHead(width, k, 0.0) for name, k in self.plan.heads.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        embedding = self.backbone(x)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([head(embedding.float()) for head in self.heads.values()], 1)

    def waits(self, name: str) -> bool:
        """Whether a parameter, being trained, waits until the new ones have learned."""
        trained = name.startswith("backbone.branches") and "conv_h" not in name and "conv_w" not in name
        return trained and self.plan.lr_trained is not None


def take_mobilenet(branch: Any, state: dict[str, torch.Tensor], prefix: str) -> None:
    """Put the layers of a FaceMobileNet, whose input is 64·x + 12, and the attention behind them into a branch."""
    convs = [branch.conv1]
    convs += [
        conv
        for stage in branch.stages
        for block in stage.children()
        if isinstance(block, nn.Sequential)
        for conv in block
    ]
    for i, layer in enumerate(convs):
        layer.conv.weight.copy_(state[f"{prefix}layers.{i}.0.weight"])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(layer.bn, name).copy_(state[f"{prefix}layers.{i}.1.{name}"])
    first = convs[0]
    first.bn.running_mean.sub_(12 * first.conv.weight.sum((1, 2, 3))).div_(64)
    first.bn.running_var.div_(64**2)
    i = 0
    for stage in branch.stages:
        for module in stage.children():
            if isinstance(module, nn.Sequential):
                i += 2
            elif f"{prefix}layers.{i}.inserted_attn.attn.conv1.weight" in state:
                key = f"{prefix}layers.{i}.inserted_attn.attn."
                module.load_state_dict({k.removeprefix(key): v for k, v in state.items() if k.startswith(key)})


@torch.no_grad()
def start(model: Taught, file: Path | None) -> None:
    """The network in a file of an earlier run, or what its plan starts from."""
    if file is not None:
        model.load_state_dict(read(file))
    elif model.network == "mrcar_mobilenet":
        parts = read(PARTS)
        take_mobilenet(model.backbone.branches["face"], read(TEACHER), "backbone.")
        for name in ("eyes", "mouth"):
            take_mobilenet(model.backbone.branches[name], parts, f"branches.{name}.")
    else:
        take_mean(model, {head: read(STUDENTS[head]) for head in model.heads})


def read(file: Path) -> dict[str, torch.Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()}


@torch.no_grad()
def take_mean(model: Taught, states: dict[str, dict[str, torch.Tensor]]) -> None:
    """Put the mean of networks for color into the backbone, and the head of each beside the others."""
    for head, state in states.items():
        model.heads[head].weight.copy_(state["head.weight"])
    mean = {}
    for key, value in model.backbone.state_dict().items():
        values = torch.stack([state[key] for state in states.values()]).float().mean(0)
        # a grey image is the same in all three channels
        mean[key] = values.sum(1, keepdim=True) if value.shape != values.shape else values.to(value.dtype)
    model.backbone.load_state_dict(mean)


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


def by_head(logits: torch.Tensor, heads: dict[str, int]) -> dict[str, torch.Tensor]:
    """Logits (…, K) of each head, from those of all in turn (…, all)."""
    return dict(zip(heads, logits.split(list(heads.values()), -1), strict=True))


class SpoilingCutter(Cutter):
    """Cuts the regions of images that are spoiled first."""

    def __init__(self, images: Images, look: Look, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(images, look)
        self.change = change

    def __call__(self, rows: torch.Tensor, frames: torch.Tensor, spoil: Any = None) -> torch.Tensor:
        return super().__call__(rows, frames, self.change)


KNOWN = {"ckplus": [0, 1, 2, 3, 4, 5, 7], "fer2013": list(range(7)), "ferplus": list(range(8))}


def scores(
    model: Any, known: dict[str, Known], views: list[torch.Tensor], change: Callable[..., torch.Tensor]
) -> dict[str, Any]:
    """Accuracy of the data sets' own heads; accuracy and mean recall on all three sets of the heads for photos."""
    heads = model.plan.heads
    found: dict[str, Any] = {head: {} for head in heads}
    logits: dict[Images, dict[str, torch.Tensor]] = {}
    for source, those in known.items():
        asked = [head for head in heads if head in STRENGTHS or head == source]
        if asked and those.images not in logits:
            cutter = SpoilingCutter(those.images, Look(REGIONS, model.plan.size), change)
            logits[those.images] = by_head(logits_of(model, cutter, views), heads)
        for head in asked:
            probabilities = logits[those.images][head].softmax(2).mean(0)  # (V, N, K) to (N, K)
            classes = KNOWN[source] if head in STRENGTHS else list(range(heads[head]))
            found[head][source] = recall(probabilities[those.has].log(), those, classes)
    for head in set(STRENGTHS) & set(heads):
        found[head]["mean"] = mean_score(found[head])
    return found


def mean_score(by_source: dict[str, Any]) -> float:
    """What chooses the strength: accuracy and mean recall of the classes, averaged over CK+, FER2013 and FER+."""
    return sum((by_source[name]["accuracy"] + by_source[name]["recall"]) / 2 for name in KNOWN) / len(KNOWN)


# Programs


def targets_of(images: Images, bank: dict[str, torch.Tensor], soft: float) -> Callable[..., dict[str, torch.Tensor]]:
    """Rows and views to the probabilities of the classes (B, K): FER2013's, FER+'s, and both for photos."""
    own = {name: images.labels[name] for name in OWN}

    def targets(rows: torch.Tensor, view: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        for name, labels in own.items():
            taught = bank[name][rows, view].float()
            taught = taught / taught.sum(1, keepdim=True)
            labelled = (labels[rows].sum(1, keepdim=True) > 0).float()
            found[name] = torch.lerp(labels[rows], taught, 1 - (1 - soft) * labelled)  # without a label the teachers'
        photos = FER2013_PART * F.pad(found["fer2013"], (0, 1)) + (1 - FER2013_PART) * found["ferplus"]
        return {**found, "photos": photos}

    return targets


@app.command()
def run(
    file: Path,
    out: Path,
    network: str = "mrcar_mobilenet",
    work: Path | None = None,
    seconds: float = 3840,
    device: str = "cpu",
    seed: int = 0,
    begin_with: Path | None = None,
    head: str | None = None,
) -> None:
    """Train until the seconds have passed; a run that was interrupted goes on from what is in ``work``.

    With ``head``, ``fer2013`` or ``ferplus``, the network is taught for that data set alone, from its own student.

    OUT gets the network, after every eighth of the time, log and scores; ``work``, by default the same folder, what is
    larger. Scoring takes further 60 seconds on a GPU, and some minutes on a CPU.
    """
    work = work or out
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    unpacked = work / "data.npz"
    if not unpacked.exists():
        unpack(file, unpacked)
    images, validation, on = setup(unpacked, device, seed)
    known = {
        "ckplus": Known.of(Images(unpacked, "ckplus", on), "everyday"),
        **{head: Known.of(validation, head) for head in ("fer2013", "ferplus")},
    }
    with np.load(SOFT_TARGETS) as data:
        bank = {name: torch.from_numpy(data[name]).to(on) for name in data.files}  # (N, V, K)
    views = bank["fer2013"].shape[1]
    numbers = fixed_numbers(len(images)).to(on)
    model = Taught(network, head)
    plan = model.plan
    targets = targets_of(images, bank, plan.soft)
    everyone = torch.arange(len(images), device=on)
    priors = targets(everyone, torch.zeros_like(everyone))["photos"].mean(0).clamp_min(1e-4).log()
    cutter = Cutter(images, Look(REGIONS, plan.size))
    spoiler = Spoiler(images.pixels.shape[-1], on)
    start(model, begin_with)
    model.to(on, memory_format=torch.channels_last).train()

    def some_spoiled(x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.rand(len(x), 1, 1, 1, device=on) < plan.spoiled, spoiler(x), x)

    def loss_of(rows: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        view = torch.randint(views, (len(rows),), device=on)
        mirror = (torch.rand(len(rows), device=on) > 0.5).float()
        regions = spoil(cutter(rows, changes(numbers[rows, view], **RANGES, mirror=mirror), some_spoiled))
        wanted = targets(rows, view)
        regions, together = mixed(rows, normalize(regions), list(wanted.values()), lam)
        wanted = dict(zip(wanted, together, strict=True))
        with autocast(on):
            logits = model(regions).float()
        parts = by_head(logits, plan.heads)
        loss = torch.stack([soft_loss(parts[name], wanted[name]) for name in OWN if name in parts]).sum()
        for name in set(STRENGTHS) & set(parts):
            loss = loss + soft_loss(parts[name] + STRENGTHS[name] * priors, wanted["photos"]) / len(STRENGTHS)
        return loss, logits.detach()

    groups = []
    for rate, waits in ((plan.lr_trained, True), (plan.lr, False)):
        for decay in (0.0, 0.05):
            some = [p for n, p in model.named_parameters() if model.waits(n) == waits and (p.ndim > 1) == (decay > 0)]
            if some:
                groups.append({"params": some, "weight_decay": decay, "base": rate, "begin": FROZEN if waits else 0.0})
    optimizer = create_optimizer_v2(groups, opt="adamw", lr=plan.lr, weight_decay=0.05, fused=on.type == "cuda")
    average = copy_of(model)
    gradients = Gradients(model, loss_of)
    rng = np.random.default_rng(seed)
    step, passed, reported, total, seen = 0, 0.0, 0.0, torch.zeros((), device=on), 0
    last = work / "last.pt"
    if last.exists():
        kept = torch.load(last, map_location=on, weights_only=True)
        model.load_state_dict(kept["model"])
        average.load_state_dict(kept["average"])
        optimizer.load_state_dict(kept["optimizer"])
        step, passed, reported = kept["step"], kept["passed"], kept["reported"]
    mix, rows = torch.zeros(1, device=on), torch.empty(0, dtype=torch.long, device=on)
    clock = time.time() - passed
    while passed < seconds:
        if len(rows) < min(BATCH, len(images)):
            rows = torch.randperm(len(images), device=on)
        batch, rows = rows[:BATCH], rows[BATCH:]
        loss, _ = gradients(batch, mix.fill_(float(rng.beta(0.2, 0.2))))
        if step == 0:
            clock = time.time()  # what recording the step takes does not count
        done = min(1.0, passed / seconds)
        for group in optimizer.param_groups:
            rise = min(1.0, max(0.0, done - group["begin"]) / 0.04)
            group["lr"] = group["base"] * rise * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        optimizer.step()
        step += 1
        move_towards(average, model, 1 - min(0.999, (1 + step) / (20 + step)))
        total, seen = total + loss, seen + 1
        if step % 16 == 0 or on.type == "cpu":
            float(loss)  # wait for the device, so that its clock is ours
        passed = time.time() - clock
        if passed >= reported + seconds / 8 or passed >= seconds:
            reported = passed
            found = scores(average, known, mirror_pair(on)[:1], lambda x: x)
            row = {"epoch": step * BATCH / len(images), "seconds": passed, "loss": float(total) / seen, **found}
            total, seen = torch.zeros((), device=on), 0
            with open(out / "log.jsonl", "a") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            kept = {"model": model, "average": average, "optimizer": optimizer}
            state = {name: part.state_dict() for name, part in kept.items()}
            torch.save({**state, "step": step, "passed": passed, "reported": reported}, work / "last.tmp")
            (work / "last.tmp").replace(last)
            write(average, out / f"{network}.safetensors")
            clock = time.time() - passed  # scoring does not count
    epochs = step * BATCH / len(images)
    about = {
        "network": network, "heads": list(plan.heads), "epochs": epochs, "batch": BATCH, "seconds": passed,
        "seed": seed, "spoiled": plan.spoiled,
        "begun_with": None if begin_with is None else hashlib.sha256(begin_with.read_bytes()).hexdigest(),
    }  # fmt: skip
    finish(average, known, on, out, {**about, "log_prior": priors.tolist()})


def write(model: nn.Module, file: Path) -> None:
    """The network with all heads, in half precision."""
    state = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, file)


def finish(model: Taught, known: dict[str, Known], on: torch.device, out: Path, about: dict[str, Any]) -> None:
    """Score the network, also under damage."""
    one = mirror_pair(on)[:1]
    spoiler = Spoiler(known["ferplus"].images.pixels.shape[-1], on)
    result = {
        **about,
        "made_by": provenance(),
        "one": scores(model, known, one, lambda x: x),
        "mirror": scores(model, known, mirror_pair(on), lambda x: x),
        "ten": scores(model, known, ten_crops(on), lambda x: x),
        **{name: scores(model, known, one, change) for name, change in damages(spoiler).items()},
    }
    (out / "scores.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)


@app.command()
def prepare(distil: Path, ckplus: Path, out: Path) -> None:
    """Add CK+ to the file of tools.distil."""
    from mrcar_timm.data.ckplus import read_ckplus
    from mrcar_timm.data.labels import EXPRESSIONS
    from mrcar_timm.data.landmarks import cache_beside, find_landmarks
    from mrcar_timm.regions.geometry import similarity_from_landmarks

    with np.load(io.BytesIO(lzma.decompress(distil.read_bytes()))) as data:
        stored = {key: data[key] for key in data.files}
    with np.load(SOFT_TARGETS) as data:
        taught = data["ferplus"].astype(np.float64).mean(1)  # (N, V, K) to (N, K)
    rows = stored["train_ferplus"].sum(1) > 0
    agree = (stored["train_ferplus"].argmax(1) == taught.argmax(1))[rows].mean()
    assert len(taught) == len(rows)
    assert agree > 0.8, agree  # the same images in the same order
    images = read_ckplus(ckplus)
    frames = similarity_from_landmarks(find_landmarks(images.images, cache_beside(ckplus)).points)
    labels = np.array([EXPRESSIONS.index(images.classes[i]) for i in images.labels])
    files = [(ckplus / name).read_bytes() for name in images.names]
    stored |= {
        "ckplus_files": np.frombuffer(b"".join(files), np.uint8),
        "ckplus_lengths": np.array([len(f) for f in files]),
        "ckplus_frames": frames,
        "ckplus_everyday": np.eye(8, dtype=np.float32)[labels],
    }
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(lzma.compress(buffer.getvalue(), preset=6))
    print(f"{out.stat().st_size / 2**20:.1f} MiB, teachers and votes agree on {agree:.3f}")


if __name__ == "__main__":
    app()
