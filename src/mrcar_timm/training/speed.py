"""What each way to train faster gains, in one run on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import timm
import torch

from ..data.images import ImageSet
from ..data.labels import SEVEN
from ..layers import soft_cross_entropy
from ..precision import fast_precision
from ..regions.geometry import REGIONS, template_landmarks
from .batches import RegionBatches
from .engine import training_logits
from .recipe import Augmentation
from .timing import Stopwatch


@dataclass(frozen=True)
class TrainingSpeed:
    """One way to train.

    Attributes:
        way: "float32", and what was added to the way before it: "channels_last", "bfloat16", "compile".
        ms: Milliseconds a picture.
        phases: Milliseconds a picture by phase: data (augmentation included), forward, backward, optimizer.
        ratio: How many times as fast as the first way.
        used: Whether ``mrcar train`` does so on this machine.
    """

    way: str
    ms: float
    phases: dict[str, float]
    ratio: float
    used: bool


def time_training(
    batch_size: int = 64, steps: int = 4, device: torch.device | str = "cpu", compiled: bool = False
) -> Iterator[TrainingSpeed]:
    """Time training steps of ``mrcar_resnet`` with three regions, AdamW and all augmentation.

    The pictures are noise: no way takes longer for some than for others.

    Args:
        batch_size: Pictures a step.
        steps: Steps that are timed, after two that warm up.
        device: Where to train.
        compiled: Time ``torch.compile`` too; it takes minutes to compile.
    """
    device = torch.device(device)
    rng = np.random.default_rng(0)
    count = batch_size * steps
    pictures = ImageSet(
        rng.integers(0, 255, (count, 48, 48), np.uint8), rng.integers(0, 7, count), SEVEN, np.arange(count)
    )
    batches = RegionBatches(pictures, template_landmarks(48, 48).expand(count, 5, 2), REGIONS, (44, 44), device)
    fast = fast_precision(device)
    ways = [
        ("float32", torch.contiguous_format, torch.float32, False),
        ("channels_last", torch.channels_last, torch.float32, False),
        ("bfloat16", torch.channels_last, torch.bfloat16, False),
    ]
    if compiled:
        ways.append(("compile", torch.channels_last, fast, True))
    first = None
    for way, layout, precision, compile_it in ways:
        phases = _time(batches, layout, precision, compile_it, batch_size)
        ms = sum(phases.values())
        first = first or ms
        used = way == "channels_last" or (way == "bfloat16" and fast == torch.bfloat16)
        yield TrainingSpeed(way, ms, phases, first / ms, used)


def _time(
    batches: RegionBatches, layout: torch.memory_format, precision: torch.dtype, compile_it: bool, batch_size: int
) -> dict[str, float]:
    model = timm.create_model("mrcar_resnet", in_chans=1).to(batches.device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    logits_of = torch.compile(training_logits) if compile_it else training_logits

    def run(steps: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Stopwatch:
        watch = Stopwatch(batches.device)
        watch.start()
        for regions, targets in steps:
            watch.lap("data")
            with torch.autocast(batches.device.type, precision, enabled=precision != torch.float32):
                logits = logits_of(model, regions)
            loss = soft_cross_entropy(logits, targets)
            watch.lap("forward")
            optimizer.zero_grad()
            loss.backward()
            watch.lap("backward")
            optimizer.step()
            watch.lap("optimizer")
        return watch

    def epoch() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return batches.training(batch_size, Augmentation(), torch.Generator().manual_seed(0))

    warming = epoch()
    run(batch for batch, _ in zip(warming, range(2), strict=False))
    return {phase: 1000 * seconds / len(batches) for phase, seconds in run(epoch()).seconds().items()}
